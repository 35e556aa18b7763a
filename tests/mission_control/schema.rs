//! Mission Control's own clients check answers against its published schema: AgentRead and the agents' healthz. Its facts,
//! by which a client generated from it takes or refuses an answer.

use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{BOARD, Client, OWN_HEARTBEAT, agent_path};
use crate::support::TestSystem;

/// What a field must be.
#[derive(Clone, Copy)]
enum Is {
    Uuid,
    UuidOrNull,
    Text,
    TextOrNull,
    Object,
    ObjectOrNull,
    Flag,
    Time,
    TimeOrNull,
}

fn fits(value: &Value, is: Is) -> bool {
    let uuid = || value.as_str().is_some_and(|text| Uuid::parse_str(text).is_ok());
    let time = || value.as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z'));
    match is {
        Is::Uuid => uuid(),
        Is::UuidOrNull => value.is_null() || uuid(),
        Is::Text => value.is_string(),
        Is::TextOrNull => value.is_null() || value.is_string(),
        Is::Object => value.is_object(),
        Is::ObjectOrNull => value.is_null() || value.is_object(),
        Is::Flag => value.is_boolean(),
        Is::Time => time(),
        Is::TimeOrNull => value.is_null() || time(),
    }
}

#[track_caller]
fn validates(answer: &Value, schema: &[(&str, Is)]) {
    let object = answer.as_object().unwrap_or_else(|| panic!("not an object: {answer}"));
    for (name, is) in schema {
        let value = object.get(*name).unwrap_or_else(|| panic!("{name} is required: {answer}"));
        assert!(fits(value, *is), "{name}: {value}");
    }
    assert_eq!(object.len(), schema.len(), "no other keys: {answer}");
}

const AGENT_READ: [(&str, Is); 15] = [
    ("board_id", Is::UuidOrNull),
    ("name", Is::Text),
    ("status", Is::Text),
    ("heartbeat_config", Is::Object),
    ("identity_profile", Is::ObjectOrNull),
    ("identity_template", Is::TextOrNull),
    ("soul_template", Is::TextOrNull),
    ("id", Is::Uuid),
    ("gateway_id", Is::Uuid),
    ("is_board_lead", Is::Flag),
    ("is_gateway_main", Is::Flag),
    ("openclaw_session_id", Is::TextOrNull),
    ("last_seen_at", Is::TimeOrNull),
    ("created_at", Is::Time),
    ("updated_at", Is::Time),
];

const HEALTHZ: [(&str, Is); 6] = [
    ("ok", Is::Flag),
    ("agent_id", Is::Uuid),
    ("board_id", Is::UuidOrNull),
    ("gateway_id", Is::Uuid),
    ("status", Is::Text),
    ("is_board_lead", Is::Flag),
];

#[tokio::test]
async fn every_agent_and_healthz_validate_against_mission_controls_own_schema() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let plain = operator.create(&json!({ "name": "plain" })).await;
    let on_board = operator.create(&json!({ "name": "on a board", "board_id": BOARD })).await;
    let pending = system.registered("pending").await;
    for agent in [&plain, &on_board, &pending] {
        validates(&operator.show(agent).await, &AGENT_READ);
    }
    let client = Client::x_agent_token(&system, &on_board.key);
    validates(&client.touch(OWN_HEARTBEAT).await.json(), &AGENT_READ);
    validates(&client.get("/api/v1/agent/healthz").await.json(), &HEALTHZ);
    let list = operator.get("/api/v1/agents").await.json();
    for agent in list["items"].as_array().expect("a list") {
        validates(agent, &AGENT_READ);
    }
    let revoked = operator.post(&agent_path(&plain.id, "/revoke"), &json!({})).await;
    validates(&revoked.json(), &AGENT_READ);
}
