//! `GET /api/v1/channels`: every channel, without what is secret of it.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{ChannelsTable, TokensTable};
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::channel_request::ChannelRead;
use shared::wire::error::ApiError;
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-channels",
    reads: &[ChannelsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Channels<'a> {
    items: Vec<ChannelRead<'a>>,
}

/// Lists the channels that the caller's token reaches, the newest first.
///
/// # Errors
/// See [`App::viewer`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let mut channels = app.store.channels().await?;
    channels.retain(|channel| viewer.reaches(channel.board_id));
    channels.sort_by_key(|channel| std::cmp::Reverse((channel.created_at, channel.channel_id)));
    Ok(mission_control::body(&Channels { items: channels.iter().map(ChannelRead::of).collect() })?)
}
