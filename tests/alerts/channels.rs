//! The routes of channels.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use shared::domain::channel::{Channel, ChannelId, SecretsPatch};
use shared::domain::event::Actor;
use shared::domain::fleet::{BoardCounts, Counts, Fleet, Named};
use shared::domain::ids::BoardId;
use standardwebhooks::Webhook;
use uuid::Uuid;

use super::delivery::queue;
use super::{READS, SECRET, telling};
use crate::mission_control::client::{BOARD, Client, NO_AGENT, OTHER_BOARD, invalid, keys, refused, text};
use crate::support::receiver::{Received, Receiver};
use crate::support::{Reply, START, TestSystem};

const CHANNELS: &str = "/api/v1/channels";

fn path(id: &str, action: &str) -> String {
    format!("{CHANNELS}/{id}{action}")
}

/// Every key of a channel as it is shown.
const CHANNEL_READ: [&str; 13] = [
    "id",
    "kind",
    "label",
    "concerns",
    "board_id",
    "target",
    "state",
    "disabled_reason",
    "failing_since",
    "last_ok_at",
    "tested_at",
    "created_at",
    "updated_at",
];

/// Makes a channel: as it is shown, with its secret if it has one.
pub async fn create(operator: &Client<'_>, body: &Value) -> Value {
    let reply = operator.post(CHANNELS, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn webhook(operator: &Client<'_>, receiver: &Receiver) -> Value {
    create(operator, &json!({ "kind": "webhook", "url": receiver.url() })).await
}

async fn list(operator: &Client<'_>) -> Vec<Value> {
    let reply = operator.get(CHANNELS).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["items"].as_array().expect("a list").clone()
}

async fn deliveries(operator: &Client<'_>, id: &str, query: &str) -> Vec<Value> {
    let reply = operator.get(&path(id, &format!("/deliveries{query}"))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["items"].as_array().expect("a list").clone()
}

#[track_caller]
fn refused_with(reply: &Reply, status: u16, detail: &str) {
    assert_eq!((refused(reply), &reply.json()["detail"]), (status, &json!(detail)));
}

/// The channel's row, as the sweep reads it.
async fn row(system: &TestSystem, shown: &Value) -> Channel {
    let id = ChannelId::of(Uuid::parse_str(&text(shown, "id")).expect("an id"));
    system.store(READS).channel(id).await.expect("an answer").expect("a channel")
}

/// The types that a receiver was sent since this was last asked.
fn types(receiver: &Receiver) -> Vec<String> {
    receiver.take().iter().map(|received| text(&received.json(), "type")).collect()
}

async fn events(system: &TestSystem, shown: &Value) -> Vec<Value> {
    let rows = system.event_rows(&format!("channel#{}", text(shown, "id"))).await;
    let read = |row: &crate::support::Row| {
        let payload: Value =
            serde_json::from_str(crate::support::text(row, "payload").expect("a payload")).expect("JSON");
        json!([crate::support::text(row, "event_type"), payload])
    };
    rows.iter().map(read).collect()
}

/// The summary that a sweep would have written.
async fn summary(system: &TestSystem, fleet: &Fleet) {
    let mut row: std::collections::HashMap<String, AttributeValue> =
        serde_dynamo::aws_sdk_dynamodb_1::to_item(fleet).expect("a row");
    row.insert("alert_log".to_owned(), AttributeValue::S("control".to_owned()));
    row.insert("alert_key".to_owned(), AttributeValue::S("fleet".to_owned()));
    let put = system.dynamodb.put_item().table_name(system.table("AlertsTable")).set_item(Some(row));
    put.send().await.expect("a write");
}

fn silent(place: usize, board: Option<&str>) -> Named {
    let board_id = board.map(|board| Uuid::parse_str(board).expect("a UUID"));
    let name = format!("builder-{place}");
    serde_json::from_value(
        json!({ "id": Uuid::from_u128(place as u128), "name": name, "board_id": board_id, "concern": "offline" }),
    )
    .expect("an agent")
}

fn fleet() -> Fleet {
    let mut told: Vec<Named> = (0..12).map(|place| silent(place, Some(BOARD))).collect();
    told.push(silent(12, None));
    let counts = Counts { agents: 200, live: 180, offline: 20, ..Counts::default() };
    let board_id = Some(BoardId::of(Uuid::parse_str(BOARD).expect("a UUID")));
    let board = Counts { agents: 30, live: 18, offline: 12, ..Counts::default() };
    Fleet {
        as_of: START,
        seq: 41,
        deaf_since: None,
        counts,
        boards: vec![BoardCounts { board_id, counts: board }],
        told,
        more: 7,
    }
}

#[tokio::test]
async fn a_channels_secret_is_shown_once_and_its_address_never() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = create(
        &operator,
        &json!({ "kind": "webhook", "url": receiver.url(), "label": "ops", "concerns": ["offline"], "board_id": BOARD }),
    )
    .await;
    let secret = text(&made, "secret");
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert_eq!(keys(&made), CHANNEL_READ.into_iter().chain(["secret"]).collect::<BTreeSet<_>>());
    let [shown] = &list(&operator).await[..] else { panic!("one channel") };
    assert_eq!(keys(shown), BTreeSet::from(CHANNEL_READ));
    for field in CHANNEL_READ {
        assert_eq!(shown[field], made[field], "{field}");
    }
    assert_eq!(
        (&shown["label"], &shown["concerns"], &shown["board_id"]),
        (&json!("ops"), &json!(["offline"]), &json!(BOARD))
    );
    assert_eq!((&shown["state"], &shown["kind"]), (&json!("enabled"), &json!("webhook")));
    let end = receiver.url().split_off(receiver.url().len() - 4);
    assert_eq!(
        text(shown, "target"),
        format!("http://{}/…{end}", receiver.url().split('/').nth(2).expect("a host"))
    );
    let [row] = &system.rows("SecretsTable").await[..] else { panic!("one row") };
    assert_eq!(crate::support::text(row, "signing_secret"), Some(&*secret));
    assert_eq!(crate::support::text(row, "target_url"), Some(&*receiver.url()));
    let [event] = &events(&system, &made).await[..] else { panic!("one event") };
    assert_eq!(event[0], "channel.created");
    let own = json!({ "kind": "webhook", "url": receiver.url(), "secret": SECRET });
    assert_eq!(create(&operator, &own).await["secret"], SECRET, "one that was brought along");
    let slack = create(&operator, &json!({ "kind": "slack", "url": receiver.url() })).await;
    assert_eq!(keys(&slack), BTreeSet::from(CHANNEL_READ), "nothing to sign by");
}

#[tokio::test]
async fn what_may_be_called_is_judged_at_creation_and_at_a_change() {
    let system = TestSystem::with().parameter("WebhookTargets", "public").start().await;
    let operator = Client::operator(&system).await;
    let url = "https://receiver.example/a-long-secret-path";
    let made = create(&operator, &json!({ "kind": "webhook", "url": url })).await;
    for bad in [
        "http://receiver.example/secret",
        "https://127.0.0.1/secret",
        "https://[::1]/secret",
        "https://u:p@receiver.example/secret",
        "https://receiver.example:22/secret",
        "secret",
    ] {
        for reply in [
            operator.post(CHANNELS, &json!({ "kind": "webhook", "url": bad })).await,
            operator.patch(&path(&text(&made, "id"), ""), &json!({ "url": bad })).await,
        ] {
            assert_eq!(invalid(&reply), "body.url");
            assert!(!reply.text.contains("secret"), "{}", reply.text);
        }
    }
    assert_eq!(list(&operator).await.len(), 1);
}

#[tokio::test]
async fn the_51st_channel_is_refused() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let body = json!({ "kind": "slack", "url": "https://receiver.example/" });
    for _ in 0..50 {
        create(&operator, &body).await;
    }
    refused_with(&operator.post(CHANNELS, &body).await, 409, "there are 50 channels: delete one first");
}

/// ⚠ What is down already is in no message that a new channel will hear.
#[tokio::test]
async fn a_new_channel_first_hears_what_is_down_now() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let early = webhook(&operator, &receiver).await;
    assert_eq!(row(&system, &early).await.heard_from, 0);
    system.deliver().await;
    let [hello] = &receiver.take()[..] else { panic!("one request") };
    assert_eq!(hello.json()["type"], "channel.hello");
    assert_eq!(keys(&hello.json()["data"]), BTreeSet::from(["channel"]), "no sweep has run");

    summary(&system, &fleet()).await;
    let made = webhook(&operator, &receiver).await;
    assert_eq!(row(&system, &made).await.heard_from, 41, "messages up to then are in its greeting");
    assert_eq!(system.pump().await.len(), 1, "it rings");
    let [hello] = &receiver.take()[..] else { panic!("one request") };
    let data = &hello.json()["data"];
    assert_eq!(
        (&data["seq"], &data["as_of"], &data["more"]),
        (&json!(41), &json!(START.to_string()), &json!(10))
    );
    assert_eq!(data["agents"].as_array().expect("agents").len(), 10);
    assert_eq!(data["agents"][0]["name"], "builder-0");
    assert_eq!((&data["fleet"]["agents"], &data["fleet"]["live"]), (&json!(200), &json!(180)));

    let slack = create(&operator, &json!({ "kind": "slack", "url": receiver.url() })).await;
    system.deliver().await;
    let [hello] = &receiver.take()[..] else { panic!("one request") };
    let words = text(&hello.json(), "text");
    let head = format!(
        "This channel hears of alerts from now on. At {START} 20 agents were in trouble: Live: 180 of 200."
    );
    assert!(words.starts_with(&head), "{words}");
    assert!(words.ends_with("\n• `builder-9`: silent\n… and 10 more"), "{words}");
    assert_eq!(deliveries(&operator, &text(&slack, "id"), "").await[0]["type"], "channel.hello");
}

