//! Telling: the messages, numbered without a gap, and what the sweep keeps from one time to the next.
//!
//! A message and the marks of its agents are one transaction on the number before: two sweeps at once tell once, and a
//! crash between deciding and telling leaves the rows untold, for the next sweep to tell.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem, Update};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};

use super::{Item, Races, Store, Transaction, Write};
use super::{broken, failure, from_item, moment, number, string, to_item, transact, update};
use crate::domain::agent::{Agent, AgentId, AgentName};
use crate::domain::channel::{Channel, ChannelId};
use crate::domain::concern::Told;
use crate::domain::event::{Actor, Event, expiry, kind};
use crate::domain::failure::StoreError;
use crate::domain::fleet::Fleet;
use crate::domain::hearing::Hearing;
use crate::domain::ids::BoardId;
use crate::domain::message::{Message, View};
use crate::domain::notification::{CONTROL, MESSAGES, seq_key};
use crate::domain::pace::Pace;
use crate::domain::watch::Cause;
use crate::time::Timestamp;

/// The sort key of the row that the sweep keeps its own state in, and that of the fleet's summary: a row of its own, since
/// a control row that grew too large would end all alerts.
const CONTROL_ROW: &str = "control";
const FLEET_ROW: &str = "fleet";

/// The partition of agents that were removed after something was told of them.
const GONE: &str = "gone";

/// The most marks within a message's transaction, of the 100 writes that DynamoDB takes; and where something ends:
/// living agents send heartbeats, and collide.
const MARKS_WHERE_IT_BEGINS: usize = 90;
const MARKS_WHERE_IT_ENDS: usize = 25;

/// Marks at once, after a message of more.
const MARKS_AT_ONCE: usize = 64;

/// How many messages or rows one query reads.
const PAGE: i32 = 200;

/// How many of an agent's events are looked at for its history.
const EVENTS_LOOKED_AT: i32 = 300;

/// The places in a message's transaction of the number and of the message; the marks follow.
const SEQ: usize = 0;
const MESSAGE: usize = 1;

/// What the sweep keeps from one time to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The number of the last message.
    #[serde(default)]
    pub seq: u64,
    /// The last message that was handed to every channel.
    #[serde(default)]
    pub fanned_seq: u64,
    /// The pace of the messages.
    #[serde(flatten)]
    pub pace: Pace,
    /// What is known of our own hearing.
    #[serde(flatten)]
    pub hearing: Hearing,
    /// Where each segment goes on, after a sweep that stopped early: the key of the last agent that it read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, String>,
}

/// An agent that was removed after something was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its id.
    #[serde(rename = "alert_key")]
    pub agent_id: AgentId,
    /// Its name.
    pub agent_name: AgentName,
    /// Its board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// What was told of it.
    pub alerted: Told,
}

/// What a message changes of an agent of which it tells.
#[derive(Clone, Debug)]
pub enum Mark {
    /// Its row's mark, conditional on what was read.
    Row {
        /// Whose.
        agent_id: AgentId,
        /// The mark that was read.
        was: Told,
        /// The announcement that was read.
        offline_since: Option<Timestamp>,
        /// The mark afterwards.
        becomes: Told,
    },
    /// The trace of a removed agent goes.
    Gone(AgentId),
}

/// What came of telling.
#[derive(Debug, PartialEq, Eq)]
pub enum Telling {
    /// It is told; the control row as it is now.
    Done,
    /// Somebody else told the next message: this sweep tells nothing more.
    Overtaken,
    /// Nothing was left to tell.
    Nothing,
}

