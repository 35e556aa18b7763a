//! `PATCH /api/v1/channels/{id}`: an operator changes, pauses or resumes a channel, or gives it another address or secret.

use lambda_http::Request;
use shared::config::Setting::{
    AlertRetention, AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, TokensTable,
    WebhookTargets,
};
use shared::domain::channel::{ChannelId, ChannelKind, SecretsPatch};
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::channel_request::{ChannelRead, channel_change};
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::fields;
use shared::wire::mission_control;
use shared::wire::signature::new_secret;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "update-channel",
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

/// Changes a channel. One that begins to hear again is greeted first; a new secret is shown, this once.
///
/// # Errors
/// See [`App::operator_within`] and [`App::reachable_channel`]; 422 for bad input, 409 if somebody else changes it at once.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let channel_id = ChannelId::of(fields::id(&request)?);
    let change = channel_change(&body.object()?, *app.config.webhook_targets.get())?;
    let before = app.reachable_channel(channel_id, operator).await?;
    reach(operator, change.patch.board_id.unwrap_or(before.board_id))?;
    if change.rotate.is_some() && before.kind != ChannelKind::Webhook {
        return Err(Invalid::new("rotate_secret", "only a webhook is signed").into());
    }
    let resumes = change.patch.resumes(&before);
    let fleet = if resumes { app.store.fleet().await? } else { None };
    let mut after = change.patch.apply(&before, fleet.as_ref().map_or(0, |fleet| fleet.seq), now);
    let secret = change.rotate.map(|overlap| (new_secret(), now.plus(overlap)));
    let secrets = SecretsPatch { target_url: change.url, signing_secret: secret.clone() };
    if after == before && secrets.is_empty() {
        return Ok(mission_control::body(&ChannelRead::of(&before))?);
    }
    after.updated_at = before.moved_on(now);
    let hello = resumes.then(|| app.hello(&after, fleet.as_ref(), now));
    if !app.store.update_channel(&before, &after, &secrets, hello.as_ref(), operator.actor(), now).await? {
        return Err(ErrorKind::Conflict("somebody else changed the channel at the same time").into());
    }
    let secret = secret.as_ref().map(|(secret, _)| secret.as_str());
    Ok(mission_control::body(&ChannelRead::of(&after).with_secret(secret))?)
}
