//! `POST /api/v1/agents/{agent_id}/directive`, and what agents hear of it.

use std::time::Duration;

use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    Client, HEARTBEAT_BY_NAME, MILLI, NO_AGENT, OWN_HEARTBEAT, SECOND, agent_path, agent_read,
    enrollment_token, invalid, refused, text, with_key,
};
use crate::alerts::telling::{alerts, minutes, types};
use crate::support::dynamodb_proxy::When;
use crate::support::{Reply, TestAgent, TestSystem, number, text as attribute};

const MINUTE: Duration = Duration::from_mins(1);

/// Says what an agent should do; the directive as the operator is answered.
async fn direct(system: &TestSystem, agent: &TestAgent, body: Value) -> Value {
    let reply = Client::operator(system).await.post(&agent_path(&agent.id, "/directive"), &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["directive"].clone()
}

async fn pause(system: &TestSystem, agent: &TestAgent) -> Value {
    direct(system, agent, json!({ "action": "pause" })).await["version"].clone()
}

/// A heartbeat in the envelope that acknowledges this version.
async fn acknowledge(system: &TestSystem, agent: &TestAgent, version: &Value) -> Reply {
    let report = json!({ "ackDirective": version });
    let body = json!({ "apiKey": agent.key, "status": "healthy", "report": report });
    system.post("/api/agents/heartbeat", &body).await
}

async fn heard(system: &TestSystem) -> TestAgent {
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    agent
}

/// What an operator sees of the agent's directive.
async fn shown(system: &TestSystem, agent: &TestAgent) -> Value {
    let agent = Client::operator(system).await.get(&agent_path(&agent.id, "?detail=true")).await;
    agent.json()["detail"]["directive"].clone()
}

#[tokio::test]
async fn a_directive_is_in_every_answer_until_it_changes() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let by_name = Client::bearer(&system, &token);
    let created = by_name.heartbeat_as("a").await.json();
    let agent = TestAgent { id: text(&created, "id"), key: text(&created, "agent_token") };
    agent_read(&by_name.heartbeat_as("a").await);
    let itself = Client::x_agent_token(&system, &agent.key);
    let operator = Client::operator(&system).await;
    let body = json!({ "action": "stop", "deadline_seconds": 300, "then_revoke": true, "reason": "why" });
    let deadline = "2037-01-01T00:05:30.001Z";
    let directed = direct(&system, &agent, body).await;
    let version = &directed["version"];
    let for_operators = json!({
        "version": version, "action": "stop", "deadline": deadline, "then_revoke": true,
        "since": "2037-01-01T00:00:30.001Z", "acknowledged_at": null,
    });
    assert_eq!((&directed, &shown(&system, &agent).await), (&for_operators, &for_operators));
    let told = json!({ "version": version, "action": "stop", "deadline": deadline });
    let own_path = agent_path(&agent.id, "/heartbeat");
    for _ in 0..2 {
        for reply in [
            system.heartbeat(&agent, "healthy").await.data(),
            itself.touch(OWN_HEARTBEAT).await.json(),
            itself.touch(&own_path).await.json(),
            itself.touch(HEARTBEAT_BY_NAME).await.json(),
            by_name.heartbeat_as("a").await.json(),
            operator.touch(&own_path).await.json(),
            itself.get("/api/v1/agent/healthz").await.json(),
            // What changes more than the lease.
            system.heartbeat(&agent, "offline").await.data(),
            system.heartbeat(&agent, "offline").await.data(),
            itself.touch(OWN_HEARTBEAT).await.json(),
        ] {
            assert_eq!(reply["directive"], told, "{reply}");
        }
        system.advance(MINUTE);
    }
    let shown = operator.get(&agent_path(&agent.id, "")).await;
    agent_read(&shown);
}

#[tokio::test]
async fn a_steady_heartbeat_under_a_directive_is_one_write_that_knows_nothing_of_it() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    let steady = async |reply: Reply| {
        reply.data();
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"]);
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0));
    };
    // That it has heard is noted once.
    system.proxy.take();
    system.heartbeat(&agent, "healthy").await.data();
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["UpdateItem", "UpdateItem"]);
    assert_eq!((tally.write_units(), tally.read_units()), (2.0, 0.0));
    steady(system.heartbeat(&agent, "healthy").await).await;
    acknowledge(&system, &agent, &version).await.data();
    system.proxy.take();
    steady(system.heartbeat(&agent, "healthy").await).await;
    // Whoever says it again, or says something old or invented, pays no more.
    for said in [version, json!(0), json!(-7), json!(1.5), json!(1e300)] {
        steady(acknowledge(&system, &agent, &said).await).await;
    }
    assert_eq!(system.payloads(&agent, "agent.directive_acknowledged").await.len(), 1);
}