impl Store {
    /// What the last sweep left: one consistent read.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn control(&self) -> Result<Control, StoreError> {
        let row = self.alerts_row(CONTROL, CONTROL_ROW).await?;
        row.map_or_else(|| Ok(Control::default()), from_item)
    }

    /// Writes the row of the canary, whole: whatever was there is another environment's.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn put_canary(&self, canary: &Agent) -> Result<(), StoreError> {
        let row = to_item(canary)?;
        let request = self.client.put_item().table_name(self.tables.agents.get()).set_item(Some(row));
        request.send().await.map(|_| ()).map_err(|error| failure(&error))
    }

    /// Notes that the other channels are told that this one is disabled. `false`: they were told before, or it is not
    /// disabled any more.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_disabled_told(&self, channel_id: ChannelId) -> Result<bool, StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(self.tables.channels.get())
            .key("listing", string("channels"))
            .key("channel_id", string(channel_id))
            .condition_expression("channel_state = :disabled AND attribute_not_exists(disabled_told)")
            .update_expression("SET disabled_told = :true")
            .expression_attribute_values(":disabled", string("disabled"))
            .expression_attribute_values(":true", AttributeValue::Bool(true));
        Ok(matches!(update(request).await?, Write::Applied(_)))
    }

    async fn alerts_row(&self, log: &str, key: &str) -> Result<Option<Item>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.alerts.get())
            .key("alert_log", string(log))
            .key("alert_key", string(key))
            .consistent_read(true);
        Ok(request.send().await.map_err(|error| failure(&error))?.item)
    }

    /// Writes the fleet's summary, unless a newer one is there.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn put_fleet(&self, fleet: &Fleet) -> Result<(), StoreError> {
        let mut row = to_item(fleet)?;
        row.insert("alert_log".to_owned(), string(CONTROL));
        row.insert("alert_key".to_owned(), string(FLEET_ROW));
        let request = self
            .client
            .put_item()
            .table_name(self.tables.alerts.get())
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(as_of) OR as_of < :as_of")
            .expression_attribute_values(":as_of", moment(fleet.as_of));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// Keeps what a sweep learnt of our hearing, and how far it came, unless another sweep was faster.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn keep_hearing(
        &self,
        read: &Hearing,
        hearing: &Hearing,
        cursors: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let mut values = to_item(hearing)?;
        values.insert("cursors".to_owned(), serde_dynamo::to_attribute_value(cursors).map_err(broken)?);
        let request = self.control_row().condition_expression(match read.heard_at {
            Some(_) => "heard_at = :seen",
            None => "attribute_not_exists(heard_at)",
        });
        let request = match read.heard_at {
            Some(seen) => request.expression_attribute_values(":seen", moment(seen)),
            None => request,
        };
        let names = ["heard_at", "deaf_since", "windows", "cursors"];
        let (set, remove): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| values.contains_key(*name));
        let set: Vec<String> = set.iter().map(|name| format!("{name} = :{name}")).collect();
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression = format!("{expression} REMOVE {}", remove.join(", "));
        }
        let mut request = request.update_expression(expression);
        for name in names {
            if let Some(value) = values.remove(name) {
                request = request.expression_attribute_values(format!(":{name}"), value);
            }
        }
        match update(request).await? {
            Write::Applied(_) | Write::Refused(_) | Write::Conflicted => Ok(()),
        }
    }

    fn control_row(&self) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(self.tables.alerts.get())
            .key("alert_log", string(CONTROL))
            .key("alert_key", string(CONTROL_ROW))
    }

    /// Tells a message: its number, the message and its agents' marks in one transaction. Of more marks than that takes,
    /// the message goes first and the marks after it.
    ///
    /// `message` makes the message of those marks, by their places, that still hold: who has come back is left out.
    /// `deaf_told` is written with it, if given.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn tell(
        &self,
        control: &mut Control,
        marks: &[Mark],
        pace: &Pace,
        deaf_told: Option<bool>,
        message: impl Fn(&[usize]) -> Message,
    ) -> Result<Telling, StoreError> {
        let ends = |mark: &Mark| !matches!(mark, Mark::Row { becomes, .. } if *becomes != Told::NOTHING);
        let limit = if marks.iter().any(ends) { MARKS_WHERE_IT_ENDS } else { MARKS_WHERE_IT_BEGINS };
        let at_once = marks.len() <= limit;
        let mut places: Vec<usize> = (0..marks.len()).collect();
        let mut races = Races::default();
        while races.again().await {
            if places.is_empty() && !marks.is_empty() {
                return Ok(Telling::Nothing);
            }
            let told = message(&places);
            let mut writes = vec![self.next_seq(control.seq, pace, deaf_told)?, self.put_message(&told)?];
            if at_once {
                for place in &places {
                    writes.push(self.mark(&marks[*place])?);
                }
            }
            match transact(&self.client, writes).await? {
                Transaction::Applied => {
                    control.seq = told.seq;
                    control.pace = pace.clone();
                    control.hearing.deaf_told = deaf_told.unwrap_or(control.hearing.deaf_told);
                    if !at_once {
                        self.mark_each(marks).await;
                    }
                    return Ok(Telling::Done);
                }
                Transaction::Refused(SEQ | MESSAGE, _) => return Ok(Telling::Overtaken),
                Transaction::Refused(place, _) => {
                    // It has come back, or somebody told it: without it, once more. That is no lost race.
                    places.remove(place - MESSAGE - 1);
                    races = Races::default();
                }
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// Records that the work of these agents does not get further, after it was told: at most once.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_stalls(
        &self,
        agents: impl Iterator<Item = AgentId>,
        seq: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for agent_id in agents {
            let payload = serde_json::json!({ "seq": seq });
            let event = self.record(agent_id, kind::AGENT_STALLED, Actor::System, &payload, now);
            transact(&self.client, vec![self.put_event(&event)?]).await?;
        }
        Ok(())
    }

    fn next_seq(
        &self,
        old: u64,
        pace: &Pace,
        deaf_told: Option<bool>,
    ) -> Result<TransactWriteItem, StoreError> {
        let mut set = vec!["seq = :new", "recent = :recent"];
        let mut values = to_item(pace)?;
        let mut update = Update::builder()
            .table_name(self.tables.alerts.get())
            .key("alert_log", string(CONTROL))
            .key("alert_key", string(CONTROL_ROW))
            .condition_expression("seq = :old OR (attribute_not_exists(seq) AND :old = :zero)")
            .expression_attribute_values(":old", number(old))
            .expression_attribute_values(":new", number(old + 1))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(
                ":recent",
                values.remove("recent").unwrap_or(AttributeValue::L(Vec::new())),
            );
        for (name, clause) in
            [("quiet_until", "quiet_until = :quiet_until"), ("incident", "incident = :incident")]
        {
            if let Some(value) = values.remove(name) {
                set.push(clause);
                update = update.expression_attribute_values(format!(":{name}"), value);
            }
        }
        if let Some(deaf_told) = deaf_told {
            set.push("deaf_told = :deaf_told");
            update = update.expression_attribute_values(":deaf_told", AttributeValue::Bool(deaf_told));
        }
        let update = update.update_expression(format!("SET {}", set.join(", ")));
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }

    fn put_message(&self, message: &Message) -> Result<TransactWriteItem, StoreError> {
        let content = serde_json::to_string(message).map_err(broken)?;
        let row = Item::from([
            ("alert_log".to_owned(), string(MESSAGES)),
            ("alert_key".to_owned(), string(seq_key(message.seq))),
            ("content".to_owned(), string(content)),
            ("expires_at".to_owned(), number(expiry(message.at, *self.alert_retention.get()))),
        ]);
        let put = Put::builder()
            .table_name(self.tables.alerts.get())
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(alert_key)");
        Ok(TransactWriteItem::builder().put(put.build().map_err(broken)?).build())
    }

    /// The mark as part of the message's transaction: conditional on all that was read.
    fn mark(&self, mark: &Mark) -> Result<TransactWriteItem, StoreError> {
        let Mark::Row { agent_id, was, offline_since, becomes } = mark else {
            let Mark::Gone(agent_id) = mark else { return Err(StoreError::Broken("no mark".to_owned())) };
            let delete = Delete::builder()
                .table_name(self.tables.alerts.get())
                .key("alert_log", string(GONE))
                .key("alert_key", string(agent_id))
                .condition_expression("attribute_exists(alert_key)");
            return Ok(TransactWriteItem::builder().delete(delete.build().map_err(broken)?).build());
        };
        let since = match offline_since {
            Some(_) => "offline_since = :since",
            None => "attribute_not_exists(offline_since)",
        };
        let mut update = Update::builder()
            .table_name(self.tables.agents.get())
            .key("agent_id", string(agent_id))
            .condition_expression(format!("{} AND {since}", is_marked(*was)))
            .update_expression(marked(*becomes))
            .set_expression_attribute_values(mark_values(*was, *becomes));
        if let Some(since) = offline_since {
            update = update.expression_attribute_values(":since", moment(*since));
        }
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }

    /// The marks after a message of many, conditional on the mark alone. What fails is told again by the next sweep.
    pub async fn mark_each(&self, marks: &[Mark]) {
        let mark = async |mark: &Mark| match mark {
            Mark::Row { agent_id, was, becomes, .. } => {
                let request = self
                    .client
                    .update_item()
                    .table_name(self.tables.agents.get())
                    .key("agent_id", string(agent_id))
                    .condition_expression(is_marked(*was))
                    .update_expression(marked(*becomes))
                    .set_expression_attribute_values(mark_values(*was, *becomes));
                let mut races = Races::default();
                while races.again().await {
                    if !matches!(update(request.clone()).await, Ok(Write::Conflicted)) {
                        break;
                    }
                }
            }
            Mark::Gone(agent_id) => {
                let request = self
                    .client
                    .delete_item()
                    .table_name(self.tables.alerts.get())
                    .key("alert_log", string(GONE))
                    .key("alert_key", string(agent_id));
                let _told_again = request.send().await;
            }
        };
        stream::iter(marks).map(mark).buffer_unordered(MARKS_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Hands every message that was told since the last time to each channel that hears it. Handing over is once for
    /// each channel and message, so that a crash in between costs nothing.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses. The next sweep goes on.
    pub async fn fan_out(
        &self,
        control: &mut Control,
        channels: &[Channel],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut queued = 0;
        while control.fanned_seq < control.seq {
            let messages = self.messages_after(control.fanned_seq, PAGE).await?;
            let Some(last) = messages.last().map(|message| message.seq) else { break };
            for message in &messages {
                for channel in channels {
                    queued += u64::from(self.hand_over(message, channel, now).await?);
                }
            }
            let request = self
                .control_row()
                .condition_expression("attribute_not_exists(fanned_seq) OR fanned_seq < :fanned")
                .update_expression("SET fanned_seq = :fanned")
                .expression_attribute_values(":fanned", number(last));
            match update(request).await? {
                Write::Applied(_) | Write::Refused(_) | Write::Conflicted => control.fanned_seq = last,
            }
        }
        Ok(queued)
    }

    /// Hands a channel that began to hear a moment ago what was told since the summary that it was greeted with. The
    /// messages up to `control.fanned_seq` were handed out already, to channels that were read before this one was there.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses. The next sweep goes on, if its caller says that this one did not end.
    pub async fn catch_up(
        &self,
        control: &Control,
        channel: &Channel,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut seq = channel.heard_from;
        while seq < control.fanned_seq {
            let messages = self.messages_after(seq, PAGE).await?;
            let Some(last) = messages.last().map(|message| message.seq) else { break };
            for message in &messages {
                self.hand_over(message, channel, now).await?;
            }
            seq = last;
        }
        Ok(())
    }

    /// Queues a message for a channel that hears it, once. `false`: it was queued before, or the channel does not hear it.
    async fn hand_over(
        &self,
        message: &Message,
        channel: &Channel,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if !channel.is_enabled() || message.seq <= channel.heard_from {
            return Ok(false);
        }
        let view = View { board_id: channel.board_id, concerns: Some(channel) };
        match message.seen_by(view) {
            Some(notification) => self.enqueue(channel, &seq_key(message.seq), &notification, now).await,
            None => Ok(false),
        }
    }

    /// At most `limit` messages after this number, oldest first.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn messages_after(&self, seq: u64, limit: i32) -> Result<Vec<Message>, StoreError> {
        self.messages("alert_key > :seq", seq, true, limit).await
    }

    /// At most `limit` messages before this number, newest first; the newest of all without one.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn messages_before(&self, seq: Option<u64>, limit: i32) -> Result<Vec<Message>, StoreError> {
        self.messages("alert_key < :seq", seq.unwrap_or(999_999_999_999), false, limit).await
    }

    async fn messages(
        &self,
        place: &str,
        seq: u64,
        oldest_first: bool,
        limit: i32,
    ) -> Result<Vec<Message>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.alerts.get())
            .key_condition_expression(format!("alert_log = :log AND {place}"))
            .expression_attribute_values(":log", string(MESSAGES))
            .expression_attribute_values(":seq", string(seq_key(seq)))
            .scan_index_forward(oldest_first)
            .consistent_read(true)
            .limit(limit);
        let output = request.send().await.map_err(|error| failure(&error))?;
        let messages = output.items.unwrap_or_default().into_iter().map(|row| {
            let content = row.get("content").and_then(|content| content.as_s().ok());
            let content =
                content.ok_or_else(|| StoreError::Broken("a message without content".to_owned()))?;
            serde_json::from_str(content).map_err(broken)
        });
        messages.collect()
    }

    /// Agents that were removed after something was told of them, at most a page.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn gone(&self) -> Result<Vec<Gone>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.alerts.get())
            .key_condition_expression("alert_log = :gone")
            .expression_attribute_values(":gone", string(GONE))
            .limit(PAGE);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.items.unwrap_or_default().into_iter().map(from_item).collect()
    }

    /// The trace that a removed agent leaves for the sweep, as part of the transaction that removes it.
    pub(super) fn put_gone(&self, gone: &Gone) -> Result<TransactWriteItem, StoreError> {
        let mut row = to_item(gone)?;
        row.insert("alert_log".to_owned(), string(GONE));
        let put = Put::builder().table_name(self.tables.alerts.get()).set_item(Some(row));
        Ok(TransactWriteItem::builder().put(put.build().map_err(broken)?).build())
    }

    /// How often this agent fell silent after `since`, by its last 300 events: one query.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn silences_since(&self, agent_id: AgentId, since: Timestamp) -> Result<usize, StoreError> {
        let events = self.last_events(agent_id).await?;
        let is_silence = |event: &&Event| {
            event.event_type == kind::AGENT_OFFLINE
                && event.created_at > since
                && event.payload.contains(r#""reason":"silent""#)
        };
        Ok(events.iter().filter(is_silence).count())
    }

    /// When this agent was last heard before it fell silent, when it came back, and whether as another process, by its last
    /// events: one query.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn last_silence(
        &self,
        agent_id: AgentId,
    ) -> Result<Option<(Option<Timestamp>, Timestamp, Cause)>, StoreError> {
        let events = self.last_events(agent_id).await?;
        let online = events.iter().find(|event| event.event_type == kind::AGENT_ONLINE);
        Ok(online.map(|online| {
            let payload: serde_json::Value = serde_json::from_str(&online.payload).unwrap_or_default();
            let moment = |field: &str| payload[field].as_str().and_then(Timestamp::parse);
            let restarted = payload["cause"] == Cause::Restarted.as_str();
            let cause = if restarted { Cause::Restarted } else { Cause::Resumed };
            (moment("last_seen_at").or_else(|| moment("offline_since")), online.created_at, cause)
        }))
    }

    async fn last_events(&self, agent_id: AgentId) -> Result<Vec<Event>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.events.get())
            .key_condition_expression("agent_id = :agent_id AND event_id < :markers")
            .expression_attribute_values(":agent_id", string(agent_id))
            .expression_attribute_values(":markers", string("g"))
            .scan_index_forward(false)
            .limit(EVENTS_LOOKED_AT);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.items.unwrap_or_default().into_iter().map(from_item).collect()
    }
}

fn is_marked(was: Told) -> &'static str {
    if was == Told::NOTHING {
        "attribute_exists(agent_id) AND attribute_not_exists(alerted)"
    } else {
        "alerted = :was"
    }
}

fn marked(becomes: Told) -> &'static str {
    if becomes == Told::NOTHING { "REMOVE alerted" } else { "SET alerted = :becomes" }
}

fn mark_values(was: Told, becomes: Told) -> Option<Item> {
    let values = [(":was", was), (":becomes", becomes)];
    let values =
        values.into_iter().filter_map(|(name, told)| Some((name.to_owned(), string(told.to_text()?))));
    let values: Item = values.collect();
    (!values.is_empty()).then_some(values)
}
