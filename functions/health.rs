//! `GET /health`, `/healthz`, `/readyz`: whether the service is there, and whether its database is.

use lambda_http::Request;
use shared::config::Setting::AgentsTable;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::route::route;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "health",
    reads: &[AgentsTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Answers at once, except on `/readyz`, which asks DynamoDB first.
///
/// # Errors
/// `/readyz`: 503 when DynamoDB does not answer.
pub async fn handle(app: &App, request: Request, _now: Timestamp) -> Result<Answer, ApiError> {
    if route(&request) == "/readyz" {
        app.store.ping().await?;
    }
    Ok(Answer::ok())
}
