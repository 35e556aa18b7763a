//! What breaks on the way to the database: answered with a 503, never with a lost acknowledgement, and never
//! with a double event.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use local::{Database, Options, System};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::{Reply, START, TestAgent, TestSystem, client, dynamodb_endpoint, number, s, text};

/// What a client does, with the writes that it causes, in order.
#[derive(Clone, Copy, Debug)]
enum Does {
    Register,
    Verify,
    Guess,
    Beat,
    SayOffline,
    ComeBack,
    Post,
    PostOwn,
}

impl Does {
    const ALL: [Self; 8] = [
        Self::Register,
        Self::Verify,
        Self::Guess,
        Self::Beat,
        Self::SayOffline,
        Self::ComeBack,
        Self::Post,
        Self::PostOwn,
    ];

    fn writes(self) -> &'static [&'static str] {
        match self {
            Self::Register | Self::SayOffline | Self::ComeBack | Self::PostOwn => {
                &["UpdateItem", "TransactWriteItems"]
            }
            Self::Verify => &["TransactWriteItems"],
            Self::Guess => &["TransactWriteItems", "UpdateItem"],
            Self::Beat => &["UpdateItem"],
            Self::Post => &["UpdateItem", "PutItem"],
        }
    }

    /// An agent for which it is the next thing to do.
    async fn prepare(self, system: &TestSystem) -> TestAgent {
        match self {
            Self::Register | Self::Verify | Self::Guess => system.registered("a").await,
            Self::ComeBack => {
                let agent = system.verified("a").await;
                system.heartbeat(&agent, "offline").await.data();
                agent
            }
            _ => system.verified("a").await,
        }
    }

    async fn call(self, system: &TestSystem, agent: &TestAgent) -> Reply {
        match self {
            Self::Register => system.register(&json!({ "name": "another" })).await,
            Self::Verify => system.verify(&agent.key).await,
            Self::Guess => system.verify(&"0".repeat(48)).await,
            Self::Beat | Self::ComeBack => system.heartbeat(agent, "healthy").await,
            Self::SayOffline => system.heartbeat(agent, "offline").await,
            Self::Post => system.post_event(agent, "e").await,
            Self::PostOwn => system.post_events(agent, &json!({ "event": "e", "id": "own" })).await,
        }
    }

    fn status(self) -> u16 {
        if matches!(self, Self::Guess) { 401 } else { 200 }
    }
}

/// A 503 that says when to come back and nothing else.
#[track_caller]
fn assert_unavailable(reply: &Reply, what: &str) {
    assert_eq!(reply.refusal(), (503, "UNAVAILABLE".to_owned()), "{what}");
    assert_eq!(reply.message(), "the store is busy or away; try again", "{what}");
    assert_eq!(reply.header("retry-after"), Some("2"), "{what}");
}

/// No event of the agent's is there twice.
async fn assert_no_event_twice(system: &TestSystem, agent: &TestAgent, what: &str) {
    let mut types = system.sorted_event_types(agent).await;
    let all = types.len();
    types.dedup();
    assert_eq!(types.len(), all, "{what}: {types:?}");
}

#[tokio::test]
async fn one_conflict_on_any_write_is_overcome() {
    let system = TestSystem::start().await;
    for does in Does::ALL {
        for write in does.writes() {
            let what = format!("{does:?}, {write}");
            let agent = does.prepare(&system).await;
            let fault = system.proxy.inject(When::operation(write).times(1), Fault::TransactionConflict);
            let reply = does.call(&system, &agent).await;
            assert_eq!(reply.status, does.status(), "{what}: {}", reply.text);
            assert_eq!(fault.hits(), 1, "{what}");
            assert_no_event_twice(&system, &agent, &what).await;
        }
    }
}

#[tokio::test]
async fn a_conflict_on_every_try_is_a_503_after_few_requests() {
    let system = TestSystem::start().await;
    for does in Does::ALL {
        for write in does.writes() {
            let what = format!("{does:?}, {write}");
            let agent = does.prepare(&system).await;
            let fault = system.proxy.inject(When::operation(write), Fault::TransactionConflict);
            system.proxy.take();
            assert_unavailable(&does.call(&system, &agent).await, &what);
            assert_eq!(fault.hits(), 4, "{what}");
            assert!(system.proxy.take().requests() <= 9, "{what}");
            fault.clear();
            assert_eq!(does.call(&system, &agent).await.status, does.status(), "{what}");
            assert_no_event_twice(&system, &agent, &what).await;
        }
    }
}

