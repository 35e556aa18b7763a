//! Deliveries: queued once for each message and channel.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;

use super::{Store, failure, service_failure, to_item};
use crate::domain::channel::Channel;
use crate::domain::delivery::Delivery;
use crate::domain::failure::StoreError;
use crate::domain::notification::Notification;
use crate::domain::rendering::render;
use crate::time::Timestamp;

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

/// Whether an error says "Item size has exceeded the maximum allowed size".
fn is_about_size(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("ValidationException") && message.is_some_and(|it| it.to_lowercase().contains("item size"))
}
