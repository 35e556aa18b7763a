//! `POST /api/v1/agent/heartbeat` and `/api/v1/agents/{agent_id}/heartbeat`; `GET /api/v1/agent/healthz`.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    AGENTS, BOARD, Client, HEARTBEAT_BY_NAME, MILLI, NO_AGENT, NOBODY, OWN_HEARTBEAT, SECOND, agent_path,
    agent_read, enrollment_token, invalid, just_before, keys, refused, text,
};
use crate::support::{TestAgent, TestSystem};

const OWN_HEALTH: &str = "/api/v1/agent/healthz";

fn by_path(agent: &TestAgent) -> String {
    agent_path(&agent.id, "/heartbeat")
}

#[tokio::test]
async fn each_curl_form_answers_200_with_15_keys() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "curl", "board_id": BOARD })).await;
    let (token, bearer) = (Client::x_agent_token(&system, &agent.key), Client::bearer(&system, &agent.key));
    let named = json!({ "name": "curl", "board_id": BOARD, "status": "online" }).to_string();
    for (form, client, path, body) in [
        ("X-Agent-Token without a body", &token, OWN_HEARTBEAT, ""),
        ("Bearer", &bearer, OWN_HEARTBEAT, ""),
        ("a name, a board and a status", &token, HEARTBEAT_BY_NAME, named.as_str()),
        ("the same as Bearer", &bearer, HEARTBEAT_BY_NAME, named.as_str()),
        ("an empty object", &token, OWN_HEARTBEAT, "{}"),
        ("an empty object, by name", &token, HEARTBEAT_BY_NAME, "{}"),
        ("no body, by name", &token, HEARTBEAT_BY_NAME, ""),
        ("garbage", &token, OWN_HEARTBEAT, "}{ not json \u{1F980}"),
        ("garbage with a status in it", &token, OWN_HEARTBEAT, r#"{"status": "no such"#),
        ("null", &token, OWN_HEARTBEAT, "null"),
        ("a list", &token, OWN_HEARTBEAT, "[1]"),
        ("a status that is no string", &token, OWN_HEARTBEAT, r#"{"status": 7}"#),
    ] {
        system.advance(SECOND);
        let shown = agent_read(&client.send(Method::POST, path, body).await);
        assert_eq!(shown["status"], "online", "{form}");
        assert_eq!(shown["last_seen_at"], system.now().to_string(), "{form}");
        assert_eq!((text(&shown, "name"), text(&shown, "board_id")), ("curl".into(), BOARD.into()), "{form}");
    }
}

#[tokio::test]
async fn what_is_not_known_of_an_agent_is_null() {
    let system = TestSystem::start().await;
    let agent = system.verified("plain").await;
    let shown = agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
    let now = system.now().to_string();
    let gateway_id = text(&shown, "gateway_id");
    assert!(uuid::Uuid::parse_str(&gateway_id).is_ok(), "Mission Control's own schema wants a UUID: {shown}");
    assert_eq!(
        shown,
        json!({
            "board_id": null, "name": "plain", "status": "online",
            "heartbeat_config": { "interval_seconds": 60, "missing_tolerance": 120 },
            "identity_profile": null, "identity_template": null, "soul_template": null,
            "id": agent.id, "gateway_id": gateway_id, "is_board_lead": false, "is_gateway_main": false,
            "openclaw_session_id": null, "last_seen_at": now, "created_at": now, "updated_at": now,
        })
    );
}

/// The steady heartbeat is 1 request and 1 write.
#[tokio::test]
async fn a_steady_heartbeat_is_one_request_and_one_write_unit() {
    let system = TestSystem::start().await;
    let agent = system.verified("steady").await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    for path in [OWN_HEARTBEAT, HEARTBEAT_BY_NAME, &by_path(&agent)] {
        for seconds in [0, 60, 90, 3_600] {
            system.advance(Duration::from_secs(seconds));
            system.proxy.take();
            agent_read(&client.touch(path).await);
            let tally = system.proxy.take();
            assert_eq!(tally.operations(), ["UpdateItem"], "{path} after {seconds} s");
            assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0), "{path} after {seconds} s");
        }
    }
}

