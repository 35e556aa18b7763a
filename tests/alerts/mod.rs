//! Alerts: whom they are sent to, and how.

pub mod channels;
pub mod delivery;
mod hearing;
mod queue;
mod sending;
mod silences;
pub mod telling;

use serde_json::{Value, json};
use shared::config::Setting::{self, SystemEventRetention};
use shared::config::Setting::{AlertRetention, AlertsTable, ChannelsTable, EventsTable, SecretsTable};
use shared::domain::channel::{Channel, ChannelId, ChannelKind, ChannelSecrets, ChannelState};
use shared::domain::concern::Concern;
use shared::domain::notification::{Notification, message_type};

use crate::support::START;

/// What a store of the tests' own reads.
const READS: &[Setting] =
    &[AlertsTable, AlertRetention, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention];

/// The example of the specification's libraries.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A webhook to this URL, as rows.
fn channel(url: &str) -> (Channel, ChannelSecrets) {
    let channel_id = ChannelId::generate();
    let channel = Channel {
        channel_id,
        kind: ChannelKind::Webhook,
        label: None,
        concerns: vec![Concern::Offline],
        board_id: None,
        target: "https://receiver.example…abcd".to_owned(),
        channel_state: ChannelState::Enabled,
        heard_from: 0,
        hears_since: START,
        disabled_reason: None,
        disabled_told: false,
        failing_since: None,
        last_ok_at: None,
        tested_at: None,
        redelivered_at: None,
        created_at: START,
        updated_at: START,
    };
    let secrets = ChannelSecrets {
        channel_id,
        target_url: url.to_owned(),
        signing_secret: Some(SECRET.to_owned()),
        previous_secret: None,
        previous_secret_ends: None,
    };
    (channel, secrets)
}

/// A message of an agent's silence.
fn message(data: &Value) -> Notification {
    Notification {
        message_type: message_type::AGENT_OFFLINE.to_owned(),
        at: START,
        data: data.as_object().cloned().expect("an object"),
    }
}

/// The same, whole.
fn silence(seq: u64) -> Notification {
    message(&json!({
        "seq": seq,
        "agent": { "id": "b7ec1a5e-6ad0-5c4f-9d77-0a1f0d4f3a55", "name": "builder-1", "board_id": null },
        "began": "offline",
        "ended": null,
        "reason": "silent",
        "last_seen_at": START.to_string(),
        "missed_heartbeats": 3,
        "heartbeat_config": { "interval_seconds": 60, "missing_tolerance": 120 },
        "last_health": "healthy",
        "url": "https://rollcall.example/#/agents/1",
    }))
}
