//! The agent: one row, and the liveness rule as pure functions.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::credential::{ApiKey, KeyDigest, KeyId, row_id};
use crate::time::Timestamp;

/// How far a lease may be past before the sweep announces it: a beat on the wire is not a death.
pub const LEASE_GRACE: Duration = Duration::from_secs(10);

/// How long an agent may take from its verification to its first beat, at least.
pub const FIRST_BEAT_GRACE: Duration = Duration::from_mins(5);

/// The id of an agent: a `UUIDv8` of the key id, so that a request's key addresses its row directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(Uuid);

impl AgentId {
    /// The agent whose API keys have this key id.
    #[must_use]
    pub fn of_key_id(key_id: KeyId) -> Self {
        Self(row_id("agent", key_id))
    }

    /// The agent whose API key this is, if it is anybody's.
    #[must_use]
    pub fn of_key(key: &ApiKey) -> Self {
        Self::of_key_id(key.key_id())
    }

    /// Reads the id in a path; `None` if it is no UUID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An agent's display name: 1 to 100 characters and at most 200 bytes, trimmed, without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentName(String);

impl AgentName {
    /// Trims and checks a name.
    ///
    /// # Errors
    /// Says in words what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let name = text.trim();
        if name.is_empty() {
            Err("must not be empty")
        } else if name.chars().count() > 100 {
            Err("must have at most 100 characters")
        } else if name.len() > 200 {
            Err("must have at most 200 bytes")
        } else if name.chars().any(char::is_control) {
            Err("must not contain control characters")
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    /// The name as it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who may act. Only verify and operators change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Registered, not yet let in.
    Pending,
    /// May beat and post.
    Active,
    /// Shut out by an operator.
    Revoked,
}

impl AgentState {
    /// The word that rows, expressions and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Revoked].into_iter().find(|state| state.as_str() == text)
    }
}

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

/// How often an agent promises to beat, and how long it may be silent. Enforced per agent.
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
    const LONGEST_INTERVAL: u64 = 24 * 60 * 60;
    const LONGEST_TOLERANCE: u64 = 7 * 24 * 60 * 60;

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

    /// How often the agent beats.
    #[must_use]
    pub const fn interval(self) -> Duration {
        self.interval
    }

    /// How long a lease lasts after a beat.
    #[must_use]
    pub const fn tolerance(self) -> Duration {
        self.tolerance
    }
}

/// The agent's row, but for the rate-limit windows' counters (`b0`…`c12`), which only expressions touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Derived from the key id.
    pub agent_id: AgentId,
    /// Display name.
    pub agent_name: AgentName,
    /// The group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<Uuid>,
    /// Who may act.
    pub agent_state: AgentState,
    /// Where a restore goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_from: Option<AgentState>,
    /// The public part of the API key: a rotation keeps it.
    pub key_id: KeyId,
    /// The API key's digest.
    pub key_digest: KeyDigest,
    /// The key before the last rotation, while both are valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key_digest: Option<KeyDigest>,
    /// When the previous key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key_expires_at: Option<Timestamp>,
    /// Milliseconds between beats.
    pub interval_ms: u64,
    /// Milliseconds that a lease lasts.
    pub tolerance_ms: u64,
    /// Overrides the default limit, for beats and for other calls alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_minute: Option<u32>,
    /// What the agent says of itself; absent until it has said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The last beat or event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// `last_seen_at` and the tolerance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    /// When its silence or its leave was announced; absent while nothing is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_since: Option<Timestamp>,
    /// Accepted requests. A meter, not an invoice: a resent request may count twice.
    #[serde(default)]
    pub requests_total: u64,
    /// Whose names these are, for agents that an enrollment token or an operator created by heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment_namespace: Option<String>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// The last activation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// The last change of identity or state; beats do not change it.
    pub updated_at: Timestamp,
    /// Epoch seconds at which DynamoDB removes the row; only while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl Agent {
    /// A new pending agent with this key.
    #[must_use]
    pub fn pending(
        key: &ApiKey,
        agent_name: AgentName,
        board_id: Option<Uuid>,
        heartbeat: HeartbeatConfig,
        now: Timestamp,
        retention: Duration,
    ) -> Self {
        Self {
            agent_id: AgentId::of_key(key),
            agent_name,
            board_id,
            agent_state: AgentState::Pending,
            revoked_from: None,
            key_id: key.key_id(),
            key_digest: key.digest(),
            previous_key_digest: None,
            previous_key_expires_at: None,
            interval_ms: millis(heartbeat.interval()),
            tolerance_ms: millis(heartbeat.tolerance()),
            rate_limit_per_minute: None,
            health: None,
            last_seen_at: None,
            lease_expires_at: None,
            offline_since: None,
            requests_total: 0,
            enrollment_namespace: None,
            created_at: now,
            verified_at: None,
            updated_at: now,
            expires_at: Some(now.plus(retention).as_seconds()),
        }
    }

    /// Whether `digest` is that of a key which is valid now.
    #[must_use]
    pub fn accepts(&self, digest: &KeyDigest, now: Timestamp) -> bool {
        self.key_digest == *digest
            || (self.previous_key_digest.as_ref() == Some(digest)
                && self.previous_key_expires_at.is_some_and(|end| end > now))
    }

    /// Whether the row's time to live is over. DynamoDB may take days to remove it, and until then a read
    /// must treat it as gone.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now.as_seconds())
    }

    /// The agent, made active: from now on it may act, and it stays.
    #[must_use]
    pub fn activated(self, now: Timestamp) -> Self {
        Self { agent_state: AgentState::Active, verified_at: Some(now), expires_at: None, ..self }
    }

    /// How often the agent beats, and how long it may be silent.
    #[must_use]
    pub const fn heartbeat(&self) -> HeartbeatConfig {
        HeartbeatConfig {
            interval: Duration::from_millis(self.interval_ms),
            tolerance: Duration::from_millis(self.tolerance_ms),
        }
    }

    /// How long a lease lasts.
    #[must_use]
    pub const fn tolerance(&self) -> Duration {
        Duration::from_millis(self.tolerance_ms)
    }

    /// Health and liveness in one word, as Mission Control shows an agent: `offline` once it is revoked,
    /// `provisioning` while it is pending or was never seen, `offline` if it was seen longer ago than its tolerance or said so, else what it last said, else `online`.
    ///
    /// The lease says the same, except after a restore, which gives the sweep patience and nobody a heartbeat.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> &'static str {
        match (self.last_seen_at, self.health) {
            _ if self.agent_state == AgentState::Revoked => "offline",
            _ if self.agent_state == AgentState::Pending => "provisioning",
            (None, _) => "provisioning",
            (Some(seen), _) if seen.plus(self.tolerance()) < now => "offline",
            (Some(_), Some(health)) => health.as_str(),
            (Some(_), None) => "online",
        }
    }
}

