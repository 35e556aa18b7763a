//! The sweep: who fell silent is announced, once.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use shared::domain::agent::{Agent, AgentName, AgentState};
use shared::domain::credential::ApiKey;
use shared::domain::heartbeat::HeartbeatConfig;
use shared::time::Timestamp;
use tokio::time::Instant;

use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{START, TestAgent, TestSystem, n, number, s, text};

const TOLERANCE: Duration = Duration::from_mins(2);

/// An active agent whose lease ends then, as it knows itself and as the table has it.
fn with_lease_until(lease: Timestamp) -> (TestAgent, Agent) {
    let key = ApiKey::generate();
    let name = AgentName::parse("agent").expect("a name");
    let seen = lease.minus(TOLERANCE);
    let agent = Agent {
        agent_state: AgentState::Active,
        verified_at: Some(seen),
        last_seen_at: Some(seen),
        lease_expires_at: Some(lease),
        requests_total: 1,
        expires_at: None,
        ..Agent::pending(&key, name, None, HeartbeatConfig::default(), seen, Duration::ZERO)
    };
    (TestAgent { id: agent.agent_id.to_string(), key: key.reveal() }, agent)
}

/// Makes agents, past all rules.
async fn make(system: &TestSystem, leases: impl Iterator<Item = Timestamp>) -> Vec<TestAgent> {
    let (agents, rows): (Vec<_>, Vec<_>) = leases.map(with_lease_until).unzip();
    for batch in rows.chunks(25) {
        let put = |row| {
            let item = serde_dynamo::aws_sdk_dynamodb_1::to_item(row).expect("a row");
            let put = PutRequest::builder().set_item(Some(item)).build().expect("a write");
            WriteRequest::builder().put_request(put).build()
        };
        let batch = batch.iter().map(put).collect();
        let request = system.dynamodb.batch_write_item().request_items(system.table("AgentsTable"), batch);
        let left = request.send().await.expect("rows").unprocessed_items.unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
    agents
}

async fn make_one(system: &TestSystem, lease: Timestamp) -> TestAgent {
    make(system, std::iter::once(lease)).await.remove(0)
}

/// How many events of a type each agent has.
async fn counts(system: &TestSystem, event_type: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in system.rows("EventsTable").await {
        if text(&row, "event_type") == Some(event_type) {
            *counts.entry(text(&row, "agent_id").expect("an id").to_owned()).or_default() += 1;
        }
    }
    counts
}

fn once_each<'a>(agents: impl IntoIterator<Item = &'a TestAgent>) -> BTreeMap<String, usize> {
    agents.into_iter().map(|agent| (agent.id.clone(), 1)).collect()
}

/// The lease of an agent that has been silent for longer than the grace.
fn silent() -> Timestamp {
    START.minus(Duration::from_millis(10_001))
}

// ---- Who is announced ------------------------------------------------------------------------------------
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_1000_agents_the_100_silent_ones_are_announced_once_and_come_back_once() {
    let system = TestSystem::start().await;
    let gone = make(&system, (0..100).map(|_| silent())).await;
    let at_the_edge = make(&system, (0..100).map(|_| START.minus(Duration::from_secs(10)))).await;
    let live = make(&system, (0..800).map(|number| START.plus(Duration::from_millis(number)))).await;

    let racing = at_the_edge.iter().chain(&live[..100]).map(|agent| system.heartbeat(agent, "healthy"));
    let racing = stream::iter(racing).buffer_unordered(10).collect::<Vec<_>>();
    let ((first, second), beats) = join(join(system.sweep(), system.sweep()), racing).await;
    for beat in beats {
        beat.data();
    }
    for report in [&first, &second] {
        assert_eq!(report["scanned"], 1_000);
        assert_eq!(report["live"], 900);
        assert_eq!(report["failed"], 0);
        assert_eq!(report["complete"], true);
    }
    let announced = |report: &Value| report["announced"].as_u64().unwrap();
    assert_eq!(announced(&first) + announced(&second), 100);
    assert_eq!(counts(&system, "agent.offline").await, once_each(&gone));
    assert_eq!(counts(&system, "agent.online").await, BTreeMap::new());

    let (crowds, others) = gone.split_at(5);
    for agent in crowds {
        for beat in join_all((0..20).map(|_| system.heartbeat(agent, "healthy"))).await {
            beat.data();
        }
    }
    let others = others.iter().map(|agent| system.heartbeat(agent, "healthy"));
    for beat in stream::iter(others).buffer_unordered(10).collect::<Vec<_>>().await {
        beat.data();
    }
    assert_eq!(counts(&system, "agent.online").await, once_each(&gone));
    assert_eq!(counts(&system, "agent.offline").await, once_each(&gone));
    assert_eq!(system.sweep().await["live"], 1_000);
}

