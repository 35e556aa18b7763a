//! `PATCH /api/v1/agents/{agent_id}`: an operator changes an agent.

use lambda_http::Request;
use shared::runtime::app::{App, done};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Changes name, board, heartbeat configuration or limit.
///
/// # Errors
/// See [`App::operator`] and [`done`]; 403 for a `status`, 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = requests::json(&request)?;
    let operator = app.operator(request.headers(), now).await?;
    let agent_id = requests::agent_id(&request)?;
    let patch = requests::patch(body)?;
    let changed = app.store.patch(agent_id, &patch, operator, now).await?;
    Ok(Outcome::Agent(done(changed)?).into())
}
