//! `GET /api/v1/channels/{id}/deliveries`: what was sent to a channel, and what came of it.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AlertsTable, ChannelsTable, TokensTable};
use shared::domain::channel::ChannelId;
use shared::domain::delivery::DeliveryState;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::channel_request::DeliveryRead;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields::{self, Query, invalid_query};
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-deliveries",
    reads: &[AlertsTable, ChannelsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The query string: only deliveries in this state, only those before this one, and how many at most.
struct ListDeliveries {
    state: Option<DeliveryState>,
    before: Option<String>,
    limit: usize,
}

impl ListDeliveries {
    fn read(request: &Request) -> Result<Self, Invalid> {
        let query = Query::of(request);
        let state = match query.text("state") {
            None => None,
            Some(word) => Some(DeliveryState::parse(word).ok_or_else(|| {
                invalid_query("state", "must be 'pending', 'delivered', 'failed' or 'canceled'")
            })?),
        };
        let is_key = |text: &&str| {
            (1..=50).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        };
        let before = match query.text("before") {
            None => None,
            Some(text) => {
                let key = Some(text).filter(is_key);
                Some(key.ok_or_else(|| invalid_query("before", "must be the next of an earlier page"))?)
            }
        };
        let before = before.map(str::to_owned);
        Ok(Self { state, before, limit: query.count("limit", 1, 200)?.unwrap_or(50) })
    }
}

#[derive(Serialize)]
struct Deliveries<'a> {
    items: Vec<DeliveryRead<'a>>,
    next: Option<String>,
}

/// Lists a channel's deliveries: greetings and tests first, then messages, the newest first.
///
/// # Errors
/// See [`App::viewer`] and [`App::reachable_channel`]; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let channel_id = ChannelId::of(fields::id(&request)?);
    let list = ListDeliveries::read(&request)?;
    app.reachable_channel(channel_id, viewer).await?;
    let page = app.store.deliveries(channel_id, list.state, list.before.as_deref(), list.limit).await?;
    let items = page.deliveries.iter().map(DeliveryRead::of).collect();
    Ok(mission_control::body(&Deliveries { items, next: page.next })?)
}