#[tokio::test]
async fn silence_is_announced_ten_seconds_after_the_lease_and_not_a_millisecond_before() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "degraded").await.data();
    let before = system.row(&agent).await;
    system.advance(TOLERANCE + Duration::from_secs(10));
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["live"]), (&json!(0), &json!(1)));
    system.advance(Duration::from_millis(1));
    let report = system.sweep().await;
    assert_eq!(
        (&report["announced"], &report["live"], &report["offline"]),
        (&json!(1), &json!(0), &json!(1))
    );
    assert_eq!(report["oldest_lag_ms"], 10_001);
    let payload = json!({
        "reason": "silent",
        "last_seen_at": "2037-01-01T00:00:30.000Z",
        "lease_expires_at": "2037-01-01T00:02:30.000Z",
    });
    assert_eq!(system.payloads(&agent, "agent.offline").await, [payload]);
    let event = &system.events_of(&agent, "agent.offline").await[0];
    assert_eq!(text(event, "actor"), Some("system"));
    let mut after = system.row(&agent).await;
    let announced = after.remove("offline_since").unwrap();
    assert_eq!(announced.as_n().unwrap(), &system.now().as_millis().to_string());
    assert_eq!(before, after, "an announcement changes nothing else");

    system.advance(Duration::from_hours(24));
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["offline"]), (&json!(0), &json!(1)));
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
}

#[tokio::test]
async fn an_agent_that_never_came_is_announced_after_five_minutes_or_its_tolerance() {
    let system = TestSystem::start().await;
    for (tolerance, grace) in [(120, 300), (299, 300), (301, 301), (600, 600)] {
        let body = json!({ "name": "a", "heartbeatConfig": { "missingTolerance": tolerance } });
        let data = system.register(&body).await.data();
        let text_of = |field: &str| data[field].as_str().unwrap().to_owned();
        let agent = TestAgent { id: text_of("agentId"), key: text_of("apiKey") };
        system.advance(Duration::from_secs(7));
        system.verify(&agent.key).await.data();
        let verified = system.now();
        system.advance(Duration::from_secs(grace));
        assert_eq!(system.sweep().await["announced"], 0, "{tolerance}");
        system.advance(Duration::from_millis(1));
        let report = system.sweep().await;
        assert_eq!(report["announced"], 1, "{tolerance}");
        assert_eq!(report["oldest_lag_ms"], 1, "{tolerance}");
        assert_eq!(system.sweep().await["announced"], 0, "{tolerance}");
        let payload = json!({ "verified_at": verified.to_string() });
        assert_eq!(system.payloads(&agent, "agent.never_seen").await, [payload]);
        assert_eq!(system.payloads(&agent, "agent.offline").await, Vec::<Value>::new());

        system.heartbeat(&agent, "healthy").await.data();
        system.heartbeat(&agent, "healthy").await.data();
        assert_eq!(system.payloads(&agent, "agent.online").await.len(), 1, "{tolerance}");
        system.heartbeat(&agent, "offline").await.data();
    }
}

#[tokio::test]
async fn pending_and_revoked_agents_are_not_announced() {
    let system = TestSystem::start().await;
    let pending = system.registered("pending").await;
    let revoked = system.verified("revoked").await;
    system.heartbeat(&revoked, "healthy").await.data();
    system.set(&revoked, "agent_state", s("revoked")).await;
    system.advance(Duration::from_hours(24));
    let report = system.sweep().await;
    assert_eq!(
        (&report["announced"], &report["live"], &report["offline"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert_eq!(system.sorted_event_types(&pending).await, ["agent.registered"]);
}

#[tokio::test]
async fn an_agent_that_left_on_purpose_is_not_announced_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    system.heartbeat(&agent, "offline").await.data();
    system.advance(Duration::from_hours(24));
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["offline"]), (&json!(0), &json!(1)));
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
}

#[tokio::test]
async fn the_report_counts_every_row() {
    let system = TestSystem::start().await;
    system.registered("pending").await;
    let (revoked, _never_seen) = (system.verified("revoked").await, system.verified("never seen").await);
    system.set(&revoked, "agent_state", s("revoked")).await;
    let left = system.verified("left").await;
    system.heartbeat(&left, "offline").await.data();
    make(&system, [START, START.plus(TOLERANCE), silent(), START.minus(Duration::from_hours(1))].into_iter())
        .await;
    assert_eq!(
        system.sweep().await,
        json!({
            "scanned": 8,
            "live": 2,
            "offline": 3,
            "announced": 2,
            "lost_races": 0,
            "failed": 0,
            "oldest_lag_ms": 3_600_000,
            "segments_done": 4,
            "segments": 4,
            "complete": true,
            "heard": true,
            "raised": 1,
            "revoked": 0,
        })
    );
}

