//! Every change writes its event in the same transaction: who, when, before and after, and nothing secret.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::Method;
use serde_json::{Value, json};
use shared::domain::credential::{ApiKey, Token};
use uuid::Uuid;

use super::client::{
    AGENTS, BOARD, Client, HEARTBEAT_BY_NAME, NO_AGENT, OTHER_BOARD, OWN_HEARTBEAT, SECOND, TOKENS,
    agent_path, enrollment, text, with_key,
};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, TestAgent, TestSystem};

/// An event as it is stored.
#[derive(Debug, PartialEq)]
struct Recorded {
    kind: String,
    actor: String,
    at: i64,
    payload: Value,
}

async fn recorded(system: &TestSystem, partition: &str) -> Vec<Recorded> {
    let rows = system.event_rows(partition).await;
    let string =
        |row: &BTreeMap<String, AttributeValue>, name: &str| row[name].as_s().expect("a string").clone();
    let read = |row: &BTreeMap<String, AttributeValue>| Recorded {
        kind: string(row, "event_type"),
        actor: string(row, "actor"),
        at: row["created_at"].as_n().expect("a number").parse().expect("milliseconds"),
        payload: serde_json::from_str(&string(row, "payload")).expect("JSON"),
    };
    rows.iter().map(read).collect()
}

/// What a step left behind: it was one transaction, and these are its new events.
async fn one_transaction(system: &TestSystem, partition: &str, before: usize) -> Vec<Recorded> {
    let tally = system.proxy.take();
    let (alerts, events) = (system.table("AlertsTable"), system.table("EventsTable"));
    let transactions = tally.of("TransactWriteItems");
    // What the sweep tells of it is a transaction of its own.
    let telling = |tables: &&Vec<String>| tables.contains(&alerts) && !tables.contains(&events);
    let changes = transactions.calls().iter().map(|call| &call.tables).filter(|it| !telling(it));
    let changes: Vec<_> = changes.collect();
    assert_eq!(changes.len(), 1, "{:?}", tally.operations());
    assert!(changes[0].contains(&events), "{:?}", changes[0]);
    for alone in ["PutItem", "DeleteItem", "BatchWriteItem"] {
        let alone = tally.of(alone);
        assert_eq!(alone.on(&events).requests(), 0, "{:?}", tally.operations());
        // The sweep writes its canary, which is no agent of the fleet.
        assert!(alone.on(&system.table("AgentsTable")).requests() <= 1, "{:?}", tally.operations());
    }
    recorded(system, partition).await.split_off(before)
}

#[track_caller]
fn is_the_only(events: Vec<Recorded>, kind: &str, actor: &str, system: &TestSystem) -> Value {
    let [event] = <[Recorded; 1]>::try_from(events).expect("exactly one event");
    assert_eq!((event.kind.as_str(), event.actor.as_str()), (kind, actor));
    assert_eq!(event.at, system.now().as_millis());
    event.payload
}

async fn operator(system: &TestSystem) -> (Client<'_>, String) {
    let minted = system.mint(&json!({ "kind": "operator" })).await;
    (Client::bearer(system, &text(&minted, "token")), format!("operator:{}", text(&minted, "id")))
}

#[tokio::test]
async fn each_change_of_an_operator_is_one_event_with_actor_before_and_after() {
    let system = TestSystem::start().await;
    let (operator, actor) = operator(&system).await;
    system.proxy.take();
    let agent = operator.create(&json!({ "name": "subject", "board_id": BOARD })).await;
    let created =
        is_the_only(one_transaction(&system, &agent.id, 0).await, "agent.registered", &actor, &system);
    let config = json!({ "interval_seconds": 60, "missing_tolerance": 120 });
    assert_eq!(
        created,
        json!({ "name": "subject", "board_id": BOARD, "state": "active", "heartbeat_config": config })
    );

    let patch = json!({
        "name": "renamed", "board_id": OTHER_BOARD, "rate_limit_per_minute": 7,
        "heartbeat_config": { "interval_seconds": 15, "missing_tolerance": 30 },
    });
    let before = json!({ "name": "subject", "board_id": BOARD, "rate_limit_per_minute": null, "heartbeat_config": config });
    let of = |state: &str| json!({ "state": state });
    // (method, action, body, event, payload)
    let changes = [
        (Method::PATCH, "", patch.clone(), "agent.updated", json!({ "before": before, "after": patch })),
        (
            Method::POST,
            "/revoke",
            json!({ "reason": "on fire" }),
            "agent.revoked",
            json!({ "before": of("active"), "after": of("revoked"), "reason": "on fire" }),
        ),
        (
            Method::POST,
            "/restore",
            json!({}),
            "agent.restored",
            json!({ "before": of("revoked"), "after": of("active"), "reason": null }),
        ),
        (
            Method::POST,
            "/rotate-key",
            json!({ "overlap_seconds": 60 }),
            "agent.key_rotated",
            json!({ "previous_key_ends": "2037-01-01T00:01:34.000Z" }),
        ),
        (
            Method::DELETE,
            "",
            json!({}),
            "agent.deleted",
            json!({
                "before": { "name": "renamed", "board_id": OTHER_BOARD, "state": "active" }, "after": null,
            }),
        ),
    ];
    for (done, (method, action, body, kind, payload)) in changes.into_iter().enumerate() {
        system.advance(SECOND);
        system.proxy.take();
        let path = agent_path(&agent.id, action);
        let reply = operator.send(method, &path, body.to_string()).await;
        assert_eq!(reply.status, 200, "{kind}: {}", reply.text);
        let events = one_transaction(&system, &agent.id, done + 1).await;
        assert_eq!(is_the_only(events, kind, &actor, &system), payload, "{kind}");
    }
}

