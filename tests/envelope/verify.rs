//! `POST /api/agents/verify`.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::dynamodb_proxy::When;
use crate::support::{Reply, START, TestSystem, number, quota, s, text};

const PATH: &str = "/api/agents/verify";

async fn approval() -> TestSystem {
    TestSystem::with().parameter("Approval", "operator").start().await
}

/// A verification by the body's key, with this Bearer.
async fn verify_as(system: &TestSystem, bearer: &str, key: &str) -> Reply {
    let bearer = format!("Bearer {bearer}");
    system.post_with(PATH, &[("authorization", &bearer)], &json!({ "apiKey": key })).await
}

#[tokio::test]
async fn a_pending_agent_becomes_active_and_again_gives_the_same_answer() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    system.advance(Duration::from_secs(5));
    let reply = system.verify(&agent.key).await;
    let data = json!({ "agentId": agent.id, "status": "active" });
    assert_eq!(reply.json(), json!({ "ok": true, "data": data }));
    let row = system.row(&agent).await;
    assert_eq!(text(&row, "agent_state"), Some("active"));
    assert_eq!(number(&row, "verified_at"), Some(START.as_millis() + 5_000));
    assert_eq!(number(&row, "updated_at"), Some(START.as_millis() + 5_000));
    assert_eq!(row.get("expires_at"), None);
    assert_eq!(row.get("lease_expires_at"), None, "verify does not renew");

    system.advance(Duration::from_secs(5));
    assert_eq!(system.verify(&agent.key).await.json(), reply.json());
    assert_eq!(system.row(&agent).await, row);
    assert_eq!(system.sorted_event_types(&agent).await, ["agent.registered", "agent.verified"]);
    let payload = json!({ "before": { "state": "pending" }, "after": { "state": "active" } });
    assert_eq!(system.payloads(&agent, "agent.verified").await, [payload]);
}

#[tokio::test]
async fn the_key_may_be_in_a_header() {
    let system = TestSystem::start().await;
    for name in ["x-agent-token", "authorization"] {
        let agent = system.registered("a").await;
        let value = if name == "authorization" { format!("Bearer {}", agent.key) } else { agent.key.clone() };
        let reply = system.send(reqwest::Method::POST, PATH, &[(name, &value)], "").await;
        assert_eq!(reply.data(), json!({ "agentId": agent.id, "status": "active" }), "{name}");
    }
}

#[tokio::test]
async fn an_unknown_key_is_invalid() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    let unknown = "0".repeat(48);
    let wrong_secret = format!("{}{}", &agent.key[..16], "0".repeat(32));
    for key in [unknown, wrong_secret] {
        let reply = system.verify(&key).await;
        assert_eq!(reply.refusal(), (401, "INVALID_KEY".to_owned()), "{key}");
        assert!(!reply.text.contains(&key));
    }
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
}

