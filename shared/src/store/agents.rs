//! Agents come into being and are let in.

use aws_sdk_dynamodb::types::{Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use serde_json::json;

use super::check_in::{KEY_IS_VALID, counter};
use super::listing::listing_attributes;
use super::{Item, Races, Store, Transaction, changes::config_json};
use super::{binary, broken, from_item, moment, number, string, to_item, transact};
use crate::domain::agent::{Agent, AgentId, AgentState};
use crate::domain::check_in::{Call, HealthReport};
use crate::domain::credential::ApiKey;
use crate::domain::event::{Actor, Event, kind};
use crate::domain::failure::StoreError;
use crate::domain::heartbeat::HeartbeatConfig;
use crate::domain::rate_limit::Window;
use crate::domain::registration::{Creation, NewAgent, NewEnrolled, Verification};
use crate::domain::report::{Report, STALL_AFTER};
use crate::domain::token::TokenRow;
use crate::time::Timestamp;

/// Pending, and not over its time to live.
const IS_WAITING: &str = "\
agent_state = :pending \
 AND (attribute_not_exists(expires_at) OR expires_at > :now_seconds)";

/// The place of the one-off token in the creating transaction.
const ONE_OFF_TOKEN: usize = 2;

impl Store {
    /// Registers a pending agent under a key of its own, with its event. `one_off` is the token that this uses
    /// up; `None` says that it has let in another agent.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn register(
        &self,
        new: &NewAgent,
        actor: Actor,
        one_off: Option<&TokenRow>,
        now: Timestamp,
    ) -> Result<Option<(Box<Agent>, ApiKey)>, StoreError> {
        self.create_with_new_key(new, |agent| agent, actor, one_off, now).await
    }

    /// Creates an active agent under a key of its own, with its event.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn create_active(
        &self,
        new: &NewAgent,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(Box<Agent>, ApiKey), StoreError> {
        let created = self.create_with_new_key(new, |agent| agent.activated(now), actor, None, now).await?;
        created.ok_or(StoreError::Contended)
    }

    async fn create_with_new_key(
        &self,
        new: &NewAgent,
        admit: impl Fn(Agent) -> Agent,
        actor: Actor,
        one_off: Option<&TokenRow>,
        now: Timestamp,
    ) -> Result<Option<(Box<Agent>, ApiKey)>, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let key = ApiKey::generate();
            let (name, retention) = (new.name.clone(), *self.pending_retention.get());
            let agent = admit(Agent::pending(&key, name, new.board_id, new.heartbeat, now, retention));
            let row = to_item(&agent)?;
            let events = vec![self.registration_of(&agent, actor, now)];
            match self.create(row, &agent, &events, one_off, now).await? {
                Transaction::Applied => return Ok(Some((Box::new(agent), key))),
                Transaction::Refused(ONE_OFF_TOKEN, _) if one_off.is_some() => return Ok(None),
                // A key id that is taken: draw again.
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// Creates the agent of a name by its first heartbeat, with its event. Whoever loses the race sends its heartbeat
    /// again.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every conflict.
    pub async fn enroll(&self, new: &NewEnrolled<'_>, now: Timestamp) -> Result<Creation, StoreError> {
        let key = ApiKey::with_key_id(NewEnrolled::key_id(new.namespace, new.board_id, &new.name));
        let (name, retention) = (new.name.clone(), *self.pending_retention.get());
        let pending = Agent::pending(&key, name, new.board_id, HeartbeatConfig::default(), now, retention);
        let pending = Agent { namespace_id: Some(new.namespace), ..pending };
        // Also while it waits: what was answered 200 is kept.
        let pending = match new.claims.usage {
            Some(usage) => pending.begins_day(usage, now),
            None => pending,
        };
        let call = Call::heartbeat(new.report);
        let agent = if new.approved {
            first_heartbeat(pending.activated(now), new.report, new.claims, now)
        } else {
            pending
        };
        let mut row = to_item(&agent)?;
        let mut events = vec![self.registration_of(&agent, new.actor, now)];
        if new.approved {
            row.insert(counter(call, Window::at(now).slot()), number(1));
        }
        if agent.offline_since.is_some() {
            let payload = json!({ "reason": "reported", "last_seen_at": now.to_string() });
            events.push(self.record(agent.agent_id, kind::AGENT_OFFLINE, new.actor, &payload, now));
        }
        let mut races = Races::default();
        while races.again().await {
            match self.create(row.clone(), &agent, &events, new.one_off, now).await? {
                Transaction::Applied => return Ok(Creation::Created(Box::new(agent), key)),
                Transaction::Refused(ONE_OFF_TOKEN, _) if new.one_off.is_some() => {
                    return Ok(Creation::TokenUsedUp);
                }
                Transaction::Refused(..) => return Ok(Creation::Exists),
                // With whoever creates this agent, or another one by the same one-off token; or with a
                // transaction that comes to nothing. What is there afterwards decides.
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    fn registration_of(&self, agent: &Agent, actor: Actor, now: Timestamp) -> Event {
        let payload = json!({
            "name": agent.agent_name,
            "board_id": agent.board_id,
            "state": agent.agent_state,
            "heartbeat_config": config_json(agent.heartbeat()),
        });
        self.record(agent.agent_id, kind::AGENT_REGISTERED, actor, &payload, now)
    }

    /// The creating transaction: the row if it is not there, or only waits for its removal; the one-off token;
    /// the events.
    async fn create(
        &self,
        mut row: Item,
        agent: &Agent,
        events: &[Event],
        one_off: Option<&TokenRow>,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        row.extend(listing_attributes(agent));
        let put = Put::builder()
            .table_name(self.tables.agents.get())
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(agent_id) OR expires_at <= :now_seconds")
            .expression_attribute_values(":now_seconds", number(now.as_seconds()));
        let mut writes = vec![TransactWriteItem::builder().put(put.build().map_err(broken)?).build()];
        for event in events {
            writes.push(self.put_event(event)?);
        }
        if let Some(token) = one_off {
            writes.insert(ONE_OFF_TOKEN, self.use_up(token, agent.agent_id)?);
        }
        transact(&self.client, writes).await
    }

    /// The write that uses up a one-off token. Its own agent, once deleted, may come back by it.
    fn use_up(&self, token: &TokenRow, agent_id: AgentId) -> Result<TransactWriteItem, StoreError> {
        let update = Update::builder()
            .table_name(self.tables.tokens.get())
            .key("token_id", string(token.token_id))
            .condition_expression(
                "attribute_exists(token_id) \
                 AND (attribute_not_exists(used_by) OR used_by = :agent_id)",
            )
            .update_expression("SET used_by = :agent_id ADD uses :one")
            .expression_attribute_values(":agent_id", string(agent_id))
            .expression_attribute_values(":one", number(1));
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }

    /// Makes a pending agent active, with its event. Verifying an active agent again changes nothing. An agent
    /// that an enrollment token created unapproved does not verify itself.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn verify(
        &self,
        key: &ApiKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Verification, StoreError> {
        let agent_id = AgentId::of_key(key);
        let payload = json!({
            "before": { "state": AgentState::Pending },
            "after": { "state": AgentState::Active },
        });
        let mut condition = format!("{KEY_IS_VALID} AND {IS_WAITING}");
        if actor == Actor::Agent {
            condition.push_str(" AND attribute_not_exists(namespace_id)");
        }
        let mut races = Races::default();
        while races.again().await {
            let activate = Update::builder()
                .table_name(self.tables.agents.get())
                .key("agent_id", string(agent_id))
                .condition_expression(&condition)
                .update_expression(
                    "SET agent_state = :active, verified_at = :now, updated_at = :now \
                     REMOVE expires_at",
                )
                .expression_attribute_values(":digest", binary(key.digest().as_bytes()))
                .expression_attribute_values(":pending", string(AgentState::Pending.as_str()))
                .expression_attribute_values(":active", string(AgentState::Active.as_str()))
                .expression_attribute_values(":now", moment(now))
                .expression_attribute_values(":now_seconds", number(now.as_seconds()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build()
                .map_err(broken)?;
            let event = self.record(agent_id, kind::AGENT_VERIFIED, actor, &payload, now);
            let writes = vec![TransactWriteItem::builder().update(activate).build(), self.put_event(&event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(Verification::Active(agent_id)),
                Transaction::Refused(_, row) => {
                    let agent = row.map(from_item::<Agent>).transpose()?;
                    return Ok(Verification::of(agent.as_ref(), key, now));
                }
                Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}

/// A new agent whose creation is its first heartbeat.
pub(super) fn first_heartbeat(agent: Agent, report: HealthReport, claims: Report, now: Timestamp) -> Agent {
    let health = match report {
        HealthReport::Report(health) => Some(health),
        HealthReport::Keep | HealthReport::Withdraw => None,
    };
    Agent {
        health,
        last_seen_at: Some(now),
        lease_expires_at: Some(now.plus(agent.tolerance())),
        next_beat_at: claims.promised(now),
        boot: claims.boot_id,
        stalls_at: claims.moved_at(now).map(|moved_at| moved_at.plus(STALL_AFTER)),
        offline_since: Call::heartbeat(report).says_offline().then_some(now),
        requests_total: 1,
        ..agent
    }
}
