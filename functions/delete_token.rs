//! `DELETE /api/v1/tokens/{id}`: an operator ends a token.

use lambda_http::Request;
use shared::config::Setting::{EventsTable, SystemEventRetention, TokensTable};
use shared::domain::ids::TokenId;
use shared::runtime::app::App;
use shared::runtime::callers::into_result;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::fields;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "delete-token",
    reads: &[EventsTable, TokensTable, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Deletes a token. One that does not exist is gone already.
///
/// # Errors
/// See [`App::operator_within`] and [`into_result`]; 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let operator = app.operator_within(request.headers(), now).await?;
    into_result(app.store.delete_token(TokenId::of(fields::id(&request)?), operator, now).await?)?;
    Ok(Answer::ok())
}
