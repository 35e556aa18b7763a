//! Random lives of agents over the real handlers and the real engine, against the plain model of `tests/support/model.rs`.
//!
//! A hundred agents share a system, its clock and its sweeps, so that one sweep serves them all; each lives its own random
//! sequence of heartbeats, reports, events and operators' changes. The clock moves by chance, and often to the very second
//! at which something about some agent ends or begins. After each step every agent is compared, as the API shows it and
//! as the sweep left it; at last the whole story of its events, so that each is told exactly once.
//!
//! `ROLLCALL_LIVES_GROUPS` says how many groups live, [`GROUPS`] by default, and `ROLLCALL_LIVES_SEED` which is the first.
//! 20,000 lives by the same writes and decisions, without an engine, are in `shared/src/store/lives.rs`. A failure prints
//! the shortest life among those that went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use shared::config::env;
use shared::time::Timestamp;

use crate::mission_control::client::{AGENTS, Client, OWN_HEARTBEAT, agent_path};
use crate::support::model::{MAX_PROMISE, Model, Shown, Step, pause, step, story};
use crate::support::{Row, START, TestAgent, TestSystem, number, s, text};

const GROUPS: u64 = 2;
const SEED: u64 = 20_261_128;
const AGENTS_IN_A_GROUP: usize = 100;
const STEPS: usize = 12;
const AT_ONCE: usize = 8;

/// Agents in a system of their own, each beside its model.
struct Group {
    system: TestSystem,
    operator: String,
    agents: Vec<TestAgent>,
    models: Vec<Model>,
    lives: Vec<Vec<(i64, Step)>>,
    /// What differs, and of whom.
    wrong: BTreeMap<usize, String>,
    now: i64,
    /// When the fleet was counted last: of two sweeps at once the first counts.
    counted_at: Option<i64>,
}

/// Every tenth agent sends its heartbeats by itself, the others through a gateway.
const fn is_alone(index: usize) -> bool {
    index.is_multiple_of(10)
}

fn moment(at: i64) -> String {
    Timestamp::from_millis(START.as_millis() + at * 1000).to_string()
}

fn in_detail(shown: &Shown) -> Value {
    json!({
        "status": shown.status,
        "state": if shown.revoked { "revoked" } else { "active" },
        "health": shown.health,
        "late": shown.late,
        "offline_since": shown.gone_since.map(moment),
        "lease_expires_at": shown.lease.map(moment),
        "next_beat_at": shown.promise.map(moment),
        "stalls_at": shown.stalls_at.map(moment),
    })
}

impl Group {
    async fn start() -> Self {
        let system = TestSystem::with().parameter("MaxPromiseSeconds", MAX_PROMISE).start().await;
        let operator = system.operator_token().await;
        let by = Client::bearer(&system, &operator);
        let agents = (0..AGENTS_IN_A_GROUP).map(|index| {
            let by = &by;
            async move { by.create(&json!({ "name": format!("agent-{index}") })).await }
        });
        let agents: Vec<_> = stream::iter(agents).buffered(AT_ONCE).collect().await;
        let models = vec![Model::new(); agents.len()];
        let lives = vec![Vec::new(); agents.len()];
        Self { system, operator, agents, models, lives, wrong: BTreeMap::new(), now: 0, counted_at: None }
    }

    fn differs(&mut self, index: usize, what: String) {
        let at = format!("t+{} s: {what}", self.now);
        self.wrong.entry(index).or_insert(at);
    }

    fn expect(&mut self, index: usize, what: &str, found: &Value, expected: &Value) {
        if found != expected {
            self.differs(index, format!("{what}: {found} in place of {expected}"));
        }
    }

