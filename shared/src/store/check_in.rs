//! Checking in: the one write behind every heartbeat and every event.
//!
//! One conditional `UpdateItem` authenticates, rate limits, renews the lease, counts usage and hands back the
//! row. Its refusals are explained by the row that it returns. Only two changes need more, a transaction each,
//! with their event: saying `offline`, and coming back after having been announced offline.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};
use serde_json::json;

use super::{Item, RACES, Store, StoreError, Transaction, Write};
use super::{binary, broken, from_item, moment, number, pause_after_lost_race, string, transact, update};
use crate::domain::agent::{Agent, AgentId, AgentState, Health};
use crate::domain::credential::ApiKey;
use crate::domain::event::{Actor, Event, kind};
use crate::domain::rate_limit::{Policy, Quota, SLOTS, Window};
use crate::time::Timestamp;

/// What a heartbeat says of the agent's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: the health stays, but not across an announced absence.
    Keep,
    /// `online`: the agent takes back what it said.
    Withdraw,
    /// The agent says this.
    Report(Health),
}

/// What checks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A heartbeat.
    Heartbeat(Claim),
    /// Any other call that renews the lease.
    Event,
}

impl Call {
    /// The limit that the call counts against.
    #[must_use]
    pub const fn policy(self) -> Policy {
        match self {
            Self::Heartbeat(_) => Policy::Heartbeats,
            Self::Event => Policy::Events,
        }
    }

    const fn claim(self) -> Claim {
        match self {
            Self::Heartbeat(claim) => claim,
            Self::Event => Claim::Keep,
        }
    }

    pub(super) const fn says_offline(self) -> bool {
        matches!(self.claim(), Claim::Report(Health::Offline))
    }

    /// The counter of this call in the agent's row: `b7` for beats, `c7` for other calls.
    pub(super) fn counter(self, slot: i64) -> String {
        match self {
            Self::Heartbeat(_) => format!("b{slot}"),
            Self::Event => format!("c{slot}"),
        }
    }
}

/// Who checks in, and by what right.
#[derive(Clone, Debug)]
pub enum Caller {
    /// An agent, by its API key.
    Key(ApiKey),
    /// An agent that was created by heartbeat, by a credential of its namespace.
    Namespace {
        /// The agent that the beat's name addresses.
        agent_id: AgentId,
        /// The credential's namespace. The row must have the same.
        namespace: String,
        /// Whoever holds the credential.
        actor: Actor,
    },
    /// Any agent, by an operator.
    Operator {
        /// The agent that the path names.
        agent_id: AgentId,
        /// The operator.
        actor: Actor,
    },
}

impl Caller {
    /// The row that the call addresses: with a key always the key's own.
    #[must_use]
    pub fn agent_id(&self) -> AgentId {
        match self {
            Self::Key(key) => AgentId::of_key(key),
            Self::Namespace { agent_id, .. } | Self::Operator { agent_id, .. } => *agent_id,
        }
    }

    const fn actor(&self) -> Actor {
        match self {
            Self::Key(_) => Actor::Agent,
            Self::Namespace { actor, .. } | Self::Operator { actor, .. } => *actor,
        }
    }

    /// The clause that proves the caller's right, in the same write.
    const fn condition(&self) -> &'static str {
        match self {
            Self::Key(_) => KEY_IS_VALID,
            Self::Namespace { .. } => "enrollment_namespace = :namespace",
            Self::Operator { .. } => "attribute_exists(agent_id)",
        }
    }

    fn value(&self) -> Option<(String, AttributeValue)> {
        match self {
            Self::Key(key) => Some((":digest".to_owned(), binary(&key.digest()))),
            Self::Namespace { namespace, .. } => Some((":namespace".to_owned(), string(namespace))),
            Self::Operator { .. } => None,
        }
    }

    /// Why the caller has no right to this row, if so.
    fn refusal(&self, agent: &Agent, now: Timestamp) -> Option<CheckIn> {
        match self {
            Self::Key(key) if !agent.accepts(&key.digest(), now) => Some(CheckIn::Unknown),
            Self::Namespace { namespace, .. } if agent.enrollment_namespace.as_ref() != Some(namespace) => {
                Some(CheckIn::Foreign)
            }
            _ => None,
        }
    }
}

/// The outcome of a check-in.
#[derive(Debug)]
pub enum CheckIn {
    /// The lease is renewed. The row as it is now.
    Accepted(Box<Agent>, Quota),
    /// There is no such agent, or none with this key.
    Unknown,
    /// The agent belongs to another namespace.
    Foreign,
    /// The agent is pending or revoked.
    Inactive(AgentState),
    /// Over the limit of this window.
    OverLimit(Quota),
}

pub(super) const KEY_IS_VALID: &str = "\
(key_digest = :digest \
 OR (previous_key_digest = :digest AND previous_key_expires_at > :now))";

const IS_ACTIVE: &str = "agent_state = :active";

