//! `POST /api/agents/heartbeat`: the agent is alive.

use lambda_http::Request;
use shared::answer::{Answer, Outcome};
use shared::app::App;
use shared::contract::envelope;
use shared::error::ApiError;
use shared::store::Call;
use shared::time::Timestamp;

/// Renews the lease: 1 request to DynamoDB, 1 write unit.
///
/// # Errors
/// See [`App::check_in`]; 400 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let (key, claim) = envelope::heartbeat(&request)?;
    let (agent, quota) = app.check_in(&key, Call::Heartbeat(claim), now).await?;
    Ok(Answer::counted(Outcome::Beaten(agent), quota))
}
