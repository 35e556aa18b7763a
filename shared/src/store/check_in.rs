//! Checking in: the one write behind every heartbeat and every event.
//!
//! One conditional `UpdateItem` authenticates, rate limits, renews the lease, counts usage and hands back the
//! row. Its refusals are explained by the row that it returns. Only what changes more than the lease needs more, one
//! transaction for all that is due, with its events: saying `offline`, coming back after having been announced offline,
//! speaking as another process, acknowledging a directive, and the first use of a day. That much of a budget is used is told
//! after it, by one more.

use std::sync::LazyLock;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use serde_json::{Value, json};

use super::expression::Expression;
use super::{Item, Races, Store, Transaction, Write};
use super::{binary, broken, from_item, moment, number, string, transact, update};
use crate::domain::agent::{Agent, AgentId, AgentState, millis};
use crate::domain::boot::{Boot, BootId};
use crate::domain::canary;
use crate::domain::check_in::{Call, Caller, CheckIn, HealthReport};
use crate::domain::directive::Directive;
use crate::domain::event::{Event, kind};
use crate::domain::failure::StoreError;
use crate::domain::heartbeat::Health;
use crate::domain::rate_limit::{Quota, SLOTS, Window};
use crate::domain::report::STALL_AFTER;
use crate::domain::spend::{Budget, Usage, day_of};
use crate::domain::watch::Cause;
use crate::time::Timestamp;

/// The counter of a call in the agent's row: `b7` for heartbeats, `c7` for other calls.
pub(super) fn counter(call: Call, slot: i64) -> String {
    match call {
        Call::Heartbeat { .. } => format!("b{slot}"),
        Call::Event { .. } => format!("c{slot}"),
    }
}

/// The clause that proves the caller's right, in the same write.
const fn right_of(caller: &Caller) -> &'static str {
    match caller {
        Caller::Key(_) => KEY_IS_VALID,
        Caller::Namespace { .. } => "namespace_id = :namespace",
        Caller::Operator { .. } => "attribute_exists(agent_id)",
    }
}

/// The value in that clause.
fn proof_of(caller: &Caller) -> Option<(&'static str, AttributeValue)> {
    match caller {
        Caller::Key(key) => Some((":digest", binary(key.digest().as_bytes()))),
        Caller::Namespace { namespace, .. } => Some((":namespace", binary(namespace.as_bytes()))),
        Caller::Operator { .. } => None,
    }
}

pub(super) const KEY_IS_VALID: &str = "\
(key_digest = :digest \
 OR (prior_digest = :digest AND prior_key_ends > :now))";

const IS_ACTIVE: &str = "agent_state = :active";

const IS_UNDER_LIMIT: &str = "\
(attribute_not_exists(#counter) \
 OR #counter < rate_limit \
 OR (attribute_not_exists(rate_limit) AND #counter < :default_limit) \
 OR last_seen_at < :window_start)";

/// `<=` would refuse an agent's first call: a row without `last_seen_at` compares with nothing.
const IS_NOT_LATE: &str = "NOT last_seen_at > :latest";

/// While there is noise, processes are not told apart.
const IS_SAME_BOOT: &str = "(boot = :boot OR boot_noise > :now)";

/// Not `=`: around midnight calls of both days are under way, and what is late counts for the new one.
const IS_COUNTED_DAY: &str = "spend_day >= :today";

/// An acknowledgement of what is acknowledged already, or was never asked for, is no news.
const IS_NO_NEW_ACKNOWLEDGEMENT: &str = "(attribute_not_exists(unacked) OR unacked <> :ack)";

/// What a write requires, and does, of `offline_since`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OfflineMark {
    /// Nothing is announced, and nothing is to be: the steady heartbeat.
    None,
    /// Something is announced, and stays: saying `offline` again.
    Announced,
    /// Nothing is announced; the agent says `offline` now.
    Begins,
    /// What was read is still announced; the agent is back.
    Ends(Timestamp),
}

impl OfflineMark {
    const fn condition(self) -> &'static str {
        match self {
            Self::None | Self::Begins => "attribute_not_exists(offline_since)",
            Self::Announced => "attribute_exists(offline_since)",
            Self::Ends(_) => "offline_since = :offline_since",
        }
    }
}

