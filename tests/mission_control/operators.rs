//! The operators' plane: who may call it; create, get, change and delete; approve, revoke and restore.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join;
use local::template::{Place, Route, Template};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    AGENTS, BOARD, Client, HEARTBEAT_BY_NAME, NO_AGENT, NOBODY, OTHER_BOARD, OWN_HEARTBEAT, SECOND, TOKENS,
    agent_path, agent_read, enrollment, enrollment_token, invalid, keys, refusal, refused, text, with_key,
};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, TestAgent, TestSystem};

/// What contract B also opens to agents. Every other `/api/v1` route is the operators' alone.
const AGENTS_ROUTES: [(&str, &str); 7] = [
    ("POST", "/api/v1/agent/heartbeat"),
    ("POST", "/api/v1/agents/heartbeat"),
    ("POST", "/api/v1/agents/heartbeats"),
    ("POST", "/api/v1/agents/{agent_id}/heartbeat"),
    ("GET", "/api/v1/agent/healthz"),
    ("GET", "/api/v1/agents/{agent_id}"),
    ("GET", "/api/v1/agents/{agent_id}/workspace"),
];

/// The routes of the shipped template that only operators may call.
fn operators_routes() -> Vec<(Method, String)> {
    let text = include_str!("../../template.yaml");
    let parameters = [("Registration", "open"), ("Approval", "key")];
    let parameters: BTreeMap<String, String> =
        parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let place = Place { table_name: &str::to_owned, api_url: "" };
    let template = Template::read("template.yaml", text, &parameters, place).expect("the shipped template");
    let routes =
        template.functions.into_iter().flat_map(|function| function.routes().cloned().collect::<Vec<_>>());
    let declared: BTreeSet<(String, String)> = routes
        .filter_map(|route| match route {
            Route::Exact { method, path } => Some((method, path)),
            Route::Default => None,
        })
        .collect();
    let coded = functions::ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(declared, coded.collect(), "template and code declare the same routes");
    declared
        .into_iter()
        .filter(|(method, path)| {
            path.starts_with("/api/v1/") && !AGENTS_ROUTES.contains(&(method.as_str(), path.as_str()))
        })
        .map(|(method, path)| (method.parse().expect("a method"), path))
        .collect()
}

