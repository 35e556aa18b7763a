//! What happened to an agent: posted by the agent, or recorded by the system.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{ContextV7, Uuid};

use super::ids::{EventId, TokenId};
use crate::time::Timestamp;

/// The types that the system itself records. Agents may not post under `agent.` or `token.`.
pub mod kind {
    use super::EventType;

    /// An agent registered, or was created.
    pub const AGENT_REGISTERED: EventType = EventType::system("agent.registered");
    /// A pending agent became active by its key.
    pub const AGENT_VERIFIED: EventType = EventType::system("agent.verified");
    /// An operator made a pending agent active.
    pub const AGENT_APPROVED: EventType = EventType::system("agent.approved");
    /// An operator shut an agent out.
    pub const AGENT_REVOKED: EventType = EventType::system("agent.revoked");
    /// An operator took a revoked agent back.
    pub const AGENT_RESTORED: EventType = EventType::system("agent.restored");
    /// An operator changed an agent.
    pub const AGENT_UPDATED: EventType = EventType::system("agent.updated");
    /// An agent got a new key.
    pub const AGENT_KEY_ROTATED: EventType = EventType::system("agent.key_rotated");
    /// An operator removed an agent.
    pub const AGENT_DELETED: EventType = EventType::system("agent.deleted");
    /// An agent fell silent, or said that it goes.
    pub const AGENT_OFFLINE: EventType = EventType::system("agent.offline");
    /// An agent that was announced offline sent a heartbeat again.
    pub const AGENT_ONLINE: EventType = EventType::system("agent.online");
    /// An agent sends heartbeats, and its work does not get further.
    pub const AGENT_STALLED: EventType = EventType::system("agent.stalled");
    /// Another process speaks for an agent than before.
    pub const AGENT_RESTARTED: EventType = EventType::system("agent.restarted");
    /// More than one process has an agent's key.
    pub const AGENT_CLONED: EventType = EventType::system("agent.cloned");
    /// An agent has used 80 or 100 percent of its budget for the day.
    pub const AGENT_BUDGET_REACHED: EventType = EventType::system("agent.budget_reached");
    /// An operator said what an agent should do.
    pub const AGENT_DIRECTED: EventType = EventType::system("agent.directed");
    /// An agent says that it obeys.
    pub const AGENT_DIRECTIVE_ACKNOWLEDGED: EventType = EventType::system("agent.directive_acknowledged");
    /// An active agent never sent its first heartbeat.
    pub const AGENT_NEVER_SEEN: EventType = EventType::system("agent.never_seen");
    /// An operator silenced some agents: nothing is told of them for a time.
    pub const SILENCE_CREATED: EventType = EventType::system("silence.created");
    /// An operator ended a silence.
    pub const SILENCE_DELETED: EventType = EventType::system("silence.deleted");
    /// An operator or enrollment token was minted.
    pub const TOKEN_CREATED: EventType = EventType::system("token.created");
    /// An operator deleted a token.
    pub const TOKEN_REVOKED: EventType = EventType::system("token.revoked");
    /// An operator made a channel.
    pub const CHANNEL_CREATED: EventType = EventType::system("channel.created");
    /// An operator changed a channel.
    pub const CHANNEL_UPDATED: EventType = EventType::system("channel.updated");
    /// An operator deleted a channel.
    pub const CHANNEL_DELETED: EventType = EventType::system("channel.deleted");
    /// A channel's receiver is gone, or has failed for days.
    pub const CHANNEL_DISABLED: EventType = EventType::system("channel.disabled");
}

/// The name of an event: 1 to 100 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventType(Cow<'static, str>);

impl EventType {
    /// A name of the system's own.
    const fn system(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Reads the name of an event, whoever caused it.
    ///
    /// # Errors
    /// Says in words what is wrong with it.
    pub fn parse(name: String) -> Result<Self, &'static str> {
        if (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
            Ok(Self(Cow::Owned(name)))
        } else {
            Err("must be 1 to 100 characters without control characters")
        }
    }

    /// Reads the name of an event that an agent posts, which is not the system's own.
    ///
    /// # Errors
    /// Says in words what is wrong with it.
    pub fn posted(name: String) -> Result<Self, &'static str> {
        if name.starts_with("agent.") || name.starts_with("token.") {
            return Err("must not begin with 'agent.' or 'token.', which are the system's own");
        }
        Self::parse(name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who caused an event: a token's id, never the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The sweep, or whoever IAM lets invoke `mint-token`.
    System,
    /// The agent itself, by its API key.
    Agent,
    /// An operator, by the id of the token.
    Operator(TokenId),
    /// The holder of an enrollment token, by the token's id.
    Enrollment(TokenId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Agent => f.write_str("agent"),
            Self::Operator(token_id) => write!(f, "operator:{token_id}"),
            Self::Enrollment(token_id) => write!(f, "enrollment:{token_id}"),
        }
    }
}

