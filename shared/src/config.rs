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

/// What channels may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookTargets {
    /// Public addresses, by https.
    Public,
    /// Any address, also by http: for a laptop, whose network is its owner's.
    Any,
}

/// One thing that a function may read of the configuration: a variable of its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// The table with one row for each agent.
    AgentsTable,
    /// The table of what agents post, and of what the system records about them.
    EventsTable,
    /// The table of counters for callers that have no row.
    WindowsTable,
    /// The table of operator and enrollment tokens.
    TokensTable,
    /// The table of channels and silences.
    ChannelsTable,
    /// The table of channels' addresses and signing secrets.
    SecretsTable,
    /// The table of what was told, and of its deliveries.
    AlertsTable,
    /// Who may register: `open` or `enrollment`.
    Registration,
    /// What makes a pending agent active: `key` or `operator`.
    Approval,
    /// Heartbeats per minute of one agent, and other calls likewise.
    RateLimit,
    /// Registrations per minute from one address.
    RegisterLimit,
    /// Refused verifications per minute from one address.
    VerifyFailureLimit,
    /// Seconds ahead for which an agent may promise its next heartbeat.
    MaxPromise,
    /// Days for which agents' events are kept.
    EventRetention,
    /// Days for which the system's own events are kept.
    SystemEventRetention,
    /// Days for which a registration waits for its verification.
    PendingRetention,
    /// Segments of the agents' table that a sweep scans at once.
    SweepSegments,
    /// Proxies in front whose `X-Forwarded-For` entries are trusted.
    TrustedProxyHops,
    /// The header in which a proxy in front says who calls, or `none`.
    TrustedAddressHeader,
    /// Days for which messages and their deliveries are kept.
    AlertRetention,
    /// Days after the announcement of a silence for which its agent is kept; 0 for ever.
    ForgetAfter,
    /// Missed heartbeats after which a silence is told.
    AlertAfterMissed,
    /// Seconds between two sweeps.
    SweepEvery,
    /// The URL through which the sweep hears itself, or `off`.
    CanaryUrl,
    /// The URL of the API, with which links begin.
    ApiUrl,
    /// What channels may be sent to: `public` addresses by https, or `any`.
    WebhookTargets,
}

impl Setting {
    /// The variable's name.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::AgentsTable => "AGENTS_TABLE",
            Self::EventsTable => "EVENTS_TABLE",
            Self::WindowsTable => "WINDOWS_TABLE",
            Self::TokensTable => "TOKENS_TABLE",
            Self::ChannelsTable => "CHANNELS_TABLE",
            Self::SecretsTable => "SECRETS_TABLE",
            Self::AlertsTable => "ALERTS_TABLE",
            Self::Registration => "REGISTRATION",
            Self::Approval => "APPROVAL",
            Self::RateLimit => "RATE_LIMIT_PER_MINUTE",
            Self::RegisterLimit => "REGISTER_LIMIT_PER_IP",
            Self::VerifyFailureLimit => "VERIFY_FAILURE_LIMIT_PER_IP",
            Self::MaxPromise => "MAX_PROMISE_SECONDS",
            Self::EventRetention => "EVENT_RETENTION_DAYS",
            Self::SystemEventRetention => "SYSTEM_EVENT_RETENTION_DAYS",
            Self::PendingRetention => "PENDING_RETENTION_DAYS",
            Self::SweepSegments => "SWEEP_SEGMENTS",
            Self::TrustedProxyHops => "TRUSTED_PROXY_HOPS",
            Self::TrustedAddressHeader => "TRUSTED_ADDRESS_HEADER",
            Self::AlertRetention => "ALERT_RETENTION_DAYS",
            Self::ForgetAfter => "FORGET_AFTER_DAYS",
            Self::AlertAfterMissed => "ALERT_AFTER_MISSED",
            Self::SweepEvery => "SWEEP_EVERY_SECONDS",
            Self::CanaryUrl => "CANARY_URL",
            Self::ApiUrl => "API_URL",
            Self::WebhookTargets => "WEBHOOK_TARGETS",
        }
    }
}

/// A setting's value, as far as the function reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    setting: Setting,
    value: Option<T>,
}

