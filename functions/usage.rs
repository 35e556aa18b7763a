//! `GET /api/v1/agents/{agent_id}/usage`: what an agent has used.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Shows the meter that every accepted request of the agent moved.
///
/// # Errors
/// See [`App::operator`]; 404 for an unknown id, 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    app.operator(request.headers(), now).await?;
    let agent = app.existing(requests::agent_id(&request)?, now).await?;
    Ok(Outcome::Usage(Box::new(agent)).into())
}
