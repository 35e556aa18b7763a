//! The functions that a schedule or IAM invokes.

use std::time::Duration;

use serde_json::{Value, json};

use super::deployment::{
    Deployment, call, events_of_the_wrong_kind, fixture, log_records, post, with_header,
};
use crate::support::TestAgent;
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::runtime_api::{Invocation, LambdaProcess};

/// The sweep's line on what it did.
fn metrics(sweep: &LambdaProcess) -> Vec<Value> {
    log_records(sweep).into_iter().filter(|record| record.get("Scanned").is_some()).collect()
}

#[tokio::test]
async fn the_sweep_announces_a_silent_agent_and_reports_in_one_line() {
    let deployment = Deployment::start().await;
    let silent = deployment.silent_agent("silent").await;
    deployment.system.registered("pending").await;
    let live = deployment.system.verified("live").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": live.key, "status": "healthy" }));
    call(&heartbeat, said).await.data();

    let sweep = deployment.function("sweep").await;
    let report = sweep.invoke(fixture("scheduler-sweep.json")).await.answer();
    let counts = ["scanned", "live", "offline", "announced", "lost_races", "failed"];
    assert_eq!(counts.map(|name| report[name].as_u64()), [3, 1, 1, 1, 0, 0].map(Some), "{report}");
    assert_eq!((&report["complete"], &report["segments_done"]), (&json!(true), &report["segments"]));
    assert!(report["oldest_lag_ms"].as_u64().expect("a number") > 0, "{report}");
    assert_eq!(deployment.system.event_types(&silent).await.last().unwrap(), "agent.offline");
    assert!(!deployment.system.event_types(&live).await.contains(&"agent.offline".to_owned()));

    sweep.stop().await;
    let records = log_records(&sweep);
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    assert_eq!((&record["level"], &record["message"]), (&json!("INFO"), &json!("swept")));
    assert!(record["timestamp"].is_string(), "{record}");
    // CloudWatch bills a metric for each that a line brings along: the template's filters choose two.
    assert!(record.get("_aws").is_none(), "{record}");
    for name in ["Deaf", "Raised"] {
        assert!(record[name].is_u64(), "{name}: {record}");
    }
    assert_eq!(
        ["Scanned", "Live", "Offline", "Announced"].map(|name| record[name].as_u64()),
        [3, 1, 1, 1].map(Some)
    );
}

#[tokio::test]
async fn a_second_sweep_announces_nothing_anew() {
    let deployment = Deployment::start().await;
    let silent = deployment.silent_agent("silent").await;
    let sweep = deployment.function("sweep").await;
    let announced = async || {
        let report = sweep.invoke(fixture("scheduler-sweep.json")).await.answer();
        (report["announced"].as_u64().unwrap(), report["offline"].as_u64().unwrap())
    };
    assert_eq!([announced().await, announced().await], [(1, 1), (0, 1)]);
    assert_eq!(offline_events(&deployment, &[silent]).await, 1);
    // ⚠ An alarm on all that is offline would be red for ever.
    let raised: Vec<_> = metrics(&sweep).iter().map(|line| line["Raised"].as_u64()).collect();
    assert_eq!(raised, [Some(1), Some(0)], "what this sweep told, and not all that is offline");
}

#[tokio::test]
async fn an_event_that_is_not_the_schedules_is_an_error_and_the_sweep_lives_on() {
    let deployment = Deployment::start().await;
    let sweep = deployment.function("sweep").await;
    deployment.system.proxy.take();
    let wrong = events_of_the_wrong_kind().into_iter().filter(|(sender, _)| *sender != "scheduler");
    let behind_the_api = ("API Gateway", fixture("apigw-v2-register.json"));
    for (sender, event) in wrong.chain([behind_the_api, ("nobody", json!({})), ("nobody", Value::Null)]) {
        let invocation = sweep.invoke(event).await;
        assert!(invocation.is_error(), "the sweep took an event of {sender}: {invocation:?}");
    }
    assert_eq!(deployment.system.proxy.take().requests(), 0);
    assert_eq!(sweep.invoke(fixture("scheduler-sweep.json")).await.answer()["complete"], true);
}

#[tokio::test]
async fn a_sweep_that_fails_is_an_error_of_its_invocation_and_the_next_one_sweeps() {
    let deployment = Deployment::start().await;
    deployment.silent_agent("silent").await;
    let sweep = deployment.function("sweep").await;
    let scan_fails = deployment.system.proxy.inject(When::operation("Scan"), Fault::Throttled);
    assert!(sweep.invoke(fixture("scheduler-sweep.json")).await.is_error());
    scan_fails.clear();

    let writes_fail =
        deployment.system.proxy.inject(When::writes(), Fault::TransactionCanceled("ThrottlingError"));
    let Invocation::Error { message, .. } = sweep.invoke(fixture("scheduler-sweep.json")).await else {
        panic!("an announcement that failed is an error")
    };
    assert!(message.starts_with("1 of the work failed"), "{message}");
    assert_eq!(metrics(&sweep).last().expect("metrics")["Failed"], 1, "it reports all the same");
    writes_fail.clear();

    assert_eq!(sweep.invoke(fixture("scheduler-sweep.json")).await.answer()["announced"], 1);
}

