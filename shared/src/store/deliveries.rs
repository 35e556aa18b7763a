//! Deliveries: queued once for each message and channel, claimed before each attempt, and noted after it.
//!
//! A claim makes the delivery due again in a minute. Whoever dies between claim and note costs that minute, and its
//! receiver may see the message twice, by one id.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Deserialize;

use super::{Store, Write};
use super::{failure, from_item, moment, number, service_failure, string, to_item, update};
use crate::domain::channel::{Channel, ChannelId};
use crate::domain::delivery::{ATTEMPTS, Attempt, CLAIM, Delivery, DeliveryState};
use crate::domain::failure::StoreError;
use crate::domain::notification::{Notification, deliveries_of};
use crate::domain::rendering::render;
use crate::time::Timestamp;

/// The index of what is due, by channel.
const INDEX: &str = "by_due";

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
        let body = render(channel.kind, notification);
        let retention = *self.alert_retention.get();
        let message_type = &notification.message_type;
        let delivery = Delivery::new(channel.channel_id, key, message_type, body, retention, now);
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

fn word(state: DeliveryState) -> AttributeValue {
    string(state.as_str())
}

/// Whether an error says "Item size has exceeded the maximum allowed size".
fn is_about_size(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("ValidationException") && message.is_some_and(|it| it.to_lowercase().contains("item size"))
}
