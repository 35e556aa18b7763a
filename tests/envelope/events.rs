//! `POST /api/agents/events`.

use std::time::Duration;

use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, Row, START, TestAgent, TestSystem, number, quota, text};

const PATH: &str = "/api/agents/events";

const DAY: i64 = 86_400;

/// Posts this text as it is.
async fn post_text(system: &TestSystem, agent: &TestAgent, body: impl Into<reqwest::Body>) -> Reply {
    system.send(Method::POST, PATH, &[("x-agent-token", &agent.key)], body).await
}

/// The rows of posted events, oldest first, without markers and the system's own.
async fn posted(system: &TestSystem, agent: &TestAgent) -> Vec<Row> {
    let mut rows = system.event_rows(&agent.id).await;
    rows.retain(|row| text(row, "event_type").is_some_and(|name| !name.starts_with("agent.")));
    rows
}

fn event_id(reply: &Reply) -> String {
    reply.data()["eventId"].as_str().expect("an id").to_owned()
}

fn results(reply: &Reply) -> Vec<Value> {
    reply.data()["results"].as_array().expect("results").clone()
}

#[tokio::test]
async fn the_answer_is_the_event_and_its_id() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let payload = json!({ "tool": "search", "tokens": 12 });
    let reply = system.post_events(&agent, &json!({ "event": "tool_call", "payload": payload })).await;
    let id = event_id(&reply);
    let data = json!({ "event": "tool_call", "payload": payload, "eventId": id });
    assert_eq!(reply.json(), json!({ "ok": true, "data": data }));
    assert_eq!(reply.quota(), quota("events", 60, 59, 30));
    assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7);

    let rows = posted(&system, &agent).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(text(&rows[0], "event_id"), Some(id.as_str()));
    assert_eq!(text(&rows[0], "event_type"), Some("tool_call"));
    assert_eq!(text(&rows[0], "actor"), Some("agent"));
    assert_eq!(number(&rows[0], "created_at"), Some(START.as_millis()));
    assert_eq!(number(&rows[0], "expires_at"), Some(START.as_seconds() + 30 * DAY));
}

#[tokio::test]
async fn the_key_may_be_in_the_body() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.post(PATH, &json!({ "apiKey": agent.key, "event": "e" })).await.data();
    let bearer = format!("Bearer {}", agent.key);
    system.post_with(PATH, &[("authorization", &bearer)], &json!({ "event": "e" })).await.data();
    assert_eq!(system.post(PATH, &json!({ "event": "e" })).await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    let reply = system.post(PATH, &json!({ "apiKey": "x", "event": "e" })).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
}