    /// One step of each agent that takes one, first in the model.
    async fn live(&mut self, steps: Vec<(usize, Step)>) {
        let (mut batch, mut alone) = (Vec::new(), Vec::new());
        for (index, step) in steps {
            // Before it: the acknowledgement needs the directive's version.
            let body = self.body(index, step);
            self.models[index].happens(step, self.now);
            self.lives[index].push((self.now, step));
            match step {
                Step::Heartbeat { .. } if !is_alone(index) => batch.push((index, body)),
                _ => alone.push((index, step, body)),
            }
        }
        for batch in batch.chunks(100) {
            let heartbeats: Vec<_> = batch.iter().map(|(_, body)| body).collect();
            let by = Client::bearer(&self.system, &self.operator);
            let reply = by.post("/api/v1/agents/heartbeats", &json!({ "heartbeats": heartbeats })).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            for ((index, _), result) in batch.iter().zip(reply.json()["results"].as_array().expect("a list"))
            {
                let model = &self.models[*index];
                let expected = if model.revoked {
                    json!([403, null, null])
                } else {
                    json!([null, model.status(self.now), model.lease().map(moment)])
                };
                let found = json!([result["error"]["status"], result["status"], result["lease_expires_at"]]);
                self.expect(*index, "the batch's answer", &found, &expected);
            }
        }
        let sent = alone.into_iter().map(|(index, step, body)| {
            let group = &*self;
            async move { (index, step, group.send(index, step, &body).await) }
        });
        let sent: Vec<_> = stream::iter(sent).buffer_unordered(AT_ONCE).collect().await;
        for (index, step, (status, shown)) in sent {
            let model = &self.models[index];
            let expected = match step {
                Step::Event if model.revoked => 401,
                Step::Heartbeat { .. } | Step::OperatorsHeartbeat { .. } if model.revoked => 403,
                Step::Directive(_) if model.revoked => 409,
                _ => 200,
            };
            let word = model.status(self.now);
            self.expect(index, "the answer", &json!(status), &json!(expected));
            if status == 200 && shown.is_string() {
                self.expect(index, "the answer's status", &shown, &json!(word));
            }
        }
    }

    /// A heartbeat as its client sends it.
    fn body(&self, index: usize, step: Step) -> Value {
        let Step::Heartbeat { says, age, promise, acknowledges } = step else { return Value::Null };
        let mut body = json!({});
        if !is_alone(index) {
            body["agent_token"] = json!(self.agents[index].key);
        }
        if let Some(says) = says {
            body["status"] = json!(says);
        }
        if let Some(age) = age {
            body["report"]["progress_age_seconds"] = json!(age);
        }
        if let Some(promise) = promise {
            body["report"]["next_beat_in_seconds"] = json!(promise);
        }
        if let Some(directive) = self.models[index].directive.filter(|_| acknowledges) {
            body["report"]["ack_directive"] = json!(START.as_millis() + directive.since * 1000);
        }
        body
    }

    /// What comes of a step by itself: the answer's status, and the agent's in it.
    async fn send(&self, index: usize, step: Step, body: &Value) -> (u16, Value) {
        let agent = &self.agents[index];
        let operator = Client::bearer(&self.system, &self.operator);
        let path = |action| agent_path(&agent.id, action);
        let reply = match step {
            Step::Heartbeat { .. } => {
                Client::x_agent_token(&self.system, &agent.key).post(OWN_HEARTBEAT, body).await
            }
            Step::OperatorsHeartbeat { says, reports, age } => {
                let report = reports.then(|| json!({ "progress_age_seconds": age }));
                operator.post(&path("/heartbeat"), &json!({ "status": says, "report": report })).await
            }
            Step::Event => self.system.post_event(agent, "e").await,
            Step::Config { interval, tolerance } => {
                let config = json!({ "interval_seconds": interval, "missing_tolerance": tolerance });
                operator.patch(&path(""), &json!({ "heartbeat_config": config })).await
            }
            Step::StallAfter(after) => {
                operator.patch(&path(""), &json!({ "stall_after_seconds": after })).await
            }
            Step::Directive(action) => operator.post(&path("/directive"), &json!({ "action": action })).await,
            Step::Revoke => operator.touch(&path("/revoke")).await,
            Step::Restore => operator.touch(&path("/restore")).await,
        };
        (reply.status, reply.json()["status"].clone())
    }

    /// A sweep, of which the model knows only whether it may tell: how calm telling is, is another test's.
    async fn sweep(&mut self) {
        let request = self.system.dynamodb.get_item().table_name(self.system.table("AlertsTable"));
        let request = request.key("alert_log", s("control")).key("alert_key", s("control"));
        let control: Row =
            request.send().await.expect("a row").item.unwrap_or_default().into_iter().collect();
        let may_tell = number(&control, "quiet_until") <= Some(self.system.now().as_millis());
        let report = self.system.sweep().await;
        assert_eq!((&report["failed"], &report["complete"]), (&json!(0), &json!(true)), "{report}");
        for model in &mut self.models {
            model.is_swept(self.now, may_tell);
        }
        let operator = Client::bearer(&self.system, &self.operator);
        let fleet = operator.get("/api/v1/fleet").await.json();
        let stalled = self.models.iter().filter(|model| model.is_stalled(self.now)).count();
        let rows = self.system.rows("AgentsTable").await;
        let told: BTreeMap<_, _> =
            rows.iter().map(|row| (text(row, "agent_id"), text(row, "alerted").unwrap_or(""))).collect();
        for index in 0..self.agents.len() {
            let found = told[&Some(&*self.agents[index].id)];
            if found.contains('*') {
                // It flaps, by the rules of another test: nothing more of its silences is told.
                self.models[index].told = None;
                continue;
            }
            let expected = self.models[index].told.unwrap_or("");
            self.expect(index, "told", &json!(found), &json!(expected));
        }
        if self.wrong.is_empty() && self.counted_at.replace(self.now) != Some(self.now) {
            assert_eq!(fleet["stalled"], json!(stalled), "t+{}: {fleet}", self.now);
        }
    }

