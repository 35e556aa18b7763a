//! What operators change: one conditional write on the row that was read, with its event.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Delete, TransactWriteItem, Update};
use serde_json::{Map, Value, json};

use super::{Gone, Races, Store, Transaction};
use super::{binary, broken, failure, from_item, moment, number, string, transact};
use crate::domain::agent::{Agent, AgentId, AgentState, FIRST_BEAT_GRACE, millis};
use crate::domain::canary;
use crate::domain::change::{Changed, Patch, StateChange};
use crate::domain::concern::Told;
use crate::domain::credential::{ApiKey, KeyDigest};
use crate::domain::event::{Actor, kind};
use crate::domain::failure::StoreError;
use crate::domain::heartbeat::HeartbeatConfig;
use crate::domain::token::Operator;
use crate::time::Timestamp;

/// One change on its way into a row: clauses and their values, its event, and the row as it will be.
struct Change {
    /// What must still be as it was read.
    conditions: Vec<&'static str>,
    set: Vec<&'static str>,
    remove: Vec<&'static str>,
    values: Vec<(&'static str, AttributeValue)>,
    event_type: &'static str,
    payload: Value,
    after: Agent,
}

impl Change {
    /// A change of `agent` as it was read: heartbeats touch neither `updated_at` nor the state. Two changes in
    /// one millisecond are told apart, since each moves `updated_at` on.
    fn of(agent: &Agent, event_type: &'static str, now: Timestamp) -> Self {
        let updated_at = now.max(agent.updated_at.plus(Duration::from_millis(1)));
        Self {
            conditions: vec!["updated_at = :seen", "agent_state = :seen_state"],
            set: vec!["updated_at = :updated_at"],
            remove: Vec::new(),
            values: vec![
                (":seen", moment(agent.updated_at)),
                (":seen_state", string(agent.agent_state.as_str())),
                (":updated_at", moment(updated_at)),
            ],
            event_type,
            payload: Value::Null,
            after: Agent { updated_at, ..agent.clone() },
        }
    }