#[tokio::test]
async fn a_payload_is_kept_just_as_it_was_sent() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    for payload in [
        "null",
        "true",
        "0",
        "-0",
        "1.0",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        "1e400",
        "1E+2",
        r#""""#,
        r#""text""#,
        r#""\ud800 half a pair""#,
        "\"漢字 🤖 \u{2028}\"",
        r#""\u0000""#,
        "[]",
        "{}",
        r#"{ "b": 1,  "a": [1, 2] , "b": 2 }"#,
        deep.as_str(),
    ] {
        let reply = post_text(&system, &agent, format!(r#"{{"event": "e", "payload": {payload}}}"#)).await;
        let shown = &payload[..payload.len().min(60)];
        assert_eq!(reply.status, 200, "{shown}: {}", reply.text);
        assert!(reply.text.contains(&format!(r#""payload":{payload},"#)), "{shown}");
        let rows = posted(&system, &agent).await;
        assert_eq!(text(rows.last().unwrap(), "payload"), Some(payload), "{shown}");
    }
    let reply = post_text(&system, &agent, r#"{"event": "e"}"#).await;
    assert_eq!(reply.data()["payload"], Value::Null, "absent is null");
    assert_eq!(text(posted(&system, &agent).await.last().unwrap(), "payload"), Some("null"));
}

#[tokio::test]
async fn a_payload_is_nested_at_most_128_deep() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let body = format!(
        r#"{{"apiKey": "{}", "event": "e", "payload": {}{}}}"#,
        agent.key,
        "[".repeat(129),
        "]".repeat(129)
    );
    let reply = system.send(reqwest::Method::POST, "/api/agents/events", &[], body).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    assert_eq!(reply.message(), "payload: must be nested at most 128 deep");
}

#[tokio::test]
async fn a_payload_has_at_most_16_kib_as_sent() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let payload = |len: usize| "x".repeat(len - 2);
    system.post_events(&agent, &json!({ "event": "e", "payload": payload(16_384) })).await.data();
    system.proxy.take();
    let reply = system.post_events(&agent, &json!({ "event": "e", "payload": payload(16_385) })).await;
    assert_eq!(reply.refusal(), (413, "PAYLOAD_TOO_LARGE".to_owned()));
    assert!(reply.message().starts_with("payload: "), "{}", reply.text);
    let spaced = format!(r#"{{"event": "e", "payload": [{}]}}"#, " ".repeat(16_383));
    assert_eq!(post_text(&system, &agent, spaced).await.status, 413, "space counts as sent");
    assert_eq!(system.proxy.take().requests(), 0);

    let events = json!([
        { "event": "e", "payload": payload(16_385) },
        { "event": "e", "payload": payload(16_384) },
    ]);
    let reply = system.post_events(&agent, &json!({ "events": events })).await;
    assert_eq!(results(&reply)[0]["error"]["code"], "PAYLOAD_TOO_LARGE");
    assert!(results(&reply)[1]["eventId"].is_string());
    assert_eq!(posted(&system, &agent).await.len(), 2);
}

#[tokio::test]
async fn a_body_has_at_most_64_kib() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let event = json!({ "event": "e", "payload": "x".repeat(16_000) });
    let fits = json!({ "events": [event, event, event, event] });
    assert_eq!(results(&system.post_events(&agent, &fits).await).len(), 4);
    let too_large = json!({ "events": [event, event, event, event, event] });
    let reply = system.post_events(&agent, &too_large).await;
    assert_eq!(reply.refusal(), (413, "PAYLOAD_TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn a_bad_event_is_refused_before_any_request() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.take();
    let (long, long_id) = ("x".repeat(101), "x".repeat(65));
    for (body, field) in [
        (json!({}), "event"),
        (json!({ "event": null }), "event"),
        (json!({ "event": 7 }), "event"),
        (json!({ "event": "" }), "event"),
        (json!({ "event": "a\u{0}b" }), "event"),
        (json!({ "event": "a\tb" }), "event"),
        (json!({ "event": "a\n" }), "event"),
        (json!({ "event": long }), "event"),
        (json!({ "event": "agent.offline" }), "event"),
        (json!({ "event": "agent." }), "event"),
        (json!({ "event": "token.created" }), "event"),
        (json!({ "event": "e", "id": "" }), "id"),
        (json!({ "event": "e", "id": 7 }), "id"),
        (json!({ "event": "e", "id": "a b" }), "id"),
        (json!({ "event": "e", "id": "a#b" }), "id"),
        (json!({ "event": "e", "id": long_id }), "id"),
        (json!({ "events": {} }), "events"),
        (json!({ "events": "e" }), "events"),
        (json!({ "events": [] }), "events"),
        (json!({ "events": vec![json!({ "event": "e" }); 26] }), "events"),
        (json!({ "event": "e", "events": [{ "event": "e" }] }), "events"),
    ] {
        let reply = system.post_events(&agent, &body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
        assert!(reply.message().starts_with(&format!("{field}: ")), "{body}: {}", reply.text);
    }
    for body in ["[]", "null", "{", r#"{"event": "e", "payload": }"#, r#"{"event": "e", "payload": 01}"#] {
        let reply = post_text(&system, &agent, body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
    }
    assert_eq!(system.proxy.take().requests(), 0);
    assert_eq!(posted(&system, &agent).await, Vec::<Row>::new());
}

#[tokio::test]
async fn a_good_event_name_is_taken() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let long = "x".repeat(100);
    for name in ["e", "tool_call", "A.b:c-d_1", "agent", "agents.x", "Agent.x", "tokens", long.as_str()] {
        assert_eq!(system.post_event(&agent, name).await.data()["event"], name);
    }
}

// ---- Batches ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_batch_is_stored_and_answered_in_order() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for size in [1, 2, 25] {
        let events: Vec<_> =
            (0..size).map(|number| json!({ "event": format!("e{number}"), "payload": number })).collect();
        let reply = system.post_events(&agent, &json!({ "events": events })).await;
        let ids: Vec<String> = results(&reply)
            .iter()
            .map(|result| {
                assert_eq!(result.as_object().unwrap().len(), 1, "{result}");
                result["eventId"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(ids.len(), size);
        assert!(ids.is_sorted(), "ids ascend: {ids:?}");
        let rows = posted(&system, &agent).await;
        for (number, id) in ids.iter().enumerate() {
            let row = rows.iter().find(|row| text(row, "event_id") == Some(id)).expect("a row");
            assert_eq!(text(row, "event_type"), Some(format!("e{number}").as_str()));
            assert_eq!(text(row, "payload"), Some(number.to_string().as_str()));
        }
    }
    assert_eq!(posted(&system, &agent).await.len(), 28);
}

#[tokio::test]
async fn ids_ascend_across_calls_of_one_millisecond() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(event_id(&system.post_event(&agent, "e").await));
    }
    assert!(ids.is_sorted(), "{ids:?}");
}

#[tokio::test]
async fn one_bad_event_does_not_fail_the_others() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let events = json!([
        { "event": "first" },
        { "event": "agent.offline" },
        7,
        { "payload": 1 },
        { "event": "own", "id": "own" },
        { "event": "bad\nown", "id": "own" },
        null,
        { "event": "bad_id", "id": "" },
        { "event": "last", "apiKey": "ignored" },
    ]);
    let reply = system.post_events(&agent, &json!({ "events": events })).await;
    let results = results(&reply);
    assert_eq!(results.len(), 9);
    for place in [0, 4, 8] {
        assert!(results[place]["eventId"].is_string(), "{place}: {}", results[place]);
    }
    for (place, field) in [
        (1, "events[1].event"),
        (2, "events[2]"),
        (3, "events[3].event"),
        (5, "events[5].event"),
        (6, "events[6]"),
        (7, "events[7].id"),
    ] {
        assert_eq!(results[place]["error"]["code"], "VALIDATION_ERROR", "{place}");
        let message = results[place]["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{field}: ")), "{place}: {message}");
    }
    let names: Vec<_> = posted(&system, &agent)
        .await
        .iter()
        .filter_map(|row| Some(text(row, "event_type")?.to_owned()))
        .collect();
    assert_eq!(names, ["first", "own", "last"]);
}

#[tokio::test]
async fn a_batch_of_bad_events_is_still_an_answer() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.take();
    let reply = system.post_events(&agent, &json!({ "events": [{}, {}] })).await;
    assert_eq!(results(&reply).len(), 2);
    assert!(results(&reply).iter().all(|result| result["error"]["code"] == "VALIDATION_ERROR"));
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);
}

