//! `POST /api/v1/agents/heartbeat` with a token: the first heartbeat creates the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::{BoxFuture, FutureExt, join, join_all};
use serde_json::{Value, json};

use super::client::{
    BOARD, Client, HEARTBEAT_BY_NAME, MILLI, NOBODY, OTHER_BOARD, OWN_HEARTBEAT, SECOND, TOKENS, agent_path,
    agent_read, enrollment, enrollment_token, has_key, invalid, just_before, refusal, refused, text,
    with_key,
};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, TestSystem};

/// Sends all of them at once, and waits for every answer.
async fn at_once<'a>(requests: impl Iterator<Item = BoxFuture<'a, Reply>>) -> Vec<Reply> {
    join_all(requests).await
}

async fn start_fleet(system: &TestSystem, token: &str, size: usize) -> Vec<Reply> {
    let client = &Client::x_agent_token(system, token);
    at_once(
        (0..size).map(|number| async move { client.heartbeat_as(&format!("worker-{number}")).await }.boxed()),
    )
    .await
}

#[track_caller]
fn ids(replies: &[Reply]) -> BTreeSet<String> {
    let id = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text);
        text(&reply.json(), "id")
    };
    replies.iter().map(id).collect()
}

fn with_keys(replies: &[Reply]) -> usize {
    replies.iter().filter(|reply| has_key(reply)).count()
}

#[tokio::test]
async fn a_fleet_that_is_started_again_stays_50_agents() {
    let system = TestSystem::start().await;
    let minted = enrollment(&system, &json!({})).await;
    let token = text(&minted, "token");
    let first = start_fleet(&system, &token, 50).await;
    assert_eq!((ids(&first).len(), with_keys(&first)), (50, 50));

    system.advance(Duration::from_mins(10));
    system.sweep().await;
    let again = start_fleet(&system, &token, 50).await;
    assert_eq!(ids(&again), ids(&first));
    assert_eq!(with_keys(&again), 0);

    system.advance(Duration::from_hours(31 * 24));
    let successor = enrollment_token(&system, &json!({ "succeeds": minted["id"] })).await;
    let third = start_fleet(&system, &successor, 50).await;
    assert_eq!(ids(&third), ids(&first));
    assert_eq!(with_keys(&third), 0);
    assert_eq!(Client::operator(&system).await.fleet_size().await, 50);
    for reply in &third {
        assert_eq!(reply.json()["status"], "online");
    }
}

/// 100 concurrent first heartbeats of one name make one agent, and one answer carries its key.
#[tokio::test]
async fn a_hundred_first_heartbeats_of_one_name_make_one_agent_and_show_one_key() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 6_000).start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let replies = at_once((0..100).map(|_| client.heartbeat_as("the-one").boxed())).await;
    assert_eq!((ids(&replies).len(), with_keys(&replies)), (1, 1));
    let winner = replies.iter().find(|reply| has_key(reply)).expect("a key");
    let (_, agent) = with_key(winner);
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
    agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
    assert_eq!(Client::operator(&system).await.fleet_size().await, 1);
    let usage = Client::operator(&system).await.get(&agent_path(&agent.id, "/usage")).await.json();
    assert_eq!(usage["requests_total"], 101, "every heartbeat counts, the creating one too");
}

#[tokio::test]
async fn who_loses_the_race_to_create_is_heard_and_gets_no_key() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(1));
    let winner = async {
        gate.held(1).await;
        let winner = client.heartbeat_as("contested").await;
        gate.let_through(1);
        winner
    };
    let (loser, winner) = join(client.heartbeat_as("contested"), winner).await;
    let (created, agent) = with_key(&winner);
    assert_eq!(agent_read(&loser)["id"], created["id"]);
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
}

