//! `POST`, `GET` and `DELETE` of `/api/v1/tokens`.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use shared::domain::credential::Token;

use super::client::{
    AGENTS, BOARD, Client, MILLI, NO_AGENT, SECOND, TOKENS, agent_read, invalid, just_before, keys, refused,
    text, with_key,
};
use crate::support::TestSystem;

const MINTED: [&str; 10] =
    ["approved", "board_id", "created_at", "expires_at", "id", "kind", "label", "reusable", "role", "token"];

async fn mint(operator: &Client<'_>, request: &Value) -> Value {
    let reply = operator.post(TOKENS, request).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let mut minted = reply.json();
    let link = minted.as_object_mut().expect("an object").remove("link");
    assert_eq!(keys(&minted), BTreeSet::from(MINTED));
    let expected = format!("/#token={}", text(&minted, "token"));
    match request["kind"].as_str() {
        Some("operator") => assert!(link.is_some_and(|link| {
            let link = link.as_str().expect("a link").to_owned();
            link.starts_with("http://127.0.0.1:") && link.ends_with(&expected)
        })),
        _ => assert_eq!(link, None, "the page is for people"),
    }
    minted
}

/// The listed tokens, newest first.
async fn listed(operator: &Client<'_>) -> Vec<Value> {
    let reply = operator.get(TOKENS).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["items"].as_array().expect("a list").clone()
}

async fn listed_one(operator: &Client<'_>, id: &str) -> Value {
    listed(operator).await.into_iter().find(|token| token["id"] == id).expect("the token")
}

#[tokio::test]
async fn the_first_operators_token_comes_with_a_link_to_the_page() {
    let system = TestSystem::start().await;
    let minted = system.mint(&json!({ "kind": "operator" })).await;
    assert_eq!(text(&minted, "link"), format!("{}/#token={}", system.url(), text(&minted, "token")));
    let minted = system.mint(&json!({ "kind": "enrollment", "all_boards": true })).await;
    assert_eq!(minted.get("link"), None, "the page is for people");
}

#[tokio::test]
async fn a_token_is_shown_once_and_only_its_digest_is_stored() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for request in [
        json!({ "kind": "operator", "label": "ops" }),
        json!({ "kind": "enrollment", "label": "fleet", "board_id": BOARD, "reusable": false, "approved": false }),
        json!({ "kind": "enrollment", "all_boards": true }),
    ] {
        system.advance(SECOND);
        let minted = mint(&operator, &request).await;
        let (id, token) = (text(&minted, "id"), text(&minted, "token"));
        let parsed = Token::parse(&token).expect("a token");
        assert_eq!(id, parsed.token_id().to_string());
        for field in ["kind", "label", "board_id"] {
            assert_eq!(minted[field], request[field], "{field}");
        }
        for field in ["reusable", "approved"] {
            assert_eq!(minted[field], request.get(field).cloned().unwrap_or(json!(true)), "{field}");
        }
        let days = if request["kind"] == "operator" { 90 } else { 30 };
        assert_eq!(text(&minted, "created_at"), system.now().to_string());
        let end = system.now().plus(Duration::from_hours(24 * days));
        assert_eq!(text(&minted, "expires_at"), end.to_string());

        let reply = operator.get(TOKENS).await;
        assert!(!reply.text.contains(&token) && !reply.text.contains(&token[4..]));
        let mut shown = listed_one(&operator, &id).await;
        assert_eq!(shown["last_used_at"], Value::Null);
        assert_eq!(shown["uses"], 0);
        let fields = shown.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "last_used_at" && name != "uses");
        fields.insert("token".to_owned(), json!(token));
        assert_eq!(shown, minted);

        let rows = system.dynamodb.get_item().table_name(system.table("TokensTable"));
        let row = rows.key("token_id", AttributeValue::S(id)).send().await.expect("a row").item;
        let row = row.expect("a row");
        assert_eq!(row["token_digest"], AttributeValue::B(parsed.digest().as_bytes().to_vec().into()));
        assert!(!format!("{row:?}").contains(&token[4..]));
        assert_eq!(row.contains_key("expires_at"), request["kind"] == "operator", "removed by DynamoDB");
    }
}

