//! `POST /api/v1/agents`: an operator creates an active agent.

use lambda_http::Request;
use shared::domain::workspace::{Workspace, base_url};
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Creates an agent under a key of its own.
///
/// # Errors
/// See [`App::operator`]; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = requests::json(&request)?;
    let operator = app.operator(request.headers(), now).await?;
    let new = requests::new_agent(body)?;
    let (agent, key) = app.store.create_active(&new, operator, now).await?;
    let wanted = requests::wants_workspace(&request);
    let files = wanted.then(|| Workspace::render(&agent, Some(&key), &base_url(&request)));
    Ok(Outcome::WithKey(agent, key, files).into())
}