#[tokio::test]
async fn a_conflict_in_a_batch_is_reported_in_place() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let batch = json!({ "events": [{ "event": "e" }, { "event": "f" }, { "event": "own", "id": "1" }] });
    let fault = system.proxy.inject(When::operation("BatchWriteItem"), Fault::TransactionConflict);
    let data = system.post_events(&agent, &batch).await.data();
    assert_eq!(data["results"][0]["error"]["code"], "UNAVAILABLE");
    assert_eq!(data["results"][1]["error"]["code"], "UNAVAILABLE");
    assert!(data["results"][2]["eventId"].is_string());
    fault.clear();
    system.proxy.inject(When::operation("TransactWriteItems"), Fault::TransactionConflict);
    let batch = json!({ "events": [{ "event": "e" }, { "event": "own", "id": "2" }] });
    let data = system.post_events(&agent, &batch).await.data();
    assert!(data["results"][0]["eventId"].is_string());
    assert_eq!(data["results"][1]["error"]["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn throttling_and_errors_of_the_service_pass_or_are_a_503() {
    for fault in [Fault::Throttled, Fault::ThroughputExceeded, Fault::InternalError, Fault::DropRequest] {
        // The SDK has one budget for tries in a process: each fault gets a new one.
        let system = TestSystem::start().await;
        for does in [Does::Register, Does::Verify, Does::Beat, Does::Post] {
            for write in does.writes() {
                let what = format!("{fault:?}, {does:?}, {write}");
                let agent = does.prepare(&system).await;
                let once = system.proxy.inject(When::operation(write).times(1), fault.clone());
                assert_eq!(does.call(&system, &agent).await.status, 200, "{what}");
                assert_eq!(once.hits(), 1, "{what}");
                assert_no_event_twice(&system, &agent, &what).await;
            }
        }
        for does in [Does::Register, Does::Verify, Does::Beat, Does::Post] {
            let agent = does.prepare(&system).await;
            let always = system.proxy.inject(When::writes(), fault.clone());
            let what = format!("{fault:?}, {does:?}");
            assert_unavailable(&does.call(&system, &agent).await, &what);
            assert!(always.hits() <= 3, "{what}: {} tries", always.hits());
            always.clear();
            assert_eq!(does.call(&system, &agent).await.status, 200, "{what}");
        }
    }
}

#[tokio::test]
async fn a_throttled_transaction_is_a_503_and_changes_nothing() {
    let system = TestSystem::start().await;
    for code in ["ThrottlingError", "ProvisionedThroughputExceeded"] {
        let agent = system.registered("a").await;
        let fault =
            system.proxy.inject(When::operation("TransactWriteItems"), Fault::TransactionCanceled(code));
        assert_unavailable(&system.verify(&agent.key).await, code);
        fault.clear();
        assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
        system.verify(&agent.key).await.data();
    }
}

#[tokio::test]
async fn without_a_database_every_endpoint_answers_503_and_then_works_again() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.close().await;
    for does in [Does::Register, Does::Verify, Does::Beat, Does::SayOffline, Does::Post, Does::PostOwn] {
        assert_unavailable(&does.call(&system, &agent).await, &format!("{does:?}"));
    }
    system.try_sweep().await.expect_err("no database");
    system.proxy.reopen();
    system.heartbeat(&agent, "healthy").await.data();
    system.post_event(&agent, "e").await.data();
    system.registered("b").await;
}

#[tokio::test]
async fn a_missing_table_is_an_internal_error_without_its_cause() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.dynamodb.delete_table().table_name(system.table("EventsTable")).send().await.unwrap();
    let reply = system.post_event(&agent, "e").await;
    assert_eq!(reply.refusal(), (500, "INTERNAL".to_owned()));
    assert_eq!(reply.message(), "internal error");
    assert_eq!(reply.header("retry-after"), None);
}

