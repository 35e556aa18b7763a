//! The template's policies are executed: a function may make the calls that it needs, and no other.
//!
//! In every test a call that is not allowed is refused, and `TestSystem` fails the test by the function's name and the
//! action. Here every permission is needed once, so that one too many is found as well.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use shared::domain::concern::Concern;

use crate::alerts::channels::create;
use crate::alerts::telling;
use crate::lambda::deployment::template;
use crate::mission_control::client::{
    AGENTS, Client, HEARTBEAT_BY_NAME, NO_AGENT, TOKENS, agent_path, enrollment, text,
};
use crate::support::receiver::Receiver;
use crate::support::{Reply, TestAgent, TestSystem, changed_template};

fn lines(permissions: Vec<(String, local::template::Permission)>) -> Vec<String> {
    permissions.into_iter().map(|(function, permission)| format!("{function}: {permission}")).collect()
}

fn arn(system: &TestSystem, table: &str) -> String {
    format!("arn:aws:dynamodb:local:000000000000:table/{}", system.table(table))
}

#[track_caller]
fn ok(reply: &Reply) {
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Both doors closed, and an agent that has gone through both.
async fn closed() -> (TestSystem, TestAgent) {
    let system = TestSystem::with().parameter("Registration", "enrollment");
    let system = system.parameter("Approval", "operator").start().await;
    let agent = Client::operator(&system).await.create(&json!({ "name": "first" })).await;
    (system, agent)
}

#[tokio::test]
async fn every_permission_is_needed_and_every_need_is_permitted() {
    let (system, agent) = closed().await;
    envelope(&system, &agent).await;
    agents(&system, &agent).await;
    tokens(&system).await;
    alerts(&system).await;
    ok(&system.get("/readyz").await);
    told(&system, &agent).await;

    assert_eq!(lines(system.system.refused_permissions()), [""; 0], "calls that the policies do not allow");
    assert_eq!(lines(system.system.unused_permissions()), [""; 0], "permissions that no call needs");
}

/// ⚠ A right to some attributes of a table cannot be given together with `PutItem`: where channels send to, and by what they
/// sign, is a table of its own.
#[test]
fn what_a_channel_sends_to_and_signs_by_is_read_by_the_one_function_that_sends() {
    let open = [("Registration", "open"), ("Approval", "key")];
    let open = open.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let functions = template(&open, &str::to_owned, "http://api").expect("the template").functions;
    let mut allowed: Vec<_> = functions
        .iter()
        .flat_map(|function| function.permissions.iter().map(|one| (function.binary.as_str(), one)))
        .filter(|(_, permission)| permission.resource.to_string().contains("/SecretsTable"))
        .map(|(binary, permission)| (binary, permission.action.as_str()))
        .collect();
    allowed.sort_unstable();
    let expected = [
        ("create-channel", "dynamodb:PutItem"),
        ("delete-channel", "dynamodb:DeleteItem"),
        ("deliver", "dynamodb:GetItem"),
        ("update-channel", "dynamodb:UpdateItem"),
    ];
    assert_eq!(allowed, expected);
}

/// What needs each permission of the functions behind the envelope's routes.
async fn envelope(system: &TestSystem, agent: &TestAgent) {
    let one_off = enrollment(system, &json!({ "reusable": false })).await;
    let newcomer = Client::x_agent_token(system, &text(&one_off, "token"));
    let registered = newcomer.post("/api/agents/register", &json!({ "name": "second" })).await.data();
    let key = text(&registered, "apiKey");
    assert_eq!(system.verify(&key).await.status, 403, "approval is needed: one read of the agent");
    assert_eq!(system.verify(&"0".repeat(48)).await.status, 401, "an unknown key is counted by address");
    let approval = json!({ "apiKey": key });
    ok(&Client::operator(system).await.post("/api/agents/verify", &approval).await);

    ok(&system.heartbeat(agent, "healthy").await);
    ok(&system.heartbeat(agent, "offline").await);
    for boot_id in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"] {
        let report = json!({ "bootId": boot_id });
        let body = json!({ "apiKey": agent.key, "status": "healthy", "report": report });
        ok(&system.post("/api/agents/heartbeat", &body).await);
    }
    ok(&Client::operator(system).await.touch(&agent_path(&agent.id, "/heartbeat")).await);

    ok(&system.post_event(agent, "one").await);
    ok(&system.post_events(agent, &json!({ "events": [{ "event": "two" }, { "event": "three" }] })).await);
    ok(&system.send(Method::POST, "/api/agents/rotate-key", &[("x-agent-token", &agent.key)], "").await);
}