/// A page has 2,000 rows.
#[tokio::test]
async fn a_large_table_is_swept_page_by_page() {
    let system = TestSystem::with().parameter("SweepSegments", "1").start().await;
    let lease = |number: u64| if number.is_multiple_of(100) { silent() } else { START };
    make(&system, (0..4_001).map(lease)).await;
    system.proxy.take();

    let report = system.sweep().await;
    assert_eq!((&report["scanned"], &report["live"]), (&json!(4_001), &json!(3_960)));
    assert_eq!((&report["announced"], &report["complete"]), (&json!(41), &json!(true)));
    let tally = system.proxy.take();
    assert_eq!(tally.operations().iter().filter(|operation| **operation == "Scan").count(), 3);
}

/// ⚠ Or the end of a table that is too large for one sweep would never be reached.
#[tokio::test]
async fn a_sweep_that_breaks_off_keeps_its_place_and_the_next_one_goes_on_there() {
    let system = TestSystem::with().parameter("SweepSegments", "1").start().await;
    make(&system, (0..2_100).map(|_| START.plus(Duration::from_hours(1)))).await;
    // In the order in which the engine reads them, the last one is silent.
    let scan = system.dynamodb.scan().table_name(system.table("AgentsTable")).limit(2_100).send().await;
    let rows = scan.expect("a scan").items.expect("rows");
    let id = |row: usize| rows[row]["agent_id"].as_s().expect("an id").clone();
    let last = TestAgent { id: id(2_099), key: String::new() };
    system.set(&last, "lease_expires_at", n(silent().as_millis())).await;

    let second_page = When::operation("Scan").mentioning("ExclusiveStartKey");
    let breaks = system.proxy.inject(second_page, Fault::ThroughputExceeded);
    system.try_sweep().await.expect_err("a page that cannot be read");
    assert!(breaks.hits() >= 1);
    breaks.clear();
    let report = system.sweep().await;
    // The canary's row, which the sweep before made, may stand before that place or after it.
    let scanned = report["scanned"].as_u64().expect("a number");
    assert!((100..=101).contains(&scanned), "{report}");
    assert_eq!((&report["announced"], &report["complete"]), (&json!(1), &json!(false)));
    let report = system.sweep().await;
    assert_eq!((&report["scanned"], &report["complete"]), (&json!(2_100), &json!(true)));
}

#[tokio::test]
async fn an_empty_table_is_swept() {
    let system = TestSystem::start().await;
    let report = system.sweep().await;
    assert_eq!((&report["scanned"], &report["complete"]), (&json!(0), &json!(true)));
}