#[tokio::test]
async fn what_dynamodb_leaves_unprocessed_is_sent_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let events = json!({ "events": vec![json!({ "event": "e" }); 25] });
    let fault =
        system.proxy.inject(When::operation("BatchWriteItem").times(2), Fault::Unprocessed { applied: 7 });
    let reply = system.post_events(&agent, &events).await;
    assert_eq!(fault.hits(), 2);
    assert!(results(&reply).iter().all(|result| result["eventId"].is_string()), "{}", reply.text);
    assert_eq!(posted(&system, &agent).await.len(), 25);
}

#[tokio::test]
async fn what_stays_unprocessed_is_reported_in_its_place() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let events: Vec<_> = (0..5).map(|number| json!({ "event": format!("e{number}") })).collect();
    system.proxy.inject(When::operation("BatchWriteItem").times(1), Fault::Unprocessed { applied: 2 });
    let rest = system.proxy.inject(When::operation("BatchWriteItem"), Fault::Unprocessed { applied: 0 });
    let reply = system.post_events(&agent, &json!({ "events": events })).await;
    assert!(rest.hits() >= 1);
    let results = results(&reply);
    let stored: Vec<_> = posted(&system, &agent)
        .await
        .iter()
        .filter_map(|row| Some(text(row, "event_id")?.to_owned()))
        .collect();
    let acknowledged: Vec<_> =
        results.iter().filter_map(|result| Some(result["eventId"].as_str()?.to_owned())).collect();
    assert_eq!(acknowledged.len(), 2, "{}", reply.text);
    assert_eq!(acknowledged, stored);
    for result in results.iter().filter(|result| result.get("eventId").is_none()) {
        assert_eq!(result["error"]["code"], "UNAVAILABLE");
    }
}

