//! The function's configuration. This is the only reader of the environment, and it reads it once.

use std::fmt;
use std::num::NonZero;
use std::str::FromStr;
use std::time::Duration;

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Anybody.
    Open,
    /// Whoever holds an enrollment token.
    Enrollment,
}

/// What makes a pending agent active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The agent's own key.
    Key,
    /// An operator.
    Operator,
}

/// The names of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// One row per agent.
    pub agents: String,
    /// What agents post, and what the system records about them.
    pub events: String,
    /// Counters for callers that have no row.
    pub windows: String,
    /// Operator and enrollment tokens.
    pub tokens: String,
}

/// Everything that `template.yaml` tells a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `AGENTS_TABLE`, `EVENTS_TABLE`, `WINDOWS_TABLE`, `TOKENS_TABLE`.
    pub tables: Tables,
    /// `REGISTRATION`: `open` or `enrollment`.
    pub registration: Registration,
    /// `APPROVAL`: `key` or `operator`.
    pub approval: Approval,
    /// `RATE_LIMIT_PER_MINUTE`: beats, and other calls, of one agent.
    pub rate_limit: u32,
    /// `REGISTER_LIMIT_PER_IP`: registrations per minute from one address.
    pub register_limit: u32,
    /// `VERIFY_FAILURE_LIMIT_PER_IP`: refused verifications per minute from one address.
    pub verify_failure_limit: u32,
    /// `EVENT_RETENTION_DAYS`: how long agents' events are kept.
    pub event_retention: Duration,
    /// `SYSTEM_EVENT_RETENTION_DAYS`: how long the system's own events are kept.
    pub system_event_retention: Duration,
    /// `PENDING_RETENTION_DAYS`: how long a registration waits for its verification.
    pub pending_retention: Duration,
    /// `SWEEP_SEGMENTS`: segments of the agents' table that a sweep scans at once.
    pub sweep_segments: NonZero<u8>,
    /// `TRUSTED_PROXY_HOPS`: proxies in front whose `X-Forwarded-For` entries are trusted.
    pub trusted_proxy_hops: usize,
}

/// An environment variable that is missing or does not parse.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ConfigError {
    name: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) const fn new(name: &'static str, problem: String) -> Self {
        Self { name, problem }
    }
}

/// Reads a variable of the process's environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// Reads the configuration from `lookup`: [`env()`] in a Lambda function, the template's values locally.
    ///
    /// # Errors
    /// A variable is missing or has a wrong value; there are no silent defaults.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = Environment { lookup };
        Ok(Self {
            tables: Tables {
                agents: env.text("AGENTS_TABLE")?,
                events: env.text("EVENTS_TABLE")?,
                windows: env.text("WINDOWS_TABLE")?,
                tokens: env.text("TOKENS_TABLE")?,
            },
            registration: env.word(
                "REGISTRATION",
                [("open", Registration::Open), ("enrollment", Registration::Enrollment)],
            )?,
            approval: env.word("APPROVAL", [("key", Approval::Key), ("operator", Approval::Operator)])?,
            rate_limit: env.number("RATE_LIMIT_PER_MINUTE")?,
            register_limit: env.number("REGISTER_LIMIT_PER_IP")?,
            verify_failure_limit: env.number("VERIFY_FAILURE_LIMIT_PER_IP")?,
            event_retention: env.days("EVENT_RETENTION_DAYS")?,
            system_event_retention: env.days("SYSTEM_EVENT_RETENTION_DAYS")?,
            pending_retention: env.days("PENDING_RETENTION_DAYS")?,
            sweep_segments: env.number("SWEEP_SEGMENTS")?,
            trusted_proxy_hops: env.number("TRUSTED_PROXY_HOPS")?,
        })
    }
}

struct Environment<L> {
    lookup: L,
}

impl<L: Fn(&str) -> Option<String>> Environment<L> {
    fn text(&self, name: &'static str) -> Result<String, ConfigError> {
        match (self.lookup)(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(ConfigError { name, problem: "is not set".to_owned() }),
        }
    }

    fn number<N: FromStr<Err: fmt::Display>>(&self, name: &'static str) -> Result<N, ConfigError> {
        let value = self.text(name)?;
        value
            .parse()
            .map_err(|error| ConfigError { name, problem: format!("{value:?} is not a count: {error}") })
    }

    fn days(&self, name: &'static str) -> Result<Duration, ConfigError> {
        const DAY: u64 = 24 * 60 * 60;
        let days: u32 = self.number(name)?;
        Ok(Duration::from_secs(u64::from(days) * DAY))
    }

    fn word<T: Copy, const N: usize>(
        &self,
        name: &'static str,
        words: [(&str, T); N],
    ) -> Result<T, ConfigError> {
        let value = self.text(name)?;
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            ConfigError {
                name,
                problem: format!("{value:?} is none of {}", words.map(|(word, _)| word).join(", ")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> String {
        let value = match name {
            "REGISTRATION" => "open",
            "APPROVAL" => "operator",
            name if name.ends_with("_TABLE") => "some-table",
            _ => "7",
        };
        value.to_owned()
    }

    #[test]
    fn a_whole_environment_is_read() {
        let config = Config::read(|name| Some(value(name))).unwrap();
        assert_eq!(config.approval, Approval::Operator);
        assert_eq!(config.pending_retention, Duration::from_hours(7 * 24));
    }

    #[test]
    fn a_missing_or_broken_variable_is_named() {
        let without = |missing: &'static str| move |name: &str| (name != missing).then(|| value(name));
        let error = Config::read(without("EVENTS_TABLE")).unwrap_err();
        assert_eq!(error.to_string(), "EVENTS_TABLE: is not set");
        let error = Config::read(|_| Some("many".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), r#"REGISTRATION: "many" is none of open, enrollment"#);
    }
}
