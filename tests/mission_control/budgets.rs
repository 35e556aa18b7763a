//! `report.usage`, and how much an agent may use in a day.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use super::client::{
    Client, HEARTBEAT_BY_NAME, MILLI, OWN_HEARTBEAT, SECOND, agent_path, agent_read, enrollment, invalid,
    text, with_key,
};
use crate::alerts::telling::{alerts, minutes, types};
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, START, TestAgent, TestSystem, number};

const DAY: Duration = Duration::from_hours(24);

/// The day of [`START`], and from it to midnight.
const TODAY: i64 = START.as_millis() / 86_400_000;
const TO_MIDNIGHT: Duration = Duration::from_secs(86_400 - 30);

async fn report(system: &TestSystem, agent: &TestAgent, report: Value) -> Reply {
    let body = json!({ "apiKey": agent.key, "status": "healthy", "report": report });
    system.post("/api/agents/heartbeat", &body).await
}

async fn uses(system: &TestSystem, agent: &TestAgent, tokens: u64, cost_usd: f64) -> Value {
    let usage = json!({ "tokens": tokens, "costUsd": cost_usd });
    report(system, agent, json!({ "usage": usage })).await.data()
}

async fn budget(system: &TestSystem, agent: &TestAgent, budget: Value) -> Reply {
    let operator = Client::operator(system).await;
    operator.patch(&agent_path(&agent.id, ""), &json!({ "budget": budget })).await
}

/// Today, as an operator reads it.
async fn today(system: &TestSystem, agent: &TestAgent) -> Value {
    let usage = Client::operator(system).await.get(&agent_path(&agent.id, "/usage")).await;
    usage.json()["today"].clone()
}

/// The percentages that the agent's events tell.
async fn told(system: &TestSystem, agent: &TestAgent) -> Vec<Value> {
    let payloads = system.payloads(agent, "agent.budget_reached").await;
    payloads.iter().map(|payload| payload["percent"].clone()).collect()
}

async fn counted(system: &TestSystem, agent: &TestAgent) -> (Option<i64>, Option<i64>, Option<i64>) {
    let row = system.row(agent).await;
    (number(&row, "spend_day"), number(&row, "spent_tokens"), number(&row, "spent_microusd"))
}

fn pause(until: &str) -> Value {
    json!({ "version": 0, "action": "pause", "cause": "budget", "until": until })
}

#[tokio::test]
async fn what_is_used_is_counted_in_the_one_write_but_for_the_first_of_a_day() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for day in 0..2 {
        system.proxy.take();
        uses(&system, &agent, 18_250, 0.042).await;
        let tally = system.proxy.take();
        assert_eq!((tally.operations(), tally.refused()), (vec!["UpdateItem", "UpdateItem"], 1), "a new day");
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0), "and the refused one's");
        uses(&system, &agent, 1, 0.000_001).await;
        uses(&system, &agent, 1, 0.0).await;
        uses(&system, &agent, 0, 0.0).await;
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"; 3]);
        assert_eq!((tally.write_units(), tally.read_units()), (3.0, 0.0));
        assert_eq!(counted(&system, &agent).await, (Some(TODAY + day), Some(18_252), Some(42_001)));
        system.advance(DAY);
    }
    let nothing =
        json!({ "day": "2037-01-03", "tokens": 0, "cost_usd": 0.0, "budget": null, "over_budget": false });
    assert_eq!(today(&system, &agent).await, nothing);
}

