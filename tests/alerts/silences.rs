//! Silences: their agents are left untold, and what is still so when one ends is told.

use reqwest::Method;
use serde_json::{Value, json};

use super::telling::{MINUTE, alerts, heard, minutes, types};
use crate::mission_control::client::{BOARD, Client, invalid, refusal, text};
use crate::support::TestSystem;

const SILENCES: &str = "/api/v1/silences";

#[tokio::test]
async fn what_is_still_so_when_a_silence_ends_is_told() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let (dies, returns) = (heard(&system, "dies").await, heard(&system, "returns").await);
    let body = json!({ "all": true, "for_seconds": 1200, "reason": "an upgrade" });
    let silence = operator.post(SILENCES, &body).await;
    assert_eq!(silence.status, 200, "{}", silence.text);
    minutes(&system, 10).await;
    assert_eq!(system.payloads(&dies, "agent.offline").await.len(), 1, "the fact is no secret");
    system.heartbeat(&returns, "healthy").await.data();
    for _ in 0..12 {
        system.heartbeat(&returns, "healthy").await.data();
        minutes(&system, 1).await;
    }
    let told = alerts(&system).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["data"]["agent"]["id"], dies.id);
}

#[tokio::test]
async fn an_end_within_a_silence_is_told_after_it() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = heard(&system, "a").await;
    minutes(&system, 4).await;
    assert_eq!(types(&system).await, ["agent.offline"]);
    let body = json!({ "agent_id": agent.id, "for_seconds": 300 });
    assert_eq!(operator.post(SILENCES, &body).await.status, 200);
    for _ in 0..4 {
        system.heartbeat(&agent, "healthy").await.data();
        minutes(&system, 1).await;
    }
    assert_eq!(types(&system).await, ["agent.offline"]);
    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 2).await;
    assert_eq!(types(&system).await, ["agent.offline", "agent.recovered"]);
}

#[tokio::test]
async fn a_silence_is_listed_until_it_ends_or_is_ended() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let long = operator.post(SILENCES, &json!({ "board_id": BOARD, "for_seconds": 7200 })).await.json();
    let body = json!({ "all": true, "for_seconds": 60, "reason": "lunch" });
    let short = operator.post(SILENCES, &body).await.json();
    assert_eq!((&short["all"], &short["reason"]), (&json!(true), &json!("lunch")));
    assert_eq!((&long["board_id"], &long["agent_id"]), (&json!(BOARD), &Value::Null));
    let listed = async || operator.get(SILENCES).await.json()["items"].as_array().expect("a list").clone();
    assert_eq!(listed().await, [short, long.clone()]);
    system.advance(MINUTE);
    assert_eq!(listed().await, std::slice::from_ref(&long));
    let path = format!("{SILENCES}/{}", text(&long, "id"));
    for _ in 0..2 {
        assert_eq!(operator.send(Method::DELETE, &path, "").await.status, 200);
    }
    assert_eq!(listed().await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_silence_has_one_scope_and_at_most_thirty_days() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (body, field) in [
        (json!({ "for_seconds": 60 }), "body.agent_id"),
        (json!({ "all": true, "board_id": BOARD, "for_seconds": 60 }), "body.agent_id"),
        (json!({ "agent_id": "x", "for_seconds": 60 }), "body.agent_id"),
        (json!({ "all": "yes", "for_seconds": 60 }), "body.all"),
        (json!({ "all": true }), "body.for_seconds"),
        (json!({ "all": true, "for_seconds": 0 }), "body.for_seconds"),
        (json!({ "all": true, "for_seconds": 2_592_001 }), "body.for_seconds"),
        (json!({ "all": true, "for_seconds": 60, "reason": 7 }), "body.reason"),
        (json!({ "all": true, "for_seconds": 60, "reason": "x".repeat(501) }), "body.reason"),
    ] {
        assert_eq!(invalid(&operator.post(SILENCES, &body).await), field, "{body}");
    }
}

#[tokio::test]
async fn there_are_at_most_200_silences_however_many_are_made_at_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let body = json!({ "all": true, "for_seconds": 3600 });
    for _ in 0..195 {
        assert_eq!(operator.post(SILENCES, &body).await.status, 200);
    }
    let at_once = (0..20).map(|_| operator.post(SILENCES, &body));
    for reply in futures_util::future::join_all(at_once).await {
        assert!([200, 409, 503].contains(&reply.status), "{}", reply.text);
    }
    let listed = operator.get(SILENCES).await.json()["items"].as_array().expect("a list").len();
    assert!((196..=200).contains(&listed), "{listed}");
    for _ in listed..200 {
        assert_eq!(operator.post(SILENCES, &body).await.status, 200);
    }
    let (status, problem) = refusal(&operator.post(SILENCES, &body).await);
    assert_eq!((status, problem.as_str()), (409, "there are 200 silences already"));
}
