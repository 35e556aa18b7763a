//! Heartbeats: how often they come, and what they say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an agent says of itself. Liveness is what the clock says; the two are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Healthy,
    /// Working, with less than usual.
    Degraded,
    /// Alive, and failing.
    Error,
    /// Going away on purpose.
    Offline,
}

impl Health {
    /// Every value, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Error, Self::Offline];

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Error => "error",
            Self::Offline => "offline",
        }
    }

    /// Reads the wire's word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.as_str() == text)
    }
}

/// How often an agent promises a heartbeat, and how long it may be silent. Enforced per agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    interval: Duration,
    tolerance: Duration,
}

impl Default for HeartbeatConfig {
    /// Every 60 s, silent for at most 120 s.
    fn default() -> Self {
        Self { interval: Duration::from_mins(1), tolerance: Duration::from_mins(2) }
    }
}

/// What is wrong with a heartbeat configuration, and with which half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeartbeatConfig {
    /// The interval is not 1 to 86,400 seconds.
    Interval,
    /// The tolerance is not between twice the interval and 7 days.
    Tolerance,
}

impl BadHeartbeatConfig {
    /// The rule that was broken, in words.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Interval => "must be 1 to 86400 seconds",
            Self::Tolerance => "must be at least twice the interval and at most 604800 seconds",
        }
    }
}

impl HeartbeatConfig {
    pub(crate) const LONGEST_INTERVAL: u64 = 24 * 60 * 60;
    pub(crate) const LONGEST_TOLERANCE: u64 = 7 * 24 * 60 * 60;

    /// Checks a configuration in seconds. With one half given the other follows: tolerance = max(120, 2 ×
    /// interval), interval = min(60, tolerance / 2).
    ///
    /// # Errors
    /// Which half breaks its rule.
    pub fn from_seconds(interval: Option<u64>, tolerance: Option<u64>) -> Result<Self, BadHeartbeatConfig> {
        let (interval, tolerance) = match (interval, tolerance) {
            (None, None) => return Ok(Self::default()),
            (Some(interval), None) => (interval, interval.saturating_mul(2).max(120)),
            (None, Some(tolerance)) => (60.min(tolerance / 2), tolerance),
            (Some(interval), Some(tolerance)) => (interval, tolerance),
        };
        if interval == 0 && tolerance < 2 {
            return Err(BadHeartbeatConfig::Tolerance);
        }
        if !(1..=Self::LONGEST_INTERVAL).contains(&interval) {
            return Err(BadHeartbeatConfig::Interval);
        }
        if !(2 * interval..=Self::LONGEST_TOLERANCE).contains(&tolerance) {
            return Err(BadHeartbeatConfig::Tolerance);
        }
        Ok(Self { interval: Duration::from_secs(interval), tolerance: Duration::from_secs(tolerance) })
    }

    /// The configuration that a row holds: it was checked before it got there.
    #[must_use]
    pub(crate) const fn of_row(interval: Duration, tolerance: Duration) -> Self {
        Self { interval, tolerance }
    }

    /// The interval in whole seconds, as the wire shows it.
    #[must_use]
    pub const fn interval_seconds(self) -> u64 {
        self.interval.as_secs()
    }

    /// The tolerance in whole seconds, as the wire shows it.
    #[must_use]
    pub const fn tolerance_seconds(self) -> u64 {
        self.tolerance.as_secs()
    }

    /// How often the agent sends a heartbeat.
    #[must_use]
    pub const fn interval(self) -> Duration {
        self.interval
    }

    /// How long a lease lasts after a heartbeat.
    #[must_use]
    pub const fn tolerance(self) -> Duration {
        self.tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(interval: Option<u64>, tolerance: Option<u64>) -> Result<(u64, u64), BadHeartbeatConfig> {
        HeartbeatConfig::from_seconds(interval, tolerance)
            .map(|config| (config.interval().as_secs(), config.tolerance().as_secs()))
    }

    #[test]
    fn one_half_of_the_heartbeat_config_gives_the_other() {
        assert_eq!(config(None, None), Ok((60, 120)));
        assert_eq!(config(Some(15), None), Ok((15, 120)));
        assert_eq!(config(Some(600), None), Ok((600, 1200)));
        assert_eq!(config(None, Some(30)), Ok((15, 30)));
        assert_eq!(config(None, Some(3600)), Ok((60, 3600)));
        assert_eq!(config(None, Some(604_800)), Ok((60, 604_800)));
        assert_eq!(config(Some(86_400), None), Ok((86_400, 172_800)));
    }

    #[test]
    fn a_heartbeat_config_out_of_its_bounds_is_refused() {
        use BadHeartbeatConfig::{Interval, Tolerance};
        assert_eq!(config(Some(0), None), Err(Interval));
        assert_eq!(config(Some(86_401), None), Err(Interval));
        assert_eq!(config(Some(u64::MAX), None), Err(Interval));
        assert_eq!(config(Some(60), Some(119)), Err(Tolerance));
        assert_eq!(config(Some(60), Some(604_801)), Err(Tolerance));
        assert_eq!(config(None, Some(1)), Err(Tolerance));
        assert_eq!(config(None, Some(0)), Err(Tolerance));
    }
}
