//! What operators change: one conditional write on the row that was read, with its event.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Delete, TransactWriteItem};
use serde::Serialize;
use serde_json::{Value, json};

use super::expression::Expression;
use super::{Gone, Races, Store, Transaction};
use super::{binary, broken, failure, from_item, moment, number, string, transact};
use crate::domain::agent::{Agent, AgentId, AgentName, AgentState, FIRST_HEARTBEAT_GRACE, millis};
use crate::domain::canary;
use crate::domain::change::{Changed, Patch, StateChange};
use crate::domain::concern::Told;
use crate::domain::credential::{ApiKey, KeyDigest};
use crate::domain::directive::{Action, Directive, NewDirective};
use crate::domain::event::{Actor, EventType, kind};
use crate::domain::failure::StoreError;
use crate::domain::heartbeat::HeartbeatConfig;
use crate::domain::ids::BoardId;
use crate::domain::spend::Budget;
use crate::domain::token::Operator;
use crate::time::Timestamp;

/// One change on its way into a row: the write, its event, and the row as it will be.
pub(super) struct Change {
    pub(super) expression: Expression,
    event_type: EventType,
    payload: Value,
    pub(super) after: Agent,
}

impl Change {
    /// A change of `agent` as it was read: heartbeats touch neither `updated_at` nor the state. Two changes in
    /// one millisecond are told apart, since each moves `updated_at` on.
    fn of(agent: &Agent, event_type: EventType, now: Timestamp) -> Self {
        Self::if_as_read(agent, "updated_at", moment(agent.updated_at), event_type, now)
    }

    /// A change of `agent` if its state and this attribute are as they were read.
    fn if_as_read(
        agent: &Agent,
        attribute: &str,
        seen: AttributeValue,
        event_type: EventType,
        now: Timestamp,
    ) -> Self {
        let updated_at = now.max(agent.updated_at.plus(Duration::from_millis(1)));
        let mut expression = Expression::default();
        expression.require(format!("{attribute} = :seen"));
        expression.value(":seen", seen);
        expression.require("agent_state = :seen_state");
        expression.value(":seen_state", string(agent.agent_state.as_str()));
        expression.write("updated_at", moment(updated_at));
        let after = Agent { updated_at, ..agent.clone() };
        Self { expression, event_type, payload: Value::Null, after }
    }

    /// Requires that the directive is the one that was read: an acknowledgement moves no `updated_at`.
    fn if_directed_as_read(&mut self, directive: Directive) {
        self.expression.require("directive = :seen_directive");
        self.expression.value(":seen_directive", string(directive));
    }

    /// One field of a patch, said once: unless it is so already, the clause with its value (or the removal), the row
    /// after, and what the event says of before and after.
    fn edit<T: Clone + PartialEq + Serialize>(
        &mut self,
        attribute: &'static str,
        shown_as: &str,
        field: fn(&mut Agent) -> &mut T,
        wanted: Option<&T>,
        stored: impl Fn(&T) -> Option<AttributeValue>,
    ) {
        let field = field(&mut self.after);
        let Some(wanted) = wanted.filter(|wanted| **wanted != *field) else { return };
        match stored(wanted) {
            Some(value) => self.expression.write(attribute, value),
            None => self.expression.remove(attribute),
        }
        let (before, after) = (json!(field), json!(wanted));
        field.clone_from(wanted);
        self.show(shown_as, before, after);
    }

    /// Keeps when the next heartbeat is due: the agent hears of its new interval with that one, and sends it by the interval
    /// that it knows. What it promised, or another change has kept, stands.
    fn keeps_next_beat(&mut self, agent: &Agent, seen: Timestamp) {
        if agent.next_beat_at.is_some() {
            self.expression.require("attribute_exists(next_beat_at)");
            return;
        }
        self.expression.require("attribute_not_exists(next_beat_at)");
        self.expression.set("next_beat_at = last_seen_at + :known_interval");
        self.expression.value(":known_interval", number(agent.interval_ms));
        self.after.next_beat_at = Some(seen.plus(agent.interval()));
    }

    /// What the event says of one field.
    fn show(&mut self, field: &str, before: Value, after: Value) {
        self.payload["before"][field] = before;
        self.payload["after"][field] = after;
    }
}

