//! Telling: one outage is one message, told once, and ended as surely as it was begun.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use shared::domain::channel::{Channel, ChannelId};
use shared::domain::concern::Concern;
use shared::domain::event::Actor;
use shared::domain::ids::BoardId;

use super::READS;
use crate::mission_control::client::{AGENTS, BOARD, Client, OTHER_BOARD, agent_path};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{START, TestAgent, TestSystem, s, text};

pub const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

/// A channel that hears these concerns, of one board or all.
pub async fn channel(system: &TestSystem, concerns: &[Concern], board_id: Option<&str>) -> ChannelId {
    let (channel, secrets) = super::channel("https://receiver.example/abcd");
    let channel_id = channel.channel_id;
    let board_id = board_id.map(|board| BoardId::of(board.parse().expect("a board")));
    let channel = Channel { concerns: concerns.to_vec(), board_id, ..channel };
    let made = system.store(READS).create_channel(&channel, &secrets, None, Actor::System, START).await;
    assert!(made.expect("a channel"));
    channel_id
}

/// Disables a channel, as `deliver` does when its receiver is gone.
pub async fn disable(system: &TestSystem, channel_id: ChannelId) {
    let request = system.dynamodb.update_item().table_name(system.table("ChannelsTable"));
    let request = request.key("listing", s("channels")).key("channel_id", s(channel_id));
    let request = request.update_expression("SET channel_state = :disabled, disabled_reason = :gone");
    let request = request.expression_attribute_values(":disabled", s("disabled"));
    request.expression_attribute_values(":gone", s("gone")).send().await.expect("an update");
}

/// Everything that was told, oldest first: the log of alerts as an operator pulls it.
pub async fn alerts(system: &TestSystem) -> Vec<Value> {
    let reply = Client::operator(system).await.get("/api/v1/alerts?after=0&limit=200").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["items"].as_array().expect("a list").clone()
}

/// The types of what was told, oldest first.
pub async fn types(system: &TestSystem) -> Vec<String> {
    let alerts = alerts(system).await;
    alerts.iter().map(|alert| alert["type"].as_str().expect("a type").to_owned()).collect()
}

/// The bodies that wait for a channel, oldest first.
async fn queued(system: &TestSystem, channel_id: impl std::fmt::Display) -> Vec<Value> {
    let log = format!("channel#{channel_id}");
    let mut rows = system.rows("AlertsTable").await;
    rows.retain(|row| text(row, "alert_log") == Some(&*log));
    rows.sort_by_key(|row| text(row, "alert_key").map(str::to_owned));
    rows.iter().map(|row| serde_json::from_str(text(row, "body").expect("a body")).expect("JSON")).collect()
}

/// ⚠ The summary that greets a channel is as old as the sweep's beginning. What that sweep told since was handed out
/// before the channel was there.
#[tokio::test]
async fn a_channel_made_right_after_a_message_hears_it_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    heard(&system, "first").await;
    heard(&system, "second").await;
    for _ in 0..5 {
        if types(&system).await.is_empty() {
            minutes(&system, 1).await;
        }
    }
    assert_eq!(types(&system).await, ["fleet.incident"]);

    let body = json!({ "kind": "webhook", "url": "https://receiver.example/" });
    let made = operator.post("/api/v1/channels", &body).await.json();
    let made = made["id"].as_str().expect("an id").to_owned();
    let paused = channel(&system, &[Concern::Offline], None).await;
    let enable = async |state: &str| {
        let reply = operator.patch(&format!("/api/v1/channels/{paused}"), &json!({ "state": state })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    };
    enable("paused").await;
    enable("enabled").await;
    minutes(&system, 5).await;
    for channel_id in [made, paused.to_string()] {
        let queued = queued(&system, channel_id).await;
        let types: Vec<_> = queued.iter().map(|body| &body["type"]).collect();
        assert_eq!(types, ["fleet.incident", "channel.hello"], "numbers sort before words");
        assert_eq!(queued[1]["data"]["agents"], json!([]), "its greeting does not say it");
    }
    assert_eq!(types(&system).await, ["fleet.incident"]);
}

