//! `mint-token`: mints the first operator or enrollment token. Only IAM says who may invoke it.

use serde_json::Value;
use serde_json::value::RawValue;
use shared::app::App;
use shared::contract::mission_control::Minted;
use shared::error::Invalid;
use shared::event::Actor;
use shared::json::Object;
use shared::lambda::JobError;
use shared::time::Timestamp;
use shared::token::TokenRequest;
use tokio::time::Instant;

/// Mints the token that the input describes, in the form of `POST /api/v1/tokens`, and shows it, this once.
///
/// # Errors
/// Names the field that breaks its rule; the store failed.
pub async fn run(
    app: &App,
    input: Box<RawValue>,
    now: Timestamp,
    _deadline: Instant,
) -> Result<Value, JobError> {
    let request = TokenRequest::parse(&Object::parse(input.get().as_bytes())?)?;
    let minted = app.store.mint_token(&request, Actor::System, now).await?;
    let minted = minted.ok_or_else(|| Invalid::new("succeeds", "is no enrollment token's id"))?;
    Ok(serde_json::to_value(Minted::of(&minted))?)
}
