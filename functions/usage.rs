//! `GET /api/v1/agents/{agent_id}/usage`: what an agent has used.

use lambda_http::Request;
use shared::answer::{Answer, Outcome};
use shared::app::App;
use shared::contract::mission_control::requests;
use shared::error::ApiError;
use shared::time::Timestamp;

/// Shows the meter that every accepted request of the agent moved.
///
/// # Errors
/// See [`App::operator`]; 404 for an unknown id, 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    app.operator(request.headers(), now).await?;
    let agent = app.existing(requests::agent_id(&request)?, now).await?;
    Ok(Outcome::Usage(Box::new(agent)).into())
}