#[tokio::test]
async fn each_change_by_an_agent_or_the_clock_is_one_event() {
    let system = TestSystem::start().await;
    let (operator, actor) = operator(&system).await;
    system.proxy.take();
    let agent = system.registered("subject").await;
    // Registering also counts its address, in another table.
    let registered =
        is_the_only(one_transaction(&system, &agent.id, 0).await, "agent.registered", "agent", &system);
    assert_eq!(registered["state"], "pending");
    let client = Client::x_agent_token(&system, &agent.key);
    let mut done = 1;
    let mut step = async |kind: &str, actor: &str| {
        let events = one_transaction(&system, &agent.id, done).await;
        done += 1;
        let payload = is_the_only(events, kind, actor, &system);
        system.advance(SECOND);
        payload
    };
    system.advance(SECOND);
    system.post("/api/agents/verify", &json!({ "apiKey": agent.key })).await.data();
    let payload = step("agent.verified", "agent").await;
    assert_eq!(payload, json!({ "before": { "state": "pending" }, "after": { "state": "active" } }));

    client.post(OWN_HEARTBEAT, &json!({ "status": "offline" })).await;
    let seen = system.now().to_string();
    assert_eq!(step("agent.offline", "agent").await, json!({ "reason": "reported", "last_seen_at": seen }));
    client.touch(OWN_HEARTBEAT).await;
    assert_eq!(step("agent.online", "agent").await, json!({ "offline_since": seen, "last_seen_at": seen }));
    system.advance(Duration::from_mins(10));
    system.sweep().await;
    step("agent.offline", "system").await;
    operator.touch(&agent_path(&agent.id, "/heartbeat")).await;
    step("agent.online", &actor).await;
    client.post("/api/agents/rotate-key", &json!({})).await.data();
    step("agent.key_rotated", "agent").await;
    let types = system.event_types(&agent).await;
    assert_eq!(types.len(), 7, "{types:?}");
}

#[tokio::test]
async fn an_agent_that_never_came_and_an_approval_are_recorded() {
    let system = TestSystem::start().await;
    let agent = system.registered("subject").await;
    let (operator, actor) = operator(&system).await;
    system.advance(SECOND);
    system.proxy.take();
    operator.post(&agent_path(&agent.id, "/approve"), &json!({ "reason": "known" })).await;
    let payload =
        is_the_only(one_transaction(&system, &agent.id, 1).await, "agent.approved", &actor, &system);
    let state = |state: &str| json!({ "state": state });
    assert_eq!(payload, json!({ "before": state("pending"), "after": state("active"), "reason": "known" }));
    system.advance(Duration::from_secs(301));
    system.proxy.take();
    system.sweep().await;
    is_the_only(one_transaction(&system, &agent.id, 2).await, "agent.never_seen", "system", &system);
}

