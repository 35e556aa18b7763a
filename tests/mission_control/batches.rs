//! `POST /api/v1/agents/heartbeats` and `/api/agents/heartbeats`: heartbeats of many agents at once.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    AGENTS, BOARD, Client, HEARTBEAT_BY_NAME, NO_AGENT, NOBODY, OTHER_BOARD, SECOND, agent_path,
    enrollment_token, invalid, keys, refused, text,
};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, START, TestAgent, TestSystem, number, text as attribute};

pub const BATCH: &str = "/api/v1/agents/heartbeats";
const ENVELOPE: &str = "/api/agents/heartbeats";

/// The results of a batch in either contract.
#[track_caller]
fn results(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    let body = if body.get("ok").is_some() { &body["data"] } else { &body };
    assert_eq!(keys(body), BTreeSet::from(["results"]), "{}", reply.text);
    body["results"].as_array().expect("a list").clone()
}

/// What each item came to: 200, or the status of its error.
#[track_caller]
fn statuses(reply: &Reply) -> Vec<u64> {
    let status = |result: &Value| result["error"]["status"].as_u64().unwrap_or(200);
    results(reply).iter().map(status).collect()
}

/// Sends items, also such as no client should send, under `/api/v1/`.
async fn send(system: &TestSystem, credential: &str, items: &Value) -> Reply {
    send_to(system, BATCH, credential, &json!({ "heartbeats": items }).to_string()).await
}

async fn send_to(system: &TestSystem, path: &str, credential: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {credential}");
    system.send_off_contract(Method::POST, path, &[("authorization", &bearer)], body.to_owned()).await
}

/// So many new agents, named `prefix-0` and so on, which one batch by this token creates.
async fn fleet(system: &TestSystem, token: &str, size: usize) -> Vec<TestAgent> {
    let items: Vec<_> = (0..size).map(|number| json!({ "name": format!("agent-{number}") })).collect();
    let reply = Client::bearer(system, token).post(BATCH, &json!({ "heartbeats": items })).await;
    let agent = |result: &Value| TestAgent { id: text(result, "id"), key: text(result, "agent_token") };
    results(&reply).iter().map(agent).collect()
}

fn by_key(agents: &[TestAgent]) -> Value {
    agents.iter().map(|agent| json!({ "agent_token": agent.key, "status": "healthy" })).collect()
}

fn by_key_in_envelope(agents: &[TestAgent]) -> Value {
    agents.iter().map(|agent| json!({ "apiKey": agent.key, "status": "healthy" })).collect()
}

// ---- What it costs ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_hundred_heartbeats_are_one_request_and_a_hundred_write_units() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 100).await;
    let ids: Vec<_> = agents.iter().map(|agent| agent.id.clone()).collect();
    for (credential, reads) in [(token.as_str(), 0), (agents[7].key.as_str(), 1)] {
        for (path, items, id) in
            [(BATCH, by_key(&agents), "id"), (ENVELOPE, by_key_in_envelope(&agents), "agentId")]
        {
            system.proxy.take();
            let batch = json!({ "heartbeats": items });
            let reply = Client::bearer(&system, credential).post(path, &batch).await;
            let tally = system.proxy.take();
            assert_eq!(results(&reply).iter().map(|result| text(result, id)).collect::<Vec<_>>(), ids);
            assert_eq!(tally.of("UpdateItem").requests(), 100, "{path}");
            assert_eq!(tally.requests(), 100 + reads, "{path}: {:?}", tally.operations());
            #[expect(clippy::cast_precision_loss, reason = "0 or 1")]
            let units = (100.0, reads as f64);
            assert_eq!((tally.write_units(), tally.read_units()), units, "{path}");
            assert_eq!(reply.header("ratelimit"), None, "a batch has no window of its own");
        }
    }
    for agent in [&agents[0], &agents[99]] {
        let row = system.row(agent).await;
        assert_eq!((number(&row, "requests_total"), attribute(&row, "health")), (Some(5), Some("healthy")));
    }
}