#[tokio::test]
async fn creation_is_the_first_heartbeat() {
    let system = TestSystem::start().await;
    let minted = enrollment(&system, &json!({})).await;
    let client = Client::bearer(&system, &text(&minted, "token"));
    let body = json!({ "name": "new", "board_id": BOARD, "status": "degraded" });
    let (shown, agent) = with_key(&client.post(HEARTBEAT_BY_NAME, &body).await);
    assert_eq!((text(&shown, "name"), text(&shown, "board_id")), ("new".into(), BOARD.into()));
    assert_eq!(shown["status"], "degraded");
    assert_eq!(shown["last_seen_at"], system.now().to_string());
    let (plain, _) = with_key(&client.heartbeat_as("plain").await);
    assert_eq!((text(&plain, "status"), &plain["board_id"]), ("online".into(), &Value::Null));
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
    let row = &system.event_rows(&agent.id).await[0];
    let actor = format!("enrollment:{}", text(&minted, "id"));
    assert_eq!(row["actor"], AttributeValue::S(actor));
    system.advance(Duration::from_secs(121));
    let operator = Client::operator(&system).await;
    assert_eq!(operator.show(&agent).await["status"], "offline", "its first lease runs");
}

#[tokio::test]
async fn a_name_means_the_same_agent_trimmed_and_another_on_another_board() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let heartbeat = async |name: &str, board: Option<&str>| {
        let reply = client.post(HEARTBEAT_BY_NAME, &json!({ "name": name, "board_id": board })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        (text(&reply.json(), "id"), has_key(&reply))
    };
    let (plain, _) = heartbeat("scout", None).await;
    assert_eq!(heartbeat("  scout\t", None).await, (plain.clone(), false));
    let (first, new) = heartbeat("scout", Some(BOARD)).await;
    assert!(new && first != plain);
    assert_eq!(heartbeat(" scout ", Some(&BOARD.to_uppercase())).await, (first.clone(), false));
    let (second, new) = heartbeat("scout", Some(OTHER_BOARD)).await;
    assert!(new && second != first && second != plain);
    let (other_case, new) = heartbeat("Scout", None).await;
    assert!(new && other_case != plain);
}

#[tokio::test]
async fn a_boards_token_is_for_that_board_which_it_also_fills_in() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "board_id": BOARD })).await;
    let client = Client::x_agent_token(&system, &token);
    let heartbeat = async |board: Value| {
        client.post(HEARTBEAT_BY_NAME, &json!({ "name": "member", "board_id": board })).await
    };
    assert_eq!(refused(&heartbeat(json!(OTHER_BOARD)).await), 403);
    let (own, _) = with_key(&heartbeat(Value::Null).await);
    assert_eq!(own["board_id"], BOARD);
    assert_eq!(agent_read(&heartbeat(json!(BOARD)).await)["id"], own["id"]);
    assert_eq!(refused(&heartbeat(json!(OTHER_BOARD)).await), 403);
}

#[tokio::test]
async fn an_expired_token_bars_creation_and_keeps_sending_heartbeats_for_its_agents() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "expires_in_seconds": 600 })).await;
    let client = Client::x_agent_token(&system, &token);
    let (_, agent) = with_key(&client.heartbeat_as("made").await);
    system.advance(just_before(Duration::from_mins(10)));
    with_key(&client.heartbeat_as("in time").await);
    system.advance(MILLI);
    assert_eq!(agent_read(&client.heartbeat_as("made").await)["id"], agent.id);
    let (status, detail) = refusal(&client.heartbeat_as("too late").await);
    assert_eq!(status, 403);
    assert!(detail.contains("expired"), "{detail}");
    system.advance(Duration::from_hours(400 * 24));
    assert_eq!(agent_read(&client.heartbeat_as("made").await)["id"], agent.id);
}

#[tokio::test]
async fn a_one_off_token_makes_one_agent_and_keeps_sending_heartbeats_for_it() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "reusable": false })).await;
    let client = Client::x_agent_token(&system, &token);
    let (_, agent) = with_key(&client.heartbeat_as("only").await);
    assert_eq!(agent_read(&client.heartbeat_as("only").await)["id"], agent.id);
    let (status, detail) = refusal(&client.heartbeat_as("second").await);
    assert_eq!(status, 403);
    assert!(detail.contains("used up"), "{detail}");
    system.advance(Duration::from_mins(2));
    assert_eq!(refused(&client.heartbeat_as("third").await), 403);
    assert_eq!(agent_read(&client.heartbeat_as("only").await)["id"], agent.id);
    let operator = Client::operator(&system).await;
    operator.delete(&agent_path(&agent.id, "")).await;
    assert_eq!(with_key(&client.heartbeat_as("only").await).1.id, agent.id, "its own agent comes back");
    assert_eq!(operator.fleet_size().await, 1);
}

