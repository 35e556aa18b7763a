//! `POST /api/v1/agents`: an operator creates an active agent.

use lambda_http::Request;
use shared::config::Setting::{
    AgentsTable, EventsTable, PendingRetention, SystemEventRetention, TokensTable,
};
use shared::domain::ids::BoardId;
use shared::domain::registration::NewAgent;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields;
use shared::wire::json::Json;
use shared::wire::mission_control::{self, AgentWithKey, WorkspaceAt};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "create-agent",
    reads: &[AgentsTable, EventsTable, TokensTable, PendingRetention, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// `{"name", "board_id"?, "heartbeat_config"?}`.
fn new_agent(body: Json<'_>) -> Result<NewAgent, Invalid> {
    let body = body.object()?;
    body.refuse_spellings(&[("heartbeatConfig", "heartbeat_config"), ("boardId", "board_id")])?;
    Ok(NewAgent {
        name: fields::name(&body)?.ok_or_else(fields::name_is_required)?,
        board_id: body.uuid("board_id")?.map(BoardId::of),
        heartbeat: fields::heartbeat_config(&body)?.unwrap_or_default(),
    })
}

/// Creates an agent under a key of its own.
///
/// # Errors
/// See [`App::operator_within`]; 403 for another board than the operator's; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let new = new_agent(body)?;
    let workspace = WorkspaceAt::wanted_by(&request)?;
    let new = NewAgent { board_id: new.board_id.or(operator.board_id), ..new };
    reach(operator, new.board_id)?;
    let (agent, key) = app.store.create_active(&new, operator.actor(), now).await?;
    Ok(mission_control::body(&AgentWithKey::of(&agent, &key, app.gateway_id(), workspace.as_ref(), now))?)
}