#[tokio::test]
async fn a_boards_channel_is_greeted_with_its_own_agents_and_counts_alone() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    summary(&system, &fleet()).await;
    for (board, named, more, offline) in [(BOARD, 10, 2, json!(12)), (OTHER_BOARD, 0, 0, Value::Null)] {
        create(&operator, &json!({ "kind": "webhook", "url": receiver.url(), "board_id": board })).await;
        system.deliver().await;
        let [hello] = &receiver.take()[..] else { panic!("one request") };
        let data = &hello.json()["data"];
        assert_eq!(data.get("fleet"), None);
        assert_eq!(data["agents"].as_array().expect("agents").len(), named);
        assert_eq!((&data["more"], &data["board"]["offline"]), (&json!(more), &offline));
    }
    create(&operator, &json!({ "kind": "webhook", "url": receiver.url(), "concerns": ["error"] })).await;
    system.deliver().await;
    let [hello] = &receiver.take()[..] else { panic!("one request") };
    assert_eq!(hello.json()["data"]["agents"], json!([]), "of what it does not hear it is told nothing");
}

#[tokio::test]
async fn a_resumed_channel_is_greeted_and_hears_from_then_on() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    system.deliver().await;
    receiver.take();
    let patch = async |body: Value| {
        let reply = operator.patch(&path(&text(&made, "id"), ""), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    };
    assert_eq!(patch(json!({ "state": "enabled" })).await["state"], "enabled");
    assert_eq!(patch(json!({ "state": "paused" })).await["state"], "paused");
    summary(&system, &fleet()).await;
    system.pump().await;
    system.deliver().await;
    assert_eq!(types(&receiver), [""; 0]);
    assert_eq!(patch(json!({ "state": "enabled" })).await["state"], "enabled");
    assert_eq!(row(&system, &made).await.heard_from, 41);
    system.pump().await;
    assert_eq!(types(&receiver), ["channel.hello"]);
    let told: Vec<Value> = events(&system, &made).await;
    let states: Vec<_> = told.iter().map(|event| json!([event[0], event[1]["after"]["state"]])).collect();
    assert_eq!(
        states,
        [
            json!(["channel.created", "enabled"]),
            json!(["channel.updated", "paused"]),
            json!(["channel.updated", "enabled"])
        ],
        "what changes nothing leaves no event"
    );
}