#[tokio::test]
async fn every_operators_route_takes_an_operators_bearer_and_nothing_else() {
    let system = TestSystem::start().await;
    let agent = system.verified("target").await;
    let minted = enrollment(&system, &json!({})).await;
    let enrollment = text(&minted, "token");
    let expired = text(&system.mint(&json!({ "kind": "operator", "expires_in_seconds": 1 })).await, "token");
    let deleted = system.mint(&json!({ "kind": "operator" })).await;
    let operator = Client::operator(&system).await;
    operator.delete(&format!("{TOKENS}/{}", text(&deleted, "id"))).await;
    system.advance(SECOND);
    let deleted = text(&deleted, "token");
    let operators = system.operator_token().await;

    let callers = [
        ("no token", Client::anonymous(&system), 401),
        ("an agent's key", Client::bearer(&system, &agent.key), 403),
        ("an agent's key in X-Agent-Token", Client::x_agent_token(&system, &agent.key), 401),
        ("an enrollment token", Client::bearer(&system, &enrollment), 403),
        ("an enrollment token in X-Agent-Token", Client::x_agent_token(&system, &enrollment), 401),
        ("an operator's token in X-Agent-Token", Client::x_agent_token(&system, &operators), 401),
        ("an expired operator's token", Client::bearer(&system, &expired), 401),
        ("a deleted operator's token", Client::bearer(&system, &deleted), 401),
        ("an unknown operator's token", Client::bearer(&system, &format!("rco_{NOBODY}")), 401),
        ("nonsense", Client::bearer(&system, "nonsense"), 401),
        ("another scheme", Client::anonymous(&system).with("authorization", "Basic YTpi"), 401),
    ];
    let routes = operators_routes();
    assert_eq!(routes.len(), 27);
    let before = system.row(&agent).await;
    for (method, path) in &routes {
        let path = path.replace("{agent_id}", &agent.id).replace("{id}", &text(&minted, "id"));
        for (who, client, status) in &callers {
            let reply = client.send(method.clone(), &path, "").await;
            assert_eq!(refused(&reply), *status, "{method} {path} with {who}");
            assert_eq!(reply.header("www-authenticate").is_some(), *status == 401);
        }
    }
    assert_eq!(system.row(&agent).await, before, "nobody changed anything");
    // And an operator is told of what is missing, not of the credential, whatever stands in X-Agent-Token.
    let operator = Client::bearer(&system, &operators).with("x-agent-token", &agent.key);
    for (method, path) in &routes {
        let path = path.replace("{agent_id}", NO_AGENT).replace("{id}", NO_AGENT);
        let status = operator.send(method.clone(), &path, "").await.status;
        assert!([200, 404, 422].contains(&status), "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn malformed_json_is_422_before_the_credential_and_bad_input_after() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let paths = [
        (Method::POST, AGENTS.to_owned()),
        (Method::POST, TOKENS.to_owned()),
        (Method::PATCH, agent_path(NO_AGENT, "")),
        (Method::POST, agent_path(NO_AGENT, "/approve")),
        (Method::POST, agent_path(NO_AGENT, "/rotate-key")),
    ];
    for (method, path) in paths {
        let anonymous = Client::anonymous(&system);
        assert_eq!(invalid(&anonymous.send(method.clone(), &path, "{").await), "body", "{path}");
        assert_eq!(refused(&anonymous.send(method.clone(), &path, "[]").await), 401, "{path}");
        if !path.ends_with("rotate-key") {
            assert_eq!(invalid(&operator.send(method.clone(), &path, "[]").await), "body", "{path}");
        }
    }
}

#[tokio::test]
async fn an_operator_creates_an_active_agent_and_sees_its_key_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let body = json!({ "name": " Ada ", "board_id": BOARD, "heartbeat_config": { "interval_seconds": 15 } });
    let (shown, agent) = with_key(&operator.post(AGENTS, &body).await);
    assert_eq!((text(&shown, "name"), text(&shown, "status")), ("Ada".into(), "provisioning".into()));
    assert_eq!(shown["board_id"], BOARD);
    assert_eq!(shown["heartbeat_config"], json!({ "interval_seconds": 15, "missing_tolerance": 120 }));
    let mut later = operator.show(&agent).await;
    later["agent_token"] = json!(agent.key);
    assert_eq!(later, shown);
    let itself = Client::x_agent_token(&system, &agent.key);
    assert_eq!(agent_read(&itself.touch(OWN_HEARTBEAT).await)["status"], "online");
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
    let (_, namesake) = with_key(&operator.post(AGENTS, &body).await);
    assert_ne!(namesake.id, agent.id, "names of agents with keys of their own may repeat");
}

#[tokio::test]
async fn every_field_of_create_and_patch_has_its_rule() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "target" })).await;
    let before = system.row(&agent).await;
    let config = |interval: Value, tolerance: Value| json!({ "name": "a", "heartbeat_config": { "interval_seconds": interval, "missing_tolerance": tolerance } });
    let (interval, tolerance) =
        ("body.heartbeat_config.interval_seconds", "body.heartbeat_config.missing_tolerance");
    let both = [
        (json!({ "name": "" }), "body.name"),
        (json!({ "name": "  " }), "body.name"),
        (json!({ "name": 7 }), "body.name"),
        (json!({ "name": null }), "body.name"),
        (json!({ "name": "x".repeat(101) }), "body.name"),
        (json!({ "name": "漢".repeat(67) }), "body.name"),
        (json!({ "name": "a\nb" }), "body.name"),
        (json!({ "name": "a", "board_id": "b" }), "body.board_id"),
        (json!({ "name": "a", "board_id": 7 }), "body.board_id"),
        (json!({ "name": "a", "heartbeat_config": 60 }), "body.heartbeat_config"),
        (config(json!(0), Value::Null), interval),
        (config(json!(86_401), Value::Null), interval),
        (config(json!(-1), Value::Null), interval),
        (config(json!(1.5), Value::Null), interval),
        (config(json!("60"), Value::Null), interval),
        (config(json!(60), json!(119)), tolerance),
        (config(json!(60), json!(604_801)), tolerance),
        (config(Value::Null, json!(1)), tolerance),
        (config(Value::Null, json!("120")), tolerance),
    ];
    for (body, loc) in both {
        assert_eq!(invalid(&operator.post(AGENTS, &body).await), loc, "POST {body}");
        assert_eq!(invalid(&operator.patch(&agent_path(&agent.id, ""), &body).await), loc, "PATCH {body}");
    }
    assert_eq!(invalid(&operator.post(AGENTS, &json!({})).await), "body.name");
    assert_eq!(invalid(&operator.touch(AGENTS).await), "body.name");
    for limit in [json!(0), json!(6_001), json!(-1), json!("60"), json!(1.5), json!(4_294_967_356_u64)] {
        let body = json!({ "rate_limit_per_minute": limit });
        let reply = operator.patch(&agent_path(&agent.id, ""), &body).await;
        assert_eq!(invalid(&reply), "body.rate_limit_per_minute", "{body}");
    }
    let status = operator.patch(&agent_path(&agent.id, ""), &json!({ "status": "online", "name": 7 })).await;
    assert_eq!(refusal(&status), (403, "status is controlled by agent heartbeat".into()));
    for (method, action) in
        [(Method::GET, ""), (Method::PATCH, ""), (Method::DELETE, ""), (Method::GET, "/usage")]
    {
        let reply = operator.send(method.clone(), &agent_path("seven", action), "").await;
        assert_eq!(invalid(&reply), "path.agent_id", "{method} {action}");
    }
    assert_eq!(system.row(&agent).await, before);
}