const IS_UNDER_LIMIT: &str = "\
(attribute_not_exists(#counter) \
 OR #counter < rate_limit_per_minute \
 OR (attribute_not_exists(rate_limit_per_minute) AND #counter < :default_limit) \
 OR last_seen_at < :window_start)";

/// What a write requires, and does, of `offline_since`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Nothing is announced, and nothing is to be: the steady heartbeat.
    None,
    /// Something is announced, and stays: saying `offline` again.
    Announced,
    /// Nothing is announced; the agent says `offline` now.
    Begins,
    /// What was read is still announced; the agent is back.
    Ends(Timestamp),
}

impl Absence {
    const fn condition(self) -> &'static str {
        match self {
            Self::None | Self::Begins => "attribute_not_exists(offline_since)",
            Self::Announced => "attribute_exists(offline_since)",
            Self::Ends(_) => "offline_since = :offline_since",
        }
    }
}

/// The counters that a write in `slot` removes: all but this slot's, `b0,b1,…,c12`. Each list is made once.
fn other_slots(slot: i64) -> &'static str {
    static LISTS: LazyLock<Vec<OnceLock<String>>> =
        LazyLock::new(|| (0..SLOTS).map(|_| OnceLock::new()).collect());
    let list = usize::try_from(slot).ok().and_then(|slot| LISTS.get(slot)).unwrap_or(&LISTS[0]);
    list.get_or_init(|| {
        let others = |counter: char| {
            (0..SLOTS).filter(move |other| *other != slot).map(move |other| format!("{counter}{other}"))
        };
        others('b').chain(others('c')).collect::<Vec<_>>().join(",")
    })
}

/// One check-in as an expression: for an `UpdateItem`, or for the update of a transaction.
struct Expression {
    condition: String,
    update: String,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

/// A call on its way into the row.
struct Attempt<'a> {
    agent_id: AgentId,
    caller: &'a Caller,
    call: Call,
    now: Timestamp,
    store: &'a Store,
}