#[tokio::test]
async fn a_key_sends_heartbeats_by_path_for_its_own_agent_alone() {
    let system = TestSystem::start().await;
    let (agent, other) = (system.verified("one").await, system.verified("other").await);
    let client = Client::x_agent_token(&system, &agent.key);
    assert_eq!(agent_read(&client.touch(&by_path(&agent)).await)["id"], agent.id);
    assert_eq!(refused(&client.touch(&by_path(&other)).await), 403);
    assert_eq!(refused(&client.touch(&agent_path(NO_AGENT, "/heartbeat")).await), 404);
    assert_eq!(invalid(&client.touch(&agent_path("7", "/heartbeat")).await), "path.agent_id");
    assert!(
        !system.row(&other).await.contains_key("last_seen_at"),
        "nobody sent a heartbeat for the other agent"
    );
}

#[tokio::test]
async fn an_operator_sends_heartbeats_by_path_for_any_agent() {
    let system = TestSystem::start().await;
    let agent = system.verified("one").await;
    let operator = Client::operator(&system).await;
    let shown = agent_read(&operator.post(&by_path(&agent), &json!({ "status": "degraded" })).await);
    assert_eq!((text(&shown, "id"), text(&shown, "status")), (agent.id.clone(), "degraded".into()));
    assert_eq!(refused(&operator.touch(&agent_path(NO_AGENT, "/heartbeat")).await), 404);
    assert_eq!(invalid(&operator.touch(&agent_path("x", "/heartbeat")).await), "path.agent_id");
    assert_eq!(refused(&operator.touch(OWN_HEARTBEAT).await), 403, "an operator has no agent of its own");
    let stranger = Client::bearer(&system, &format!("rco_{NOBODY}"));
    assert_eq!(refused(&stranger.touch(&by_path(&agent)).await), 401);
    let enrollment = Client::x_agent_token(&system, &enrollment_token(&system, &json!({})).await);
    for path in [OWN_HEARTBEAT, &by_path(&agent)] {
        assert_eq!(refused(&enrollment.touch(path).await), 403, "{path}");
    }
}

