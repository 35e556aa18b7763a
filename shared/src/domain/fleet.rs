//! The fleet at a glance: the summary that each complete sweep writes, for the page and for a channel's `hello`.

use serde::{Deserialize, Serialize};

use super::agent::{AgentId, AgentName, AgentState};
use super::concern::Concern;
use super::heartbeat::Health;
use super::ids::BoardId;
use super::watch::Watched;
use crate::time::Timestamp;

/// How many agents with a concern the summary names, of all boards.
pub const NAMED: usize = 50;

/// How many boards the summary counts, those with the most silent agents.
pub const BOARDS: usize = 200;

/// Counts of agents by what the clock and they themselves say. `agents` is the sum of the rest but `error` and
/// `stalled`.
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
    /// Live, with work that does not get further.
    pub stalled: u64,
    /// Waiting to be let in; and let in, but not yet heard for the first time.
    pub pending: u64,
    /// Shut out.
    pub revoked: u64,
}

impl Counts {
    /// One agent. `is_live`: its lease runs, or is past by less than its grace.
    #[must_use]
    pub fn of(watched: &Watched, is_live: bool, now: Timestamp) -> Self {
        let mut one = Self { agents: 1, ..Self::default() };
        let place = match watched.agent_state {
            AgentState::Pending => &mut one.pending,
            AgentState::Revoked => &mut one.revoked,
            AgentState::Active if watched.offline_since.is_some() && watched.last_seen_at.is_none() => {
                &mut one.never_seen
            }
            AgentState::Active if watched.offline_since.is_some() => &mut one.offline,
            AgentState::Active if is_live => &mut one.live,
            AgentState::Active if watched.last_seen_at.is_none() => &mut one.pending,
            AgentState::Active => &mut one.late,
        };
        *place = 1;
        one.error = u64::from(is_live && watched.health == Some(Health::Error));
        one.stalled = u64::from(watched.is_stalled(now));
        one
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            agents: self.agents + other.agents,
            live: self.live + other.live,
            late: self.late + other.late,
            offline: self.offline + other.offline,
            never_seen: self.never_seen + other.never_seen,
            error: self.error + other.error,
            stalled: self.stalled + other.stalled,
            pending: self.pending + other.pending,
            revoked: self.revoked + other.revoked,
        }
    }

    /// Active agents that were heard at least once.
    #[must_use]
    pub const fn active(self) -> u64 {
        self.live + self.late + self.offline + self.never_seen
    }
}

/// The counts of one board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardCounts {
    /// Which; none for agents without a board.
    pub board_id: Option<BoardId>,
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
    pub board_id: Option<BoardId>,
    /// What was told.
    pub concern: Concern,
}

impl Named {
    /// An agent of which this is told.
    #[must_use]
    pub fn of(watched: &Watched, concern: Concern) -> Self {
        Self { id: watched.agent_id, name: watched.agent_name.clone(), board_id: watched.board_id, concern }
    }
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

impl Fleet {
    /// What of it is this board's: its agents that are not live, which alone are counted by board.
    #[must_use]
    pub fn of_board(self, board_id: BoardId) -> Self {
        let mut boards = self.boards;
        boards.retain(|board| board.board_id == Some(board_id));
        let mut told = self.told;
        told.retain(|named| named.board_id == Some(board_id));
        let counts = boards.first().map(|board| board.counts).unwrap_or_default();
        Self { counts, boards, told, more: 0, ..self }
    }
}
