//! What operators change of an agent, and what comes of it.

use std::time::Duration;

use super::agent::AgentName;
use super::heartbeat::HeartbeatConfig;
use super::ids::BoardId;
use super::spend::Budget;

/// The outcome of a change.
#[derive(Debug)]
pub enum Changed<T = Box<super::agent::Agent>> {
    /// It is so now: changed, or so before already.
    Done(T),
    /// There is no such agent.
    NoSuchAgent,
    /// It belongs to a board that the operator does not reach.
    Foreign,
    /// The agent's state does not allow it.
    Refused(&'static str),
    /// Somebody else changed the same thing at the same time.
    Overtaken,
}

/// A change of who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// From pending to active.
    Approve,
    /// From pending or active to revoked.
    Revoke,
    /// From revoked to where it was before.
    Restore,
}

/// What an operator changes of an agent. `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Display name.
    pub name: Option<AgentName>,
    /// The group; `Some(None)` takes it away.
    pub board_id: Option<Option<BoardId>>,
    /// How often it sends a heartbeat. The lease moves with it.
    pub heartbeat: Option<HeartbeatConfig>,
    /// The agent's own limit; `Some(None)` goes back to the default.
    pub rate_limit: Option<Option<u32>>,
    /// For how long its work may stand still; `Some(None)` goes back to the default.
    pub stall_after: Option<Option<Duration>>,
    /// How much it may use in a day; `Some(None)` ends that.
    pub budget: Option<Option<Budget>>,
}