#[tokio::test]
async fn an_event_and_every_heartbeat_count_alike() {
    let system = TestSystem::start().await;
    let token = enrollment(&system, &json!({})).await;
    let by_name = Client::bearer(&system, &text(&token, "token"));
    let said = json!({ "name": "a", "report": { "usage": { "tokens": 10, "cost_usd": 0.1 } } });
    let created = by_name.post(HEARTBEAT_BY_NAME, &said).await.json();
    let agent = TestAgent { id: text(&created, "id"), key: text(&created, "agent_token") };
    let key = Client::x_agent_token(&system, &agent.key);
    let own = agent_path(&agent.id, "/heartbeat");
    for reply in [
        by_name.post(HEARTBEAT_BY_NAME, &said).await,
        key.post(HEARTBEAT_BY_NAME, &said).await,
        key.post(OWN_HEARTBEAT, &said).await,
        key.post(&own, &said).await,
        Client::operator(&system).await.post(&own, &said).await,
        by_name.post("/api/v1/agents/heartbeats", &json!({ "heartbeats": [said] })).await,
    ] {
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let usage = json!({ "usage": { "tokens": 10, "costUsd": 0.1 } });
    for mut body in [json!({ "event": "e" }), json!({ "events": [{ "event": "e" }, { "event": "f" }] })] {
        body["report"] = usage.clone();
        system.post_events(&agent, &body).await.data();
    }
    assert_eq!(counted(&system, &agent).await, (Some(TODAY), Some(90), Some(900_000)));
    let wrong = json!({ "event": "e", "report": { "usage": { "tokens": "10" } } });
    let reply = system.post_events(&agent, &wrong).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    let kept = key.post(OWN_HEARTBEAT, &json!({ "report": { "usage": { "costUsd": 1 } } })).await.json();
    assert_eq!(kept["report_errors"], json!(["report.usage.costUsd: is not read here: send cost_usd"]));
}

#[tokio::test]
async fn what_a_pending_agent_was_answered_200_for_is_kept() {
    let system = TestSystem::start().await;
    let token = enrollment(&system, &json!({ "approved": false })).await;
    let said = json!({ "name": "a", "report": { "usage": { "tokens": 10 } } });
    let created = Client::bearer(&system, &text(&token, "token")).post(HEARTBEAT_BY_NAME, &said).await;
    let (_, agent) = with_key(&created);
    assert_eq!(counted(&system, &agent).await, (Some(TODAY), Some(10), None));
}

// ---- Many at once ----------------------------------------------------------------------------------------

#[tokio::test]
async fn fifty_first_heartbeats_of_a_day_are_counted_exactly_and_told_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    budget(&system, &agent, json!({ "tokens_per_day": 1_000 })).await;
    uses(&system, &agent, 7, 0.0).await;
    system.advance(DAY);
    let heartbeats = join_all((1..=50).map(|tokens| uses(&system, &agent, tokens, 0.01)));
    let events = join_all((1..=50).map(|tokens| {
        let report = json!({ "usage": { "tokens": tokens, "costUsd": 0.01 } });
        let body = json!({ "event": "e", "report": report });
        let (system, agent) = (&system, &agent);
        async move { system.post_events(agent, &body).await.data() }
    }));
    join(heartbeats, events).await;
    assert_eq!(counted(&system, &agent).await, (Some(TODAY + 1), Some(2_550), Some(1_000_000)));
    uses(&system, &agent, 0, 0.0).await;
    let told = told(&system, &agent).await;
    assert!(told == [json!(100)] || told == [json!(80), json!(100)], "{told:?}");
}

/// ⚠ Half of them began before midnight, and are written in any order with those of the new day. `=` in place of `>=` would
/// end each that is late as 503.
#[tokio::test]
async fn fifty_heartbeats_around_midnight_are_counted_exactly() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    uses(&system, &agent, 1, 0.0).await;
    system.advance(Duration::from_millis(86_369_900));
    let gate = system.proxy.hold(When::operation("UpdateItem").times(50));
    let before = join_all((0..25).map(|_| uses(&system, &agent, 1_000, 0.5)));
    let after = async {
        gate.held(25).await;
        system.advance(200 * MILLI);
        let after = join_all((0..25).map(|_| uses(&system, &agent, 1_000, 0.5)));
        join(after, async {
            gate.held(50).await;
            gate.release();
        })
        .await;
    };
    join(before, after).await;
    // Those that were written before the new day began are the old day's, and gone with it.
    let (day, tokens, microusd) = counted(&system, &agent).await;
    let (tokens, microusd) = (tokens.expect("tokens"), microusd.expect("dollars"));
    assert_eq!(day, Some(TODAY + 1));
    assert!((25_000..=50_000).contains(&tokens) && tokens % 1_000 == 0, "{tokens}");
    assert_eq!(microusd, tokens * 500);
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(51));
}

// ---- All that is due -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_morning_with_everything_due_is_one_transaction_and_counts_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    budget(&system, &agent, json!({ "tokens_per_day": 100 })).await;
    let boot = |id: &str| json!({ "bootId": id, "usage": { "tokens": 5 } });
    report(&system, &agent, boot("aaaaaaaaaaaaaaaa")).await.data();
    let path = agent_path(&agent.id, "/directive");
    let operator = Client::operator(&system).await;
    let directed = operator.post(&path, &json!({ "action": "pause" })).await.json();
    system.heartbeat(&agent, "offline").await.data();
    system.advance(DAY);
    let before = number(&system.row(&agent).await, "requests_total").expect("requests");
    let morning = json!({
        "bootId": "bbbbbbbbbbbbbbbb", "usage": { "tokens": 90, "costUsd": 1.5 }, "progressAgeSeconds": 1,
        "ackDirective": directed["directive"]["version"], "nextBeatInSeconds": 60,
    });
    system.proxy.take();
    report(&system, &agent, morning.clone()).await.data();
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["UpdateItem", "GetItem", "TransactWriteItems"]);
    // The row, four events and the process that was replaced, twice each; and the index of who is absent.
    assert_eq!((tally.refused(), tally.write_units(), tally.read_units()), (1, 13.0, 1.0));
    assert_eq!(counted(&system, &agent).await, (Some(TODAY + 1), Some(90), Some(1_500_000)));
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(before + 1));
    let types = system.event_types(&agent).await;
    let due = ["agent.online", "agent.restarted", "agent.directive_acknowledged", "agent.budget_reached"];
    assert_eq!(types[types.len() - 4..], due);
    let reached = json!({
        "percent": 80, "day": "2037-01-02", "tokens": 90, "cost_usd": 1.5, "budget": { "tokens_per_day": 100 },
    });
    assert_eq!(system.payloads(&agent, "agent.budget_reached").await, [reached]);
    report(&system, &agent, morning).await.data();
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["UpdateItem", "TransactWriteItems"], "and that all of it is used");
    assert_eq!(counted(&system, &agent).await.1, Some(180));
}