/// ⚠ Without a credential before them, each of a stranger's items would be a write.
#[tokio::test]
async fn a_strangers_batch_is_one_read_at_most_and_no_write() {
    let system = TestSystem::start().await;
    let revoked = system.verified("revoked").await;
    let operator = Client::operator(&system).await;
    assert_eq!(operator.touch(&agent_path(&revoked.id, "/revoke")).await.status, 200);
    let pending = system.registered("pending").await;
    let viewer = system.mint(&json!({ "kind": "operator", "role": "viewer" })).await;
    let items: Vec<_> = (0..100).map(|number| json!({ "agent_token": format!("{number:048x}") })).collect();
    let hundred = json!(items);
    for (credential, status, reads) in [
        ("", 401, 0),
        ("nonsense", 401, 0),
        (NOBODY, 401, 1),
        (&format!("rce_{NOBODY}"), 401, 1),
        (&format!("rco_{NOBODY}"), 401, 1),
        (&revoked.key, 403, 1),
        (&pending.key, 403, 1),
        (&text(&viewer, "token"), 403, 1),
    ] {
        system.proxy.take();
        assert_eq!(refused(&send(&system, credential, &hundred).await), status, "{credential}");
        let tally = system.proxy.take();
        assert_eq!((tally.requests(), tally.write_units()), (reads, 0.0), "{credential}");
    }
    let in_header = format!("rco_{NOBODY}");
    let headers = [("x-agent-token", in_header.as_str())];
    let reply = system.post_with(BATCH, &headers, &json!({ "heartbeats": hundred })).await;
    assert_eq!(refused(&reply), 403, "an operator's token is a Bearer");
}

/// ⚠ One agent's key must not make a hundred writes of a hundred invented keys.
#[tokio::test]
async fn after_three_unknown_keys_each_further_key_is_looked_up_before_it_is_tried() {
    let system = TestSystem::start().await;
    let agent = system.verified("gateway").await;
    let items: Vec<_> = (0..100).map(|number| json!({ "agent_token": format!("{number:048x}") })).collect();
    let unknown = json!(items);
    system.proxy.take();
    assert_eq!(statuses(&send(&system, &agent.key, &unknown).await), [401; 100]);
    let tally = system.proxy.take();
    let tries = tally.of("UpdateItem").requests();
    assert!((3..3 + 16).contains(&tries), "{tries}: those that were under way when the third was found");
    assert_eq!(tally.of("GetItem").requests(), 1 + 100 - tries, "the gateway's own key, and the rest");

    // Two unknown keys are an oversight, and remembered: no call for either.
    system.advance(2 * SECOND);
    let items = json!([unknown[0], unknown[1], { "agent_token": agent.key }]);
    for tries in [3, 1] {
        system.proxy.take();
        assert_eq!(statuses(&send(&system, &agent.key, &items).await), [401, 401, 200]);
        let tally = system.proxy.take();
        assert_eq!((tally.of("UpdateItem").requests(), tally.of("GetItem").requests()), (tries, 1));
    }
}

/// ⚠ An operator removes agents, and their gateway does not know yet: whoever comes after them must not be taken for dead.
#[tokio::test]
async fn removed_agents_in_front_keep_nobody_behind_them_from_being_heard() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 60).await;
    let operator = Client::operator(&system).await;
    for removed in &agents[..30] {
        assert_eq!(operator.delete(&agent_path(&removed.id, "")).await.status, 200);
    }
    system.advance(Duration::from_mins(1));
    let expected = [[401_u64; 30], [200; 30]].concat();
    for credential in [&token, &agents[59].key] {
        system.advance(2 * SECOND);
        assert_eq!(statuses(&send(&system, credential, &by_key(&agents)).await), expected);
    }
    for heard in &agents[30..] {
        let seen = number(&system.row(heard).await, "last_seen_at");
        assert_eq!(seen, Some(system.now().as_millis()));
    }
}

// ---- Each item by itself ---------------------------------------------------------------------------------

