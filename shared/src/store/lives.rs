//! 20,000 random lives of agents against the plain model of `tests/support/model.rs`: no false offline, no false or hidden
//! stall, no death that is hidden for longer than it was promised.
//!
//! A life is what the writes make of a row, applied in memory, and what the sweep decides by it. Conditions are not
//! evaluated, and nothing is parsed: `tests/system/lives.rs` has some hundreds of lives over handlers and engine. A failure
//! prints the shortest life that went wrong.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::check_in::{self, Due, OfflineMark};
use super::expression::Expression;
use super::sweep::announcement;
use super::{Item, from_item, string, to_item};
use crate::domain::agent::{Agent, AgentName, AgentState};
use crate::domain::boot::Boot;
use crate::domain::change::{Patch, StateChange};
use crate::domain::check_in::{Call, Caller, HealthReport};
use crate::domain::concern::Concern;
use crate::domain::credential::ApiKey;
use crate::domain::directive::{Action, NewDirective};
use crate::domain::event::Actor;
use crate::domain::heartbeat::{Health, HeartbeatConfig};
use crate::domain::report::Report;
use crate::domain::watch::{Overdue, Rules, Watched};
use crate::time::Timestamp;

#[path = "../../../tests/support/model.rs"]
mod model;

use model::{MAX_PROMISE, Model, Shown, Step, pause, step, story};

const LIVES: u64 = 20_000;
const STEPS: usize = 12;
const SEED: u64 = 20_261_128;

/// Where the clock stands at first.
const START: i64 = 2_114_380_830_000;

const RULES: Rules = Rules { missed: 3, waiting: false };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(START + seconds * 1000)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

/// A life, beside its model.
struct Life {
    row: Item,
    /// The row as endpoints read it, and as the sweep does.
    agent: Agent,
    watched: Watched,
    key: ApiKey,
    model: Model,
    happened: Vec<(i64, Step)>,
    /// What was recorded and told.
    log: Vec<(i64, &'static str)>,
    now: i64,
}

impl Life {
    fn begin() -> Self {
        let key = ApiKey::generate();
        let name = AgentName::parse("a").unwrap();
        let agent = Agent::pending(&key, name, None, HeartbeatConfig::default(), at(0), Duration::ZERO);
        let agent = agent.activated(at(0));
        let row = to_item(&agent).unwrap();
        let watched = from_item(row.clone()).unwrap();
        Self { row, agent, watched, key, model: Model::new(), happened: Vec::new(), log: Vec::new(), now: 0 }
    }

    fn write(&mut self, expression: &Expression) {
        expression.apply(&mut self.row);
        self.read();
    }

    fn read(&mut self) {
        self.agent = from_item(self.row.clone()).unwrap();
        self.watched = from_item(self.row.clone()).unwrap();
    }

    fn happens(&mut self, step: Step) {
        let (agent, now) = (self.agent.clone(), at(self.now));
        match step {
            Step::Heartbeat { says, age, promise, acknowledges, .. } => {
                let report = Report {
                    progress_age: age.map(seconds),
                    next_beat_in: promise.map(|promise| seconds(promise.min(MAX_PROMISE))),
                    ack_directive: agent
                        .directive
                        .filter(|_| acknowledges)
                        .map(|directive| directive.version),
                    ..Report::default()
                };
                let call = Call::Heartbeat { health: health(says), report };
                self.checks_in(agent, &Caller::Key(self.key.clone()), call);
            }
            Step::OperatorsHeartbeat { says, reports, age } => {
                let operator = Caller::Operator { agent_id: agent.agent_id, actor: Actor::System, reports };
                let report = Report { progress_age: age.map(seconds), ..Report::default() };
                self.checks_in(agent, &operator, Call::Heartbeat { health: health(says), report });
            }
            Step::Event => {
                self.checks_in(agent, &Caller::Key(self.key.clone()), Call::Event { usage: None });
            }
            Step::Config { interval, tolerance } => {
                let half = |seconds: i64| Some(seconds.unsigned_abs());
                let heartbeat = HeartbeatConfig::from_seconds(half(interval), half(tolerance)).ok();
                self.is_patched(&agent, &Patch { heartbeat, ..Patch::default() });
            }
            Step::StallAfter(after) => {
                let stall_after = Some(after.map(seconds));
                self.is_patched(&agent, &Patch { stall_after, ..Patch::default() });
            }
            Step::Directive(action) => {
                let action = Action::parse(action).unwrap();
                let wanted = NewDirective { action, deadline: None, then_revoke: false, reason: None };
                if let Ok(Some(change)) = wanted.change(&agent, now) {
                    self.write(&change.expression);
                }
            }
            Step::Revoke | Step::Restore => {
                let wanted =
                    if matches!(step, Step::Revoke) { StateChange::Revoke } else { StateChange::Restore };
                if let Ok(Some(change)) = wanted.change(&agent, None, now) {
                    self.write(&change.expression);
                }
            }
        }
        self.model.happens(step, self.now);
        self.happened.push((self.now, step));
    }

