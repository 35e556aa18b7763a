//! `POST /api/v1/tokens`: an operator mints a token.

use lambda_http::Request;
use shared::domain::token::TokenRequest;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::error::{ApiError, Invalid};
use shared::wire::requests;

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
