//! Deliveries: queued once for each message and channel, claimed before each attempt, and noted after it.
//!
//! A claim makes the delivery due again in a minute. Whoever dies between claim and note costs that minute, and its
//! receiver may see the message twice, by one id.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;

use super::{Item, Store, Write};
use super::{failure, from_item, moment, number, service_failure, string, to_item, update};
use crate::domain::channel::{Channel, ChannelId};
use crate::domain::delivery::{ATTEMPTS, Attempt, CLAIM, Delivery, DeliveryState};
use crate::domain::failure::StoreError;
use crate::domain::notification::{Notification, deliveries_of};
use crate::domain::rendering::render;
use crate::time::Timestamp;

/// The index of what is due, by channel.
const INDEX: &str = "by_due";

/// How many deliveries are written at once.
const WRITES_AT_ONCE: usize = 16;

/// How many rows one page reads, at most, whatever it filters.
const READ_PER_PAGE: usize = 1_000;

/// A page of a channel's deliveries.
#[derive(Debug)]
pub struct DeliveryPage {
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// The key before which the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// A delivery that is due: what the index holds of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Due {
    /// Its key in its channel's partition.
    pub alert_key: String,
    /// Since when.
    pub due_at: Timestamp,
}

/// What came of claiming a delivery.
#[derive(Debug)]
pub enum Claim {
    /// It is the caller's to send, once, within [`CLAIM`].
    Ours(Box<Delivery>),
    /// Its last attempt never came to an end: it is failed now.
    Spent,
    /// Somebody else has it, or it is not due any more.
    Taken,
}