#[tokio::test]
async fn a_one_off_token_under_20_names_at_once_makes_one_agent() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "reusable": false })).await;
    let replies = start_fleet(&system, &token, 20).await;
    let created: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert_eq!(created.len(), 1);
    with_key(created[0]);
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(refused(reply), 403);
    }
    assert_eq!(Client::operator(&system).await.fleet_size().await, 1);
}

/// The race that the read of the token does not see: both find it unused.
#[tokio::test]
async fn a_one_off_token_that_two_find_unused_is_used_once() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "reusable": false })).await;
    let client = Client::x_agent_token(&system, &token);
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(2));
    let release = async {
        gate.held(2).await;
        gate.let_through(2);
    };
    let ((one, two), ()) = join(join(client.heartbeat_as("one"), client.heartbeat_as("two")), release).await;
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
    assert_eq!(Client::operator(&system).await.fleet_size().await, 1);
}

/// An environment remembers a token for at most a minute.
#[tokio::test]
async fn deleting_a_token_bars_creation_at_once_and_ends_heartbeats_within_a_minute() {
    let system = TestSystem::start().await;
    let minted = enrollment(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &text(&minted, "token"));
    let (_, agent) = with_key(&client.heartbeat_as("made").await);
    let operator = Client::operator(&system).await;
    let deleted = operator.delete(&format!("{TOKENS}/{}", text(&minted, "id"))).await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({ "ok": true })));
    assert_eq!(refused(&client.heartbeat_as("new").await), 401);
    system.advance(Duration::from_mins(1));
    assert_eq!(refused(&client.heartbeat_as("made").await), 401);
    agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
}

#[tokio::test]
async fn an_agent_that_nobody_approved_is_not_heard_until_an_operator_approves() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({ "approved": false })).await;
    let client = Client::x_agent_token(&system, &token);
    let (shown, agent) = with_key(&client.heartbeat_as("candidate").await);
    assert_eq!((text(&shown, "status"), &shown["last_seen_at"]), ("provisioning".into(), &Value::Null));
    let own = Client::x_agent_token(&system, &agent.key);
    assert_eq!(refused(&client.heartbeat_as("candidate").await), 403);
    assert_eq!(refused(&own.touch(OWN_HEARTBEAT).await), 403);
    let verify = system.post("/api/agents/verify", &json!({ "apiKey": agent.key })).await;
    assert_eq!(verify.refusal(), (403, "APPROVAL_REQUIRED".to_owned()), "its own key is no approval");
    assert!(!system.row(&agent).await.contains_key("last_seen_at"));
    let operator = Client::operator(&system).await;
    system.advance(SECOND);
    agent_read(&operator.touch(&agent_path(&agent.id, "/approve")).await);
    assert_eq!(agent_read(&client.heartbeat_as("candidate").await)["status"], "online");
    assert_eq!(agent_read(&own.touch(OWN_HEARTBEAT).await)["status"], "online");
    assert_eq!(system.event_types(&agent).await, ["agent.registered", "agent.approved"]);
}

#[tokio::test]
async fn an_agent_that_nobody_approves_is_gone_with_its_retention_and_may_come_anew() {
    let system = TestSystem::with().parameter("PendingRetentionDays", 1).start().await;
    let token = enrollment_token(&system, &json!({ "approved": false })).await;
    let client = Client::x_agent_token(&system, &token);
    let (_, first) = with_key(&client.heartbeat_as("candidate").await);
    system.advance(Duration::from_hours(24));
    let operator = Client::operator(&system).await;
    assert_eq!(refused(&operator.get(&agent_path(&first.id, "")).await), 404);
    let (_, second) = with_key(&client.heartbeat_as("candidate").await);
    assert_eq!(second.id, first.id);
    assert_ne!(second.key, first.key);
}

