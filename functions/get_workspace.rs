//! `GET /api/v1/agents/{agent_id}/workspace`: the agent's configuration files, rendered.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AgentsTable, TokensTable};
use shared::domain::workspace::Workspace;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::base_url::base_url;
use shared::wire::error::ApiError;
use shared::wire::fields;
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "get-workspace",
    reads: &[AgentsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Files {
    files: Workspace,
}

/// Renders the files, without the token: that is shown only when it is made.
///
/// # Errors
/// See [`App::readable_agent`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let agent = app.readable_agent(request.headers(), || fields::agent_id(&request), now).await?;
    Ok(mission_control::body(&Files { files: Workspace::render(&agent, None, &base_url(&request)) })?)
}