#[tokio::test]
async fn an_acknowledgement_is_one_transaction_with_its_event() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    system.advance(MILLI * 700);
    let version = pause(&system, &agent).await;
    system.advance(MILLI * 38_250);
    system.proxy.take();
    let data = acknowledge(&system, &agent, &version).await.data();
    assert_eq!(data["directive"], json!({ "version": version, "action": "pause" }));
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["UpdateItem", "TransactWriteItems"]);
    // And the unit of the refused write, of which no answer tells.
    assert_eq!((tally.refused(), tally.write_units(), tally.read_units()), (1, 4.0, 0.0));
    let payload = json!({ "version": version, "action": "pause", "after_ms": 38_250 });
    assert_eq!(system.payloads(&agent, "agent.directive_acknowledged").await, [payload]);
    let seen = shown(&system, &agent).await;
    assert_eq!(seen["since"], "2037-01-01T00:00:30.700Z");
    assert_eq!(seen["acknowledged_at"], "2037-01-01T00:01:08.950Z");
    assert_eq!(system.row(&agent).await.get("unacked"), None);
}

/// A morning: back from an absence, with an acknowledgement.
#[tokio::test]
async fn what_is_due_at_once_is_done_at_once_and_counts_once() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    system.heartbeat(&agent, "offline").await.data();
    let before = number(&system.row(&agent).await, "requests_total");
    system.advance(MINUTE);
    system.proxy.take();
    acknowledge(&system, &agent, &version).await.data();
    assert_eq!(system.proxy.take().operations(), ["UpdateItem", "TransactWriteItems"]);
    let row = system.row(&agent).await;
    assert_eq!(number(&row, "requests_total"), before.map(|before| before + 1));
    assert_eq!((row.get("offline_since"), row.get("unacked")), (None, None));
    let types = system.event_types(&agent).await;
    assert_eq!(types[types.len() - 2..], ["agent.online", "agent.directive_acknowledged"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_50_concurrent_acknowledgements_one_is_an_event() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    let replies = join_all((0..50).map(|_| acknowledge(&system, &agent, &version))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(system.payloads(&agent, "agent.directive_acknowledged").await.len(), 1);
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(51));
}

#[tokio::test]
async fn an_acknowledgement_of_the_one_before_leaves_the_new_one_open() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let old = pause(&system, &agent).await;
    let new = direct(&system, &agent, json!({ "action": "drain" })).await["version"].clone();
    assert_ne!(old, new, "two within a second");
    acknowledge(&system, &agent, &old).await.data();
    assert_eq!(shown(&system, &agent).await["acknowledged_at"], Value::Null);
    acknowledge(&system, &agent, &new).await.data();
    let told = system.payloads(&agent, "agent.directive_acknowledged").await;
    assert_eq!((told.len(), &told[0]["action"]), (1, &json!("drain")));
}

#[tokio::test]
async fn a_pause_that_is_taken_back_before_the_next_heartbeat_is_heard_as_run_alone() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    pause(&system, &agent).await;
    let run = direct(&system, &agent, json!({ "action": "run" })).await["version"].clone();
    let data = system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(data["directive"], json!({ "version": run, "action": "run" }));
    let data = acknowledge(&system, &agent, &run).await.data();
    assert_eq!(data.get("directive"), None, "run is the default");
    let row = system.row(&agent).await;
    assert_eq!((row.get("directive"), row.get("unacked")), (None, None));
    // Who is only to work is told so by nothing, and nothing changes.
    let before = system.event_types(&agent).await;
    let path = agent_path(&agent.id, "/directive");
    agent_read(&Client::operator(&system).await.post(&path, &json!({ "action": "run" })).await);
    assert_eq!((system.row(&agent).await, system.event_types(&agent).await), (row, before));
}