#[tokio::test]
async fn a_sweep_without_time_stops_before_it_starts_and_says_so() {
    let deployment = Deployment::start().await;
    let silent = deployment.silent_agent("silent").await;
    let sweep = deployment.function("sweep").await;
    // Less than what is kept back for the report.
    let tick = fixture("scheduler-sweep.json");
    let report = sweep.invoke_with_deadline(tick, Duration::from_secs(3)).await.answer();
    assert_eq!((&report["complete"], &report["segments_done"]), (&json!(false), &json!(0)), "{report}");
    assert_eq!((&report["scanned"], &report["announced"]), (&json!(0), &json!(0)), "{report}");
    assert_eq!(offline_events(&deployment, &[silent]).await, 0);
    let record = metrics(&sweep).remove(0);
    assert_eq!((&record["level"], &record["SegmentsDone"]), (&json!("WARN"), &json!(0)), "{record}");
}

/// One segment's first page takes one of the SDK's time limits, which is longer than the sweep has.
#[tokio::test]
async fn a_sweep_whose_time_is_over_says_how_far_it_came_and_the_next_one_does_the_rest() {
    // Enough that each of the four segments has some.
    const AGENTS: u64 = 48;
    let deployment = Deployment::start().await;
    // One after the other, as everywhere here: the engine, the proxy and the system share this thread.
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        agents.push(deployment.silent_agent(&format!("silent-{number}")).await);
    }
    let sweep = deployment.function("sweep").await;
    let slow = When::operation("Scan").mentioning("\"Segment\":2").times(1);
    let slow = deployment.system.proxy.inject(slow, Fault::Hang);
    let tick = fixture("scheduler-sweep.json");
    let stopped = sweep.invoke_with_deadline(tick.clone(), Duration::from_secs(7)).await.answer();
    assert_eq!(stopped["complete"], false, "{stopped}");
    assert!(stopped["segments_done"].as_u64().unwrap() < stopped["segments"].as_u64().unwrap(), "{stopped}");
    let announced = |report: &Value| report["announced"].as_u64().expect("a number");
    assert!(announced(&stopped) < AGENTS, "{stopped}");
    assert_eq!(offline_events(&deployment, &agents).await, announced(&stopped), "{stopped}");
    slow.clear();

    let rest = sweep.invoke(tick).await.answer();
    assert_eq!((&rest["complete"], &rest["scanned"]), (&json!(true), &json!(AGENTS)), "{rest}");
    assert_eq!(announced(&stopped) + announced(&rest), AGENTS, "{stopped} {rest}");
    assert_eq!(offline_events(&deployment, &agents).await, AGENTS);
}

async fn offline_events(deployment: &Deployment, agents: &[TestAgent]) -> u64 {
    let mut offline = 0;
    for agent in agents {
        let events = deployment.system.event_types(agent).await;
        offline += events.iter().filter(|event_type| *event_type == "agent.offline").count() as u64;
    }
    offline
}

#[tokio::test]
async fn minted_tokens_open_what_the_shipped_deployment_keeps_closed() {
    let deployment = Deployment::with(&[("Registration", "enrollment"), ("Approval", "operator")]).await;
    let mint = deployment.function("mint-token").await;
    let minted = async |input: Value| {
        let minted = mint.invoke(input).await.answer();
        minted["token"].as_str().expect("a token").to_owned()
    };
    let operator = minted(json!({ "kind": "operator", "label": "first operator" })).await;
    let enrollment = minted(json!({ "kind": "enrollment", "all_boards": true })).await;
    assert!(operator.starts_with("rco_") && enrollment.starts_with("rce_"), "{operator} {enrollment}");

    let register = deployment.function("register").await;
    let registration = post("/api/agents/register", &json!({ "name": "let in" }));
    assert_eq!(call(&register, registration.clone()).await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    let registered = call(&register, with_header(registration, "x-agent-token", &enrollment)).await.data();

    let verify = deployment.function("verify").await;
    let verification = post("/api/agents/verify", &json!({ "apiKey": registered["apiKey"] }));
    let alone = call(&verify, verification.clone()).await;
    assert_eq!(alone.refusal(), (403, "APPROVAL_REQUIRED".to_owned()));
    let bearer = |token: &str| with_header(verification.clone(), "authorization", &format!("Bearer {token}"));
    assert_eq!(call(&verify, bearer(&enrollment)).await.refusal(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(call(&verify, bearer(&operator)).await.data()["status"], "active");

    mint.stop().await;
    assert_eq!(mint.logs(), Vec::<String>::new(), "tokens are shown to the caller alone");
}

#[tokio::test]
async fn a_token_that_breaks_a_rule_is_an_error_that_names_the_field() {
    let deployment = Deployment::start().await;
    let mint = deployment.function("mint-token").await;
    for (input, field) in [
        (json!({}), "kind"),
        (json!({ "kind": "root" }), "kind"),
        (json!({ "kind": "enrollment" }), "board_id"),
        (json!({ "kind": "operator", "expires_in_seconds": 0 }), "expires_in_seconds"),
        (fixture("scheduler-sweep.json"), "kind"),
    ] {
        let Invocation::Error { error_type, message } = mint.invoke(input.clone()).await else {
            panic!("minted: {input}")
        };
        assert_eq!(error_type, "Invalid", "{message}");
        assert!(message.starts_with(&format!("{field}: ")), "{input}: {message}");
    }
    for input in [json!([]), json!("operator"), Value::Null] {
        assert!(mint.invoke(input.clone()).await.is_error(), "minted: {input}");
    }
    let minted = mint.invoke(json!({ "kind": "operator" })).await.answer();
    assert_eq!(minted["kind"], "operator");
}
