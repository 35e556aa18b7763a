//! The thread that sends the heartbeats, and its last words.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::identity::Identity;
use super::output::LastOutput;
use super::pace::Pace;
use super::state::{Said, SharedState, Used};
use super::{Event, say};
use crate::environment;
use crate::http::{Answer, DEADLINE, Lost};

/// What an operator wants, as the answers to heartbeats repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// To be compared for equality alone. 0 is a budget's, and is never acknowledged.
    pub version: u64,
    pub action: String,
    /// RFC 3339.
    pub deadline: Option<String>,
}

/// What the main thread tells the sender.
#[derive(Clone, Default)]
pub struct Mailbox {
    inner: Arc<(Mutex<Letters>, Condvar)>,
}

#[derive(Default)]
struct Letters {
    /// The version that the main thread, or its command, obeys.
    obeyed: Option<u64>,
    /// Something is new that should not wait for the interval.
    is_urgent: bool,
    end: Option<End>,
}

/// How the child ended, and what is to be said of it.
#[derive(Clone)]
pub struct End {
    /// The payload of `process.exited`.
    pub event: Value,
    /// `offline`: on purpose. `error`: the silence that follows will be told.
    pub last_word: &'static str,
    /// Until when it may take.
    pub until: Instant,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This directive is obeyed: the next heartbeats say so, and the next one comes soon.
    pub fn obey(&self, version: u64) {
        if version != 0 {
            let mut letters = self.letters();
            (letters.obeyed, letters.is_urgent) = (Some(version), true);
            self.inner.1.notify_all();
        }
    }

    /// The child has ended: the sender says so, and ends.
    pub fn end(&self, end: End) {
        self.letters().end = Some(end);
        self.inner.1.notify_all();
    }

    /// Waits for the next heartbeat, which may come before its time if `urgent_counts`; the end, if it came.
    fn wait(&self, pause: Duration, urgent_counts: bool) -> Option<End> {
        let goes_on = |letters: &mut Letters| letters.end.is_none() && !(urgent_counts && letters.is_urgent);
        let waited = self.inner.1.wait_timeout_while(self.letters(), pause, goes_on);
        let (mut letters, _) = waited.unwrap_or_else(PoisonError::into_inner);
        letters.is_urgent = false;
        letters.end.clone()
    }
}

/// What shows that the work gets further, besides the child's own libraries.
pub enum Progress {
    /// Nothing does.
    Unknown,
    /// Whatever the child writes.
    Output(LastOutput),
    /// A file that the child touches.
    File(PathBuf),
}

impl Progress {
    fn age(&self) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Output(last) => Some(last.age()),
            Self::File(file) => {
                let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()?;
                Some(environment::now().duration_since(modified).unwrap_or_default())
            }
        }
    }
}

/// The thread's own.
pub struct Heartbeats {
    pub identity: Identity,
    pub boot_id: String,
    pub mailbox: Mailbox,
    pub progress: Progress,
    pub state: Option<Arc<SharedState>>,
    pub events: Sender<Event>,
    pub pace: Pace,
    pub directive: Option<Directive>,
    /// What the child used, as far as accepted heartbeats have said it.
    pub reported: Used,
}

impl Heartbeats {
    /// Sends heartbeats until the child has ended, and then the last words.
    pub fn run(mut self) {
        loop {
            let pause = self.send_one();
            if let Some(end) = self.mailbox.wait(pause, self.pace.is_accepted()) {
                self.say_last_words(&end);
                return;
            }
        }
    }

    /// Sends one; how long to wait until the next.
    fn send_one(&mut self) -> Duration {
        let said = self.state.as_ref().map(|state| state.read()).unwrap_or_default();
        let body = self.body(said.status.unwrap_or("healthy"), &said);
        let answer = self.identity.heartbeat(&body, self.pace.was_accepted(), DEADLINE);
        let chance = rand::random();
        let (problem, pause) = match answer {
            Err(Lost(why)) => (format!("failed: {why}"), self.pace.lost(Duration::ZERO, chance)),
            Ok(answer) if matches!(answer.status, 401 | 403) => {
                (format!("refused: {}", answer.problem()), self.pace.refused(chance))
            }
            Ok(answer) if answer.status != 200 => {
                (format!("failed: {}", answer.problem()), self.pace.lost(answer.retry_after, chance))
            }
            Ok(answer) => match answer.body["heartbeat_config"]["interval_seconds"].as_u64() {
                None => {
                    let problem = "failed: an answer that is not Rollcall's".to_owned();
                    (problem, self.pace.lost(Duration::ZERO, chance))
                }
                Some(interval) => {
                    if self.pace.was_accepted() && !self.pace.is_accepted() {
                        say(format_args!("heartbeats are accepted again"));
                    }
                    self.reported = self.reported.plus(said.used.since(self.reported));
                    self.hear(&answer);
                    return self.pace.accepted(interval, chance);
                }
            },
        };
        let problem = self.identity.redact(&problem);
        say(format_args!("heartbeat {problem}; next try in {:.1} s", pause.as_secs_f32()));
        pause
    }

    fn body(&self, status: &str, said: &Said) -> Value {
        let mut report = json!({ "boot_id": self.boot_id });
        let age = said.progress_age.max(self.progress.age());
        if let Some(age) = age {
            report["progress_age_seconds"] = json!(age.as_secs());
        }
        let obeyed = self.mailbox.letters().obeyed;
        // What nobody obeys now is not acknowledged: it may have been an older one.
        let current =
            self.directive.as_ref().map(|directive| directive.version).filter(|version| *version != 0);
        if let Some(version) =
            current.filter(|version| obeyed == Some(*version) || said.acknowledged.contains(version))
        {
            report["ack_directive"] = json!(version);
        }
        let used = said.used.since(self.reported);
        if used != Used::default() {
            report["usage"] = used.json();
        }
        json!({ "status": status, "report": report })
    }

    /// Each accepted heartbeat says whether there is a directive; nothing else does.
    fn hear(&mut self, answer: &Answer) {
        let said = &answer.body["directive"];
        let directive = said["version"].as_u64().zip(said["action"].as_str()).map(|(version, action)| {
            let deadline = said["deadline"].as_str().map(str::to_owned);
            Directive { version, action: action.to_owned(), deadline }
        });
        if directive == self.directive {
            return;
        }
        if let Some(state) = &self.state
            && let Err(error) = state.direct(directive.is_some().then_some(said))
        {
            say(format_args!("the directive is not passed on: {error}"));
        }
        self.directive.clone_from(&directive);
        // The main thread is there for as long as the child is.
        self.events.send(Event::Directive(directive)).ok();
    }

    /// The event first: it would bring an agent back that has said good-bye.
    fn say_last_words(&mut self, end: &End) {
        let left = || end.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let said = self.state.as_ref().map(|state| state.read()).unwrap_or_default();
        let told = self.identity.event("process.exited", &end.event, left());
        let body = self.body(end.last_word, &said);
        let answer = self.identity.heartbeat(&body, self.pace.was_accepted(), left());
        for (what, outcome) in [("the event process.exited", told), (end.last_word, answer.map(Some))] {
            let problem = match outcome {
                Ok(None) => "the agent's own key is not known".to_owned(),
                Ok(Some(answer)) if answer.status == 200 => continue,
                Ok(Some(answer)) => answer.problem(),
                Err(lost) => lost.to_string(),
            };
            let problem = self.identity.redact(&problem);
            say(format_args!("could not say {what} at the end: {problem}"));
        }
    }
}