impl<T> Given<T> {
    /// The value.
    ///
    /// # Panics
    /// A bug that every call of the function meets: it uses a setting that it does not say it reads.
    #[must_use]
    pub fn get(&self) -> &T {
        let Some(value) = &self.value else {
            panic!("{} is not among what this function reads", self.setting.variable())
        };
        value
    }
}

/// The names of the tables that a function uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// One row for each agent.
    pub agents: Given<String>,
    /// What agents post, and what the system records about them.
    pub events: Given<String>,
    /// Counters for callers that have no row.
    pub windows: Given<String>,
    /// Operator and enrollment tokens.
    pub tokens: Given<String>,
    /// Channels and silences.
    pub channels: Given<String>,
    /// Channels' addresses and signing secrets.
    pub secrets: Given<String>,
    /// What was told, and its deliveries.
    pub alerts: Given<String>,
}

impl Tables {
    /// The first of the function's tables whose key is one attribute, and that attribute's name.
    #[must_use]
    pub fn any(&self) -> Option<(&str, &'static str)> {
        let tables = [
            (&self.agents, "agent_id"),
            (&self.tokens, "token_id"),
            (&self.windows, "window_id"),
            (&self.secrets, "channel_id"),
        ];
        tables.into_iter().find_map(|(table, key)| Some((table.value.as_deref()?, key)))
    }
}

/// What `template.yaml` tells a function: of all settings those that the function reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// See [`Setting::AgentsTable`] and its neighbours.
    pub tables: Tables,
    /// See [`Setting::Registration`].
    pub registration: Given<Registration>,
    /// See [`Setting::Approval`].
    pub approval: Given<Approval>,
    /// See [`Setting::RateLimit`].
    pub rate_limit: Given<u32>,
    /// See [`Setting::RegisterLimit`].
    pub register_limit: Given<u32>,
    /// See [`Setting::VerifyFailureLimit`].
    pub verify_failure_limit: Given<u32>,
    /// See [`Setting::MaxPromise`].
    pub max_promise: Given<Duration>,
    /// See [`Setting::EventRetention`].
    pub event_retention: Given<Duration>,
    /// See [`Setting::SystemEventRetention`].
    pub system_event_retention: Given<Duration>,
    /// See [`Setting::PendingRetention`].
    pub pending_retention: Given<Duration>,
    /// See [`Setting::SweepSegments`].
    pub sweep_segments: Given<NonZero<u8>>,
    /// See [`Setting::TrustedProxyHops`].
    pub trusted_proxy_hops: Given<usize>,
    /// See [`Setting::TrustedAddressHeader`]; `None` for `none`.
    pub trusted_address_header: Given<Option<String>>,
    /// See [`Setting::AlertRetention`].
    pub alert_retention: Given<Duration>,
    /// See [`Setting::ForgetAfter`]; zero for ever.
    pub forget_after: Given<Duration>,
    /// See [`Setting::AlertAfterMissed`].
    pub alert_after_missed: Given<u32>,
    /// See [`Setting::SweepEvery`].
    pub sweep_every: Given<Duration>,
    /// See [`Setting::CanaryUrl`]; `None` for `off`.
    pub canary_url: Given<Option<String>>,
    /// See [`Setting::ApiUrl`].
    pub api_url: Given<String>,
    /// See [`Setting::WebhookTargets`].
    pub webhook_targets: Given<WebhookTargets>,
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
    /// Reads those settings that the function `reads` from `lookup`: [`env()`] in a Lambda function, the template's
    /// values locally.
    ///
    /// # Errors
    /// A variable is missing or has a wrong value; there are no silent defaults.
    pub fn read(reads: &[Setting], lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = Environment { reads, lookup };
        Ok(Self {
            tables: Tables {
                agents: env.given(Setting::AgentsTable, text)?,
                events: env.given(Setting::EventsTable, text)?,
                windows: env.given(Setting::WindowsTable, text)?,
                tokens: env.given(Setting::TokensTable, text)?,
                channels: env.given(Setting::ChannelsTable, text)?,
                secrets: env.given(Setting::SecretsTable, text)?,
                alerts: env.given(Setting::AlertsTable, text)?,
            },
            registration: env.given(Setting::Registration, |value| {
                word(value, [("open", Registration::Open), ("enrollment", Registration::Enrollment)])
            })?,
            approval: env.given(Setting::Approval, |value| {
                word(value, [("key", Approval::Key), ("operator", Approval::Operator)])
            })?,
            rate_limit: env.given(Setting::RateLimit, number)?,
            register_limit: env.given(Setting::RegisterLimit, number)?,
            verify_failure_limit: env.given(Setting::VerifyFailureLimit, number)?,
            max_promise: env.given(Setting::MaxPromise, |value| number(value).map(Duration::from_secs))?,
            event_retention: env.given(Setting::EventRetention, days)?,
            system_event_retention: env.given(Setting::SystemEventRetention, days)?,
            pending_retention: env.given(Setting::PendingRetention, days)?,
            sweep_segments: env.given(Setting::SweepSegments, number)?,
            trusted_proxy_hops: env.given(Setting::TrustedProxyHops, number)?,
            trusted_address_header: env.given(Setting::TrustedAddressHeader, |value| {
                text(value).map(|name| (name != "none").then_some(name))
            })?,
            alert_retention: env.given(Setting::AlertRetention, days)?,
            forget_after: env.given(Setting::ForgetAfter, days)?,
            alert_after_missed: env.given(Setting::AlertAfterMissed, number)?,
            sweep_every: env.given(Setting::SweepEvery, |value| number(value).map(Duration::from_secs))?,
            canary_url: env.given(Setting::CanaryUrl, |value| Ok((value != "off").then_some(value)))?,
            api_url: env.given(Setting::ApiUrl, text)?,
            webhook_targets: env.given(Setting::WebhookTargets, |value| {
                word(value, [("public", WebhookTargets::Public), ("any", WebhookTargets::Any)])
            })?,
        })
    }
}