#[tokio::test]
async fn each_item_is_answered_in_its_place() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let token = enrollment_token(&system, &json!({ "board_id": BOARD })).await;
    let (good, busy) = (system.verified("good").await, system.verified("busy").await);
    let (pending, revoked) = (system.registered("pending").await, system.verified("revoked").await);
    let operator = Client::operator(&system).await;
    assert_eq!(operator.touch(&agent_path(&revoked.id, "/revoke")).await.status, 200);
    for _ in 0..2 {
        system.heartbeat(&busy, "healthy").await.data();
    }
    let items = json!([
        { "agent_token": good.key, "status": "degraded" },
        { "agent_token": good.key, "status": "fine" },
        { "agent_token": NOBODY },
        { "name": "new" },
        { "agent_token": busy.key },
        { "name": "new", "status": "error" },
        { "name": "elsewhere", "board_id": OTHER_BOARD },
        { "agent_id": good.id },
        "healthy",
        { "agent_token": pending.key },
        { "agent_token": good.key },
        { "agent_token": revoked.key },
        {},
    ]);
    let reply = send(&system, &token, &items).await;
    let expected = [200, 422, 401, 200, 429, 200, 403, 403, 422, 403, 200, 403, 422];
    assert_eq!(statuses(&reply), expected, "{}", reply.text);
    let results = results(&reply);
    let healthy = ["id", "interval_seconds", "lease_expires_at", "status"];
    assert_eq!(keys(&results[0]), BTreeSet::from(healthy));
    assert_eq!(
        results[0],
        json!({
            "id": good.id,
            "status": "degraded",
            "interval_seconds": 60,
            "lease_expires_at": START.plus(Duration::from_mins(2)).to_string(),
        })
    );
    assert_eq!(results[10]["status"], "degraded", "the second says nothing of its health");
    assert_eq!(results[3]["id"], results[5]["id"]);
    assert_eq!(results[3]["agent_token"].as_str().map(str::len), Some(48));
    assert_eq!(results[5].get("agent_token"), None, "a key is shown once");
    assert_eq!(results[2]["error"], json!({ "status": 401, "detail": "unknown API key" }));
    assert_eq!(
        results[4]["error"],
        json!({
            "status": 429,
            "detail": "Too many requests",
            "retry_after_seconds": 30,
        })
    );
    assert_eq!(results[1]["error"]["detail"][0]["loc"], json!(["body", "heartbeats[1]", "status"]));
    assert_eq!(results[8]["error"]["detail"][0]["loc"], json!(["body", "heartbeats[8]"]));

    // The same in the envelope, where nothing is over its limit in the next minute.
    system.advance(Duration::from_mins(1));
    let items = json!({ "heartbeats": [
        { "apiKey": good.key, "status": "healthy" },
        { "apiKey": good.key },
        { "apiKey": pending.key, "status": "healthy" },
        { "name": "newer", "status": "healthy" },
        { "agentId": good.id, "status": "healthy" },
        { "agent_token": good.key, "status": "healthy" },
    ] });
    let reply = send_to(&system, ENVELOPE, &token, &items.to_string()).await;
    let results = self::results(&reply);
    assert_eq!(
        results[0],
        json!({
            "agentId": good.id,
            "status": "healthy",
            "intervalSeconds": 60,
            "leaseExpiresAt": system.now().plus(Duration::from_mins(2)).to_string(),
        })
    );
    let codes: Vec<_> = results.iter().map(|result| result["error"]["code"].as_str()).collect();
    let (invalid, unauthorized) = (Some("VALIDATION_ERROR"), Some("UNAUTHORIZED"));
    assert_eq!(codes, [None, invalid, unauthorized, None, Some("FORBIDDEN"), invalid]);
    assert_eq!(results[1]["error"]["message"], "heartbeats[1].status: is required");
    assert_eq!(results[5]["error"]["message"], "heartbeats[5].agent_token: is not read here: send apiKey");
    assert_eq!(text(&results[3], "apiKey").len(), 48);
}

