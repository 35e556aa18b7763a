//! What a heartbeat reports: how old the agent's progress is, and when it comes again.

use std::time::Duration;

use serde_json::{Value, json};

use super::batches::BATCH;
use super::client::{Client, OWN_HEARTBEAT, SECOND, agent_path, agent_read, enrollment_token, invalid, text};
use crate::alerts::telling::{alerts, minutes, types};
use crate::support::{Reply, START, TestAgent, TestSystem, number, text as text_of};

const MINUTE: Duration = Duration::from_mins(1);

async fn report(system: &TestSystem, agent: &TestAgent, report: Value) -> Reply {
    let reply =
        Client::x_agent_token(system, &agent.key).post(OWN_HEARTBEAT, &json!({ "report": report })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

/// A heartbeat each minute, for so many minutes, with a sweep after each.
async fn work(system: &TestSystem, agent: &TestAgent, count: u32, said: &Value) {
    for _ in 0..count {
        report(system, agent, said.clone()).await;
        minutes(system, 1).await;
    }
}

async fn detail(system: &TestSystem, agent: &TestAgent) -> Value {
    Client::operator(system).await.get(&agent_path(&agent.id, "?detail=true")).await.json()["detail"].clone()
}

async fn status(system: &TestSystem, agent: &TestAgent) -> String {
    text(&Client::operator(system).await.show(agent).await, "status")
}

#[tokio::test]
async fn a_report_is_in_the_one_write_of_its_heartbeat() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for said in [
        json!({ "progress_age_seconds": 12.3 }),
        json!({ "next_beat_in_seconds": 3600 }),
        json!({ "progress_age_seconds": 0, "next_beat_in_seconds": 60.0, "ack_directive": 7 }),
        json!({}),
    ] {
        system.proxy.take();
        report(&system, &agent, said).await;
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"]);
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0));
    }
    let row = system.row(&agent).await;
    assert_eq!((row.get("next_beat_at"), row.get("stalls_at")), (None, None), "the last one took it back");
}

// ---- Stalled ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn work_that_stands_still_is_told_once_and_once_when_it_goes_on() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    report(&system, &agent, json!({ "progress_age_seconds": 0 })).await;
    for age in (60..900).step_by(60) {
        minutes(&system, 1).await;
        report(&system, &agent, json!({ "progress_age_seconds": age })).await;
    }
    assert_eq!(types(&system).await, [""; 0], "fourteen minutes");
    for age in [900, 960, 1_020] {
        minutes(&system, 1).await;
        report(&system, &agent, json!({ "progress_age_seconds": age })).await;
    }
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.stalled"]);
    assert_eq!(system.payloads(&agent, "agent.stalled").await, [json!({ "seq": 1 })]);
    assert_eq!(status(&system, &agent).await, "online", "liveness is another thing");
    let fleet = Client::operator(&system).await.get("/api/v1/fleet").await.json();
    assert_eq!((&fleet["stalled"], &fleet["live"]), (&json!(1), &json!(1)));
    report(&system, &agent, json!({ "progress_age_seconds": 1 })).await;
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.stalled", "agent.recovered"]);
    assert_eq!(alerts(&system).await[1]["data"]["ended"], "stalled");
}

#[tokio::test]
async fn who_is_idle_or_asleep_or_paused_is_not_stalled() {
    let system = TestSystem::start().await;
    let (idle, asleep, paused) =
        (system.verified("idle").await, system.verified("asleep").await, system.verified("paused").await);
    let old = json!({ "progress_age_seconds": 800 });
    report(&system, &idle, old.clone()).await;
    report(&system, &asleep, json!({ "progress_age_seconds": 800, "next_beat_in_seconds": 3600 })).await;
    let version = {
        let pause = json!({ "action": "pause" });
        let path = agent_path(&paused.id, "/directive");
        Client::operator(&system).await.post(&path, &pause).await.json()["directive"]["version"].clone()
    };
    for _ in 0..30 {
        report(&system, &idle, json!({})).await;
        report(&system, &paused, json!({ "progress_age_seconds": 5_000, "ack_directive": version })).await;
        minutes(&system, 1).await;
    }
    assert_eq!(types(&system).await, [""; 0]);
}