/// An agent that was heard just now.
pub async fn heard(system: &TestSystem, name: &str) -> TestAgent {
    let agent = system.verified(name).await;
    system.heartbeat(&agent, "healthy").await.data();
    agent
}

/// Minutes go by, each with a sweep.
pub async fn minutes(system: &TestSystem, minutes: u32) {
    for _ in 0..minutes {
        system.advance(MINUTE);
        system.sweep().await;
    }
}

async fn told_mark(system: &TestSystem, agent: &TestAgent) -> Option<String> {
    text(&system.row(agent).await, "alerted").map(str::to_owned)
}

#[tokio::test]
async fn an_agent_that_dies_is_told_once_and_once_when_it_is_back() {
    let system = TestSystem::start().await;
    let hears = channel(&system, &Concern::ALL, None).await;
    let agent = heard(&system, "builder-1").await;
    minutes(&system, 3).await;
    assert_eq!(alerts(&system).await, [] as [Value; 0], "the fact is in the events, and nobody is told yet");
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
    minutes(&system, 10).await;
    let told = alerts(&system).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let data = &told[0]["data"];
    assert_eq!((&told[0]["type"], &told[0]["seq"]), (&json!("agent.offline"), &json!(1)));
    assert_eq!(data["agent"], json!({ "id": agent.id, "name": "builder-1", "board_id": null }));
    assert_eq!((&data["began"], &data["ended"]), (&json!("offline"), &json!(null)));
    assert_eq!((&data["reason"], &data["missed_heartbeats"]), (&json!("silent"), &json!(4)));
    assert_eq!(data["last_seen_at"], "2037-01-01T00:00:30.000Z");
    assert_eq!(data["heartbeat_config"], json!({ "interval_seconds": 60, "missing_tolerance": 120 }));
    assert_eq!(data["last_health"], "healthy");
    assert_eq!(data["fleet"], json!({ "agents": 1, "live": 0 }));
    assert_eq!(data["url"], format!("{}/#/agents/{}", system.url(), agent.id));
    assert_eq!(told_mark(&system, &agent).await.as_deref(), Some("offline"));

    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 2).await;
    let told = alerts(&system).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let data = &told[1]["data"];
    assert_eq!((&told[1]["type"], &data["ended"]), (&json!("agent.recovered"), &json!("offline")));
    assert_eq!((&data["cause"], &data["downtime_seconds"]), (&json!("resumed"), &json!(13 * 60)));
    assert_eq!(data["back_at"], "2037-01-01T00:13:30.000Z");
    assert_eq!(told_mark(&system, &agent).await, None);
    let queued = queued(&system, hears).await;
    let types: Vec<_> = queued.iter().map(|body| body["type"].clone()).collect();
    assert_eq!(types, ["agent.offline", "agent.recovered"], "each was handed over once");
}

#[tokio::test]
async fn one_lost_heartbeat_tells_nobody() {
    let system = TestSystem::start().await;
    let agent = heard(&system, "a").await;
    for minute in 1..30 {
        system.advance(MINUTE);
        if minute % 7 > 1 {
            system.heartbeat(&agent, "healthy").await.data();
        }
        system.sweep().await;
    }
    assert_eq!(alerts(&system).await, [] as [Value; 0]);
}

/// ⚠ With an interval of a day, "three missed" would come on the fourth day.
#[tokio::test]
async fn who_is_shown_as_offline_is_told_within_minutes_whatever_its_interval() {
    let system = TestSystem::start().await;
    let agent = system.verified("nightly").await;
    let slow = json!({ "heartbeat_config": { "interval_seconds": 86_400, "missing_tolerance": 172_800 } });
    assert_eq!(Client::operator(&system).await.patch(&agent_path(&agent.id, ""), &slow).await.status, 200);
    system.heartbeat(&agent, "healthy").await.data();
    system.advance(Duration::from_secs(172_800 + 300 + 10));
    system.sweep().await;
    assert_eq!(alerts(&system).await, [] as [Value; 0]);
    system.advance(SECOND);
    system.sweep().await;
    assert_eq!(types(&system).await, ["agent.offline"]);
}

