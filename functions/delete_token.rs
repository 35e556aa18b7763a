//! `DELETE /api/v1/tokens/{id}`: an operator ends a token.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::ApiError;
use shared::wire::requests;

/// Deletes a token. One that does not exist is gone already.
///
/// # Errors
/// See [`App::operator`]; 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let operator = app.operator(request.headers(), now).await?;
    app.store.delete_token(requests::token_id(&request)?, operator, now).await?;
    Ok(Outcome::Done.into())
}