impl FromStr for Actor {
    type Err = UnknownActor;

    fn from_str(text: &str) -> Result<Self, UnknownActor> {
        let token_id = |prefix| Uuid::parse_str(text.strip_prefix(prefix)?).ok().map(TokenId::of);
        match text {
            "system" => Ok(Self::System),
            "agent" => Ok(Self::Agent),
            _ => token_id("operator:")
                .map(Self::Operator)
                .or_else(|| token_id("enrollment:").map(Self::Enrollment))
                .ok_or(UnknownActor),
        }
    }
}

/// A text that names no actor.
#[derive(Debug, thiserror::Error)]
#[error("not an actor")]
pub struct UnknownActor;

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Draws the ids of events: `UUIDv7`s, each later than every one before it, also within one millisecond. Clones
/// draw from the same source.
#[derive(Clone, Debug)]
pub struct EventIds(Arc<Mutex<ContextV7>>);

impl Default for EventIds {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(ContextV7::new())))
    }
}

impl EventIds {
    /// The next id.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> EventId {
        let millis = now.as_millis().unsigned_abs();
        let nanos = u32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
        EventId::of(Uuid::new_v7(uuid::Timestamp::from_unix(&*self.0, millis / 1000, nanos)))
    }
}

/// A row of the `events` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The agent's id, or `token#<id>` or `channel#<id>` for what happened to a token or a channel.
    #[serde(rename = "agent_id")]
    pub partition: String,
    /// A `UUIDv7`: ids sort by time.
    pub event_id: EventId,
    /// The event's name.
    pub event_type: EventType,
    /// Who caused it.
    pub actor: Actor,
    /// JSON text, just as it was sent.
    pub payload: String,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// Epoch seconds at which DynamoDB removes the row.
    pub expires_at: i64,
}

/// A page of an agent's events, newest first.
#[derive(Debug)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// The event after which the next page begins; `None` at the end.
    pub next: Option<EventId>,
}

/// What an agent posts: a name, JSON, and perhaps an id of its own that makes the posting idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The event's name.
    pub event_type: EventType,
    /// JSON text, just as it was sent.
    pub payload: String,
    /// The agent's own id for it: the same id of the same agent is stored once.
    pub own_id: Option<String>,
}

/// The longest payload of one event, in bytes as sent.
pub const PAYLOAD_LIMIT: usize = 16 * 1024;

/// How deep a payload may be nested. Readers of events have limits of their own; Python's is the lowest.
pub const DEPTH_LIMIT: usize = 128;

/// How deep JSON text is nested.
#[must_use]
pub fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The row that makes a posting with an id of its own idempotent: it holds the id of the event that was stored.
///
/// It lives in the agent's partition. Its sort key begins with `id#`, which no `UUIDv7` does, and sorts after
/// all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The agent's id.
    #[serde(rename = "agent_id")]
    pub partition: String,
    /// `id#` and the agent's own id.
    #[serde(rename = "event_id")]
    pub sort_key: String,
    /// The event that this id stands for.
    pub marks: EventId,
    /// Epoch seconds at which DynamoDB removes the row: together with its event.
    pub expires_at: i64,
}

impl Event {
    /// The marker of an event that was posted with an id of its own.
    #[must_use]
    pub fn marker(&self, own_id: &str) -> Marker {
        Marker {
            partition: self.partition.clone(),
            sort_key: format!("id#{own_id}"),
            marks: self.event_id,
            expires_at: self.expires_at,
        }
    }
}

/// The epoch second at which a row made now and kept for `retention` may go.
#[must_use]
pub fn expiry(now: Timestamp, retention: Duration) -> i64 {
    now.plus(retention).as_seconds()
}

fn consists_of_id_characters(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// Checks an event's own id: 1 to 64 of letters, digits, `.`, `_`, `:`, `-`.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn check_own_id(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 64 || !consists_of_id_characters(text) {
        Err("must be 1 to 64 of letters, digits, '.', '_', ':' and '-'")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_are_bounded_and_never_the_systems_own() {
        for name in [
            "tool_call",
            "a",
            "a.b:c-d_1",
            &"x".repeat(100),
            "agents.x",
            "agent",
            "tool use",
            "tool/use",
            "ツール",
        ] {
            assert_eq!(
                EventType::posted(name.to_owned()).as_ref().map(EventType::as_str),
                Ok(name),
                "{name}"
            );
        }
        for name in ["", "a\u{0}b", "a\nb", "agent.offline", "token.created", &"é".repeat(101)] {
            assert!(EventType::posted(name.to_owned()).is_err(), "{name}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        for (json, expected) in [("1", 0), ("[]", 1), (r#"{"a": [1, {}]}"#, 3), (r#"["[[\"[", "\\"]"#, 1)] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn a_marker_sorts_after_every_event_id() {
        assert!("id#" > Uuid::max().to_string().as_str());
    }
}
