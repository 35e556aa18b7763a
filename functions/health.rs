//! `GET /health`, `/healthz`, `/readyz`: whether the service is there, and whether its database is.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;

/// Answers at once, except on `/readyz`, which asks DynamoDB first.
///
/// # Errors
/// `/readyz`: 503 when DynamoDB does not answer.
pub async fn handle(app: &App, request: Request, _now: Timestamp) -> Result<Answer, ApiError> {
    if request.uri().path() == "/readyz" {
        app.store.ping().await?;
    }
    Ok(Outcome::Done.into())
}
