//! How large an agent's row gets: above 1 KB every heartbeat would cost twice as much.
//!
//! The rows are made by the writes that make them, in any order that can occur, and not by hand: so no row is measured
//! that cannot be, and none is missed that can.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use uuid::Uuid;

use super::agents::first_heartbeat;
use super::changes::rotation;
use super::check_in::{self, Due, changed, counter};
use super::listing::listing_attributes;
use super::sweep::{announcement, ending};
use super::{Item, from_item, number, string, to_item};
use crate::domain::agent::{Agent, AgentName, AgentState};
use crate::domain::boot::{Boot, BootId};
use crate::domain::change::{Patch, StateChange};
use crate::domain::check_in::{Call, Caller, HealthReport};
use crate::domain::concern::Told;
use crate::domain::credential::ApiKey;
use crate::domain::directive::{Action, NewDirective};
use crate::domain::heartbeat::{Health, HeartbeatConfig};
use crate::domain::ids::{BoardId, NamespaceId, TokenId};
use crate::domain::rate_limit::Window;
use crate::domain::report::Report;
use crate::domain::spend::{Budget, MOST, Usage};
use crate::domain::watch::{Rules, Watched};
use crate::time::Timestamp;

/// The limit of an agent's calls in a window, at most.
const LIMIT: u32 = 6_000;

/// The largest row, in bytes.
const LARGEST: usize = 993;

const _: () = assert!(LARGEST < 1_000, "a heartbeat of two write units");

const DAY: Duration = Duration::from_hours(24);

/// How an agent comes into being.
#[derive(Clone, Copy, Debug)]
enum Creation {
    Registered,
    CreatedActive,
    Enrolled(HealthReport),
    EnrolledUnapproved,
}

/// What happens to it.
#[derive(Clone, Debug)]
enum Step {
    /// A call, after which its window has counted so many; and for how many seconds its process was replaced, if it was
    /// known, and how long ago one returned.
    CheckIn(Call, u32, Option<i64>, Option<i64>),
    Change(StateChange),
    Patch(Patch),
    /// An operator wants something of it.
    Direct(NewDirective),
    /// A new key; the one before stays for so long.
    Rotate(Duration),
    /// Its lease runs out, and the sweep says so; and perhaps when it is forgotten.
    FallSilent(bool),
    /// What is wrong with it is told, if anything is; and perhaps that it flaps.
    Tell(bool),
}

struct Life {
    row: Item,
    key: ApiKey,
    now: Timestamp,
}

impl Life {
    /// `requests` are those that an old agent has sent.
    fn begin(
        creation: Creation,
        name: AgentName,
        board: Option<BoardId>,
        requests: u64,
        now: Timestamp,
    ) -> Self {
        let key = ApiKey::generate();
        let pending = Agent::pending(&key, name, board, HeartbeatConfig::default(), now, DAY);
        let enrolled =
            Agent { namespace_id: Some(NamespaceId::of_token(TokenId::of(Uuid::max()))), ..pending.clone() };
        let agent = match creation {
            Creation::Registered => pending,
            Creation::CreatedActive => pending.activated(now),
            Creation::Enrolled(report) => {
                first_heartbeat(enrolled.activated(now), report, Report::default(), now)
            }
            Creation::EnrolledUnapproved => enrolled,
        };
        let agent = Agent { requests_total: agent.requests_total + requests, ..agent };
        let mut row = to_item(&agent).unwrap();
        row.extend(listing_attributes(&agent));
        if let Creation::Enrolled(report) = creation {
            row.insert(counter(Call::heartbeat(report), Window::at(now).slot()), number(1));
        }
        Self { row, key, now }
    }

    fn agent(&self) -> Agent {
        from_item(self.row.clone()).unwrap()
    }

    fn watched(&self) -> Watched {
        from_item(self.row.clone()).unwrap()
    }