    fn set(&mut self, clause: &'static str, name: &'static str, value: AttributeValue) {
        self.set.push(clause);
        self.values.push((name, value));
    }
}

impl StateChange {
    /// The change, `None` if the agent is there already, or why it cannot be.
    fn change(
        self,
        agent: &Agent,
        reason: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Change>, &'static str> {
        use AgentState::{Active, Pending, Revoked};
        let (event_type, after) = match (self, agent.agent_state) {
            (Self::Approve, Active) | (Self::Revoke, Revoked) | (Self::Restore, Active | Pending) => {
                return Ok(None);
            }
            (Self::Approve, Revoked) => return Err("the agent is revoked: restore it first"),
            (Self::Approve, Pending) => (kind::AGENT_APPROVED, Active),
            (Self::Revoke, Active | Pending) => (kind::AGENT_REVOKED, Revoked),
            (Self::Restore, Revoked) => (kind::AGENT_RESTORED, agent.revoked_from.unwrap_or(Pending)),
        };
        let mut change = Change::of(agent, event_type, now);
        change.set("agent_state = :state", ":state", string(after.as_str()));
        change.remove.push("expires_at");
        change.after.agent_state = after;
        change.after.expires_at = None;
        match self {
            Self::Approve => {}
            Self::Revoke => {
                change.set("revoked_from = :from", ":from", string(agent.agent_state.as_str()));
                change.after.revoked_from = Some(agent.agent_state);
            }
            Self::Restore => {
                change.remove.extend(["revoked_from", "offline_since", "health"]);
                change.after =
                    Agent { revoked_from: None, offline_since: None, health: None, ..change.after };
            }
        }
        if after == Active {
            change.set("verified_at = :now", ":now", moment(now));
            change.after.verified_at = Some(now);
            // Back from a revocation, an agent that had beaten gets time for its next beat.
            if agent.lease_expires_at.is_some() {
                let lease = now.plus(agent.tolerance().max(FIRST_BEAT_GRACE));
                change.set("lease_expires_at = :lease", ":lease", moment(lease));
                change.after.lease_expires_at = Some(lease);
            }
        }
        change.payload = json!({
            "before": { "state": agent.agent_state },
            "after": { "state": after },
            "reason": reason,
        });
        Ok(Some(change))
    }
}

impl Patch {
    /// The change, or `None` if the agent is like that already.
    fn change(&self, agent: &Agent, now: Timestamp) -> Option<Change> {
        let mut change = Change::of(agent, kind::AGENT_UPDATED, now);
        let (mut before, mut after) = (Map::new(), Map::new());
        if let Some(name) = self.name.as_ref().filter(|name| **name != agent.agent_name) {
            change.set("agent_name = :name", ":name", string(name.as_str()));
            change.after.agent_name = name.clone();
            before.insert("name".to_owned(), json!(agent.agent_name));
            after.insert("name".to_owned(), json!(name));
        }
        if let Some(board_id) = self.board_id.filter(|board_id| *board_id != agent.board_id) {
            match board_id {
                Some(board_id) => {
                    change.set("board_id = :board_id", ":board_id", binary(board_id.as_bytes()));
                }
                None => change.remove.push("board_id"),
            }
            change.after.board_id = board_id;
            before.insert("board_id".to_owned(), json!(agent.board_id));
            after.insert("board_id".to_owned(), json!(board_id));
        }
        if let Some(heartbeat) = self.heartbeat.filter(|heartbeat| *heartbeat != agent.heartbeat()) {
            let (interval, tolerance) = (millis(heartbeat.interval()), millis(heartbeat.tolerance()));
            change.set("interval_ms = :interval_ms", ":interval_ms", number(interval));
            change.set("tolerance_ms = :tolerance_ms", ":tolerance_ms", number(tolerance));
            change.after.interval_ms = interval;
            change.after.tolerance_ms = tolerance;
            match agent.last_seen_at {
                Some(seen) => {
                    // Added in the write itself: a heartbeat may have moved `last_seen_at` since it was read.
                    change.set.push("lease_expires_at = last_seen_at + :tolerance_ms");
                    change.after.lease_expires_at = Some(seen.plus(heartbeat.tolerance()));
                }
                None => change.conditions.push("attribute_not_exists(last_seen_at)"),
            }
            before.insert("heartbeat_config".to_owned(), config_json(agent.heartbeat()));
            after.insert("heartbeat_config".to_owned(), config_json(heartbeat));
        }
        if let Some(limit) = self.rate_limit.filter(|limit| *limit != agent.rate_limit) {
            match limit {
                Some(limit) => change.set("rate_limit = :limit", ":limit", number(limit)),
                None => change.remove.push("rate_limit"),
            }
            change.after.rate_limit = limit;
            before.insert("rate_limit_per_minute".to_owned(), json!(agent.rate_limit));
            after.insert("rate_limit_per_minute".to_owned(), json!(limit));
        }
        change.payload = json!({ "before": before, "after": after });
        (!after.is_empty()).then_some(change)
    }
}

/// A heartbeat configuration as events and Mission Control show it.
pub(crate) fn config_json(heartbeat: HeartbeatConfig) -> Value {
    json!({
        "interval_seconds": heartbeat.interval_seconds(),
        "missing_tolerance": heartbeat.tolerance_seconds(),
    })
}

impl Store {
    /// An agent's row, by one consistent read.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn agent(&self, agent_id: AgentId, now: Timestamp) -> Result<Option<Agent>, StoreError> {
        if agent_id == canary::agent_id() {
            // It is none of the fleet: nobody sees it, and nobody changes it.
            return Ok(None);
        }
        let request = self
            .client
            .get_item()
            .table_name(self.tables.agents.get())
            .key("agent_id", string(agent_id))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        let agent = output.item.map(from_item::<Agent>).transpose()?;
        Ok(agent.filter(|agent| !agent.is_expired(now)))
    }