// ---- Ids of the agent's own ------------------------------------------------------------------------------

#[tokio::test]
async fn an_own_id_is_stored_once_and_answered_alike() {
    let system = TestSystem::start().await;
    let (agent, other) = (system.verified("a").await, system.verified("b").await);
    let body = json!({ "event": "paid", "payload": { "amount": 7 }, "id": "invoice:2026-01.7_a" });
    let first = system.post_events(&agent, &body).await;
    system.advance(Duration::from_hours(1));
    let again = system.post_events(&agent, &body).await;
    assert_eq!(first.json(), again.json());
    assert_eq!(posted(&system, &agent).await.len(), 1);

    let longest = json!({ "event": "paid", "id": "x".repeat(64) });
    assert_ne!(event_id(&system.post_events(&agent, &longest).await), event_id(&first));
    assert_ne!(
        event_id(&system.post_events(&other, &body).await),
        event_id(&first),
        "each agent has its own ids"
    );
    assert_eq!(posted(&system, &agent).await.len(), 2);
    assert_eq!(posted(&system, &other).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_id_is_stored_once_by_twenty_concurrent_posts() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let body = json!({ "event": "paid", "id": "once" });
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let (replies, ()) = join(join_all((0..20).map(|_| system.post_events(&agent, &body))), async {
        gate.held(20).await;
        gate.release();
    })
    .await;
    let rows = posted(&system, &agent).await;
    assert_eq!(rows.len(), 1);
    for reply in replies {
        assert_eq!(text(&rows[0], "event_id"), Some(event_id(&reply).as_str()));
    }
}

#[tokio::test]
async fn an_own_id_is_stored_once_inside_a_batch_and_across_batches() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let own = json!({ "event": "own", "id": "once" });
    let events =
        json!({ "events": [own, { "event": "plain" }, own, { "event": "own", "id": "other" }, own] });
    let first = results(&system.post_events(&agent, &events).await);
    assert_eq!(first[0], first[2]);
    assert_eq!(first[0], first[4]);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[0], first[3]);
    assert_eq!(posted(&system, &agent).await.len(), 3);

    let again = results(&system.post_events(&agent, &events).await);
    assert_eq!(again[0], first[0]);
    assert_eq!(again[3], first[3]);
    assert_ne!(again[1], first[1]);
    assert_eq!(posted(&system, &agent).await.len(), 4);
    assert_eq!(json!(event_id(&system.post_events(&agent, &own).await)), first[0]["eventId"]);
}