#[tokio::test]
async fn another_event_than_the_schedules_is_no_sweep() {
    let system = TestSystem::start().await;
    for input in [json!({}), json!({ "source": "aws.events" }), json!([]), json!({ "Records": [] })] {
        system.run_job("sweep", &input).await.expect_err("not the schedule's event");
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_sweep_without_time_says_that_it_did_not_come_far() {
    let system = TestSystem::start().await;
    let agent = make_one(&system, silent()).await;
    let app = system.system.app_of_job("sweep").unwrap();
    let tick = || serde_json::from_value(json!({ "source": "rollcall.sweep" })).unwrap();
    let report = functions::sweep::run(app, tick(), START, Instant::now()).await.unwrap();
    assert!(!report.complete);
    assert_eq!((report.segments_done, report.announced), (0, 0));
    assert_eq!(system.sorted_event_types(&agent).await, Vec::<String>::new());
}

// ---- Races and failures ----------------------------------------------------------------------------------

/// The sweep has read the lease that ran out; the heartbeat arrives before the announcement.
#[tokio::test]
async fn a_heartbeat_before_the_announcement_wins() {
    let system = TestSystem::start().await;
    let agent = make_one(&system, silent()).await;
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let (report, ()) = join(system.sweep(), async {
        gate.held(1).await;
        system.heartbeat(&agent, "healthy").await.data();
        gate.release();
    })
    .await;
    assert_eq!((&report["announced"], &report["lost_races"]), (&json!(0), &json!(1)));
    assert_eq!((&report["failed"], &report["offline"]), (&json!(0), &json!(0)));
    assert_eq!(system.sorted_event_types(&agent).await, Vec::<String>::new());
    assert_eq!(system.row(&agent).await.get("offline_since"), None);
}

/// The same for an agent that was never seen, and for one that is revoked or leaves meanwhile.
#[tokio::test]
async fn whatever_comes_before_the_announcement_wins() {
    let system = TestSystem::start().await;
    let never_seen = system.verified("never seen").await;
    let revoked = make_one(&system, silent()).await;
    let leaves = make_one(&system, silent()).await;
    system.advance(Duration::from_mins(6));
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let (report, leaving) = join(system.sweep(), async {
        gate.held(3).await;
        system.heartbeat(&never_seen, "healthy").await.data();
        system.set(&revoked, "agent_state", s("revoked")).await;
        // Its own announcement comes to the gate as the fourth and waits there for the release.
        let leaving = system.heartbeat(&leaves, "offline");
        let ((), leaving) = join(
            async {
                gate.held(4).await;
                gate.release();
            },
            leaving,
        )
        .await;
        leaving
    })
    .await;
    leaving.data();
    let (announced, lost) = (report["announced"].as_u64().unwrap(), report["lost_races"].as_u64().unwrap());
    assert_eq!(announced + lost, 3);
    assert!(announced <= 1);
    assert_eq!(system.sorted_event_types(&never_seen).await, ["agent.registered", "agent.verified"]);
    assert_eq!(system.sorted_event_types(&revoked).await, Vec::<String>::new());
    assert_eq!(
        system.sorted_event_types(&leaves).await,
        ["agent.offline"],
        "by the agent or by the sweep, once"
    );
}

#[tokio::test]
async fn a_conflict_is_a_lost_race_and_the_next_sweep_announces() {
    let system = TestSystem::start().await;
    let agent = make_one(&system, silent()).await;
    let conflict =
        system.proxy.inject(When::operation("TransactWriteItems").times(1), Fault::TransactionConflict);
    let report = system.sweep().await;
    assert_eq!(conflict.hits(), 1);
    assert_eq!((&report["announced"], &report["lost_races"]), (&json!(0), &json!(1)));
    assert_eq!(system.sorted_event_types(&agent).await, Vec::<String>::new());
    assert_eq!(system.sweep().await["announced"], 1);
    assert_eq!(system.sorted_event_types(&agent).await, ["agent.offline"]);
}

#[tokio::test]
async fn a_row_that_does_not_decode_is_reported_and_stops_no_other() {
    let system = TestSystem::start().await;
    let agents = make(&system, (0..10).map(|_| silent())).await;
    let request = system.dynamodb.put_item().table_name(system.table("AgentsTable"));
    let request = request.item("agent_id", s("no uuid")).item("agent_state", s("active"));
    request.send().await.unwrap();
    let error = system.try_sweep().await.unwrap_err();
    assert!(error.starts_with("1 of the work failed"), "{error}");
    assert_eq!(counts(&system, "agent.offline").await, once_each(&agents));
}

#[tokio::test]
async fn a_throttled_announcement_is_reported_stops_no_other_and_comes_with_the_next_sweep() {
    let system = TestSystem::start().await;
    let agents = make(&system, (0..5).map(|_| silent())).await;
    let when = || When::operation("TransactWriteItems").mentioning(&agents[0].id);
    for fault in [Fault::ThroughputExceeded, Fault::TransactionCanceled("ThrottlingError")] {
        let throttle = system.proxy.inject(when(), fault);
        let error = system.try_sweep().await.unwrap_err();
        assert!(error.starts_with("1 of the work failed"), "{error}");
        assert!(throttle.hits() >= 1);
        throttle.clear();
        assert_eq!(counts(&system, "agent.offline").await, once_each(&agents[1..]));
    }
    assert_eq!(system.sweep().await["announced"], 1);
    assert_eq!(counts(&system, "agent.offline").await, once_each(&agents));
}

#[tokio::test]
async fn a_throttled_scan_is_tried_again_for_longer_than_the_sdk_tries() {
    let system = TestSystem::start().await;
    let agent = make_one(&system, silent()).await;
    let segment = When::operation("Scan").mentioning("\"Segment\":2").times(7);
    let throttle = system.proxy.inject(segment, Fault::ThroughputExceeded);
    assert_eq!(system.sweep().await["announced"], 1);
    assert_eq!(throttle.hits(), 7);
    assert_eq!(number(&system.row(&agent).await, "offline_since"), Some(START.as_millis()));

    system.proxy.inject(When::operation("Scan"), Fault::ThroughputExceeded);
    let error = system.try_sweep().await.unwrap_err();
    assert!(error.contains("unavailable"), "{error}");
}
