//! Deliveries: one message on its way to one channel, and what comes of each attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::channel::ChannelId;
use super::event::expiry;
use super::notification::deliveries_of;
use crate::time::Timestamp;

/// The most attempts of a delivery: [`RETRIES`] and the first.
pub const ATTEMPTS: usize = RETRIES.len() + 1;

/// How long each attempt waits after the one before it has failed; each is moved by up to [`JITTER`]. 75 hours in all.
pub const RETRIES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// The part of a pause by which it is longer or shorter, at random: not everything that failed at once comes again at once.
pub const JITTER: f64 = 0.2;

/// The longest pause that a receiver can ask for.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(12);

/// The shortest pause after an answer that says "too much" or "nobody is there": 429, 502, 504.
const OVERLOAD_PAUSE: Duration = Duration::from_mins(1);

/// How long an attempt may be under way: then it counts as lost, and another one is made.
pub const CLAIM: Duration = Duration::from_mins(1);

/// A channel of which every attempt failed for this long is disabled when a delivery runs out of attempts.
pub const FAILING_LIMIT: Duration = Duration::from_hours(5 * 24);

/// The most bytes of the text in which an attempt's failure is kept.
pub const ERROR_LIMIT: usize = 200;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is to be sent, or sent again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// Every attempt failed, or it cannot be stored.
    Failed,
    /// Its channel was deleted first.
    Canceled,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Canceled];

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One attempt, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Milliseconds from the beginning to the answer or the failure.
    pub ms: u64,
    /// Why it failed: at most [`ERROR_LIMIT`] bytes, without the receiver's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A row of the alerts' table: a message for one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The channel's partition: [`deliveries_of`].
    pub alert_log: String,
    /// The message's number as [`seq_key`](super::notification::seq_key); `hello.<uuid>` and `test.<uuid>` for what is
    /// told to this channel alone.
    pub alert_key: String,
    /// What the receiver sees with every attempt: it knows by this what it has taken before.
    pub delivery_id: Uuid,
    /// The message's type.
    pub message_type: String,
    /// What is sent, finished, in the channel's form.
    pub body: String,
    /// Where it stands.
    pub delivery_state: DeliveryState,
    /// How many attempts were begun.
    pub attempt: usize,
    /// The attempts that ended, at most [`ATTEMPTS`].
    pub attempts: Vec<Attempt>,
    /// When it was queued; again by `redeliver`.
    pub queued_at: Timestamp,
    /// The channel, for as long as the delivery waits: the partition of the index `by_due`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<ChannelId>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// When it was delivered, failed or canceled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Epoch seconds at which DynamoDB removes the row.
    pub expires_at: i64,
}

impl Delivery {
    /// A delivery that is due now.
    #[must_use]
    pub fn new(
        channel_id: ChannelId,
        key: &str,
        message_type: &str,
        body: String,
        retention: Duration,
        now: Timestamp,
    ) -> Self {
        Self {
            alert_log: deliveries_of(channel_id),
            alert_key: key.to_owned(),
            delivery_id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            message_type: message_type.to_owned(),
            body,
            delivery_state: DeliveryState::Pending,
            attempt: 0,
            attempts: Vec::new(),
            queued_at: now,
            due: Some(channel_id),
            due_at: Some(now),
            ended_at: None,
            expires_at: expiry(now, retention),
        }
    }