/// ⚠ What it said before it was shut out says nothing of its work now, and it has not been able to say anything else.
#[tokio::test]
async fn a_restored_agent_is_not_stalled_before_it_is_heard() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    report(&system, &agent, json!({ "progress_age_seconds": 0 })).await;
    let operator = Client::operator(&system).await;
    agent_read(&operator.touch(&agent_path(&agent.id, "/revoke")).await);
    minutes(&system, 20).await;
    agent_read(&operator.touch(&agent_path(&agent.id, "/restore")).await);
    minutes(&system, 2).await;
    assert_eq!(types(&system).await, [""; 0]);
    report(&system, &agent, json!({ "progress_age_seconds": 1_320 })).await;
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.stalled"], "by its own word");
}

/// ⚠ The time of the pause is in the age that it reports: without time to get further, each end of a pause would be told.
#[tokio::test]
async fn who_is_told_to_go_on_after_a_pause_has_time_to_get_further() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let operator = Client::operator(&system).await;
    let direct = async |action| {
        let path = agent_path(&agent.id, "/directive");
        assert_eq!(operator.post(&path, &json!({ "action": action })).await.status, 200);
    };
    report(&system, &agent, json!({ "progress_age_seconds": 0 })).await;
    direct("pause").await;
    direct("run").await;
    direct("pause").await;
    work(&system, &agent, 4, &json!({ "progress_age_seconds": 5_000 })).await;
    direct("run").await;
    work(&system, &agent, 14, &json!({ "progress_age_seconds": 5_000 })).await;
    assert_eq!(types(&system).await, [""; 0]);
    work(&system, &agent, 1, &json!({ "progress_age_seconds": 5_000 })).await;
    assert_eq!(types(&system).await, ["agent.stalled"], "it does not go on");
}

#[tokio::test]
async fn an_operator_says_how_long_work_may_stand_still() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let operator = Client::operator(&system).await;
    let path = agent_path(&agent.id, "");
    for (seconds, after) in [(json!(60), 60_000), (json!(604_800), 604_800_000), (Value::Null, 900_000)] {
        agent_read(&operator.patch(&path, &json!({ "stall_after_seconds": seconds })).await);
        assert_eq!(
            number(&system.row(&agent).await, "stall_after_ms").map(|ms| json!(ms / 1000)),
            seconds.as_i64().map(|it| json!(it))
        );
        report(&system, &agent, json!({ "progress_age_seconds": 10 })).await;
        let stalls_at = number(&system.row(&agent).await, "stalls_at");
        assert_eq!(stalls_at, Some(START.as_millis() - 10_000 + after));
    }
    for wrong in [json!(59), json!(604_801), json!("60")] {
        let reply = operator.patch(&path, &json!({ "stall_after_seconds": wrong })).await;
        assert_eq!(invalid(&reply), "body.stall_after_seconds");
    }
    let told = system.payloads(&agent, "agent.updated").await;
    let (before, after) = (&told[1]["before"], &told[1]["after"]);
    assert_eq!(
        (before, after),
        (&json!({ "stall_after_seconds": 60 }), &json!({ "stall_after_seconds": 604_800 }))
    );
}

// ---- The promised next heartbeat -------------------------------------------------------------------------

