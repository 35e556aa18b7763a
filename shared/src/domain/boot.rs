//! Boot ids: which process of an agent speaks, and what it means when another one does. Pure.
//!
//! A process draws its id when it starts. A new id is a restart. An id that comes back after another took its place is a
//! second process with the same key: once in a rolling deployment, again and again if the key leaked or was deployed twice.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::agent::Agent;
use crate::time::Timestamp;

/// How long a call of a process that was replaced may have been on its way, at least.
const DELAY: Duration = Duration::from_secs(10);

/// For how long nobody is told apart after the first return: a rolling deployment takes that long.
pub const SHORT_NOISE: Duration = Duration::from_mins(5);

/// Within how long a second return means two processes, at least; and for how long nobody is told apart after that.
const RETURNS_WITHIN: Duration = Duration::from_hours(1);

/// The id of a process: 16 hexadecimal digits on the wire, 8 bytes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(u64);

impl BootId {
    /// Reads 16 hexadecimal digits of either case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// The 8 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for BootId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl de::Visitor<'_> for Bytes {
            type Value = BootId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("8 bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<BootId, E> {
                let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                Ok(BootId(u64::from_be_bytes(bytes)))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// What the boot id of a call means to the agent's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The call says none, or the row's, or it is a time in which nobody is told apart.
    Same,
    /// The first that the row hears of.
    First(BootId),
    /// Of a process that was replaced a moment ago: a call that was delayed on its way; or the leave that a replaced process
    /// takes at any time. The row keeps its own id, and what the agent's process said.
    Delayed,
    /// Of a new process.
    Restarted(BootId),
    /// Of one that was replaced so long ago, or before a noise, that it says nothing of two. It takes the row, and that is
    /// all.
    Resumed(BootId),
    /// Of one that was replaced and is back, for the first time: told to nobody.
    Returned(BootId),
    /// Of one that is back, and not the first within the hour: two processes have one key.
    Cloned(BootId),
}

impl Boot {
    /// Whether the row must be asked what it knows of this id.
    #[must_use]
    pub fn is_another(boot_id: Option<BootId>, agent: &Agent, now: Timestamp) -> bool {
        let is_noisy = agent.boot_noise.is_some_and(|until| until > now);
        !is_noisy && boot_id.is_some() && agent.boot.is_some() && agent.boot != boot_id
    }

    /// What `boot_id` means to this row. `replaced`: when the row took another id in its place, if that is known.
    /// `returned`: when an id returned last, if that is known.
    #[must_use]
    pub fn of(
        boot_id: Option<BootId>,
        agent: &Agent,
        replaced: Option<Timestamp>,
        returned: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let Some(boot_id) = boot_id else { return Self::Same };
        if agent.boot.is_none() {
            return Self::First(boot_id);
        }
        if !Self::is_another(Some(boot_id), agent, now) {
            return Self::Same;
        }
        let window = returns_within(agent.interval());
        let Some(replaced) = replaced else { return Self::Restarted(boot_id) };
        match now.since(replaced) {
            ago if ago <= agent.interval().max(DELAY) => Self::Delayed,
            ago if ago >= window => Self::Resumed(boot_id),
            // In the noise the row kept its id, whoever was left of them: this may be the only one.
            _ if agent.boot_noise.is_some_and(|until| replaced <= until) => Self::Resumed(boot_id),
            _ if returned.is_some_and(|at| now.since(at) < window) => Self::Cloned(boot_id),
            _ => Self::Returned(boot_id),
        }
    }

    /// What it means if the call says `offline`: a process that was replaced takes leave for itself alone.
    #[must_use]
    pub const fn of_leave(self) -> Self {
        if self.is_return() { Self::Delayed } else { self }
    }

    /// Whether the call speaks for the agent, as its process of today.
    #[must_use]
    pub const fn speaks(self) -> bool {
        !matches!(self, Self::Delayed)
    }

    /// The id that the row takes in the place of another, if it does.
    #[must_use]
    pub const fn replaces(self) -> Option<BootId> {
        match self {
            Self::Same | Self::First(_) | Self::Delayed => None,
            Self::Restarted(boot_id)
            | Self::Resumed(boot_id)
            | Self::Returned(boot_id)
            | Self::Cloned(boot_id) => Some(boot_id),
        }
    }