impl Attempt<'_> {
    fn window(&self) -> Window {
        Window::at(self.now)
    }

    fn expression(&self, absence: Absence) -> Expression {
        let slot = self.window().slot();
        let mut values = HashMap::with_capacity(8);
        values.extend([
            (":active".to_owned(), string(AgentState::Active.as_str())),
            (":now".to_owned(), moment(self.now)),
            (":window_start".to_owned(), moment(self.window().starts_at())),
            (":default_limit".to_owned(), number(self.store.default_limit.get())),
            (":one".to_owned(), number(1)),
        ]);
        values.extend(self.caller.value());
        let mut set = "SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now".to_owned();
        let mut remove = format!("REMOVE {}", other_slots(slot));
        match (self.call.claim(), absence) {
            (Claim::Report(health), _) => {
                set.push_str(", health = :health");
                values.insert(":health".to_owned(), string(health.as_str()));
            }
            (Claim::Withdraw, _) | (Claim::Keep, Absence::Ends(_)) => remove.push_str(", health"),
            (Claim::Keep, _) => {}
        }
        match absence {
            Absence::None | Absence::Announced => {}
            Absence::Begins => set.push_str(", offline_since = :now"),
            Absence::Ends(announced) => {
                remove.push_str(", offline_since");
                values.insert(":offline_since".to_owned(), moment(announced));
            }
        }
        Expression {
            condition: [self.caller.condition(), IS_ACTIVE, absence.condition(), IS_UNDER_LIMIT]
                .join(" AND "),
            update: format!("{set} ADD #counter :one, requests_total :one {remove}"),
            names: HashMap::from([("#counter".to_owned(), self.call.counter(slot))]),
            values,
        }
    }

    /// The check-in alone: one write.
    async fn write(&self, absence: Absence) -> Result<Write, StoreError> {
        let expression = self.expression(absence);
        let request = self
            .store
            .client
            .update_item()
            .table_name(self.store.tables.agents.get())
            .key("agent_id", string(self.agent_id))
            .condition_expression(expression.condition)
            .update_expression(expression.update)
            .set_expression_attribute_names(Some(expression.names))
            .set_expression_attribute_values(Some(expression.values));
        update(request).await
    }

    /// The check-in and its event: both or neither.
    async fn write_with_event(&self, absence: Absence, event: &Event) -> Result<Transaction, StoreError> {
        let expression = self.expression(absence);
        let check_in = Update::builder()
            .table_name(self.store.tables.agents.get())
            .key("agent_id", string(self.agent_id))
            .condition_expression(expression.condition)
            .update_expression(expression.update)
            .set_expression_attribute_names(Some(expression.names))
            .set_expression_attribute_values(Some(expression.values))
            .build()
            .map_err(broken)?;
        let writes =
            vec![TransactWriteItem::builder().update(check_in).build(), self.store.put_event(event)?];
        transact(&self.store.client, writes).await
    }

    /// Calls counted in this window, by the row.
    fn used(&self, item: &Item) -> Result<u32, StoreError> {
        match item.get(&self.call.counter(self.window().slot())) {
            None => Ok(0),
            Some(AttributeValue::N(count)) => count.parse().map_err(broken),
            Some(_) => Err(StoreError::Broken("a counter is not a number".to_owned())),
        }
    }

    fn quota(&self, agent: &Agent, used: u32) -> Quota {
        let limit = agent.rate_limit_per_minute.unwrap_or(*self.store.default_limit.get());
        Quota::after(self.call.policy(), limit, used, self.now)
    }

    /// Why a row refuses this call, in the order of the condition; `None` if only `offline_since` stands in
    /// the way, or nothing any more.
    fn refusal(&self, agent: &Agent, used: u32) -> Option<CheckIn> {
        if agent.is_expired(self.now) {
            return Some(CheckIn::Unknown);
        }
        if let Some(refusal) = self.caller.refusal(agent, self.now) {
            return Some(refusal);
        }
        if agent.agent_state != AgentState::Active {
            return Some(CheckIn::Inactive(agent.agent_state));
        }
        let quota = self.quota(agent, used);
        let counted_in_this_window = agent.last_seen_at >= Some(self.window().starts_at());
        (used >= quota.limit && counted_in_this_window).then_some(CheckIn::OverLimit(quota))
    }

    /// Begins or ends an announced absence, on the row that was read. `None`: somebody else was first.
    async fn change_absence(&self, agent: Agent, used: u32) -> Result<Option<CheckIn>, StoreError> {
        let (absence, event_type, payload) = match agent.offline_since {
            None if self.call.says_offline() => {
                let payload = json!({ "reason": "reported", "last_seen_at": self.now.to_string() });
                (Absence::Begins, kind::AGENT_OFFLINE, payload)
            }
            Some(announced) if !self.call.says_offline() => {
                let last_seen_at = agent.last_seen_at.map(|seen| seen.to_string());
                let payload = json!({ "offline_since": announced.to_string(), "last_seen_at": last_seen_at });
                (Absence::Ends(announced), kind::AGENT_ONLINE, payload)
            }
            _ => return Ok(None),
        };
        let event = self.store.record(self.agent_id, event_type, self.caller.actor(), &payload, self.now);
        match self.write_with_event(absence, &event).await? {
            Transaction::Applied => {
                let agent = self.changed(agent, absence);
                let quota = self.quota(&agent, used + 1);
                Ok(Some(CheckIn::Accepted(Box::new(agent), quota)))
            }
            Transaction::Refused(..) | Transaction::Conflicted => Ok(None),
        }
    }

    /// The row after a transaction, which returns none: what was read, and what was written.
    fn changed(&self, agent: Agent, absence: Absence) -> Agent {
        let health = match self.call.claim() {
            Claim::Report(health) => Some(health),
            Claim::Withdraw | Claim::Keep => None,
        };
        Agent {
            health,
            last_seen_at: Some(self.now),
            lease_expires_at: Some(self.now.plus(agent.tolerance())),
            offline_since: (absence == Absence::Begins).then_some(self.now),
            requests_total: agent.requests_total + 1,
            ..agent
        }
    }
}

impl Store {
    /// Authenticates, rate limits and renews the lease: one write, if nothing changes but the lease.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after [`RACES`] lost races.
    pub async fn check_in(&self, caller: &Caller, call: Call, now: Timestamp) -> Result<CheckIn, StoreError> {
        let attempt = Attempt { agent_id: caller.agent_id(), caller, call, now, store: self };
        let steady = if call.says_offline() { Absence::Announced } else { Absence::None };
        for race in 0..=RACES {
            if race > 0 {
                pause_after_lost_race().await;
            }
            let row = match attempt.write(steady).await? {
                Write::Applied(row) => {
                    let used = attempt.used(&row)?;
                    let agent = from_item::<Agent>(row)?;
                    let quota = attempt.quota(&agent, used);
                    return Ok(CheckIn::Accepted(Box::new(agent), quota));
                }
                Write::Refused(None) => return Ok(CheckIn::Unknown),
                Write::Refused(Some(row)) => row,
                Write::Conflicted => continue,
            };
            let used = attempt.used(&row)?;
            let agent = from_item::<Agent>(row)?;
            if let Some(refusal) = attempt.refusal(&agent, used) {
                return Ok(refusal);
            }
            if let Some(accepted) = attempt.change_absence(agent, used).await? {
                return Ok(accepted);
            }
        }
        Err(StoreError::Contended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_keeps_only_the_counters_of_its_own_slot() {
        for slot in 0..SLOTS {
            let names: Vec<&str> = other_slots(slot).split(',').collect();
            assert_eq!(names.len(), 24);
            assert!(!names.contains(&format!("b{slot}").as_str()));
            assert!(!names.contains(&format!("c{slot}").as_str()));
        }
    }
}
