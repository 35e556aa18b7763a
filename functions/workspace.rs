//! `GET /api/v1/agents/{agent_id}/workspace`: the agent's configuration files, rendered.

use lambda_http::Request;
use shared::domain::workspace::{Workspace, base_url};
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Renders the files, without the token: that is shown only when it is made.
///
/// # Errors
/// See [`App::readable_agent`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let agent = app.readable_agent(request.headers(), || requests::agent_id(&request), now).await?;
    Ok(Outcome::Workspace(Workspace::render(&agent, None, &base_url(&request))).into())
}
