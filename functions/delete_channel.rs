//! `DELETE /api/v1/channels/{id}`: an operator removes a channel.

use lambda_http::Request;
use shared::config::Setting::{
    AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, TokensTable,
};
use shared::domain::channel::ChannelId;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::fields;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "delete-channel",
    reads: &[AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Deletes a channel, its secrets, and what waits for it. One that does not exist is gone already.
///
/// # Errors
/// See [`App::operator_within`] and [`reach`]; 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let operator = app.operator_within(request.headers(), now).await?;
    let channel_id = ChannelId::of(fields::id(&request)?);
    if let Some(channel) = app.store.channel(channel_id).await? {
        reach(operator, channel.board_id)?;
        app.store.delete_channel(channel_id, operator.actor(), now).await?;
        app.cancel_deliveries(channel_id, now).await;
    }
    Ok(Answer::ok())
}
