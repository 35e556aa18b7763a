//! `GET /api/v1/agents/{agent_id}`: one agent, for operators and for itself.

use lambda_http::Request;
use shared::config::Setting::{AgentsTable, TokensTable};
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::fields::{self, Query};
use shared::wire::mission_control::{self, AgentRead};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "get-agent",
    reads: &[AgentsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Shows an agent.
///
/// # Errors
/// See [`App::readable_agent`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let agent = app.readable_agent(request.headers(), || fields::agent_id(&request), now).await?;
    let detail = Query::of(&request).flag("detail")?;
    Ok(mission_control::body(&AgentRead::with_detail(&agent, detail, app.gateway_id(), now))?)
}