#[tokio::test]
async fn two_sweeps_at_once_tell_once_also_of_a_hundred() {
    for count in [1, 30, 100] {
        let system = TestSystem::start().await;
        for number in 0..count {
            heard(&system, &format!("a{number}")).await;
        }
        system.advance(Duration::from_mins(4));
        system.has_heard_until(system.now()).await;
        let sweeps = join(system.lone_sweep(), system.lone_sweep()).await;
        sweeps.0.expect("a sweep");
        sweeps.1.expect("a sweep");
        minutes(&system, 12).await;
        let told = alerts(&system).await;
        let total: u64 = told.iter().map(|alert| alert["data"]["total"].as_u64().unwrap_or(1)).sum();
        assert_eq!(total, count, "{told:?}");
        assert!(told.len() <= 2, "{told:?}");
        for row in system.rows("AgentsTable").await {
            if text(&row, "agent_name") != Some("canary") {
                assert_eq!(text(&row, "alerted"), Some("offline"));
            }
        }
    }
}

/// ⚠
#[tokio::test]
async fn who_loses_the_number_tells_nothing_more_in_this_sweep() {
    let system = TestSystem::start().await;
    let (a, b) = (heard(&system, "a").await, heard(&system, "b").await);
    system.advance(Duration::from_mins(3));
    system.sweep().await;
    system.heartbeat(&b, "healthy").await.data();
    // Two messages are to be told: one that begins, one that ends.
    system.set(&b, "alerted", s("offline")).await;
    system.advance(SECOND * 30);
    let telling = When::operation("TransactWriteItems").mentioning("attribute_not_exists(seq)");
    let gate = system.proxy.hold(telling);
    let (report, ()) = join(system.sweep(), async {
        gate.held(1).await;
        let taken = system.dynamodb.update_item().table_name(system.table("AlertsTable"));
        let taken = taken.key("alert_log", s("control")).key("alert_key", s("control"));
        let taken = taken.update_expression("SET seq = :seq");
        let seven = AttributeValue::N("7".to_owned());
        taken.expression_attribute_values(":seq", seven).send().await.expect("an update");
        gate.release();
    })
    .await;
    assert_eq!(report["raised"], 0);
    assert_eq!(alerts(&system).await, [] as [Value; 0]);
    assert_eq!(told_mark(&system, &a).await, None);
    system.sweep().await;
    assert_eq!(types(&system).await, ["agent.offline", "agent.recovered"]);
    assert_eq!(alerts(&system).await[0]["seq"], 8);
}

#[tokio::test]
async fn a_crash_after_telling_is_handed_out_by_the_next_sweep() {
    let system = TestSystem::start().await;
    let hears = channel(&system, &[Concern::Offline], None).await;
    heard(&system, "a").await;
    system.advance(Duration::from_mins(4));
    let no_delivery =
        system.proxy.inject(When::operation("PutItem").mentioning("channel#"), Fault::Throttled);
    system.try_sweep().await.expect_err("the delivery cannot be stored");
    no_delivery.clear();
    assert_eq!(types(&system).await, ["agent.offline"], "it is told");
    assert_eq!(queued(&system, hears).await.len(), 0);
    minutes(&system, 2).await;
    assert_eq!(queued(&system, hears).await.len(), 1);
    assert_eq!(alerts(&system).await.len(), 1, "and told once");
}