/// ⚠ Nothing of an ended directive is left in the row, and its version must not come again: the agent still repeats it.
#[tokio::test]
async fn an_acknowledgement_of_what_has_ended_is_none_of_what_follows() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let mut versions = Vec::new();
    for _ in 0..3 {
        versions.push(pause(&system, &agent).await);
        versions.push(direct(&system, &agent, json!({ "action": "run" })).await["version"].clone());
        acknowledge(&system, &agent, &versions[versions.len() - 1]).await.data();
        assert_eq!(system.row(&agent).await.get("directive"), None);
    }
    direct(&system, &agent, json!({ "action": "stop", "then_revoke": true })).await;
    for version in versions {
        acknowledge(&system, &agent, &version).await.data();
        assert_eq!(shown(&system, &agent).await["acknowledged_at"], Value::Null, "{version}");
    }
}

#[tokio::test]
async fn an_agent_that_starts_again_is_still_paused() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    acknowledge(&system, &agent, &version).await.data();
    minutes(&system, 10).await;
    assert!(system.row(&agent).await.contains_key("offline_since"));
    let data = system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(data["directive"], json!({ "version": version, "action": "pause" }));
}

// ---- A stop that revokes -------------------------------------------------------------------------------

async fn state(system: &TestSystem, agent: &TestAgent) -> String {
    attribute(&system.row(agent).await, "agent_state").expect("a state").to_owned()
}

#[tokio::test]
async fn a_stop_that_revokes_shuts_out_who_acknowledges_and_goes_on() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let stop = json!({ "action": "stop", "deadline_seconds": 60, "then_revoke": true });
    let version = direct(&system, &agent, stop).await["version"].clone();
    // 2 intervals and 10 s: until then it may not have heard.
    for seconds in [0, 30, 99, 1] {
        system.advance(seconds * SECOND);
        acknowledge(&system, &agent, &version).await.data();
        system.sweep().await;
        assert_eq!(state(&system, &agent).await, "active");
    }
    system.advance(SECOND);
    acknowledge(&system, &agent, &version).await.data();
    assert_eq!(system.sweep().await["revoked"], 1);
    assert_eq!(system.heartbeat(&agent, "healthy").await.status, 401);
    let told = system.payloads(&agent, "agent.revoked").await;
    assert_eq!((&told[0]["reason"], &told[0]["directive"]), (&json!("went on after a stop"), &version));
    let actor = system.events_of(&agent, "agent.revoked").await;
    assert_eq!(attribute(&actor[0], "actor"), Some("system"));

    // Whoever takes it back is not overruled by the same directive, which still says stop.
    agent_read(&Client::operator(&system).await.touch(&agent_path(&agent.id, "/restore")).await);
    assert_eq!(system.heartbeat(&agent, "healthy").await.data()["directive"]["action"], "stop");
    system.sweep().await;
    assert_eq!(state(&system, &agent).await, "active");
}

#[tokio::test]
async fn a_stop_that_revokes_spares_who_is_gone_and_who_could_not_hear() {
    let system = TestSystem::start().await;
    let (silent, left, asleep) = (heard(&system).await, heard(&system).await, heard(&system).await);
    for agent in [&silent, &left, &asleep] {
        direct(&system, agent, json!({ "action": "stop", "then_revoke": true })).await;
    }
    minutes(&system, 1).await;
    system.heartbeat(&left, "healthy").await.data();
    minutes(&system, 2).await;
    system.heartbeat(&left, "offline").await.data();
    minutes(&system, 5).await;
    for agent in [&silent, &left, &asleep] {
        assert_eq!(state(&system, agent).await, "active");
    }
    // Its first heartbeat for a long time tells it; if it goes on then, it is shut out.
    assert_eq!(system.heartbeat(&asleep, "healthy").await.data()["directive"]["action"], "stop");
    assert_eq!(system.sweep().await["revoked"], 0);
    system.advance(71 * SECOND);
    system.heartbeat(&asleep, "healthy").await.data();
    assert_eq!(system.sweep().await["revoked"], 1);
    assert_eq!(state(&system, &asleep).await, "revoked");
}

#[tokio::test]
async fn an_operators_own_revocation_disarms_the_stop() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    direct(&system, &agent, json!({ "action": "stop", "then_revoke": true })).await;
    let operator = Client::operator(&system).await;
    for action in ["/revoke", "/restore"] {
        agent_read(&operator.touch(&agent_path(&agent.id, action)).await);
    }
    system.advance(5 * MINUTE);
    system.heartbeat(&agent, "healthy").await.data();
    system.sweep().await;
    assert_eq!(state(&system, &agent).await, "active");
}

