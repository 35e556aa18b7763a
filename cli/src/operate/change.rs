//! What should happen to agents: to one, to some, or to all of a board or of the fleet.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use ureq::http::Method;

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
    /// Change agents' settings; `default` and `none` take one back
    #[command(after_help = "Examples:\n  \
        rollcall set researcher-1 --interval 10m --silent-after 30m --usd-per-day 5\n  \
        rollcall set --board 0b9c… --stall-after 1h")]
    Set(Set),
    /// Take agents off the list; their events stay
    #[command(after_help = "Example: rollcall remove --all     (means those that are revoked)")]
    Remove(Targets),
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
#[group(id = "settings", required = true, multiple = true, args = ["rename", "to_board", "interval", "silent_after",
    "stall_after", "limit", "usd_per_day", "tokens_per_day"])]
pub struct Set {
    /// Another name, for one agent
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// Move them to this board
    #[arg(long, value_name = "ID|none", value_parser = or_none)]
    to_board: Option<Value>,
    /// How often they send heartbeats
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    interval: Option<u64>,
    /// After how long without one they are silent
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    silent_after: Option<u64>,
    /// For how long their work may stand still
    #[arg(long, value_name = "TIME|default", value_parser = seconds_or_default)]
    stall_after: Option<Value>,
    /// How many requests they may make in a minute
    #[arg(long, value_name = "N|default", value_parser = number_or_default)]
    limit: Option<Value>,
    /// What they may spend in a day
    #[arg(long, value_name = "USD|none", value_parser = dollars_or_none, conflicts_with = "tokens_per_day")]
    usd_per_day: Option<Value>,
    /// How many tokens they may use in a day
    #[arg(long, value_name = "N|none", value_parser = number_or_none)]
    tokens_per_day: Option<Value>,
    #[command(flatten)]
    targets: Targets,
}

impl Set {
    /// What the API wants to be told.
    fn body(&self) -> Value {
        let mut body = json!({});
        for (field, value) in [
            ("board_id", &self.to_board),
            ("stall_after_seconds", &self.stall_after),
            ("rate_limit_per_minute", &self.limit),
        ] {
            if let Some(value) = value {
                body[field] = value.clone();
            }
        }
        if let Some(name) = &self.rename {
            body["name"] = json!(name);
        }
        for (field, value) in [("interval_seconds", self.interval), ("missing_tolerance", self.silent_after)]
        {
            if let Some(seconds) = value {
                body["heartbeat_config"][field] = json!(seconds);
            }
        }
        for (field, value) in [("usd_per_day", &self.usd_per_day), ("tokens_per_day", &self.tokens_per_day)] {
            if let Some(value) = value {
                body["budget"] = if value.is_null() { Value::Null } else { json!({ field: value }) };
            }
        }
        body
    }
}

/// A value, or null for the word that takes it back.
fn unless<T: Into<Value>>(
    word: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Value, String> {
    if text == word { Ok(Value::Null) } else { read(text).map(Into::into) }
}

fn or_none(text: &str) -> Result<Value, String> {
    unless("none", text, |text| Ok(text.to_owned()))
}

fn seconds_or_default(text: &str) -> Result<Value, String> {
    unless("default", text, when::seconds)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

fn number_or_default(text: &str) -> Result<Value, String> {
    unless("default", text, number)
}

fn number_or_none(text: &str) -> Result<Value, String> {
    unless("none", text, number)
}

fn dollars_or_none(text: &str) -> Result<Value, String> {
    unless("none", text, |text| {
        // JSON has no infinity: it would be null, and take the budget back.
        let dollars = text.parse::<f64>().ok().filter(|dollars| dollars.is_finite());
        dollars.ok_or_else(|| "expected a number".to_owned())
    })
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
    method: Method,
    /// What follows the agent's id.
    route: &'static str,
    body: Value,
    /// The state in which agents are whom it is for, where many are meant.
    state: &'static str,
    /// Whether it ends something.
    ends: bool,
    /// Whether it gives a name, which is one agent's.
    renames: bool,
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
            Self::Set(set) => {
                let change = Change::new("change", "changed", "", set.body(), "active");
                (Change { method: Method::PATCH, renames: set.rename.is_some(), ..change }, set.targets)
            }
            Self::Remove(targets) => {
                let change = Change::new("remove", "removed", "", json!({}), "revoked").that_ends();
                (Change { method: Method::DELETE, ..change }, targets)
            }
        };
        change.run(&targets)
    }
}

impl Change {
    fn new(
        verb: &'static str,
        done: &'static str,
        route: &'static str,
        body: Value,
        state: &'static str,
    ) -> Self {
        Self { verb, done, method: Method::POST, route, body, state, ends: false, renames: false }
    }

    fn that_ends(self) -> Self {
        Self { ends: true, ..self }
    }

    fn run(mut self, targets: &Targets) -> Result<(), Failure> {
        let api = targets.common.api()?;
        let agents = self.agents(&api, targets)?;
        if let Some(reason) = &targets.reason {
            if matches!(self.route, "rotate-key" | "") {
                return Err(Failure::Usage("--reason: this has none".to_owned()));
            }
            self.body["reason"] = json!(reason);
        }
        if self.renames && agents.len() > 1 {
            return Err(Failure::Usage("--rename: one name is one agent's".to_owned()));
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
            let mut agents = Vec::new();
            for agent in &targets.agents {
                let agent = named(&api.agent(agent)?);
                // Who is named twice, by the id and by the name, is meant once.
                if !agents.contains(&agent) {
                    agents.push(agent);
                }
            }
            return Ok(agents);
        }
        let mut query = vec![("state", self.state)];
        query.extend(targets.board.as_deref().map(|board| ("board_id", board)));
        Ok(api.agents(&query)?.iter().map(named).collect())
    }

    fn path(&self, id: &str) -> String {
        let slash = if self.route.is_empty() { "" } else { "/" };
        format!("/api/v1/agents/{id}{slash}{}", self.route)
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
                        let answer = api.call(&self.method, &self.path(id), Some(&self.body));
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