/// What a check-in changes beside the lease, as its row shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) mark: OfflineMark,
    /// Which process speaks.
    pub(super) boot: Boot,
    /// The directive that the agent acknowledges, for the first time.
    pub(super) acknowledges: Option<Directive>,
    /// What it reports as used, if that is the first of a UTC day.
    pub(super) begins_day: Option<Usage>,
}

impl Due {
    /// What a heartbeat supposes that has not read its row: nothing.
    pub(super) const fn nothing(call: Call) -> Self {
        let mark = if call.says_offline() { OfflineMark::Announced } else { OfflineMark::None };
        Self { mark, boot: Boot::Same, acknowledges: None, begins_day: None }
    }

    /// What this row shows to be due, where `boot` is what the call's boot id means to it.
    pub(super) fn of(agent: &Agent, call: Call, boot: Boot, now: Timestamp) -> Self {
        let mark = match (agent.offline_since, call.says_offline()) {
            (None, true) if boot.speaks() => OfflineMark::Begins,
            (None, _) => OfflineMark::None,
            (Some(_), true) => OfflineMark::Announced,
            (Some(announced), false) => OfflineMark::Ends(announced),
        };
        let is_new = agent.unacked.is_some() && agent.unacked == call.report().ack_directive;
        let begins_day = call.report().usage.filter(|_| agent.spend_day < Some(day_of(now)));
        Self { mark, boot, acknowledges: agent.directive.filter(|_| is_new), begins_day }
    }
}

/// For each slot, the counters that a write in it removes: all but those of the window before, its own and the next,
/// `b2,b3,…,c11`. Calls of two windows may be written out of order, and must not erase each other's counter.
#[expect(clippy::cast_possible_truncation, reason = "13")]
static STALE_COUNTERS: LazyLock<[String; SLOTS as usize]> = LazyLock::new(|| {
    let is_stale = |slot: i64, other: i64| (other - slot + 1).rem_euclid(SLOTS) > 2;
    std::array::from_fn(|slot| {
        let slot = i64::try_from(slot).unwrap_or_default();
        let stale = |counter: char| {
            (0..SLOTS)
                .filter(move |other| is_stale(slot, *other))
                .map(move |other| format!("{counter}{other}"))
        };
        stale('b').chain(stale('c')).collect::<Vec<_>>().join(",")
    })
});

/// How far back a call may be dated before what the row was last told: calls that are under way at once are written in
/// any order. What is older than that undoes nothing.
const LATEST: Duration = Duration::from_secs(1);

/// When a heartbeat says that its next one comes, and that its work last got further. Each heartbeat of an agent says both
/// anew, or takes them back; events, operators without a report of it, and a process that was replaced say nothing of them.
fn claims(
    caller: &Caller,
    call: Call,
    boot: Boot,
    now: Timestamp,
) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
    let report = call.report();
    let speaks = matches!(call, Call::Heartbeat { .. }) && caller.speaks_for_agent() && boot.speaks();
    speaks.then(|| (report.promised(now), report.moved_at(now)))
}

/// What a call says of the agent's health.
fn health(call: Call, boot: Boot) -> HealthReport {
    if boot.speaks() { call.health() } else { HealthReport::Keep }
}

/// What a check-in requires and does of the boot id. `read`: the row that the decision was made by.
fn tell_apart(
    check_in: &mut Expression,
    boot: Boot,
    boot_id: Option<BootId>,
    read: Option<&Agent>,
    now: Timestamp,
) {
    let bytes = |boot_id: BootId| binary(&boot_id.to_bytes());
    match (boot, boot_id, read.and_then(|agent| agent.boot)) {
        (Boot::Same, None, _) => return,
        (Boot::Same, Some(boot_id), _) => {
            check_in.require(IS_SAME_BOOT);
            check_in.value(":boot", bytes(boot_id));
        }
        (_, _, None) => check_in.require("attribute_not_exists(boot)"),
        (_, _, Some(seen)) => {
            check_in.require("boot = :seen_boot");
            check_in.value(":seen_boot", bytes(seen));
            match read.and_then(|agent| agent.boot_noise) {
                Some(noise) => {
                    check_in.require("boot_noise = :seen_noise");
                    check_in.value(":seen_noise", moment(noise));
                }
                None => check_in.require("attribute_not_exists(boot_noise)"),
            }
        }
    }
    if let Some(boot_id) = boot.becomes() {
        check_in.write("boot", bytes(boot_id));
    }
    if let Some(until) = read.and_then(|agent| boot.noise(agent.interval(), now)) {
        check_in.write("boot_noise", moment(until));
    }
}

