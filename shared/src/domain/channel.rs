//! Channels: to whom alerts are told, and by what.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::concern::Concern;
use super::ids::BoardId;
use crate::time::Timestamp;

/// The most channels of a deployment: each is one query a minute.
pub const CHANNELS_LIMIT: usize = 50;

/// The most characters of a channel's label.
pub const LABEL_LIMIT: usize = 100;

/// The id of a channel, drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelId(Uuid);

impl ChannelId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Builder::from_random_bytes(rand::random()).into_uuid())
    }

    /// The id in a path or a row.
    #[must_use]
    pub const fn of(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// In what form a channel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// JSON with a signature, by Standard Webhooks 1.0: <https://www.standardwebhooks.com>.
    Webhook,
    /// An incoming webhook of Slack.
    Slack,
    /// A webhook of Discord.
    Discord,
}

/// Whether a channel is told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// It is.
    Enabled,
    /// Not until an operator says so.
    Paused,
    /// Its receiver said that it is gone, or has failed for days.
    Disabled,
}

impl ChannelState {
    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

/// Why a channel was disabled, as rows and the wire say it.
pub mod disabled {
    /// Its receiver answered 410.
    pub const GONE: &str = "gone";
    /// Every attempt failed for days.
    pub const FAILING: &str = "failing";
}

/// Of rows that were written before it was noted when a channel began to hear.
const fn long_ago() -> Timestamp {
    Timestamp::from_millis(0)
}

/// A row of the `channels` table. Where it sends to is in `secrets`: an address is often a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its id.
    pub channel_id: ChannelId,
    /// In what form it is told.
    pub kind: ChannelKind,
    /// What people call it: at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What it is told of.
    pub concerns: Vec<Concern>,
    /// The board whose agents it is told of; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// Scheme, host and the last four characters of its address: enough to know it, too little to use it.
    pub target: String,
    /// Whether it is told anything.
    pub channel_state: ChannelState,
    /// Messages up to this one were told before it began to hear: its `hello` says what was so then.
    #[serde(default)]
    pub heard_from: u64,
    /// When it began to hear: when it was made, or was last enabled again.
    #[serde(default = "long_ago")]
    pub hears_since: Timestamp,
    /// Why it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// Whether the other channels were told that it is disabled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled_told: bool,
    /// The first of the failures since its last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Its last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ok_at: Option<Timestamp>,
    /// The last test message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested_at: Option<Timestamp>,
    /// The last time that an operator queued deliveries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivered_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The last change by an operator.
    pub updated_at: Timestamp,
}

impl Channel {
    /// Whether messages go out to it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.channel_state == ChannelState::Enabled
    }

    /// `updated_at` of a change that is made now. Two changes in one millisecond are told apart.
    #[must_use]
    pub fn moved_on(&self, now: Timestamp) -> Timestamp {
        now.max(self.updated_at.plus(Duration::from_millis(1)))
    }

    /// Whether it hears of this board's agents.
    #[must_use]
    pub fn hears_board(&self, board_id: Option<BoardId>) -> bool {
        self.board_id.is_none() || self.board_id == board_id
    }

    /// Whether it hears of this concern. Who wants to know of silences wants to know of those that come again and
    /// again.
    #[must_use]
    pub fn hears(&self, concern: Concern) -> bool {
        self.concerns.contains(&concern)
            || (concern == Concern::Flapping && self.concerns.contains(&Concern::Offline))
    }
}

/// What an operator asks for: `POST /api/v1/channels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRequest {
    /// In what form it is told.
    pub kind: ChannelKind,
    /// What people call it: at most [`LABEL_LIMIT`] characters.
    pub label: Option<String>,
    /// What it is told of.
    pub concerns: Vec<Concern>,
    /// The board whose agents it is told of; absent = all.
    pub board_id: Option<BoardId>,
    /// Where it sends to, as it is shown.
    pub target: String,
}

