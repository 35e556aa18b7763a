//! What may be wrong with an agent, and what of it was told.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is wrong with an agent. Worst first: an agent has one concern at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concern {
    /// It fell silent.
    Offline,
    /// It was let in and never sent a heartbeat.
    NeverSeen,
    /// It falls silent and comes back again and again.
    Flapping,
    /// More than one process has its key.
    Cloned,
    /// It sends heartbeats, and says of itself that it is broken.
    Error,
    /// It sends heartbeats, and its work does not get further.
    Stalled,
    /// It has used up its budget for the day.
    OverBudget,
    /// It sends heartbeats, and does not acknowledge what an operator wants of it.
    Unheeded,
    /// It registered, and waits for somebody to let it in.
    Waiting,
}

impl Concern {
    /// Every concern, worst first.
    pub const ALL: [Self; 9] = [
        Self::Offline,
        Self::NeverSeen,
        Self::Flapping,
        Self::Cloned,
        Self::Error,
        Self::Stalled,
        Self::OverBudget,
        Self::Unheeded,
        Self::Waiting,
    ];

    /// What a channel hears of that names none: all but those who wait at an open door, which are strangers' words.
    pub const HEARD: [Self; 7] = [
        Self::Offline,
        Self::NeverSeen,
        Self::Cloned,
        Self::Error,
        Self::Stalled,
        Self::OverBudget,
        Self::Unheeded,
    ];

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::NeverSeen => "never_seen",
            Self::Flapping => "flapping",
            Self::Cloned => "cloned",
            Self::Error => "error",
            Self::Stalled => "stalled",
            Self::OverBudget => "over_budget",
            Self::Unheeded => "unheeded",
            Self::Waiting => "waiting",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|concern| concern.as_str() == text)
    }

    /// Whether it is about an agent that is not heard.
    #[must_use]
    pub const fn is_silence(self) -> bool {
        matches!(self, Self::Offline | Self::NeverSeen)
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was told of an agent and has not ended: its row's `alerted`, absent when nothing was.
///
/// A text: the concern's word; `*` while the agent flaps; the word and `*` for what is told of a flapping agent all the
/// same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The concern that was told, but for flapping.
    pub concern: Option<Concern>,
    /// Whether it was told that the agent flaps.
    pub flapping: bool,
}

impl Told {
    /// Nothing was told.
    pub const NOTHING: Self = Self { concern: None, flapping: false };

    /// Whether nothing was told.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::NOTHING
    }

    /// This concern was told, and nothing else.
    #[must_use]
    pub const fn only(concern: Concern) -> Self {
        match concern {
            Concern::Flapping => Self { concern: None, flapping: true },
            concern => Self { concern: Some(concern), flapping: false },
        }
    }

    /// The worst that was told.
    #[must_use]
    pub const fn worst(self) -> Option<Concern> {
        match self.concern {
            None if self.flapping => Some(Concern::Flapping),
            concern => concern,
        }
    }

    /// The row's text; `None` if nothing was told.
    #[must_use]
    pub fn to_text(self) -> Option<String> {
        let flapping = if self.flapping { "*" } else { "" };
        let text = format!("{}{flapping}", self.concern.map_or("", Concern::as_str));
        (!text.is_empty()).then_some(text)
    }

    /// Reads the row's text; `None` if it is none of these.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (word, flapping) = text.strip_suffix('*').map_or((text, false), |word| (word, true));
        match (word, Concern::parse(word)) {
            ("", _) => flapping.then_some(Self { concern: None, flapping }),
            (_, None | Some(Concern::Flapping)) => None,
            (_, concern) => Some(Self { concern, flapping }),
        }
    }
}

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text().unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("no concern that can be told"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_a_short_text() {
        for (text, concern, flapping) in [
            ("offline", Some(Concern::Offline), false),
            ("error*", Some(Concern::Error), true),
            ("*", None, true),
        ] {
            let told = Told { concern, flapping };
            assert_eq!((told.to_text().as_deref(), Told::parse(text)), (Some(text), Some(told)));
        }
        assert_eq!(Told::NOTHING.to_text(), None);
        for other in ["", "flapping", "flapping*", "gone", "**"] {
            assert_eq!(Told::parse(other), None, "{other}");
        }
    }
}