/// What a check-in requires and does of the day's counters. `read`: the row that shows that a day begins.
fn count_usage(
    check_in: &mut Expression,
    usage: Option<Usage>,
    due: Due,
    read: Option<&Agent>,
    now: Timestamp,
) {
    let (begins, usage) = match (due.begins_day.zip(read), usage) {
        (None, None) => return,
        (Some((usage, read)), _) => (Some(read), usage),
        (None, Some(usage)) => (None, usage),
    };
    let Some(read) = begins else {
        check_in.require(IS_COUNTED_DAY);
        check_in.value(":today", number(day_of(now)));
        for (clause, name, used) in [
            ("spent_tokens :tokens", ":tokens", usage.tokens),
            ("spent_microusd :microusd", ":microusd", usage.microusd),
        ] {
            if used > 0 {
                check_in.add(clause);
                check_in.value(name, number(used));
            }
        }
        return;
    };
    match read.spend_day {
        Some(day) => {
            check_in.require("spend_day = :seen_day");
            check_in.value(":seen_day", number(day));
        }
        None => check_in.require("attribute_not_exists(spend_day)"),
    }
    let begun = read.clone().begins_day(usage, now);
    check_in.write("spend_day", number(day_of(now)));
    check_in.write("spent_tokens", number(usage.tokens));
    check_in.write("spent_microusd", number(usage.microusd));
    match begun.spend_told {
        Some(percent) => {
            require_budget(check_in, read);
            check_in.write("spend_told", number(percent));
        }
        None => check_in.remove("spend_told"),
    }
}

/// Requires that the budget is the one that was read.
fn require_budget(expression: &mut Expression, read: &Agent) {
    let (clause, budget) = match read.spend().budget {
        None => return,
        Some(Budget::MicroUsd(budget)) => ("budget_microusd = :budget", budget),
        Some(Budget::Tokens(budget)) => ("budget_tokens = :budget", budget),
    };
    expression.require(clause);
    expression.value(":budget", number(budget));
}

/// The write that notes that a percentage of the day's budget is told, which nobody was faster to tell.
pub(super) fn budget_told(read: &Agent, percent: u8) -> Expression {
    let mut told = Expression::default();
    told.require("spend_day = :seen_day");
    told.value(":seen_day", number(read.spend_day.unwrap_or_default()));
    told.require("(attribute_not_exists(spend_told) OR spend_told < :spend_told)");
    require_budget(&mut told, read);
    told.write("spend_told", number(percent));
    told
}

/// The write that notes that a heartbeat was answered with the agent's directive for the first time.
pub(super) fn hearing(answered: &Agent, now: Timestamp) -> Option<Expression> {
    let directive = answered.directive.filter(|directive| directive.heard.is_none())?;
    let mut hearing = Expression::default();
    hearing.require("directive = :told");
    hearing.value(":told", string(directive));
    hearing.write("directive", string(directive.after_hearing(now)));
    Some(hearing)
}

