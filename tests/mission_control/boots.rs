//! `report.boot_id`: which process of an agent speaks.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::client::{
    Client, HEARTBEAT_BY_NAME, OWN_HEARTBEAT, SECOND, agent_path, enrollment_token, invalid, text,
};
use crate::alerts::telling::{alerts, minutes, types};
use crate::support::{Reply, START, TestAgent, TestSystem};

const MINUTE: Duration = Duration::from_mins(1);

/// Three processes.
const A: &str = "aaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccc";

async fn say(system: &TestSystem, agent: &TestAgent, status: &str, report: &Value) -> Reply {
    let body = json!({ "apiKey": agent.key, "status": status, "report": report });
    let reply = system.post("/api/agents/heartbeat", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

async fn heartbeat(system: &TestSystem, agent: &TestAgent, boot_id: &str) -> Reply {
    say(system, agent, "healthy", &json!({ "bootId": boot_id })).await
}

async fn started(system: &TestSystem, boot_id: &str) -> TestAgent {
    let agent = system.verified("a").await;
    heartbeat(system, &agent, boot_id).await;
    agent
}

async fn count(system: &TestSystem, agent: &TestAgent, event_type: &str) -> usize {
    system.payloads(agent, event_type).await.len()
}

/// How often restarts and clones were recorded.
async fn recorded(system: &TestSystem, agent: &TestAgent) -> (usize, usize) {
    (count(system, agent, "agent.restarted").await, count(system, agent, "agent.cloned").await)
}

/// A heartbeat of each process in turn, evenly within each minute, and a sweep after each minute.
async fn run(system: &TestSystem, agent: &TestAgent, count: u32, processes: &[&str]) {
    for _ in 0..count {
        for boot_id in processes {
            heartbeat(system, agent, boot_id).await;
            system.advance(MINUTE / u32::try_from(processes.len()).expect("a few"));
        }
        system.sweep().await;
    }
}

async fn shown(system: &TestSystem, agent: &TestAgent) -> Value {
    let reply = Client::operator(system).await.get(&agent_path(&agent.id, "?detail=true")).await;
    reply.json()["detail"]["boot_id"].clone()
}

#[tokio::test]
async fn a_steady_heartbeat_with_a_boot_id_is_one_write() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.take();
    heartbeat(&system, &agent, A).await;
    let tally = system.proxy.take();
    assert_eq!((tally.operations(), tally.refused()), (vec!["UpdateItem", "UpdateItem"], 1), "the first id");
    for boot_id in [A, "AAAAAAAAAAAAAAAA"] {
        heartbeat(&system, &agent, boot_id).await;
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"]);
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0));
    }
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(shown(&system, &agent).await, A, "a heartbeat without one leaves it");
    assert_eq!(recorded(&system, &agent).await, (0, 0));
}

#[tokio::test]
async fn a_restart_is_one_event_in_one_transaction() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    system.advance(MINUTE);
    system.proxy.take();
    heartbeat(&system, &agent, B).await;
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["UpdateItem", "GetItem", "TransactWriteItems"]);
    assert_eq!((tally.refused(), tally.write_units(), tally.read_units()), (1, 6.0, 1.0));
    let payload = json!({ "boot_id": B, "previous_boot_id": A, "last_seen_at": START.to_string() });
    assert_eq!(system.payloads(&agent, "agent.restarted").await, [payload]);
    heartbeat(&system, &agent, B).await;
    assert_eq!(recorded(&system, &agent).await, (1, 0));
    assert_eq!(shown(&system, &agent).await, B);
    assert_eq!(system.row(&agent).await.get("boot_noise"), None);
}

#[tokio::test]
async fn many_first_heartbeats_of_a_process_are_one_restart() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    join_all((0..50).map(|_| heartbeat(&system, &agent, B))).await;
    assert_eq!(recorded(&system, &agent).await, (1, 0));
}

#[tokio::test]
async fn a_process_that_restarts_again_and_again_is_no_clone() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    for number in 0..40_u64 {
        system.advance(20 * SECOND);
        heartbeat(&system, &agent, &format!("{number:016x}")).await;
    }
    assert_eq!(recorded(&system, &agent).await, (40, 0));
}

