//! What should happen to agents: to one, to some, or to all of a board or of the fleet.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::api::{Api, Failure, Progress};
use super::table::{Cell, Colour, Table};
use super::{Common, line, text, when};

/// How many requests are under way at once.
const AT_ONCE: usize = 16;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Let pending agents in
    #[command(after_help = "Example: rollcall approve --all")]
    Approve(Targets),
    /// Shut agents out
    #[command(after_help = "Example: rollcall revoke researcher-1 --reason \"its key was in a log\"")]
    Revoke(Targets),
    /// Take revoked agents back
    #[command(after_help = "Example: rollcall restore researcher-1")]
    Restore(Targets),
    /// Give agents new keys, which are shown this once
    #[command(after_help = "Example: rollcall rotate researcher-1 --overlap 10m")]
    Rotate {
        /// How long the keys before stay valid
        #[arg(long, value_name = "TIME", value_parser = when::seconds, default_value = "5m")]
        overlap: u64,
        /// Have the agents do it themselves
        #[arg(long, conflicts_with = "overlap")]
        by_agent: bool,
        #[command(flatten)]
        targets: Targets,
    },
    /// Tell agents to start no new work
    #[command(after_help = "Example: rollcall pause --board 0b9c… --reason \"the model is down\"")]
    Pause(Targets),
    /// Tell agents to work again
    #[command(after_help = "Example: rollcall resume --board 0b9c…")]
    Resume(Targets),
    /// Tell agents to finish what they have, and leave
    #[command(after_help = "Example: rollcall drain researcher-1 researcher-2")]
    Drain(Targets),
    /// Tell agents to end
    #[command(after_help = "Example: rollcall stop researcher-1 --deadline 1m --then-revoke")]
    Stop {
        /// How long they may take
        #[arg(long, value_name = "TIME", value_parser = when::seconds)]
        deadline: Option<u64>,
        /// Shut out who goes on after that
        #[arg(long)]
        then_revoke: bool,
        #[command(flatten)]
        targets: Targets,
    },
}

#[derive(clap::Args)]
pub struct Targets {
    /// Ids or names
    #[arg(required_unless_present_any = ["board", "all"], value_name = "AGENT")]
    agents: Vec<String>,
    /// All agents of this board
    #[arg(long, value_name = "ID", conflicts_with_all = ["agents", "all"])]
    board: Option<String>,
    /// All agents
    #[arg(long, conflicts_with = "agents")]
    all: bool,
    /// Why: it stands in the events, and reaches no agent
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask before something ends for many
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// One change, as it is asked of Rollcall for each agent.
struct Change {
    /// In the imperative, for the question.
    verb: &'static str,
    /// In the past, for the answer.
    done: &'static str,
    route: &'static str,
    body: Value,
    /// The state in which agents are whom it is for, where many are meant.
    state: &'static str,
    /// Whether it ends something.
    ends: bool,
}

impl Verb {
    pub fn run(self) -> Result<(), Failure> {
        let direct = |action: &str| json!({ "action": action });
        let (change, targets) = match self {
            Self::Approve(targets) => {
                (Change::new("approve", "approved", "approve", json!({}), "pending"), targets)
            }
            Self::Revoke(targets) => {
                (Change::new("revoke", "revoked", "revoke", json!({}), "active").that_ends(), targets)
            }
            Self::Restore(targets) => {
                (Change::new("restore", "restored", "restore", json!({}), "revoked"), targets)
            }
            Self::Rotate { by_agent: true, targets, .. } => {
                let change =
                    Change::new("rotate the keys of", "told", "directive", direct("rotate_key"), "active");
                (change, targets)
            }
            Self::Rotate { overlap, targets, .. } => {
                let body = json!({ "overlap_seconds": overlap });
                (
                    Change::new("rotate the keys of", "rotated", "rotate-key", body, "active").that_ends(),
                    targets,
                )
            }
            Self::Pause(targets) => {
                (Change::new("pause", "told", "directive", direct("pause"), "active"), targets)
            }
            Self::Resume(targets) => {
                (Change::new("resume", "told", "directive", direct("run"), "active"), targets)
            }
            Self::Drain(targets) => {
                (Change::new("drain", "told", "directive", direct("drain"), "active").that_ends(), targets)
            }
            Self::Stop { deadline, then_revoke, targets } => {
                let mut body = direct("stop");
                if let Some(seconds) = deadline {
                    body["deadline_seconds"] = json!(seconds);
                }
                if then_revoke {
                    body["then_revoke"] = json!(true);
                }
                (Change::new("stop", "told", "directive", body, "active").that_ends(), targets)
            }
        };
        change.run(&targets)
    }
}

impl Change {
    const fn new(
        verb: &'static str,
        done: &'static str,
        route: &'static str,
        body: Value,
        state: &'static str,
    ) -> Self {
        Self { verb, done, route, body, state, ends: false }
    }

