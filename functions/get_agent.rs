//! `GET /api/v1/agents/{agent_id}`: one agent, for operators and for itself.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Shows an agent.
///
/// # Errors
/// See [`App::readable_agent`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let agent = app.readable_agent(request.headers(), || requests::agent_id(&request), now).await?;
    Ok(Outcome::Agent(Box::new(agent)).into())
}