impl ChannelRequest {
    /// The channel that is asked for, enabled. It hears of messages after `heard_from`.
    #[must_use]
    pub fn channel(self, heard_from: u64, now: Timestamp) -> Channel {
        Channel {
            channel_id: ChannelId::generate(),
            kind: self.kind,
            label: self.label,
            concerns: self.concerns,
            board_id: self.board_id,
            target: self.target,
            channel_state: ChannelState::Enabled,
            heard_from,
            hears_since: now,
            disabled_reason: None,
            disabled_told: false,
            failing_since: None,
            last_ok_at: None,
            tested_at: None,
            redelivered_at: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// What an operator changes of a channel. `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelPatch {
    /// What people call it; `Some(None)` takes it away.
    pub label: Option<Option<String>>,
    /// What it is told of.
    pub concerns: Option<Vec<Concern>>,
    /// The board whose agents it is told of; `Some(None)` is all.
    pub board_id: Option<Option<BoardId>>,
    /// Where it sends to, as it is shown.
    pub target: Option<String>,
    /// Enabled or paused.
    pub channel_state: Option<ChannelState>,
}

impl ChannelPatch {
    /// Whether the channel begins to hear again.
    #[must_use]
    pub fn resumes(&self, channel: &Channel) -> bool {
        self.channel_state == Some(ChannelState::Enabled) && !channel.is_enabled()
    }

    /// The channel as it will be, but for `updated_at`: one that begins to hear again forgets why it did not, and hears of
    /// messages after `heard_from`.
    #[must_use]
    pub fn apply(&self, channel: &Channel, heard_from: u64, now: Timestamp) -> Channel {
        let mut after = channel.clone();
        if let Some(label) = &self.label {
            after.label.clone_from(label);
        }
        if let Some(concerns) = &self.concerns {
            after.concerns.clone_from(concerns);
        }
        if let Some(board_id) = self.board_id {
            after.board_id = board_id;
        }
        if let Some(target) = &self.target {
            after.target.clone_from(target);
        }
        if let Some(state) = self.channel_state.filter(|state| *state != channel.channel_state) {
            after.channel_state = state;
            after.disabled_reason = None;
            after.disabled_told = false;
            after.failing_since = None;
        }
        if self.resumes(channel) {
            after.heard_from = heard_from;
            after.hears_since = now;
        }
        after
    }
}

/// A change of a channel's secrets, which whoever makes it need not read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretsPatch {
    /// Another address.
    pub target_url: Option<String>,
    /// Another secret, and when the one before ends.
    pub signing_secret: Option<(String, Timestamp)>,
}

impl SecretsPatch {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What an operator may do to a channel only so often: a stolen token is no cannon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send a test.
    Test,
    /// Queue deliveries again.
    Redelivery,
}

impl Turn {
    /// How long it takes until the next one.
    #[must_use]
    pub const fn pause(self) -> Duration {
        match self {
            Self::Test => Duration::from_secs(10),
            Self::Redelivery => Duration::from_mins(1),
        }
    }
}

/// Where a channel sends to, and by what its messages are signed: a row of the `secrets` table, read by the one function
/// that sends.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSecrets {
    /// Whose they are.
    pub channel_id: ChannelId,
    /// The receiver's address.
    pub target_url: String,
    /// `whsec_` and base64: Standard Webhooks' form. A webhook has one, Slack and Discord have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<String>,
    /// The one before, which signs as well while a rotation overlaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<String>,
    /// When the overlap ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret_ends: Option<Timestamp>,
}

impl ChannelSecrets {
    /// The secrets that sign now, the newest first.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> Vec<&str> {
        let previous = self.previous_secret.as_deref();
        let previous = previous.filter(|_| self.previous_secret_ends.is_some_and(|ends| ends > now));
        self.signing_secret.as_deref().into_iter().chain(previous).collect()
    }
}

impl fmt::Debug for ChannelSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSecrets").field("channel_id", &self.channel_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Channel, long_ago};

    /// As the code wrote it before there was `hears_since`: whoever cannot read one channel tells nobody.
    #[test]
    fn a_channel_that_an_earlier_version_made_is_read() {
        let row = json!({
            "listing": "channels", "channel_id": "dea0bab6-4f9f-4de3-a5ca-9d2844557162", "kind": "webhook",
            "label": "older", "concerns": ["offline", "never_seen", "error"], "target": "http://127.0.0.1:35769/…",
            "channel_state": "enabled", "heard_from": 0, "last_ok_at": 1_795_839_703_036_u64,
            "created_at": 1_795_839_702_627_u64, "updated_at": 1_795_839_702_627_u64,
        });
        let channel: Channel = serde_json::from_value(row).expect("a channel");
        assert_eq!(channel.hears_since, long_ago());
    }
}