    fn that_ends(self) -> Self {
        Self { ends: true, ..self }
    }

    fn run(mut self, targets: &Targets) -> Result<(), Failure> {
        let api = targets.common.api()?;
        let agents = self.agents(&api, targets)?;
        if let Some(reason) = &targets.reason {
            if self.route == "rotate-key" {
                return Err(Failure::Usage("--reason: a rotation has none".to_owned()));
            }
            self.body["reason"] = json!(reason);
        }
        if self.ends && agents.len() > 1 && !targets.yes {
            confirm(&format!("{} {} agents?", self.verb, agents.len()))?;
        }
        let answers = self.ask_each(&api, &agents);
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        self.print(&agents, &answers, &targets.common);
        match (failed, answers.into_iter().find_map(Result::err)) {
            (1, Some(failure)) if agents.len() == 1 => Err(failure),
            (0, _) => Ok(()),
            _ => Err(Failure::Refused(format!("{failed} of {} agents: see above", agents.len()))),
        }
    }

    /// Whom it is for: (id, name).
    fn agents(&self, api: &Api, targets: &Targets) -> Result<Vec<(String, String)>, Failure> {
        let named = |agent: &Value| (text(&agent["id"]), text(&agent["name"]));
        if !targets.all && targets.board.is_none() {
            return targets.agents.iter().map(|agent| api.agent(agent).map(|agent| named(&agent))).collect();
        }
        let mut query = vec![("state", self.state)];
        query.extend(targets.board.as_deref().map(|board| ("board_id", board)));
        Ok(api.agents(&query)?.iter().map(named).collect())
    }

    fn ask_each(&self, api: &Api, agents: &[(String, String)]) -> Vec<Result<Value, Failure>> {
        let (next, progress) = (AtomicUsize::new(0), Mutex::new((0, Progress::default())));
        let answers = agents.iter().map(|_| Mutex::new(None)).collect::<Vec<_>>();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(agents.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((id, _)) = agents.get(at) else { return };
                        let answer = api.post(&format!("/api/v1/agents/{id}/{}", self.route), &self.body);
                        if let Ok(mut place) = answers[at].lock() {
                            *place = Some(answer);
                        }
                        if let (Ok(mut progress), true) = (progress.lock(), agents.len() > AT_ONCE) {
                            progress.0 += 1;
                            let done = progress.0;
                            progress.1.says(&format!("{done} of {}", agents.len()));
                        }
                    }
                });
            }
        });
        let none = || Err(Failure::Refused("not asked".to_owned()));
        answers.into_iter().map(|answer| answer.into_inner().ok().flatten().unwrap_or_else(none)).collect()
    }

    fn print(&self, agents: &[(String, String)], answers: &[Result<Value, Failure>], common: &Common) {
        let all = answers.iter().zip(agents).map(|(answer, (id, name))| match answer {
            Ok(answer) => answer.clone(),
            Err(failure) => json!({ "id": id, "name": name, "error": failure.to_string() }),
        });
        if common.json(&all.collect()) {
            return;
        }
        if agents.is_empty() {
            line(&format!("no agents are {}", self.state));
        }
        let mut table = Table::new([]);
        for (answer, (id, name)) in answers.iter().zip(agents) {
            let (word, colour, what) = match answer {
                // Who asked for one agent reads why on standard error.
                Err(_) if agents.len() == 1 => continue,
                Err(failure) => ("failed", Colour::Red, failure.to_string()),
                Ok(answer) => (self.done, Colour::Green, self.result(answer)),
            };
            table.row([
                Cell::coloured(word, Some(colour)),
                name.as_str().into(),
                id.as_str().into(),
                what.into(),
            ]);
        }
        table.print();
    }

    fn result(&self, answer: &Value) -> String {
        if let Some(key) = answer["agent_token"].as_str() {
            return key.to_owned();
        }
        match answer["directive"]["action"].as_str() {
            Some(action) => match answer["directive"]["deadline"].as_str() {
                Some(deadline) => format!("{action} by {}", when::short(Some(deadline))),
                None => action.to_owned(),
            },
            None if self.route == "directive" => "run: it had no directive".to_owned(),
            None => String::new(),
        }
    }
}

/// Asks whoever sits at the terminal.
fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Say so with --yes")));
    }
    write!(io::stderr(), "{question} [y/N] ").ok();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).ok();
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Refused("nothing was changed".to_owned()))
}
