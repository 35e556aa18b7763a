//! What a channel is told: the message, before it has the form of its channel.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::channel::ChannelId;
use crate::time::Timestamp;

/// The most bytes of a message's body. What is more is dropped from the end of its agents, and counted.
pub const BODY_LIMIT: usize = 16 * 1024;

/// The types of messages.
pub mod message_type {
    /// Every type that the log of alerts holds.
    pub const ALL: [&str; 15] = [
        AGENT_OFFLINE,
        AGENT_NEVER_SEEN,
        AGENT_CLONED,
        AGENT_ERROR,
        AGENT_STALLED,
        AGENT_OVER_BUDGET,
        AGENT_UNHEEDED,
        AGENTS_WAITING,
        AGENT_RECOVERED,
        AGENT_FLAPPING,
        FLEET_INCIDENT,
        FLEET_RECOVERED,
        SYSTEM_DEAF,
        SYSTEM_HEARD,
        CHANNEL_DISABLED,
    ];

    /// An agent fell silent.
    pub const AGENT_OFFLINE: &str = "agent.offline";
    /// An agent never came.
    pub const AGENT_NEVER_SEEN: &str = "agent.never_seen";
    /// More than one process has an agent's key.
    pub const AGENT_CLONED: &str = "agent.cloned";
    /// An agent says that it is broken.
    pub const AGENT_ERROR: &str = "agent.error";
    /// An agent sends heartbeats, and its work does not get further.
    pub const AGENT_STALLED: &str = "agent.stalled";
    /// An agent has used up its budget for the day.
    pub const AGENT_OVER_BUDGET: &str = "agent.over_budget";
    /// An agent does not acknowledge what an operator wants of it.
    pub const AGENT_UNHEEDED: &str = "agent.unheeded";
    /// Agents wait for somebody to let them in.
    pub const AGENTS_WAITING: &str = "agents.waiting";
    /// What was told of an agent has ended.
    pub const AGENT_RECOVERED: &str = "agent.recovered";
    /// An agent goes silent and comes back again and again.
    pub const AGENT_FLAPPING: &str = "agent.flapping";
    /// More than one agent at once.
    pub const FLEET_INCIDENT: &str = "fleet.incident";
    /// More than one agent is well again at once.
    pub const FLEET_RECOVERED: &str = "fleet.recovered";
    /// Rollcall itself hears nobody.
    pub const SYSTEM_DEAF: &str = "system.deaf";
    /// Rollcall hears again.
    pub const SYSTEM_HEARD: &str = "system.heard";
    /// Another channel is disabled.
    pub const CHANNEL_DISABLED: &str = "channel.disabled";
    /// A channel's first message: what is so now.
    pub const CHANNEL_HELLO: &str = "channel.hello";
    /// An operator tries a channel.
    pub const CHANNEL_TEST: &str = "channel.test";
}

/// A message as its receiver is told it. A webhook gets it as it is; Slack and Discord get it in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// One of [`message_type`].
    pub message_type: String,
    /// When it was told.
    pub at: Timestamp,
    /// What it says: docs/api.md has the fields of each type. `data.agent` or `data.agents` name agents, whose names
    /// are strangers' texts.
    pub data: Map<String, Value>,
}

impl Notification {
    /// `{"type", "timestamp", "data"}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "type": self.message_type, "timestamp": self.at.to_string(), "data": self.data })
    }
}

/// The partition of the alerts' table that holds the messages, in the order in which they were told.
pub const MESSAGES: &str = "alerts";

/// The partition of the alerts' table that holds what the sweep keeps of the fleet: rows `control` and `fleet`.
pub const CONTROL: &str = "control";

/// The partition of the alerts' table that holds a channel's deliveries.
#[must_use]
pub fn deliveries_of(channel_id: ChannelId) -> String {
    format!("channel#{channel_id}")
}

/// The channel whose deliveries are in this partition; `None` for any other partition.
#[must_use]
pub fn channel_of(partition: &str) -> Option<ChannelId> {
    Uuid::parse_str(partition.strip_prefix("channel#")?).ok().map(ChannelId::of)
}

/// A message's number as its key: 12 digits, so that keys sort by number.
#[must_use]
pub fn seq_key(seq: u64) -> String {
    format!("{seq:012}")
}