#[tokio::test]
async fn an_agent_is_shown_to_operators_and_to_itself() {
    let system = TestSystem::start().await;
    let (agent, other) = (system.verified("one").await, system.verified("other").await);
    let operator = Client::operator(&system).await;
    let itself = Client::bearer(&system, &agent.key);
    let path = agent_path(&agent.id, "");
    assert_eq!(agent_read(&itself.get(&path).await), agent_read(&operator.get(&path).await));
    assert_eq!(refused(&itself.get(&agent_path(&other.id, "")).await), 403);
    assert_eq!(refused(&itself.get(&agent_path(NO_AGENT, "")).await), 404);
    assert_eq!(invalid(&itself.get(&agent_path("x", "")).await), "path.agent_id");
    assert_eq!(refused(&operator.get(&agent_path(NO_AGENT, "")).await), 404);
    let enrollment = Client::bearer(&system, &enrollment_token(&system, &json!({})).await);
    assert_eq!(refused(&enrollment.get(&path).await), 403);
    assert_eq!(refused(&Client::anonymous(&system).get(&path).await), 401);
    assert_eq!(refused(&Client::bearer(&system, NOBODY).get(&path).await), 401);
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "before", "board_id": BOARD })).await;
    let path = agent_path(&agent.id, "");
    let created = operator.show(&agent).await;
    for (patch, field, expected) in [
        (json!({ "name": " after " }), "name", json!("after")),
        (json!({ "board_id": OTHER_BOARD }), "board_id", json!(OTHER_BOARD)),
        (json!({ "board_id": null }), "board_id", Value::Null),
        (
            json!({ "heartbeat_config": { "interval_seconds": 600 } }),
            "heartbeat_config",
            json!({ "interval_seconds": 600, "missing_tolerance": 1200 }),
        ),
    ] {
        system.advance(SECOND);
        let before = operator.show(&agent).await;
        let shown = agent_read(&operator.patch(&path, &patch).await);
        let mut wanted = before;
        wanted[field] = expected;
        wanted["updated_at"] = json!(system.now().to_string());
        assert_eq!(shown, wanted, "{patch}");
        assert_eq!(operator.show(&agent).await, shown, "{patch}");
    }
    assert_eq!(operator.show(&agent).await["created_at"], created["created_at"]);
    agent_read(&operator.patch(&path, &json!({ "rate_limit_per_minute": 7 })).await);
    assert_eq!(system.row(&agent).await["rate_limit"], AttributeValue::N("7".to_owned()));
    agent_read(&operator.patch(&path, &json!({ "rate_limit_per_minute": null })).await);
    assert!(!system.row(&agent).await.contains_key("rate_limit"));
    assert_eq!(refused(&operator.patch(&agent_path(NO_AGENT, ""), &json!({ "name": "x" })).await), 404);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_writes_nothing() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "same", "board_id": BOARD })).await;
    operator.show(&agent).await;
    for patch in [
        json!({}),
        json!({ "name": " same " }),
        json!({ "board_id": BOARD }),
        json!({ "heartbeat_config": null }),
        json!({ "heartbeat_config": { "interval_seconds": 60, "missing_tolerance": 120 } }),
        json!({ "rate_limit_per_minute": null }),
        json!({ "something": "else" }),
    ] {
        system.proxy.take();
        agent_read(&operator.patch(&agent_path(&agent.id, ""), &patch).await);
        assert_eq!(system.proxy.take().operations(), ["GetItem", "GetItem"], "{patch}: the token, the agent");
    }
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
}

