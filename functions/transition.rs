//! What approve, revoke and restore have in common.

use lambda_http::Request;
use shared::runtime::app::{App, done};
use shared::store::Transition;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Changes who may act, with the operator's reason. An agent that is there already stays as it is.
///
/// # Errors
/// See [`App::operator`] and [`done`]; 422 for bad input.
pub async fn handle(
    app: &App,
    request: &Request,
    transition: Transition,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let body = requests::json(request)?;
    let operator = app.operator(request.headers(), now).await?;
    let agent_id = requests::agent_id(request)?;
    let reason = requests::reason(body)?;
    let changed = app.store.transition(agent_id, transition, reason.as_deref(), operator, now).await?;
    Ok(Outcome::Agent(done(changed)?).into())
}