/// ⚠ What is answered 200 is kept. What is late is not, so it is to be sent again.
#[tokio::test]
async fn what_was_used_by_a_call_that_was_overtaken_is_to_be_sent_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    uses(&system, &agent, 1, 0.0).await;
    system.set(&agent, "last_seen_at", crate::support::n(START.plus(2 * SECOND).as_millis())).await;
    let before = system.row(&agent).await;
    let reply = report(&system, &agent, json!({ "usage": { "tokens": 1 } })).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    let body = json!({ "event": "e", "report": { "usage": { "tokens": 1 } } });
    assert_eq!(system.post_events(&agent, &body).await.status, 503);
    uses(&system, &agent, 0, 0.0).await;
    assert_eq!(system.row(&agent).await, before);
}

// ---- The budget ------------------------------------------------------------------------------------------

#[tokio::test]
async fn eighty_and_a_hundred_percent_are_told_once_and_the_second_pauses() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    agent_read(&budget(&system, &agent, json!({ "usd_per_day": 5 })).await);
    let key = Client::x_agent_token(&system, &agent.key);
    for (cost_usd, percents) in
        [(3.9, &[][..]), (0.1, &[80]), (0.9, &[80]), (0.1, &[80, 100]), (7.0, &[80, 100])]
    {
        let data = uses(&system, &agent, 1, cost_usd).await;
        assert_eq!(told(&system, &agent).await, percents);
        let directive = data.get("directive").cloned();
        assert_eq!(directive, percents.contains(&100).then(|| pause("2037-01-02T00:00:00.000Z")));
    }
    let own = agent_path(&agent.id, "/heartbeat");
    for reply in [
        key.touch(OWN_HEARTBEAT).await,
        key.touch(HEARTBEAT_BY_NAME).await,
        key.touch(&own).await,
        Client::operator(&system).await.touch(&own).await,
        key.get("/api/v1/agent/healthz").await,
    ] {
        assert_eq!(reply.json()["directive"], pause("2037-01-02T00:00:00.000Z"), "{}", reply.text);
    }
    for (path, item) in [
        ("/api/v1/agents/heartbeats", json!({ "agent_token": agent.key })),
        ("/api/agents/heartbeats", json!({ "apiKey": agent.key, "status": "healthy" })),
    ] {
        let reply = key.post(path, &json!({ "heartbeats": [item] })).await.json();
        let results = reply.get("data").unwrap_or(&reply)["results"].clone();
        assert_eq!(results[0]["directive"], pause("2037-01-02T00:00:00.000Z"), "{reply}");
    }
    let spent = json!({
        "day": "2037-01-01", "tokens": 5, "cost_usd": 12.0, "budget": { "usd_per_day": 5.0 }, "over_budget": true,
    });
    assert_eq!(today(&system, &agent).await, spent);
    let shown = Client::operator(&system).await.get(&agent_path(&agent.id, "?detail=true")).await.json();
    assert_eq!((&shown["detail"]["today"], shown["detail"].get("directive")), (&spent, None));
    // Nobody acknowledges it; and if somebody does, it is nothing.
    report(&system, &agent, json!({ "ackDirective": 0 })).await.data();
    // A larger budget, of which 80 percent are used, and one that is not.
    budget(&system, &agent, json!({ "usd_per_day": 14.5 })).await;
    let data = uses(&system, &agent, 0, 0.0).await;
    assert_eq!(
        (data.get("directive"), told(&system, &agent).await),
        (None, vec![json!(80), json!(100), json!(80)])
    );
    budget(&system, &agent, json!({ "tokens_per_day": 5 })).await;
    assert_eq!(uses(&system, &agent, 0, 0.0).await["directive"]["version"], 0);
    assert_eq!(told(&system, &agent).await.len(), 4, "the higher alone");
    budget(&system, &agent, json!({ "tokens_per_day": 5 })).await;
    system.advance(TO_MIDNIGHT);
    assert_eq!(uses(&system, &agent, 0, 0.0).await.get("directive"), None, "a new day");
    assert_eq!(today(&system, &agent).await["over_budget"], false);
    budget(&system, &agent, Value::Null).await;
    assert_eq!(uses(&system, &agent, 1_000_000, 1_000.0).await.get("directive"), None);
    assert_eq!(told(&system, &agent).await.len(), 4);
    let updated = system.payloads(&agent, "agent.updated").await;
    assert_eq!(
        updated.last(),
        Some(&json!({ "before": { "budget": { "tokens_per_day": 5 } }, "after": { "budget": null } }))
    );
}

