//! Lists of agents, newest first, by an index that heartbeats do not touch.
//!
//! The index holds no attribute that a heartbeat changes, so it costs nothing but one write when an agent is
//! created, let in, moved to another board or removed. All agents share its one partition: it takes 1,000
//! creations a second. What is listed is read from the rows themselves.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;

use super::{Item, Store, binary, broken, failure, from_item, moment, number, string};
use crate::domain::agent::{Agent, AgentFilter, AgentId};
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// The one value of the indexes' partition key.
const LISTING: &str = "agents";

/// The index of all agents by age.
const INDEX: &str = "by_age";

/// The index by which agents are found by the beginning of their name. Heartbeats never touch a name.
const NAMES: &str = "by_name";

/// The sparse index of the agents that are announced absent: silent, gone on purpose, or never come. It is written when
/// an agent goes or comes back.
const ABSENCES: &str = "by_absence";

const IS_NOT_EXPIRED: &str = "(attribute_not_exists(expires_at) OR expires_at > :now_seconds)";

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

/// An agent's place in the list. Its key is short, so that of two agents that one millisecond created both may have it:
/// the agent's id, which every key of the index ends with, tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Position {
    listing_key: String,
    agent_id: String,
}

impl Position {
    fn key(&self) -> Item {
        Item::from([
            ("agent_id".to_owned(), string(&self.agent_id)),
            ("listing".to_owned(), string(LISTING)),
            ("listing_key".to_owned(), string(&self.listing_key)),
        ])
    }

    /// The moment of creation and the whole id; see [`is_cursor`].
    fn cursor(&self) -> String {
        let millis = self.listing_key.split('.').next().unwrap_or_default();
        format!("{millis}.{}", self.agent_id)
    }

    fn of_cursor(cursor: &str) -> Option<Self> {
        let (millis, agent_id) = cursor.split_once('.')?;
        let agent_id = AgentId::parse(agent_id)?;
        Some(Self {
            listing_key: listing_key(Timestamp::from_millis(millis.parse().ok()?), agent_id),
            agent_id: agent_id.to_string(),
        })
    }
}

/// An entry of the index of absences.
#[derive(Deserialize)]
struct Absence {
    agent_id: String,
    offline_since: Timestamp,
}

impl Absence {
    fn key(&self) -> Item {
        Item::from([
            ("agent_id".to_owned(), string(&self.agent_id)),
            ("listing".to_owned(), string(LISTING)),
            ("offline_since".to_owned(), moment(self.offline_since)),
        ])
    }

    /// In the form of the other list's cursors; see [`is_cursor`].
    fn cursor(&self) -> String {
        format!("{:013}.{}", self.offline_since.as_millis(), self.agent_id)
    }

    fn of_cursor(cursor: &str) -> Option<Self> {
        let (millis, agent_id) = cursor.split_once('.')?;
        let offline_since = Timestamp::from_millis(millis.parse().ok()?);
        Some(Self { agent_id: agent_id.to_owned(), offline_since })
    }
}

/// `{13 digits}.{8 hex}`: milliseconds of the creation, and the beginning of the agent's id.
fn listing_key(created_at: Timestamp, agent_id: AgentId) -> String {
    format!("{:013}.{:.8}", created_at.as_millis(), agent_id.to_string())
}

