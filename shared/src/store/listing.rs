//! Lists of agents, newest first, by an index that heartbeats do not touch.
//!
//! The index holds no attribute that a heartbeat changes, so it costs nothing but one write when an agent is
//! created, let in, moved to another board or removed. All agents share its one partition: it takes 1,000
//! creations a second. What is listed is read from the rows themselves.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use futures_util::stream::{self, StreamExt};

use super::{Item, Store, broken, failure, from_item, number, string};
use crate::domain::agent::{Agent, AgentFilter, AgentId};
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// The one value of the indexes' partition key.
const LISTING: &str = "agents";

/// The index of all agents by age.
const INDEX: &str = "by_age";

/// The index by which agents are found by the beginning of their name. Heartbeats never touch a name.
const NAMES: &str = "by_name";

const IS_NOT_EXPIRED: &str = "(attribute_not_exists(expires_at) OR expires_at > :now_seconds)";

/// Sorts after every `listing_key`, which begin with a digit.
const NEWEST: &str = "~";

/// How many agents one page by cursor looks at, at most, whatever it filters.
const EXAMINED_PER_PAGE: usize = 1_000;

/// DynamoDB's limit for one batch of reads, and how many batches are under way at once.
const BATCH: usize = 100;
const BATCHES_AT_ONCE: usize = 8;

/// How many keys one query reads when all are wanted.
const WALK: i32 = 1_000;

/// A page by cursor.
#[derive(Debug)]
pub struct Page {
    /// The agents, newest first.
    pub agents: Vec<Agent>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// An agent's place in the list.
struct Position {
    listing_key: String,
    agent_id: String,
}

/// The attributes by which the index lists an agent.
pub(crate) fn listing_attributes(agent: &Agent) -> Item {
    let listing_key = format!("{:013}.{}", agent.created_at.as_millis(), agent.agent_id);
    Item::from([("listing".to_owned(), string(LISTING)), ("listing_key".to_owned(), string(listing_key))])
}

impl Store {
    /// At most `limit` agents that follow `cursor`. Looks at a bounded number of rows, so with a rare status a
    /// page may be short and still have a next one.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn agents_after(
        &self,
        filter: &AgentFilter,
        cursor: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        let (mut agents, mut examined) = (Vec::new(), 0);
        let mut cursor = cursor.unwrap_or(NEWEST).to_owned();
        while examined < EXAMINED_PER_PAGE {
            // As many again as before: a small page with a rare status takes few requests, too.
            let at_once = limit.max(examined).min(EXAMINED_PER_PAGE - examined);
            let (places, more) =
                self.places_after(filter, &cursor, i32::try_from(at_once).unwrap_or(WALK), now).await?;
            examined += at_once;
            let mut rows = self.rows_of(&places).await?;
            for place in &places {
                cursor.clone_from(&place.listing_key);
                agents.extend(rows.remove(&place.agent_id).filter(|agent| filter.admits(agent, now)));
                if agents.len() == limit {
                    let last = places.last().is_none_or(|last| last.listing_key == cursor);
                    return Ok(Page { agents, next: (more.is_some() || !last).then_some(cursor) });
                }
            }
            match more {
                None => return Ok(Page { agents, next: None }),
                Some(key) => cursor = key,
            }
        }
        Ok(Page { agents, next: Some(cursor) })
    }

