//! `GET /api/v1/tokens`: every token, without what is secret of it.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;

/// Lists tokens, newest first.
///
/// # Errors
/// See [`App::operator`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    app.operator(request.headers(), now).await?;
    Ok(Outcome::Tokens(app.store.tokens().await?).into())
}