#[tokio::test]
async fn who_sleeps_for_four_hours_is_told_to_nobody_until_the_promise_is_broken() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    let body = json!({ "apiKey": agent.key, "status": "healthy", "report": { "nextBeatInSeconds": 14_400 } });
    let data = system.post("/api/agents/heartbeat", &body).await.data();
    assert_eq!(data["leaseExpiresAt"], "2037-01-01T04:02:30.000Z", "the promise and the tolerance");
    let detail = detail(&system, &agent).await;
    assert_eq!(
        (&detail["next_beat_at"], &detail["late"]),
        (&json!("2037-01-01T04:00:30.000Z"), &json!(false))
    );
    for _ in 0..24 {
        system.advance(10 * MINUTE);
        system.sweep().await;
        assert_eq!(status(&system, &agent).await, "healthy");
    }
    system.advance(2 * MINUTE + 10 * SECOND);
    assert_eq!(system.sweep().await["announced"], 0, "the grace of a lease");
    assert_eq!(status(&system, &agent).await, "offline", "the clock says so at once");
    system.advance(SECOND);
    assert_eq!(system.sweep().await["announced"], 1);
    minutes(&system, 3).await;
    assert_eq!(types(&system).await, ["agent.offline"]);
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(detail_key(&system, &agent).await, None);
}

async fn detail_key(system: &TestSystem, agent: &TestAgent) -> Option<Value> {
    detail(system, agent).await.get("next_beat_at").cloned()
}

#[tokio::test]
async fn an_event_an_operator_and_a_restore_leave_a_promise_as_it_is() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    report(&system, &agent, json!({ "progress_age_seconds": 5, "next_beat_in_seconds": 14_400 })).await;
    let claims = |row: crate::support::Row| (number(&row, "next_beat_at"), number(&row, "stalls_at"));
    let before = claims(system.row(&agent).await);
    let operator = Client::operator(&system).await;
    let path = |action: &str| agent_path(&agent.id, action);
    system.advance(MINUTE);
    system.post_event(&agent, "e").await.data();
    for said in [json!({}), json!({ "status": "healthy", "report": null })] {
        agent_read(&operator.post(&path("/heartbeat"), &said).await);
    }
    agent_read(
        &operator.patch(&path(""), &json!({ "heartbeat_config": { "missing_tolerance": 600 } })).await,
    );
    for action in ["/revoke", "/restore"] {
        agent_read(&operator.touch(&path(action)).await);
    }
    assert_eq!(claims(system.row(&agent).await), before);
    system.advance(Duration::from_hours(4) + 8 * MINUTE);
    assert_eq!(system.sweep().await["announced"], 0, "the promise and the new tolerance");
    system.advance(2 * MINUTE);
    assert_eq!(system.sweep().await["announced"], 1);
}

/// ⚠ A gateway that knows its agents by their ids passes on what they report: what was dropped unsaid let a sleeper die.
#[tokio::test]
async fn an_operators_heartbeat_with_a_report_counts_like_the_agents_own() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for name in ["by path", "in a batch"] {
        let agent = system.verified(name).await;
        let pass_on = async |report: Value| {
            let reply = if name == "by path" {
                operator.post(&agent_path(&agent.id, "/heartbeat"), &json!({ "report": report })).await
            } else {
                let item = json!({ "agent_id": agent.id, "report": report });
                operator.post(BATCH, &json!({ "heartbeats": [item] })).await
            };
            assert_eq!(reply.status, 200, "{}", reply.text);
            system.row(&agent).await
        };
        let pause = json!({ "action": "pause" });
        let directed = operator.post(&agent_path(&agent.id, "/directive"), &pause).await.json();
        let row = pass_on(json!({
            "progress_age_seconds": 5,
            "next_beat_in_seconds": 600,
            "boot_id": "00000000000000aa",
            "usage": { "tokens": 3 },
            "ack_directive": directed["directive"]["version"],
        }))
        .await;
        let promised = system.now().plus(10 * MINUTE).as_millis();
        assert_eq!(number(&row, "next_beat_at"), Some(promised), "{name}");
        assert_eq!(number(&row, "stalls_at"), Some(promised - 5_000 + 900_000));
        assert_eq!((number(&row, "spent_tokens"), row.contains_key("boot")), (Some(3), true));
        assert!(!row.contains_key("unacked"));
        let [event] = &system.events_of(&agent, "agent.directive_acknowledged").await[..] else {
            panic!("one acknowledgement")
        };
        assert!(text_of(event, "actor").is_some_and(|actor| actor.starts_with("operator:")), "{event:?}");
        let row = pass_on(json!({})).await;
        assert_eq!((row.get("next_beat_at"), row.get("stalls_at")), (None, None), "it takes back");
    }
}

