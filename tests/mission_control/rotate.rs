//! `POST /api/v1/agents/{agent_id}/rotate-key` for operators, `POST /api/agents/rotate-key` for the agent itself.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use super::client::{
    Client, MILLI, NO_AGENT, NOBODY, OWN_HEARTBEAT, SECOND, agent_path, agent_read, has_key, invalid,
    just_before, refused, text, with_key,
};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, TestAgent, TestSystem};

const OWN_ROTATION: &str = "/api/agents/rotate-key";

async fn rotate(operator: &Client<'_>, agent: &TestAgent, overlap: u64) -> TestAgent {
    let body = json!({ "overlap_seconds": overlap });
    let (_, rotated) = with_key(&operator.post(&agent_path(&agent.id, "/rotate-key"), &body).await);
    assert_eq!(rotated.id, agent.id);
    rotated
}

async fn heartbeat(system: &TestSystem, agent: &TestAgent) -> u16 {
    Client::x_agent_token(system, &agent.key).touch(OWN_HEARTBEAT).await.status
}

#[tokio::test]
async fn a_pending_agent_verifies_with_either_key_during_the_overlap() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = system.registered("a").await;
    rotate(&operator, &agent, 60).await;
    system.post("/api/agents/verify", &json!({ "apiKey": agent.key })).await.data();
    assert_eq!(heartbeat(&system, &agent).await, 200);
}

#[tokio::test]
async fn an_agents_own_rotations_are_limited() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let mut agent = system.verified("a").await;
    for remaining in ["\"rotate\";r=1;t=30", "\"rotate\";r=0;t=30"] {
        let reply = system.post(OWN_ROTATION, &json!({ "apiKey": agent.key })).await;
        assert_eq!(reply.header("ratelimit"), Some(remaining));
        agent.key = text(&reply.data(), "apiKey");
    }
    let reply = system.post(OWN_ROTATION, &json!({ "apiKey": agent.key })).await;
    assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
    system.advance(Duration::from_secs(30));
    system.post(OWN_ROTATION, &json!({ "apiKey": agent.key })).await.data();
}

#[tokio::test]
async fn both_keys_work_for_the_overlap_and_then_only_the_new_one() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    system.advance(30 * SECOND);
    let new = rotate(&operator, &old, 60).await;
    assert_eq!(old.key[..16], new.key[..16], "the key id stays");
    assert_ne!(old.key, new.key);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
    system.advance(just_before(Duration::from_mins(1)));
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
    system.advance(MILLI);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (401, 200));
    let envelope = system.heartbeat(&old, "healthy").await;
    assert_eq!(envelope.refusal(), (401, "UNAUTHORIZED".into()));
    assert_eq!(refused(&Client::bearer(&system, &old.key).get("/api/v1/agent/healthz").await), 401);
    assert_eq!(system.event_types(&new).await.last().map(String::as_str), Some("agent.key_rotated"));
}

#[tokio::test]
async fn a_rotation_during_20_heartbeats_loses_none_of_them() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("busy").await;
    let client = Client::x_agent_token(&system, &old.key);
    // The heartbeats are on their way when the rotation is written.
    let gate = system.proxy.hold(When::operation("UpdateItem").mentioning(&old.id).times(20));
    let rotation = async {
        gate.held(20).await;
        let new = rotate(&operator, &old, 60).await;
        gate.let_through(20);
        new
    };
    let (replies, new) = join(join_all((0..20).map(|_| client.touch(OWN_HEARTBEAT))), rotation).await;
    for reply in &replies {
        agent_read(reply);
    }
    assert_eq!(heartbeat(&system, &new).await, 200);
}

#[tokio::test]
async fn of_two_rotations_at_once_one_wins_and_one_is_409() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("contested").await;
    let path = agent_path(&old.id, "/rotate-key");
    system.advance(SECOND);
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(2));
    let release = async {
        gate.held(2).await;
        gate.let_through(2);
    };
    let ((one, two), ()) = join(join(operator.touch(&path), operator.touch(&path)), release).await;
    let (won, lost): (Vec<Reply>, Vec<Reply>) = [one, two].into_iter().partition(|reply| reply.status == 200);
    let ([won], [lost]) = (won.as_slice(), lost.as_slice()) else { panic!("{won:?} {lost:?}") };
    assert_eq!(refused(lost), 409);
    let (_, new) = with_key(won);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
    assert_eq!(system.event_types(&old).await.last().map(String::as_str), Some("agent.key_rotated"));
    assert_eq!(system.event_types(&old).await.len(), 3);
}

#[tokio::test]
async fn without_an_overlap_the_old_key_ends_at_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    assert_eq!(heartbeat(&system, &old).await, 200);
    let new = rotate(&operator, &old, 0).await;
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (401, 200));
    let row = system.row(&old).await;
    assert!(!row.contains_key("prior_digest") && !row.contains_key("prior_key_ends"));
}