#[tokio::test]
async fn a_disabled_channel_is_enabled_by_an_operator() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::answering(410).await;
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    system.deliver().await;
    let shown = list(&operator).await.remove(0);
    assert_eq!((&shown["state"], &shown["disabled_reason"]), (&json!("disabled"), &json!("gone")));
    receiver.answer(204);
    receiver.take();
    let reply = operator.patch(&path(&id, ""), &json!({ "state": "enabled" })).await.json();
    assert_eq!((&reply["state"], &reply["disabled_reason"]), (&json!("enabled"), &Value::Null));
    system.deliver().await;
    assert_eq!(types(&receiver), ["channel.hello"]);
}

#[tokio::test]
async fn a_channel_is_changed_field_by_field() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    let made = webhook(&operator, &old).await;
    let id = text(&made, "id");
    let patch = async |body: Value| operator.patch(&path(&id, ""), &body).await.json();
    let changed = patch(json!({ "label": "night", "board_id": BOARD, "concerns": ["waiting"] })).await;
    assert_eq!(
        (&changed["label"], &changed["board_id"], &changed["concerns"]),
        (&json!("night"), &json!(BOARD), &json!(["waiting"]))
    );
    let changed = patch(json!({ "label": null, "board_id": null })).await;
    assert_eq!(
        (&changed["label"], &changed["board_id"], &changed["concerns"]),
        (&Value::Null, &Value::Null, &json!(["waiting"]))
    );
    assert_eq!(list(&operator).await, [changed]);
    system.deliver().await;
    old.take();
    let changed = patch(json!({ "url": new.url() })).await;
    assert_ne!(changed["target"], made["target"]);
    queue(&system, &row(&system, &made).await, 1).await;
    system.deliver().await;
    assert_eq!((old.take().len(), new.take().len()), (0, 1));
    let told = events(&system, &made).await;
    assert_eq!(told.last().expect("an event")[1]["url_changed"], true);
}