#[tokio::test]
async fn a_delayed_heartbeat_of_the_old_process_changes_nothing() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    system.advance(MINUTE);
    heartbeat(&system, &agent, B).await;
    system.advance(MINUTE);
    heartbeat(&system, &agent, A).await;
    assert_eq!(shown(&system, &agent).await, B);
    heartbeat(&system, &agent, B).await;
    assert_eq!(recorded(&system, &agent).await, (1, 0));
    assert_eq!(system.row(&agent).await.get("boot_noise"), None);
}

/// ⚠ Old and new side by side for some minutes, each with heartbeats of its own; then one of them alone, the new one or, if
/// it was rolled back, the old one. Whichever the row was left with, the other's first heartbeat after it is no proof of two.
#[tokio::test]
async fn a_rolling_deployment_is_a_restart_and_no_clone() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    for (number, stays) in [(1, B), (2, A)] {
        run(&system, &agent, 4, &[B, A]).await;
        run(&system, &agent, 20, &[stays]).await;
        assert_eq!(recorded(&system, &agent).await, (1, 0), "{number}");
        assert_eq!(shown(&system, &agent).await, stays);
        system.advance(60 * MINUTE);
    }
    assert_eq!(types(&system).await, [""; 0]);
}

/// ⚠ The old process ends after the new one began, which sleeps by now: neither its leave nor a heartbeat that was on its way
/// may hide the promise of the new one, or its death.
#[tokio::test]
async fn a_process_that_was_replaced_takes_leave_for_itself_alone() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    system.advance(MINUTE);
    let sleeps = json!({ "bootId": B, "nextBeatInSeconds": 3_600, "progressAgeSeconds": 5 });
    say(&system, &agent, "healthy", &sleeps).await;
    let asleep = system.row(&agent).await;
    for (later, status) in [(0, "degraded"), (1, "offline"), (2, "offline")] {
        system.advance(later * MINUTE);
        let last = json!({ "bootId": A, "usage": { "tokens": 7 } });
        say(&system, &agent, status, &last).await;
    }
    let row = system.row(&agent).await;
    for name in ["boot", "boot_noise", "health", "next_beat_at", "stalls_at", "offline_since"] {
        assert_eq!(row.get(name), asleep.get(name), "{name}");
    }
    assert_eq!(row["spent_tokens"], AttributeValue::N("21".to_owned()), "what it used counts");
    assert_eq!(count(&system, &agent, "agent.offline").await, 0);

    minutes(&system, 55).await;
    assert_eq!(count(&system, &agent, "agent.offline").await, 0, "asleep");
    minutes(&system, 10).await;
    assert_eq!(system.payloads(&agent, "agent.offline").await[0]["reason"], "silent");
    heartbeat(&system, &agent, B).await;
    say(&system, &agent, "offline", &json!({ "bootId": B })).await;
    assert_eq!(count(&system, &agent, "agent.offline").await, 2, "its own leave");
}

#[tokio::test]
async fn two_processes_with_one_key_are_recorded_once_an_hour_and_told_once() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    run(&system, &agent, 15, &[B, A]).await;
    assert_eq!(recorded(&system, &agent).await, (1, 1));
    let event = &system.payloads(&agent, "agent.cloned").await[0];
    let named = [text(event, "boot_id"), text(event, "previous_boot_id")];
    assert!(named == [A, B] || named == [B, A], "{event}");
    run(&system, &agent, 50, &[B, A]).await;
    assert_eq!(recorded(&system, &agent).await, (1, 1));
    system.proxy.take();
    heartbeat(&system, &agent, A).await;
    heartbeat(&system, &agent, B).await;
    let tally = system.proxy.take();
    assert_eq!((tally.write_units(), tally.read_units()), (2.0, 0.0), "one write each, in the noise");
    run(&system, &agent, 20, &[B, A]).await;
    assert_eq!(recorded(&system, &agent).await, (1, 2));
    assert_eq!(types(&system).await, ["agent.cloned"], "told once, while it lasts");
    assert_eq!(alerts(&system).await[0]["data"]["began"], "cloned");
    // One of them ends.
    run(&system, &agent, 80, &[A]).await;
    assert_eq!(recorded(&system, &agent).await, (1, 2));
    assert_eq!(types(&system).await, ["agent.cloned", "agent.recovered"]);
    assert_eq!(alerts(&system).await[1]["data"]["ended"], "cloned");
}

