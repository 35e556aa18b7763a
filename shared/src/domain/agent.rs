//! The agent: one row, and the liveness rule as pure functions.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::boot::BootId;
use crate::domain::concern::Told;
use crate::domain::credential::{AGENTS, ApiKey, KeyDigest, KeyId, row_id};
use crate::domain::directive::{Action, Directive};
use crate::domain::heartbeat::{Health, HeartbeatConfig};
use crate::domain::ids::{self, BoardId, NamespaceId};
use crate::domain::spend::{Budget, Spend, Usage};
use crate::time::Timestamp;

/// How far a lease may be past before the sweep announces it: a heartbeat on the wire is not a death.
pub const LEASE_GRACE: Duration = Duration::from_secs(10);

/// How long an agent may take from its verification to its first heartbeat, at least.
pub const FIRST_HEARTBEAT_GRACE: Duration = Duration::from_mins(5);

/// The id of an agent: a `UUIDv5` of the key id, so that a request's key addresses its row directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(Uuid);

impl AgentId {
    /// The agent whose API keys have this key id.
    #[must_use]
    pub fn of_key_id(key_id: KeyId) -> Self {
        Self(row_id(&AGENTS, key_id))
    }

    /// The agent whose API key this is, if it is anybody's.
    #[must_use]
    pub fn of_key(key: &ApiKey) -> Self {
        Self::of_key_id(key.key_id())
    }

    /// The agent of this id.
    #[must_use]
    pub const fn of(id: Uuid) -> Self {
        Self(id)
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
        } else if name.chars().all(is_invisible) {
            Err("must contain something that can be seen")
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

/// Whether a character leaves nothing on a screen: white space, and what Unicode calls default ignorable.
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Who may act. Only verify and operators change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Registered, not yet let in.
    Pending,
    /// May send heartbeats and events.
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

/// The agent's row, but for the rate-limit windows' counters (`b0`…`c12`), which only expressions touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Derived from the key id.
    pub agent_id: AgentId,
    /// Display name.
    pub agent_name: AgentName,
    /// The group it belongs to.
    #[serde(default, with = "ids::board", skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
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
    pub prior_digest: Option<KeyDigest>,
    /// When the previous key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_key_ends: Option<Timestamp>,
    /// Milliseconds between heartbeats.
    pub interval_ms: u64,
    /// Milliseconds that a lease lasts.
    pub tolerance_ms: u64,
    /// Overrides the default limit, for heartbeats and for other calls alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// What the agent says of itself; absent until it has said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The last heartbeat or event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// `last_seen_at` and the tolerance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    /// When its silence or its leave was announced; absent while nothing is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_since: Option<Timestamp>,
    /// When the next heartbeat is promised, of an agent that sleeps on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_beat_at: Option<Timestamp>,
    /// When its work counts as stalled, unless it gets further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls_at: Option<Timestamp>,
    /// Milliseconds for which its work may stand still, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_after_ms: Option<u64>,
    /// What was told of it and has not ended. The sweep's mark, which heartbeats do not touch.
    #[serde(default, rename = "alerted", skip_serializing_if = "Told::is_nothing")]
    pub told: Told,
    /// What an operator wants of the agent; absent while it is only to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<Directive>,
    /// The directive's version until the agent acknowledges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacked: Option<i64>,
    /// The process that speaks for it, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// Until when its processes are not told apart: more than one has its key, or a deployment replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_noise: Option<Timestamp>,
    /// The UTC day whose use is counted, as the number of days since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_day: Option<i64>,
    /// Tokens used in that day.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent_tokens: u64,
    /// Millionths of a dollar used in that day.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent_microusd: u64,
    /// Millionths of a dollar that it may use in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_microusd: Option<u64>,
    /// Tokens that it may use in a day. At most one of the two stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u64>,
    /// The percentage of the budget that was told last, of that day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_told: Option<u8>,
    /// Accepted requests. A meter, not an invoice: a resent request may count twice.
    #[serde(default)]
    pub requests_total: u64,
    /// Whose names these are, for agents that an enrollment token or an operator created by heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_id: Option<NamespaceId>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// The last activation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// The last change of identity or state; heartbeats do not change it.
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
        board_id: Option<BoardId>,
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
            prior_digest: None,
            prior_key_ends: None,
            interval_ms: millis(heartbeat.interval()),
            tolerance_ms: millis(heartbeat.tolerance()),
            rate_limit: None,
            health: None,
            last_seen_at: None,
            lease_expires_at: None,
            offline_since: None,
            next_beat_at: None,
            stalls_at: None,
            stall_after_ms: None,
            told: Told::NOTHING,
            directive: None,
            unacked: None,
            boot: None,
            boot_noise: None,
            spend_day: None,
            spent_tokens: 0,
            spent_microusd: 0,
            budget_microusd: None,
            budget_tokens: None,
            spend_told: None,
            requests_total: 0,
            namespace_id: None,
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
            || (self.prior_digest.as_ref() == Some(digest)
                && self.prior_key_ends.is_some_and(|end| end > now))
    }