impl Store {
    /// Queues a message for a channel, due now: one conditional write. `false`: it was queued before.
    ///
    /// `key` is the message's [`seq_key`](crate::domain::notification::seq_key), or `hello.` or `test.` and a UUID. A
    /// message that no row can hold is stored as a delivery that failed, so that no other waits for it.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn enqueue(
        &self,
        channel: &Channel,
        key: &str,
        notification: &Notification,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.enqueue_delivery(self.new_delivery(channel, key, notification, now), now).await
    }

    /// The key of a message that is for one channel alone: they sort by time, after all numbers.
    #[must_use]
    pub fn own_key(&self, word: &str, now: Timestamp) -> String {
        format!("{word}.{}", self.event_ids.next(now))
    }

    /// A message for a channel, finished and due now, which is not queued yet.
    #[must_use]
    pub fn new_delivery(
        &self,
        channel: &Channel,
        key: &str,
        notification: &Notification,
        now: Timestamp,
    ) -> Delivery {
        let body = render(channel.kind, notification);
        let retention = *self.alert_retention.get();
        Delivery::new(channel.channel_id, key, &notification.message_type, body, retention, now)
    }

    /// As [`Store::enqueue`].
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn enqueue_delivery(&self, delivery: Delivery, now: Timestamp) -> Result<bool, StoreError> {
        if let Some(queued) = self.put_delivery(&delivery).await? {
            return Ok(queued);
        }
        let unsendable = delivery.unsendable("the message is too large to be stored", now);
        Ok(self.put_delivery(&unsendable).await?.unwrap_or(false))
    }

    /// At most `limit` of a channel's deliveries that are due, the longest due first: one query of an index that may be a
    /// moment behind.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn due(
        &self,
        channel_id: ChannelId,
        limit: i32,
        now: Timestamp,
    ) -> Result<Vec<Due>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.alerts.get())
            .index_name(INDEX)
            .key_condition_expression("due = :channel AND due_at <= :now")
            .expression_attribute_values(":channel", string(channel_id))
            .expression_attribute_values(":now", moment(now))
            .limit(limit);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.items.unwrap_or_default().into_iter().map(from_item).collect()
    }

    /// Claims a delivery that is due, right before it is sent.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn claim_delivery(
        &self,
        channel_id: ChannelId,
        key: &str,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        let request = self
            .delivery(channel_id, key)
            .condition_expression("delivery_state = :pending AND due_at <= :now AND attempt < :attempts")
            .update_expression("SET attempt = attempt + :one, due_at = :again_at")
            .expression_attribute_values(":pending", word(DeliveryState::Pending))
            .expression_attribute_values(":now", moment(now))
            .expression_attribute_values(":attempts", number(ATTEMPTS))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":again_at", moment(now.plus(CLAIM)));
        let row = match update(request).await? {
            Write::Applied(row) => return Ok(Claim::Ours(Box::new(from_item(row)?))),
            Write::Refused(Some(row)) => from_item::<Delivery>(row)?,
            Write::Refused(None) | Write::Conflicted => return Ok(Claim::Taken),
        };
        let is_spent = row.delivery_state == DeliveryState::Pending
            && row.attempt >= ATTEMPTS
            && row.due_at.is_some_and(|due_at| due_at <= now);
        let spent = is_spent && self.fail_spent(channel_id, key, now).await?;
        Ok(if spent { Claim::Spent } else { Claim::Taken })
    }

    /// Notes what came of the attempt that was claimed: when the next one is due, or how the delivery ends. `false`: it
    /// took so long that somebody else claimed it.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_attempt(
        &self,
        claimed: &Delivery,
        channel_id: ChannelId,
        attempt: &Attempt,
        next: Result<Timestamp, DeliveryState>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let attempt = AttributeValue::M(to_item(attempt)?);
        let request = self
            .delivery(channel_id, &claimed.alert_key)
            .condition_expression("delivery_state = :pending AND attempt = :claimed")
            .expression_attribute_values(":pending", word(DeliveryState::Pending))
            .expression_attribute_values(":claimed", number(claimed.attempt))
            .expression_attribute_values(":attempt", AttributeValue::L(vec![attempt]));
        let request = match next {
            Ok(again_at) => request
                .update_expression("SET attempts = list_append(attempts, :attempt), due_at = :again_at")
                .expression_attribute_values(":again_at", moment(again_at)),
            Err(state) => request
                .update_expression(
                    "SET attempts = list_append(attempts, :attempt), delivery_state = :state, ended_at = :now \
                     REMOVE due, due_at",
                )
                .expression_attribute_values(":state", word(state))
                .expression_attribute_values(":now", moment(now)),
        };
        Ok(matches!(update(request).await?, Write::Applied(_)))
    }

    /// Ends a delivery whose channel is gone. `false`: it has ended before.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn cancel_delivery(
        &self,
        channel_id: ChannelId,
        key: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let request = self
            .delivery(channel_id, key)
            .condition_expression("delivery_state = :pending")
            .update_expression("SET delivery_state = :canceled, ended_at = :now REMOVE due, due_at")
            .expression_attribute_values(":pending", word(DeliveryState::Pending))
            .expression_attribute_values(":canceled", word(DeliveryState::Canceled))
            .expression_attribute_values(":now", moment(now));
        Ok(matches!(update(request).await?, Write::Applied(_)))
    }

    /// Fails a delivery whose last attempt never came to an end.
    async fn fail_spent(&self, channel_id: ChannelId, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        let request = self
            .delivery(channel_id, key)
            .condition_expression("delivery_state = :pending AND due_at <= :now AND attempt >= :attempts")
            .update_expression("SET delivery_state = :failed, ended_at = :now REMOVE due, due_at")
            .expression_attribute_values(":pending", word(DeliveryState::Pending))
            .expression_attribute_values(":failed", word(DeliveryState::Failed))
            .expression_attribute_values(":attempts", number(ATTEMPTS))
            .expression_attribute_values(":now", moment(now));
        Ok(matches!(update(request).await?, Write::Applied(_)))
    }

    /// Ends a deleted channel's deliveries that wait, at most `limit`; how many. None of them would be sent in any case.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn cancel_deliveries(
        &self,
        channel_id: ChannelId,
        limit: i32,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let waiting = self.due(channel_id, limit, Timestamp::from_millis(i64::MAX)).await?;
        let cancel =
            waiting.into_iter().map(async |one| self.cancel_delivery(channel_id, &one.alert_key, now).await);
        count_of(stream::iter(cancel).buffer_unordered(WRITES_AT_ONCE).collect().await)
    }

    /// Queues a delivery again that has ended, by the id that its receiver knows: due now, with all of its attempts before
    /// it. `false`: it waits already, there is none, or it cannot be sent.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn requeue(
        &self,
        channel_id: ChannelId,
        key: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let request = self
            .delivery(channel_id, key)
            .condition_expression(
                "attribute_exists(alert_key) AND delivery_state <> :pending AND body <> :none",
            )
            .update_expression(
                "SET delivery_state = :pending, attempt = :zero, attempts = :empty, queued_at = :now, \
                     due = :channel, due_at = :now \
                 REMOVE ended_at",
            )
            .expression_attribute_values(":pending", word(DeliveryState::Pending))
            .expression_attribute_values(":none", string(""))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":empty", AttributeValue::L(Vec::new()))
            .expression_attribute_values(":channel", string(channel_id))
            .expression_attribute_values(":now", moment(now));
        Ok(matches!(update(request).await?, Write::Applied(_)))
    }

    /// Queues a channel's deliveries again that failed since then, the newest messages first, at most `limit`; how many.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses. Those that were queued are queued.
    pub async fn requeue_failed(
        &self,
        channel_id: ChannelId,
        since: Timestamp,
        limit: usize,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let (mut keys, mut next): (Vec<String>, Option<Item>) = (Vec::new(), None);
        loop {
            let request = self
                .client
                .query()
                .table_name(self.tables.alerts.get())
                .key_condition_expression("alert_log = :log")
                .filter_expression("delivery_state = :failed AND ended_at >= :since AND body <> :none")
                .projection_expression("alert_key")
                .expression_attribute_values(":log", string(deliveries_of(channel_id)))
                .expression_attribute_values(":failed", word(DeliveryState::Failed))
                .expression_attribute_values(":since", moment(since))
                .expression_attribute_values(":none", string(""))
                .scan_index_forward(false)
                .consistent_read(true)
                .set_exclusive_start_key(next);
            let output = request.send().await.map_err(|error| failure(&error))?;
            for row in output.items.unwrap_or_default() {
                keys.extend(row.get("alert_key").and_then(|key| key.as_s().ok()).cloned());
            }
            next = output.last_evaluated_key;
            if next.is_none() || keys.len() >= limit {
                break;
            }
        }
        keys.truncate(limit);
        let queue = keys.into_iter().map(async |key| self.requeue(channel_id, &key, now).await);
        count_of(stream::iter(queue).buffer_unordered(WRITES_AT_ONCE).collect().await)
    }

    /// A channel's deliveries before `before`, at most `limit`: what was told to it alone first, then by messages, the
    /// newest first. With a state it reads a bounded number of rows, so a page may be short and still have a next one.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn deliveries(
        &self,
        channel_id: ChannelId,
        state: Option<DeliveryState>,
        before: Option<&str>,
        limit: usize,
    ) -> Result<DeliveryPage, StoreError> {
        // Sorts after every key.
        let mut before = before.unwrap_or("~").to_owned();
        let (mut deliveries, mut read) = (Vec::new(), 0);
        loop {
            let at_once = (limit + 1).max(read).min(READ_PER_PAGE - read);
            let mut request = self
                .client
                .query()
                .table_name(self.tables.alerts.get())
                .key_condition_expression("alert_log = :log AND alert_key < :before")
                .expression_attribute_values(":log", string(deliveries_of(channel_id)))
                .expression_attribute_values(":before", string(&before))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(at_once).unwrap_or(i32::MAX));
            if let Some(state) = state {
                request = request
                    .filter_expression("delivery_state = :state")
                    .expression_attribute_values(":state", word(state));
            }
            let output = request.send().await.map_err(|error| failure(&error))?;
            read += usize::try_from(output.scanned_count).unwrap_or_default();
            for row in output.items.unwrap_or_default() {
                deliveries.push(from_item::<Delivery>(row)?);
            }
            let more = output.last_evaluated_key.and_then(|mut key| match key.remove("alert_key") {
                Some(AttributeValue::S(key)) => Some(key),
                _ => None,
            });
            if deliveries.len() > limit {
                deliveries.truncate(limit);
                let next = deliveries.last().map(|delivery| delivery.alert_key.clone());
                return Ok(DeliveryPage { deliveries, next });
            }
            match more {
                Some(last) if read < READ_PER_PAGE => before = last,
                next => return Ok(DeliveryPage { deliveries, next }),
            }
        }
    }

    fn delivery(&self, channel_id: ChannelId, key: &str) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(self.tables.alerts.get())
            .key("alert_log", string(deliveries_of(channel_id)))
            .key("alert_key", string(key))
    }

    /// `None`: it is too large for a row.
    async fn put_delivery(&self, delivery: &Delivery) -> Result<Option<bool>, StoreError> {
        let request = self
            .client
            .put_item()
            .table_name(self.tables.alerts.get())
            .set_item(Some(to_item(delivery)?))
            .condition_expression("attribute_not_exists(alert_key)");
        match request.send().await {
            Ok(_) => Ok(Some(true)),
            Err(SdkError::ServiceError(refused)) => match refused.into_err() {
                PutItemError::ConditionalCheckFailedException(_) => Ok(Some(false)),
                error if is_about_size(error.code(), error.message()) => Ok(None),
                error => Err(service_failure(&error)),
            },
            Err(error) => Err(failure(&error)),
        }
    }
}

/// How many of these came true.
fn count_of(outcomes: Vec<Result<bool, StoreError>>) -> Result<usize, StoreError> {
    outcomes.into_iter().try_fold(0, |count, outcome| Ok(count + usize::from(outcome?)))
}

fn word(state: DeliveryState) -> AttributeValue {
    string(state.as_str())
}

/// Whether an error says "Item size has exceeded the maximum allowed size".
fn is_about_size(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("ValidationException") && message.is_some_and(|it| it.to_lowercase().contains("item size"))
}