#[tokio::test]
async fn the_names_of_another_namespace_are_other_agents() {
    let system = TestSystem::start().await;
    let tokens = [enrollment_token(&system, &json!({})).await, enrollment_token(&system, &json!({})).await];
    let [mine, theirs] = tokens.each_ref().map(|token| Client::x_agent_token(&system, token));
    let (_, agent) = with_key(&mine.heartbeat_as("shared-name").await);
    let (_, other) = with_key(&theirs.heartbeat_as("shared-name").await);
    assert_ne!(agent.id, other.id);
    let (_, by_operator) = with_key(&Client::operator(&system).await.heartbeat_as("shared-name").await);
    assert!(by_operator.id != agent.id && by_operator.id != other.id);
}

/// The row says whose names it is of; an address alone reaches nothing.
#[tokio::test]
async fn a_row_of_another_namespace_is_403() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let (_, agent) = with_key(&client.heartbeat_as("mine").await);
    let rows = system.dynamodb.update_item().table_name(system.table("AgentsTable"));
    rows.key("agent_id", AttributeValue::S(agent.id.clone()))
        .update_expression("SET namespace_id = :other")
        .expression_attribute_values(":other", AttributeValue::B(vec![7_u8; 16].into()))
        .send()
        .await
        .expect("the row");
    assert_eq!(refused(&client.heartbeat_as("mine").await), 403);
    agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
}

#[tokio::test]
async fn operators_create_by_heartbeat_in_one_namespace_of_theirs() {
    let system = TestSystem::start().await;
    let (one, two) = (Client::operator(&system).await, Client::operator(&system).await);
    let (shown, agent) = with_key(&one.heartbeat_as("by hand").await);
    assert_eq!(shown["status"], "online");
    assert_eq!(agent_read(&two.heartbeat_as("by hand").await)["id"], agent.id);
    assert_eq!(system.row(&agent).await["namespace_id"], AttributeValue::B(vec![0_u8; 16].into()));
    let actor = system.event_rows(&agent.id).await[0]["actor"].clone();
    assert!(actor.as_s().expect("a string").starts_with("operator:"));
}

#[tokio::test]
async fn a_deleted_agent_comes_back_under_a_new_key_and_a_revoked_one_does_not() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let (client, operator) = (Client::x_agent_token(&system, &token), Client::operator(&system).await);
    let (_, before) = with_key(&client.heartbeat_as("phoenix").await);
    system.advance(SECOND);
    operator.delete(&agent_path(&before.id, "")).await;
    system.advance(SECOND);
    let (_, after) = with_key(&client.heartbeat_as("phoenix").await);
    assert_eq!(after.id, before.id);
    assert_eq!(refused(&Client::x_agent_token(&system, &before.key).touch(OWN_HEARTBEAT).await), 401);
    agent_read(&Client::x_agent_token(&system, &after.key).touch(OWN_HEARTBEAT).await);
    assert_eq!(system.event_types(&after).await, ["agent.registered", "agent.deleted", "agent.registered"]);
    agent_read(&operator.touch(&agent_path(&after.id, "/revoke")).await);
    assert_eq!(refused(&client.heartbeat_as("phoenix").await), 403);
}

#[tokio::test]
async fn a_new_display_name_keeps_the_row_of_the_old_one() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let (client, operator) = (Client::x_agent_token(&system, &token), Client::operator(&system).await);
    let (_, agent) = with_key(&client.heartbeat_as("worker-7").await);
    let patch = json!({ "name": "Lovelace", "board_id": BOARD });
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &patch).await);
    let shown = agent_read(&client.heartbeat_as("worker-7").await);
    assert_eq!((text(&shown, "id"), text(&shown, "name")), (agent.id.clone(), "Lovelace".into()));
    assert_ne!(with_key(&client.heartbeat_as("Lovelace").await).1.id, agent.id);
}

#[tokio::test]
async fn an_agent_may_be_created_saying_offline() {
    let system = TestSystem::start().await;
    for reusable in [true, false] {
        let token = enrollment_token(&system, &json!({ "reusable": reusable })).await;
        let client = Client::x_agent_token(&system, &token);
        let body = json!({ "name": "short visit", "status": "offline" });
        let (shown, agent) = with_key(&client.post(HEARTBEAT_BY_NAME, &body).await);
        assert_eq!(shown["status"], "offline");
        system.advance(SECOND);
        assert_eq!(agent_read(&client.heartbeat_as("short visit").await)["status"], "online");
        let types = system.event_types(&agent).await;
        assert_eq!(types, ["agent.registered", "agent.offline", "agent.online"], "reusable: {reusable}");
    }
}