#[tokio::test]
async fn the_overlap_is_five_minutes_unless_asked_otherwise_and_bounded() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    let path = agent_path(&old.id, "/rotate-key");
    for overlap in [json!(86_401), json!(-1), json!("60"), json!(0.5)] {
        let reply = operator.post(&path, &json!({ "overlap_seconds": overlap })).await;
        assert_eq!(invalid(&reply), "body.overlap_seconds");
    }
    assert_eq!(refused(&operator.touch(&agent_path(NO_AGENT, "/rotate-key")).await), 404);
    assert_eq!(invalid(&operator.touch(&agent_path("x", "/rotate-key")).await), "path.agent_id");
    with_key(&operator.touch(&path).await);
    system.advance(just_before(Duration::from_mins(5)));
    assert_eq!(heartbeat(&system, &old).await, 200);
    system.advance(MILLI);
    assert_eq!(heartbeat(&system, &old).await, 401);
    let new = rotate(&operator, &old, 86_400).await;
    let newest = rotate(&operator, &old, 86_400).await;
    system.advance(just_before(Duration::from_hours(24)));
    assert_eq!((heartbeat(&system, &new).await, heartbeat(&system, &newest).await), (200, 200));
}

#[tokio::test]
async fn a_third_key_ends_the_first_at_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let first = system.verified("rotated").await;
    let second = rotate(&operator, &first, 3_600).await;
    assert_eq!(heartbeat(&system, &first).await, 200);
    let third = rotate(&operator, &first, 60).await;
    assert_eq!(heartbeat(&system, &first).await, 401);
    assert_eq!((heartbeat(&system, &second).await, heartbeat(&system, &third).await), (200, 200));
}

/// The envelope's own rotation: `{"agentId", "apiKey"}`.
#[tokio::test]
async fn an_agent_rotates_with_its_current_key_and_never_with_a_previous_one() {
    let system = TestSystem::start().await;
    let old = system.verified("self-service").await;
    let rotate = async |agent: &TestAgent, body: Value| {
        Client::x_agent_token(&system, &agent.key).post(OWN_ROTATION, &body).await
    };
    system.advance(SECOND);
    let data = rotate(&old, json!({ "overlapSeconds": 60 })).await.data();
    assert_eq!(super::client::keys(&data), ["agentId", "apiKey"].into());
    let new = TestAgent { id: text(&data, "agentId"), key: text(&data, "apiKey") };
    assert_eq!(new.id, old.id);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
    assert_eq!(rotate(&old, json!({})).await.refusal(), (403, "FORBIDDEN".into()));
    let body = json!({ "apiKey": new.key, "overlapSeconds": 86_401 });
    let refused = system.post(OWN_ROTATION, &body).await;
    assert_eq!(refused.refusal(), (400, "VALIDATION_ERROR".into()));
    assert!(refused.message().contains("overlapSeconds"));
    let stranger = TestAgent { id: String::new(), key: NOBODY.to_owned() };
    assert_eq!(rotate(&stranger, json!({})).await.refusal(), (401, "UNAUTHORIZED".into()));
    system.advance(60 * SECOND);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (401, 200));
    let actor = system.event_rows(&old.id).await.last().expect("an event")["actor"].clone();
    assert_eq!(actor, AttributeValue::S("agent".to_owned()));
    let data = system.post(OWN_ROTATION, &json!({ "apiKey": new.key, "overlapSeconds": 0 })).await.data();
    let newest = TestAgent { id: text(&data, "agentId"), key: text(&data, "apiKey") };
    assert_eq!((heartbeat(&system, &new).await, heartbeat(&system, &newest).await), (401, 200));
}

#[tokio::test]
async fn an_inactive_agent_does_not_rotate_for_itself() {
    let system = TestSystem::start().await;
    let pending = system.registered("pending").await;
    let reply = system.post(OWN_ROTATION, &json!({ "apiKey": pending.key })).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".into()));
    // An operator may give it a key all the same; it stays pending.
    let operator = Client::operator(&system).await;
    let new = rotate(&operator, &pending, 60).await;
    assert_eq!(heartbeat(&system, &new).await, 403);
}

#[tokio::test]
async fn a_conflicting_transaction_only_delays_a_rotation() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    let conflict =
        system.proxy.inject(When::operation("TransactWriteItems").times(3), Fault::TransactionConflict);
    let new = rotate(&operator, &old, 60).await;
    assert_eq!(conflict.hits(), 3);
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_on_the_way_shows_the_key_that_is_stored() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    system.proxy.inject(When::operation("TransactWriteItems").times(1), Fault::DropAnswer);
    let new = rotate(&operator, &old, 60).await;
    assert_eq!((heartbeat(&system, &old).await, heartbeat(&system, &new).await), (200, 200));
    assert_eq!(system.event_types(&old).await.len(), 3);
}

#[tokio::test]
async fn a_rotation_carries_the_workspace_if_it_is_asked_for() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let old = system.verified("rotated").await;
    let path = agent_path(&old.id, "/rotate-key?workspace=true");
    let (shown, new) = with_key(&operator.touch(&path).await);
    let tools = text(&shown["files"], "TOOLS.md");
    assert!(tools.contains(&format!("AUTH_TOKEN={}\n", new.key)), "{tools}");
    let plain = operator.touch(&agent_path(&old.id, "/rotate-key")).await;
    assert!(has_key(&plain) && plain.json().get("files").is_none());
}
