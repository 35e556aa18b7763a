//! `POST /api/v1/agents/{agent_id}/revoke`: an operator shuts an agent out.

use shared::domain::change::StateChange;
use shared::runtime::function::Endpoint;

use crate::state_change;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "revoke-agent",
    reads: state_change::READS,
    handler: |app, request, now| Box::pin(state_change::handle(app, request, StateChange::Revoke, now)),
};