    /// The agents from `offset`, and how many there are in all. Reads the whole index; with a status, every row.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn agents_from(
        &self,
        filter: &AgentFilter,
        offset: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<Agent>, usize), StoreError> {
        let mut places = Vec::new();
        let mut cursor = Some(NEWEST.to_owned());
        if let Some(beginning) = &filter.name {
            places = self.places_by_name(filter, beginning, now).await?;
            cursor = None;
        }
        while let Some(after) = cursor {
            let (found, more) = self.places_after(filter, &after, WALK, now).await?;
            places.extend(found);
            cursor = more;
        }
        if filter.needs_rows() {
            let rows = self.rows_of(&places).await?;
            places.retain(|place| rows.get(&place.agent_id).is_some_and(|agent| filter.admits(agent, now)));
        }
        let total = places.len();
        let wanted: Vec<Position> = places.into_iter().skip(offset).take(limit).collect();
        let mut rows = self.rows_of(&wanted).await?;
        Ok((wanted.iter().filter_map(|place| rows.remove(&place.agent_id)).collect(), total))
    }

    /// The places that follow `cursor`, of at most `limit` looked at; and where to go on.
    async fn places_after(
        &self,
        filter: &AgentFilter,
        cursor: &str,
        limit: i32,
        now: Timestamp,
    ) -> Result<(Vec<Position>, Option<String>), StoreError> {
        let request = self
            .client
            .query()
            .index_name(INDEX)
            .key_condition_expression("listing = :listing AND listing_key < :cursor")
            .expression_attribute_values(":cursor", string(cursor))
            .scan_index_forward(false)
            .limit(limit);
        let output = self.listed(request, filter, now).send().await.map_err(|error| failure(&error))?;
        let places =
            output.items.unwrap_or_default().into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let more = output.last_evaluated_key.map(|mut key| text(&mut key, "listing_key")).transpose()?;
        Ok((places, more))
    }

    /// The places of all agents whose name begins so, in the order of their names.
    async fn places_by_name(
        &self,
        filter: &AgentFilter,
        beginning: &str,
        now: Timestamp,
    ) -> Result<Vec<Position>, StoreError> {
        let mut places = Vec::new();
        let mut next: Option<Item> = None;
        loop {
            let request = self
                .client
                .query()
                .index_name(NAMES)
                .key_condition_expression("listing = :listing AND begins_with(agent_name, :beginning)")
                .expression_attribute_values(":beginning", string(beginning))
                .set_exclusive_start_key(next);
            let output = self.listed(request, filter, now).send().await.map_err(|error| failure(&error))?;
            for row in output.items.unwrap_or_default() {
                places.push(place(row)?);
            }
            next = output.last_evaluated_key;
            if next.is_none() {
                return Ok(places);
            }
        }
    }

    /// A query of one of the indexes, without what is expired or on another board.
    fn listed(&self, query: QueryFluentBuilder, filter: &AgentFilter, now: Timestamp) -> QueryFluentBuilder {
        let query = query
            .table_name(self.tables.agents.get())
            .expression_attribute_values(":listing", string(LISTING))
            .expression_attribute_values(":now_seconds", number(now.as_seconds()));
        match filter.board_id {
            None => query.filter_expression(IS_NOT_EXPIRED),
            Some(board_id) => query
                .filter_expression(format!("{IS_NOT_EXPIRED} AND board_id = :board_id"))
                .expression_attribute_values(":board_id", string(board_id)),
        }
    }

    /// The rows of these places, by agent id. An agent that was deleted since is missing.
    async fn rows_of(&self, places: &[Position]) -> Result<HashMap<String, Agent>, StoreError> {
        let key = |place: &Position| Item::from([("agent_id".to_owned(), string(&place.agent_id))]);
        let batches: Vec<Vec<Item>> =
            places.chunks(BATCH).map(|batch| batch.iter().map(key).collect()).collect();
        let mut batches =
            stream::iter(batches).map(|keys| self.batch_of_rows(keys)).buffer_unordered(BATCHES_AT_ONCE);
        let mut rows = HashMap::new();
        while let Some(batch) = batches.next().await {
            rows.extend(batch?.into_iter().map(|agent| (agent.agent_id.to_string(), agent)));
        }
        Ok(rows)
    }

    async fn batch_of_rows(&self, mut keys: Vec<Item>) -> Result<Vec<Agent>, StoreError> {
        let mut agents = Vec::new();
        while !keys.is_empty() {
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            let request = self.client.batch_get_item();
            let request = request.request_items(self.tables.agents.get(), wanted.build().map_err(broken)?);
            let output = request.send().await.map_err(|error| failure(&error))?;
            let rows =
                output.responses.unwrap_or_default().remove(self.tables.agents.get()).unwrap_or_default();
            let left = output.unprocessed_keys.unwrap_or_default().remove(self.tables.agents.get());
            keys = left.map(|left| left.keys).unwrap_or_default();
            if rows.is_empty() && !keys.is_empty() {
                return Err(StoreError::Unavailable("no row of a batch was read".to_owned()));
            }
            for row in rows {
                agents.push(from_item::<Agent>(row)?);
            }
        }
        Ok(agents)
    }
}

fn place(mut row: Item) -> Result<Position, StoreError> {
    Ok(Position { listing_key: text(&mut row, "listing_key")?, agent_id: text(&mut row, "agent_id")? })
}

fn text(row: &mut Item, name: &str) -> Result<String, StoreError> {
    match row.remove(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(StoreError::Broken(format!("the index has a row without {name}"))),
    }
}

/// Whether an agent's place in the list could be this: what a cursor must look like.
#[must_use]
pub fn is_cursor(text: &str) -> bool {
    text.split_once('.').is_some_and(|(millis, agent_id)| {
        millis.len() == 13
            && millis.bytes().all(|byte| byte.is_ascii_digit())
            && AgentId::parse(agent_id).is_some()
    })
}