    /// Does what happens, if it can happen to the row as it is.
    fn step(&mut self, step: &Step) {
        let agent = self.agent();
        if agent.is_expired(self.now) {
            return;
        }
        match step {
            Step::CheckIn(call, count, replaced, returned) => {
                self.check_in(agent, *call, *count, *replaced, *returned);
            }
            Step::Change(change) => {
                if let Ok(Some(change)) = change.change(&agent, None, self.now) {
                    change.expression.apply(&mut self.row);
                    assert_eq!(self.agent(), change.after);
                }
            }
            Step::Patch(patch) => {
                if let Some(change) = patch.change(&agent, self.now) {
                    change.expression.apply(&mut self.row);
                    assert_eq!(self.agent(), change.after);
                }
            }
            Step::Direct(wanted) => {
                if let Ok(Some(change)) = wanted.change(&agent, self.now) {
                    change.expression.apply(&mut self.row);
                    assert_eq!(self.agent(), change.after);
                }
            }
            Step::Rotate(overlap) => {
                if agent.agent_state == AgentState::Active {
                    self.key = ApiKey::with_key_id(agent.key_id);
                    let change = rotation(&agent, self.key.digest(), *overlap, self.now);
                    change.expression.apply(&mut self.row);
                    assert_eq!(self.agent(), change.after);
                }
            }
            Step::FallSilent(forget) => {
                let watched = self.watched();
                if let Some(directive) = watched.defies() {
                    ending(directive, self.now).apply(&mut self.row);
                }
                let watched = self.watched();
                self.now = self.now.plus(watched.first_heartbeat_grace() + DAY);
                if let Some(overdue) = watched.overdue(self.now, &[]) {
                    let forgotten_at = forget.then(|| self.now.plus(DAY));
                    announcement(overdue, forgotten_at, self.now).apply(&mut self.row);
                }
            }
            Step::Tell(flapping) => {
                let concern = self.watched().concern(self.now, &[], Rules { missed: 3, waiting: true });
                match (Told { concern, flapping: *flapping }).to_text() {
                    Some(told) => self.row.insert("alerted".to_owned(), string(told)),
                    None => self.row.remove("alerted"),
                };
            }
        }
    }

    fn check_in(
        &mut self,
        agent: Agent,
        call: Call,
        count: u32,
        replaced: Option<i64>,
        returned: Option<i64>,
    ) {
        if agent.agent_state != AgentState::Active {
            return;
        }
        let call = Self::acknowledging(call, &agent);
        let ago = |seconds: i64| Timestamp::from_millis(self.now.as_millis() - seconds * 1000);
        let (replaced, returned) = (replaced.map(ago), returned.map(ago));
        let boot = Boot::of(call.report().boot_id, &agent, replaced, returned, self.now);
        let due = Due::of(&agent, call, boot, self.now);
        let caller = Caller::Key(self.key.clone());
        check_in::expression(&caller, call, due, Some(&agent), LIMIT, self.now).apply(&mut self.row);
        assert_eq!(self.agent(), changed(agent, &caller, call, due, self.now));
        if let Some(usage) = call.report().usage {
            // As much as a whole day of such calls at the highest limit.
            for (attribute, used) in [("spent_tokens", usage.tokens), ("spent_microusd", usage.microusd)] {
                self.row.insert(attribute.to_owned(), number(u64::from(LIMIT) * 1_440 * used));
            }
        }
        let agent = self.agent();
        if let Some(percent) = agent.spend().due(self.now) {
            check_in::budget_told(&agent, percent).apply(&mut self.row);
            assert_eq!(self.agent().spend().due(self.now), None);
        }
        if let (Call::Heartbeat { .. }, Some(hearing)) = (call, check_in::hearing(&agent, self.now)) {
            hearing.apply(&mut self.row);
        }
        self.row.insert(counter(call, Window::at(self.now).slot()), number(count));
    }

    /// Whoever acknowledges, acknowledges what there is.
    fn acknowledging(call: Call, agent: &Agent) -> Call {
        match call {
            Call::Heartbeat { health, report: report @ Report { ack_directive: Some(_), .. } } => {
                Call::Heartbeat { health, report: Report { ack_directive: agent.unacked, ..report } }
            }
            call => call,
        }
    }

    /// The size by DynamoDB's rules: names count, and of values text in bytes, and numbers two digits to the byte and one
    /// byte more.
    fn size(&self) -> usize {
        let value_size = |value: &AttributeValue| match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            AttributeValue::N(number) => number.len().div_ceil(2) + 1,
            other => panic!("an agent's row has no {other:?}"),
        };
        self.row.iter().map(|(name, value)| name.len() + value_size(value)).sum()
    }
}