#[tokio::test]
async fn a_wrong_type_names_the_item_and_the_field() {
    let system = TestSystem::start().await;
    let operator = system.operator_token().await;
    let agent = system.verified("a").await;
    let key = &agent.key;
    for (wrong, place) in [
        (json!({ "agent_token": key, "report": [] }), "report"),
        (
            json!({ "agent_token": key, "report": { "next_beat_in_seconds": "1" } }),
            "report.next_beat_in_seconds",
        ),
        (json!({ "agent_token": key, "report": { "ackDirective": 1 } }), "report.ackDirective"),
        (json!({ "agent_token": key, "status": 1 }), "status"),
        (json!({ "agent_token": 1 }), "agent_token"),
        (json!({ "agent_token": &key[1..] }), "agent_token"),
        (json!({ "agent_token": format!("rce_{key}") }), "agent_token"),
        (json!({ "agent_token": key, "name": "a" }), "agent_token"),
        (json!({ "agent_token": key, "agent_id": agent.id }), "agent_token"),
        (json!({ "apiKey": key }), "apiKey"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "a", "board_id": "b" }), "board_id"),
        (json!({ "agent_id": "x" }), "agent_id"),
        (json!(null), ""),
        (json!([]), ""),
    ] {
        system.proxy.take();
        let good = json!({ "agent_token": key });
        let reply = send(&system, &operator, &json!([good, wrong, good, wrong])).await;
        assert_eq!(statuses(&reply), [200, 422, 200, 422], "{wrong}");
        for index in [1, 3] {
            let path = format!("body heartbeats[{index}] {}", place.replace('.', " "));
            let loc = &results(&reply)[index]["error"]["detail"][0]["loc"];
            let loc: Vec<_> =
                loc.as_array().expect("a list").iter().map(|part| part.as_str().unwrap()).collect();
            assert_eq!(loc.join(" "), path.trim(), "{wrong}");
        }
        let tally = system.proxy.take();
        assert_eq!(tally.on(&system.table("AgentsTable")).requests(), 2, "{wrong}");
        system.advance(Duration::from_mins(1));
    }
}

#[tokio::test]
async fn a_body_that_is_no_batch_is_refused_whole() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let item = json!({ "name": "a", "status": "healthy" });
    let many = |count| json!({ "heartbeats": vec![item.clone(); count] }).to_string();
    let bodies = [
        String::new(),
        "{}".to_owned(),
        r#"{"heartbeats": null}"#.to_owned(),
        r#"{"heartbeats": {}}"#.to_owned(),
        r#"{"heartbeats": "a"}"#.to_owned(),
        many(0),
        many(101),
        many(1_000),
    ];
    for body in &bodies {
        let reply = send_to(&system, BATCH, &token, body).await;
        assert_eq!(invalid(&reply), "body.heartbeats", "{body}");
        let reply = send_to(&system, ENVELOPE, &token, body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
        assert!(reply.message().starts_with("heartbeats: must "), "{}", reply.text);
    }
    for body in ["[]", "1", "nonsense", "{\"heartbeats\": [{]}"] {
        assert_eq!(invalid(&send_to(&system, BATCH, &token, body).await), "body", "{body}");
    }
    // What is JSON is judged after the credential, and in the envelope before it.
    assert_eq!(refused(&send_to(&system, BATCH, NOBODY, "{}").await), 401);
    assert_eq!(send_to(&system, ENVELOPE, NOBODY, "{}").await.refusal().0, 400);

    let huge = |size: usize| json!({ "heartbeats": [{ "name": "a", "more": "x".repeat(size) }] }).to_string();
    assert_eq!(refused(&send_to(&system, BATCH, &token, &huge(70_000)).await), 413);
    assert_eq!(statuses(&send_to(&system, BATCH, &token, &huge(65_000)).await), [200]);
    let deep = format!("{{\"heartbeats\": [{{\"name\": \"a\", \"more\": {}}}]}}", "[".repeat(60_000));
    assert_eq!(invalid(&send_to(&system, BATCH, &token, &deep).await), "body");
}