#[tokio::test]
async fn a_change_of_what_somebody_else_changed_meanwhile_is_refused() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let made = webhook(&operator, &Receiver::start().await).await;
    let seen = row(&system, &made).await;
    assert_eq!(operator.patch(&path(&text(&made, "id"), ""), &json!({ "label": "first" })).await.status, 200);
    let store = system.store(READS);
    let second = Channel { label: Some("second".to_owned()), ..seen.clone() };
    let done =
        store.update_channel(&seen, &second, &SecretsPatch::default(), None, Actor::System, START).await;
    assert!(!done.expect("an answer"));
    assert_eq!(list(&operator).await[0]["label"], "first");
}

#[tokio::test]
async fn while_a_rotation_overlaps_both_secrets_sign() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    let (id, first) = (text(&made, "id"), text(&made, "secret"));
    system.deliver().await;
    receiver.take();
    let rotate = json!({ "rotate_secret": { "overlap_seconds": 3600 } });
    let second = text(&operator.patch(&path(&id, ""), &rotate).await.json(), "secret");
    assert_ne!(first, second);
    let signers = async |seq: u64| -> Vec<&str> {
        queue(&system, &row(&system, &made).await, seq).await;
        system.deliver().await;
        let one = receiver.take().remove(0);
        let sign = |secret: &str| {
            let (id, at) = (one.header("webhook-id"), one.header("webhook-timestamp"));
            let at = at.parse().expect("seconds");
            Webhook::new(secret).expect("a secret").sign(id, at, one.body.as_bytes()).expect("a signature")
        };
        let names = [(sign(&second), "second"), (sign(&first), "first")];
        let of =
            |signature: &str| names.iter().find(|(it, _)| it == signature).map_or("nobody", |(_, name)| name);
        one.header("webhook-signature").split(' ').map(of).collect()
    };
    assert_eq!(signers(1).await, ["second", "first"]);
    system.advance(Duration::from_mins(61));
    assert_eq!(signers(2).await, ["second"]);
    let slack = create(&operator, &json!({ "kind": "slack", "url": receiver.url() })).await;
    assert_eq!(invalid(&operator.patch(&path(&text(&slack, "id"), ""), &rotate).await), "body.rotate_secret");
}

