//! Silences: times in which nothing is told of some agents.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::AgentId;
use super::ids::BoardId;
use crate::time::Timestamp;

/// The most silences of a deployment.
pub const SILENCES_LIMIT: usize = 200;

/// The longest silence, in seconds: 30 days.
pub const LONGEST_SILENCE: u64 = 30 * 24 * 60 * 60;

/// Of which agents nothing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One agent.
    Agent(AgentId),
    /// The agents of a board.
    Board(BoardId),
    /// All agents.
    All,
}

/// A silence: its agents are left untold until it ends, what begins and what ends alike. What is still so then is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its id.
    pub silence_id: Uuid,
    /// Of which agents.
    pub scope: Scope,
    /// The board whose operators may see and end it; absent = only those of all boards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// Why, in an operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
}

impl Silence {
    /// The id of a new silence, drawn at random.
    #[must_use]
    pub fn new_id() -> Uuid {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid()
    }

    /// Whether nothing is told of this agent now.
    #[must_use]
    pub fn covers(&self, agent_id: AgentId, board_id: Option<BoardId>, now: Timestamp) -> bool {
        let is_meant = match self.scope {
            Scope::Agent(silent) => silent == agent_id,
            Scope::Board(silent) => Some(silent) == board_id,
            Scope::All => true,
        };
        is_meant && now < self.ends_at
    }
}