#[tokio::test]
async fn every_field_has_its_rule() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent_token = mint(&operator, &json!({ "kind": "operator" })).await;
    for (request, loc) in [
        (json!({}), "body.kind"),
        (json!({ "kind": "agent" }), "body.kind"),
        (json!({ "kind": 7 }), "body.kind"),
        (json!({ "kind": "enrollment" }), "body.board_id"),
        (json!({ "kind": "enrollment", "all_boards": false }), "body.board_id"),
        (json!({ "kind": "enrollment", "all_boards": true, "board_id": BOARD }), "body.board_id"),
        (json!({ "kind": "enrollment", "board_id": "x" }), "body.board_id"),
        (json!({ "kind": "enrollment", "all_boards": "yes" }), "body.all_boards"),
        (json!({ "kind": "operator", "label": "x".repeat(101) }), "body.label"),
        (json!({ "kind": "operator", "label": "a\nb" }), "body.label"),
        (json!({ "kind": "operator", "label": 7 }), "body.label"),
        (json!({ "kind": "operator", "expires_in_seconds": 0 }), "body.expires_in_seconds"),
        (json!({ "kind": "operator", "expires_in_seconds": -1 }), "body.expires_in_seconds"),
        (json!({ "kind": "operator", "expires_in_seconds": 315_360_001 }), "body.expires_in_seconds"),
        (json!({ "kind": "enrollment", "all_boards": true, "reusable": 1 }), "body.reusable"),
        (json!({ "kind": "enrollment", "all_boards": true, "approved": "no" }), "body.approved"),
        (json!({ "kind": "enrollment", "all_boards": true, "succeeds": "x" }), "body.succeeds"),
        (json!({ "kind": "enrollment", "all_boards": true, "succeeds": NO_AGENT }), "body.succeeds"),
        (json!({ "kind": "enrollment", "all_boards": true, "succeeds": agent_token["id"] }), "body.succeeds"),
        (json!({ "kind": "operator", "succeeds": NO_AGENT }), "body.succeeds"),
        (json!(["operator"]), "body"),
    ] {
        assert_eq!(invalid(&operator.post(TOKENS, &request).await), loc, "{request}");
    }
    assert_eq!(invalid(&operator.delete(&format!("{TOKENS}/x")).await), "path.id");
}

#[tokio::test]
async fn a_new_operator_works_until_its_end_or_its_deletion() {
    let system = TestSystem::start().await;
    let first = Client::operator(&system).await;
    let minted = mint(&first, &json!({ "kind": "operator", "expires_in_seconds": 60 })).await;
    let second = Client::bearer(&system, &text(&minted, "token"));
    assert_eq!(second.get(AGENTS).await.status, 200);
    system.advance(just_before(Duration::from_mins(1)));
    assert_eq!(second.get(AGENTS).await.status, 200);
    system.advance(MILLI);
    assert_eq!(refused(&second.get(AGENTS).await), 401);
    let minted = mint(&first, &json!({ "kind": "operator" })).await;
    let third = Client::bearer(&system, &text(&minted, "token"));
    assert_eq!(third.get(AGENTS).await.status, 200);
    let path = format!("{TOKENS}/{}", text(&minted, "id"));
    for _ in 0..2 {
        let deleted = first.delete(&path).await;
        assert_eq!((deleted.status, deleted.json()), (200, json!({ "ok": true })));
    }
    assert_eq!(refused(&third.get(AGENTS).await), 401);
    assert_eq!(first.delete(&format!("{TOKENS}/{NO_AGENT}")).await.json(), json!({ "ok": true }));
}

