//! `GET /api/v1/agent/healthz`: an agent asks how it stands.

use lambda_http::Request;
use shared::domain::credential::Credential;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::credentials::{self, Denied};
use shared::wire::error::ApiError;

/// Reads; renews nothing.
///
/// # Errors
/// See [`App::agent_of_key`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let Credential::Agent(key) = credentials::credential(request.headers())? else {
        return Err(Denied::WrongKind.into());
    };
    let agent = app.agent_of_key(&key, now).await?;
    Ok(Outcome::AgentHealth(Box::new(agent)).into())
}