/// The part of an agent's row that liveness is judged by, as the sweep reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Lease {
    /// Whose lease it is.
    pub agent_id: AgentId,
    /// Who may act.
    pub agent_state: AgentState,
    /// Milliseconds that a lease lasts.
    pub tolerance_ms: u64,
    /// The last beat or event.
    pub last_seen_at: Option<Timestamp>,
    /// `last_seen_at` and the tolerance.
    pub lease_expires_at: Option<Timestamp>,
    /// The last activation.
    pub verified_at: Option<Timestamp>,
    /// When its silence or its leave was announced.
    pub offline_since: Option<Timestamp>,
}

impl Lease {
    /// How long this agent may take from its activation to its first beat.
    #[must_use]
    pub fn first_beat_grace(&self) -> Duration {
        Duration::from_millis(self.tolerance_ms).max(FIRST_BEAT_GRACE)
    }

    /// What the sweep has to announce of this agent, if anything.
    ///
    /// A lease more than [`LEASE_GRACE`] past is silence; an agent not seen max(tolerance,
    /// [`FIRST_BEAT_GRACE`]) after its activation never came.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Option<Overdue> {
        if self.agent_state != AgentState::Active || self.offline_since.is_some() {
            return None;
        }
        match (self.lease_expires_at, self.verified_at) {
            (Some(lease), _) => (now.since(lease) > LEASE_GRACE).then_some(Overdue::Silent { lease }),
            (None, Some(verified)) => {
                (now.since(verified) > self.first_beat_grace()).then_some(Overdue::NeverSeen { verified })
            }
            (None, None) => None,
        }
    }
}

/// What the clock says against an agent, with the attribute that the announcement is conditional on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It beat once, and its lease ran out.
    Silent {
        /// `lease_expires_at` as it was read.
        lease: Timestamp,
    },
    /// It was let in and never beat.
    NeverSeen {
        /// `verified_at` as it was read.
        verified: Timestamp,
    },
}

