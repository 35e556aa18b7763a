//! `POST /api/v1/tokens`: an operator mints a token.

use lambda_http::Request;
use shared::config::Setting::{EventsTable, SystemEventRetention, TokensTable};
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::base_url::base_url;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields;
use shared::wire::mission_control::{self, Minted};
use shared::wire::token_request::token_request;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "create-token",
    reads: &[TokensTable, EventsTable, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Mints a token, and shows it, this once.
///
/// # Errors
/// See [`App::operator_within`]; 403 for another board than the operator's; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let wanted = token_request(&body.object()?, operator.board_id)?;
    reach(operator, wanted.board_id)?;
    let minted = app.store.mint_token(&wanted, operator.actor(), now).await?;
    let minted = minted.ok_or_else(|| Invalid::new("succeeds", "is not an enrollment token's id"))?;
    Ok(mission_control::body(&Minted::of(&minted, &base_url(&request)))?)
}