/// The member of a message that came back meanwhile refuses it: the others are told without it.
#[tokio::test]
async fn who_comes_back_while_it_is_told_is_left_out() {
    let system = TestSystem::start().await;
    let agents = join_all(["a", "b", "c"].map(|name| heard(&system, name))).await;
    system.advance(Duration::from_secs(135));
    system.sweep().await;
    system.advance(Duration::from_mins(2));
    let telling = When::operation("TransactWriteItems").mentioning("attribute_not_exists(seq)").times(1);
    let gate = system.proxy.hold(telling);
    let (_, ()) = join(system.sweep(), async {
        gate.held(1).await;
        system.heartbeat(&agents[1], "healthy").await.data();
        gate.release();
    })
    .await;
    let told = alerts(&system).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let members = told[0]["data"]["agents"].as_array().expect("agents");
    let names: Vec<_> = members.iter().map(|agent| agent["name"].clone()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(told_mark(&system, &agents[1]).await, None);
}

/// ⚠
#[tokio::test]
async fn a_patch_or_a_restore_ends_no_silence_and_a_heartbeat_does() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = heard(&system, "a").await;
    // Heard after its activation, as nearly all are.
    minutes(&system, 1).await;
    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 4).await;
    assert_eq!(types(&system).await, ["agent.offline"]);
    let longer = json!({ "heartbeat_config": { "missing_tolerance": 86_400 } });
    assert_eq!(operator.patch(&agent_path(&agent.id, ""), &longer).await.status, 200);
    minutes(&system, 2).await;
    // Revoked and restored between two sweeps.
    assert_eq!(operator.touch(&agent_path(&agent.id, "/revoke")).await.status, 200);
    assert_eq!(operator.touch(&agent_path(&agent.id, "/restore")).await.status, 200);
    minutes(&system, 6).await;
    assert_eq!(types(&system).await, ["agent.offline"], "nothing was heard of it");
    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.offline", "agent.recovered"]);
}

#[tokio::test]
async fn an_alert_ends_when_its_agent_is_revoked_leaves_or_is_deleted() {
    for cause in ["revoked", "left", "deleted"] {
        let system = TestSystem::start().await;
        let operator = Client::operator(&system).await;
        let agent = heard(&system, "a").await;
        minutes(&system, 4).await;
        match cause {
            "revoked" => assert_eq!(operator.touch(&agent_path(&agent.id, "/revoke")).await.status, 200),
            "deleted" => assert_eq!(operator.delete(&agent_path(&agent.id, "")).await.status, 200),
            _ => {
                system.heartbeat(&agent, "healthy").await.data();
                system.heartbeat(&agent, "offline").await.data();
            }
        }
        minutes(&system, 2).await;
        let told = alerts(&system).await;
        assert_eq!(told.len(), 2, "{cause}: {told:?}");
        let data = &told[1]["data"];
        assert_eq!((&told[1]["type"], &data["cause"]), (&json!("agent.recovered"), &json!(cause)));
        assert_eq!(data["agent"]["name"], "a", "{cause}");
        let traces = system.rows("AlertsTable").await;
        assert!(!traces.iter().any(|row| text(row, "alert_log") == Some("gone")), "{cause}");
    }
}

/// ⚠ The trace of a removed agent and its removal are one: or an agent that is still there would be told as deleted.
#[tokio::test]
async fn a_deletion_that_fails_ends_no_alert() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = heard(&system, "a").await;
    minutes(&system, 4).await;
    let fails = When::operation("TransactWriteItems").mentioning("agent.deleted");
    let fails = system.proxy.inject(fails, Fault::TransactionCanceled("ThrottlingError"));
    assert_eq!(operator.delete(&agent_path(&agent.id, "")).await.status, 503);
    fails.clear();
    minutes(&system, 2).await;
    assert_eq!(types(&system).await, ["agent.offline"]);
    assert_eq!(told_mark(&system, &agent).await.as_deref(), Some("offline"));
}