#[track_caller]
fn millis(row: &BTreeMap<String, AttributeValue>, name: &str) -> i64 {
    row[name].as_n().expect("a number").parse().expect("milliseconds")
}

#[tokio::test]
async fn a_new_tolerance_moves_the_lease_of_the_latest_heartbeat() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "leased" })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    let path = agent_path(&agent.id, "");
    let tolerance = |seconds: u64| json!({ "heartbeat_config": { "missing_tolerance": seconds } });
    for seconds in [600, 130] {
        agent_read(&operator.patch(&path, &tolerance(seconds)).await);
        let row = system.row(&agent).await;
        let lease = millis(&row, "last_seen_at") + i64::try_from(seconds).unwrap() * 1_000;
        assert_eq!(millis(&row, "lease_expires_at"), lease);
    }
    system.advance(Duration::from_secs(131));
    assert_eq!(operator.show(&agent).await["status"], "offline");
    assert_eq!(agent_read(&operator.patch(&path, &tolerance(600)).await)["status"], "online");

    // A heartbeat between the patch's read and its write.
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(1));
    let heartbeat_between = async {
        gate.held(1).await;
        system.advance(Duration::from_secs(10));
        agent_read(&client.touch(OWN_HEARTBEAT).await);
        gate.let_through(1);
    };
    let wanted = tolerance(150);
    let (patched, ()) = join(operator.patch(&path, &wanted), heartbeat_between).await;
    agent_read(&patched);
    let row = system.row(&agent).await;
    assert_eq!(millis(&row, "last_seen_at"), system.now().as_millis());
    assert_eq!(millis(&row, "lease_expires_at"), system.now().as_millis() + 150_000);
}

/// ⚠ An agent hears of its new interval with the next heartbeat, which comes by the one that it knows: whoever had set an
/// agent of a minute to a second was told of its death.
#[tokio::test]
async fn a_shorter_interval_kills_nobody_who_could_not_hear_of_it() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let config = |interval: u64, tolerance: u64| json!({ "heartbeat_config": { "interval_seconds": interval, "missing_tolerance": tolerance } });
    let (hears, dead) = (system.verified("hears").await, system.verified("dead").await);
    for agent in [&hears, &dead] {
        system.heartbeat(agent, "healthy").await.data();
        agent_read(&operator.patch(&agent_path(&agent.id, ""), &config(1, 3)).await);
    }
    system.advance(5 * SECOND);
    system.post_event(&dead, "an event's answer says nothing of the interval").await.data();
    system.advance(55 * SECOND);
    assert_eq!(operator.show(&hears).await["status"], "healthy");
    let data = system.heartbeat(&hears, "healthy").await.data();
    assert_eq!(data["intervalSeconds"], 1);
    assert_eq!(data["leaseExpiresAt"], system.now().plus(3 * SECOND).to_string());
    system.advance(13 * SECOND);
    system.heartbeat(&hears, "healthy").await.data();
    assert_eq!(system.sweep().await["announced"], 0, "63 s, and 10 s that a heartbeat may be on its way");
    system.advance(SECOND);
    assert_eq!(operator.show(&dead).await["status"], "offline");
    assert_eq!(system.sweep().await["announced"], 1);

    // It hears of several changes at once; and what is taken back leaves no more time than a tolerance.
    let seconds = Duration::from_secs;
    for (known, changes, lease) in [
        ("1h", &[(1, 3), (15, 60), (1, 30)][..], 3_630),
        ("1m", &[(86_400, 172_800), (60, 120)], 180),
        ("1m", &[(60, 600), (60, 150)], 150),
    ] {
        let agent = operator.create(&json!({ "name": "a", "heartbeat_config": { "every": known } })).await;
        system.heartbeat(&agent, "healthy").await.data();
        for (interval, tolerance) in changes {
            agent_read(&operator.patch(&agent_path(&agent.id, ""), &config(*interval, *tolerance)).await);
        }
        let shown = operator.get(&agent_path(&agent.id, "?detail=true")).await.json();
        let expected = system.now().plus(seconds(lease)).to_string();
        assert_eq!(shown["detail"]["lease_expires_at"], expected, "{known}: {changes:?}");
    }
}

