//! `GET /api/v1/tokens`, `GET /api/v1/tokens/self`: every token, or the caller's own, without what is secret of it.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::TokensTable;
use shared::domain::token::TokenRow;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::credentials;
use shared::wire::error::ApiError;
use shared::wire::mission_control::{self, TokenRead};
use shared::wire::route::route;

/// The route that shows the caller's own token.
const OWN: &str = "/api/v1/tokens/self";

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-tokens",
    reads: &[TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Tokens<'a> {
    items: Vec<ListedToken<'a>>,
}

#[derive(Serialize)]
struct ListedToken<'a> {
    #[serde(flatten)]
    row: TokenRead<'a>,
    last_used_at: Option<String>,
    uses: u64,
}

impl<'a> ListedToken<'a> {
    fn of(row: &'a TokenRow) -> Self {
        Self {
            row: TokenRead::of(row),
            last_used_at: row.last_used_at.map(|hour| hour.to_string()),
            uses: row.uses,
        }
    }
}

/// Lists tokens, newest first; or shows the one that the caller came with, which says what it may do.
///
/// # Errors
/// See [`App::viewer`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    if route(&request) == OWN {
        let row = app.viewer_row(&credentials::operator_token(request.headers())?, now).await?;
        return Ok(mission_control::body(&ListedToken::of(&row))?);
    }
    let viewer = app.viewer(request.headers(), now).await?;
    let mut tokens = app.store.tokens().await?;
    tokens.retain(|token| viewer.reaches(token.board_id));
    Ok(mission_control::body(&Tokens { items: tokens.iter().map(ListedToken::of).collect() })?)
}