/// ⚠ What gets worse ends and begins in one message; each channel hears its part.
#[tokio::test]
async fn each_channel_hears_the_begin_and_the_end_of_what_it_subscribed_to() {
    let system = TestSystem::start().await;
    let errors = channel(&system, &[Concern::Error], None).await;
    let silences = channel(&system, &[Concern::Offline], None).await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "error").await.data();
    minutes(&system, 5).await;
    assert_eq!(types(&system).await, ["agent.error", "agent.offline"]);
    let of = |bodies: Vec<Value>| bodies.iter().map(|body| body["type"].clone()).collect::<Vec<_>>();
    assert_eq!(of(queued(&system, errors).await), ["agent.error", "agent.recovered"]);
    assert_eq!(of(queued(&system, silences).await), ["agent.offline"]);
    let ended = &queued(&system, errors).await[1]["data"];
    assert_eq!((&ended["ended"], &ended["cause"]), (&json!("error"), &json!("worse")));
    assert_eq!(ended["began"], Value::Null, "of the silence it hears nothing");
    let began = &queued(&system, silences).await[0]["data"];
    assert_eq!((&began["ended"], began.get("cause")), (&Value::Null, None), "of the error it hears nothing");
}

/// ⚠ A message about several is cut for each channel, as one about a single agent is.
#[tokio::test]
async fn what_a_channel_subscribed_to_it_hears_in_a_message_of_several_too() {
    let system = TestSystem::start().await;
    let errors = channel(&system, &[Concern::Error], None).await;
    let silences = channel(&system, &[Concern::Offline], None).await;
    let neither = channel(&system, &[Concern::NeverSeen, Concern::Waiting], None).await;
    let agents = join_all(["dies", "dies too", "errs"].map(|name| heard(&system, name))).await;
    system.advance(Duration::from_mins(4));
    system.heartbeat(&agents[2], "error").await.data();
    system.sweep().await;
    assert_eq!(types(&system).await, ["fleet.incident"]);
    system.advance(Duration::from_mins(6));
    for agent in &agents {
        system.heartbeat(agent, "healthy").await.data();
    }
    system.sweep().await;
    assert_eq!(types(&system).await, ["fleet.incident", "fleet.recovered"]);
    for (channel_id, concern, names) in
        [(errors, "error", &["errs"][..]), (silences, "offline", &["dies", "dies too"])]
    {
        let bodies = queued(&system, channel_id).await;
        let types: Vec<_> = bodies.iter().map(|body| &body["type"]).collect();
        assert_eq!(types, ["fleet.incident", "fleet.recovered"], "{concern}");
        for body in &bodies {
            let data = &body["data"];
            assert_eq!(data["counts"], json!({ concern: names.len() }));
            assert_eq!((&data["total"], &data["more"]), (&json!(names.len()), &json!(0)), "{concern}");
            let named = data["agents"].as_array().expect("agents").iter().map(|agent| &agent["name"]);
            assert_eq!(named.collect::<Vec<_>>(), names, "{concern}");
        }
    }
    assert_eq!(queued(&system, neither).await, [] as [Value; 0]);
}

/// ⚠ To who hears of the first concern alone, several agents that get worse at once are an end and no beginning.
#[tokio::test]
async fn several_that_get_worse_are_an_end_to_who_hears_of_what_they_had_before() {
    let system = TestSystem::start().await;
    let errors = channel(&system, &[Concern::Error], None).await;
    let silences = channel(&system, &[Concern::Offline], None).await;
    for name in ["a", "b"] {
        let agent = system.verified(name).await;
        system.heartbeat(&agent, "error").await.data();
    }
    minutes(&system, 10).await;
    assert_eq!(types(&system).await, ["fleet.incident", "fleet.incident"]);
    let worse = queued(&system, errors).await;
    let types: Vec<_> = worse.iter().map(|body| &body["type"]).collect();
    assert_eq!(types, ["fleet.incident", "fleet.recovered"]);
    let data = &worse[1]["data"];
    assert_eq!((&data["total"], &data["counts"]), (&json!(2), &json!({ "error": 2 })));
    assert_eq!(data["agents"][0]["cause"], "worse");
    for absent in ["share_percent", "mass", "still_offline"] {
        assert_eq!(data.get(absent), None, "{absent}");
    }
    let began = queued(&system, silences).await;
    assert_eq!(began.len(), 1);
    assert_eq!((&began[0]["type"], &began[0]["data"]["total"]), (&json!("fleet.incident"), &json!(2)));
}

