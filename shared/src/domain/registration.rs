//! How agents come into being and are let in.

use super::agent::{Agent, AgentId, AgentName, AgentState};
use super::check_in::HealthReport;
use super::credential::{ApiKey, KeyId};
use super::event::Actor;
use super::heartbeat::HeartbeatConfig;
use super::ids::{BoardId, NamespaceId};
use super::report::Report;
use super::token::TokenRow;
use crate::time::Timestamp;

/// What a caller says of the agent that it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAgent {
    /// Display name.
    pub name: AgentName,
    /// The group it belongs to.
    pub board_id: Option<BoardId>,
    /// How often it sends a heartbeat.
    pub heartbeat: HeartbeatConfig,
}

/// An agent that is created by its first heartbeat.
#[derive(Clone, Debug)]
pub struct NewEnrolled<'a> {
    /// The namespace that the name is in.
    pub namespace: NamespaceId,
    /// Display name.
    pub name: AgentName,
    /// The group it belongs to.
    pub board_id: Option<BoardId>,
    /// Whether it is active at once. Else its creation is not a heartbeat.
    pub approved: bool,
    /// What the first heartbeat says.
    pub report: HealthReport,
    /// What it says besides.
    pub claims: Report,
    /// Whoever holds the credential.
    pub actor: Actor,
    /// The one-off token that this uses up.
    pub one_off: Option<&'a TokenRow>,
}

impl NewEnrolled<'_> {
    /// The key id of the name: the same (namespace, board, name) is always the same agent.
    #[must_use]
    pub fn key_id(namespace: NamespaceId, board_id: Option<BoardId>, name: &AgentName) -> KeyId {
        let board = board_id.map(|board_id| board_id.to_string()).unwrap_or_default();
        KeyId::of_name(&namespace.to_string(), &board, name.as_str())
    }
}

/// The outcome of a creation by a first heartbeat.
#[derive(Debug)]
pub enum Creation {
    /// A new agent. The one moment at which its key can be shown.
    Created(Box<Agent>, ApiKey),
    /// Its row is there already.
    Exists,
    /// The one-off token has let in another agent.
    TokenUsedUp,
}

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The agent is active: from now on, or before already.
    Active(AgentId),
    /// No agent has this key.
    UnknownKey,
    /// The agent is known, and this call does not make it active.
    Inactive(AgentState),
}

impl Verification {
    /// What a row says to a verification that changes nothing.
    #[must_use]
    pub fn of(agent: Option<&Agent>, key: &ApiKey, now: Timestamp) -> Self {
        match agent {
            Some(agent) if agent.accepts(&key.digest(), now) && !agent.is_expired(now) => {
                match agent.agent_state {
                    AgentState::Active => Self::Active(agent.agent_id),
                    state => Self::Inactive(state),
                }
            }
            _ => Self::UnknownKey,
        }
    }
}
