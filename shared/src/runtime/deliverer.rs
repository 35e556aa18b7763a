//! Delivers what is due: claims, sends and notes, one delivery at a time in each of a few slots.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::app::App;
use crate::domain::channel::{Channel, ChannelId, ChannelKind, ChannelSecrets, disabled};
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, FAILING_LIMIT, Outcome, Step};
use crate::domain::failure::StoreError;
use crate::store::{Claim, Due};
use crate::time::Timestamp;
use crate::wire::signature::{message_id, signature};

/// Attempts at once, in all and to one channel: one receiver that hangs leaves room for the others.
const AT_ONCE: usize = 16;
const AT_ONCE_PER_CHANNEL: usize = 4;

/// How many of a channel's deliveries one run looks at.
const DUE_PER_CHANNEL: i32 = 1_000;

/// What is to be delivered.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Whatever is due.
    Due,
    /// These, which were just queued: by channel, the keys in its partition.
    Rung(BTreeMap<ChannelId, Vec<String>>),
}

/// What a run of deliveries did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryReport {
    /// Taken by their receivers.
    pub delivered: u64,
    /// Not taken, to be tried again.
    pub retried: u64,
    /// Given up.
    pub undelivered: u64,
    /// Ended because their channel is gone.
    pub canceled: u64,
    /// Channels that were disabled.
    pub disabled: u64,
    /// Due, and left for the next run: there was no time, or their channel was disabled meanwhile.
    pub left: u64,
    /// Somebody else's by the time they were claimed or noted.
    pub lost_races: u64,
    /// For how long the longest due of those that nothing keeps from being sent had been due, in milliseconds; absent
    /// where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_due_ms: Option<u64>,
    /// What failed of this run's own work. The next run tries it again.
    pub failed: u64,
    /// The first failure, for the log.
    #[serde(skip)]
    pub first_failure: Option<String>,
}

impl DeliveryReport {
    fn fail(&mut self, cause: impl ToString) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| cause.to_string());
    }

    fn merge(mut self, other: Self) -> Self {
        self.delivered += other.delivered;
        self.retried += other.retried;
        self.undelivered += other.undelivered;
        self.canceled += other.canceled;
        self.disabled += other.disabled;
        self.left += other.left;
        self.lost_races += other.lost_races;
        self.oldest_due_ms = self.oldest_due_ms.max(other.oldest_due_ms);
        self.failed += other.failed;
        self.first_failure = self.first_failure.or(other.first_failure);
        self
    }
}

/// One run.
struct Run<'a> {
    app: &'a App,
    now: Timestamp,
    started: Instant,
    /// No attempt begins after this.
    stop_at: Instant,
    slots: Semaphore,
}

/// What a run learned of one receiver.
#[derive(Default)]
struct Health {
    last_ok_at: Option<Timestamp>,
    /// The first failure after the last success.
    failing_since: Option<Timestamp>,
    /// Whether a delivery was given up.
    gave_up: bool,
    /// Whether it said that it is gone.
    gone: bool,
}

impl App {
    /// Delivers what is `wanted`, of enabled channels, and begins no attempt after `stop_at`.
    ///
    /// # Errors
    /// The channels cannot be read. Whatever fails later is in the report.
    pub async fn deliver(
        &self,
        wanted: Wanted,
        now: Timestamp,
        stop_at: Instant,
    ) -> Result<DeliveryReport, StoreError> {
        let run = Run { app: self, now, started: Instant::now(), stop_at, slots: Semaphore::new(AT_ONCE) };
        let channels = self.store.channels().await?;
        let mut report = DeliveryReport::default();
        if let Wanted::Rung(keys) = &wanted {
            for (channel_id, keys) in keys {
                if channels.iter().all(|channel| channel.channel_id != *channel_id) {
                    report = report.merge(run.cancel(*channel_id, keys).await);
                }
            }
        } else {
            report.oldest_due_ms = Some(0);
        }
        let enabled = channels.into_iter().filter(Channel::is_enabled);
        let served = join_all(enabled.map(|channel| run.serve(channel, &wanted))).await;
        Ok(served.into_iter().fold(report, DeliveryReport::merge))
    }
}

