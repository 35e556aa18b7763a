//! `GET /api/v1/agent/healthz`: an agent asks how it stands.

use lambda_http::Request;
use shared::answer::{Answer, Outcome};
use shared::app::App;
use shared::auth::{self, Denied};
use shared::credential::Credential;
use shared::error::ApiError;
use shared::time::Timestamp;

/// Reads; renews nothing.
///
/// # Errors
/// See [`App::agent_of_key`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let Credential::Agent(key) = auth::credential(request.headers())? else {
        return Err(Denied::WrongKind.into());
    };
    let agent = app.agent_of_key(&key, now).await?;
    Ok(Outcome::AgentHealth(Box::new(agent)).into())
}
