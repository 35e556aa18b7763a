//! `POST /api/v1/agents/{agent_id}/restore`: an operator takes a revoked agent back.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::store::Transition;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;

use crate::transition;

/// See [`transition::handle`].
///
/// # Errors
/// See [`transition::handle`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    transition::handle(app, &request, Transition::Restore, now).await
}
