//! Directives: what an operator wants of an agent. A wanted state that every answer repeats until it changes, and no queue.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::millis;
use crate::time::Timestamp;

/// The least time from a `stop` to its deadline.
pub const SHORTEST_DEADLINE: Duration = Duration::from_secs(5);

/// The most.
pub const LONGEST_DEADLINE: Duration = Duration::from_hours(7 * 24);

/// How much longer a directive that ends in a revocation waits: a heartbeat on the wire heard of nothing.
const REVOKE_GRACE: Duration = Duration::from_secs(10);

/// How long an agent may take to acknowledge, at least.
const SHORTEST_HEED: Duration = Duration::from_mins(5);

/// What the agent should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Work. The default: once it is acknowledged there is no directive.
    Run,
    /// Start no new work, and keep sending heartbeats.
    Pause,
    /// Finish what it has, then say `offline`.
    Drain,
    /// End, and say `offline`.
    Stop,
    /// Call `rotate-key`.
    RotateKey,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [Self::Run, Self::Pause, Self::Drain, Self::Stop, Self::RotateKey];

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::RotateKey => "rotate_key",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDirective {
    /// What the agent should do.
    pub action: Action,
    /// For `stop`: how long it may take.
    pub deadline: Option<Duration>,
    /// For `stop`: whether an agent that goes on is revoked.
    pub then_revoke: bool,
    /// Why, for operators alone: free text must not become an agent's prompt.
    pub reason: Option<String>,
}

/// A directive as the agent's row holds it: `1764107662500 stop +300 ~38 revoke @1764107760500`, which are its version, its
/// action, its deadline and its first hearing in seconds after its making, whether the agent is revoked if it goes on, and when
/// it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Directive {
    /// The epoch millisecond of its making, and more than that of any before, also of one that has ended. To be compared for
    /// equality alone.
    pub version: i64,
    /// What the agent should do.
    pub action: Action,
    /// Until when a `stop` should be done.
    pub deadline: Option<Timestamp>,
    /// When a heartbeat was first answered with it, to the second after. Nobody who has not heard of it is told of, or shut out.
    pub heard: Option<Timestamp>,
    /// Whether an agent that goes on is revoked.
    pub then_revoke: bool,
    /// When it was acknowledged.
    pub acknowledged: Option<Timestamp>,
}

impl Directive {
    /// What follows the deadline of a directive whose agent is revoked if it goes on: the sweep finds it by this.
    pub const REVOKES: &'static str = " revoke";

    /// A new directive. `made_at`: the agent's `updated_at` with it. Every directive moves that on, also after one that has
    /// ended and left nothing in the row: so its version never comes again, and what acknowledges it acknowledges no other.
    #[must_use]
    pub fn new(wanted: &NewDirective, made_at: Timestamp) -> Self {
        Self {
            version: made_at.as_millis(),
            action: wanted.action,
            deadline: wanted.deadline.map(|deadline| made_at.plus(deadline)),
            heard: None,
            then_revoke: wanted.then_revoke,
            acknowledged: None,
        }
    }

    /// The directive after a heartbeat was answered with it.
    #[must_use]
    pub fn after_hearing(self, now: Timestamp) -> Self {
        let since = self.since();
        let heard = since.plus(Duration::from_secs(millis(now.since(since)).div_ceil(1_000)));
        Self { heard: self.heard.or(Some(heard)), ..self }
    }

    /// Since when it holds.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.version)
    }

    /// What is left of it when it is acknowledged: nothing of `run`, which is the default.
    #[must_use]
    pub fn after_acknowledgement(self, now: Timestamp) -> Option<Self> {
        (self.action != Action::Run).then_some(Self { acknowledged: Some(now), ..self.after_hearing(now) })
    }

    /// The same, after its agent was revoked: it does not revoke an agent that is restored.
    #[must_use]
    pub fn disarmed(self) -> Self {
        Self { then_revoke: false, ..self }
    }

    /// After which moment no heartbeat may come, if it ends in a revocation and the agent has heard of it: 10 seconds after its
    /// deadline, two intervals of its making and one of its hearing, whichever is last.
    #[must_use]
    pub fn revokes_after(&self, interval: Duration) -> Option<Timestamp> {
        let heard = self.heard.filter(|_| self.then_revoke)?;
        let end = self.since().plus(interval * 2).max(heard.plus(interval));
        Some(self.deadline.map_or(end, |deadline| deadline.max(end)).plus(REVOKE_GRACE))
    }

    /// Whether an agent that has heard of it should have acknowledged it: after two intervals of its hearing, and 5 minutes of
    /// its making. Nobody waits for the acknowledgement of `run`: whoever ignored what came before it runs.
    #[must_use]
    pub fn is_unheeded(&self, interval: Duration, now: Timestamp) -> bool {
        self.action != Action::Run
            && self.acknowledged.is_none()
            && self.heard.is_some_and(|heard| now > heard.plus(interval * 2))
            && now > self.since().plus(SHORTEST_HEED)
    }

    /// So many whole seconds after its making.
    fn seconds_to(&self, moment: Timestamp) -> u64 {
        moment.since(self.since()).as_secs()
    }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.action.as_str())?;
        if let Some(deadline) = self.deadline {
            let seconds = self.seconds_to(deadline);
            // Writes are conditional on the text that was read: what an earlier version wrote stays as it is.
            if self.since().plus(Duration::from_secs(seconds)) == deadline {
                write!(f, " +{seconds}")?;
            } else {
                write!(f, " {}", deadline.as_seconds())?;
            }
        }
        if let Some(heard) = self.heard {
            write!(f, " ~{}", self.seconds_to(heard))?;
        }
        if self.then_revoke {
            f.write_str(Self::REVOKES)?;
        }
        match self.acknowledged {
            Some(at) => write!(f, " @{}", at.as_millis()),
            None => Ok(()),
        }
    }
}