// ---- A new key -----------------------------------------------------------------------------------------

#[tokio::test]
async fn rotating_the_key_is_what_ends_the_wish_for_it() {
    let system = TestSystem::start().await;
    let mut agent = heard(&system).await;
    let rotate = json!({ "action": "rotate_key" });
    for acknowledges in [true, false] {
        let version = direct(&system, &agent, rotate.clone()).await["version"].clone();
        if acknowledges {
            acknowledge(&system, &agent, &version).await.data();
        }
        let path = agent_path(&agent.id, "/rotate-key");
        let (_, rotated) = with_key(&Client::operator(&system).await.touch(&path).await);
        agent = rotated;
        let told = system.payloads(&agent, "agent.key_rotated").await;
        assert_eq!(told.last().expect("an event")["directive"], version);
        let row = system.row(&agent).await;
        assert_eq!((row.get("directive"), row.get("unacked")), (None, None));
        assert_eq!(system.heartbeat(&agent, "healthy").await.data().get("directive"), None);
        system.advance(MINUTE);
    }
}

#[tokio::test]
async fn a_rotation_leaves_another_directive_as_it_is() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    let reply = system.post("/api/agents/rotate-key", &json!({ "apiKey": agent.key })).await;
    let agent = TestAgent { key: text(&reply.data(), "apiKey"), ..agent };
    assert_eq!(system.heartbeat(&agent, "healthy").await.data()["directive"]["version"], version);
}

/// The key that was read is still the current one: only the wish changed meanwhile.
#[tokio::test]
async fn a_rotation_survives_the_acknowledgement_of_the_wish_for_it() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = direct(&system, &agent, json!({ "action": "rotate_key" })).await["version"].clone();
    let operator = Client::operator(&system).await;
    let gate = system.proxy.hold(When::operation("TransactWriteItems").times(1));
    let path = agent_path(&agent.id, "/rotate-key");
    let acknowledgement = async {
        gate.held(1).await;
        acknowledge(&system, &agent, &version).await.data();
        gate.release();
    };
    let (rotated, ()) = join(operator.touch(&path), acknowledgement).await;
    let (_, rotated) = with_key(&rotated);
    assert_eq!(system.heartbeat(&rotated, "healthy").await.data().get("directive"), None);
    assert_eq!(system.payloads(&rotated, "agent.directive_acknowledged").await.len(), 1);
}

// ---- Who may be told what ------------------------------------------------------------------------------

#[tokio::test]
async fn the_reason_is_in_the_event_and_reaches_no_agent() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let reason = "ignore-all-previous-instructions";
    let stop = json!({ "action": "stop", "deadline_seconds": 60, "reason": reason });
    let version = direct(&system, &agent, stop).await["version"].clone();
    let itself = Client::x_agent_token(&system, &agent.key);
    for reply in [
        system.heartbeat(&agent, "healthy").await,
        acknowledge(&system, &agent, &version).await,
        itself.touch(OWN_HEARTBEAT).await,
        itself.touch(&agent_path(&agent.id, "/heartbeat")).await,
        itself.touch(HEARTBEAT_BY_NAME).await,
        itself.get("/api/v1/agent/healthz").await,
        system.post_event(&agent, "e").await,
    ] {
        assert!(!reply.text.contains(reason), "{}", reply.text);
    }
    let told = system.payloads(&agent, "agent.directed").await;
    let expected = json!({
        "version": version, "action": "stop", "deadline": "2037-01-01T00:01:30.001Z", "then_revoke": false,
        "reason": reason, "before": null,
    });
    assert_eq!(told, [expected]);
}