    fn checks_in(&mut self, agent: Agent, caller: &Caller, call: Call) {
        if agent.agent_state != AgentState::Active {
            return;
        }
        let now = at(self.now);
        let due = Due::of(&agent, call, Boot::Same, now);
        match due.mark {
            OfflineMark::Begins => self.log.push((self.now, "agent.offline")),
            OfflineMark::Ends(_) => self.log.push((self.now, "agent.online")),
            OfflineMark::None | OfflineMark::Announced => {}
        }
        self.write(&check_in::expression(caller, call, due, Some(&agent), 60, now));
        let is_answered = matches!(call, Call::Heartbeat { .. }) && caller.speaks_for_agent();
        if let Some(hearing) = check_in::hearing(&self.agent, now).filter(|_| is_answered) {
            self.write(&hearing);
        }
    }

    fn is_patched(&mut self, agent: &Agent, patch: &Patch) {
        if let Some(change) = patch.change(agent, at(self.now)) {
            self.write(&change.expression);
        }
    }

    fn is_swept(&mut self, may_tell: bool) {
        let now = at(self.now);
        if let Some(overdue) = self.watched.overdue(now, &[]) {
            let is_silence = matches!(overdue, Overdue::Silent { .. });
            self.log.push((self.now, if is_silence { "agent.offline" } else { "agent.never_seen" }));
            self.write(&announcement(overdue, None, now));
        }
        if let Some(change) = self.watched.change(now, &[], RULES).filter(|_| may_tell) {
            match change.told.to_text() {
                Some(told) => self.row.insert("alerted".to_owned(), string(told)),
                None => self.row.remove("alerted"),
            };
            let stalls = change.begins == Some(Concern::Stalled);
            self.log.extend(stalls.then_some((self.now, "agent.stalled")));
            self.read();
        }
        self.model.is_swept(self.now, may_tell);
    }

    /// What differs, if anything.
    fn wrong(&self) -> Option<String> {
        let (Self { agent, watched, .. }, now) = (self, at(self.now));
        let moment = |at: Option<Timestamp>| at.map(|at| (at.as_millis() - START) / 1000);
        let shown = Shown {
            status: agent.status(now).to_owned(),
            revoked: agent.agent_state == AgentState::Revoked,
            health: agent.health.map(|health| health.as_str().to_owned()),
            late: agent.is_late(now),
            gone_since: moment(agent.offline_since),
            lease: moment(agent.lease()),
            promise: moment(agent.next_beat_at),
            stalls_at: moment(agent.stalls_at),
        };
        let model = &self.model;
        let found = (shown, watched.is_stalled(now), agent.told.concern.map(Concern::as_str), &self.log);
        let expected = (model.shown(self.now), model.is_stalled(self.now), model.told, &model.events);
        (found != expected).then(|| format!("t+{} s: {found:?}\n  in place of {expected:?}", self.now))
    }

    /// A whole life; what went wrong, as a story.
    fn live(random: &mut StdRng) -> Result<(), (usize, String)> {
        let mut life = Self::begin();
        for _ in 0..STEPS {
            life.now += pause(random, &life.model, life.now);
            if random.random_bool(0.5) {
                life.is_swept(random.random_bool(0.8));
            }
            if random.random_bool(0.7) {
                life.happens(step(random));
            }
            if random.random_bool(0.3) {
                life.is_swept(random.random_bool(0.8));
            }
            if let Some(wrong) = life.wrong() {
                return Err((life.happened.len(), story(&life.happened, &wrong, &life.model)));
            }
        }
        Ok(())
    }
}

fn health(says: Option<&str>) -> HealthReport {
    match says {
        None => HealthReport::Keep,
        Some("online") => HealthReport::Withdraw,
        Some(word) => HealthReport::Report(Health::parse(word).unwrap()),
    }
}

#[test]
fn of_20_000_random_lives_nothing_false_is_said_and_nothing_is_hidden() {
    let wrong = |seeds: Range<u64>| {
        let lives = seeds.map(|seed| Life::live(&mut StdRng::seed_from_u64(seed)));
        lives.filter_map(Result::err).collect::<Vec<_>>()
    };
    let half = SEED + LIVES / 2;
    let wrong = std::thread::scope(|scope| {
        let first = scope.spawn(|| wrong(SEED..half));
        let mut wrong = wrong(half..SEED + LIVES);
        wrong.extend(first.join().unwrap());
        wrong
    });
    if let Some((_, shortest)) = wrong.iter().min_by_key(|(length, _)| *length) {
        panic!(
            "{} of {LIVES} lives from seed {SEED} on went wrong, and so this one:\n{shortest}",
            wrong.len()
        );
    }
}