    /// What the API shows of each agent.
    async fn look(&mut self) {
        let operator = Client::bearer(&self.system, &self.operator);
        let list = operator.get(&format!("{AGENTS}?limit=200&detail=true")).await.json();
        let items = list["items"].as_array().expect("a list");
        let by_id: BTreeMap<_, _> =
            items.iter().map(|item| (item["id"].as_str().expect("an id"), item)).collect();
        for index in 0..self.agents.len() {
            let item = by_id[&*self.agents[index].id];
            let expected = in_detail(&self.models[index].shown(self.now));
            let mut found = json!({ "status": item["status"] });
            for name in expected.as_object().expect("an object").keys().filter(|name| *name != "status") {
                found[name] = item["detail"][name].clone();
            }
            self.expect(index, "shown", &found, &expected);
        }
    }

    /// The whole log, of what the model knows.
    async fn read_log(&mut self) {
        let mut logs: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
        for row in self.system.rows("EventsTable").await {
            let word = text(&row, "event_type").unwrap_or_default();
            if ["agent.offline", "agent.online", "agent.never_seen", "agent.stalled"].contains(&word) {
                let at = (number(&row, "created_at").expect("a moment") - START.as_millis()) / 1000;
                let id = text(&row, "agent_id").expect("an id").to_owned();
                logs.entry(id).or_default().push((at, word.to_owned()));
            }
        }
        for index in 0..self.agents.len() {
            let mut found = logs.remove(&self.agents[index].id).unwrap_or_default();
            found.sort();
            let mut expected = self.models[index].events.clone();
            expected.sort_unstable();
            self.expect(index, "the log", &json!(found), &json!(expected));
        }
    }

    /// The shortest life that went wrong, as a person reads it.
    fn story(&self) -> Option<String> {
        let shortest = self.wrong.iter().min_by_key(|(index, _)| self.lives[**index].len());
        let (index, wrong) = shortest?;
        let story = story(&self.lives[*index], wrong, &self.models[*index]);
        Some(format!(
            "{} of {} agents went wrong, and so this one:\n{story}",
            self.wrong.len(),
            self.agents.len()
        ))
    }
}

/// One group's lives; the first that goes wrong as a story.
async fn group(seed: u64) -> Result<(), String> {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut group = Group::start().await;
    for _ in 0..STEPS {
        let watched = random.random_range(0..group.models.len());
        let pause = pause(random, &group.models[watched], group.now);
        group.now += pause;
        group.system.advance(Duration::from_secs(pause.unsigned_abs()));
        let sweeps_first = random.random_bool(0.5);
        if sweeps_first {
            group.sweep().await;
        }
        let mut steps = Vec::new();
        for index in 0..group.agents.len() {
            if random.random_bool(0.45) {
                steps.push((index, step(random)));
            }
        }
        group.live(steps).await;
        if random.random_bool(0.5) {
            group.sweep().await;
        }
        group.look().await;
        if !group.wrong.is_empty() {
            break;
        }
    }
    if group.wrong.is_empty() {
        group.read_log().await;
    }
    group.story().map_or(Ok(()), |story| Err(format!("seed {seed}: {story}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_false_is_said_of_any_agent_and_nothing_hidden() {
    let set = |name: &str, default| env(name).map_or(default, |value| value.parse().expect("a number"));
    let (groups, first) = (set("ROLLCALL_LIVES_GROUPS", GROUPS), set("ROLLCALL_LIVES_SEED", SEED));
    println!("{groups} groups of {AGENTS_IN_A_GROUP} agents, from seed {first} on");
    for seed in first..first + groups {
        if let Err(story) = group(seed).await {
            panic!("{story}");
        }
    }
}