#[tokio::test]
async fn a_boards_channel_hears_of_its_own_agents_alone() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let board = channel(&system, &Concern::ALL, Some(BOARD)).await;
    let other = channel(&system, &Concern::ALL, Some(OTHER_BOARD)).await;
    let all = channel(&system, &[Concern::Offline], None).await;
    for name in ["a", "b"] {
        let agent = operator.create(&json!({ "name": name, "board_id": BOARD })).await;
        system.heartbeat(&agent, "healthy").await.data();
    }
    heard(&system, "of no board").await;
    minutes(&system, 4).await;
    let whole = &queued(&system, all).await[0]["data"];
    assert_eq!((&whole["total"], &whole["counts"]), (&json!(3), &json!({ "offline": 3 })));
    assert_eq!((&whole["share_percent"], &whole["mass"]), (&json!(100), &json!(true)));
    let boards = json!([{ "board_id": BOARD, "agents": 2 }, { "board_id": null, "agents": 1 }]);
    assert_eq!(whole["boards"], boards);
    let part = &queued(&system, board).await[0]["data"];
    assert_eq!((&part["total"], &part["more"]), (&json!(2), &json!(0)));
    for absent in ["fleet", "share_percent", "mass", "boards", "still_offline"] {
        assert_eq!(part.get(absent), None, "{absent}");
    }
    assert_eq!(queued(&system, other).await, [] as [Value; 0], "none of its agents: no delivery");
}

#[tokio::test]
async fn who_waits_is_told_only_when_a_channel_names_it_and_only_ten_are_named() {
    let system = TestSystem::with().parameter("Approval", "operator").start().await;
    for number in 0..12 {
        system.registered(&format!("stranger-{number:02}")).await;
    }
    minutes(&system, 3).await;
    assert_eq!(alerts(&system).await, [] as [Value; 0]);
    let hears = channel(&system, &[Concern::Waiting], None).await;
    minutes(&system, 1).await;
    let told = queued(&system, hears).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["type"], &told[0]["data"]["total"]), (&json!("agents.waiting"), &json!(12)));
    assert_eq!(told[0]["data"]["agents"].as_array().map(Vec::len), Some(10));
    // Somebody is let in: the mark goes without a message.
    let operator = Client::operator(&system).await;
    let waiting = operator.get(&format!("{AGENTS}?state=pending")).await.json()["items"][0].clone();
    let id = waiting["id"].as_str().expect("an id");
    assert_eq!(operator.touch(&agent_path(id, "/approve")).await.status, 200);
    minutes(&system, 1).await;
    assert_eq!(alerts(&system).await.len(), 1);
}

