//! `POST /api/v1/channels`: an operator makes a channel.

use lambda_http::Request;
use shared::config::Setting::{
    AlertRetention, AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, TokensTable,
    WebhookTargets,
};
use shared::domain::channel::ChannelSecrets;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::channel_request::{ChannelRead, new_channel};
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::fields;
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "create-channel",
    reads: &[
        AlertRetention,
        AlertsTable,
        ChannelsTable,
        EventsTable,
        SecretsTable,
        SystemEventRetention,
        TokensTable,
        WebhookTargets,
    ],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Makes a channel, which is greeted first, and shows its secret, this once.
///
/// # Errors
/// See [`App::operator_within`] and [`reach`]; 422 for bad input, 409 where there are as many as there can be.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let new = new_channel(&body.object()?, *app.config.webhook_targets.get())?;
    reach(operator, new.request.board_id)?;
    let fleet = app.store.fleet().await?;
    let channel = new.request.channel(fleet.as_ref().map_or(0, |fleet| fleet.seq), now);
    let hello = app.hello(&channel, fleet.as_ref(), now);
    let secrets = ChannelSecrets {
        channel_id: channel.channel_id,
        target_url: new.url,
        signing_secret: new.secret.clone(),
        previous_secret: None,
        previous_secret_ends: None,
    };
    if !app.store.create_channel(&channel, &secrets, Some(&hello), operator.actor(), now).await? {
        return Err(ErrorKind::Conflict("there are 50 channels: delete one first").into());
    }
    Ok(mission_control::body(&ChannelRead::of(&channel).with_secret(new.secret.as_deref()))?)
}
