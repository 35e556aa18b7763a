//! `POST /api/v1/channels/{id}/test`: an operator tries a channel.

use lambda_http::Request;
use serde::Serialize;
use serde_json::{Map, json};
use shared::config::Setting::{AlertRetention, AlertsTable, ChannelsTable, TokensTable};
use shared::domain::channel::{ChannelId, Turn};
use shared::domain::notification::{Notification, message_type};
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::fields;
use shared::wire::mission_control;
use uuid::Uuid;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "test-channel",
    reads: &[AlertRetention, AlertsTable, ChannelsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Queued {
    id: Uuid,
}

/// Queues a test, and says by which id its delivery is listed.
///
/// # Errors
/// See [`App::operator_within`] and [`App::reachable_channel`]; 409 where it hears nothing, 429 within 10 s of the last one.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let operator = app.operator_within(request.headers(), now).await?;
    let channel_id = ChannelId::of(fields::id(&request)?);
    let channel = app.reachable_channel(channel_id, operator).await?;
    if !channel.is_enabled() {
        return Err(ErrorKind::Conflict("the channel is paused or disabled: enable it first").into());
    }
    app.turn(channel_id, Turn::Test, now).await?;
    let data = Map::from_iter([("channel".to_owned(), json!({ "id": channel_id, "label": channel.label }))]);
    let message = Notification { message_type: message_type::CHANNEL_TEST.to_owned(), at: now, data };
    let test = app.store.new_delivery(&channel, &app.store.own_key("test", now), &message, now);
    let id = test.delivery_id;
    app.store.enqueue_delivery(test, now).await?;
    Ok(mission_control::body(&Queued { id })?)
}