#[tokio::test]
async fn an_agent_that_falls_silent_for_the_fourth_time_in_an_hour_flaps_and_is_told_no_more() {
    let system = TestSystem::start().await;
    let agent = system.verified("flapper").await;
    // Six hours of four minutes down and two up.
    for _ in 0..60 {
        system.heartbeat(&agent, "healthy").await.data();
        minutes(&system, 1).await;
        system.heartbeat(&agent, "healthy").await.data();
        minutes(&system, 5).await;
    }
    let told = types(&system).await;
    let flapping = told.iter().position(|it| it == "agent.flapping").expect("it is told that it flaps");
    assert_eq!(told.len(), flapping + 1, "and then nothing more: {told:?}");
    assert!(told.len() <= 7, "{told:?}");
    // It dies for good: twice as long a silence is told all the same.
    minutes(&system, 10).await;
    assert_eq!(types(&system).await.last().map(String::as_str), Some("agent.offline"));
    assert_eq!(told_mark(&system, &agent).await.as_deref(), Some("offline*"));
    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 1).await;
    assert_eq!(types(&system).await.last().map(String::as_str), Some("agent.recovered"));
    // An hour without a silence ends it.
    for _ in 0..75 {
        system.heartbeat(&agent, "healthy").await.data();
        minutes(&system, 1).await;
    }
    let told = alerts(&system).await;
    let last = &told.last().expect("an end")["data"];
    assert_eq!((&last["ended"], &last["cause"]), (&json!("flapping"), &json!("stable")));
    assert_eq!(told_mark(&system, &agent).await, None);
}

#[tokio::test]
async fn the_numbers_of_alerts_have_no_gap_under_200_concurrent_transitions() {
    let system = TestSystem::start().await;
    let agents = join_all((0..40).map(|number| {
        let system = &system;
        async move { heard(system, &format!("a{number}")).await }
    }))
    .await;
    for round in 0..5 {
        system.advance(Duration::from_mins(6));
        let heartbeats = agents.iter().enumerate().filter(|(place, _)| (place + round) % 2 == 0);
        let heartbeats = join_all(heartbeats.map(|(_, agent)| system.heartbeat(agent, "healthy")));
        let (sweeps, _) = join(join_all((0..3).map(|_| system.sweep())), heartbeats).await;
        assert_eq!(sweeps.len(), 3);
    }
    let seqs: Vec<_> = alerts(&system).await.iter().map(|it| it["seq"].as_u64().expect("a number")).collect();
    assert!(seqs.len() >= 5, "{seqs:?}");
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_agent_that_stays_silent_is_forgotten_and_one_that_returns_is_not() {
    let system = TestSystem::with().parameter("ForgetAfterDays", 7).start().await;
    let (gone, returns) = (heard(&system, "gone").await, heard(&system, "returns").await);
    minutes(&system, 4).await;
    let announced = system.payloads(&gone, "agent.offline").await.remove(0);
    assert_eq!(announced["forgotten_at"], "2037-01-08T00:03:30.000Z");
    let end = crate::support::number(&system.row(&gone).await, "expires_at").expect("an end");
    assert_eq!(end * 1000, system.now().as_millis() - 60_000 + 7 * 24 * 3_600_000);
    system.heartbeat(&returns, "healthy").await.data();
    assert_eq!(system.row(&returns).await.get("expires_at"), None);
    for _ in 0..7 {
        minutes(&system, 1).await;
        system.heartbeat(&returns, "healthy").await.data();
    }
    system.advance(Duration::from_hours(7 * 24 - 1));
    system.heartbeat(&returns, "healthy").await.data();
    minutes(&system, 2).await;
    let told = alerts(&system).await;
    let last = &told.last().expect("an end")["data"];
    assert_eq!((&last["agent"]["name"], &last["cause"]), (&json!("gone"), &json!("forgotten")));
    let count = told.len();
    for _ in 0..10 {
        system.heartbeat(&returns, "healthy").await.data();
        minutes(&system, 1).await;
    }
    assert_eq!(alerts(&system).await.len(), count, "once");
    system.advance(Duration::from_hours(1));
    let operator = Client::operator(&system).await;
    assert_eq!(operator.get(&agent_path(&gone.id, "")).await.status, 404);
    assert_eq!(operator.get(&agent_path(&returns.id, "")).await.status, 200);
}

#[tokio::test]
async fn the_other_channels_are_told_once_that_one_is_disabled() {
    let system = TestSystem::start().await;
    let (gone, other) =
        (channel(&system, &Concern::ALL, None).await, channel(&system, &Concern::ALL, None).await);
    disable(&system, gone).await;
    minutes(&system, 3).await;
    assert_eq!(types(&system).await, ["channel.disabled"]);
    let told = queued(&system, other).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["data"]["channel"]["id"], gone.to_string());
    assert_eq!(queued(&system, gone).await, [] as [Value; 0]);
}

