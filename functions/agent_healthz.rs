//! `GET /api/v1/agent/healthz`: an agent asks how it stands.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::AgentsTable;
use shared::domain::agent::AgentId;
use shared::domain::credential::Credential;
use shared::domain::ids::BoardId;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::credentials::{self, CredentialProblem};
use shared::wire::error::ApiError;
use shared::wire::mission_control::{self, DirectiveRead};
use uuid::Uuid;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "agent-healthz",
    reads: &[AgentsTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct AgentHealth {
    ok: bool,
    agent_id: AgentId,
    board_id: Option<BoardId>,
    gateway_id: Uuid,
    status: &'static str,
    is_board_lead: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
}

/// Reads; renews nothing.
///
/// # Errors
/// See [`App::agent_of_key`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let Credential::Agent(key) = credentials::credential(request.headers())? else {
        return Err(CredentialProblem::WrongKind.into());
    };
    let agent = app.agent_of_key(&key, now).await?;
    Ok(mission_control::body(&AgentHealth {
        ok: true,
        agent_id: agent.agent_id,
        board_id: agent.board_id,
        gateway_id: app.gateway_id(),
        status: agent.status(now),
        is_board_lead: false,
        directive: DirectiveRead::told(&agent, now),
    })?)
}
