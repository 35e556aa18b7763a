//! What operators send about channels, and how channels and deliveries are shown.

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::Serialize;
use uuid::Uuid;

use super::error::Invalid;
use super::fields;
use super::json::Object;
use super::signature::{check_secret, new_secret};
use super::target::Target;
use crate::config::WebhookTargets;
use crate::domain::channel::{
    Channel, ChannelId, ChannelKind, ChannelPatch, ChannelRequest, ChannelState, LABEL_LIMIT,
};
use crate::domain::concern::Concern;
use crate::domain::delivery::{Attempt, Delivery, DeliveryState};
use crate::domain::ids::BoardId;
use crate::time::Timestamp;

/// What is asked for, the address, and the secret that a webhook signs by: the caller's, or a new one.
pub struct NewChannel {
    /// What is asked for.
    pub request: ChannelRequest,
    /// Where to.
    pub url: String,
    /// By what messages are signed; Slack and Discord have none.
    pub secret: Option<String>,
}

/// Reads `POST /api/v1/channels`.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn new_channel(body: &Object<'_>, allowed: WebhookTargets) -> Result<NewChannel, Invalid> {
    let kind = match body.string("kind")?.as_deref() {
        Some("webhook") => ChannelKind::Webhook,
        Some("slack") => ChannelKind::Slack,
        Some("discord") => ChannelKind::Discord,
        _ => return Err(body.invalid("kind", "must be 'webhook', 'slack' or 'discord'")),
    };
    let target = target(body, allowed)?.ok_or_else(|| body.invalid("url", "is required"))?;
    let own_secret = body.string("secret")?;
    if let Some(own) = &own_secret {
        check_secret(own).map_err(|problem| body.invalid("secret", problem))?;
    }
    let secret = match kind {
        ChannelKind::Webhook => Some(own_secret.unwrap_or_else(new_secret)),
        _ if own_secret.is_some() => return Err(body.invalid("secret", "only a webhook is signed")),
        ChannelKind::Slack | ChannelKind::Discord => None,
    };
    let request = ChannelRequest {
        kind,
        label: label(body)?,
        concerns: concerns(body)?.unwrap_or_else(|| Concern::HEARD.to_vec()),
        board_id: body.uuid("board_id")?.map(BoardId::of),
        target: target.shown(),
    };
    Ok(NewChannel { request, url: target.url().to_string(), secret })
}

/// What is to be changed, another address, and for how long the present secret stays valid beside a new one.
pub struct ChannelChange {
    /// What is changed of the channel itself.
    pub patch: ChannelPatch,
    /// Another address.
    pub url: Option<String>,
    /// For how long the secret stays valid beside a new one, if there is to be one.
    pub rotate: Option<Duration>,
}

/// Reads `PATCH /api/v1/channels/{id}`; `null` takes a label or a board away.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn channel_change(body: &Object<'_>, allowed: WebhookTargets) -> Result<ChannelChange, Invalid> {
    let target = target(body, allowed)?;
    let channel_state = match body.string("state")?.as_deref() {
        None => None,
        Some("enabled") => Some(ChannelState::Enabled),
        Some("paused") => Some(ChannelState::Paused),
        Some(_) => return Err(body.invalid("state", "must be 'enabled' or 'paused'")),
    };
    let rotate = body.object("rotate_secret")?;
    let patch = ChannelPatch {
        label: if body.has("label") { Some(label(body)?) } else { None },
        concerns: concerns(body)?,
        board_id: if body.has("board_id") { Some(body.uuid("board_id")?.map(BoardId::of)) } else { None },
        target: target.as_ref().map(Target::shown),
        channel_state,
    };
    Ok(ChannelChange {
        patch,
        url: target.map(|target| target.url().to_string()),
        rotate: rotate.map(|rotate| fields::overlap(&rotate, "overlap_seconds")).transpose()?,
    })
}

/// What is to be queued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// One message, by its number.
    Of(u64),
    /// Whatever failed since then.
    FailedSince(Timestamp),
}