fn any_report() -> impl Strategy<Value = HealthReport> {
    prop_oneof![
        Just(HealthReport::Keep),
        Just(HealthReport::Withdraw),
        prop::sample::select(&[Health::Healthy, Health::Degraded, Health::Error, Health::Offline][..])
            .prop_map(HealthReport::Report),
    ]
}

fn any_heartbeat_config() -> impl Strategy<Value = HeartbeatConfig> {
    (1..=HeartbeatConfig::LONGEST_INTERVAL).prop_flat_map(|interval| {
        (2 * interval..=HeartbeatConfig::LONGEST_TOLERANCE).prop_map(move |tolerance| {
            HeartbeatConfig::from_seconds(Some(interval), Some(tolerance)).unwrap()
        })
    })
}

/// Texts that are names, many of them at the limits of characters and bytes.
fn any_name() -> impl Strategy<Value = AgentName> {
    let text = prop_oneof!["\\PC{1,100}", "[a-z]{100}", "[é-ü]{100}", "[一-龥]{66}", "[😀-🙏]{50}"];
    text.prop_filter_map("no name", |text| AgentName::parse(&text).ok())
}

fn any_creation() -> impl Strategy<Value = Creation> {
    prop_oneof![
        Just(Creation::Registered),
        Just(Creation::CreatedActive),
        Just(Creation::EnrolledUnapproved),
        any_report().prop_map(Creation::Enrolled),
    ]
}

fn any_patch() -> impl Strategy<Value = Patch> {
    let board =
        prop::option::of(prop::option::of(any::<u128>().prop_map(|id| BoardId::of(Uuid::from_u128(id)))));
    let limit = prop::option::of(prop::option::of(1..=LIMIT));
    let stall = prop::option::of(prop::option::of((60_u64..=604_800).prop_map(Duration::from_secs)));
    let budget = prop_oneof![(1..=MOST).prop_map(Budget::MicroUsd), (1..=MOST).prop_map(Budget::Tokens)];
    let budget = prop::option::of(prop::option::of(budget));
    let heartbeat = prop::option::of(any_heartbeat_config());
    (prop::option::of(any_name()), board, heartbeat, limit, stall, budget).prop_map(
        |(name, board_id, heartbeat, rate_limit, stall_after, budget)| Patch {
            name,
            board_id,
            heartbeat,
            rate_limit,
            stall_after,
            budget,
        },
    )
}

fn any_directive() -> impl Strategy<Value = NewDirective> {
    let deadline = prop::option::of((5_u64..=604_800).prop_map(Duration::from_secs));
    (prop::sample::select(&Action::ALL[..]), deadline, any::<bool>()).prop_map(
        |(action, deadline, then_revoke)| NewDirective { action, deadline, then_revoke, reason: None },
    )
}

fn any_usage() -> impl Strategy<Value = Option<Usage>> {
    let usage = (0..=MOST, 0..=MOST).prop_map(|(tokens, microusd)| Usage { tokens, microusd });
    prop::option::of(usage.prop_filter("nothing", |usage| *usage != Usage::NOTHING))
}

fn any_heartbeat() -> impl Strategy<Value = Call> {
    let age = prop::option::of((0..=604_800_000_u64).prop_map(Duration::from_millis));
    let promise = prop::option::of((0..=86_400_000_u64).prop_map(Duration::from_millis));
    let boot = prop::option::of(prop::sample::select(&["1111111111111111", "2222222222222222"][..]));
    (any_report(), prop::option::of(Just(0)), age, promise, boot, any_usage()).prop_map(
        |(health, ack_directive, progress_age, next_beat_in, boot, usage)| Call::Heartbeat {
            health,
            report: Report {
                ack_directive,
                progress_age,
                next_beat_in,
                boot_id: boot.and_then(BootId::parse),
                usage,
            },
        },
    )
}

/// A few seconds ago, a few minutes, or never.
fn ago() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(prop_oneof![0..60_i64, 60..3_600_i64, 3_600..10_000_i64])
}