/// What needs each permission of the functions for Mission Control's agents. Each time by a token of its own, whose
/// use is noted.
async fn agents(system: &TestSystem, agent: &TestAgent) {
    let by_name = text(&enrollment(system, &json!({})).await, "token");
    let created = Client::bearer(system, &by_name).heartbeat_as("third").await;
    ok(&created);
    let third = Client::bearer(system, &text(&created.json(), "agent_token"));
    ok(&third.post(HEARTBEAT_BY_NAME, &json!({ "status": "offline" })).await);
    for boot_id in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"] {
        ok(&third.post(HEARTBEAT_BY_NAME, &json!({ "report": { "boot_id": boot_id } })).await);
    }
    ok(&third.get("/api/v1/agent/healthz").await);
    assert_eq!(third.post(HEARTBEAT_BY_NAME, &json!({ "status": 1 })).await.status, 422);
    assert_eq!(third.touch(&agent_path(&agent.id, "/heartbeat")).await.status, 403);
    let by_name = text(&enrollment(system, &json!({})).await, "token");
    let batch = json!({ "heartbeats": [{ "name": "fifth" }] });
    ok(&Client::bearer(system, &by_name).post("/api/v1/agents/heartbeats", &batch).await);
    let report = json!({ "boot_id": "00000000000000bb" });
    let batch =
        json!({ "heartbeats": [{ "agent_token": agent.key, "status": "healthy", "report": report }] });
    ok(&Client::bearer(system, &agent.key).post("/api/v1/agents/heartbeats", &batch).await);

    let id = agent.id.as_str();
    for (method, path, body) in [
        (Method::GET, AGENTS.to_owned(), String::new()),
        (Method::GET, format!("{AGENTS}?name=f"), String::new()),
        (Method::GET, format!("{AGENTS}?absent=true"), String::new()),
        (Method::GET, agent_path(id, ""), String::new()),
        (Method::PATCH, agent_path(id, ""), json!({ "name": "renamed" }).to_string()),
        (Method::GET, agent_path(id, "/events"), String::new()),
        (Method::GET, agent_path(id, "/usage"), String::new()),
        (Method::GET, agent_path(id, "/workspace"), String::new()),
        (Method::POST, agent_path(id, "/rotate-key"), String::new()),
        (Method::POST, agent_path(id, "/directive"), json!({ "action": "pause" }).to_string()),
        (Method::POST, agent_path(id, "/revoke"), String::new()),
        (Method::POST, agent_path(id, "/restore"), String::new()),
        (Method::POST, agent_path(&waiting(system).await, "/approve"), String::new()),
        (Method::DELETE, agent_path(&text(&created.json(), "id"), ""), String::new()),
    ] {
        ok(&Client::operator(system).await.send(method, &path, body).await);
    }

    let nobodys = Client::operator(system).await.get(&agent_path(NO_AGENT, "/events")).await;
    assert_eq!(nobodys.status, 404, "no events: the agent is looked for");
}

/// What needs each permission of the sweep, and of the functions for what it tells.
async fn told(system: &TestSystem, agent: &TestAgent) {
    // All fall silent, and it is told; one of them is removed, and that is told.
    let gone = Client::operator(system).await.create(&json!({ "name": "gone" })).await;
    ok(&system.heartbeat(&gone, "healthy").await);
    system.advance(Duration::from_mins(10));
    assert_ne!(system.sweep().await["raised"], 0);
    ok(&Client::operator(system).await.delete(&agent_path(&gone.id, "")).await);
    let channel = telling::channel(system, &[Concern::Offline], None).await;
    telling::disable(system, channel).await;
    system.advance(Duration::from_mins(10));
    system.sweep().await;

    let silence = json!({ "agent_id": agent.id, "for_seconds": 60 });
    let silence = Client::operator(system).await.post("/api/v1/silences", &silence).await;
    ok(&silence);
    ok(&Client::operator(system).await.get("/api/v1/silences").await);
    let path = format!("/api/v1/silences/{}", text(&silence.json(), "id"));
    ok(&Client::operator(system).await.delete(&path).await);
    ok(&Client::operator(system).await.get("/api/v1/alerts").await);
    ok(&Client::operator(system).await.get("/api/v1/fleet").await);
}

/// The id of an agent that waits for approval.
async fn waiting(system: &TestSystem) -> String {
    let token = text(&enrollment(system, &json!({ "approved": false })).await, "token");
    let newcomer = Client::x_agent_token(system, &token);
    text(&newcomer.post("/api/agents/register", &json!({ "name": "fourth" })).await.data(), "agentId")
}

