//! `mint-token`: mints the first operator or enrollment token. Only IAM says who may invoke it.

use serde_json::Value;
use serde_json::value::RawValue;
use shared::config::Setting::{ApiUrl, EventsTable, SystemEventRetention, TokensTable};
use shared::domain::event::Actor;
use shared::runtime::app::App;
use shared::runtime::function::{Job, JobError, work};
use shared::time::Timestamp;
use shared::wire::error::Invalid;
use shared::wire::json::Object;
use shared::wire::mission_control::Minted;
use shared::wire::token_request::token_request;
use tokio::time::Instant;

/// The function and what it reads.
pub const FUNCTION: Job = Job {
    name: "mint-token",
    reads: &[TokensTable, EventsTable, SystemEventRetention, ApiUrl],
    work: |app, input, now, deadline| work(input, move |wanted| run(app, wanted, now, deadline)),
};

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
    let request = token_request(&Object::of(&input)?, None)?;
    let minted = app.store.mint_token(&request, Actor::System, now).await?;
    let minted = minted.ok_or_else(|| Invalid::new("succeeds", "is not an enrollment token's id"))?;
    Ok(serde_json::to_value(Minted::of(&minted, app.config.api_url.get()))?)
}