/// ⚠ Without an index of this build's, what needs it would fail later and piece by piece.
#[tokio::test]
async fn a_table_of_an_earlier_build_that_lacks_an_index_is_refused_in_one_line() {
    let engine = dynamodb_endpoint().await;
    let prefix = format!("rollcall-test-{}", uuid::Uuid::now_v7().simple());
    let table = format!("{prefix}-AlertsTable");
    let mut request =
        client(&engine).create_table().table_name(&table).billing_mode(BillingMode::PayPerRequest);
    for (name, key) in [("alert_log", KeyType::Hash), ("alert_key", KeyType::Range)] {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        let attribute = attribute.attribute_type(ScalarAttributeType::S).build().expect("an attribute");
        let key = KeySchemaElement::builder().attribute_name(name).key_type(key).build().expect("a key");
        request = request.attribute_definitions(attribute).key_schema(key);
    }
    request.send().await.expect("a table");
    let parameters = [("Registration", "open"), ("Approval", "key")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let options = Options {
        parameters,
        database: Database::Endpoint(engine.clone()),
        table_prefix: prefix,
        ..Options::default()
    };
    let refused = System::start(options).await.err().expect("a refusal").to_string();
    assert_eq!(
        refused,
        format!(
            "DynamoDB at {engine}: table AlertsTable: it was made by an earlier build, without the index by_due: \
             start with another folder or table prefix"
        )
    );
}

#[tokio::test]
async fn a_broken_row_is_an_internal_error_without_its_content() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.set(&agent, "created_at", s("yesterday")).await;
    for reply in [system.heartbeat(&agent, "healthy").await, system.verify(&agent.key).await] {
        assert_eq!(reply.refusal(), (500, "INTERNAL".to_owned()));
        assert_eq!(reply.message(), "internal error");
    }
}

// ---- Answers that are lost -------------------------------------------------------------------------------

/// The write happened and its answer did not arrive: the SDK sends it again.
#[tokio::test]
async fn a_lost_answer_loses_nothing_and_doubles_nothing() {
    let system = TestSystem::start().await;
    for does in Does::ALL {
        for write in does.writes() {
            let what = format!("{does:?}, {write}");
            let agent = does.prepare(&system).await;
            let (agents, events) =
                (system.rows("AgentsTable").await.len(), system.sorted_event_types(&agent).await);
            let fault = system.proxy.inject(When::operation(write).times(1), Fault::DropAnswer);
            let reply = does.call(&system, &agent).await;
            assert_eq!(reply.status, does.status(), "{what}: {}", reply.text);
            assert_eq!(fault.hits(), 1, "{what}");
            let new_agents = system.rows("AgentsTable").await.len() - agents;
            assert_eq!(new_agents, usize::from(matches!(does, Does::Register)), "{what}");
            let new_events = system.sorted_event_types(&agent).await.len() - events.len();
            let expected = usize::from(!matches!(does, Does::Register | Does::Guess | Does::Beat));
            assert_eq!(new_events, expected, "{what}");
            if let Some(id) = reply.json()["data"]["eventId"].as_str() {
                let rows = system.event_rows(&agent.id).await;
                assert!(rows.iter().any(|row| text(row, "event_id") == Some(id)), "{what}: acknowledged");
            }
        }
    }
}

/// No answer arrives at all: a 503, and the same request again finds what was done.
#[tokio::test]
async fn what_was_done_unheard_is_found_by_the_next_try() {
    let system = TestSystem::start().await;
    for does in [Does::Verify, Does::SayOffline, Does::ComeBack, Does::PostOwn] {
        let what = format!("{does:?}");
        let agent = does.prepare(&system).await;
        let before = system.sorted_event_types(&agent).await.len();
        let fault = system.proxy.inject(When::operation("TransactWriteItems"), Fault::DropAnswer);
        assert_unavailable(&does.call(&system, &agent).await, &what);
        assert_eq!(system.sorted_event_types(&agent).await.len(), before + 1, "{what}: it happened");
        fault.clear();
        does.call(&system, &agent).await.data();
        assert_eq!(system.sorted_event_types(&agent).await.len(), before + 1, "{what}: once");
    }
}

#[tokio::test]
async fn a_batch_whose_answer_is_lost_is_stored_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let events: Vec<_> = (0..10).map(|number| json!({ "event": format!("e{number}") })).collect();
    let fault = system.proxy.inject(When::operation("BatchWriteItem").times(1), Fault::DropAnswer);
    let data = system.post_events(&agent, &json!({ "events": events })).await.data();
    assert_eq!(fault.hits(), 1);
    for result in data["results"].as_array().unwrap() {
        let id = result["eventId"].as_str().expect("an id");
        let rows = system.event_rows(&agent.id).await;
        assert_eq!(rows.iter().filter(|row| text(row, "event_id") == Some(id)).count(), 1);
    }
    assert_eq!(system.sorted_event_types(&agent).await.len(), 12);
}

