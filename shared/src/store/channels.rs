//! Channels and their secrets: made, changed and deleted by operators, each in one transaction with its event.

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem, Update};
use serde_json::{Value, json};

use super::{Item, Races, Store, Transaction, Write};
use super::{broken, failure, from_item, moment, number, string, to_item, transact, update};
use crate::domain::channel::{
    CHANNELS_LIMIT, Channel, ChannelId, ChannelSecrets, ChannelState, SecretsPatch, Turn,
};
use crate::domain::delivery::Delivery;
use crate::domain::event::{Actor, kind};
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// The partition of the channels.
const LISTING: &str = "channels";

/// The row that counts them, in a partition of its own: 50 and no more, however many operators create at once.
const COUNT: (&str, &str) = ("count", "channels");

/// The partition of a channel's events.
fn events_of(channel_id: ChannelId) -> String {
    format!("channel#{channel_id}")
}

/// What events say of a channel: never where it sends to, nor by what it signs.
fn told(channel: &Channel) -> Value {
    json!({
        "kind": channel.kind,
        "label": channel.label,
        "concerns": channel.concerns,
        "board_id": channel.board_id,
        "state": channel.channel_state,
    })
}

/// What came of taking a turn.
#[derive(Debug)]
pub enum Taken {
    /// It is the caller's.
    Now,
    /// Not before then.
    TooSoon(Timestamp),
    /// There is no such channel.
    NoSuchChannel,
}

impl Store {
    /// Makes a channel, with its secrets, its first delivery and its event. `false`: there are [`CHANNELS_LIMIT`] already.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn create_channel(
        &self,
        channel: &Channel,
        secrets: &ChannelSecrets,
        hello: Option<&Delivery>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let limit = number(CHANNELS_LIMIT);
        let count =
            self.count_channels("attribute_not_exists(channels) OR channels < :limit", 1, Some(limit))?;
        let mut row = to_item(channel)?;
        row.insert("listing".to_owned(), string(LISTING));
        let put = Put::builder()
            .table_name(self.tables.channels.get())
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(channel_id)")
            .build()
            .map_err(broken)?;
        let put_secrets = Put::builder()
            .table_name(self.tables.secrets.get())
            .set_item(Some(to_item(secrets)?))
            .condition_expression("attribute_not_exists(channel_id)")
            .build()
            .map_err(broken)?;
        let event = self.record(
            events_of(channel.channel_id),
            kind::CHANNEL_CREATED,
            actor,
            &json!({ "before": null, "after": told(channel) }),
            now,
        );
        let mut races = Races::default();
        while races.again().await {
            let mut writes = vec![
                count.clone(),
                TransactWriteItem::builder().put(put.clone()).build(),
                TransactWriteItem::builder().put(put_secrets.clone()).build(),
                self.put_event(&event)?,
            ];
            writes.extend(hello.map(|hello| self.put_hello(hello)).transpose()?);
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(true),
                Transaction::Refused(0, _) => return Ok(false),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// The write that counts one channel more or less.
    fn count_channels(
        &self,
        condition: &str,
        by: i32,
        limit: Option<AttributeValue>,
    ) -> Result<TransactWriteItem, StoreError> {
        let (listing, name) = COUNT;
        let update = Update::builder()
            .table_name(self.tables.channels.get())
            .key("listing", string(listing))
            .key("channel_id", string(name))
            .condition_expression(condition)
            .update_expression("ADD channels :by")
            .expression_attribute_values(":by", number(by));
        let update = match limit {
            Some(limit) => update.expression_attribute_values(":limit", limit),
            None => update,
        };
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }

    /// Every channel, in no order that means something, by consistent reads: one for all of them.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn channels(&self) -> Result<Vec<Channel>, StoreError> {
        let (mut channels, mut next): (Vec<Channel>, Option<Item>) = (Vec::new(), None);
        loop {
            let request = self
                .client
                .query()
                .table_name(self.tables.channels.get())
                .key_condition_expression("listing = :listing")
                .expression_attribute_values(":listing", string(LISTING))
                .consistent_read(true)
                .set_exclusive_start_key(next);
            let output = request.send().await.map_err(|error| failure(&error))?;
            for row in output.items.unwrap_or_default() {
                channels.push(from_item(row)?);
            }
            next = output.last_evaluated_key;
            if next.is_none() {
                return Ok(channels);
            }
        }
    }