/// Reads `POST /api/v1/channels/{id}/redeliver`.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn redelivery(body: &Object<'_>) -> Result<Redelivery, Invalid> {
    const MOMENT: &str = "must be a moment by RFC 3339, as in 2026-11-25T22:54:22Z";
    match (body.whole_number("seq")?, body.string("failed_since")?) {
        (Some(0), None) => Err(body.invalid("seq", "must be at least 1")),
        (Some(seq), None) => Ok(Redelivery::Of(seq)),
        (None, Some(since)) => {
            let since = DateTime::from_str(&since, Format::DateTimeWithOffset).ok();
            let since = since.and_then(|since| since.to_millis().ok()).filter(|millis| *millis >= 0);
            let since = since.ok_or_else(|| body.invalid("failed_since", MOMENT))?;
            Ok(Redelivery::FailedSince(Timestamp::from_millis(since)))
        }
        _ => Err(body.invalid("seq", "either seq or failed_since is required")),
    }
}

fn target(body: &Object<'_>, allowed: WebhookTargets) -> Result<Option<Target>, Invalid> {
    let url = body.string("url")?;
    url.map(|url| Target::parse(&url, allowed).map_err(|problem| body.invalid("url", problem))).transpose()
}

fn label(body: &Object<'_>) -> Result<Option<String>, Invalid> {
    let label = body.string("label")?;
    let is_bad = |label: &String| label.chars().count() > LABEL_LIMIT || label.chars().any(char::is_control);
    if label.as_ref().is_some_and(is_bad) {
        return Err(
            body.invalid("label", "must have at most 100 characters, none of them control characters")
        );
    }
    Ok(label)
}

fn concerns(body: &Object<'_>) -> Result<Option<Vec<Concern>>, Invalid> {
    let words = Concern::ALL.map(Concern::as_str).join(", ");
    let problem = || body.invalid("concerns", format!("must be a list of one or more of {words}"));
    let Some(list) = body.list("concerns")? else { return Ok(None) };
    let mut concerns = Vec::new();
    for raw in list {
        let word: String = serde_json::from_str(raw.get()).map_err(|_| problem())?;
        let concern = Concern::parse(&word).ok_or_else(problem)?;
        if !concerns.contains(&concern) {
            concerns.push(concern);
        }
    }
    if concerns.is_empty() { Err(problem()) } else { Ok(Some(concerns)) }
}

/// A channel as operators see it: never where it sends to, nor by what it signs.
#[derive(Serialize)]
pub struct ChannelRead<'a> {
    id: ChannelId,
    kind: ChannelKind,
    label: Option<&'a str>,
    concerns: &'a [Concern],
    board_id: Option<BoardId>,
    target: &'a str,
    state: ChannelState,
    disabled_reason: Option<&'a str>,
    failing_since: Option<String>,
    last_ok_at: Option<String>,
    tested_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// This once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> ChannelRead<'a> {
    /// The channel as it is.
    #[must_use]
    pub fn of(channel: &'a Channel) -> Self {
        let text = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
        Self {
            id: channel.channel_id,
            kind: channel.kind,
            label: channel.label.as_deref(),
            concerns: &channel.concerns,
            board_id: channel.board_id,
            target: &channel.target,
            state: channel.channel_state,
            disabled_reason: channel.disabled_reason.as_deref(),
            failing_since: text(channel.failing_since),
            last_ok_at: text(channel.last_ok_at),
            tested_at: text(channel.tested_at),
            created_at: channel.created_at.to_string(),
            updated_at: channel.updated_at.to_string(),
            secret: None,
        }
    }

    /// The same with a secret that was just made: the one moment at which it can be shown.
    #[must_use]
    pub fn with_secret(self, secret: Option<&'a str>) -> Self {
        Self { secret, ..self }
    }
}

/// A delivery as operators see it.
#[derive(Serialize)]
pub struct DeliveryRead<'a> {
    id: Uuid,
    seq: Option<u64>,
    #[serde(rename = "type")]
    message_type: &'a str,
    state: DeliveryState,
    queued_at: String,
    attempts: Vec<AttemptRead<'a>>,
    next_attempt_at: Option<String>,
}

#[derive(Serialize)]
struct AttemptRead<'a> {
    at: String,
    status: Option<u16>,
    ms: u64,
    error: Option<&'a str>,
}