/// The attributes by which the index lists an agent.
pub(crate) fn listing_attributes(agent: &Agent) -> Item {
    let listing_key = listing_key(agent.created_at, agent.agent_id);
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
        let mut after = cursor.and_then(Position::of_cursor);
        while examined < EXAMINED_PER_PAGE {
            // As many again as before: a small page with a rare status takes few requests, too.
            let at_once = limit.max(examined).min(EXAMINED_PER_PAGE - examined);
            let (places, more) =
                self.places_after(filter, after, i32::try_from(at_once).unwrap_or(WALK), now).await?;
            examined += at_once;
            let mut rows = self.rows_of(&places).await?;
            for (at, place) in places.iter().enumerate() {
                agents.extend(rows.remove(&place.agent_id).filter(|agent| filter.admits(agent, now)));
                if agents.len() == limit {
                    let last = at + 1 == places.len();
                    return Ok(Page { agents, next: (more.is_some() || !last).then(|| place.cursor()) });
                }
            }
            if more.is_none() {
                return Ok(Page { agents, next: None });
            }
            after = more;
        }
        Ok(Page { agents, next: after.map(|place| place.cursor()) })
    }

    /// At most `limit` agents that are announced absent, longest first, from `cursor` on. Costs what the absent ones cost,
    /// however many others there are.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn absent_agents_after(
        &self,
        filter: &AgentFilter,
        cursor: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        let (mut agents, mut examined) = (Vec::new(), 0);
        let mut after = cursor.and_then(Absence::of_cursor);
        while examined < EXAMINED_PER_PAGE {
            let at_once = limit.max(examined).min(EXAMINED_PER_PAGE - examined);
            let (absences, more) = self.absences_after(after.as_ref(), at_once).await?;
            examined += at_once;
            let ids: Vec<_> = absences.iter().map(|absence| absence.agent_id.as_str()).collect();
            let mut rows = self.rows_by_id(&ids).await?;
            for (at, absence) in absences.iter().enumerate() {
                // The index is a moment old: who came back meanwhile may still be in it.
                let is_so = |agent: &Agent| agent.offline_since == Some(absence.offline_since);
                let row = rows.remove(&absence.agent_id).filter(is_so);
                let on_board = |agent: &Agent| filter.board_id.is_none() || filter.board_id == agent.board_id;
                agents.extend(row.filter(|agent| on_board(agent) && filter.admits(agent, now)));
                if agents.len() == limit {
                    let last = at + 1 == absences.len();
                    return Ok(Page { agents, next: (more || !last).then(|| absence.cursor()) });
                }
            }
            if !more {
                return Ok(Page { agents, next: None });
            }
            after = absences.into_iter().last().or(after);
        }
        Ok(Page { agents, next: after.map(|absence| absence.cursor()) })
    }

    /// The absences that follow one, at most `limit`; and whether there are more.
    async fn absences_after(
        &self,
        after: Option<&Absence>,
        limit: usize,
    ) -> Result<(Vec<Absence>, bool), StoreError> {
        let request = self
            .client
            .query()
            .table_name(self.tables.agents.get())
            .index_name(ABSENCES)
            .key_condition_expression("listing = :listing")
            .expression_attribute_values(":listing", string(LISTING))
            .limit(i32::try_from(limit).unwrap_or(WALK))
            .set_exclusive_start_key(after.map(Absence::key));
        let output = request.send().await.map_err(|error| failure(&error))?;
        let absences = output.items.unwrap_or_default().into_iter().map(from_item::<Absence>);
        Ok((absences.collect::<Result<_, _>>()?, output.last_evaluated_key.is_some()))
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
        let mut places = match &filter.name {
            Some(beginning) => self.places_by_name(filter, beginning, now).await?,
            None => self.all_places(filter, now).await?,
        };
        if filter.needs_rows() {
            let rows = self.rows_of(&places).await?;
            places.retain(|place| rows.get(&place.agent_id).is_some_and(|agent| filter.admits(agent, now)));
        }
        let total = places.len();
        let wanted: Vec<Position> = places.into_iter().skip(offset).take(limit).collect();
        let mut rows = self.rows_of(&wanted).await?;
        Ok((wanted.iter().filter_map(|place| rows.remove(&place.agent_id)).collect(), total))
    }

    /// All places, newest first.
    async fn all_places(&self, filter: &AgentFilter, now: Timestamp) -> Result<Vec<Position>, StoreError> {
        let (mut places, mut more) = self.places_after(filter, None, WALK, now).await?;
        while more.is_some() {
            let (found, next) = self.places_after(filter, more, WALK, now).await?;
            places.extend(found);
            more = next;
        }
        Ok(places)
    }

    /// The places that follow one, of at most `limit` looked at; and where to go on.
    async fn places_after(
        &self,
        filter: &AgentFilter,
        after: Option<Position>,
        limit: i32,
        now: Timestamp,
    ) -> Result<(Vec<Position>, Option<Position>), StoreError> {
        let request = self
            .client
            .query()
            .index_name(INDEX)
            .key_condition_expression("listing = :listing")
            .scan_index_forward(false)
            .limit(limit)
            .set_exclusive_start_key(after.map(|place| place.key()));
        let output = self.listed(request, filter, now).send().await.map_err(|error| failure(&error))?;
        let places = output.items.unwrap_or_default().into_iter().map(from_item);
        Ok((places.collect::<Result<_, _>>()?, output.last_evaluated_key.map(from_item).transpose()?))
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
                places.push(from_item(row)?);
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
                .expression_attribute_values(":board_id", binary(board_id.as_bytes())),
        }
    }

    /// The rows of these places, by agent id. An agent that was deleted since is missing.
    async fn rows_of(&self, places: &[Position]) -> Result<HashMap<String, Agent>, StoreError> {
        self.rows_by_id(&places.iter().map(|place| place.agent_id.as_str()).collect::<Vec<_>>()).await
    }

    /// The rows of these agents, by id. One that was deleted since is missing.
    async fn rows_by_id(&self, ids: &[&str]) -> Result<HashMap<String, Agent>, StoreError> {
        let key = |agent_id: &&str| Item::from([("agent_id".to_owned(), string(agent_id))]);
        let batches: Vec<Vec<Item>> =
            ids.chunks(BATCH).map(|batch| batch.iter().map(key).collect()).collect();
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

/// Whether an agent's place in the list could be this: what a cursor must look like.
#[must_use]
pub fn is_cursor(text: &str) -> bool {
    text.split_once('.').is_some_and(|(millis, agent_id)| {
        millis.len() == 13
            && millis.bytes().all(|byte| byte.is_ascii_digit())
            && AgentId::parse(agent_id).is_some()
    })
}