/// ⚠ A stolen token is no cannon.
#[tokio::test]
async fn a_channel_is_tested_once_in_ten_seconds() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    system.pump().await;
    receiver.take();
    let test = async || operator.touch(&path(&id, "/test")).await;
    let reply = test().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    system.pump().await;
    let [one] = &receiver.take()[..] else { panic!("one request") };
    assert_eq!(one.json()["type"], "channel.test");
    assert_eq!(one.header("webhook-id"), format!("msg_{}", text(&reply.json(), "id")));
    system.advance(Duration::from_millis(9_500));
    let soon = test().await;
    assert_eq!((soon.status, soon.header("retry-after")), (429, Some("1")), "{}", soon.text);
    system.advance(Duration::from_millis(500));
    assert_eq!(test().await.status, 200);
    let at_once = futures_util::future::join_all((0..8).map(|_| test())).await;
    assert!(at_once.iter().all(|reply| reply.status == 429));
    system.pump().await;
    assert_eq!(receiver.take().len(), 1);
    let listed = deliveries(&operator, &id, "").await;
    let types: Vec<_> = listed.iter().map(|one| (text(one, "type"), one["seq"].clone())).collect();
    let expected = ["channel.test", "channel.test", "channel.hello"];
    assert_eq!(types, expected.map(|name| (name.to_owned(), Value::Null)));
    operator.patch(&path(&id, ""), &json!({ "state": "paused" })).await.json();
    system.advance(Duration::from_secs(10));
    refused_with(&test().await, 409, "the channel is paused or disabled: enable it first");
}

#[tokio::test]
async fn what_failed_is_sent_again_by_the_id_that_its_receiver_knows() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    system.deliver().await;
    let channel = row(&system, &made).await;
    for seq in 1..=3 {
        queue(&system, &channel, seq).await;
    }
    receiver.answer(500);
    while !deliveries(&operator, &id, "?state=pending").await.is_empty() {
        system.deliver().await;
        system.advance(Duration::from_hours(30));
    }
    receiver.answer(204);
    let ids = |received: &[Received]| -> BTreeSet<String> {
        received.iter().map(|one| one.header("webhook-id").to_owned()).collect()
    };
    let failed: Vec<Received> = receiver.take().split_off(1);
    assert_eq!((failed.len(), ids(&failed).len()), (30, 3));
    // Days of nothing but failures have disabled it.
    assert_eq!(operator.patch(&path(&id, ""), &json!({ "state": "enabled" })).await.status, 200);
    system.deliver().await;
    assert_eq!(types(&receiver), ["channel.hello"]);
    let again = async |body: Value| operator.post(&path(&id, "/redeliver"), &body).await;
    assert_eq!(again(json!({ "seq": 2 })).await.json(), json!({ "queued": 1 }));
    let soon = again(json!({ "seq": 2 })).await;
    assert_eq!((soon.status, soon.header("retry-after")), (429, Some("60")), "{}", soon.text);
    system.deliver().await;
    let one = receiver.take();
    assert_eq!(one.len(), 1);
    assert!(ids(&one).is_subset(&ids(&failed)));
    let listed = deliveries(&operator, &id, "?state=delivered").await;
    let last = listed.last().expect("a delivery");
    assert_eq!((&last["seq"], last["attempts"].as_array().map(Vec::len)), (&json!(2), Some(1)));
    system.advance(Duration::from_mins(1));
    let since = system.now().to_string();
    assert_eq!(again(json!({ "failed_since": since })).await.json(), json!({ "queued": 0 }));
    system.advance(Duration::from_mins(1));
    assert_eq!(again(json!({ "failed_since": START.to_string() })).await.json(), json!({ "queued": 2 }));
    system.deliver().await;
    assert_eq!(receiver.take().len(), 2);
    system.advance(Duration::from_mins(1));
    assert_eq!(again(json!({ "seq": 99 })).await.json(), json!({ "queued": 0 }));
    system.advance(Duration::from_mins(1));
    assert_eq!(invalid(&again(json!({})).await), "body.seq");
    assert_eq!(
        again(json!({ "seq": 1 })).await.json(),
        json!({ "queued": 1 }),
        "a bad request takes no turn"
    );
}