/// An expired marker counts as gone, whether DynamoDB has removed it or not.
#[tokio::test]
async fn an_own_id_is_free_again_when_its_marker_has_expired() {
    let system = TestSystem::with().parameter("EventRetentionDays", 1).start().await;
    let agent = system.verified("a").await;
    let body = json!({ "event": "paid", "id": "once" });
    let first = event_id(&system.post_events(&agent, &body).await);
    system.advance(Duration::from_hours(24) - Duration::from_millis(1));
    assert_eq!(event_id(&system.post_events(&agent, &body).await), first);
    system.advance(Duration::from_millis(1));
    let second = event_id(&system.post_events(&agent, &body).await);
    assert_ne!(second, first);
    assert_eq!(event_id(&system.post_events(&agent, &body).await), second);
    assert_eq!(posted(&system, &agent).await.len(), 2);
    let rows = system.event_rows(&agent.id).await;
    let marker = rows.iter().find(|row| text(row, "event_id") == Some("id#once")).unwrap();
    assert_eq!(text(marker, "marks"), Some(second.as_str()));
    assert_eq!(number(marker, "expires_at"), Some(START.as_seconds() + 2 * DAY));
}

// ---- Requests, lease and limit ---------------------------------------------------------------------------

#[tokio::test]
async fn an_event_a_batch_and_an_own_id_cost_two_requests_each() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let plain = json!({ "event": "e" });
    let own = json!({ "event": "e", "id": "1" });
    for (body, store) in [
        (plain.clone(), "PutItem"),
        (json!({ "events": [plain] }), "PutItem"),
        (json!({ "events": vec![plain.clone(); 25] }), "BatchWriteItem"),
        (own.clone(), "TransactWriteItems"),
        (own.clone(), "TransactWriteItems"),
    ] {
        system.proxy.take();
        system.post_events(&agent, &body).await.data();
        assert_eq!(system.proxy.take().operations(), ["UpdateItem", store], "{body}");
    }
    let mixed = json!({ "events": [plain, own, plain, { "event": "e", "id": "2" }] });
    system.post_events(&agent, &mixed).await.data();
    let tally = system.proxy.take();
    assert_eq!(tally.operations()[0], "UpdateItem");
    assert_eq!(tally.of("BatchWriteItem").requests(), 1);
    assert_eq!(tally.of("TransactWriteItems").requests(), 2);
    assert_eq!(tally.requests(), 4);
}

#[tokio::test]
async fn an_event_renews_the_lease() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.post_event(&agent, "e").await.data();
    let row = system.row(&agent).await;
    assert_eq!(number(&row, "last_seen_at"), Some(START.as_millis()));
    assert_eq!(number(&row, "lease_expires_at"), Some(START.as_millis() + 120_000));
    system.advance(Duration::from_secs(100));
    system.post_event(&agent, "e").await.data();
    system.advance(Duration::from_secs(100));
    assert_eq!(system.sweep().await["announced"], 0);
    assert_eq!(system.post_event(&agent, "not\nok").await.status, 400);
    system.advance(Duration::from_secs(100));
    assert_eq!(system.sweep().await["announced"], 1, "a refused event renews nothing");
}

#[tokio::test]
async fn events_are_limited_apart_from_heartbeats() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let agent = system.verified("a").await;
    let batch = json!({ "events": [{ "event": "e" }, { "event": "e" }, { "event": "e" }] });
    assert_eq!(system.post_event(&agent, "e").await.quota(), quota("events", 2, 1, 30));
    assert_eq!(
        system.post_events(&agent, &batch).await.quota(),
        quota("events", 2, 0, 30),
        "a batch is one call"
    );
    system.proxy.take();
    for requests in [1, 0] {
        let reply = system.post_event(&agent, "e").await;
        assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
        assert_eq!(reply.header("retry-after"), Some("30"));
        assert_eq!(reply.quota(), quota("events", 2, 0, 30));
        assert_eq!(system.proxy.take().requests(), requests);
    }
    for remaining in [1, 0] {
        assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 2, remaining, 30));
    }
    assert_eq!(posted(&system, &agent).await.len(), 4);
    system.advance(Duration::from_secs(30));
    assert_eq!(system.post_event(&agent, "e").await.quota(), quota("events", 2, 1, 60));
    assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 2, 1, 60));
}

