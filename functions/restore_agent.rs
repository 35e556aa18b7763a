//! `POST /api/v1/agents/{agent_id}/restore`: an operator takes a revoked agent back.

use shared::domain::change::StateChange;
use shared::runtime::function::Endpoint;

use crate::state_change;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "restore-agent",
    reads: state_change::READS,
    handler: |app, request, now| Box::pin(state_change::handle(app, request, StateChange::Restore, now)),
};