#[tokio::test]
async fn a_client_that_knows_no_reports_voids_all_claims_with_its_first_heartbeat() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    report(&system, &agent, json!({ "progress_age_seconds": 5, "next_beat_in_seconds": 14_400 })).await;
    system.heartbeat(&agent, "healthy").await.data();
    minutes(&system, 4).await;
    assert_eq!(types(&system).await, ["agent.offline"]);
}

/// Nothing of it was kept: an agent that went to sleep on it would be taken for dead.
#[tokio::test]
async fn a_promise_that_was_overtaken_is_to_be_sent_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.advance(5 * SECOND);
    system.heartbeat(&agent, "healthy").await.data();
    let later = START.plus(7 * SECOND).as_millis();
    system.set(&agent, "last_seen_at", crate::support::n(later)).await;
    let before = system.row(&agent).await;
    let key = Client::x_agent_token(&system, &agent.key);
    let reply = key.post(OWN_HEARTBEAT, &json!({ "report": { "next_beat_in_seconds": 60 } })).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(
        key.post(OWN_HEARTBEAT, &json!({ "report": { "progress_age_seconds": 1 } })).await.status,
        200
    );
    assert_eq!(system.row(&agent).await, before);
}

#[tokio::test]
async fn the_heartbeat_that_creates_an_agent_may_promise_the_next() {
    let system = TestSystem::start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let body =
        json!({ "name": "a", "report": { "progress_age_seconds": 0, "next_beat_in_seconds": 14_400 } });
    let created = Client::bearer(&system, &token).post("/api/v1/agents/heartbeat", &body).await.json();
    let agent = TestAgent { id: text(&created, "id"), key: text(&created, "agent_token") };
    system.advance(Duration::from_hours(4));
    assert_eq!(system.sweep().await["announced"], 0);
    assert_eq!(status(&system, &agent).await, "online");
    work(&system, &agent, 2, &json!({ "progress_age_seconds": 0 })).await;
    assert_eq!(types(&system).await, [""; 0]);
}

/// ⚠ A promise hides a death until it is broken: how long at most is the deployment's to say.
#[tokio::test]
async fn a_deployment_says_how_far_ahead_an_agent_may_promise() {
    let system = TestSystem::with().parameter("MaxPromiseSeconds", 600).start().await;
    let token = enrollment_token(&system, &json!({})).await;
    let long = json!({ "next_beat_in_seconds": 14_400 });
    let batch = json!({ "heartbeats": [{ "name": "b", "report": long }] });
    let batch = Client::bearer(&system, &token).post("/api/v1/agents/heartbeats", &batch).await.json();
    let end = START.plus(12 * MINUTE).to_string();
    assert_eq!(batch["results"][0]["lease_expires_at"], end);
    let by_name = json!({ "name": "c", "report": long });
    Client::bearer(&system, &token).post("/api/v1/agents/heartbeat", &by_name).await.json();
    let agent = system.verified("a").await;
    report(&system, &agent, long).await;
    let body = json!({ "apiKey": agent.key, "status": "healthy", "report": { "nextBeatInSeconds": 601 } });
    assert_eq!(system.post("/api/agents/heartbeat", &body).await.data()["leaseExpiresAt"], end);
    system.advance(12 * MINUTE + 10 * SECOND);
    assert_eq!(system.sweep().await["announced"], 0);
    system.advance(SECOND);
    assert_eq!(system.sweep().await["announced"], 3);
}