#[tokio::test]
async fn a_bad_body_is_judged_after_the_credential_and_not_counted() {
    let system = TestSystem::start().await;
    let agent = system.verified("one").await;
    let (good, bad) = (Client::x_agent_token(&system, &agent.key), Client::x_agent_token(&system, NOBODY));
    let before = system.row(&agent).await;
    for (path, body, loc) in [
        (OWN_HEARTBEAT, r#"{"status": "asleep"}"#, "body.status"),
        (OWN_HEARTBEAT, r#"{"status": ""}"#, "body.status"),
        (&by_path(&agent), r#"{"status": "asleep"}"#, "body.status"),
        (&by_path(&agent), r#"{"status": 7}"#, "body.status"),
        (&by_path(&agent), "null", "body"),
        (&by_path(&agent), "[]", "body"),
        (&by_path(&agent), "7", "body"),
        (HEARTBEAT_BY_NAME, r#"{"status": "asleep"}"#, "body.status"),
        (HEARTBEAT_BY_NAME, r#"{"name": ""}"#, "body.name"),
        (HEARTBEAT_BY_NAME, r#"{"name": 7}"#, "body.name"),
        (HEARTBEAT_BY_NAME, r#"{"board_id": "7"}"#, "body.board_id"),
        (HEARTBEAT_BY_NAME, "null", "body"),
        (HEARTBEAT_BY_NAME, "[]", "body"),
    ] {
        assert_eq!(refused(&bad.send(Method::POST, path, body).await), 401, "{path} {body}");
        system.proxy.take();
        let reply = good.send(Method::POST, path, body).await;
        assert_eq!(invalid(&reply), loc, "{path} {body}");
        assert_eq!(system.proxy.take().operations(), ["GetItem"], "{path} {body}");
        assert_eq!(reply.header("ratelimit"), None, "{path} {body}");
    }
    assert_eq!(system.row(&agent).await, before);
}

#[tokio::test]
async fn malformed_json_is_422_even_without_a_credential() {
    let system = TestSystem::start().await;
    for path in [HEARTBEAT_BY_NAME, &agent_path(NO_AGENT, "/heartbeat")] {
        let reply = Client::anonymous(&system).send(Method::POST, path, "{").await;
        assert_eq!(invalid(&reply), "body", "{path}");
    }
    assert_eq!(refused(&Client::anonymous(&system).send(Method::POST, OWN_HEARTBEAT, "{").await), 401);
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn no_or_a_malformed_credential_is_401_without_a_database_call() {
    let system = TestSystem::start().await;
    for path in [OWN_HEARTBEAT, HEARTBEAT_BY_NAME, &agent_path(NO_AGENT, "/heartbeat")] {
        for client in [
            Client::anonymous(&system),
            Client::x_agent_token(&system, "nonsense"),
            Client::x_agent_token(&system, &NOBODY[1..]),
            Client::bearer(&system, "nonsense"),
            Client::anonymous(&system).with("authorization", "Basic YTpi"),
        ] {
            let reply = client.touch(path).await;
            assert_eq!(refused(&reply), 401, "{path}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn x_agent_token_wins_over_authorization_unless_it_is_empty() {
    let system = TestSystem::start().await;
    let (one, two) = (system.verified("one").await, system.verified("two").await);
    let both = |token: &str, bearer: &str| Client::bearer(&system, bearer).with("x-agent-token", token);
    assert_eq!(agent_read(&both(&one.key, &two.key).touch(OWN_HEARTBEAT).await)["id"], one.id);
    assert_eq!(agent_read(&both("", &two.key).touch(OWN_HEARTBEAT).await)["id"], two.id);
    assert_eq!(agent_read(&both("  ", &two.key).touch(OWN_HEARTBEAT).await)["id"], two.id);
    assert_eq!(refused(&both(NOBODY, &two.key).touch(OWN_HEARTBEAT).await), 401);
    assert_eq!(refused(&both("nonsense", &two.key).touch(OWN_HEARTBEAT).await), 401);
}

#[tokio::test]
async fn the_request_id_is_echoed_or_made() {
    let system = TestSystem::start().await;
    let with = |id: &str| Client::anonymous(&system).with("x-request-id", id);
    let echoed = with("  a-b_c:1  ").touch(OWN_HEARTBEAT).await;
    assert_eq!(refused(&echoed), 401);
    assert_eq!(echoed.json()["request_id"], "a-b_c:1");
    for insane in ["two words", &"x".repeat(129)] {
        let made = with(insane).touch(OWN_HEARTBEAT).await;
        assert_ne!(made.json()["request_id"], insane);
        assert_eq!(refused(&made), 401);
    }
}

#[tokio::test]
async fn pending_and_revoked_agents_are_403_and_unknown_keys_401() {
    let system = TestSystem::start().await;
    let (pending, agent) = (system.registered("pending").await, system.verified("revoked").await);
    Client::operator(&system).await.touch(&agent_path(&agent.id, "/revoke")).await;
    for (agent, why) in [(&pending, "pending"), (&agent, "revoked")] {
        let client = Client::x_agent_token(&system, &agent.key);
        for path in [OWN_HEARTBEAT, HEARTBEAT_BY_NAME, &by_path(agent)] {
            let (status, detail) = super::client::refusal(&client.touch(path).await);
            assert_eq!(status, 403, "{path}");
            assert!(detail.contains(why), "{detail}");
        }
        assert_eq!(refused(&client.get(OWN_HEALTH).await), 403);
        assert!(!system.row(agent).await.contains_key("last_seen_at"));
    }
    assert_eq!(refused(&Client::x_agent_token(&system, NOBODY).touch(OWN_HEARTBEAT).await), 401);
}

/// Contract: a reported health stays until the agent says something else, or comes back from an absence.
#[tokio::test]
async fn the_status_is_what_the_agent_last_said() {
    let system = TestSystem::start().await;
    let agent = system.verified("moody").await;
    let client = Client::x_agent_token(&system, &agent.key);
    for (says, status) in [
        (json!({}), "online"),
        (json!({ "status": "degraded" }), "degraded"),
        (json!({}), "degraded"),
        (json!({ "status": null }), "degraded"),
        (json!({ "status": "error" }), "error"),
        (json!({ "status": "online" }), "online"),
        (json!({}), "online"),
        (json!({ "status": "healthy" }), "healthy"),
        (json!({ "status": "offline" }), "offline"),
        (json!({ "status": "offline" }), "offline"),
        (json!({}), "online"),
        (json!({ "status": "offline" }), "offline"),
        (json!({ "status": "degraded" }), "degraded"),
        (json!({ "status": "offline" }), "offline"),
        (json!({ "status": "online" }), "online"),
    ] {
        system.advance(SECOND);
        assert_eq!(agent_read(&client.post(OWN_HEARTBEAT, &says).await)["status"], status, "after {says}");
        assert_eq!(client.get(OWN_HEALTH).await.json()["status"], status, "after {says}");
    }
    let types = system.event_types(&agent).await;
    assert_eq!(
        types[2..],
        ["agent.offline", "agent.online", "agent.offline", "agent.online", "agent.offline", "agent.online"]
    );
}

#[tokio::test]
async fn reads_and_events_do_not_erase_a_reported_health() {
    let system = TestSystem::start().await;
    let agent = system.verified("degraded").await;
    let (client, operator) = (Client::x_agent_token(&system, &agent.key), Client::operator(&system).await);
    agent_read(&client.post(OWN_HEARTBEAT, &json!({ "status": "degraded" })).await);
    client.post("/api/agents/events", &json!({ "event": "tool_call" })).await.data();
    client.get(OWN_HEALTH).await;
    client.get(&agent_path(&agent.id, "/workspace")).await;
    operator.patch(&agent_path(&agent.id, ""), &json!({ "name": "still degraded" })).await;
    assert_eq!(operator.show(&agent).await["status"], "degraded");
}

#[tokio::test]
async fn healthz_shows_six_fields_and_renews_nothing() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "one", "board_id": BOARD })).await;
    let client = Client::bearer(&system, &agent.key);
    let before = system.row(&agent).await;
    let reply = client.get(OWN_HEALTH).await;
    let gateway_id = text(&operator.show(&agent).await, "gateway_id");
    assert_eq!(
        (reply.status, reply.json()),
        (
            200,
            json!({
                "ok": true, "agent_id": agent.id, "board_id": BOARD, "gateway_id": gateway_id,
                "status": "provisioning", "is_board_lead": false,
            })
        )
    );
    assert_eq!(system.row(&agent).await, before);
    assert_eq!(refused(&operator.get(OWN_HEALTH).await), 403);
    assert_eq!(refused(&Client::anonymous(&system).get(OWN_HEALTH).await), 401);
    assert_eq!(refused(&Client::bearer(&system, NOBODY).get(OWN_HEALTH).await), 401);
}

/// What every read says of an agent's status.
async fn in_every_read(system: &TestSystem, operator: &Client<'_>, agent: &TestAgent) -> BTreeSet<String> {
    let itself = Client::x_agent_token(system, &agent.key);
    let mut statuses = BTreeSet::from([
        text(&operator.show(agent).await, "status"),
        text(&itself.show(agent).await, "status"),
        text(&itself.get(OWN_HEALTH).await.json(), "status"),
    ]);
    for query in ["?limit=200", "?cursor="] {
        let list = operator.get(&format!("{AGENTS}{query}")).await.json();
        let items = list["items"].as_array().expect("a list");
        let listed = items.iter().find(|item| item["id"] == agent.id.as_str()).expect("the agent");
        statuses.insert(text(listed, "status"));
    }
    for status in ["online", "offline"] {
        for query in ["", "&cursor="] {
            let list = operator.get(&format!("{AGENTS}?status={status}{query}")).await.json();
            let items = list["items"].as_array().expect("a list").clone();
            if items.iter().any(|item| item["id"] == agent.id.as_str()) {
                statuses.insert(status.to_owned());
            }
        }
    }
    statuses
}

#[tokio::test]
async fn the_agents_own_tolerance_decides_when_it_is_offline_and_announced() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let config = |interval: u64, tolerance: u64| {
        json!({
            "name": format!("every {interval}"),
            "heartbeat_config": { "interval_seconds": interval, "missing_tolerance": tolerance },
        })
    };
    let (short, long) = (operator.create(&config(15, 30)).await, operator.create(&config(60, 600)).await);
    for agent in [&short, &long] {
        let shown = agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
        assert_eq!(shown["status"], "online");
    }
    let says = |status: &str| BTreeSet::from([status.to_owned()]);
    let announced = async |agent: &TestAgent| {
        let types = system.event_types(agent).await;
        types.iter().filter(|kind| *kind == "agent.offline").count()
    };

    system.advance(Duration::from_secs(30));
    assert_eq!(in_every_read(&system, &operator, &short).await, says("online"), "at 30 s");
    system.advance(MILLI);
    assert_eq!(in_every_read(&system, &operator, &short).await, says("offline"), "after 30 s");
    assert_eq!(in_every_read(&system, &operator, &long).await, says("online"));

    system.advance(just_before(Duration::from_secs(10)));
    system.sweep().await;
    assert_eq!(announced(&short).await, 0, "at 40 s");
    system.advance(MILLI);
    system.sweep().await;
    assert_eq!((announced(&short).await, announced(&long).await), (1, 0), "after 40 s");
    system.advance(Duration::from_mins(5));
    system.sweep().await;
    assert_eq!((announced(&short).await, announced(&long).await), (1, 0), "announced once");
    assert_eq!(in_every_read(&system, &operator, &long).await, says("online"));
}

#[tokio::test]
async fn an_agent_that_comes_back_is_announced_online_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("back").await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.post(OWN_HEARTBEAT, &json!({ "status": "degraded" })).await);
    system.advance(Duration::from_mins(10));
    system.sweep().await;
    system.advance(SECOND);
    let shown = agent_read(&client.touch(OWN_HEARTBEAT).await);
    assert_eq!(shown["status"], "online", "what it said before its absence is over");
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    let types = system.event_types(&agent).await;
    assert_eq!(types[2..], ["agent.offline", "agent.online"]);
}

#[tokio::test]
async fn over_the_limit_is_429_with_retry_after() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let agent = system.verified("eager").await;
    let client = Client::x_agent_token(&system, &agent.key);
    for left in ["1", "0"] {
        let reply = client.touch(OWN_HEARTBEAT).await;
        agent_read(&reply);
        assert_eq!(reply.header("ratelimit"), Some(format!("\"heartbeats\";r={left};t=30").as_str()));
        assert_eq!(reply.header("ratelimit-policy"), Some("\"heartbeats\";q=2;w=60"));
    }
    for path in [OWN_HEARTBEAT, HEARTBEAT_BY_NAME, &by_path(&agent)] {
        let reply = client.touch(path).await;
        assert_eq!(refused(&reply), 429, "{path}");
        assert_eq!(reply.header("retry-after"), Some("30"), "{path}");
    }
    system.advance(Duration::from_secs(30));
    agent_read(&client.touch(OWN_HEARTBEAT).await);
}

#[tokio::test]
async fn a_conflicting_transaction_only_delays_a_heartbeat() {
    use crate::support::dynamodb_proxy::{Fault, When};
    let system = TestSystem::start().await;
    let agent = system.verified("busy").await;
    let client = Client::x_agent_token(&system, &agent.key);
    let conflict = system.proxy.inject(When::operation("UpdateItem").times(3), Fault::TransactionConflict);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    assert_eq!(conflict.hits(), 3);
    system.proxy.clear_rules();
    let conflicts = system.proxy.inject(When::operation("UpdateItem"), Fault::TransactionConflict);
    let reply = client.touch(OWN_HEARTBEAT).await;
    assert_eq!(refused(&reply), 503);
    assert!(reply.header("retry-after").is_some());
    assert_eq!(conflicts.hits(), 4);
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_in_this_contracts_form() {
    let system = TestSystem::start().await;
    let reply = Client::anonymous(&system).get(OWN_HEARTBEAT).await;
    assert_eq!(refused(&reply), 405);
    assert_eq!(reply.header("allow"), Some("POST"));
    assert_eq!(refused(&Client::anonymous(&system).get("/api/v1/nothing").await), 404);
    for path in ["/health", "/healthz", "/readyz"] {
        let reply = system.get(path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "ok": true })), "{path}");
    }
    system.proxy.close().await;
    assert_eq!(system.get("/readyz").await.status, 503);
    assert_eq!(system.get("/healthz").await.status, 200);
    let unavailable: Value = Client::x_agent_token(&system, NOBODY).touch(OWN_HEARTBEAT).await.json();
    assert_eq!(keys(&unavailable), BTreeSet::from(["detail", "request_id"]));
}