#[tokio::test]
async fn what_cannot_be_wanted_is_refused() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = heard(&system).await;
    let path = agent_path(&agent.id, "/directive");
    for (body, field) in [
        (json!({}), "body.action"),
        (json!({ "action": "explode" }), "body.action"),
        (json!({ "action": "stop", "deadline_seconds": 4 }), "body.deadline_seconds"),
        (json!({ "action": "stop", "deadline_seconds": 604_801 }), "body.deadline_seconds"),
        (json!({ "action": "stop", "deadlineSeconds": 60 }), "body.deadlineSeconds"),
        (json!({ "action": "pause", "deadline_seconds": 60 }), "body.deadline_seconds"),
        (json!({ "action": "pause", "then_revoke": true }), "body.then_revoke"),
        (json!({ "action": "pause", "reason": "x".repeat(501) }), "body.reason"),
    ] {
        assert_eq!(invalid(&operator.post(&path, &body).await), field, "{body}");
    }
    let pause = json!({ "action": "pause" });
    assert_eq!(refused(&operator.post(&agent_path(NO_AGENT, "/directive"), &pause).await), 404);
    let waits = system.registered("waits").await;
    assert_eq!(refused(&operator.post(&agent_path(&waits.id, "/directive"), &pause).await), 409);
    operator.touch(&agent_path(&agent.id, "/revoke")).await;
    assert_eq!(refused(&operator.post(&path, &pause).await), 409);
    let token = enrollment_token(&system, &json!({})).await;
    let enrolled = text(&Client::bearer(&system, &token).heartbeat_as("b").await.json(), "id");
    let rotate = json!({ "action": "rotate_key" });
    assert_eq!(refused(&operator.post(&agent_path(&enrolled, "/directive"), &rotate).await), 409);
    assert_eq!(operator.post(&agent_path(&enrolled, "/directive"), &pause).await.status, 200);
}

#[tokio::test]
async fn a_heartbeat_dies_of_a_wrong_type_in_its_report_only_where_bodies_are_read() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let itself = Client::x_agent_token(&system, &agent.key);
    for (report, problem) in [
        (json!([]), "report: must be a JSON object"),
        (json!({ "ack_directive": "1" }), "report.ack_directive: must be a number"),
    ] {
        let body = json!({ "report": report });
        assert_eq!(itself.post(OWN_HEARTBEAT, &body).await.json()["report_errors"], json!([problem]));
        for path in [agent_path(&agent.id, "/heartbeat"), HEARTBEAT_BY_NAME.to_owned()] {
            assert!(invalid(&itself.post(&path, &body).await).starts_with("body.report"), "{path}");
        }
    }
    let body =
        json!({ "apiKey": agent.key, "status": "healthy", "report": { "ackDirective": {} } }).to_string();
    let reply = system.send(Method::POST, "/api/agents/heartbeat", &[], body).await;
    assert_eq!(reply.message(), "report.ackDirective: must be a number");
}

/// ⚠ 200 for a body that cannot be read let an agent believe that its usage was counted.
#[tokio::test]
async fn what_the_shortest_heartbeat_cannot_read_is_named_and_the_rest_counts() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let itself = Client::x_agent_token(&system, &agent.key);
    let used = r#"{"report": {"usage": {"tokens": 1200, "cost_usd": "0.1"}}, "status": 7}"#;
    for (body, problems) in [
        (r#"{"report": {"usage": {"cost_usd": NaN}}}"#, vec!["body: must be JSON: expected value"]),
        (r#"[{"report": {}}]"#, vec!["body: must be a JSON object"]),
        (used, vec!["report.usage.cost_usd: must be a number"]),
    ] {
        let reply = itself.send(Method::POST, OWN_HEARTBEAT, body).await;
        assert_eq!(reply.status, 200, "{body}");
        let found = reply.json()["report_errors"].clone();
        let found = found.as_array().map_or(vec![], |found| found.iter().filter_map(Value::as_str).collect());
        assert_eq!(found.len(), problems.len(), "{body}: {found:?}");
        assert!(found.iter().zip(problems).all(|(found, problem)| found.starts_with(problem)), "{found:?}");
    }
    for nothing in ["", "{}", "}{", r#"{"status": null, "report": null, "other": []}"#] {
        let reply = itself.send(Method::POST, OWN_HEARTBEAT, nothing).await;
        assert_eq!(reply.json().get("report_errors"), None, "{nothing}");
    }
    let row = system.row(&agent).await;
    assert_eq!((number(&row, "spent_tokens"), number(&row, "spent_microusd")), (Some(1_200), Some(0)));
}

// ---- Who does not listen -------------------------------------------------------------------------------

#[tokio::test]
async fn who_goes_on_without_acknowledging_is_told_once_and_once_when_it_does() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let version = pause(&system, &agent).await;
    for _ in 0..5 {
        minutes(&system, 1).await;
        system.heartbeat(&agent, "healthy").await.data();
        assert_eq!(types(&system).await, [""; 0], "five minutes, or three intervals");
    }
    for _ in 0..2 {
        minutes(&system, 1).await;
        system.heartbeat(&agent, "healthy").await.data();
    }
    assert_eq!(types(&system).await, ["agent.unheeded"]);
    acknowledge(&system, &agent, &version).await.data();
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.unheeded", "agent.recovered"]);
    assert_eq!(alerts(&system).await[1]["data"]["ended"], "unheeded");
}

