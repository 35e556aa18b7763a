//! What may be wrong with an agent, and whether it is: pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong with an agent. Worst first: an agent has one concern at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concern {
    /// It fell silent.
    Offline,
    /// It was let in and never sent a heartbeat.
    NeverSeen,
    /// It sends heartbeats, and says of itself that it is broken.
    Error,
    /// It registered, and waits for somebody to let it in.
    Waiting,
}

impl Concern {
    /// Every concern, worst first.
    pub const ALL: [Self; 4] = [Self::Offline, Self::NeverSeen, Self::Error, Self::Waiting];

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::NeverSeen => "never_seen",
            Self::Error => "error",
            Self::Waiting => "waiting",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|concern| concern.as_str() == text)
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