/// A change whose transaction does not happen leaves neither the change nor its event.
#[tokio::test]
async fn a_change_that_fails_leaves_no_event() {
    let system = TestSystem::start().await;
    let (operator, _) = operator(&system).await;
    let agent = operator.create(&json!({ "name": "subject" })).await;
    let row = system.row(&agent).await;
    system.proxy.inject(When::operation("TransactWriteItems"), Fault::DropRequest);
    for (method, action) in
        [(Method::PATCH, ""), (Method::DELETE, ""), (Method::POST, "/revoke"), (Method::POST, "/rotate-key")]
    {
        let body = if method == Method::PATCH { r#"{"name": "x"}"# } else { "" };
        let reply = operator.send(method, &agent_path(&agent.id, action), body).await;
        assert_eq!(reply.status, 503, "{action}");
    }
    assert_eq!(system.row(&agent).await, row);
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
}

/// 32 bytes in hexadecimal.
fn hexadecimal(digest: &[u8; 32]) -> String {
    let half = |bytes: &[u8]| Uuid::from_slice(bytes).expect("16 bytes").simple().to_string();
    half(&digest[..16]) + &half(&digest[16..])
}

/// Everything that must never be seen of a credential: itself, its secret half, and its digest.
fn secrets(credential: &str) -> Vec<String> {
    let hex = credential.rsplit('_').next().expect("a credential");
    let digest = ApiKey::parse(credential)
        .map(|key| key.digest())
        .or_else(|| Token::parse(credential).map(|token| token.digest()))
        .expect("a credential");
    let digest = hexadecimal(digest.as_bytes());
    vec![hex.to_owned(), hex[16..].to_owned(), digest]
}

#[tokio::test]
async fn no_secret_is_in_any_event_error_or_header() {
    let system = TestSystem::start().await;
    let operators = system.operator_token().await;
    let operator = Client::bearer(&system, &operators);
    let minted = enrollment(&system, &json!({})).await;
    let enrollment = text(&minted, "token");
    let by_token = Client::x_agent_token(&system, &enrollment);
    let (_, enrolled) = with_key(&by_token.heartbeat_as("enrolled").await);
    let created = operator.create(&json!({ "name": "created" })).await;
    let (_, rotated) = with_key(&operator.touch(&agent_path(&created.id, "/rotate-key")).await);
    let registered = system.verified("registered").await;
    let keys = [&enrolled, &created, &rotated, &registered].map(|agent: &TestAgent| agent.key.clone());
    let credentials: Vec<String> =
        keys.iter().cloned().chain([operators.clone(), enrollment.clone()]).collect();

    let mut replies: Vec<Reply> = Vec::new();
    for credential in &credentials {
        for client in [Client::bearer(&system, credential), Client::x_agent_token(&system, credential)] {
            for (method, path, body) in [
                (Method::POST, OWN_HEARTBEAT, r#"{"status": "no such"}"#),
                (Method::POST, HEARTBEAT_BY_NAME, "{"),
                (Method::POST, HEARTBEAT_BY_NAME, "[]"),
                (Method::GET, AGENTS, ""),
                (Method::GET, TOKENS, ""),
                (Method::PATCH, &agent_path(NO_AGENT, ""), "{}"),
                (Method::GET, &agent_path(&enrolled.id, ""), ""),
                (Method::GET, &agent_path(&enrolled.id, "/events"), ""),
                (Method::GET, &agent_path(&enrolled.id, "/workspace"), ""),
                (Method::GET, &format!("/api/v1/{credential}"), ""),
                (Method::POST, OWN_HEARTBEAT, &format!(r#"{{"status": "{credential}"}}"#)),
                (Method::POST, HEARTBEAT_BY_NAME, &format!(r#"{{"board_id": "{credential}"}}"#)),
                (Method::GET, &format!("{AGENTS}?status={credential}"), ""),
                (Method::GET, &agent_path(credential, ""), ""),
            ] {
                replies.push(client.send(method, path, body).await);
            }
        }
    }
    operator.touch(&agent_path(&enrolled.id, "/revoke")).await;
    replies.push(Client::x_agent_token(&system, &enrolled.key).touch(OWN_HEARTBEAT).await);
    operator.delete(&agent_path(&registered.id, "")).await;
    replies.push(Client::x_agent_token(&system, &registered.key).touch(OWN_HEARTBEAT).await);
    operator.delete(&format!("{TOKENS}/{}", text(&minted, "id"))).await;

    let mut texts: Vec<String> =
        replies.iter().map(|reply| format!("{} {:?} {}", reply.status, reply.headers, reply.text)).collect();
    let mut events =
        system.dynamodb.scan().table_name(system.table("EventsTable")).into_paginator().items().send();
    let mut rows = 0;
    while let Some(row) = events.next().await {
        let row = row.expect("a row");
        for (name, value) in &row {
            assert!(value.is_s() || value.is_n(), "{name} is text or a number");
        }
        texts.push(format!("{row:?}"));
        rows += 1;
    }
    assert!(rows >= 10, "{rows}");
    for secret in credentials.iter().flat_map(|credential| secrets(credential)) {
        for text in &texts {
            assert!(!text.contains(&secret), "{text}");
        }
    }
}
