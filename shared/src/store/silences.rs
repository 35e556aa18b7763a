//! Silences: rows beside the channels. An ended one is removed by its time to live.

use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Item, Races, Store, Transaction};
use super::{broken, failure, from_item, moment, number, string, to_item, transact};
use crate::domain::change::Changed;
use crate::domain::event::{Actor, kind};
use crate::domain::failure::StoreError;
use crate::domain::silence::{SILENCES_LIMIT, Silence};
use crate::domain::token::Operator;
use crate::time::Timestamp;

/// The partition of the silences.
const LISTING: &str = "silences";

/// The row that counts those that were made and not removed, in a partition of its own, as that of the channels.
const COUNT: (&str, &str) = ("count", "silences");

/// What came of making a silence.
#[derive(Debug, PartialEq, Eq)]
pub enum Silenced {
    /// It is made.
    Done,
    /// There are [`SILENCES_LIMIT`] already.
    TooMany,
}

fn told(silence: &Silence) -> Value {
    json!({ "scope": silence.scope, "reason": silence.reason, "ends_at": silence.ends_at.to_string() })
}

impl Store {
    /// The silences that have not ended: one query.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn silences(&self, now: Timestamp) -> Result<Vec<Silence>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.channels.get())
            .key_condition_expression("listing = :listing")
            .filter_expression("ends_at > :now")
            .expression_attribute_values(":listing", string(LISTING))
            .expression_attribute_values(":now", moment(now))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.items.unwrap_or_default().into_iter().map(from_item).collect()
    }

    /// Makes a silence, with its event. The limit is on those that have not ended.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn create_silence(
        &self,
        silence: &Silence,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Silenced, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            // First: whoever makes one after this read is counted below, or makes this attempt lose its race.
            let made = self.silences_made().await?;
            if self.silences(now).await?.len() >= SILENCES_LIMIT {
                return Ok(Silenced::TooMany);
            }
            let mut row = to_item(silence)?;
            row.insert("listing".to_owned(), string(LISTING));
            row.insert("channel_id".to_owned(), string(silence.silence_id));
            row.insert("expires_at".to_owned(), number(silence.ends_at.as_seconds()));
            let put = Put::builder().table_name(self.tables.channels.get()).set_item(Some(row));
            // Whoever makes one at the same time loses this race and counts anew.
            let (listing, name) = COUNT;
            let count = Update::builder()
                .table_name(self.tables.channels.get())
                .key("listing", string(listing))
                .key("channel_id", string(name))
                .condition_expression("made = :seen OR (attribute_not_exists(made) AND :seen = :zero)")
                .update_expression("SET made = :next")
                .expression_attribute_values(":seen", number(made))
                .expression_attribute_values(":next", number(made + 1))
                .expression_attribute_values(":zero", number(0))
                .build()
                .map_err(broken)?;
            let payload = json!({ "before": null, "after": told(silence) });
            let event = self.record(
                format!("silence#{}", silence.silence_id),
                kind::SILENCE_CREATED,
                actor,
                &payload,
                now,
            );
            let writes = vec![
                TransactWriteItem::builder().update(count).build(),
                TransactWriteItem::builder().put(put.build().map_err(broken)?).build(),
                self.put_event(&event)?,
            ];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(Silenced::Done),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    async fn silences_made(&self) -> Result<u64, StoreError> {
        let (listing, name) = COUNT;
        let request = self
            .client
            .get_item()
            .table_name(self.tables.channels.get())
            .key("listing", string(listing))
            .key("channel_id", string(name))
            .consistent_read(true);
        let row: Item = request.send().await.map_err(|error| failure(&error))?.item.unwrap_or_default();
        Ok(row.get("made").and_then(|made| made.as_n().ok()?.parse().ok()).unwrap_or(0))
    }

    /// Ends a silence, with its event. One that has ended stays so.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn delete_silence(
        &self,
        silence_id: Uuid,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed<()>, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let silences = self.silences(now).await?;
            let Some(silence) = silences.iter().find(|silence| silence.silence_id == silence_id) else {
                return Ok(Changed::Done(()));
            };
            if !operator.reaches(silence.board_id) {
                return Ok(Changed::Foreign);
            }
            let delete = Delete::builder()
                .table_name(self.tables.channels.get())
                .key("listing", string(LISTING))
                .key("channel_id", string(silence_id))
                .condition_expression("attribute_exists(channel_id)")
                .build()
                .map_err(broken)?;
            let payload = json!({ "before": told(silence), "after": null });
            let partition = format!("silence#{silence_id}");
            let event = self.record(partition, kind::SILENCE_DELETED, operator.actor(), &payload, now);
            let writes = vec![TransactWriteItem::builder().delete(delete).build(), self.put_event(&event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(Changed::Done(())),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}