#[tokio::test]
async fn deliveries_are_listed_page_by_page_the_newest_first() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    system.deliver().await;
    let channel = row(&system, &made).await;
    for seq in 1..=6 {
        queue(&system, &channel, seq).await;
    }
    receiver.answer(500);
    system.deliver().await;
    let shown = &deliveries(&operator, &id, "?limit=2").await[1];
    assert_eq!(
        keys(shown),
        BTreeSet::from(["id", "seq", "type", "state", "queued_at", "attempts", "next_attempt_at"])
    );
    assert_eq!(
        (&shown["seq"], &shown["type"], &shown["state"]),
        (&json!(6), &json!("agent.offline"), &json!("pending"))
    );
    let attempt = &shown["attempts"][0];
    assert_eq!(keys(attempt), BTreeSet::from(["at", "status", "ms", "error"]));
    assert_eq!((&attempt["status"], &attempt["error"]), (&json!(500), &Value::Null));
    for state in ["", "&state=pending"] {
        let (mut seqs, mut query) = (Vec::new(), format!("?limit=3{state}"));
        loop {
            let page = operator.get(&path(&id, &format!("/deliveries{query}"))).await.json();
            seqs.extend(page["items"].as_array().expect("a list").iter().map(|one| one["seq"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            query = format!("?limit=3{state}&before={next}");
        }
        let greeting = if state.is_empty() { vec![Value::Null] } else { Vec::new() };
        let expected: Vec<Value> = greeting.into_iter().chain((1..=6).rev().map(|seq| json!(seq))).collect();
        assert_eq!(seqs, expected);
    }
    for (query, field) in [("?state=late", "state"), ("?limit=0", "limit"), ("?before=a%20b", "before")] {
        let reply = operator.get(&path(&id, &format!("/deliveries{query}"))).await;
        assert_eq!(reply.status, 422, "{query}");
        assert!(reply.text.contains(field), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_deleted_channel_takes_its_secrets_and_what_waits_along() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    queue(&system, &row(&system, &made).await, 1).await;
    assert_eq!(operator.delete(&path(&id, "")).await.json(), json!({ "ok": true }));
    assert!(system.rows("SecretsTable").await.is_empty());
    for delivery in system.rows("AlertsTable").await {
        assert_eq!(crate::support::text(&delivery, "delivery_state"), Some("canceled"));
        assert_eq!(crate::support::text(&delivery, "due"), None);
    }
    system.pump().await;
    system.deliver().await;
    assert_eq!(receiver.take().len(), 0);
    assert_eq!(list(&operator).await.len(), 0);
    assert_eq!(operator.delete(&path(&id, "")).await.status, 200, "gone already");
    let told = events(&system, &made).await;
    assert_eq!((told.len(), &told[1][0]), (2, &json!("channel.deleted")));
}

#[tokio::test]
async fn a_channel_that_is_not_there_is_404() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let replies: [Reply; 4] = [
        operator.patch(&path(NO_AGENT, ""), &json!({ "label": "x" })).await,
        operator.touch(&path(NO_AGENT, "/test")).await,
        operator.post(&path(NO_AGENT, "/redeliver"), &json!({ "seq": 1 })).await,
        operator.get(&path(NO_AGENT, "/deliveries")).await,
    ];
    for reply in replies {
        refused_with(&reply, 404, "no such channel");
    }
    assert_eq!(operator.get(&path("nonsense", "/deliveries")).await.status, 422);
    assert!(system.rows("ChannelsTable").await.is_empty(), "none was made by the way");
}

#[tokio::test]
async fn a_boards_operator_sees_and_changes_that_boards_channels_alone() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let with = async |fields: Value| {
        let mut request = json!({ "kind": "operator" });
        for (name, value) in fields.as_object().expect("fields") {
            request[name] = value.clone();
        }
        text(&system.mint(&request).await, "token")
    };
    let boards = Client::bearer(&system, &with(json!({ "board_id": BOARD })).await);
    let viewer = Client::bearer(&system, &with(json!({ "role": "viewer" })).await);
    let body =
        |board: Value| json!({ "kind": "slack", "url": "https://receiver.example/", "board_id": board });
    let all = create(&operator, &body(Value::Null)).await;
    let others = create(&operator, &body(json!(OTHER_BOARD))).await;
    let own = create(&boards, &body(json!(BOARD))).await;
    for board in [Value::Null, json!(OTHER_BOARD)] {
        assert_eq!(refused(&boards.post(CHANNELS, &body(board.clone())).await), 403);
        let moved = boards.patch(&path(&text(&own, "id"), ""), &json!({ "board_id": board })).await;
        assert_eq!(refused(&moved), 403);
    }
    assert_eq!(list(&boards).await, std::slice::from_ref(&own));
    assert_eq!(list(&viewer).await.len(), 3);
    assert_eq!(deliveries(&viewer, &text(&all, "id"), "").await.len(), 1);
    let refusals = async |client: &Client<'_>, id: &str| {
        let replies = [
            client.patch(&path(id, ""), &json!({ "state": "paused" })).await,
            client.touch(&path(id, "/test")).await,
            client.post(&path(id, "/redeliver"), &json!({ "seq": 1 })).await,
            client.delete(&path(id, "")).await,
        ];
        assert_eq!(replies.map(|reply| refused(&reply)), [403; 4]);
    };
    for id in [text(&all, "id"), text(&others, "id")] {
        refusals(&boards, &id).await;
        assert_eq!(refused(&boards.get(&path(&id, "/deliveries")).await), 403);
    }
    refusals(&viewer, &text(&own, "id")).await;
    assert_eq!(operator.touch(&path(&text(&all, "id"), "/test")).await.status, 200, "no turn was taken");
    assert_eq!(boards.touch(&path(&text(&own, "id"), "/test")).await.status, 200);
    assert_eq!(boards.delete(&path(&text(&own, "id"), "")).await.status, 200);
}

#[tokio::test]
async fn no_address_and_no_secret_is_in_any_answer_or_event() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::answering(400).await;
    let mut answers = Vec::new();
    let mut secrets = vec![receiver.url()[receiver.url().len() - 20..].to_owned(), "T0-secret".to_owned()];
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    secrets.push(text(&made, "secret"));
    system.deliver().await;
    let rotate = json!({ "rotate_secret": {}, "url": receiver.url(), "label": "x" });
    let rotated = operator.patch(&path(&id, ""), &rotate).await.json();
    secrets.push(text(&rotated, "secret"));
    for secret in [&made, &rotated] {
        let mut shown = secret.clone();
        shown.as_object_mut().expect("an object").remove("secret");
        answers.push(shown.to_string());
    }
    let bad = json!({ "kind": "webhook", "url": receiver.url(), "secret": "whsec_T0-secret" });
    answers.push(operator.post(CHANNELS, &bad).await.text);
    let bad = json!({ "kind": format!("T0-secret{}", receiver.url()), "url": "x:T0-secret" });
    answers.push(operator.post(CHANNELS, &bad).await.text);
    answers.push(operator.get(CHANNELS).await.text);
    answers.push(operator.touch(&path(&id, "/test")).await.text);
    let report = system.deliver().await;
    answers.push(report.to_string());
    answers.push(operator.post(&path(&id, "/redeliver"), &json!({ "seq": 1 })).await.text);
    answers.push(operator.get(&path(&id, "/deliveries")).await.text);
    receiver.answer(410);
    system.advance(Duration::from_hours(1));
    answers.push(system.deliver().await.to_string());
    answers.push(operator.get(CHANNELS).await.text);
    answers.push(operator.delete(&path(&id, "")).await.text);
    for table in ["EventsTable", "AlertsTable", "ChannelsTable", "TokensTable"] {
        answers.extend(system.rows(table).await.iter().map(|row| format!("{row:?}")));
    }
    assert!(answers.len() > 20, "{}", answers.len());
    for secret in secrets {
        let secret = secret.strip_prefix("whsec_").unwrap_or(&secret);
        for answer in &answers {
            assert!(!answer.contains(secret), "{secret}: {answer}");
        }
    }
}

