//! `POST /api/v1/tokens`: an operator mints a token.

use lambda_http::Request;
use shared::answer::{Answer, Outcome};
use shared::app::App;
use shared::contract::mission_control::requests;
use shared::error::{ApiError, Invalid};
use shared::time::Timestamp;
use shared::token::TokenRequest;

/// Mints a token, and shows it, this once.
///
/// # Errors
/// See [`App::operator`]; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = requests::json(&request)?;
    let operator = app.operator(request.headers(), now).await?;
    let wanted = TokenRequest::parse(&body.object()?)?;
    let minted = app.store.mint_token(&wanted, operator, now).await?;
    let minted = minted.ok_or_else(|| Invalid::new("succeeds", "is no enrollment token's id"))?;
    Ok(Outcome::Minted(minted).into())
}