    /// Whether the row's time to live is over. DynamoDB may take days to remove it, and until then a read
    /// must treat it as gone.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now.as_seconds())
    }

    /// Whether an operator wants it to rotate its key.
    #[must_use]
    pub fn is_told_to_rotate(&self) -> bool {
        self.directive.is_some_and(|directive| directive.action == Action::RotateKey)
    }

    /// The agent, made active: from now on it may act, and it stays.
    #[must_use]
    pub fn activated(self, now: Timestamp) -> Self {
        Self { agent_state: AgentState::Active, verified_at: Some(now), expires_at: None, ..self }
    }

    /// How often the agent sends a heartbeat, and how long it may be silent.
    #[must_use]
    pub const fn heartbeat(&self) -> HeartbeatConfig {
        HeartbeatConfig::of_row(
            Duration::from_millis(self.interval_ms),
            Duration::from_millis(self.tolerance_ms),
        )
    }

    /// What it uses, and how much it may.
    #[must_use]
    pub fn spend(&self) -> Spend {
        Spend {
            day: self.spend_day,
            used: Usage { tokens: self.spent_tokens, microusd: self.spent_microusd },
            budget: Budget::of_row(self.budget_microusd, self.budget_tokens),
            told: self.spend_told,
        }
    }

    /// The agent on its first report of a day.
    #[must_use]
    pub fn begins_day(self, usage: Usage, now: Timestamp) -> Self {
        let spend = self.spend().begins(usage, now);
        Self {
            spend_day: spend.day,
            spent_tokens: usage.tokens,
            spent_microusd: usage.microusd,
            spend_told: spend.due(now),
            ..self
        }
    }

    /// How often it sends a heartbeat.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// How long a lease lasts.
    #[must_use]
    pub const fn tolerance(&self) -> Duration {
        Duration::from_millis(self.tolerance_ms)
    }

    /// The lease that counts: it reaches from the last heartbeat, or the promised one, to the end of the tolerance.
    #[must_use]
    pub fn lease(&self) -> Option<Timestamp> {
        lease(self.lease_expires_at, self.next_beat_at, self.tolerance())
    }

    /// Whether its heartbeat is late, though the agent is not silent for too long yet: more than [`LEASE_GRACE`] past its
    /// interval, and within its tolerance.
    #[must_use]
    pub fn is_late(&self, now: Timestamp) -> bool {
        let Some(seen) = self.last_seen_at else { return false };
        let due = self.next_beat_at.max(Some(seen.plus(self.interval())));
        self.agent_state == AgentState::Active
            && self.offline_since.is_none()
            && due.is_some_and(|due| now > due.plus(LEASE_GRACE))
            && now <= self.silent_from(seen)
    }

    /// From when on an agent that was last seen then is silent.
    fn silent_from(&self, seen: Timestamp) -> Timestamp {
        self.next_beat_at.map_or(seen, |promised| promised.max(seen)).plus(self.tolerance())
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
            (Some(seen), _) if self.silent_from(seen) < now => "offline",
            (Some(_), Some(health)) => health.as_str(),
            (Some(_), None) => "online",
        }
    }
}

/// Which agents a list holds.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Only those whose name begins with this.
    pub name: Option<String>,
    /// Only those of this board.
    pub board_id: Option<BoardId>,
    /// Only those with this status, as Mission Control shows it.
    pub status: Option<String>,
    /// Only those in this state: the status does not tell who waits for approval or is revoked.
    pub state: Option<AgentState>,
}

impl AgentFilter {
    /// Whether the index alone cannot tell.
    #[must_use]
    pub const fn needs_rows(&self) -> bool {
        self.status.is_some() || self.state.is_some()
    }

    /// Whether the list holds this agent, as far as its row tells.
    #[must_use]
    pub fn admits(&self, agent: &Agent, now: Timestamp) -> bool {
        self.status.as_deref().is_none_or(|status| agent.status(now) == status)
            && self.state.is_none_or(|state| agent.agent_state == state)
    }
}

/// The lease that counts, by the row's three attributes: a promised heartbeat has the same tolerance as any other.
pub(crate) fn lease(
    lease_expires_at: Option<Timestamp>,
    next_beat_at: Option<Timestamp>,
    tolerance: Duration,
) -> Option<Timestamp> {
    lease_expires_at.max(next_beat_at.map(|promised| promised.plus(tolerance)))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A duration as the rows hold it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_name_has_something_that_can_be_seen() {
        for invisible in ["\u{200b}", "\u{feff}\u{200d}", "\u{2800}", "\u{e0041}", "\u{3164}"] {
            assert!(AgentName::parse(invisible).is_err(), "{invisible:?}");
        }
        assert!(AgentName::parse("a\u{200b}").is_ok());
        assert!(AgentName::parse("👩\u{200d}🔬").is_ok());
    }
}