/// ⚠ What a name does to the row that it addresses, it does in a batch as by itself.
#[tokio::test]
async fn names_of_attackers_reach_the_same_agents_as_by_themselves() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let longest = "é".repeat(100);
    let too_long = "é".repeat(101);
    let names = [
        "a",
        " a ",
        "A",
        "a\u{0}",
        "\u{202e}a",
        "\u{200b}",
        " ",
        "'; DROP TABLE agents; --",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "operator",
        NOBODY,
        "rce_",
        "𝕳𝖊𝖑𝖑𝖔",
        "\r\nx-injected: 1",
        "agent_id",
        "heartbeats[0]",
        longest.as_str(),
        too_long.as_str(),
    ];
    let items: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    let batch = results(&send(&system, &token, &json!(items)).await);
    let client = Client::bearer(&system, &token);
    for (name, result) in names.iter().zip(&batch) {
        let alone = client.heartbeat_as(name).await;
        match alone.status {
            200 => assert_eq!(result["id"], alone.json()["id"], "{name:?}"),
            status => {
                assert_eq!(result["error"]["status"], status, "{name:?}");
                assert_eq!(result["error"]["detail"][0]["msg"], alone.json()["detail"][0]["msg"], "{name:?}");
            }
        }
    }
    let ids: BTreeSet<_> = batch.iter().filter_map(|result| result["id"].as_str()).collect();
    assert_eq!(u64::try_from(ids.len()).unwrap(), Client::operator(&system).await.fleet_size().await);
}

// ---- Order, and many at once -----------------------------------------------------------------------------

#[tokio::test]
async fn heartbeats_of_one_agent_come_one_after_the_other_in_their_order() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 4).await;
    let agent = &agents[2];
    // By key and by name it is the same agent. Whoever does not wait for the one before overtakes the first.
    let first = system
        .proxy
        .inject(When::operation("UpdateItem").mentioning(&agent.id).times(2), Fault::ThroughputExceeded);
    let mut items = by_key(&agents).as_array().expect("a list").clone();
    items[2]["status"] = "error".into();
    items.push(json!({ "name": "agent-2", "status": "offline" }));
    items.push(json!({ "agent_token": agent.key, "status": "healthy" }));
    items.push(json!({ "agent_token": agents[0].key, "status": "error" }));
    items.push(json!({ "name": "agent-2", "status": "degraded" }));
    let reply = send(&system, &token, &json!(items)).await;
    assert_eq!(statuses(&reply), [200; 8]);
    assert_eq!(first.hits(), 2);
    let said: Vec<_> = results(&reply).iter().map(|result| result["status"].clone()).collect();
    assert_eq!(said, ["healthy", "healthy", "error", "healthy", "offline", "healthy", "error", "degraded"]);
    assert_eq!(attribute(&system.row(agent).await, "health"), Some("degraded"));
    let types = system.event_types(agent).await;
    assert_eq!(types, ["agent.registered", "agent.offline", "agent.online"]);
}

/// ⚠ The limits hold for each agent, whoever sends for it, and in whatever company.
#[tokio::test]
async fn fifty_batches_at_once_count_each_agent_exactly() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 30);
    let system = system.request_budget(Duration::from_mins(10)).start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 3).await;
    system.advance(Duration::from_mins(1));
    let batches = (0..50).map(|number| {
        let mut agents = agents.clone();
        agents.rotate_left(number % 3);
        let (system, token) = (&system, &token);
        async move {
            let reply = send(system, token, &by_key(&agents)).await;
            let statuses = statuses(&reply);
            agents.into_iter().map(|agent| agent.id).zip(statuses).collect::<Vec<_>>()
        }
    });
    let outcomes = join_all(batches).await.concat();
    for agent in &agents {
        let of_agent = |status| {
            let is_one = |outcome: &&(String, u64)| outcome.0 == agent.id && outcome.1 == status;
            outcomes.iter().filter(is_one).count()
        };
        assert_eq!((of_agent(200), of_agent(429)), (30, 20), "{}", agent.id);
        assert_eq!(number(&system.row(agent).await, "requests_total"), Some(31));
    }
}

// ---- Who may send for whom -------------------------------------------------------------------------------