#[tokio::test]
async fn what_channels_cost_is_what_the_document_says() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let receiver = Receiver::start().await;
    list(&operator).await;
    system.proxy.take();
    let cost = |what: &str, expected: (usize, f64, f64)| {
        let tally = system.proxy.take();
        assert_eq!((tally.requests(), tally.write_units(), tally.read_units()), expected, "{what}");
    };
    let made = webhook(&operator, &receiver).await;
    let id = text(&made, "id");
    cost("POST", (3, 11.0, 2.0));
    system.deliver().await;
    cost("a delivery, and a run of one channel", (6, 6.0, 2.5));
    system.deliver().await;
    cost("a run of one channel with nothing due", (2, 0.0, 1.5));
    list(&operator).await;
    cost("GET", (2, 0.0, 2.0));
    operator.patch(&path(&id, ""), &json!({ "label": "x" })).await.json();
    cost("PATCH", (3, 4.0, 2.0));
    operator.touch(&path(&id, "/test")).await.json();
    cost("test", (4, 3.0, 2.0));
    operator.post(&path(&id, "/redeliver"), &json!({ "seq": 1 })).await.json();
    cost("redeliver", (4, 1.0, 2.0));
    deliveries(&operator, &id, "").await;
    cost("deliveries", (3, 0.0, 3.0));
    operator.delete(&path(&id, "")).await.json();
    cost("DELETE", (6, 10.0, 3.5));
}

