//! Agents come into being and are let in.

use aws_sdk_dynamodb::types::{Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use serde_json::json;
use uuid::Uuid;

use super::{RACES, Store, StoreError, Transaction};
use super::{binary, broken, from_item, moment, number, pause_after_lost_race, string, to_item, transact};
use crate::agent::{Agent, AgentId, AgentName, AgentState, HeartbeatConfig};
use crate::credential::ApiKey;
use crate::event::{Actor, kind};
use crate::time::Timestamp;
use crate::token::TokenRow;

/// What a caller says of the agent that it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAgent {
    /// Display name.
    pub name: AgentName,
    /// The group it belongs to.
    pub board_id: Option<Uuid>,
    /// How often it beats.
    pub heartbeat: HeartbeatConfig,
}

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The agent is active: from now on, or before already.
    Active(AgentId),
    /// No agent has this key.
    UnknownKey,
    /// The agent is known, and this call does not make it active.
    Inactive(AgentState),
}

impl Verification {
    /// What a row says to a verification that changes nothing.
    fn of(agent: Option<&Agent>, key: &ApiKey, now: Timestamp) -> Self {
        match agent {
            Some(agent) if agent.accepts(&key.digest(), now) && !agent.is_expired(now) => {
                match agent.agent_state {
                    AgentState::Active => Self::Active(agent.agent_id),
                    state => Self::Inactive(state),
                }
            }
            _ => Self::UnknownKey,
        }
    }
}

impl Store {
    /// Registers a pending agent, with its event. `one_off` is the token that this uses up.
    ///
    /// The answer is `None` if the one-off token has let in another agent.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after [`RACES`] lost races.
    pub async fn register(
        &self,
        new: &NewAgent,
        actor: Actor,
        one_off: Option<&TokenRow>,
        now: Timestamp,
    ) -> Result<Option<(Agent, ApiKey)>, StoreError> {
        for race in 0..=RACES {
            if race > 0 {
                pause_after_lost_race().await;
            }
            let key = ApiKey::generate();
            let agent = Agent::pending(
                &key,
                new.name.clone(),
                new.board_id,
                new.heartbeat,
                now,
                self.pending_retention,
            );
            match self.create(&agent, actor, one_off, now).await? {
                Transaction::Applied => return Ok(Some((agent, key))),
                Transaction::Refused(ONE_OFF_TOKEN, _) => return Ok(None),
                // A key id that is taken: draw again.
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    async fn create(
        &self,
        agent: &Agent,
        actor: Actor,
        one_off: Option<&TokenRow>,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        let row = Put::builder()
            .table_name(&self.tables.agents)
            .set_item(Some(to_item(agent)?))
            .condition_expression("attribute_not_exists(agent_id)");
        let payload = json!({
            "name": agent.agent_name,
            "board_id": agent.board_id,
            "state": agent.agent_state,
            "heartbeat_config": {
                "interval_seconds": agent.interval_ms / 1000,
                "missing_tolerance": agent.tolerance_ms / 1000,
            },
        });
        let event = self.record(agent.agent_id, kind::AGENT_REGISTERED, actor, &payload, now);
        let mut writes = vec![
            TransactWriteItem::builder().put(row.build().map_err(broken)?).build(),
            self.put_event(&event)?,
        ];
        if let Some(token) = one_off {
            writes.push(self.use_up(token, agent.agent_id)?);
        }
        transact(&self.client, writes).await
    }

    /// The write that uses up a one-off token, as part of the creating transaction.
    fn use_up(&self, token: &TokenRow, agent_id: AgentId) -> Result<TransactWriteItem, StoreError> {
        let update = Update::builder()
            .table_name(&self.tables.tokens)
            .key("token_id", string(token.token_id))
            .condition_expression("attribute_exists(token_id) AND attribute_not_exists(used_by)")
            .update_expression("SET used_by = :agent_id")
            .expression_attribute_values(":agent_id", string(agent_id));
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }

    /// Makes a pending agent active, with its event. Verifying an active agent again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after [`RACES`] lost races.
    pub async fn verify(
        &self,
        key: &ApiKey,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Verification, StoreError> {
        let agent_id = AgentId::of_key(key);
        let payload = json!({ "before": AgentState::Pending, "after": AgentState::Active });
        for race in 0..=RACES {
            if race > 0 {
                pause_after_lost_race().await;
            }
            let activate = Update::builder()
                .table_name(&self.tables.agents)
                .key("agent_id", string(agent_id))
                .condition_expression(
                    "key_digest = :digest \
                     AND agent_state = :pending \
                     AND expires_at > :now_seconds",
                )
                .update_expression(
                    "SET agent_state = :active, verified_at = :now, updated_at = :now \
                     REMOVE expires_at",
                )
                .expression_attribute_values(":digest", binary(&key.digest()))
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

    /// What [`Store::verify`] would meet, by a read that changes nothing.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn verification(&self, key: &ApiKey, now: Timestamp) -> Result<Verification, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.tables.agents)
            .key("agent_id", string(AgentId::of_key(key)))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| super::failure(&error))?;
        let agent = output.item.map(from_item::<Agent>).transpose()?;
        Ok(Verification::of(agent.as_ref(), key, now))
    }
}

/// The place of the one-off token in the creating transaction.
const ONE_OFF_TOKEN: usize = 2;