#[tokio::test]
async fn a_key_in_the_header_passes_on_keys_and_neither_names_nor_ids() {
    let system = TestSystem::start().await;
    let (gateway, other) = (system.verified("gateway").await, system.verified("other").await);
    let items = json!([
        { "agent_token": other.key },
        { "name": "new" },
        { "agent_id": other.id },
        { "agent_id": gateway.id },
        { "agent_token": gateway.key },
    ]);
    system.proxy.take();
    assert_eq!(statuses(&send(&system, &gateway.key, &items).await), [200, 403, 403, 403, 200]);
    assert_eq!(system.proxy.take().of("UpdateItem").requests(), 2, "what is not allowed is not tried");
    assert_eq!(Client::operator(&system).await.fleet_size().await, 2);
}

#[tokio::test]
async fn an_operator_of_one_board_reaches_no_agents_of_another() {
    let system = TestSystem::start().await;
    let all = Client::operator(&system).await;
    let own = all.create(&json!({ "name": "own", "board_id": BOARD })).await;
    let other = all.create(&json!({ "name": "other", "board_id": OTHER_BOARD })).await;
    let none = all.create(&json!({ "name": "none" })).await;
    let minted = system.mint(&json!({ "kind": "operator", "board_id": BOARD })).await;
    // Its name is of the board, and the agent is elsewhere by now.
    let named = Client::bearer(&system, &text(&minted, "token")).heartbeat_as("moved").await.json();
    let moved = json!({ "board_id": OTHER_BOARD });
    assert_eq!(all.patch(&agent_path(&text(&named, "id"), ""), &moved).await.status, 200);
    let items = json!([
        { "agent_id": own.id, "status": "error" },
        { "agent_id": other.id, "status": "error" },
        { "agent_id": none.id, "status": "error" },
        { "agent_id": NO_AGENT },
        { "name": "other", "board_id": OTHER_BOARD },
        { "name": "moved" },
        { "name": "new" },
    ]);
    let reply = send(&system, &text(&minted, "token"), &items).await;
    assert_eq!(statuses(&reply), [200, 403, 403, 404, 403, 403, 200], "{}", reply.text);
    for agent in [&other, &none] {
        assert!(!system.row(agent).await.contains_key("last_seen_at"));
    }
    let new = &all.get(&agent_path(&text(&results(&reply)[6], "id"), "")).await.json();
    assert_eq!(new["board_id"], BOARD);

    let everybody = system.operator_token().await;
    let ids = json!([{ "agent_id": own.id }, { "agent_id": other.id }, { "agent_id": NO_AGENT }]);
    system.proxy.take();
    assert_eq!(statuses(&send(&system, &everybody, &ids).await), [200, 200, 404]);
    let tally = system.proxy.take();
    assert_eq!(
        (tally.of("GetItem").requests(), tally.of("UpdateItem").requests()),
        (1, 4),
        "one notes its use"
    );
}

#[tokio::test]
async fn a_batch_creates_as_single_heartbeats_do() {
    let system = TestSystem::start().await;
    let one_off = enrollment_token(&system, &json!({ "reusable": false })).await;
    let names = json!([{ "name": "a" }, { "name": "a" }]);
    let reply = send(&system, &one_off, &names).await;
    assert_eq!(statuses(&reply), [200, 200]);
    let ids: Vec<_> = results(&reply).iter().map(|result| text(result, "id")).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(
        statuses(&send(&system, &one_off, &json!([{ "name": "b" }, { "name": "a" }])).await),
        [403, 200]
    );

    let unapproved = enrollment_token(&system, &json!({ "approved": false })).await;
    let reply = send(&system, &unapproved, &names).await;
    assert_eq!(statuses(&reply), [200, 403], "created, and pending from then on");
    let created = &results(&reply)[0];
    assert_eq!((&created["status"], &created["lease_expires_at"]), (&json!("provisioning"), &Value::Null));

    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 100).await;
    assert_eq!(agents.iter().map(|agent| &agent.id).collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(system.event_types(&agents[99]).await, ["agent.registered"]);
    let alone = Client::bearer(&system, &token).post(HEARTBEAT_BY_NAME, &json!({ "name": "agent-99" })).await;
    assert_eq!(text(&alone.json(), "id"), agents[99].id);
    let tokens = Client::operator(&system).await.get(&format!("{AGENTS}?limit=1")).await.json();
    assert_eq!(tokens["total"], 102);
}

