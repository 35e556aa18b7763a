//! What is known of an agent's processes: a partition of its own beside the agent's events, `boots#<agent id>`, with a row
//! for each boot id that was replaced, and one for the last that returned. Among the events themselves a thousand others
//! could stand before it.

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use serde::{Deserialize, Serialize};

use super::Store;
use super::{broken, failure, from_item, string, to_item};
use crate::domain::agent::{Agent, AgentId};
use crate::domain::boot::{Boot, BootId, known_for, returns_within};
use crate::domain::event::expiry;
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// The key of the row that says when an id returned.
const RETURNED: &str = "returned";

/// When the row of an agent took another id in the place of this one; or when an id returned.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(rename = "agent_id")]
    partition: String,
    #[serde(rename = "event_id")]
    about: String,
    noted_at: Timestamp,
    expires_at: i64,
}

fn partition(agent_id: AgentId) -> String {
    format!("boots#{agent_id}")
}

impl Store {
    /// What the boot id of a call means to this row. One read if it is another than the row's; one more if it was there
    /// before.
    pub(super) async fn boot(
        &self,
        boot_id: Option<BootId>,
        agent: &Agent,
        now: Timestamp,
    ) -> Result<Boot, StoreError> {
        let another = boot_id.filter(|_| Boot::is_another(boot_id, agent, now));
        let replaced = match another {
            Some(another) => self.boot_note(agent.agent_id, &another.to_string(), now).await?,
            None => None,
        };
        let boot = Boot::of(boot_id, agent, replaced, None, now);
        if !boot.is_return() {
            return Ok(boot);
        }
        let returned = self.boot_note(agent.agent_id, RETURNED, now).await?;
        Ok(Boot::of(boot_id, agent, replaced, returned, now))
    }

    async fn boot_note(
        &self,
        agent_id: AgentId,
        about: &str,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.events.get())
            .key("agent_id", string(partition(agent_id)))
            .key("event_id", string(about))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        let note = output.item.map(from_item::<Note>).transpose()?;
        Ok(note.filter(|note| note.expires_at > now.as_seconds()).map(|note| note.noted_at))
    }

    /// What is noted as part of the transaction in which the row takes another id.
    pub(super) fn boot_notes(
        &self,
        agent: &Agent,
        boot: Boot,
        now: Timestamp,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let interval = agent.interval();
        let replaced = agent.boot.filter(|_| boot.replaces().is_some()).map(|id| id.to_string());
        let returned = boot.is_return().then(|| RETURNED.to_owned());
        let notes = [(replaced, known_for(interval)), (returned, returns_within(interval))];
        let put = |(about, kept_for)| {
            let note = Note {
                partition: partition(agent.agent_id),
                about,
                noted_at: now,
                expires_at: expiry(now, kept_for),
            };
            let put =
                Put::builder().table_name(self.tables.events.get()).set_item(Some(to_item(&note)?)).build();
            Ok(TransactWriteItem::builder().put(put.map_err(broken)?).build())
        };
        notes.into_iter().filter_map(|(about, kept_for)| Some((about?, kept_for))).map(put).collect()
    }
}