/// The agent's first heartbeat comes between the read and the write of a patch that found no lease to move.
#[tokio::test]
async fn a_new_tolerance_also_moves_a_lease_that_began_meanwhile() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "first heartbeat" })).await;
    system.advance(SECOND);
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(1));
    let heartbeat_between = async {
        gate.held(1).await;
        agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
        gate.let_through(1);
    };
    let (path, wanted) =
        (agent_path(&agent.id, ""), json!({ "heartbeat_config": { "missing_tolerance": 600 } }));
    let (patched, ()) = join(operator.patch(&path, &wanted), heartbeat_between).await;
    agent_read(&patched);
    let row = system.row(&agent).await;
    assert_eq!(millis(&row, "lease_expires_at"), millis(&row, "last_seen_at") + 600_000);
    assert_eq!(system.event_types(&agent).await, ["agent.registered", "agent.updated"]);
}

#[tokio::test]
async fn two_patches_at_once_both_happen_and_are_recorded() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "contested" })).await;
    let path = agent_path(&agent.id, "");
    system.advance(SECOND);
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(2));
    let release = async {
        gate.held(2).await;
        gate.let_through(2);
    };
    let (one, two) = (json!({ "name": "one", "rate_limit_per_minute": 7 }), json!({ "name": "two" }));
    let patches = join(operator.patch(&path, &one), operator.patch(&path, &two));
    let ((one, two), ()) = join(patches, release).await;
    agent_read(&one);
    agent_read(&two);
    let rows = system.event_rows(&agent.id).await;
    let payload = |row: &BTreeMap<String, AttributeValue>| {
        serde_json::from_str::<Value>(row["payload"].as_s().expect("a string")).expect("JSON")
    };
    let [_, first, second] = rows.iter().map(payload).collect::<Vec<_>>().try_into().expect("three events");
    assert_eq!(first["before"]["name"], "contested");
    assert_eq!(second["before"]["name"], first["after"]["name"], "the second one knew of the first");
    let row = system.row(&agent).await;
    assert_eq!(row["agent_name"].as_s().ok(), second["after"]["name"].as_str().map(str::to_owned).as_ref());
    assert_eq!(row["rate_limit"], AttributeValue::N("7".to_owned()));
}

#[tokio::test]
async fn a_change_that_always_loses_the_race_is_409_and_changes_nothing() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "contested" })).await;
    let before = system.row(&agent).await;
    let conflict = system.proxy.inject(When::operation("TransactWriteItems"), Fault::TransactionConflict);
    assert_eq!(refused(&operator.patch(&agent_path(&agent.id, ""), &json!({ "name": "x" })).await), 409);
    assert_eq!(refused(&operator.touch(&agent_path(&agent.id, "/revoke")).await), 409);
    assert_eq!(conflict.hits(), 8, "each tries four times");
    assert_eq!(system.row(&agent).await, before);
    system.proxy.clear_rules();
    let one = system.proxy.inject(When::operation("TransactWriteItems").times(2), Fault::TransactionConflict);
    agent_read(&operator.touch(&agent_path(&agent.id, "/revoke")).await);
    assert_eq!(one.hits(), 2);
}