#[tokio::test]
async fn three_processes_with_one_key_are_recorded_once_an_hour() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    run(&system, &agent, 60, &[A, B, C]).await;
    assert_eq!(recorded(&system, &agent).await, (2, 1));
    run(&system, &agent, 30, &[A, B, C]).await;
    assert_eq!(recorded(&system, &agent).await, (2, 2));
    assert_eq!(types(&system).await, ["agent.cloned"]);
}

#[tokio::test]
async fn a_recovery_says_whether_another_process_ended_the_silence() {
    let system = TestSystem::start().await;
    let agent = started(&system, A).await;
    for (boot_id, cause) in [(A, "resumed"), (B, "restarted")] {
        minutes(&system, 5).await;
        system.proxy.take();
        heartbeat(&system, &agent, boot_id).await;
        let transactions =
            system.proxy.take().operations().iter().filter(|it| **it == "TransactWriteItems").count();
        assert_eq!(transactions, 1, "absence and restart together");
        minutes(&system, 1).await;
        let told = alerts(&system).await.pop().expect("a message");
        assert_eq!((&told["type"], &told["data"]["cause"]), (&json!("agent.recovered"), &json!(cause)));
    }
    let online = system.payloads(&agent, "agent.online").await;
    let causes: Vec<_> = online.iter().map(|payload| text(payload, "cause")).collect();
    assert_eq!(causes, ["resumed", "restarted"]);
    assert_eq!(recorded(&system, &agent).await, (1, 0));
}

#[tokio::test]
async fn every_way_of_sending_heartbeats_reads_it_and_an_operator_is_no_process() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let said = |boot_id: &str| json!({ "name": "a", "report": { "boot_id": boot_id } });
    let by_name = Client::bearer(&system, &token);
    let created = by_name.post(HEARTBEAT_BY_NAME, &said(A)).await.json();
    let agent = TestAgent { id: text(&created, "id"), key: text(&created, "agent_token") };
    assert_eq!(shown(&system, &agent).await, A, "the heartbeat that creates it");
    let key = Client::x_agent_token(&system, &agent.key);
    let own = agent_path(&agent.id, "/heartbeat");
    let mut ids = [B, C, "d0d0d0d0d0d0d0d0", "e0e0e0e0e0e0e0e0"].into_iter();
    let mut next = || ids.next().expect("another");
    for (client, path) in
        [(&key, OWN_HEARTBEAT), (&key, &own), (&key, HEARTBEAT_BY_NAME), (&by_name, HEARTBEAT_BY_NAME)]
    {
        let boot_id = next();
        assert_eq!(client.post(path, &said(boot_id)).await.status, 200);
        assert_eq!(shown(&system, &agent).await, boot_id, "{path}");
    }
    assert_eq!(Client::operator(&system).await.post(&own, &said(A)).await.status, 200);
    assert_eq!(shown(&system, &agent).await, "e0e0e0e0e0e0e0e0");
    assert_eq!(recorded(&system, &agent).await, (4, 0));

    for wrong in [json!("pod-7"), json!(7), json!("aaaaaaaaaaaaaaa")] {
        let said = json!({ "report": { "boot_id": wrong } });
        assert_eq!(invalid(&key.post(&own, &said).await), "body.report.boot_id");
        let reply = key.post(OWN_HEARTBEAT, &said).await.json();
        assert!(
            text(&json!({ "e": reply["report_errors"][0] }), "e").starts_with("report.boot_id: "),
            "{reply}"
        );
        let said = json!({ "apiKey": agent.key, "status": "healthy", "report": { "bootId": wrong } });
        assert_eq!(system.post("/api/agents/heartbeat", &said).await.refusal().0, 400);
    }
}
