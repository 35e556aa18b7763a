//! The canary: an agent of our own, whose heartbeat through the public URL says whether we hear.

use std::sync::LazyLock;
use std::time::Duration;

use super::agent::{Agent, AgentId, AgentName};
use super::credential::{ApiKey, KeyId};
use super::heartbeat::HeartbeatConfig;
use crate::time::Timestamp;

/// Its tolerance: the longest. A long outage says nothing about it.
const TOLERANCE: Duration = Duration::from_hours(7 * 24);

/// Its limit: the highest.
const RATE_LIMIT: u32 = 6_000;

/// No enrollment token has this namespace: theirs are UUIDs.
fn key_id() -> KeyId {
    KeyId::of_name("rollcall", "", "canary")
}

/// Its id, always the same.
#[must_use]
pub fn agent_id() -> AgentId {
    static ID: LazyLock<AgentId> = LazyLock::new(|| AgentId::of_key_id(key_id()));
    *ID
}

/// A new key for it.
#[must_use]
pub fn key() -> ApiKey {
    ApiKey::with_key_id(key_id())
}

/// Its row, whole, with this key.
///
/// # Panics
/// Never: its name and its heartbeat configuration keep the rules.
#[must_use]
pub fn row(key: &ApiKey, now: Timestamp) -> Agent {
    let name = AgentName::parse("canary").expect("a name");
    let heartbeat = HeartbeatConfig::of_row(Duration::from_mins(1), TOLERANCE);
    let agent = Agent::pending(key, name, None, heartbeat, now, Duration::ZERO);
    Agent { rate_limit: Some(RATE_LIMIT), ..agent.activated(now) }
}