#[tokio::test]
async fn what_an_operator_wants_stands_over_a_budget_unless_it_is_to_run() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    budget(&system, &agent, json!({ "usd_per_day": 1 })).await;
    uses(&system, &agent, 0, 1.0).await;
    let path = agent_path(&agent.id, "/directive");
    for (wanted, version_is_zero) in [("drain", false), ("run", true), ("stop", false)] {
        let operator = Client::operator(&system).await;
        assert_eq!(operator.post(&path, &json!({ "action": wanted })).await.status, 200);
        let said = uses(&system, &agent, 0, 0.0).await["directive"].clone();
        assert_eq!(said["version"] == 0, version_is_zero, "{wanted}: {said}");
    }
}

/// ⚠ The heartbeat is done, whatever comes of telling.
#[tokio::test]
async fn a_budget_that_cannot_be_told_is_told_by_the_next_heartbeat() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    budget(&system, &agent, json!({ "usd_per_day": 1 })).await;
    uses(&system, &agent, 0, 0.1).await;
    let fault = system.proxy.inject(When::operation("TransactWriteItems"), Fault::TransactionConflict);
    assert_eq!(uses(&system, &agent, 0, 0.9).await["directive"]["version"], 0);
    assert_eq!(told(&system, &agent).await, [0; 0]);
    fault.clear();
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(told(&system, &agent).await, [100]);
    assert_eq!(counted(&system, &agent).await.2, Some(1_000_000));
    system.proxy.take();
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"], "once");
}

#[tokio::test]
async fn who_is_over_budget_is_told_until_midnight_and_is_not_stalled() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    budget(&system, &agent, json!({ "tokens_per_day": 10 })).await;
    system.advance(Duration::from_secs(86_370 - 40 * 60));
    report(&system, &agent, json!({ "usage": { "tokens": 10 }, "progressAgeSeconds": 0 })).await.data();
    for minute in 1..=39_u64 {
        minutes(&system, 1).await;
        report(&system, &agent, json!({ "progressAgeSeconds": minute * 60 })).await.data();
    }
    assert_eq!(types(&system).await, ["agent.over_budget"]);
    assert_eq!(alerts(&system).await[0]["data"]["began"], "over_budget");
    minutes(&system, 1).await;
    report(&system, &agent, json!({ "progressAgeSeconds": 1 })).await.data();
    minutes(&system, 1).await;
    assert_eq!(types(&system).await, ["agent.over_budget", "agent.recovered"]);
}

#[tokio::test]
async fn a_budget_is_dollars_or_tokens_a_day() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for (good, attribute, stored) in [
        (json!({ "usd_per_day": 0.5 }), "budget_microusd", Some(500_000)),
        (json!({ "usd_per_day": 1_000_000 }), "budget_microusd", Some(1_000_000_000_000)),
        (json!({ "tokens_per_day": 2_000_000 }), "budget_tokens", Some(2_000_000)),
        (Value::Null, "budget_tokens", None),
    ] {
        agent_read(&budget(&system, &agent, good).await);
        let row = system.row(&agent).await;
        assert_eq!(number(&row, attribute), stored);
        assert!(!(row.contains_key("budget_tokens") && row.contains_key("budget_microusd")));
    }
    for (wrong, field) in [
        (json!({ "usd_per_day": 0 }), "body.budget.usd_per_day"),
        (json!({ "usd_per_day": 1_000_001 }), "body.budget.usd_per_day"),
        (json!({ "usd_per_day": 0.000_000_4 }), "body.budget.usd_per_day"),
        (json!({ "tokens_per_day": 0.5 }), "body.budget.tokens_per_day"),
        (json!({ "tokens_per_day": 1.5 }), "body.budget.tokens_per_day"),
        (json!({ "tokens_per_day": "5" }), "body.budget.tokens_per_day"),
        (json!({ "usd_per_day": 1, "tokens_per_day": 1 }), "body.budget.tokens_per_day"),
        (json!({ "usdPerDay": 1 }), "body.budget.usdPerDay"),
        (json!({}), "body.budget.usd_per_day"),
        (json!(5), "body.budget"),
    ] {
        assert_eq!(invalid(&budget(&system, &agent, wrong).await), field);
    }
    assert_eq!(system.payloads(&agent, "agent.updated").await.len(), 4);
}