    /// Lets an agent in, shuts it out, or takes it back, with the event.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn change_state(
        &self,
        agent_id: AgentId,
        change: StateChange,
        reason: Option<&str>,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        self.change(agent_id, operator, now, |agent| change.change(agent, reason, now)).await
    }

    /// Changes what an operator may change, with the event.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn patch(
        &self,
        agent_id: AgentId,
        patch: &Patch,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        self.change(agent_id, operator, now, |agent| Ok(patch.change(agent, now))).await
    }

    /// Reads, decides and writes, until nobody else is in between: as often as `Races` allows.
    async fn change(
        &self,
        agent_id: AgentId,
        operator: Operator,
        now: Timestamp,
        decide: impl Fn(&Agent) -> Result<Option<Change>, &'static str>,
    ) -> Result<Changed, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let Some(agent) = self.agent(agent_id, now).await? else {
                return Ok(Changed::NoSuchAgent);
            };
            if !operator.reaches(agent.board_id) {
                return Ok(Changed::Foreign);
            }
            let change = match decide(&agent) {
                Ok(Some(change)) => change,
                Ok(None) => return Ok(Changed::Done(Box::new(agent))),
                Err(why) => return Ok(Changed::Refused(why)),
            };
            match self.apply(agent_id, &change, operator.actor(), now).await? {
                Transaction::Applied => return Ok(Changed::Done(Box::new(change.after))),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Ok(Changed::Overtaken)
    }

    async fn apply(
        &self,
        agent_id: AgentId,
        change: &Change,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        let mut expression = format!("SET {}", change.set.join(", "));
        if !change.remove.is_empty() {
            expression = format!("{expression} REMOVE {}", change.remove.join(", "));
        }
        let mut update = Update::builder()
            .table_name(self.tables.agents.get())
            .key("agent_id", string(agent_id))
            .condition_expression(change.conditions.join(" AND "))
            .update_expression(expression);
        for (name, value) in &change.values {
            update = update.expression_attribute_values(*name, value.clone());
        }
        let event = self.record(agent_id, change.event_type, actor, &change.payload, now);
        let update = TransactWriteItem::builder().update(update.build().map_err(broken)?).build();
        transact(&self.client, vec![update, self.put_event(&event)?]).await
    }

    /// Gives an agent a new key. The one before stays valid for `overlap`; any older one ends.
    ///
    /// The key that was read must still be the current one: of two rotations at once, one is overtaken.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every conflict; a rotation by somebody else is
    /// [`Changed::Overtaken`].
    pub async fn rotate_key(
        &self,
        agent: &Agent,
        overlap: Duration,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed<(Box<Agent>, ApiKey)>, StoreError> {
        let key = ApiKey::with_key_id(agent.key_id);
        let change = rotation(agent, key.digest(), overlap, now);
        let mut races = Races::default();
        while races.again().await {
            match self.apply(agent.agent_id, &change, actor, now).await? {
                Transaction::Applied => return Ok(Changed::Done((Box::new(change.after), key))),
                Transaction::Refused(..) => return Ok(Changed::Overtaken),
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// Removes an agent, with the event. Its events stay.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn delete_agent(
        &self,
        agent_id: AgentId,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed<()>, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let Some(agent) = self.agent(agent_id, now).await? else {
                return Ok(Changed::Done(()));
            };
            if !operator.reaches(agent.board_id) {
                return Ok(Changed::Foreign);
            }
            let delete = Delete::builder()
                .table_name(self.tables.agents.get())
                .key("agent_id", string(agent_id))
                .condition_expression(match agent.told {
                    Told::NOTHING => "updated_at = :seen AND attribute_not_exists(alerted)",
                    _ => "updated_at = :seen AND alerted = :told",
                })
                .expression_attribute_values(":seen", moment(agent.updated_at));
            let delete = match agent.told.to_text() {
                Some(told) => delete.expression_attribute_values(":told", string(told)),
                None => delete,
            };
            let payload = json!({
                "before": { "name": agent.agent_name, "board_id": agent.board_id, "state": agent.agent_state },
                "after": null,
            });
            let event = self.record(agent_id, kind::AGENT_DELETED, operator.actor(), &payload, now);
            let delete = TransactWriteItem::builder().delete(delete.build().map_err(broken)?).build();
            let mut writes = vec![delete, self.put_event(&event)?];
            if agent.told != Told::NOTHING {
                // What was told of it ends: the sweep tells that, and removes this trace.
                writes.push(self.put_gone(&Gone {
                    agent_id,
                    agent_name: agent.agent_name,
                    board_id: agent.board_id,
                    alerted: agent.told,
                })?);
            }
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(Changed::Done(())),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}

/// The change of a key: conditional on the key that was read, whatever else changes meanwhile.
fn rotation(agent: &Agent, digest: KeyDigest, overlap: Duration, now: Timestamp) -> Change {
    let mut change = Change::of(agent, kind::AGENT_KEY_ROTATED, now);
    change.conditions = vec!["key_digest = :seen", "agent_state = :seen_state"];
    change.values.retain(|(name, _)| *name != ":seen");
    change.values.push((":seen", binary(agent.key_digest.as_bytes())));
    change.set("key_digest = :digest", ":digest", binary(digest.as_bytes()));
    change.after.key_digest = digest;
    let ends = (!overlap.is_zero()).then(|| now.plus(overlap));
    match ends {
        Some(ends) => {
            change.set.push("prior_digest = :seen");
            change.set("prior_key_ends = :ends", ":ends", moment(ends));
        }
        None => change.remove.extend(["prior_digest", "prior_key_ends"]),
    }
    change.after.prior_digest = ends.map(|_| agent.key_digest);
    change.after.prior_key_ends = ends;
    change.payload = json!({ "previous_key_ends": ends.unwrap_or(now).to_string() });
    change
}
