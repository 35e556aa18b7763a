//! `POST /api/v1/channels/{id}/redeliver`: an operator has deliveries sent again.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AlertsTable, ChannelsTable, TokensTable};
use shared::domain::channel::{ChannelId, Turn};
use shared::domain::notification::seq_key;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::channel_request::{Redelivery, redelivery};
use shared::wire::error::ApiError;
use shared::wire::fields;
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "redeliver",
    reads: &[AlertsTable, ChannelsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// How many deliveries are queued again at once.
const QUEUED_AT_ONCE: usize = 1_000;

#[derive(Serialize)]
struct Queued {
    queued: usize,
}

/// Queues one message of a channel again, or what failed since a moment, each by the id that its receiver knows.
///
/// # Errors
/// See [`App::operator_within`] and [`App::reachable_channel`]; 422 for bad input, 429 within a minute of the last time.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let channel_id = ChannelId::of(fields::id(&request)?);
    let wanted = redelivery(&body.object()?)?;
    app.reachable_channel(channel_id, operator).await?;
    app.turn(channel_id, Turn::Redelivery, now).await?;
    let queued = match wanted {
        Redelivery::Of(seq) => usize::from(app.store.requeue(channel_id, &seq_key(seq), now).await?),
        Redelivery::FailedSince(since) => {
            app.store.requeue_failed(channel_id, since, QUEUED_AT_ONCE, now).await?
        }
    };
    Ok(mission_control::body(&Queued { queued })?)
}