/// A check-in's condition and update. `read`: the row that shows what is due.
pub(super) fn expression(
    caller: &Caller,
    call: Call,
    due: Due,
    read: Option<&Agent>,
    default_limit: u32,
    now: Timestamp,
) -> Expression {
    let mark = due.mark;
    let window = Window::at(now);
    let slot = window.slot();
    let mut check_in = Expression::default();
    for condition in [right_of(caller), IS_ACTIVE, mark.condition(), IS_UNDER_LIMIT, IS_NOT_LATE] {
        check_in.require(condition);
    }
    check_in.set("last_seen_at = :now");
    check_in.set("lease_expires_at = tolerance_ms + :now");
    check_in.add("#counter :one");
    check_in.add("requests_total :one");
    check_in.remove(STALE_COUNTERS[usize::try_from(slot).unwrap_or_default()].as_str());
    match (health(call, due.boot), mark) {
        (HealthReport::Report(health), _) => check_in.write("health", string(health.as_str())),
        (HealthReport::Withdraw, _) | (HealthReport::Keep, OfflineMark::Ends(_)) => {
            check_in.remove("health");
        }
        (HealthReport::Keep, _) => {}
    }
    if let Some((promised, moved_at)) = claims(caller, call, due.boot, now) {
        match promised {
            Some(promised) => check_in.write("next_beat_at", moment(promised)),
            None => check_in.remove("next_beat_at"),
        }
        match moved_at {
            Some(moved_at) => {
                check_in.set("stalls_at = if_not_exists(stall_after_ms, :default_stall) + :moved_at");
                check_in.value(":default_stall", number(millis(STALL_AFTER)));
                check_in.value(":moved_at", moment(moved_at));
            }
            None => check_in.remove("stalls_at"),
        }
    }
    match mark {
        OfflineMark::None | OfflineMark::Announced => {}
        OfflineMark::Begins => check_in.set("offline_since = :now"),
        OfflineMark::Ends(announced) => {
            check_in.remove("offline_since");
            // A silence may have said when the row goes.
            check_in.remove("expires_at");
            check_in.value(":offline_since", moment(announced));
        }
    }
    tell_apart(&mut check_in, due.boot, call.report().boot_id, read, now);
    let ack = call.report().ack_directive;
    match (due.acknowledges, ack) {
        (Some(directive), _) => {
            check_in.require("unacked = :ack");
            check_in.remove("unacked");
            match directive.after_acknowledgement(now) {
                Some(acknowledged) => check_in.write("directive", string(acknowledged)),
                None => check_in.remove("directive"),
            }
        }
        (None, Some(_)) => check_in.require(IS_NO_NEW_ACKNOWLEDGEMENT),
        (None, None) => {}
    }
    if let Some(ack) = ack {
        check_in.value(":ack", number(ack));
    }
    count_usage(&mut check_in, call.report().usage, due, read, now);
    check_in.name("#counter", counter(call, slot));
    check_in.value(":active", string(AgentState::Active.as_str()));
    check_in.value(":now", moment(now));
    check_in.value(":window_start", moment(window.starts_at()));
    check_in.value(":default_limit", number(default_limit));
    check_in.value(":one", number(1));
    check_in.value(":latest", moment(now.plus(LATEST)));
    if let Some((name, value)) = proof_of(caller) {
        check_in.value(name, value);
    }
    check_in
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

    fn expression(&self, due: Due, read: Option<&Agent>) -> Expression {
        expression(self.caller, self.call, due, read, *self.store.default_limit.get(), self.now)
    }

    /// The check-in alone: one write.
    async fn write(&self, due: Due, read: Option<&Agent>) -> Result<Write, StoreError> {
        let (request, table) = (self.store.client.update_item(), self.store.tables.agents.get());
        update(self.expression(due, read).into_request(request, table, self.agent_id)).await
    }

    /// The check-in, and what is put beside it: all or nothing.
    async fn write_with(
        &self,
        due: Due,
        read: &Agent,
        puts: Vec<TransactWriteItem>,
    ) -> Result<Transaction, StoreError> {
        let expression = self.expression(due, Some(read));
        let mut writes = vec![expression.into_part(self.store.tables.agents.get(), self.agent_id)?];
        writes.extend(puts);
        transact(&self.store.client, writes).await
    }

    /// The outcome of an accepted write.
    fn accepted(&self, row: Item) -> Result<CheckIn, StoreError> {
        let used = self.used(&row)?;
        let agent = from_item::<Agent>(row)?;
        let quota = self.quota(&agent, used);
        Ok(CheckIn::Accepted(Box::new(agent), quota))
    }

    /// Calls counted in this window, by the row.
    fn used(&self, item: &Item) -> Result<u32, StoreError> {
        match item.get(&counter(self.call, self.window().slot())) {
            None => Ok(0),
            Some(AttributeValue::N(count)) => count.parse().map_err(broken),
            Some(_) => Err(StoreError::Broken("a counter is not a number".to_owned())),
        }
    }

    fn quota(&self, agent: &Agent, used: u32) -> Quota {
        let limit = agent.rate_limit.unwrap_or(*self.store.default_limit.get());
        Quota::after(self.call.policy(), limit, used, self.now)
    }

    /// Why a row refuses this call, in the order of the condition; `None` if only something that is due stands in
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

    /// Whether the row was told something newer: the call is answered alike, and changes nothing. What came before the
    /// agent said that it goes, or long before its last call, was overtaken on its way.
    fn is_late(&self, agent: &Agent) -> bool {
        let was_told = agent.last_seen_at.is_some_and(|seen| seen > self.now.plus(LATEST));
        let said_offline = agent.health == Some(Health::Offline);
        was_told || (said_offline && agent.offline_since.is_some_and(|since| self.now < since))
    }

    /// The events of what is due.
    fn events(&self, agent: &Agent, due: Due) -> Vec<Event> {
        let record = |event_type, payload: Value, at| {
            self.store.record(self.agent_id, event_type, self.caller.actor(), &payload, at)
        };
        let mut events = Vec::new();
        match due.mark {
            OfflineMark::Begins => {
                let payload = json!({ "reason": "reported", "last_seen_at": self.now.to_string() });
                events.push(record(kind::AGENT_OFFLINE, payload, self.now));
            }
            OfflineMark::Ends(announced) => {
                let last_seen_at = agent.last_seen_at.map(|seen| seen.to_string());
                let mut payload =
                    json!({ "offline_since": announced.to_string(), "last_seen_at": last_seen_at });
                let boot_id = self.call.report().boot_id;
                if due.boot.replaces().is_some() {
                    payload["cause"] = json!(Cause::Restarted);
                } else if boot_id.is_some() && boot_id == agent.boot {
                    payload["cause"] = json!(Cause::Resumed);
                }
                // A call that was under way while its agent was announced offline ends that, and is told after it.
                events.push(record(kind::AGENT_ONLINE, payload, announced.max(self.now)));
            }
            OfflineMark::None | OfflineMark::Announced => {}
        }
        let told = match due.boot {
            Boot::Restarted(boot_id) => Some((kind::AGENT_RESTARTED, boot_id)),
            Boot::Cloned(boot_id) => Some((kind::AGENT_CLONED, boot_id)),
            Boot::Same | Boot::First(_) | Boot::Delayed | Boot::Resumed(_) | Boot::Returned(_) => None,
        };
        if let Some((event_type, boot_id)) = told {
            let payload = json!({
                "boot_id": boot_id.to_string(),
                "previous_boot_id": agent.boot.map(|boot_id| boot_id.to_string()),
                "last_seen_at": agent.last_seen_at.map(|seen| seen.to_string()),
            });
            events.push(record(event_type, payload, self.now));
        }
        if let Some(directive) = due.acknowledges {
            let after = u64::try_from(self.now.since(directive.since()).as_millis()).unwrap_or(u64::MAX);
            let payload =
                json!({ "version": directive.version, "action": directive.action, "after_ms": after });
            events.push(record(kind::AGENT_DIRECTIVE_ACKNOWLEDGED, payload, self.now));
        }
        if let Some(usage) = due.begins_day {
            let begun = agent.clone().begins_day(usage, self.now);
            if let Some(percent) = begun.spend_told {
                let payload = begun.spend().payload(percent, self.now);
                events.push(record(kind::AGENT_BUDGET_REACHED, payload, self.now));
            }
        }
        events
    }

    /// Does all that the row shows to be due, with its events. `None`: nothing is, or somebody else was first.
    async fn settle(&self, agent: Agent, used: u32) -> Result<Option<CheckIn>, StoreError> {
        let boot = self.store.boot(self.call.report().boot_id, &agent, self.now).await?;
        let boot = if self.call.says_offline() { boot.of_leave() } else { boot };
        let due = Due::of(&agent, self.call, boot, self.now);
        if due == Due::nothing(self.call) {
            return Ok(None);
        }
        let mut puts = self.store.boot_notes(&agent, due.boot, self.now)?;
        for event in self.events(&agent, due) {
            puts.push(self.store.put_event(&event)?);
        }
        if puts.is_empty() {
            return match self.write(due, Some(&agent)).await? {
                Write::Applied(row) => self.accepted(row).map(Some),
                Write::Refused(_) | Write::Conflicted => Ok(None),
            };
        }
        match self.write_with(due, &agent, puts).await? {
            Transaction::Applied => {
                let agent = changed(agent, self.caller, self.call, due, self.now);
                let quota = self.quota(&agent, used + 1);
                Ok(Some(CheckIn::Accepted(Box::new(agent), quota)))
            }
            Transaction::Refused(..) | Transaction::Conflicted => Ok(None),
        }
    }

    /// The write, or what its refusal calls for.
    async fn run(&self) -> Result<CheckIn, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let row = match self.write(Due::nothing(self.call), None).await? {
                Write::Applied(row) => return self.accepted(row),
                Write::Refused(None) => return Ok(CheckIn::Unknown),
                Write::Refused(Some(row)) => row,
                Write::Conflicted => continue,
            };
            let used = self.used(&row)?;
            let agent = from_item::<Agent>(row)?;
            if let Some(refusal) = self.refusal(&agent, used) {
                return Ok(refusal);
            }
            if self.is_late(&agent) && self.says_what_must_be_kept() {
                // Nothing of it was kept: an agent that sleeps now would be taken for dead.
                return Ok(CheckIn::Overtaken);
            }
            if self.is_late(&agent) {
                let quota = self.quota(&agent, used);
                return Ok(CheckIn::Accepted(Box::new(agent), quota));
            }
            if let Some(accepted) = self.settle(agent, used).await? {
                return Ok(accepted);
            }
        }
        Err(StoreError::Contended)
    }

    /// Whether an agent relies on what the call says, so that it must not be answered 200 if nothing of it was kept.
    fn says_what_must_be_kept(&self) -> bool {
        let report = self.call.report();
        report.next_beat_in.is_some() || report.usage.is_some()
    }

    /// Notes that the agent has heard what an operator wants of it. Whoever fails leaves it to the next heartbeat.
    async fn note_hearing(&self, agent: &Agent) {
        if !matches!(self.call, Call::Heartbeat { .. }) || !self.caller.speaks_for_agent() {
            return;
        }
        let Some(hearing) = hearing(agent, self.now) else { return };
        let (request, table) = (self.store.client.update_item(), self.store.tables.agents.get());
        let _noted_by_the_next = update(hearing.into_request(request, table, self.agent_id)).await;
    }

    /// Tells that 80 or 100 percent of the day's budget are used, once each. Whoever fails leaves it to the next call: the
    /// check-in itself is done.
    async fn tell_budget(&self, agent: &Agent) {
        let spend = agent.spend();
        let Some(percent) = spend.due(self.now) else { return };
        let payload = spend.payload(percent, self.now);
        let actor = self.caller.actor();
        let event = self.store.record(self.agent_id, kind::AGENT_BUDGET_REACHED, actor, &payload, self.now);
        let table = self.store.tables.agents.get();
        let writes = budget_told(agent, percent).into_part(table, self.agent_id);
        let writes = writes.and_then(|told| Ok(vec![told, self.store.put_event(&event)?]));
        if let Ok(writes) = writes {
            let _told_by_the_next = transact(&self.store.client, writes).await;
        }
    }
}