    /// This delivery as one that failed before its first attempt: it is in no index, and nobody sends it.
    #[must_use]
    pub fn unsendable(self, error: &str, now: Timestamp) -> Self {
        let attempt = Attempt { at: now, status: None, ms: 0, error: Some(error.to_owned()) };
        Self {
            body: String::new(),
            delivery_state: DeliveryState::Failed,
            attempts: vec![attempt],
            due: None,
            due_at: None,
            ended_at: Some(now),
            ..self
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered.
    Answered {
        /// With this status.
        status: u16,
        /// And asks to wait for so long.
        retry_after: Option<Duration>,
        /// The beginning of what it says, if it refuses: at most [`ERROR_LIMIT`] bytes.
        said: Option<String>,
    },
    /// There was no answer; why, in words without the receiver's address.
    Unanswered(String),
}

/// What is to be done after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the receiver took it.
    Delivered,
    /// Nothing, and nothing to this receiver ever again: it says that it is gone.
    Gone,
    /// Try again then.
    Retry(Timestamp),
    /// Nothing: it was the last attempt.
    GiveUp,
}

impl Outcome {
    /// The step after attempt number `attempt`, from 1. `draw` is a random number from 0 to 1.
    #[must_use]
    pub fn step(&self, attempt: usize, draw: f64, now: Timestamp) -> Step {
        let asked = match self {
            Self::Answered { status: 200..=299, .. } => return Step::Delivered,
            Self::Answered { status: 410, .. } => return Step::Gone,
            Self::Answered { status: 429, retry_after, .. } => {
                retry_after.unwrap_or_default().max(OVERLOAD_PAUSE)
            }
            Self::Answered { status: 503, retry_after, .. } => retry_after.unwrap_or_default(),
            Self::Answered { status: 502 | 504, .. } => OVERLOAD_PAUSE,
            Self::Answered { .. } | Self::Unanswered(_) => Duration::ZERO,
        };
        let Some(pause) = attempt.checked_sub(1).and_then(|failed| RETRIES.get(failed)) else {
            return Step::GiveUp;
        };
        let pause = pause.mul_f64(1.0 + JITTER * (2.0 * draw - 1.0));
        Step::Retry(now.plus(pause.max(asked.min(LONGEST_RETRY_AFTER))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn pause(outcome: &Outcome, attempt: usize, draw: f64) -> Option<Duration> {
        match outcome.step(attempt, draw, NOW) {
            Step::Retry(at) => Some(at.since(NOW)),
            _ => None,
        }
    }

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs), said: None }
    }

    #[test]
    fn ten_attempts_take_75_hours_and_no_two_receivers_the_same() {
        let failed = Outcome::Unanswered("refused".to_owned());
        let pauses: Vec<_> = (1..=ATTEMPTS).map_while(|attempt| pause(&failed, attempt, 0.5)).collect();
        assert_eq!(pauses, RETRIES);
        assert_eq!(pauses.iter().sum::<Duration>(), Duration::from_secs(75 * 3_600 + 35 * 60 + 5));
        assert_eq!(failed.step(ATTEMPTS, 0.5, NOW), Step::GiveUp);
        for (place, plain) in RETRIES.iter().enumerate() {
            assert_eq!(pause(&failed, place + 1, 0.0), Some(plain.mul_f64(0.8)));
            assert_eq!(pause(&failed, place + 1, 1.0), Some(plain.mul_f64(1.2)));
        }
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_and_for_no_shorter_one() {
        for status in [429, 503] {
            assert_eq!(pause(&answered(status, Some(3_600)), 1, 0.5), Some(Duration::from_hours(1)));
            assert_eq!(pause(&answered(status, Some(1_000_000)), 1, 0.5), Some(LONGEST_RETRY_AFTER));
            assert_eq!(pause(&answered(status, Some(0)), 4, 0.5), Some(RETRIES[3]));
        }
        assert_eq!(pause(&answered(500, Some(3_600)), 1, 0.5), Some(RETRIES[0]), "only where it means that");
    }

    #[test]
    fn an_overloaded_receiver_is_left_alone_for_a_minute() {
        for status in [429, 502, 504] {
            assert_eq!(pause(&answered(status, None), 1, 0.5), Some(Duration::from_mins(1)));
        }
        assert_eq!(pause(&answered(503, None), 1, 0.5), Some(RETRIES[0]));
    }

    #[test]
    fn only_success_is_success() {
        for status in [200, 201, 204, 299] {
            assert_eq!(answered(status, None).step(1, 0.5, NOW), Step::Delivered);
        }
        for status in [100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 500] {
            assert!(matches!(answered(status, None).step(1, 0.5, NOW), Step::Retry(_)), "{status}");
        }
        assert_eq!(answered(410, None).step(1, 0.5, NOW), Step::Gone);
    }
}