/// What needs each permission of the functions for tokens.
async fn tokens(system: &TestSystem) {
    let minted = enrollment(system, &json!({})).await;
    let minted = enrollment(system, &json!({ "succeeds": minted["id"] })).await;
    let successor = json!({ "kind": "enrollment", "all_boards": true, "succeeds": minted["id"] });
    ok(&Client::operator(system).await.post(TOKENS, &successor).await);
    ok(&Client::operator(system).await.get(TOKENS).await);
    ok(&Client::operator(system).await.delete(&format!("{TOKENS}/{}", text(&minted, "id"))).await);
}

/// What needs each permission of the functions for channels, and of the one that delivers.
async fn alerts(system: &TestSystem) {
    // Each time another one, whose first use is noted.
    let operator = async || Client::operator(system).await;
    let receiver = Receiver::answering(410).await;
    let channel = create(&operator().await, &json!({ "kind": "webhook", "url": receiver.url() })).await;
    let path = |action: &str| format!("/api/v1/channels/{}{action}", text(&channel, "id"));
    let rung = system.pump().await;
    assert_eq!(rung[0].1.as_ref().expect("a run")["disabled"], 1, "{rung:?}");
    ok(&operator().await.patch(&path(""), &json!({ "state": "enabled", "rotate_secret": {} })).await);
    ok(&operator().await.touch(&path("/test")).await);
    assert_eq!(system.deliver().await["disabled"], 1);
    ok(&operator().await.post(&path("/redeliver"), &json!({ "failed_since": "2037-01-01T00:00:00Z" })).await);
    ok(&operator().await.get(&path("/deliveries")).await);
    ok(&operator().await.get("/api/v1/channels").await);
    ok(&operator().await.delete(&path("")).await);
}

#[tokio::test]
async fn a_call_that_the_policies_do_not_allow_never_reaches_the_database() {
    let template = changed_template(
        "without.yaml",
        &[("Register: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /api/agents/register}}
      Policies:
        - Statement:
            - {Effect: Allow, Action: dynamodb:PutItem, Resource: !GetAtt AgentsTable.Arn}
",
        "Register: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /api/agents/register}}
      Policies:
        - Statement:
")],
    );
    let system = TestSystem::with().template(&template).start().await;
    let refused = system.register(&json!({ "name": "a" })).await;
    assert_eq!(refused.refusal(), (500, "INTERNAL".to_owned()), "the cause is for the log");
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"], "the call was counted, and that is all");
    assert!(system.rows("AgentsTable").await.is_empty());
    let refused = lines(system.system.refused_permissions());
    let agents = arn(&system, "AgentsTable");
    assert_eq!(refused, [format!("RegisterFunction: dynamodb:PutItem on {agents}")]);
}

#[tokio::test]
async fn a_refusal_tells_operators_the_function_and_the_action() {
    let of_tokens = "[dynamodb:GetItem, dynamodb:PutItem]
              Resource: !GetAtt TokensTable";
    let less = of_tokens.replace(", dynamodb:PutItem", "");
    let template = changed_template("reads.yaml", &[(of_tokens, &less)]);
    let system = TestSystem::with().template(&template).start().await;
    let refused = system.run_job("mint-token", &json!({ "kind": "operator" })).await.expect_err("a refusal");
    let tokens = arn(&system, "TokensTable");
    let expected = format!(
        "DynamoDB refused: AccessDeniedException: User: arn:aws:sts::000000000000:assumed-role/MintTokenFunction \
         is not authorized to perform: dynamodb:PutItem on resource: {tokens} because no identity-based policy \
         allows the dynamodb:PutItem action"
    );
    assert_eq!(refused, expected);
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_permission_that_no_call_needs_is_known() {
    let health = "- {Effect: Allow, Action: dynamodb:GetItem, Resource: !GetAtt AgentsTable.Arn}

  # Answers what no route matches";
    let more = health.replace("dynamodb:GetItem", "[dynamodb:GetItem, dynamodb:DeleteItem]");
    let template = changed_template("more.yaml", &[(health, &more)]);
    let system = TestSystem::with().template(&template).start().await;
    ok(&system.get("/readyz").await);
    let of_health = lines(system.system.unused_permissions()).into_iter();
    let of_health: Vec<_> = of_health.filter(|line| line.starts_with("HealthFunction")).collect();
    let agents = arn(&system, "AgentsTable");
    assert_eq!(of_health, [format!("HealthFunction: dynamodb:DeleteItem on {agents}")]);
}