    /// The row's id afterwards, if it changes.
    #[must_use]
    pub const fn becomes(self) -> Option<BootId> {
        match self {
            Self::First(boot_id) => Some(boot_id),
            other => other.replaces(),
        }
    }

    /// Whether an id is back that another had replaced.
    #[must_use]
    pub const fn is_return(self) -> bool {
        matches!(self, Self::Returned(_) | Self::Cloned(_))
    }

    /// Until when nobody is told apart after this.
    #[must_use]
    pub fn noise(self, interval: Duration, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Returned(_) => Some(now.plus(SHORT_NOISE)),
            Self::Cloned(_) => Some(now.plus(returns_within(interval))),
            _ => None,
        }
    }
}

/// Within how long a second return means two processes: an hour, or four heartbeats.
#[must_use]
pub fn returns_within(interval: Duration) -> Duration {
    (interval * 4).max(RETURNS_WITHIN)
}

/// For how long an id that was replaced is known: while it may return, through the noise, and once more.
#[must_use]
pub fn known_for(interval: Duration) -> Duration {
    returns_within(interval) * 3
}

/// How long after the noise two processes have surely shown themselves again, if they are still there.
#[must_use]
pub fn shows_within(interval: Duration) -> Duration {
    SHORT_NOISE * 2 + interval * 6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::agent::AgentName;
    use crate::domain::credential::ApiKey;
    use crate::domain::heartbeat::HeartbeatConfig;

    #[test]
    fn an_id_is_sixteen_hexadecimal_digits() {
        let id = BootId::parse("9F2c1d7e8a6b5c40").unwrap();
        assert_eq!((id.to_string().as_str(), id.to_bytes()[0]), ("9f2c1d7e8a6b5c40", 0x9f));
        assert_eq!(BootId::parse("0000000000000001").unwrap().to_string(), "0000000000000001");
        for other in ["", "9f2c1d7e8a6b5c4", "9f2c1d7e8a6b5c400", "+f2c1d7e8a6b5c40", "9f2c1d7e8a6b5cxy"] {
            assert_eq!(BootId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_an_id_means_depends_on_when_it_was_replaced_and_whether_one_returned() {
        let now = Timestamp::from_millis(1_764_107_662_500);
        let (name, heartbeat) = (AgentName::parse("a").unwrap(), HeartbeatConfig::default());
        let day = Duration::from_hours(24);
        let mut agent = Agent::pending(&ApiKey::generate(), name, None, heartbeat, now, day);
        let (mine, other) = (BootId(1), BootId(2));
        let ago = |seconds| Some(now.minus(Duration::from_secs(seconds)));
        assert_eq!(Boot::of(Some(mine), &agent, None, None, now), Boot::First(mine));
        agent.boot = Some(other);
        for (replaced, returned, boot) in [
            (None, None, Boot::Restarted(mine)),
            (ago(60), None, Boot::Delayed),
            (ago(61), None, Boot::Returned(mine)),
            (ago(61), ago(3_600), Boot::Returned(mine)),
            (ago(61), ago(3_599), Boot::Cloned(mine)),
            (ago(3_600), ago(3_599), Boot::Resumed(mine)),
        ] {
            assert_eq!(Boot::of(Some(mine), &agent, replaced, returned, now), boot);
            assert_eq!(Boot::of(Some(other), &agent, replaced, returned, now), Boot::Same);
            assert_eq!(Boot::of(None, &agent, replaced, returned, now), Boot::Same);
        }
        agent.interval_ms = 3_600_000;
        assert_eq!(Boot::of(Some(mine), &agent, ago(3_601), ago(14_399), now), Boot::Cloned(mine));
        agent.boot_noise = Some(now.plus(Duration::from_millis(1)));
        assert_eq!(Boot::of(Some(mine), &agent, None, None, now), Boot::Same);
        agent.boot_noise = Some(now);
        assert_eq!(Boot::of(Some(mine), &agent, None, None, now), Boot::Restarted(mine));
        assert_eq!(Boot::of(Some(mine), &agent, ago(3_601), ago(3_601), now), Boot::Resumed(mine));
        agent.boot_noise = ago(3_602);
        assert_eq!(Boot::of(Some(mine), &agent, ago(3_601), ago(3_601), now), Boot::Cloned(mine));
    }
}