// ---- Reports and directives ------------------------------------------------------------------------------

#[tokio::test]
async fn an_item_reports_and_is_directed_in_both_contracts() {
    let system = TestSystem::start().await;
    let (first, second) = (system.verified("first").await, system.verified("second").await);
    let operator = Client::operator(&system).await;
    let mut version = Value::Null;
    for agent in [&first, &second] {
        let reply = operator.post(&agent_path(&agent.id, "/directive"), &json!({ "action": "pause" })).await;
        version = reply.json()["directive"]["version"].clone();
    }
    let slept = START.plus(Duration::from_mins(62)).to_string();
    let expected = json!({ "version": version, "action": "pause" });

    let report =
        json!({ "ack_directive": version, "next_beat_in_seconds": 3_600, "progress_age_seconds": 5 });
    let batch = json!({ "heartbeats": [
        { "agent_token": first.key, "status": "healthy", "report": report },
        { "agent_token": second.key },
    ] });
    let results = self::results(&Client::bearer(&system, &first.key).post(BATCH, &batch).await);
    assert_eq!((&results[0]["directive"], &results[1]["directive"]), (&expected, &expected));
    assert_eq!(text(&results[0], "lease_expires_at"), slept);
    assert!(system.row(&first).await.contains_key("stalls_at"));

    system.heartbeat(&second, "healthy").await.data();
    let report =
        |boot_id| json!({ "ackDirective": version, "nextBeatInSeconds": 3_600.0, "bootId": boot_id });
    let batch = json!({ "heartbeats": [
        { "apiKey": second.key, "status": "healthy", "report": report("00000000000000aa") },
        { "apiKey": second.key, "status": "healthy", "report": report("00000000000000bb") },
    ] });
    let results = self::results(&Client::bearer(&system, &first.key).post(ENVELOPE, &batch).await);
    assert_eq!((&results[0]["directive"], &results[1]["directive"]), (&expected, &expected));
    assert_eq!(text(&results[0], "leaseExpiresAt"), slept);
    assert_eq!(system.events_of(&second, "agent.restarted").await.len(), 1);
    for agent in [&first, &second] {
        assert_eq!(system.events_of(agent, "agent.directive_acknowledged").await.len(), 1);
    }
}

// ---- When the database is slow, or away ------------------------------------------------------------------

#[tokio::test]
async fn an_item_that_the_time_does_not_reach_is_503_by_itself() {
    let system = TestSystem::with().request_budget(3 * SECOND).start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 3).await;
    let slow = &agents[1];
    let hangs = system.proxy.inject(When::operation("UpdateItem").mentioning(&slow.id).after(1), Fault::Hang);
    let mut items = by_key(&agents).as_array().expect("a list").clone();
    items.push(json!({ "agent_token": slow.key }));
    items.push(json!({ "agent_token": slow.key }));
    items.push(json!({ "agent_token": agents[2].key }));
    let reply = send(&system, &token, &json!(items)).await;
    assert_eq!(statuses(&reply), [200, 200, 200, 503, 503, 200], "{}", reply.text);
    assert_eq!(hangs.hits(), 1, "the last one of the slow agent was not tried");
    assert_eq!(results(&reply)[3]["error"]["retry_after_seconds"], 2);
}

#[tokio::test]
async fn an_outage_is_503_in_each_place_and_of_the_credential_one_503() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let agents = fleet(&system, &token, 2).await;
    system.proxy.inject(When::operation("UpdateItem").mentioning(&agents[0].id), Fault::Throttled);
    let reply = send(&system, &token, &by_key(&agents)).await;
    assert_eq!(statuses(&reply), [503, 200]);
    system.proxy.inject(When::operation("GetItem"), Fault::Throttled);
    assert_eq!(refused(&send(&system, &agents[0].key, &by_key(&agents)).await), 503);
}