#[tokio::test]
async fn what_operators_change_takes_effect_with_the_next_request() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 3).start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "one" })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&operator.touch(&agent_path(&agent.id, "/revoke")).await);
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 403);
    agent_read(&operator.touch(&agent_path(&agent.id, "/restore")).await);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    // A raised limit may wait for the end of a window in which it was met.
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 429);
    let limit = |limit: u32| json!({ "rate_limit_per_minute": limit });
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &limit(4)).await);
    system.advance(30 * SECOND);
    for _ in 0..4 {
        agent_read(&client.touch(OWN_HEARTBEAT).await);
    }
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 429);
    // A lowered one, and one that is raised before it is met, count at once.
    system.advance(60 * SECOND);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &limit(1)).await);
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 429);
    system.advance(60 * SECOND);
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &limit(2)).await);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &limit(3)).await);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 429);
}

#[tokio::test]
async fn an_approval_right_after_a_refused_heartbeat_is_not_missed() {
    let system = TestSystem::start().await;
    let (agent, operator) = (system.registered("eager").await, Client::operator(&system).await);
    let client = Client::x_agent_token(&system, &agent.key);
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 403);
    assert_eq!(refused(&client.touch(HEARTBEAT_BY_NAME).await), 403);
    let shown = agent_read(&operator.touch(&agent_path(&agent.id, "/approve")).await);
    assert_eq!(shown["status"], "provisioning");
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    agent_read(&client.touch(HEARTBEAT_BY_NAME).await);
    assert!(!system.row(&agent).await.contains_key("expires_at"));
}

async fn state(system: &TestSystem, agent: &TestAgent) -> String {
    system.row(agent).await["agent_state"].as_s().expect("a string").clone()
}

#[tokio::test]
async fn transitions_go_from_pending_to_active_to_revoked_and_back_to_where_revoke_came_from() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = system.registered("subject").await;
    let to = async |action: &str| {
        system.advance(SECOND);
        operator.touch(&agent_path(&agent.id, action)).await
    };
    // (what is done, the status of the answer, the state afterwards, the events by then)
    for (action, status, after, events) in [
        ("/restore", 200, "pending", 1),
        ("/revoke", 200, "revoked", 2),
        ("/revoke", 200, "revoked", 2),
        ("/approve", 409, "revoked", 2),
        ("/restore", 200, "pending", 3),
        ("/approve", 200, "active", 4),
        ("/approve", 200, "active", 4),
        ("/restore", 200, "active", 4),
        ("/revoke", 200, "revoked", 5),
        ("/approve", 409, "revoked", 5),
        ("/restore", 200, "active", 6),
    ] {
        let reply = to(action).await;
        assert_eq!(reply.status, status, "{action}: {}", reply.text);
        if status == 200 {
            agent_read(&reply);
        } else {
            refused(&reply);
        }
        assert_eq!(state(&system, &agent).await, after, "{action}");
        assert_eq!(system.event_types(&agent).await.len(), events, "{action}");
        assert_eq!(system.row(&agent).await.contains_key("revoked_from"), after == "revoked", "{action}");
    }
    for action in ["/approve", "/revoke", "/restore"] {
        assert_eq!(refused(&operator.touch(&agent_path(NO_AGENT, action)).await), 404);
        assert_eq!(invalid(&operator.touch(&agent_path("x", action)).await), "path.agent_id");
        let path = agent_path(&agent.id, action);
        for reason in [json!(7), json!("x".repeat(501)), json!(["because"])] {
            assert_eq!(invalid(&operator.post(&path, &json!({ "reason": reason })).await), "body.reason");
        }
    }
}

/// ⚠ Counted from its last heartbeat, which was before it was shut out, it would be silent at once.
#[tokio::test]
async fn a_new_tolerance_leaves_a_restored_agent_its_time_for_the_next_heartbeat() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    let operator = Client::operator(&system).await;
    operator.touch(&agent_path(&agent.id, "/revoke")).await;
    system.advance(Duration::from_hours(1));
    for (tolerance, seconds) in [(180, 300), (600, 600), (120, 300)] {
        operator.touch(&agent_path(&agent.id, "/revoke")).await;
        agent_read(&operator.touch(&agent_path(&agent.id, "/restore")).await);
        let change = json!({ "heartbeat_config": { "missing_tolerance": tolerance } });
        agent_read(&operator.patch(&agent_path(&agent.id, ""), &change).await);
        let end = system.now().plus(Duration::from_secs(seconds)).as_millis();
        assert_eq!(millis(&system.row(&agent).await, "lease_expires_at"), end, "{tolerance}");
        assert_eq!(system.sweep().await["announced"], 0);
        system.advance(SECOND);
    }
    system.heartbeat(&agent, "healthy").await.data();
    let change = json!({ "heartbeat_config": { "missing_tolerance": 240 } });
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &change).await);
    let end = system.now().plus(Duration::from_mins(4)).as_millis();
    assert_eq!(millis(&system.row(&agent).await, "lease_expires_at"), end, "heard, it has its tolerance");
}