impl<'a> DeliveryRead<'a> {
    /// The delivery as it is.
    #[must_use]
    pub fn of(delivery: &'a Delivery) -> Self {
        let read = |attempt: &'a Attempt| AttemptRead {
            at: attempt.at.to_string(),
            status: attempt.status,
            ms: attempt.ms,
            error: attempt.error.as_deref(),
        };
        Self {
            id: delivery.delivery_id,
            seq: delivery.alert_key.parse().ok(),
            message_type: &delivery.message_type,
            state: delivery.delivery_state,
            queued_at: delivery.queued_at.to_string(),
            attempts: delivery.attempts.iter().map(read).collect(),
            next_attempt_at: delivery.due_at.map(|due_at| due_at.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(body: &str, read: impl Fn(&Object<'_>) -> Result<T, Invalid>) -> Result<T, String> {
        let object = Object::parse(body.as_bytes()).unwrap();
        read(&object).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_request_names_the_field_that_breaks_its_rule() {
        let public = |body: &Object<'_>| new_channel(body, WebhookTargets::Public);
        for (body, field) in [
            (r"{}", "kind"),
            (r#"{"kind": "email"}"#, "kind"),
            (r#"{"kind": "slack"}"#, "url"),
            (r#"{"kind": "slack", "url": 7}"#, "url"),
            (r#"{"kind": "slack", "url": "http://example.com/"}"#, "url"),
            (
                r#"{"kind": "slack", "url": "https://example.com/", "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"}"#,
                "secret",
            ),
            (r#"{"kind": "webhook", "url": "https://example.com/", "secret": "s3cret"}"#, "secret"),
            (r#"{"kind": "webhook", "url": "https://example.com/", "concerns": []}"#, "concerns"),
            (
                r#"{"kind": "webhook", "url": "https://example.com/", "concerns": ["offline", "bored"]}"#,
                "concerns",
            ),
            (r#"{"kind": "webhook", "url": "https://example.com/", "concerns": "offline"}"#, "concerns"),
            (r#"{"kind": "webhook", "url": "https://example.com/", "board_id": "x"}"#, "board_id"),
            (r#"{"kind": "webhook", "url": "https://example.com/", "label": "\u0007"}"#, "label"),
        ] {
            let error = read(body, public).err().expect(body);
            assert!(error.starts_with(&format!("{field}: ")), "{body}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_channel_hears_of_all_but_strangers_at_the_door_unless_it_says_so() {
        let public = |body: &Object<'_>| new_channel(body, WebhookTargets::Public);
        let new = read(r#"{"kind": "webhook", "url": "https://example.com/"}"#, public).ok().unwrap();
        assert_eq!(new.request.concerns, Concern::HEARD);
        assert!(new.secret.is_some_and(|secret| check_secret(&secret).is_ok()));
        let body =
            r#"{"kind": "discord", "url": "https://example.com/", "concerns": ["waiting", "waiting"]}"#;
        let new = read(body, public).ok().unwrap();
        assert_eq!((new.request.concerns, new.secret), (vec![Concern::Waiting], None));
    }

    #[test]
    fn a_redelivery_is_of_one_message_or_of_what_failed_since() {
        assert_eq!(read(r#"{"seq": 7}"#, redelivery), Ok(Redelivery::Of(7)));
        let since = Redelivery::FailedSince(Timestamp::from_millis(1_767_225_630_000));
        for text in ["2026-01-01T00:00:30Z", "2026-01-01T01:00:30+01:00", "2026-01-01T00:00:30.000Z"] {
            assert_eq!(read(&format!(r#"{{"failed_since": "{text}"}}"#), redelivery), Ok(since), "{text}");
        }
        for body in
            ["{}", r#"{"seq": 1, "failed_since": "2026-01-01T00:00:30Z"}"#, r#"{"seq": 0}"#, r#"{"seq": -1}"#]
        {
            assert!(read(body, redelivery).is_err(), "{body}");
        }
        for text in ["yesterday", "2026-01-01", "1767225630"] {
            assert!(read(&format!(r#"{{"failed_since": "{text}"}}"#), redelivery).is_err(), "{text}");
        }
    }
}