/// ⚠ Agents that are back send heartbeats, and a message whose transaction held the marks of many of them would collide
/// with these again and again.
#[tokio::test]
async fn the_end_of_many_silences_is_told_however_often_their_agents_are_heard() {
    let system = TestSystem::start().await;
    let agents: Vec<_> = (0..26).map(|number| format!("a{number:02}")).collect();
    let agents = join_all(agents.iter().map(|name| heard(&system, name))).await;
    minutes(&system, 10).await;
    let total: u64 =
        alerts(&system).await.iter().map(|alert| alert["data"]["total"].as_u64().unwrap_or(1)).sum();
    assert_eq!(total, 26);
    for agent in &agents {
        system.heartbeat(agent, "healthy").await.data();
    }
    let ends = || When::operation("TransactWriteItems").mentioning("REMOVE alerted");
    let in_the_message = system.proxy.inject(ends(), Fault::TransactionConflict);
    let on_its_own = When::operation("UpdateItem").mentioning("REMOVE alerted").times(2);
    let on_its_own = system.proxy.inject(on_its_own, Fault::TransactionConflict);
    system.sweep().await;
    assert_eq!((in_the_message.hits(), on_its_own.hits()), (0, 2));
    let told = alerts(&system).await;
    let last = told.last().expect("an end");
    assert_eq!((&last["type"], &last["data"]["total"]), (&json!("fleet.recovered"), &json!(26)));
    for agent in &agents {
        assert_eq!(told_mark(&system, agent).await, None);
    }
}

/// ⚠ A row ends at 400 KB, and a control row that cannot be written ends all alerts. What grows with the fleet is not in it.
#[tokio::test]
async fn the_control_row_stays_small_whatever_the_fleet_and_its_outages() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for number in 0..20 {
        let board = format!("00000000-0000-4000-8000-{number:012}");
        let agent = operator.create(&json!({ "name": format!("a{number}"), "board_id": board })).await;
        system.heartbeat(&agent, "healthy").await.data();
    }
    let lives = heard(&system, "lives").await;
    // Each hour an outage of our own, and an agent that is broken or well again.
    for hour in 0..60 {
        system.advance(Duration::from_hours(1));
        system.heartbeat(&lives, if hour % 2 == 0 { "error" } else { "healthy" }).await.data();
        system.lone_sweep().await.expect("a sweep");
    }
    assert_eq!(alerts(&system).await.len(), 60);
    let rows = system.rows("AlertsTable").await;
    let row = |key: &str| {
        let is_it = |row: &&crate::support::Row| {
            (text(row, "alert_log"), text(row, "alert_key")) == (Some("control"), Some(key))
        };
        rows.iter().find(is_it).expect("a row")
    };
    let control = row("control");
    for of_the_fleet in ["agents", "boards", "told", "as_of"] {
        assert_eq!(control.get(of_the_fleet), None, "{of_the_fleet}");
    }
    assert_eq!(control["windows"].as_l().expect("a list").len(), 50);
    assert!(control["recent"].as_l().expect("a list").len() <= 3);
    assert_eq!(row("fleet")["boards"].as_l().expect("a list").len(), 21);
}

/// An agent of which something was told still sends heartbeats with one write.
#[tokio::test]
async fn a_heartbeat_of_an_agent_that_was_told_is_one_write() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "error").await.data();
    minutes(&system, 1).await;
    assert_eq!(told_mark(&system, &agent).await.as_deref(), Some("error"));
    system.proxy.take();
    system.heartbeat(&agent, "error").await.data();
    let tally = system.proxy.take();
    assert_eq!((tally.requests(), tally.write_units(), tally.read_units()), (1, 1.0, 0.0));
}
