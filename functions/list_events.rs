//! `GET /api/v1/agents/{agent_id}/events`: what happened to an agent, newest first.

use lambda_http::Request;
use shared::runtime::app::{App, NO_SUCH_AGENT};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Lists an agent's events; a deleted agent's too, for as long as they are kept.
///
/// # Errors
/// See [`App::operator`]; 404 for an id that nothing ever happened to, 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    app.operator(request.headers(), now).await?;
    let agent_id = requests::agent_id(&request)?;
    let list = requests::list_events(&request)?;
    let event_type = list.event_type.as_deref();
    let page = app.store.events_before(agent_id, event_type, list.before, list.limit, now).await?;
    if page.events.is_empty() && app.store.agent(agent_id, now).await?.is_none() {
        let any = app.store.events_before(agent_id, None, None, 1, now).await?;
        if any.events.is_empty() {
            return Err(NO_SUCH_AGENT.into());
        }
    }
    Ok(Outcome::Events(page).into())
}