/// A duration as the rows hold it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::rate_limit::SLOTS;
    use crate::store::listing_attributes;

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

    #[test]
    fn names_are_trimmed_and_bounded_in_characters_and_bytes() {
        assert_eq!(AgentName::parse("  researcher-1 ").unwrap().as_str(), "researcher-1");
        assert!(AgentName::parse(&"x".repeat(100)).is_ok());
        assert!(AgentName::parse(&"x".repeat(101)).is_err());
        assert!(AgentName::parse(&"é".repeat(100)).is_ok());
        assert!(AgentName::parse(&"漢".repeat(67)).is_err());
        assert!(AgentName::parse(" \t\n").is_err());
        assert!(AgentName::parse("a\u{0}b").is_err());
    }

    fn active(verified: i64, lease: Option<i64>) -> Lease {
        Lease {
            agent_id: AgentId::of_key(&ApiKey::generate()),
            agent_state: AgentState::Active,
            tolerance_ms: 120_000,
            last_seen_at: None,
            lease_expires_at: lease.map(Timestamp::from_millis),
            verified_at: Some(Timestamp::from_millis(verified)),
            offline_since: None,
        }
    }

    #[test]
    fn a_lease_is_overdue_only_after_its_grace() {
        let agent = active(0, Some(120_000));
        assert_eq!(agent.overdue(Timestamp::from_millis(130_000)), None);
        assert!(agent.overdue(Timestamp::from_millis(130_001)).is_some());
    }

    #[test]
    fn an_agent_never_seen_has_five_minutes_or_its_tolerance() {
        let mut agent = active(0, None);
        assert_eq!(agent.overdue(Timestamp::from_millis(300_000)), None);
        assert!(agent.overdue(Timestamp::from_millis(300_001)).is_some());
        agent.tolerance_ms = 600_000;
        assert_eq!(agent.overdue(Timestamp::from_millis(600_000)), None);
        assert!(agent.overdue(Timestamp::from_millis(600_001)).is_some());
    }

    #[test]
    fn what_is_announced_or_not_active_is_not_overdue() {
        let mut agent = active(0, Some(0));
        agent.offline_since = Some(Timestamp::from_millis(1));
        assert_eq!(agent.overdue(Timestamp::from_millis(i64::MAX)), None);
        agent.offline_since = None;
        agent.agent_state = AgentState::Revoked;
        assert_eq!(agent.overdue(Timestamp::from_millis(i64::MAX)), None);
    }

    /// The size of an item by DynamoDB's rules: names count, and of values text in bytes, and numbers two
    /// digits to the byte and one byte more.
    fn size(item: &HashMap<String, AttributeValue>) -> usize {
        let value_size = |value: &AttributeValue| match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            AttributeValue::N(number) => number.len().div_ceil(2) + 1,
            other => panic!("an agent's row has no {other:?}"),
        };
        item.iter().map(|(name, value)| name.len() + value_size(value)).sum()
    }

    fn any_moment() -> impl Strategy<Value = Timestamp> {
        (0..=i64::MAX).prop_map(Timestamp::from_millis)
    }

    fn any_heartbeat_config() -> impl Strategy<Value = HeartbeatConfig> {
        (1..=HeartbeatConfig::LONGEST_INTERVAL).prop_flat_map(|interval| {
            (2 * interval..=HeartbeatConfig::LONGEST_TOLERANCE).prop_map(move |tolerance| {
                HeartbeatConfig::from_seconds(Some(interval), Some(tolerance)).unwrap()
            })
        })
    }

    /// Texts that are names, many of them at the limits of characters and bytes.
    fn any_name() -> impl Strategy<Value = AgentName> {
        let text = prop_oneof!["\\PC{1,100}", "[a-z]{100}", "[é-ü]{100}", "[一-龥]{66}", "[😀-🙏]{50}"];
        text.prop_filter_map("no name", |text| AgentName::parse(&text).ok())
    }

    prop_compose! {
        /// A row with every optional attribute and the counters of one slot, which is as large as rows get.
        fn any_full_row()(
            name in any_name(),
            heartbeat in any_heartbeat_config(),
            moments in prop::array::uniform8(any_moment()),
            limit in any::<u32>(),
            requests_total in any::<u64>(),
            counts in any::<(u32, u32)>(),
            slot in 0..SLOTS,
        ) -> HashMap<String, AttributeValue> {
            let key = ApiKey::generate();
            let [created, verified, updated, seen, lease, offline, previous, expires] = moments;
            let agent = Agent {
                revoked_from: Some(AgentState::Pending),
                agent_state: AgentState::Revoked,
                previous_key_digest: Some(ApiKey::generate().digest()),
                previous_key_expires_at: Some(previous),
                rate_limit_per_minute: Some(limit),
                health: Some(Health::Degraded),
                last_seen_at: Some(seen),
                lease_expires_at: Some(lease),
                offline_since: Some(offline),
                requests_total,
                enrollment_namespace: Some(Uuid::max().to_string()),
                verified_at: Some(verified),
                updated_at: updated,
                expires_at: Some(expires.as_seconds()),
                ..Agent::pending(&key, name, Some(Uuid::max()), heartbeat, created, Duration::ZERO)
            };
            let mut item: HashMap<_, _> = serde_dynamo::aws_sdk_dynamodb_1::to_item(&agent).unwrap();
            assert_eq!(item.len(), 22, "every attribute is there: {item:?}");
            item.extend(listing_attributes(&agent));
            item.insert(format!("b{slot}"), AttributeValue::N(counts.0.to_string()));
            item.insert(format!("c{slot}"), AttributeValue::N(counts.1.to_string()));
            item
        }
    }

    proptest! {
        /// Above 1 KB every heartbeat costs twice as much.
        #[test]
        fn a_row_that_validation_can_produce_is_under_1000_bytes(row in any_full_row()) {
            prop_assert!(size(&row) < 1_000, "{} bytes: {row:?}", size(&row));
        }
    }
}