fn any_step() -> impl Strategy<Value = Step> {
    let call = prop_oneof![3 => any_heartbeat(), 1 => any_usage().prop_map(|usage| Call::Event { usage })];
    let change = prop::sample::select(&[StateChange::Approve, StateChange::Revoke, StateChange::Restore][..]);
    prop_oneof![
        6 => (call, 1..=LIMIT, ago(), ago()).prop_map(|(call, count, replaced, returned)| {
            Step::CheckIn(call, count, replaced, returned)
        }),
        2 => change.prop_map(Step::Change),
        2 => any_patch().prop_map(Step::Patch),
        2 => any_directive().prop_map(Step::Direct),
        1 => (0_u64..=86_400).prop_map(|overlap| Step::Rotate(Duration::from_secs(overlap))),
        1 => any::<bool>().prop_map(Step::FallSilent),
        2 => any::<bool>().prop_map(Step::Tell),
    ]
}

proptest! {
    #[test]
    fn no_life_makes_a_row_that_is_larger_than_the_largest(
        creation in any_creation(),
        name in any_name(),
        board in prop::option::of(any::<u128>().prop_map(|id| BoardId::of(Uuid::from_u128(id)))),
        // A thousand calls a second for ten years.
        requests in 0..=315_360_000_000_u64,
        begin in 1_700_000_000_000..=9_900_000_000_000_i64,
        steps in prop::collection::vec((any_step(), 1_u64..=90), 1..40),
    ) {
        let mut life = Life::begin(creation, name, board, requests, Timestamp::from_millis(begin));
        for (step, seconds) in &steps {
            life.now = life.now.plus(Duration::from_secs(*seconds));
            life.step(step);
            prop_assert!(life.size() <= LARGEST, "{} bytes after {step:?}: {:?}", life.size(), life.row);
        }
    }
}

/// As large as a row gets, with every attribute that can stand beside the others. docs/architecture.md names the size.
#[test]
fn the_largest_row_is_made_by_these_calls() {
    let name = AgentName::parse(&"é".repeat(100)).unwrap();
    // Such that the last windows have the longest names, b11 and b12.
    let begin = Timestamp::from_millis(1_700_000_420_000);
    let unapproved = Creation::EnrolledUnapproved;
    let mut life = Life::begin(unapproved, name, Some(BoardId::of(Uuid::max())), 315_360_000_000, begin);
    life.step(&Step::Change(StateChange::Approve));
    let longest = HeartbeatConfig::from_seconds(
        Some(HeartbeatConfig::LONGEST_INTERVAL),
        Some(HeartbeatConfig::LONGEST_TOLERANCE),
    );
    let patch = Patch {
        heartbeat: Some(longest.unwrap()),
        rate_limit: Some(Some(LIMIT)),
        stall_after: Some(Some(7 * DAY)),
        budget: Some(Some(Budget::MicroUsd(MOST))),
        ..Patch::default()
    };
    life.step(&Step::Patch(patch));
    life.step(&Step::Rotate(DAY));
    // What is wanted of it is not heeded.
    let stop = NewDirective { action: Action::Stop, deadline: Some(DAY), then_revoke: true, reason: None };
    life.step(&Step::Direct(stop));
    // It comes back, and hears of that, when most of a year is over.
    life.now = life.now.plus(DAY * 300);
    // It spends too much, which is told; it flaps, goes, and is shut out before the sweep has told that.
    let usage = Some(Usage { tokens: MOST, microusd: MOST });
    life.step(&Step::CheckIn(Call::Event { usage }, LIMIT, None, None));
    life.step(&Step::Tell(true));
    // Two processes have its key.
    for (boot_id, replaced) in [("1111111111111111", None), ("2222222222222222", Some(90_000))] {
        let report = Report { boot_id: BootId::parse(boot_id), ..Report::default() };
        let call = Call::Heartbeat { health: HealthReport::Keep, report };
        life.step(&Step::CheckIn(call, LIMIT, replaced, None));
    }
    for _ in 0..3 {
        life.now = life.now.plus(Duration::from_mins(1));
        life.step(&Step::CheckIn(Call::Event { usage: None }, LIMIT, None, None));
        life.step(&Step::CheckIn(Call::heartbeat(HealthReport::Keep), LIMIT, None, None));
    }
    let leaves = HealthReport::Report(Health::Offline);
    let claims = Report { progress_age: Some(DAY), next_beat_in: Some(DAY), ..Report::default() };
    life.step(&Step::CheckIn(Call::Heartbeat { health: leaves, report: claims }, LIMIT, None, None));
    life.step(&Step::Change(StateChange::Revoke));
    assert_eq!(life.row.len(), 40, "{:?}", life.row);
    assert_eq!(life.size(), LARGEST, "{:?}", life.row);
}