    /// A channel, by one consistent read.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn channel(&self, channel_id: ChannelId) -> Result<Option<Channel>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.channels.get())
            .key("listing", string(LISTING))
            .key("channel_id", string(channel_id))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.item.map(from_item::<Channel>).transpose()
    }

    /// A channel's address and signing secrets, by one consistent read.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn channel_secrets(&self, channel_id: ChannelId) -> Result<Option<ChannelSecrets>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.secrets.get())
            .key("channel_id", string(channel_id))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.item.map(from_item::<ChannelSecrets>).transpose()
    }

    /// Notes that a channel's receiver took something, and since when it has failed again, if it has. A channel that is
    /// gone is none of its business.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_success(
        &self,
        channel_id: ChannelId,
        last_ok_at: Timestamp,
        failing_since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let request = self
            .channel_update(channel_id)
            .condition_expression("attribute_exists(channel_id)")
            .expression_attribute_values(":ok_at", moment(last_ok_at));
        let request = match failing_since {
            None => request.update_expression("SET last_ok_at = :ok_at REMOVE failing_since"),
            Some(since) => request
                .update_expression("SET last_ok_at = :ok_at, failing_since = :since")
                .expression_attribute_values(":since", moment(since)),
        };
        update(request).await.map(|_| ())
    }

    /// Notes that a channel's receiver took nothing since `since`, unless that is known or it took something after; the
    /// channel as it is then.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_failure(
        &self,
        channel_id: ChannelId,
        since: Timestamp,
    ) -> Result<Option<Channel>, StoreError> {
        let request = self
            .channel_update(channel_id)
            .condition_expression(
                "attribute_exists(channel_id) AND (attribute_not_exists(last_ok_at) OR last_ok_at <= :since)",
            )
            .update_expression("SET failing_since = if_not_exists(failing_since, :since)")
            .expression_attribute_values(":since", moment(since));
        match update(request).await? {
            Write::Applied(row) => Ok(Some(from_item(row)?)),
            Write::Refused(_) | Write::Conflicted => Ok(None),
        }
    }

    /// Disables an enabled channel, with its event. `false`: it is not as it was read, so there is nothing to do.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn disable_channel(
        &self,
        channel: &Channel,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let update = Update::builder()
            .table_name(self.tables.channels.get())
            .key("listing", string(LISTING))
            .key("channel_id", string(channel.channel_id))
            .condition_expression("channel_state = :enabled AND updated_at = :seen")
            .update_expression("SET channel_state = :disabled, disabled_reason = :reason")
            .expression_attribute_values(":enabled", string(ChannelState::Enabled.as_str()))
            .expression_attribute_values(":disabled", string(ChannelState::Disabled.as_str()))
            .expression_attribute_values(":seen", moment(channel.updated_at))
            .expression_attribute_values(":reason", string(reason))
            .build()
            .map_err(broken)?;
        let after = Channel { channel_state: ChannelState::Disabled, ..channel.clone() };
        let payload = json!({ "before": told(channel), "after": told(&after), "reason": reason });
        let partition = events_of(channel.channel_id);
        let event = self.record(partition, kind::CHANNEL_DISABLED, Actor::System, &payload, now);
        let mut races = Races::default();
        while races.again().await {
            let writes =
                vec![TransactWriteItem::builder().update(update.clone()).build(), self.put_event(&event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(true),
                Transaction::Refused(..) => return Ok(false),
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    fn channel_update(&self, channel_id: ChannelId) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(self.tables.channels.get())
            .key("listing", string(LISTING))
            .key("channel_id", string(channel_id))
    }

    fn put_hello(&self, hello: &Delivery) -> Result<TransactWriteItem, StoreError> {
        let put = Put::builder()
            .table_name(self.tables.alerts.get())
            .set_item(Some(to_item(hello)?))
            .condition_expression("attribute_not_exists(alert_key)");
        Ok(TransactWriteItem::builder().put(put.build().map_err(broken)?).build())
    }

    /// Changes a channel that is still as it was read, with its secrets and its event, and queues its greeting if it begins
    /// to hear again. `false`: somebody else was first.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every conflict.
    pub async fn update_channel(
        &self,
        before: &Channel,
        after: &Channel,
        secrets: &SecretsPatch,
        hello: Option<&Delivery>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let change = self.channel_change(before, after)?;
        let change_secrets = self.secrets_change(after.channel_id, secrets)?;
        let payload = json!({
            "before": told(before),
            "after": told(after),
            "url_changed": secrets.target_url.is_some(),
            "secret_rotated": secrets.signing_secret.is_some(),
        });
        let event = self.record(events_of(after.channel_id), kind::CHANNEL_UPDATED, actor, &payload, now);
        let mut races = Races::default();
        while races.again().await {
            let mut writes = vec![change.clone(), self.put_event(&event)?];
            writes.extend(change_secrets.clone());
            writes.extend(hello.map(|hello| self.put_hello(hello)).transpose()?);
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(true),
                Transaction::Refused(..) => return Ok(false),
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// Every field that operators change, as it is in `after`. What `deliver` notes is left alone, but forgotten together
    /// with a state.
    fn channel_change(&self, before: &Channel, after: &Channel) -> Result<TransactWriteItem, StoreError> {
        let mut set = vec![
            "concerns = :concerns",
            "target = :target",
            "channel_state = :state",
            "heard_from = :heard_from",
            "hears_since = :hears_since",
            "updated_at = :updated_at",
        ];
        let mut remove = Vec::new();
        let mut update = Update::builder()
            .table_name(self.tables.channels.get())
            .key("listing", string(LISTING))
            .key("channel_id", string(after.channel_id))
            .condition_expression("updated_at = :seen AND channel_state = :seen_state")
            .expression_attribute_values(":seen", moment(before.updated_at))
            .expression_attribute_values(":seen_state", string(before.channel_state.as_str()))
            .expression_attribute_values(
                ":concerns",
                AttributeValue::L(after.concerns.iter().map(|concern| string(concern.as_str())).collect()),
            )
            .expression_attribute_values(":target", string(&after.target))
            .expression_attribute_values(":state", string(after.channel_state.as_str()))
            .expression_attribute_values(":heard_from", number(after.heard_from))
            .expression_attribute_values(":hears_since", moment(after.hears_since))
            .expression_attribute_values(":updated_at", moment(after.updated_at));
        match &after.label {
            Some(label) => {
                set.push("label = :label");
                update = update.expression_attribute_values(":label", string(label));
            }
            None => remove.push("label"),
        }
        match after.board_id {
            Some(board_id) => {
                set.push("board_id = :board_id");
                update = update.expression_attribute_values(":board_id", string(board_id));
            }
            None => remove.push("board_id"),
        }
        if after.channel_state != before.channel_state {
            remove.extend(["disabled_reason", "disabled_told", "failing_since"]);
        }
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression.push_str(" REMOVE ");
            expression.push_str(&remove.join(", "));
        }
        let update = update.update_expression(expression).build().map_err(broken)?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// The write of a channel's secrets, which reads none of them: the secret becomes the previous one in the write itself.
    fn secrets_change(
        &self,
        channel_id: ChannelId,
        secrets: &SecretsPatch,
    ) -> Result<Option<TransactWriteItem>, StoreError> {
        if secrets.is_empty() {
            return Ok(None);
        }
        let mut set = Vec::new();
        let mut update = Update::builder()
            .table_name(self.tables.secrets.get())
            .key("channel_id", string(channel_id))
            .condition_expression("attribute_exists(channel_id)");
        if let Some(url) = &secrets.target_url {
            set.push("target_url = :url");
            update = update.expression_attribute_values(":url", string(url));
        }
        if let Some((secret, previous_ends)) = &secrets.signing_secret {
            set.push(
                "previous_secret = signing_secret, previous_secret_ends = :ends, signing_secret = :secret",
            );
            update = update
                .expression_attribute_values(":ends", moment(*previous_ends))
                .expression_attribute_values(":secret", string(secret));
        }
        let update = update.update_expression(format!("SET {}", set.join(", "))).build().map_err(broken)?;
        Ok(Some(TransactWriteItem::builder().update(update).build()))
    }

    /// Takes a turn, if its pause is over: one conditional write.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn take_turn(
        &self,
        channel_id: ChannelId,
        turn: Turn,
        now: Timestamp,
    ) -> Result<Taken, StoreError> {
        let (condition, set) = match turn {
            Turn::Test => (
                "attribute_exists(channel_id) AND (attribute_not_exists(tested_at) OR tested_at <= :before)",
                "SET tested_at = :now",
            ),
            Turn::Redelivery => (
                "attribute_exists(channel_id) AND (attribute_not_exists(redelivered_at) OR redelivered_at <= :before)",
                "SET redelivered_at = :now",
            ),
        };
        let request = self
            .channel_update(channel_id)
            .condition_expression(condition)
            .update_expression(set)
            .expression_attribute_values(":now", moment(now))
            .expression_attribute_values(":before", moment(now.minus(turn.pause())));
        match update(request).await? {
            Write::Applied(_) => Ok(Taken::Now),
            Write::Refused(None) => Ok(Taken::NoSuchChannel),
            Write::Refused(Some(row)) => {
                let channel: Channel = from_item(row)?;
                let last = match turn {
                    Turn::Test => channel.tested_at,
                    Turn::Redelivery => channel.redelivered_at,
                };
                Ok(Taken::TooSoon(last.map_or(now, |last| last.plus(turn.pause()))))
            }
            Write::Conflicted => Ok(Taken::TooSoon(now)),
        }
    }

    /// Deletes a channel and its secrets, with the event. `false`: there is none. Its deliveries stay until they expire.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn delete_channel(
        &self,
        channel_id: ChannelId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let Some(channel) = self.channel(channel_id).await? else { return Ok(false) };
            let delete = Delete::builder()
                .table_name(self.tables.channels.get())
                .key("listing", string(LISTING))
                .key("channel_id", string(channel_id))
                .condition_expression("updated_at = :seen")
                .expression_attribute_values(":seen", moment(channel.updated_at))
                .build()
                .map_err(broken)?;
            let delete_secrets = Delete::builder()
                .table_name(self.tables.secrets.get())
                .key("channel_id", string(channel_id))
                .build()
                .map_err(broken)?;
            let payload = json!({ "before": told(&channel), "after": null });
            let event = self.record(events_of(channel_id), kind::CHANNEL_DELETED, actor, &payload, now);
            let writes = vec![
                TransactWriteItem::builder().delete(delete).build(),
                TransactWriteItem::builder().delete(delete_secrets).build(),
                self.count_channels("attribute_exists(channels)", -1, None)?,
                self.put_event(&event)?,
            ];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(true),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}