struct Environment<'a, L> {
    reads: &'a [Setting],
    lookup: L,
}

impl<L: Fn(&str) -> Option<String>> Environment<'_, L> {
    fn given<T>(
        &self,
        setting: Setting,
        parse: impl FnOnce(String) -> Result<T, String>,
    ) -> Result<Given<T>, ConfigError> {
        if !self.reads.contains(&setting) {
            return Ok(Given { setting, value: None });
        }
        let parsed = match (self.lookup)(setting.variable()) {
            Some(value) if !value.is_empty() => parse(value),
            _ => Err("is not set".to_owned()),
        };
        match parsed {
            Ok(value) => Ok(Given { setting, value: Some(value) }),
            Err(problem) => Err(ConfigError::new(setting.variable(), problem)),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one form for all settings")]
fn text(value: String) -> Result<String, String> {
    Ok(value)
}

fn number<N: FromStr<Err: fmt::Display>>(value: String) -> Result<N, String> {
    value.parse().map_err(|error| format!("{value:?} is not a count: {error}"))
}

fn days(value: String) -> Result<Duration, String> {
    const DAY: u64 = 24 * 60 * 60;
    let days: u32 = number(value)?;
    Ok(Duration::from_secs(u64::from(days) * DAY))
}

fn word<T: Copy, const N: usize>(value: String, words: [(&str, T); N]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| format!("{value:?} is none of {}", words.map(|(word, _)| word).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> String {
        let value = match name {
            "APPROVAL" => "operator",
            name if name.ends_with("_TABLE") => "some-table",
            _ => "7",
        };
        value.to_owned()
    }

    const READS: &[Setting] = &[Setting::EventsTable, Setting::Approval, Setting::PendingRetention];

    #[test]
    fn what_a_function_reads_is_read() {
        let config = Config::read(READS, |name| Some(value(name))).unwrap();
        assert_eq!(*config.approval.get(), Approval::Operator);
        assert_eq!(*config.pending_retention.get(), Duration::from_hours(7 * 24));
    }

    #[test]
    #[should_panic(expected = "REGISTRATION is not among what this function reads")]
    fn what_a_function_does_not_read_is_not_there() {
        let config = Config::read(READS, |name| Some(value(name))).unwrap();
        let _registration = config.registration.get();
    }

    #[test]
    fn a_missing_or_broken_variable_is_named() {
        let error = Config::read(READS, |name| (name != "EVENTS_TABLE").then(|| value(name))).unwrap_err();
        assert_eq!(error.to_string(), "EVENTS_TABLE: is not set");
        let error = Config::read(READS, |_| Some("many".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), r#"APPROVAL: "many" is none of key, operator"#);
    }
}