#[tokio::test]
async fn an_announcement_whose_answer_is_lost_is_made_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    system.advance(Duration::from_mins(10));
    let fault = system.proxy.inject(When::operation("TransactWriteItems"), Fault::DropAnswer);
    system.try_sweep().await.expect_err("nothing was heard");
    fault.clear();
    let report = system.sweep().await;
    assert_eq!((&report["announced"], &report["offline"]), (&json!(0), &json!(1)));
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);

    system.heartbeat(&agent, "healthy").await.data();
    system.advance(Duration::from_mins(10));
    system.proxy.inject(When::operation("TransactWriteItems").times(1), Fault::DropAnswer);
    assert_eq!(system.sweep().await["announced"], 1, "the second sending is heard");
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 2);
}

/// Known: a heartbeat that is sent again counts twice, and renews the lease once.
#[tokio::test]
async fn a_heartbeat_whose_answer_is_lost_may_count_twice_and_nothing_worse() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.inject(When::operation("UpdateItem").times(1), Fault::DropAnswer);
    system.heartbeat(&agent, "healthy").await.data();
    let row = system.row(&agent).await;
    assert_eq!(number(&row, "requests_total"), Some(2));
    assert_eq!(number(&row, "last_seen_at"), Some(START.as_millis()));
}

// ---- A database that never answers -----------------------------------------------------------------------

/// With the timeouts of Lambda; takes as long as they do.
#[tokio::test]
async fn a_database_that_never_answers_is_a_503() {
    let system = TestSystem::with().impatient().start().await;
    let agent = system.verified("a").await;
    let hang = system.proxy.inject(When::always(), Fault::Hang);
    let (beat, (event, ready)) = futures_util::future::join(
        system.heartbeat(&agent, "healthy"),
        futures_util::future::join(system.post_event(&agent, "e"), system.get("/readyz")),
    )
    .await;
    for reply in [beat, event, ready] {
        assert_unavailable(&reply, "never answered");
    }
    hang.clear();
    system.heartbeat(&agent, "healthy").await.data();
}

/// The attempt's time limit also ends an answer that stops halfway: the client watches no stream for that.
#[tokio::test]
async fn an_answer_that_stalls_halfway_is_asked_for_again() {
    let system = TestSystem::with().impatient().start().await;
    let agent = system.verified("a").await;
    system.proxy.take();
    let stall = system.proxy.inject(When::operation("UpdateItem").times(1), Fault::StallAnswer);
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(stall.hits(), 1);
    assert_eq!(system.proxy.take().of("UpdateItem").requests(), 2);
}

// ---- Secrets ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn no_refusal_repeats_a_credential() {
    let system = TestSystem::with().parameter("Approval", "operator").start().await;
    let agent = system.registered("a").await;
    let operator = system.operator_token().await;
    let bearer = format!("Bearer {operator}");
    let malformed = format!("{}!", agent.key);
    let routes =
        ["/api/agents/register", "/api/agents/verify", "/api/agents/heartbeat", "/api/agents/events"];
    let faults =
        [None, Some(Fault::InternalError), Some(Fault::TransactionConflict), Some(Fault::Error(400, "Odd"))];
    let mut refused = 0;
    for fault in faults {
        let rule = fault.map(|fault| system.proxy.inject(When::always(), fault));
        for path in routes {
            for (headers, key) in [
                (vec![("x-agent-token", agent.key.as_str())], &Value::Null),
                (vec![("authorization", bearer.as_str())], &json!(agent.key)),
                (vec![("x-agent-token", operator.as_str())], &json!(agent.key)),
                (vec![("x-agent-token", malformed.as_str())], &Value::Null),
                (vec![], &json!(malformed)),
                (vec![], &json!([agent.key])),
            ] {
                let body =
                    json!({ "apiKey": key, "event": agent.key.repeat(3), "status": agent.key, "name": 7 });
                let reply = system.send(Method::POST, path, &headers, body.to_string()).await;
                refused += usize::from(reply.status != 200);
                let shown = format!("{} {:?}", reply.text, reply.headers);
                for secret in [&agent.key[16..], &operator[20..]] {
                    assert!(!shown.contains(secret), "{path}: {shown}");
                }
            }
        }
        if let Some(rule) = rule {
            rule.clear();
        }
    }
    assert!(refused > 80, "{refused}");
}
