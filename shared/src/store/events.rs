//! Events that agents post.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, PutRequest, ReturnValuesOnConditionCheckFailure, TransactWriteItem, WriteRequest,
};
use futures_util::future::join_all;

use super::{Races, Store, Transaction};
use super::{broken, failure, from_item, number, service_failure, string, to_item, transact};
use crate::domain::agent::AgentId;
use crate::domain::event::{Actor, Event, EventPage, EventType, Marker, Posting, expiry};
use crate::domain::failure::StoreError;
use crate::domain::ids::EventId;
use crate::time::Timestamp;

/// How often a batch is sent, or what DynamoDB left unprocessed of it, and the pause before the second time.
const BATCH_ATTEMPTS: u32 = 4;
const BATCH_BACKOFF: Duration = Duration::from_millis(50);

/// How many rows one page reads, at most, whatever it filters.
const READ_PER_PAGE: usize = 1_000;

impl Store {
    /// An agent's events before `before`, newest first. With a type it reads a bounded number of rows, so a page
    /// may be short and still have a next one.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn events_before(
        &self,
        agent_id: AgentId,
        event_type: Option<&EventType>,
        before: Option<EventId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<EventPage, StoreError> {
        // No UUID is after this, and every marker is.
        let mut before = before.map_or_else(|| "g".to_owned(), |event_id| event_id.to_string());
        let (mut events, mut read) = (Vec::new(), 0);
        loop {
            // Without a type all but expired rows count, and one more than fits says whether there is a next page.
            // If many are expired, as many again as before.
            let wanted = if event_type.is_some() { READ_PER_PAGE } else { (limit + 1).max(read) };
            let at_once = wanted.min(READ_PER_PAGE - read);
            let mut only = "expires_at > :now_seconds".to_owned();
            let mut request = self
                .client
                .query()
                .table_name(self.tables.events.get())
                .key_condition_expression("agent_id = :agent_id AND event_id < :before")
                .expression_attribute_values(":agent_id", string(agent_id))
                .expression_attribute_values(":before", string(&before))
                .expression_attribute_values(":now_seconds", number(now.as_seconds()))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(at_once).unwrap_or(i32::MAX));
            if let Some(event_type) = event_type {
                only.push_str(" AND event_type = :event_type");
                request = request.expression_attribute_values(":event_type", string(event_type.as_str()));
            }
            let output = request.filter_expression(only).send().await.map_err(|error| failure(&error))?;
            read += usize::try_from(output.scanned_count).unwrap_or_default();
            for row in output.items.unwrap_or_default() {
                events.push(from_item::<Event>(row)?);
            }
            let more = output.last_evaluated_key.and_then(|mut key| match key.remove("event_id") {
                Some(AttributeValue::S(event_id)) => Some(event_id),
                _ => None,
            });
            if events.len() > limit {
                events.truncate(limit);
                let next = events.last().map(|event| event.event_id);
                return Ok(EventPage { events, next });
            }
            match more {
                None => return Ok(EventPage { events, next: None }),
                Some(last) if read >= READ_PER_PAGE => {
                    return Ok(EventPage { events, next: EventId::parse(&last) });
                }
                Some(last) => before = last,
            }
        }
    }

    /// Stores what an agent posts: one outcome for each posting, in order. An acknowledged event is durable.
    ///
    /// A single event costs one request, a batch one for all events without an id of their own, and each event
    /// with an id of its own one more: a transaction with its marker.
    ///
    /// Posted ids of one call are ascending, in the order of the postings.
    pub async fn post_events(
        &self,
        agent_id: AgentId,
        postings: Vec<Posting>,
        now: Timestamp,
    ) -> Vec<Result<EventId, StoreError>> {
        let (mut plain, mut marked) = (Vec::new(), Vec::new());
        for (place, posting) in postings.into_iter().enumerate() {
            let event = Event {
                partition: agent_id.to_string(),
                event_id: self.event_ids.next(now),
                event_type: posting.event_type,
                actor: Actor::Agent,
                payload: posting.payload,
                created_at: now,
                expires_at: expiry(now, *self.event_retention.get()),
            };
            match posting.own_id {
                None => plain.push((place, event)),
                Some(own_id) => marked.push((place, event, own_id)),
            }
        }
        let marked = marked
            .into_iter()
            .map(async |(place, event, own_id)| (place, self.put_once(&event, &own_id, now).await));
        let (plain, marked) = futures_util::future::join(self.put_plain(plain), join_all(marked)).await;
        let mut outcomes: Vec<_> = plain.into_iter().chain(marked).collect();
        outcomes.sort_by_key(|(place, _)| *place);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn put_plain(&self, events: Vec<(usize, Event)>) -> Vec<(usize, Result<EventId, StoreError>)> {
        match events.as_slice() {
            [] => Vec::new(),
            [(place, event)] => vec![(*place, self.put_one(event).await)],
            _ => self.put_batch(events).await,
        }
    }

    async fn put_one(&self, event: &Event) -> Result<EventId, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let request = self
                .client
                .put_item()
                .table_name(self.tables.events.get())
                .set_item(Some(to_item(event)?))
                .condition_expression("attribute_not_exists(event_id)");
            match request.send().await {
                Ok(_) => return Ok(event.event_id),
                Err(SdkError::ServiceError(refused)) => match refused.into_err() {
                    // The id was drawn for this call: only its own first sending can have stored it.
                    PutItemError::ConditionalCheckFailedException(_) => return Ok(event.event_id),
                    PutItemError::TransactionConflictException(_) => {}
                    error => return Err(service_failure(&error)),
                },
                Err(error) => return Err(failure(&error)),
            }
        }
        Err(StoreError::Contended)
    }

    async fn put_batch(&self, events: Vec<(usize, Event)>) -> Vec<(usize, Result<EventId, StoreError>)> {
        let ids: Vec<(usize, EventId)> =
            events.iter().map(|(place, event)| (*place, event.event_id)).collect();
        let left = self.write_batch(events.iter().map(|(_, event)| event)).await;
        let outcome = |event_id: EventId| match &left {
            Ok(left) if left.contains(&event_id) => {
                Err(StoreError::Unavailable("the batch was not taken whole".to_owned()))
            }
            Ok(_) => Ok(event_id),
            Err(StoreError::Broken(cause)) => Err(StoreError::Broken(cause.clone())),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        };
        ids.into_iter().map(|(place, event_id)| (place, outcome(event_id))).collect()
    }

    /// Writes a batch of at most 25 events; the answer is the ids of those that DynamoDB did not take.
    async fn write_batch(&self, events: impl Iterator<Item = &Event>) -> Result<Vec<EventId>, StoreError> {
        let mut requests = Vec::new();
        for event in events {
            let put = PutRequest::builder().set_item(Some(to_item(event)?)).build().map_err(broken)?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        for attempt in 0..BATCH_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(BATCH_BACKOFF * 2_u32.pow(attempt - 1)).await;
            }
            let sent = requests.clone();
            let request = self.client.batch_write_item().request_items(self.tables.events.get(), requests);
            let unprocessed = match request.send().await {
                Ok(output) => output.unprocessed_items.unwrap_or_default().remove(self.tables.events.get()),
                Err(error) if attempt == 0 => return Err(failure(&error)),
                // What was taken before stays taken.
                Err(_) => {
                    requests = sent;
                    break;
                }
            };
            requests = unprocessed.unwrap_or_default();
            if requests.is_empty() {
                break;
            }
        }
        let event_id = |request: WriteRequest| {
            let id = request.put_request?.item.remove("event_id")?;
            EventId::parse(id.as_s().ok()?)
        };
        Ok(requests.into_iter().filter_map(event_id).collect())
    }

    /// Stores an event and its marker, or finds the event that the same id stored before.
    async fn put_once(&self, event: &Event, own_id: &str, now: Timestamp) -> Result<EventId, StoreError> {
        let marker = event.marker(own_id);
        let mut races = Races::default();
        while races.again().await {
            let mark = Put::builder()
                .table_name(self.tables.events.get())
                .set_item(Some(to_item(&marker)?))
                .condition_expression("attribute_not_exists(event_id) OR expires_at <= :now_seconds")
                .expression_attribute_values(":now_seconds", number(now.as_seconds()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build()
                .map_err(broken)?;
            let writes = vec![TransactWriteItem::builder().put(mark).build(), self.put_event(event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(event.event_id),
                Transaction::Refused(_, Some(row)) => return Ok(from_item::<Marker>(row)?.marks),
                Transaction::Refused(_, None) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}