#[tokio::test]
async fn a_malformed_key_is_refused_without_a_request() {
    let system = TestSystem::start().await;
    let (short, long, no_hex) = ("a".repeat(47), "a".repeat(49), "g".repeat(48));
    for key in [json!(""), json!(short), json!(long), json!(no_hex), json!(7), json!({}), json!([])] {
        let reply = system.post(PATH, &json!({ "apiKey": key })).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{key}");
        assert!(reply.message().starts_with("apiKey: "), "{key}: {}", reply.text);
    }
    let operator = format!("rco_{}", "0".repeat(48));
    for key in [&short, &long, &no_hex, &operator] {
        let bearer = format!("Bearer {key}");
        for header in [("x-agent-token", key.as_str()), ("authorization", bearer.as_str())] {
            let reply = system.post_with(PATH, &[header], &json!({})).await;
            assert_eq!(reply.refusal(), (401, "INVALID_KEY".to_owned()), "{header:?}");
        }
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn no_key_is_invalid() {
    let system = TestSystem::start().await;
    for body in [json!({}), json!({ "apiKey": null }), json!({ "key": "x" })] {
        let reply = system.post(PATH, &body).await;
        assert_eq!(reply.refusal(), (401, "INVALID_KEY".to_owned()), "{body}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let system = TestSystem::start().await;
    for body in ["[]", "null", "{", "key"] {
        let reply = system.send(reqwest::Method::POST, PATH, &[], body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
    }
}

#[tokio::test]
async fn a_verification_costs_at_most_two_requests_or_three_under_approval() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    system.proxy.take();
    system.verify(&agent.key).await.data();
    assert_eq!(system.proxy.take().operations(), ["TransactWriteItems"]);
    system.verify(&agent.key).await.data();
    assert_eq!(system.proxy.take().operations(), ["TransactWriteItems"]);
    system.verify(&"0".repeat(48)).await;
    assert_eq!(system.proxy.take().operations(), ["TransactWriteItems", "UpdateItem"]);

    let system = approval().await;
    let agent = system.registered("a").await;
    let operator = system.operator_token().await;
    system.proxy.take();
    system.verify(&agent.key).await;
    assert_eq!(system.proxy.take().operations(), ["GetItem"]);
    system.verify(&"0".repeat(48)).await;
    assert_eq!(system.proxy.take().operations(), ["GetItem", "UpdateItem"]);
    verify_as(&system, &operator, &agent.key).await.data();
    let noted_once_an_hour = "UpdateItem";
    assert_eq!(system.proxy.take().operations(), ["GetItem", "TransactWriteItems", noted_once_an_hour]);
    verify_as(&system, &operator, &agent.key).await.data();
    assert_eq!(system.proxy.take().operations(), ["GetItem", "TransactWriteItems"]);
    verify_as(&system, &operator, &"0".repeat(48)).await;
    assert_eq!(system.proxy.take().operations(), ["GetItem", "TransactWriteItems", "UpdateItem"]);
}

// ---- Approval by an operator -----------------------------------------------------------------------------

#[tokio::test]
async fn under_approval_an_agents_own_key_does_not_verify_it() {
    let system = approval().await;
    let agent = system.registered("a").await;
    let bearer = format!("Bearer {}", agent.key);
    let in_body = json!({ "apiKey": agent.key });
    let no_headers: &[(&str, &str)] = &[];
    for (headers, body) in [
        (no_headers, &in_body),
        (&[("x-agent-token", &agent.key)], &Value::Null),
        (&[("authorization", &bearer)], &Value::Null),
        (&[("authorization", &bearer)], &in_body),
        (&[("authorization", "Basic YTpi")], &in_body),
    ] {
        let body = if body.is_null() { json!({}) } else { body.clone() };
        let reply = system.post_with(PATH, headers, &body).await;
        assert_eq!(reply.refusal(), (403, "APPROVAL_REQUIRED".to_owned()), "{headers:?} {body}");
    }
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
    assert_eq!(system.sorted_event_types(&agent).await, ["agent.registered"]);
}

#[tokio::test]
async fn under_approval_an_operators_token_verifies_and_is_named_in_the_event() {
    let system = approval().await;
    let agent = system.registered("a").await;
    let minted = system.mint(&json!({ "kind": "operator" })).await;
    let reply = verify_as(&system, minted["token"].as_str().unwrap(), &agent.key).await;
    assert_eq!(reply.data(), json!({ "agentId": agent.id, "status": "active" }));
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("active"));
    let event = &system.events_of(&agent, "agent.verified").await[0];
    assert_eq!(text(event, "actor"), Some(format!("operator:{}", minted["id"].as_str().unwrap()).as_str()));
    system.heartbeat(&agent, "healthy").await.data();
}

/// An agent that waits for its approval asks with its key alone.
#[tokio::test]
async fn under_approval_an_agent_learns_by_its_key_alone_that_it_is_active() {
    let system = approval().await;
    let agent = system.registered("a").await;
    assert_eq!(system.verify(&agent.key).await.refusal().1, "APPROVAL_REQUIRED");
    let operator = system.operator_token().await;
    verify_as(&system, &operator, &agent.key).await.data();
    let bearer = format!("Bearer {}", agent.key);
    let answers = [
        system.verify(&agent.key).await,
        system.post_with(PATH, &[("x-agent-token", &agent.key)], &json!({})).await,
        system.post_with(PATH, &[("authorization", &bearer)], &json!({})).await,
    ];
    for reply in answers {
        assert_eq!(reply.data(), json!({ "agentId": agent.id, "status": "active" }));
    }
}

#[tokio::test]
async fn under_approval_a_bad_operator_token_verifies_nobody() {
    let system = approval().await;
    let agent = system.registered("a").await;
    let expired = system.mint(&json!({ "kind": "operator", "expires_in_seconds": 60 })).await;
    let expired = expired["token"].as_str().unwrap();
    let enrollment = system.enrollment_token(json!({})).await;
    let unknown = format!("rco_{}", "0".repeat(48));
    let wrong_secret = format!("{}{}", &expired[..20], "0".repeat(32));
    system.advance(Duration::from_mins(1));
    for (bearer, status, code) in [
        (expired, 401, "UNAUTHORIZED"),
        (&unknown, 401, "UNAUTHORIZED"),
        (&wrong_secret, 401, "UNAUTHORIZED"),
        ("nonsense", 401, "UNAUTHORIZED"),
        (&enrollment, 403, "FORBIDDEN"),
    ] {
        let reply = verify_as(&system, bearer, &agent.key).await;
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{bearer}");
    }
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
}

#[tokio::test]
async fn an_operators_token_is_valid_until_its_last_millisecond() {
    let system = approval().await;
    let agent = system.registered("a").await;
    let minted = system.mint(&json!({ "kind": "operator", "expires_in_seconds": 60 })).await;
    system.advance(Duration::from_millis(59_999));
    verify_as(&system, minted["token"].as_str().unwrap(), &agent.key).await.data();
}

// ---- Guessing --------------------------------------------------------------------------------------------

#[tokio::test]
async fn unknown_keys_are_limited_per_address_and_window() {
    let system = TestSystem::with().parameter("VerifyFailureLimitPerIp", 3).start().await;
    let agent = system.registered("a").await;
    let guess = |number: u8| format!("{number:048x}");
    for (number, remaining) in [(1, 2), (2, 1), (3, 0)] {
        let reply = system.verify(&guess(number)).await;
        assert_eq!(reply.refusal(), (401, "INVALID_KEY".to_owned()));
        assert_eq!(reply.quota(), quota("verify", 3, remaining, 30));
    }
    let reply = system.verify(&guess(4)).await;
    assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
    assert_eq!(reply.header("retry-after"), Some("30"));
    assert_eq!(reply.quota(), quota("verify", 3, 0, 30));

    system.proxy.take();
    assert_eq!(system.verify(&guess(5)).await.status, 429);
    assert_eq!(system.proxy.take().operations(), ["GetItem"]);
    system.verify(&agent.key).await.data();
    assert_eq!(
        system.proxy.take().operations(),
        ["GetItem", "TransactWriteItems"],
        "nobody locks out a good key"
    );
    system.advance(Duration::from_secs(30));
    assert_eq!(system.verify(&guess(6)).await.quota(), quota("verify", 3, 2, 60));
}

#[tokio::test]
async fn verifications_that_succeed_are_not_counted() {
    let system = TestSystem::with().parameter("VerifyFailureLimitPerIp", 1).start().await;
    for name in ["a", "b", "c"] {
        let agent = system.registered(name).await;
        let reply = system.verify(&agent.key).await;
        reply.data();
        assert_eq!(reply.header("ratelimit"), None);
    }
}

// ---- State -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_revoked_agent_is_not_verified_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.set(&agent, "agent_state", s("revoked")).await;
    let reply = system.verify(&agent.key).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert!(reply.message().contains("revoked"), "{}", reply.text);
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("revoked"));

    let system = approval().await;
    let agent = system.registered("a").await;
    let operator = system.operator_token().await;
    system.set(&agent, "agent_state", s("revoked")).await;
    for reply in [system.verify(&agent.key).await, verify_as(&system, &operator, &agent.key).await] {
        assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    }
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_concurrent_verifications_make_one_event() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let (replies, ()) = join(join_all((0..20).map(|_| system.verify(&agent.key))), async {
        gate.held(20).await;
        gate.release();
    })
    .await;
    for reply in replies {
        assert_eq!(reply.data(), json!({ "agentId": agent.id, "status": "active" }));
    }
    assert_eq!(system.sorted_event_types(&agent).await, ["agent.registered", "agent.verified"]);
}