/// The row after a transaction, which returns none: what was read, and what was written.
pub(super) fn changed(agent: Agent, caller: &Caller, call: Call, due: Due, now: Timestamp) -> Agent {
    let health = match (health(call, due.boot), due.mark) {
        (HealthReport::Report(health), _) => Some(health),
        (HealthReport::Withdraw, _) | (HealthReport::Keep, OfflineMark::Ends(_)) => None,
        (HealthReport::Keep, _) => agent.health,
    };
    let (offline_since, expires_at) = match due.mark {
        OfflineMark::None | OfflineMark::Announced => (agent.offline_since, agent.expires_at),
        OfflineMark::Begins => (Some(now), agent.expires_at),
        OfflineMark::Ends(_) => (None, None),
    };
    let (directive, unacked) = match due.acknowledges {
        Some(directive) => (directive.after_acknowledgement(now), None),
        None => (agent.directive, agent.unacked),
    };
    let (next_beat_at, stalls_at) = match claims(caller, call, due.boot, now) {
        Some((promised, moved_at)) => {
            let after = agent.stall_after_ms.map_or(STALL_AFTER, Duration::from_millis);
            (promised, moved_at.map(|moved_at| moved_at.plus(after)))
        }
        None => (agent.next_beat_at, agent.stalls_at),
    };
    let agent = match (due.begins_day, call.report().usage) {
        (Some(usage), _) => agent.begins_day(usage, now),
        (None, Some(usage)) => Agent {
            spent_tokens: agent.spent_tokens + usage.tokens,
            spent_microusd: agent.spent_microusd + usage.microusd,
            ..agent
        },
        (None, None) => agent,
    };
    Agent {
        next_beat_at,
        stalls_at,
        boot: due.boot.becomes().or(agent.boot),
        boot_noise: due.boot.noise(agent.interval(), now).or(agent.boot_noise),
        health,
        last_seen_at: Some(now),
        lease_expires_at: Some(now.plus(agent.tolerance())),
        offline_since,
        expires_at,
        directive,
        unacked,
        requests_total: agent.requests_total + 1,
        ..agent
    }
}

