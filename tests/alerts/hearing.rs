//! Deaf or dead: an outage of our own is no death of an agent.

use std::time::Duration;

use serde_json::{Value, json};
use shared::domain::concern::Concern;

use super::telling::{MINUTE, alerts, channel, heard, types};
use crate::mission_control::client::{AGENTS, Client, agent_path};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Setup, TestSystem, number, text};

/// Nobody answers there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn without_canary() -> Setup {
    TestSystem::with().parameter("CanaryUrl", "off")
}

/// A minute and a sweep, with nothing made up: as it runs.
async fn sweep_alone(system: &TestSystem, minutes: u32) {
    for _ in 0..minutes {
        system.advance(MINUTE);
        system.lone_sweep().await.expect("a sweep");
    }
}

#[tokio::test]
async fn the_first_sweep_announces_nobody_since_everything_before_it_was_blind() {
    let system = TestSystem::start().await;
    let agent = heard(&system, "a").await;
    system.advance(Duration::from_hours(5));
    let report = system.lone_sweep().await.expect("a sweep");
    assert_eq!((&report["announced"], &report["heard"]), (&json!(0), &json!(true)));
    sweep_alone(&system, 8).await;
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
    assert_eq!(types(&system).await, ["agent.offline"]);
}

#[tokio::test]
async fn an_outage_of_our_own_announces_nobody() {
    let system = TestSystem::start().await;
    let agent = heard(&system, "a").await;
    sweep_alone(&system, 1).await;
    system.heartbeat(&agent, "healthy").await.data();
    // No sweep and no heartbeat for two hours.
    system.advance(Duration::from_hours(2));
    system.lone_sweep().await.expect("a sweep");
    system.heartbeat(&agent, "healthy").await.data();
    sweep_alone(&system, 1).await;
    assert_eq!(system.event_types(&agent).await.len(), 2, "registered and verified");
    assert_eq!(alerts(&system).await, [] as [Value; 0]);
}

/// ⚠ With deadlines that start anew, four minutes of outage a week, or a sweep each ten minutes, would mean that nobody is
/// ever told.
#[tokio::test]
async fn a_deadline_is_extended_by_an_outage_and_never_starts_anew() {
    let system = TestSystem::start().await;
    heard(&system, "a").await;
    sweep_alone(&system, 2).await;
    for _ in 0..5 {
        system.advance(Duration::from_mins(4));
        system.lone_sweep().await.expect("a sweep");
        sweep_alone(&system, 2).await;
    }
    assert_eq!(types(&system).await, ["agent.offline"]);
}

#[tokio::test]
async fn a_sweep_that_hears_nobody_holds_who_is_overdue() {
    let system = without_canary().start().await;
    let agents = [heard(&system, "a").await, heard(&system, "b").await];
    system.advance(Duration::from_mins(5));
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["heard"]), (&json!(0), &json!(false)));
    // Another agent is heard: that is the proof.
    system.advance(Duration::from_secs(1));
    heard(&system, "c").await;
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["heard"]), (&json!(2), &json!(true)));
    for agent in &agents {
        assert_eq!(system.payloads(agent, "agent.offline").await.len(), 1);
    }
}

/// ⚠ What came before we became deaf proves nothing, and neither does what came long ago.
#[tokio::test]
async fn a_proof_is_a_heartbeat_after_the_last_moment_at_which_we_heard() {
    let system = without_canary().start().await;
    let (old, fresh) = (heard(&system, "old").await, heard(&system, "fresh").await);
    system.sweep().await;
    system.advance(MINUTE);
    system.heartbeat(&fresh, "healthy").await.data();
    system.advance(Duration::from_secs(30));
    let report = system.lone_sweep().await.expect("a sweep");
    assert_eq!(report["heard"], true, "a heartbeat half a minute ago");
    system.advance(Duration::from_secs(50));
    let report = system.lone_sweep().await.expect("a sweep");
    assert_eq!(report["heard"], false, "a heartbeat of 80 seconds ago");
    system.heartbeat(&fresh, "healthy").await.data();
    system.advance(Duration::from_secs(80));
    let report = system.lone_sweep().await.expect("a sweep");
    assert_eq!(report["heard"], false, "one after we became deaf, and of 80 seconds ago");
    assert_eq!(system.payloads(&old, "agent.offline").await.len(), 0);
}

#[tokio::test]
async fn a_broken_canary_among_living_agents_hides_no_death() {
    let system = TestSystem::with().parameter("CanaryUrl", NOWHERE).start().await;
    let (dies, lives) = (heard(&system, "dies").await, heard(&system, "lives").await);
    for _ in 0..6 {
        system.advance(MINUTE);
        system.heartbeat(&lives, "healthy").await.data();
        system.sweep().await;
    }
    let told = alerts(&system).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["data"]["agent"]["id"], dies.id);
}

#[tokio::test]
async fn who_hears_nobody_for_ten_minutes_says_so_to_every_channel_and_that_it_hears_again() {
    let system = TestSystem::with().parameter("CanaryUrl", NOWHERE).start().await;
    channel(&system, &[Concern::Waiting], None).await;
    let agents = [heard(&system, "a").await, heard(&system, "b").await, heard(&system, "c").await];
    system.sweep().await;
    sweep_alone(&system, 9).await;
    assert_eq!(types(&system).await, [""; 0]);
    sweep_alone(&system, 10).await;
    assert_eq!(types(&system).await, ["system.deaf"]);
    let queued = system.rows("AlertsTable").await;
    let queued = queued.iter().filter(|row| text(row, "message_type") == Some("system.deaf"));
    assert_eq!(queued.count(), 1, "whatever the channel subscribed to");
    system.heartbeat(&agents[0], "healthy").await.data();
    sweep_alone(&system, 1).await;
    assert_eq!(types(&system).await, ["system.deaf", "system.heard"]);
}

