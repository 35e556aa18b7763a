//! `POST /api/v1/agents/{agent_id}/rotate-key` for operators and `POST /api/agents/rotate-key` for the agent
//! itself: a new key, while the one before stays valid for a while.

use lambda_http::Request;
use shared::domain::event::Actor;
use shared::domain::workspace::{Workspace, base_url};
use shared::runtime::app::{App, done};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::contract::{self, Contract, Rotation};
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::requests;

/// Rotates an agent's key. What agents rotate for themselves is limited.
///
/// # Errors
/// See [`App::operator`], [`App::agent_of_key`] and [`done`]; 403 for a previous key, 409 when another rotation
/// was faster, 400 or 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let mut quota = None;
    let (agent, overlap, actor) = match Contract::of(request.uri().path()).rotation(&request)? {
        Rotation::Own { key, overlap } => {
            let agent = app.agent_of_key(&key, now).await?;
            if agent.key_digest != key.digest() {
                return Err(
                    ErrorKind::Forbidden("a previous key does not rotate: use the current one").into()
                );
            }
            quota = Some(app.count_rotation(&agent, now).await?);
            (agent, overlap, Actor::Agent)
        }
        Rotation::ByOperator { body } => {
            let operator = app.operator(request.headers(), now).await?;
            let agent_id = requests::agent_id(&request)?;
            let overlap = contract::overlap(&body.object()?, "overlap_seconds")?;
            (app.existing(agent_id, now).await?, overlap, operator)
        }
    };
    let rotated = app.store.rotate_key(&agent, overlap, actor, now).await.map_err(ApiError::from);
    let rotated = rotated.and_then(|changed| Ok(done(changed)?));
    let (agent, key) = rotated.map_err(|error| ApiError { quota, ..error })?;
    let wanted = requests::wants_workspace(&request);
    let files = wanted.then(|| Workspace::render(&agent, Some(&key), &base_url(&request)));
    Ok(Answer { outcome: Outcome::WithKey(agent, key, files), quota })
}