/// Under the enrollment token the steady heartbeat adds at most one read, remembered for a minute.
#[tokio::test]
async fn a_steady_heartbeat_by_token_is_one_write_and_at_most_one_read_a_minute() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    system.proxy.take();
    with_key(&client.heartbeat_as("steady").await);
    let creation = system.proxy.take();
    assert_eq!(
        creation.operations(),
        ["GetItem", "UpdateItem", "UpdateItem", "GetItem", "TransactWriteItems", "UpdateItem"],
        "the token, its hour, no row to renew, the token anew, the row and its event, the token's uses"
    );
    // (seconds since the heartbeat before, operations, read units, write units)
    for (seconds, operations, reads, writes) in [
        (0, &["UpdateItem"][..], 0.0, 1.0),
        (59, &["UpdateItem"], 0.0, 1.0),
        (1, &["GetItem", "UpdateItem"], 1.0, 1.0),
        (30, &["UpdateItem"], 0.0, 1.0),
        (30, &["GetItem", "UpdateItem"], 1.0, 1.0),
        (300, &["GetItem", "UpdateItem"], 1.0, 1.0),
    ] {
        system.advance(Duration::from_secs(seconds));
        agent_read(&client.heartbeat_as("steady").await);
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), operations, "{seconds} s later");
        assert_eq!((tally.read_units(), tally.write_units()), (reads, writes), "{seconds} s later");
    }
    // A new hour's first use is noted in the token's row.
    system.advance(Duration::from_hours(1));
    agent_read(&client.heartbeat_as("steady").await);
    assert_eq!(system.proxy.take().operations(), ["GetItem", "UpdateItem", "UpdateItem"]);
    // Another agent under the same token: it is remembered already.
    with_key(&client.heartbeat_as("second").await);
    assert_eq!(
        system.proxy.take().operations(),
        ["UpdateItem", "GetItem", "TransactWriteItems", "UpdateItem"]
    );
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_on_the_way_shows_the_key_that_is_stored() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let lost = system.proxy.inject(When::operation("TransactWriteItems").times(1), Fault::DropAnswer);
    let (_, agent) = with_key(&client.heartbeat_as("resent").await);
    assert_eq!(lost.hits(), 1);
    agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
}

/// Contract: if the winner's answer is lost, the token still sends heartbeats, and a rotation gives a new key.
#[tokio::test]
async fn an_agent_whose_key_nobody_saw_is_heard_by_token_and_gets_a_key_by_rotation() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let (client, operator) = (Client::x_agent_token(&system, &token), Client::operator(&system).await);
    system.proxy.inject(When::operation("TransactWriteItems"), Fault::DropAnswer);
    assert_eq!(refused(&client.heartbeat_as("keyless").await), 503);
    system.proxy.clear_rules();
    let shown = agent_read(&client.heartbeat_as("keyless").await);
    system.advance(SECOND);
    let (_, agent) = with_key(&operator.touch(&agent_path(&text(&shown, "id"), "/rotate-key")).await);
    agent_read(&Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await);
    assert_eq!(system.event_types(&agent).await, ["agent.registered", "agent.key_rotated"]);
}

/// Contract: who meets a conflict sends its heartbeat again and answers 200 without `agent_token`.
#[tokio::test]
async fn a_conflict_with_another_creation_of_the_name_ends_in_a_heartbeat() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let transactions = || When::operation("TransactWriteItems").times(1);
    let conflict = system.proxy.inject(transactions(), Fault::TransactionConflict);
    let second_try = system.proxy.hold(transactions());
    let winner = async {
        second_try.held(1).await;
        let winner = client.heartbeat_as("contested").await;
        second_try.let_through(1);
        winner
    };
    let (loser, winner) = join(client.heartbeat_as("contested"), winner).await;
    assert_eq!(conflict.hits(), 1);
    let (_, agent) = with_key(&winner);
    assert_eq!(agent_read(&loser)["id"], agent.id);
    assert_eq!(system.event_types(&agent).await, ["agent.registered"]);
}