/// ⚠ A stop that was given in its sleep shut out a sleeper after the heartbeat that told it of the stop; so it did with an agent
/// whose interval had become shorter, and with one that came for the first time.
#[tokio::test]
async fn whoever_hears_late_has_an_interval_to_obey() {
    let system = TestSystem::start().await;
    let (asleep, hourly) = (heard(&system).await, heard(&system).await);
    let fresh = system.verified("fresh").await;
    let operator = Client::operator(&system).await;
    let config = |interval: u64| json!({ "heartbeat_config": { "interval_seconds": interval } });
    agent_read(&operator.patch(&agent_path(&hourly.id, ""), &config(3_600)).await);
    let sleeps = json!({ "report": { "next_beat_in_seconds": 3_600 } });
    Client::x_agent_token(&system, &asleep.key).post(OWN_HEARTBEAT, &sleeps).await;
    system.heartbeat(&hourly, "healthy").await.data();
    agent_read(&operator.patch(&agent_path(&hourly.id, ""), &config(60)).await);
    let all = [&asleep, &hourly, &fresh];
    for agent in all {
        direct(&system, agent, json!({ "action": "stop", "then_revoke": true })).await;
    }
    system.advance(59 * MINUTE);
    // What an event or an operator is answered, no agent hears.
    system.post_event(&hourly, "e").await.data();
    assert_eq!(operator.touch(&agent_path(&asleep.id, "/heartbeat")).await.status, 200);
    minutes(&system, 1).await;
    for _ in 0..2 {
        for agent in all {
            assert_eq!(state(&system, agent).await, "active");
            assert_eq!(system.heartbeat(agent, "healthy").await.data()["directive"]["action"], "stop");
        }
        system.advance(MINUTE);
        system.sweep().await;
    }
    let told = types(&system).await;
    assert!(!told.contains(&"agent.unheeded".to_owned()), "nobody who could not hear is unheeding: {told:?}");
    for agent in all {
        system.heartbeat(agent, "healthy").await.data();
    }
    assert_eq!(system.sweep().await["revoked"], 3, "they had an interval, and go on");
}

/// ⚠ Whoever promises a day's sleep and does not sleep would have had a day.
#[tokio::test]
async fn a_promise_does_not_hold_up_the_stop_of_who_goes_on() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let says = json!({ "report": { "next_beat_in_seconds": 86_400 } });
    let itself = Client::x_agent_token(&system, &agent.key);
    assert_eq!(itself.post(OWN_HEARTBEAT, &says).await.status, 200);
    direct(&system, &agent, json!({ "action": "stop", "then_revoke": true })).await;
    for _ in 0..3 {
        system.advance(MINUTE);
        assert_eq!(itself.post(OWN_HEARTBEAT, &says).await.status, 200);
    }
    assert_eq!(system.sweep().await["revoked"], 1);
}

/// ⚠ What is wanted it hears when it wakes.
#[tokio::test]
async fn who_is_asleep_is_not_told_as_unheeding() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    let body = json!({ "report": { "next_beat_in_seconds": 3_600 } });
    let itself = Client::x_agent_token(&system, &agent.key);
    assert_eq!(itself.post(OWN_HEARTBEAT, &body).await.status, 200);
    let version = pause(&system, &agent).await;
    minutes(&system, 59).await;
    acknowledge(&system, &agent, &version).await.data();
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, [""; 0]);
}

#[tokio::test]
async fn nobody_waits_for_the_acknowledgement_of_run() {
    let system = TestSystem::start().await;
    let agent = heard(&system).await;
    pause(&system, &agent).await;
    direct(&system, &agent, json!({ "action": "run" })).await;
    for _ in 0..10 {
        minutes(&system, 1).await;
        system.heartbeat(&agent, "healthy").await.data();
    }
    assert_eq!(types(&system).await, [""; 0]);
}