impl Run<'_> {
    /// The time as it goes on during the run.
    fn now(&self) -> Timestamp {
        self.now.plus(self.started.elapsed())
    }

    async fn cancel(&self, channel_id: ChannelId, keys: &[String]) -> DeliveryReport {
        let mut report = DeliveryReport::default();
        for key in keys {
            match self.app.store.cancel_delivery(channel_id, key, self.now()).await {
                Ok(canceled) => report.canceled += u64::from(canceled),
                Err(error) => report.fail(error),
            }
        }
        report
    }

    /// Delivers what is wanted of one channel, and notes what that says of its receiver.
    async fn serve(&self, channel: Channel, wanted: &Wanted) -> DeliveryReport {
        let mut report = DeliveryReport::default();
        if let Err(error) = self.try_to_serve(&channel, wanted, &mut report).await {
            report.fail(error);
        }
        report
    }

    async fn try_to_serve(
        &self,
        channel: &Channel,
        wanted: &Wanted,
        report: &mut DeliveryReport,
    ) -> Result<(), StoreError> {
        let store = &self.app.store;
        let keys = match wanted {
            Wanted::Rung(keys) => keys.get(&channel.channel_id).cloned().unwrap_or_default(),
            Wanted::Due => {
                let due = store.due(channel.channel_id, DUE_PER_CHANNEL, self.now()).await?;
                report.oldest_due_ms = due.first().map(|oldest| self.overdue(oldest));
                due.into_iter().map(|due| due.alert_key).collect()
            }
        };
        if keys.is_empty() {
            return Ok(());
        }
        let Some(secrets) = store.channel_secrets(channel.channel_id).await? else {
            // Deleted since it was read.
            return Ok(());
        };
        // A receiver that is gone is asked nothing more by those that are not yet under way.
        let gone = tokio::sync::SetOnce::new();
        let attempts = keys.into_iter().map(|key| self.attempt(channel, &secrets, key, &gone));
        let done: Vec<_> = stream::iter(attempts).buffer_unordered(AT_ONCE_PER_CHANNEL).collect().await;
        let mut health = Health::default();
        for (one, attempted) in done {
            *report = std::mem::take(report).merge(one);
            if let Some(attempted) = attempted {
                health.learn(&attempted);
            }
        }
        if self.note(channel, &health).await? {
            report.disabled += 1;
        }
        Ok(())
    }

    fn overdue(&self, due: &Due) -> u64 {
        u64::try_from(self.now().since(due.due_at).as_millis()).unwrap_or(u64::MAX)
    }

    /// One attempt, when there is a slot for it.
    async fn attempt(
        &self,
        channel: &Channel,
        secrets: &ChannelSecrets,
        key: String,
        gone: &tokio::sync::SetOnce<()>,
    ) -> (DeliveryReport, Option<Attempted>) {
        let mut report = DeliveryReport::default();
        let _slot = self.slots.acquire().await;
        if Instant::now() >= self.stop_at || gone.initialized() {
            report.left += 1;
            return (report, None);
        }
        match self.try_attempt(channel, secrets, &key, &mut report).await {
            Ok(attempted) => {
                if attempted.as_ref().is_some_and(|attempted| attempted.step == Step::Gone) {
                    let _first = gone.set(());
                }
                (report, attempted)
            }
            Err(error) => {
                report.fail(error);
                (report, None)
            }
        }
    }

    async fn try_attempt(
        &self,
        channel: &Channel,
        secrets: &ChannelSecrets,
        key: &str,
        report: &mut DeliveryReport,
    ) -> Result<Option<Attempted>, StoreError> {
        let store = &self.app.store;
        let channel_id = channel.channel_id;
        let claimed = match store.claim_delivery(channel_id, key, self.now()).await? {
            Claim::Ours(claimed) => claimed,
            Claim::Spent => {
                report.undelivered += 1;
                return Ok(None);
            }
            Claim::Taken => {
                report.lost_races += 1;
                return Ok(None);
            }
        };
        let (at, begun) = (self.now(), Instant::now());
        let outcome = self.send(channel, secrets, &claimed, at).await;
        let step = outcome.step(claimed.attempt, rand::random(), self.now());
        let next = match step {
            Step::Delivered => {
                report.delivered += 1;
                Err(DeliveryState::Delivered)
            }
            Step::Retry(again_at) => {
                report.retried += 1;
                Ok(again_at)
            }
            Step::Gone | Step::GiveUp => {
                report.undelivered += 1;
                Err(DeliveryState::Failed)
            }
        };
        let attempt = noted(outcome, at, begun.elapsed());
        if !store.note_attempt(&claimed, channel_id, &attempt, next, self.now()).await? {
            report.lost_races += 1;
        }
        Ok(Some(Attempted { at, step }))
    }

    async fn send(
        &self,
        channel: &Channel,
        secrets: &ChannelSecrets,
        claimed: &Delivery,
        at: Timestamp,
    ) -> Outcome {
        let mut headers = Vec::new();
        if channel.kind == ChannelKind::Webhook {
            let message_id = message_id(claimed.delivery_id);
            let signature = signature(&secrets.signing(at), &message_id, at, &claimed.body);
            headers.push(("webhook-id", message_id));
            headers.push(("webhook-timestamp", at.as_seconds().to_string()));
            headers.push(("webhook-signature", signature));
        }
        self.app.sender().send(&secrets.target_url, &headers, claimed.body.clone(), at).await
    }

    /// Notes in the channel what the run learned of its receiver; whether that disables it.
    async fn note(&self, channel: &Channel, health: &Health) -> Result<bool, StoreError> {
        let store = &self.app.store;
        if let Some(last_ok_at) = health.last_ok_at {
            store.note_success(channel.channel_id, last_ok_at, health.failing_since).await?;
        }
        if health.gone {
            return store.disable_channel(channel, disabled::GONE, self.now()).await;
        }
        let (None, Some(since)) = (health.last_ok_at, health.failing_since) else { return Ok(false) };
        let failing = store.note_failure(channel.channel_id, since).await?;
        let Some(failing_since) = failing.and_then(|channel| channel.failing_since) else { return Ok(false) };
        if health.gave_up && self.now().since(failing_since) >= FAILING_LIMIT {
            return store.disable_channel(channel, disabled::FAILING, self.now()).await;
        }
        Ok(false)
    }
}

/// An attempt that was made.
struct Attempted {
    at: Timestamp,
    step: Step,
}

impl Health {
    fn learn(&mut self, attempted: &Attempted) {
        match attempted.step {
            Step::Delivered => {
                self.last_ok_at = self.last_ok_at.max(Some(attempted.at));
                self.failing_since = self.failing_since.filter(|since| *since > attempted.at);
            }
            Step::Gone => self.gone = true,
            Step::Retry(_) | Step::GiveUp => {
                self.gave_up |= attempted.step == Step::GiveUp;
                if self.last_ok_at.is_none_or(|ok_at| ok_at < attempted.at) {
                    let earlier = self.failing_since.filter(|since| *since < attempted.at);
                    self.failing_since = Some(earlier.unwrap_or(attempted.at));
                }
            }
        }
    }
}

/// An attempt as its delivery keeps it.
fn noted(outcome: Outcome, at: Timestamp, took: Duration) -> Attempt {
    let (status, error) = match outcome {
        Outcome::Answered { status, said, .. } => (Some(status), said),
        Outcome::Unanswered(problem) => (None, Some(problem)),
    };
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Attempt { at, status, ms, error }
}
