//! How many messages there are: one outage is one message, and what follows at once waits for the next mark. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

/// How long after a message of several agents the next one waits, and in what time messages of one are counted.
pub const QUIET: Duration = Duration::from_mins(5);

/// Messages within [`QUIET`] after which more of them wait.
const AT_ONCE: usize = 3;

/// How long an incident without news is still the same incident.
const SAME_INCIDENT: Duration = Duration::from_mins(15);

/// More than one agent at once. Messages that follow one another are about one incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub incident_id: Uuid,
    /// Which of its messages this is, from 1.
    pub update: u32,
    /// When its last message was told.
    pub told_at: Timestamp,
}

/// The pace of the messages, kept from sweep to sweep. What waits is not queued: it is left untold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Nothing is told of agents before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_until: Option<Timestamp>,
    /// When the last messages were told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Timestamp>,
    /// The last incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,
}

impl Pace {
    /// Whether the next message has to wait.
    #[must_use]
    pub fn is_quiet(&self, now: Timestamp) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    /// The pace after a message about so many agents: one of several makes the next wait, and so does the third within
    /// five minutes.
    #[must_use]
    pub fn after(&self, agents: usize, incident: Option<Incident>, now: Timestamp) -> Self {
        let is_recent = |told: &&Timestamp| now.since(**told) < QUIET;
        let mut recent: Vec<Timestamp> = self.recent.iter().filter(is_recent).copied().collect();
        recent.push(now);
        let wait = agents > 1 || recent.len() >= AT_ONCE;
        let quiet_until = if wait { Some(now.plus(QUIET)) } else { self.quiet_until };
        Self { quiet_until, recent, incident: incident.or(self.incident) }
    }

    /// The incident that a message of several agents belongs to: the last one, if it had news of late.
    #[must_use]
    pub fn incident(&self, now: Timestamp) -> Incident {
        match self.incident {
            Some(last) if now.since(last.told_at) < SAME_INCIDENT => {
                Incident { update: last.update + 1, told_at: now, ..last }
            }
            _ => {
                let incident_id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
                Incident { incident_id, update: 1, told_at: now }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    #[test]
    fn after_a_message_of_several_the_rest_waits_five_minutes() {
        let pace = Pace::default().after(2, None, at(0));
        assert!(pace.is_quiet(at(299)));
        assert!(!pace.is_quiet(at(300)));
        assert!(!Pace::default().after(1, None, at(0)).is_quiet(at(0)));
    }

    #[test]
    fn after_three_messages_in_five_minutes_the_rest_waits() {
        let pace = Pace::default().after(1, None, at(0)).after(1, None, at(120));
        assert!(!pace.is_quiet(at(130)));
        assert!(pace.after(1, None, at(240)).is_quiet(at(250)));
        assert!(!pace.after(1, None, at(300)).is_quiet(at(301)));
    }

    #[test]
    fn messages_that_follow_one_another_are_one_incident() {
        let first = Pace::default().incident(at(0));
        let pace = Pace::default().after(9, Some(first), at(0));
        let second = pace.incident(at(300));
        assert_eq!((second.incident_id, second.update), (first.incident_id, 2));
        let later = pace.incident(at(3600));
        assert_ne!(later.incident_id, first.incident_id);
        assert_eq!(later.update, 1);
    }
}