impl Store {
    /// Authenticates, rate limits and renews the lease: one write, if nothing changes but the lease.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn check_in(&self, caller: &Caller, call: Call, now: Timestamp) -> Result<CheckIn, StoreError> {
        if matches!(caller, Caller::Operator { agent_id, .. } if *agent_id == canary::agent_id()) {
            return Ok(CheckIn::Unknown);
        }
        let attempt = Attempt { agent_id: caller.agent_id(), caller, call, now, store: self };
        let outcome = attempt.run().await?;
        if let CheckIn::Accepted(agent, _) = &outcome {
            attempt.tell_budget(agent).await;
            attempt.note_hearing(agent).await;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::domain::event::Actor;
    use crate::domain::report::Report;

    #[test]
    fn a_write_keeps_the_counters_of_its_own_window_and_its_neighbours() {
        for slot in 0..SLOTS {
            let names: Vec<&str> = STALE_COUNTERS[usize::try_from(slot).unwrap()].split(',').collect();
            assert_eq!(names.len(), 20);
            for kept in [slot - 1, slot, slot + 1].map(|slot| slot.rem_euclid(SLOTS)) {
                assert!(!names.contains(&format!("b{kept}").as_str()), "{slot}: {kept}");
                assert!(!names.contains(&format!("c{kept}").as_str()), "{slot}: {kept}");
            }
        }
    }

    /// The write that the product is about, whole. docs/architecture.md shows the same text.
    #[test]
    fn a_steady_heartbeat_is_this_one_write() {
        let key = crate::domain::credential::ApiKey::generate();
        let caller = Caller::Key(key);
        let call = Call::heartbeat(HealthReport::Report(Health::Healthy));
        let now = Timestamp::from_millis(5 * 60_000);
        let parts = expression(&caller, call, Due::nothing(call), None, 60, now);
        assert_eq!(
            parts.condition(),
            "(key_digest = :digest \
              OR (prior_digest = :digest AND prior_key_ends > :now)) \
             AND agent_state = :active \
             AND attribute_not_exists(offline_since) \
             AND (attribute_not_exists(#counter) \
              OR #counter < rate_limit \
              OR (attribute_not_exists(rate_limit) AND #counter < :default_limit) \
              OR last_seen_at < :window_start) \
             AND NOT last_seen_at > :latest"
        );
        assert_eq!(
            parts.update(),
            "SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now, health = :health \
             ADD #counter :one, requests_total :one \
             REMOVE b0,b1,b2,b3,b7,b8,b9,b10,b11,b12,c0,c1,c2,c3,c7,c8,c9,c10,c11,c12, next_beat_at, stalls_at"
        );
        assert_eq!(*parts.names(), HashMap::from([("#counter".to_owned(), "b5".to_owned())]));
        assert_eq!(parts.values().len(), 8, "{:?}", parts.values().keys());
    }

    /// What a report adds to it, whole: nothing of what it does not say.
    #[test]
    fn a_report_appends_one_clause_for_each_thing_that_it_says() {
        let caller = Caller::Key(crate::domain::credential::ApiKey::generate());
        let now = Timestamp::from_millis(5 * 60_000);
        let plain = Call::heartbeat(HealthReport::Keep);
        let plain = expression(&caller, plain, Due::nothing(plain), None, 60, now);
        let report = Report { ack_directive: Some(7), ..Report::default() };
        let call = Call::Heartbeat { health: HealthReport::Keep, report };
        let steady = expression(&caller, call, Due::nothing(call), None, 60, now);
        let appended = " AND (attribute_not_exists(unacked) OR unacked <> :ack)";
        assert_eq!(steady.condition(), format!("{}{appended}", plain.condition()));
        assert_eq!(steady.update(), plain.update());
        assert_eq!(steady.values()[":ack"], number(7));

        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let report = Report { progress_age: seconds(12), next_beat_in: seconds(3_600), ..Report::default() };
        let call = Call::Heartbeat { health: HealthReport::Keep, report };
        let asleep = expression(&caller, call, Due::nothing(call), None, 60, now);
        assert_eq!(asleep.condition(), plain.condition());
        let said = "next_beat_at = :next_beat_at, \
                    stalls_at = if_not_exists(stall_after_ms, :default_stall) + :moved_at ADD";
        let expected =
            plain.update().replace(" ADD", &format!(", {said}")).replace(", next_beat_at, stalls_at", "");
        assert_eq!(asleep.update(), expected);
        assert_eq!(asleep.values()[":next_beat_at"], number(3_900_000));
        assert_eq!(asleep.values()[":moved_at"], number(3_888_000));

        let boot_id = BootId::parse("9f2c1d7e8a6b5c40");
        let report = Report { boot_id, ..Report::default() };
        let call = Call::Heartbeat { health: HealthReport::Keep, report };
        let named = expression(&caller, call, Due::nothing(call), None, 60, now);
        let appended = " AND (boot = :boot OR boot_noise > :now)";
        assert_eq!(named.condition(), format!("{}{appended}", plain.condition()));
        assert_eq!(named.update(), plain.update());
        assert_eq!(named.values()[":boot"], binary(&[0x9f, 0x2c, 0x1d, 0x7e, 0x8a, 0x6b, 0x5c, 0x40]));

        let usage = Some(Usage { tokens: 18_250, microusd: 42_000 });
        let used =
            Call::Heartbeat { health: HealthReport::Keep, report: Report { usage, ..Report::default() } };
        let used = expression(&caller, used, Due::nothing(used), None, 60, now);
        assert_eq!(used.condition(), format!("{} AND spend_day >= :today", plain.condition()));
        let counted = ", spent_tokens :tokens, spent_microusd :microusd REMOVE";
        assert_eq!(used.update(), plain.update().replace(" REMOVE", counted));
        assert_eq!((&used.values()[":today"], &used.values()[":tokens"]), (&number(0), &number(18_250)));
        let tokens = Call::Event { usage: Some(Usage { tokens: 1, microusd: 0 }) };
        let tokens = expression(&caller, tokens, Due::nothing(tokens), None, 60, now);
        assert!(tokens.update().contains("requests_total :one, spent_tokens :tokens REMOVE"));

        let report = Report { ack_directive: Some(7), boot_id, usage, ..Report::default() };
        let everything = Report { progress_age: seconds(12), next_beat_in: seconds(3_600), ..report };
        let call = Call::Heartbeat { health: HealthReport::Report(Health::Healthy), report: everything };
        let whole = expression(&caller, call, Due::nothing(call), None, 60, now);
        assert_eq!(
            whole.condition(),
            "(key_digest = :digest OR (prior_digest = :digest AND prior_key_ends > :now)) \
             AND agent_state = :active \
             AND attribute_not_exists(offline_since) \
             AND (attribute_not_exists(#counter) OR #counter < rate_limit \
              OR (attribute_not_exists(rate_limit) AND #counter < :default_limit) \
              OR last_seen_at < :window_start) \
             AND NOT last_seen_at > :latest \
             AND (boot = :boot OR boot_noise > :now) \
             AND (attribute_not_exists(unacked) OR unacked <> :ack) \
             AND spend_day >= :today"
        );
        assert_eq!(
            whole.update(),
            "SET last_seen_at = :now, lease_expires_at = tolerance_ms + :now, health = :health, \
             next_beat_at = :next_beat_at, \
             stalls_at = if_not_exists(stall_after_ms, :default_stall) + :moved_at \
             ADD #counter :one, requests_total :one, spent_tokens :tokens, spent_microusd :microusd \
             REMOVE b0,b1,b2,b3,b7,b8,b9,b10,b11,b12,c0,c1,c2,c3,c7,c8,c9,c10,c11,c12"
        );

        let agent_id = caller.agent_id();
        let operator = |reports| Caller::Operator { agent_id, actor: Actor::System, reports };
        let word = Call::heartbeat(HealthReport::Report(Health::Healthy));
        for (caller, call) in [(&caller, Call::Event { usage: None }), (&operator(false), word)] {
            let update = expression(caller, call, Due::nothing(call), None, 60, now).update();
            assert!(!update.contains("next_beat_at") && !update.contains("stalls_at"), "{update}");
        }
        let passed_on = expression(&operator(true), call, Due::nothing(call), None, 60, now);
        assert_eq!(passed_on.update(), whole.update());
        assert!(passed_on.condition().ends_with(
            "AND (boot = :boot OR boot_noise > :now) \
             AND (attribute_not_exists(unacked) OR unacked <> :ack) \
             AND spend_day >= :today"
        ));
    }
}