/// A conflict may also be with a transaction that came to nothing, or with another agent's on the same token.
#[tokio::test]
async fn a_conflict_that_left_no_agent_is_followed_by_another_creation() {
    let system = TestSystem::start().await;
    for reusable in [true, false] {
        let token = enrollment_token(&system, &json!({ "reusable": reusable })).await;
        let client = Client::x_agent_token(&system, &token);
        let conflict =
            system.proxy.inject(When::operation("TransactWriteItems").times(2), Fault::TransactionConflict);
        with_key(&client.heartbeat_as("patient").await);
        assert_eq!(conflict.hits(), 2, "reusable: {reusable}");
    }
    let token = enrollment_token(&system, &json!({})).await;
    system.proxy.inject(When::operation("TransactWriteItems"), Fault::TransactionConflict);
    let reply = Client::x_agent_token(&system, &token).heartbeat_as("hopeless").await;
    assert_eq!(refused(&reply), 503);
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn the_creating_answer_carries_the_workspace_if_it_is_asked_for() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let path = format!("{HEARTBEAT_BY_NAME}?workspace=true");
    let reply = client.post(&path, &json!({ "name": "equipped" })).await;
    let (shown, agent) = with_key(&reply);
    assert!(text(&shown["files"], "TOOLS.md").contains(&format!("AUTH_TOKEN={}\n", agent.key)));
    assert!(text(&shown["files"], "HEARTBEAT.md").contains("/api/v1/agent/heartbeat"));
    assert!(!reply.text.contains(&token));
    agent_read(&client.post(&path, &json!({ "name": "equipped" })).await);
    let (plain, _) = with_key(&client.heartbeat_as("plain").await);
    assert_eq!(plain.get("files"), None);
}

#[tokio::test]
async fn a_heartbeat_by_token_needs_a_good_token_and_a_good_name() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    for unknown in [format!("rce_{NOBODY}"), format!("rco_{NOBODY}"), "rce_short".to_owned()] {
        let client = Client::bearer(&system, &unknown);
        assert_eq!(refused(&client.heartbeat_as("nobody").await), 401, "{unknown}");
        assert_eq!(refused(&client.post(HEARTBEAT_BY_NAME, &json!([])).await), 401, "{unknown}");
    }
    let forged = format!("{}{}", &token[..20], &NOBODY[16..]);
    assert_eq!(refused(&Client::x_agent_token(&system, &forged).heartbeat_as("nobody").await), 401);
    let client = Client::x_agent_token(&system, &token);
    for (body, loc) in [
        (json!({}), "body.name"),
        (json!({ "name": null }), "body.name"),
        (json!({ "name": "   " }), "body.name"),
        (json!({ "name": "x".repeat(101) }), "body.name"),
        (json!({ "name": "a\u{0}b" }), "body.name"),
        (json!({ "name": "a", "board_id": "b" }), "body.board_id"),
        (json!({ "name": "a", "status": "asleep" }), "body.status"),
        (json!(["a"]), "body"),
    ] {
        assert_eq!(invalid(&client.post(HEARTBEAT_BY_NAME, &body).await), loc, "{body}");
    }
    assert_eq!(invalid(&client.touch(HEARTBEAT_BY_NAME).await), "body.name");
    assert_eq!(Client::operator(&system).await.fleet_size().await, 0);
}

#[tokio::test]
async fn a_token_and_the_agents_own_key_share_the_agents_limit() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 3).start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let client = Client::x_agent_token(&system, &token);
    let (_, agent) = with_key(&client.heartbeat_as("eager").await);
    let own = Client::x_agent_token(&system, &agent.key);
    agent_read(&own.touch(OWN_HEARTBEAT).await);
    agent_read(&client.heartbeat_as("eager").await);
    assert_eq!(refused(&client.heartbeat_as("eager").await), 429);
    assert_eq!(refused(&own.touch(OWN_HEARTBEAT).await), 429);
    with_key(&client.heartbeat_as("another").await);
    system.advance(30 * SECOND);
    agent_read(&client.heartbeat_as("eager").await);
}