#[tokio::test]
async fn a_restored_agent_has_its_tolerance_or_five_minutes_for_its_next_heartbeat() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (tolerance, lease) in [(120, 300), (1_200, 1_200)] {
        let config = json!({ "name": "back", "heartbeat_config": { "missing_tolerance": tolerance } });
        let agent = operator.create(&config).await;
        let client = Client::x_agent_token(&system, &agent.key);
        agent_read(&client.post(OWN_HEARTBEAT, &json!({ "status": "offline" })).await);
        agent_read(&operator.touch(&agent_path(&agent.id, "/revoke")).await);
        system.advance(Duration::from_hours(24));
        let shown = agent_read(&operator.touch(&agent_path(&agent.id, "/restore")).await);
        assert_eq!(shown["status"], "offline", "a restore is no heartbeat");
        assert_eq!(operator.show(&agent).await, shown);
        let row = system.row(&agent).await;
        assert!(!row.contains_key("offline_since"));
        assert_eq!(millis(&row, "lease_expires_at"), system.now().as_millis() + lease * 1_000);
        system.advance(Duration::from_secs(u64::try_from(lease).expect("seconds") + 10));
        system.sweep().await;
        assert!(!system.row(&agent).await.contains_key("offline_since"), "not announced too soon");
        system.advance(SECOND);
        system.sweep().await;
        assert!(system.row(&agent).await.contains_key("offline_since"));
    }
}

#[tokio::test]
async fn an_operators_token_counts_only_as_bearer() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    let misplaced = Client::x_agent_token(&system, &system.operator_token().await);
    assert_eq!(refused(&misplaced.get(&agent_path(&agent.id, "")).await), 403);
    assert_eq!(refused(&misplaced.touch(&agent_path(&agent.id, "/heartbeat")).await), 403);
    assert_eq!(refused(&misplaced.heartbeat_as("b").await), 403);
    assert_eq!(refused(&misplaced.get(AGENTS).await), 401);
}

#[tokio::test]
async fn deleting_is_final_for_the_key_and_repeatable() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "gone" })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    system.advance(SECOND);
    let done = |reply: &Reply| assert_eq!((reply.status, reply.json()), (200, json!({ "ok": true })));
    done(&operator.delete(&agent_path(&agent.id, "")).await);
    assert_eq!(refused(&client.touch(OWN_HEARTBEAT).await), 401);
    assert_eq!(refused(&operator.get(&agent_path(&agent.id, "")).await), 404);
    assert_eq!(operator.fleet_size().await, 0);
    done(&operator.delete(&agent_path(&agent.id, "")).await);
    done(&operator.delete(&agent_path(NO_AGENT, "")).await);
    assert_eq!(system.event_types(&agent).await, ["agent.registered", "agent.deleted"]);
    assert!(system.event_rows(NO_AGENT).await.is_empty());
}

#[tokio::test]
async fn a_heartbeat_neither_stops_a_deletion_nor_survives_it() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "contested" })).await;
    let (client, path) = (Client::x_agent_token(&system, &agent.key), agent_path(&agent.id, ""));
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    // The heartbeat comes between the deletion's read and its write.
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(1));
    let heartbeat_between = async {
        gate.held(1).await;
        system.advance(SECOND);
        agent_read(&client.touch(OWN_HEARTBEAT).await);
        gate.let_through(1);
    };
    let (deleted, ()) = join(operator.delete(&path), heartbeat_between).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    assert!(system.row(&agent).await.is_empty());
    // The deletion comes while a heartbeat is on its way.
    let agent = operator.create(&json!({ "name": "second" })).await;
    let (client, path) = (Client::x_agent_token(&system, &agent.key), agent_path(&agent.id, ""));
    let gate = system.proxy.hold(When::operation("UpdateItem").mentioning(&agent.id).times(1));
    let delete_between = async {
        gate.held(1).await;
        assert_eq!(operator.delete(&path).await.status, 200);
        gate.let_through(1);
    };
    let (heard, ()) = join(client.touch(OWN_HEARTBEAT), delete_between).await;
    assert_eq!(refused(&heard), 401);
    assert!(system.row(&agent).await.is_empty(), "no heartbeat brings a row back");
}