/// Contract: last use to the hour, without a write per call.
#[tokio::test]
async fn the_last_use_is_noted_once_an_hour() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let minted = mint(&operator, &json!({ "kind": "operator" })).await;
    let (id, user) = (text(&minted, "id"), Client::bearer(&system, &text(&minted, "token")));
    system.advance(Duration::from_mins(20));
    system.proxy.take();
    user.get(TOKENS).await;
    assert_eq!(system.proxy.take().operations(), ["GetItem", "UpdateItem", "Query"]);
    for _ in 0..3 {
        system.advance(Duration::from_mins(10));
        user.get(TOKENS).await;
        assert_eq!(system.proxy.take().operations(), ["GetItem", "Query"]);
    }
    assert_eq!(listed_one(&operator, &id).await["last_used_at"], "2037-01-01T00:00:00.000Z");
    system.advance(Duration::from_mins(10));
    system.proxy.take();
    user.get(TOKENS).await;
    assert_eq!(system.proxy.take().of("UpdateItem").requests(), 1);
    assert_eq!(listed_one(&operator, &id).await["last_used_at"], "2037-01-01T01:00:00.000Z");
}

#[tokio::test]
async fn uses_count_the_agents_that_a_token_let_in() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for reusable in [true, false] {
        let request = json!({ "kind": "enrollment", "all_boards": true, "reusable": reusable });
        let minted = mint(&operator, &request).await;
        let (id, client) = (text(&minted, "id"), Client::x_agent_token(&system, &text(&minted, "token")));
        with_key(&client.heartbeat_as("one").await);
        agent_read(&client.heartbeat_as("one").await);
        let again = client.heartbeat_as("two").await.status;
        assert_eq!(again, if reusable { 200 } else { 403 });
        let shown = listed_one(&operator, &id).await;
        assert_eq!(shown["uses"], if reusable { 2 } else { 1 });
        assert_eq!(shown["last_used_at"], "2037-01-01T00:00:00.000Z");
    }
}

#[tokio::test]
async fn a_succeeding_token_has_the_names_of_the_one_before_even_over_generations() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let enrollment =
        |succeeds: Value| json!({ "kind": "enrollment", "all_boards": true, "succeeds": succeeds });
    let first = mint(&operator, &enrollment(Value::Null)).await;
    let heartbeat = async |minted: &Value| {
        Client::x_agent_token(&system, &text(minted, "token")).heartbeat_as("heir").await
    };
    let (_, agent) = with_key(&heartbeat(&first).await);
    let second = mint(&operator, &enrollment(first["id"].clone())).await;
    let third = mint(&operator, &enrollment(second["id"].clone())).await;
    for token in [&second, &third] {
        assert_eq!(agent_read(&heartbeat(token).await)["id"], agent.id);
    }
    operator.delete(&format!("{TOKENS}/{}", text(&first, "id"))).await;
    assert_eq!(agent_read(&heartbeat(&third).await)["id"], agent.id, "without the one before, too");
}

#[tokio::test]
async fn minting_and_deleting_are_recorded_under_the_token() {
    let system = TestSystem::start().await;
    let by_iam = system.mint(&json!({ "kind": "operator" })).await;
    let operator = Client::bearer(&system, &text(&by_iam, "token"));
    let minted = mint(&operator, &json!({ "kind": "enrollment", "board_id": BOARD, "label": "fleet" })).await;
    system.advance(SECOND);
    operator.delete(&format!("{TOKENS}/{}", text(&minted, "id"))).await;
    let system_rows = system.event_rows(&format!("token#{}", text(&by_iam, "id"))).await;
    assert_eq!(system_rows.len(), 1);
    assert_eq!(system_rows[0]["actor"], AttributeValue::S("system".to_owned()));
    let rows = system.event_rows(&format!("token#{}", text(&minted, "id"))).await;
    let types: Vec<&str> =
        rows.iter().map(|row| row["event_type"].as_s().expect("a string").as_str()).collect();
    assert_eq!(types, ["token.created", "token.revoked"]);
    for row in &rows {
        let actor = format!("operator:{}", text(&by_iam, "id"));
        assert_eq!(row["actor"], AttributeValue::S(actor));
        let payload: Value = serde_json::from_str(row["payload"].as_s().expect("a string")).expect("JSON");
        assert_eq!((text(&payload, "label"), text(&payload, "board_id")), ("fleet".into(), BOARD.into()));
        assert!(!format!("{row:?}").contains(&text(&minted, "token")[4..]));
    }
}