/// The whole way: an agent dies, and people and a receiver hear of it, and of its return.
#[tokio::test]
async fn an_agents_death_and_return_arrive_at_every_kind_of_channel() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = telling::heard(&system, "<!here> `builder`").await;
    let kinds = ["webhook", "slack", "discord"];
    let mut receivers = Vec::new();
    for kind in kinds {
        let receiver = Receiver::start().await;
        create(&operator, &json!({ "kind": kind, "url": receiver.url() })).await;
        receivers.push(receiver);
    }
    system.pump().await;
    for receiver in &receivers {
        receiver.take();
    }
    let arrived = async || {
        system.pump().await;
        let one = |receiver: &Receiver| {
            let [one] = &receiver.take()[..] else { panic!("one request") };
            one.json()
        };
        [one(&receivers[0]), one(&receivers[1])["text"].clone(), one(&receivers[2])["content"].clone()]
    };
    telling::minutes(&system, 10).await;
    let [json, slack, discord] = arrived().await;
    assert_eq!((&json["type"], &json["data"]["seq"]), (&json!("agent.offline"), &json!(1)));
    assert_eq!(json["data"]["agent"]["name"], "<!here> `builder`", "a webhook gets the name as it is");
    let url = format!("<{}/#/agents/{}>", system.url(), agent.id);
    let rest = format!(" is silent since {START}, 4 heartbeats missed. Live: 0 of 1.\n{url}");
    assert_eq!(slack, format!("`&lt;!here&gt; 'builder'`{rest}"));
    assert_eq!(discord, format!("`<!here> 'builder'`{rest}"));

    system.heartbeat(&agent, "healthy").await.data();
    telling::minutes(&system, 2).await;
    let [json, slack, _] = arrived().await;
    assert_eq!((&json["type"], &json["data"]["seq"]), (&json!("agent.recovered"), &json!(2)));
    let text = slack.as_str().expect("words");
    let head = "`&lt;!here&gt; 'builder'` is no longer silent. That took 10 minutes. Live: 1 of 1.";
    assert!(text.starts_with(head), "{text}");
}