#[tokio::test]
async fn an_operators_request_costs_one_read_of_the_token_and_a_write_an_hour() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = system.verified("shown").await;
    system.proxy.take();
    operator.show(&agent).await;
    assert_eq!(system.proxy.take().operations(), ["GetItem", "UpdateItem", "GetItem"]);
    operator.show(&agent).await;
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["GetItem", "GetItem"]);
    assert_eq!((tally.read_units(), tally.write_units()), (2.0, 0.0));
    let heartbeat = agent_path(&agent.id, "/heartbeat");
    agent_read(&operator.touch(&heartbeat).await);
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["GetItem", "UpdateItem"]);
    assert_eq!((tally.read_units(), tally.write_units()), (1.0, 1.0));
    assert_eq!(keys(&system.get("/health").await.json()), BTreeSet::from(["ok"]));
}

// ---- Mission Control's own forms -------------------------------------------------------------------------

#[tokio::test]
async fn mission_controls_own_heartbeat_config_is_read_and_never_resets_one() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let config = |interval: u64, tolerance: u64| json!({ "interval_seconds": interval, "missing_tolerance": tolerance });
    let own = json!({ "every": "10m", "target": "last", "includeReasoning": false });
    for (sent, expected) in [
        (own.clone(), config(600, 1200)),
        (json!({ "every": "30s" }), config(30, 120)),
        (json!({ "every": "1h" }), config(3600, 7200)),
        (json!({ "every": "10m", "interval_seconds": 15 }), config(15, 120)),
        (json!({ "target": "last" }), config(60, 120)),
    ] {
        let reply = operator.post("/api/v1/agents", &json!({ "name": "a", "heartbeat_config": sent })).await;
        assert_eq!(reply.json()["heartbeat_config"], expected, "{sent}");
    }
    let agent =
        operator.create(&json!({ "name": "b", "heartbeat_config": { "interval_seconds": 600 } })).await;
    for sent in [json!({}), json!({ "target": "last", "includeReasoning": false }), own] {
        let reply = operator.patch(&agent_path(&agent.id, ""), &json!({ "heartbeat_config": sent })).await;
        assert_eq!(reply.json()["heartbeat_config"], config(600, 1200), "{sent}");
    }
    for every in ["10 minutes", "m", "", "-1s", "1.5h", "99999999999999999999h", "0s", "25h"] {
        let body = json!({ "name": "c", "heartbeat_config": { "every": every } });
        let reply = operator.post("/api/v1/agents", &body).await;
        assert_eq!(reply.status, 422, "{every}");
        assert_eq!(reply.json()["detail"][0]["loc"], json!(["body", "heartbeat_config", "every"]), "{every}");
    }
}

#[tokio::test]
async fn a_revoked_agent_is_offline_at_once_and_a_pending_one_is_provisioning() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    operator.post(&agent_path(&agent.id, "/revoke"), &json!({})).await;
    assert_eq!(operator.show(&agent).await["status"], "offline");
    let pending = system.registered("b").await;
    assert_eq!(operator.show(&pending).await["status"], "provisioning");
}

#[tokio::test]
async fn this_deployment_is_the_gateway_of_all_its_agents() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    let gateway_id = operator.show(&agent).await["gateway_id"].as_str().expect("a UUID").to_owned();
    let list = operator.get(&format!("/api/v1/agents?gateway_id={gateway_id}")).await;
    assert_eq!(list.json()["items"][0]["gateway_id"], gateway_id.as_str());
    let other = "11111111-1111-4111-8111-111111111111";
    assert_eq!(operator.get(&format!("/api/v1/agents?gateway_id={other}")).await.status, 404);
    assert_eq!(operator.get("/api/v1/agents?gateway_id=x").await.status, 422);
}