impl From<Directive> for String {
    fn from(directive: Directive) -> Self {
        directive.to_string()
    }
}

/// A text that is no directive.
#[derive(Debug, thiserror::Error)]
#[error("not a directive")]
pub struct NotADirective;

impl TryFrom<String> for Directive {
    type Error = NotADirective;

    fn try_from(text: String) -> Result<Self, NotADirective> {
        let mut words = text.split(' ');
        let version = words.next().and_then(|word| word.parse().ok()).ok_or(NotADirective)?;
        let action = words.next().and_then(Action::parse).ok_or(NotADirective)?;
        let since = Timestamp::from_millis(version);
        let (deadline, heard, acknowledged) = (None, None, None);
        let mut directive = Self { version, action, deadline, heard, then_revoke: false, acknowledged };
        let after = |seconds: &str| {
            let seconds = seconds.parse().map_err(|_| NotADirective)?;
            Ok(since.plus(Duration::from_secs(seconds)))
        };
        for word in words {
            match word.split_at_checked(1).ok_or(NotADirective)? {
                ("~", seconds) => directive.heard = Some(after(seconds)?),
                ("+", seconds) => directive.deadline = Some(after(seconds)?),
                ("@", at) => {
                    let at = at.parse().map_err(|_| NotADirective)?;
                    directive.acknowledged = Some(Timestamp::from_millis(at));
                }
                _ if word == "revoke" => directive.then_revoke = true,
                // An earlier version wrote a deadline as the second of its end.
                _ => {
                    let end: i64 = word.parse().map_err(|_| NotADirective)?;
                    directive.deadline = Some(Timestamp::from_millis(end.saturating_mul(1_000)));
                }
            }
        }
        Ok(directive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_764_107_662_500);

    fn stop(deadline: Option<u64>) -> Directive {
        let deadline = deadline.map(Duration::from_secs);
        let wanted = NewDirective { action: Action::Stop, deadline, then_revoke: true, reason: None };
        Directive::new(&wanted, NOW)
    }

    #[test]
    fn a_row_holds_a_directive_as_a_short_text() {
        let acknowledged = stop(Some(300)).after_acknowledgement(NOW.plus(Duration::from_secs(38)));
        for (directive, text) in [
            (stop(Some(300)), "1764107662500 stop +300 revoke"),
            (stop(None), "1764107662500 stop revoke"),
            (stop(None).disarmed(), "1764107662500 stop"),
            (
                stop(None).after_hearing(NOW.plus(Duration::from_millis(37_001))),
                "1764107662500 stop ~38 revoke",
            ),
            (acknowledged.unwrap(), "1764107662500 stop +300 ~38 revoke @1764107700500"),
        ] {
            assert_eq!(directive.to_string(), text);
            assert_eq!(Directive::try_from(text.to_owned()).unwrap(), directive);
        }
        let earlier = Directive::try_from("1764107662500 stop 1764107962 revoke".to_owned()).unwrap();
        assert_eq!(earlier.deadline, Some(Timestamp::from_millis(1_764_107_962_000)));
        assert_eq!(earlier.to_string(), "1764107662500 stop 1764107962 revoke");
        for other in ["", "pause", "1 jump", "1 stop soon", "1 stop ", "1 stop ~", "x stop"] {
            assert!(Directive::try_from(other.to_owned()).is_err(), "{other}");
        }
    }

    #[test]
    fn an_agent_is_revoked_only_when_it_could_have_heard() {
        let after = |directive: Directive, heard_in: u64| {
            let directive = directive.after_hearing(NOW.plus(Duration::from_secs(heard_in)));
            let end = directive.revokes_after(Duration::from_mins(1));
            end.map(|end| end.since(directive.since()).as_secs())
        };
        assert_eq!(stop(None).revokes_after(Duration::ZERO), None);
        assert_eq!(after(stop(Some(5)), 60), Some(130));
        assert_eq!(after(stop(Some(300)), 60), Some(310));
        assert_eq!(after(stop(None), 3_600), Some(3_670));
        assert_eq!(after(stop(None).disarmed(), 60), None);
    }
}
