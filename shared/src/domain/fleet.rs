//! The fleet at a glance: the summary that each complete sweep writes, for the page and for a channel's `hello`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::{AgentId, AgentName};
use super::concern::Concern;
use crate::time::Timestamp;

/// How many agents with a concern the summary names, of all boards.
pub const NAMED: usize = 50;

/// How many boards the summary counts, those with the most silent agents.
pub const BOARDS: usize = 200;

/// Counts of agents by what the clock and they themselves say. `agents` is the sum of the rest but `error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// All agents.
    pub agents: u64,
    /// Active, with a lease that runs.
    pub live: u64,
    /// Active, with a lease that is past and not yet announced.
    pub late: u64,
    /// Announced silent, or gone by their own word.
    pub offline: u64,
    /// Announced as never seen.
    pub never_seen: u64,
    /// Live, and saying that they are broken.
    pub error: u64,
    /// Waiting to be let in; and let in, but not yet heard for the first time.
    pub pending: u64,
    /// Shut out.
    pub revoked: u64,
}

/// The counts of one board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardCounts {
    /// Which; none for agents without a board.
    pub board_id: Option<Uuid>,
    /// Its agents that are not live.
    #[serde(flatten)]
    pub counts: Counts,
}

/// An agent of which something is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: AgentId,
    /// Its name: a stranger's text.
    pub name: AgentName,
    /// Its board.
    pub board_id: Option<Uuid>,
    /// What was told.
    pub concern: Concern,
}

/// The summary: the row `fleet` of the alerts' table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// When the sweep that wrote it began.
    pub as_of: Timestamp,
    /// The last message that was told before it was written.
    pub seq: u64,
    /// Since when Rollcall hears nobody, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaf_since: Option<Timestamp>,
    /// All agents.
    #[serde(flatten)]
    pub counts: Counts,
    /// The boards with the most silent agents, at most [`BOARDS`].
    pub boards: Vec<BoardCounts>,
    /// Agents of which something is told, worst first, at most [`NAMED`].
    pub told: Vec<Named>,
    /// How many more there are.
    pub more: u64,
}