#[tokio::test]
async fn the_canary_sends_heartbeats_through_the_public_url_and_is_none_of_the_fleet() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    system.sweep().await;
    let rows = system.rows("AgentsTable").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let id = text(&rows[0], "agent_id").expect("an id").to_owned();
    assert_eq!(number(&rows[0], "last_seen_at"), Some(system.now().as_millis()));
    assert_eq!(text(&rows[0], "listing"), None);
    for action in ["", "/events", "/usage", "/workspace"] {
        assert_eq!(operator.get(&agent_path(&id, action)).await.status, 404, "{action}");
    }
    for action in ["/heartbeat", "/approve", "/revoke", "/restore", "/rotate-key"] {
        assert_eq!(operator.touch(&agent_path(&id, action)).await.status, 404, "{action}");
    }
    assert_eq!(operator.delete(&agent_path(&id, "")).await.status, 200, "gone already, as it seems");
    assert_eq!(operator.get(AGENTS).await.json()["total"], 0);
    let report = system.sweep().await;
    assert_eq!((&report["scanned"], &report["live"]), (&json!(0), &json!(0)));
    assert_eq!(operator.get("/api/v1/fleet").await.json()["agents"], 0);
}

#[tokio::test]
async fn a_canary_whose_row_is_lost_is_made_again() {
    let system = TestSystem::start().await;
    system.sweep().await;
    for row in system.rows("AgentsTable").await {
        let request = system.dynamodb.delete_item().table_name(system.table("AgentsTable"));
        request.key("agent_id", row["agent_id"].clone()).send().await.expect("a removal");
    }
    assert_eq!(system.sweep().await["heard"], true, "401 is an answer of our own");
    assert_eq!(system.sweep().await["heard"], true);
    assert_eq!(system.rows("AgentsTable").await.len(), 1);
}

#[tokio::test]
async fn a_503_and_a_429_are_not_heard() {
    let system = TestSystem::start().await;
    system.sweep().await;
    system.advance(MINUTE);
    let heartbeats = When::operation("UpdateItem").table(&system.table("AgentsTable"));
    let away = system.proxy.inject(heartbeats, Fault::Throttled);
    let report = system.sweep().await;
    assert!(away.hits() > 0);
    assert_eq!(report["heard"], false);
}

#[tokio::test]
async fn the_fleet_at_a_glance_is_one_read() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    assert_eq!(operator.get("/api/v1/fleet").await.json()["as_of"], Value::Null);
    let (dead, live) = (heard(&system, "dead").await, heard(&system, "live").await);
    system.registered("pending").await;
    for _ in 0..5 {
        system.advance(MINUTE);
        system.heartbeat(&live, "healthy").await.data();
        system.sweep().await;
    }
    system.proxy.take();
    let fleet = operator.get("/api/v1/fleet").await.json();
    let reads = system.proxy.take().on(&system.table("AlertsTable"));
    assert_eq!((reads.requests(), reads.read_units()), (1, 1.0));
    let counts = ["agents", "live", "late", "offline", "never_seen", "error", "pending", "revoked"];
    assert_eq!(counts.map(|count| fleet[count].as_u64().expect("a count")), [3, 1, 0, 1, 0, 0, 1, 0]);
    assert_eq!(fleet["as_of"], system.now().to_string());
    assert_eq!(fleet["told"][0]["id"], dead.id);
}

/// ⚠
#[tokio::test]
async fn a_sweep_that_stops_early_goes_on_where_it_stopped() {
    let system = TestSystem::with().parameter("SweepSegments", "1").start().await;
    let agents = [heard(&system, "a").await, heard(&system, "b").await, heard(&system, "c").await];
    system.advance(Duration::from_mins(5));
    let request = system.dynamodb.scan().table_name(system.table("AgentsTable")).limit(1);
    let first = request.send().await.expect("a scan").items.expect("rows").remove(0);
    let after = first["agent_id"].as_s().expect("an id").clone();
    system.has_heard_until(system.now()).await;
    let cursors = aws_sdk_dynamodb::types::AttributeValue::M(
        [("0".to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(after.clone()))].into(),
    );
    let control = system.dynamodb.update_item().table_name(system.table("AlertsTable"));
    let control = control.key("alert_log", crate::support::s("control"));
    let control = control.key("alert_key", crate::support::s("control"));
    let control = control.update_expression("SET cursors = :cursors");
    control.expression_attribute_values(":cursors", cursors).send().await.expect("an update");
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["complete"]), (&json!(2), &json!(false)));
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["complete"]), (&json!(1), &json!(true)));
    for agent in &agents {
        assert_eq!(system.payloads(agent, "agent.offline").await.len(), 1);
    }
}

/// The lines of docs/api.md, with a canary and without.
#[tokio::test]
async fn a_sweep_that_has_nothing_to_tell_costs_what_is_said_of_it() {
    for (setup, requests, writes) in [(TestSystem::with(), 7, 3.0), (without_canary(), 6, 2.0)] {
        let system = setup.start().await;
        let agent = heard(&system, "a").await;
        // The canary's row is made, and what is told at the start.
        sweep_alone(&system, 2).await;
        system.advance(MINUTE);
        // Without a canary an agent must be heard, or the sweep takes itself for deaf.
        system.heartbeat(&agent, "healthy").await.data();
        system.proxy.take();
        system.lone_sweep().await.expect("a sweep");
        let tally = system.proxy.take();
        let scan = tally.of("Scan");
        let read_units = tally.read_units() - scan.read_units();
        let besides = (tally.requests() - scan.requests(), tally.write_units(), read_units);
        assert_eq!(besides, (requests, writes, 3.5), "{:?}", tally.operations());
    }
}