impl StateChange {
    /// The change, `None` if the agent is there already, or why it cannot be.
    pub(super) fn change(
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
        change.expression.write("agent_state", string(after.as_str()));
        change.expression.remove("expires_at");
        change.after.agent_state = after;
        change.after.expires_at = None;
        match self {
            Self::Approve => {}
            Self::Revoke => {
                change.expression.write("revoked_from", string(agent.agent_state.as_str()));
                change.after.revoked_from = Some(agent.agent_state);
                if let Some(directive) = agent.directive.filter(|directive| directive.then_revoke) {
                    change.if_directed_as_read(directive);
                    change.expression.write("directive", string(directive.disarmed()));
                    change.after.directive = Some(directive.disarmed());
                }
            }
            Self::Restore => {
                change.expression.remove("revoked_from, offline_since, health");
                change.after =
                    Agent { revoked_from: None, offline_since: None, health: None, ..change.after };
            }
        }
        if after == Active {
            change.expression.write("verified_at", moment(now));
            change.after.verified_at = Some(now);
            // Back from a revocation, an agent that was heard before gets time for its next heartbeat.
            if agent.lease_expires_at.is_some() {
                let lease = lease_anew(now, agent.tolerance());
                change.expression.write("lease_expires_at", moment(lease));
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
    pub(super) fn change(&self, agent: &Agent, now: Timestamp) -> Option<Change> {
        let mut change = Change::of(agent, kind::AGENT_UPDATED, now);
        let name = |name: &AgentName| Some(string(name.as_str()));
        change.edit("agent_name", "name", |agent| &mut agent.agent_name, self.name.as_ref(), name);
        let board = |board_id: &Option<BoardId>| board_id.map(|board_id| binary(board_id.as_bytes()));
        change.edit("board_id", "board_id", |agent| &mut agent.board_id, self.board_id.as_ref(), board);
        let limit = |limit: &Option<u32>| limit.map(number);
        let wanted = self.rate_limit.as_ref();
        change.edit("rate_limit", "rate_limit_per_minute", |agent| &mut agent.rate_limit, wanted, limit);
        let stall_after = self.stall_after.map(|after| after.map(millis));
        if let Some(after) = stall_after.filter(|after| *after != agent.stall_after_ms) {
            match after {
                Some(after) => change.expression.write("stall_after_ms", number(after)),
                None => change.expression.remove("stall_after_ms"),
            }
            change.after.stall_after_ms = after;
            let seconds = |after: Option<u64>| json!(after.map(|after| after / 1000));
            change.show("stall_after_seconds", seconds(agent.stall_after_ms), seconds(after));
        }
        let budget = agent.spend().budget;
        if let Some(wanted) = self.budget.filter(|wanted| *wanted != budget) {
            let (microusd, tokens) = match wanted {
                Some(Budget::MicroUsd(microusd)) => (Some(microusd), None),
                Some(Budget::Tokens(tokens)) => (None, Some(tokens)),
                None => (None, None),
            };
            for (attribute, value) in [("budget_microusd", microusd), ("budget_tokens", tokens)] {
                match value {
                    Some(value) => change.expression.write(attribute, number(value)),
                    None => change.expression.remove(attribute),
                }
            }
            // What is used of it is told anew.
            change.expression.remove("spend_told");
            (change.after.budget_microusd, change.after.budget_tokens) = (microusd, tokens);
            change.after.spend_told = None;
            let shown = |budget: Option<Budget>| json!(budget.map(Budget::to_json));
            change.show("budget", shown(budget), shown(wanted));
        }
        if let Some(heartbeat) = self.heartbeat.filter(|heartbeat| *heartbeat != agent.heartbeat()) {
            let (interval, tolerance) = (millis(heartbeat.interval()), millis(heartbeat.tolerance()));
            change.expression.write("interval_ms", number(interval));
            change.expression.write("tolerance_ms", number(tolerance));
            change.after.interval_ms = interval;
            change.after.tolerance_ms = tolerance;
            match (agent.last_seen_at, agent.verified_at) {
                // Restored, and not heard since: it keeps its time to come back.
                (Some(seen), Some(restored)) if restored > seen => {
                    let lease = lease_anew(restored, heartbeat.tolerance());
                    change.expression.require("last_seen_at = :unheard_since");
                    change.expression.value(":unheard_since", moment(seen));
                    change.expression.write("lease_expires_at", moment(lease));
                    change.after.lease_expires_at = Some(lease);
                }
                (Some(seen), _) => {
                    // Added in the write itself: a heartbeat may have moved `last_seen_at` since it was read.
                    change.expression.set("lease_expires_at = last_seen_at + :tolerance_ms");
                    change.after.lease_expires_at = Some(seen.plus(heartbeat.tolerance()));
                }
                (None, _) => change.expression.require("attribute_not_exists(last_seen_at)"),
            }
            if let Some(seen) = agent.last_seen_at
                && heartbeat.interval() != agent.interval()
            {
                change.keeps_next_beat(agent, seen);
            }
            change.show("heartbeat_config", config_json(agent.heartbeat()), config_json(heartbeat));
        }
        (!change.payload.is_null()).then_some(change)
    }
}

impl NewDirective {
    /// The change, `None` if the agent is only to work already, or why it cannot be.
    pub(super) fn change(&self, agent: &Agent, now: Timestamp) -> Result<Option<Change>, &'static str> {
        match agent.agent_state {
            AgentState::Pending => return Err("the agent is pending: approve it first"),
            AgentState::Revoked => return Err("the agent is revoked: restore it first"),
            AgentState::Active => {}
        }
        if self.action == Action::RotateKey && agent.namespace_id.is_some() {
            return Err("the agent sends heartbeats by a token, and has no key that it would rotate");
        }
        if self.action == Action::Run && agent.directive.is_none() {
            return Ok(None);
        }
        let mut change = Change::of(agent, kind::AGENT_DIRECTED, now);
        let directive = Directive::new(self, change.after.updated_at);
        change.expression.write("directive", string(directive));
        change.expression.write("unacked", number(directive.version));
        change.after.directive = Some(directive);
        change.after.unacked = Some(directive.version);
        change.payload = json!({
            "version": directive.version,
            "action": directive.action,
            "deadline": directive.deadline.map(|deadline| deadline.to_string()),
            "then_revoke": directive.then_revoke,
            "reason": self.reason,
            "before": agent.directive.map(|before| before.action),
        });
        Ok(Some(change))
    }
}

/// Until when an agent that is let in again must be heard.
fn lease_anew(restored: Timestamp, tolerance: Duration) -> Timestamp {
    restored.plus(tolerance.max(FIRST_HEARTBEAT_GRACE))
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

    /// Says what an agent should do, with the event.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn direct(
        &self,
        agent_id: AgentId,
        directive: &NewDirective,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        self.change(agent_id, operator, now, |agent| directive.change(agent, now)).await
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
        let update = change.expression.clone().into_part(self.tables.agents.get(), agent_id)?;
        let event = self.record(agent_id, change.event_type.clone(), actor, &change.payload, now);
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
        let mut agent = agent.clone();
        let mut races = Races::default();
        while races.again().await {
            let change = rotation(&agent, key.digest(), overlap, now);
            match self.apply(agent.agent_id, &change, actor, now).await? {
                Transaction::Applied => return Ok(Changed::Done((Box::new(change.after), key))),
                Transaction::Refused(..) if agent.is_told_to_rotate() => {
                    // Perhaps only the directive changed: that is no other rotation.
                    let same_key = |read: &Agent| read.key_digest == agent.key_digest;
                    match self.agent(agent.agent_id, now).await?.filter(same_key) {
                        Some(read) => agent = read,
                        None => return Ok(Changed::Overtaken),
                    }
                }
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

/// The change of a key: conditional on the key that was read, whatever else changes meanwhile. It is what a directive
/// to rotate wants, which ends with it.
pub(super) fn rotation(agent: &Agent, digest: KeyDigest, overlap: Duration, now: Timestamp) -> Change {
    let seen = binary(agent.key_digest.as_bytes());
    let mut change = Change::if_as_read(agent, "key_digest", seen, kind::AGENT_KEY_ROTATED, now);
    change.expression.write("key_digest", binary(digest.as_bytes()));
    change.after.key_digest = digest;
    let ends = (!overlap.is_zero()).then(|| now.plus(overlap));
    match ends {
        Some(ends) => {
            change.expression.set("prior_digest = :seen");
            change.expression.write("prior_key_ends", moment(ends));
        }
        None => change.expression.remove("prior_digest, prior_key_ends"),
    }
    change.after.prior_digest = ends.map(|_| agent.key_digest);
    change.after.prior_key_ends = ends;
    change.payload = json!({ "previous_key_ends": ends.unwrap_or(now).to_string() });
    if let Some(directive) = agent.directive.filter(|_| agent.is_told_to_rotate()) {
        change.if_directed_as_read(directive);
        change.expression.remove("directive, unacked");
        change.after.directive = None;
        change.after.unacked = None;
        change.payload["directive"] = json!(directive.version);
    }
    change
}