#[tokio::test]
async fn a_pending_or_unknown_agent_stores_nothing() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    assert_eq!(system.post_event(&agent, "e").await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    let unknown = TestAgent { key: "0".repeat(48), ..agent.clone() };
    assert_eq!(system.post_event(&unknown, "e").await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(posted(&system, &agent).await, Vec::<Row>::new());
}

// ---- Time to live ----------------------------------------------------------------------------------------

/// DynamoDB removes nothing by an `expires_at` in milliseconds.
#[tokio::test]
async fn every_expires_at_is_in_epoch_seconds() {
    let system = TestSystem::with().parameter("Registration", "enrollment").start().await;
    let token = system.enrollment_token(json!({ "reusable": false })).await;
    system.operator_token().await;
    let headers = [("x-agent-token", token.as_str())];
    let registered = system.post_with("/api/agents/register", &headers, &json!({ "name": "a" })).await.data();
    let text_of = |field: &str| registered[field].as_str().unwrap().to_owned();
    let agent = TestAgent { id: text_of("agentId"), key: text_of("apiKey") };
    let another = system.enrollment_token(json!({})).await;
    let headers = [("x-agent-token", another.as_str())];
    system.post_with("/api/agents/register", &headers, &json!({ "name": "stays pending" })).await.data();
    system.verify(&agent.key).await.data();
    system.verify(&"0".repeat(48)).await;
    system.heartbeat(&agent, "offline").await.data();
    system.post_events(&agent, &json!({ "event": "e", "id": "own" })).await.data();
    system.post_events(&agent, &json!({ "events": [{ "event": "e" }, { "event": "e" }] })).await.data();
    system.advance(Duration::from_mins(10));
    system.sweep().await;

    let now = START.as_seconds();
    let mut kinds = Vec::new();
    for table in ["AgentsTable", "EventsTable", "WindowsTable", "TokensTable"] {
        for row in system.rows(table).await {
            let Some(expires_at) = number(&row, "expires_at") else {
                assert!(["AgentsTable", "TokensTable"].contains(&table), "{table}: {row:?}");
                continue;
            };
            assert!((now..now + 401 * DAY).contains(&expires_at), "{table}: {row:?}");
            let kind = ["event_type", "marks", "window_id", "token_kind", "agent_state"];
            let kind = kind.into_iter().find_map(|name| text(&row, name).map(|value| (name, value)));
            let (name, value) = kind.expect("a kind of row");
            kinds.push(match name {
                "marks" => "marker".to_owned(),
                "window_id" => value.split('#').next().unwrap_or_default().to_owned(),
                _ => value.to_owned(),
            });
        }
    }
    kinds.sort();
    kinds.dedup();
    let expected = [
        "agent.offline",
        "agent.online",
        "agent.registered",
        "agent.verified",
        "e",
        "marker",
        "operator",
        "pending",
        "register",
        "token.created",
        "verify",
    ];
    assert_eq!(kinds, expected, "kinds of rows that expire");
}

#[tokio::test]
async fn the_systems_own_events_are_kept_longer_than_agents() {
    let system = TestSystem::with()
        .parameter("EventRetentionDays", 2)
        .parameter("SystemEventRetentionDays", 5)
        .start()
        .await;
    let agent = system.verified("a").await;
    system.post_event(&agent, "e").await.data();
    for row in system.event_rows(&agent.id).await {
        let days = if text(&row, "event_type") == Some("e") { 2 } else { 5 };
        assert_eq!(number(&row, "expires_at"), Some(START.as_seconds() + days * DAY), "{row:?}");
    }
}

/// The tutorial's schema takes any string.
#[tokio::test]
async fn an_events_name_is_any_text_without_control_characters() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for name in ["tool use", "tool/use", "ツール", "é"] {
        assert_eq!(system.post_event(&agent, name).await.data()["event"], name);
    }
}
