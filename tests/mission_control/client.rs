//! Contract B's callers as they speak HTTP, and what every one of its answers must look like.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Reply, TestAgent, TestSystem};

/// The agent itself, by its key alone.
pub const OWN_HEARTBEAT: &str = "/api/v1/agent/heartbeat";

/// Finds, or creates, by board and name.
pub const HEARTBEAT_BY_NAME: &str = "/api/v1/agents/heartbeat";

pub const AGENTS: &str = "/api/v1/agents";
pub const TOKENS: &str = "/api/v1/tokens";

/// A well-formed credential's secret that nobody has.
pub const NOBODY: &str = "00112233445566778899aabbccddeeff0011223344556677";

/// An id that no agent has.
pub const NO_AGENT: &str = "00000000-0000-4000-8000-000000000000";

pub const BOARD: &str = "11111111-1111-4111-8111-111111111111";
pub const OTHER_BOARD: &str = "22222222-2222-4222-8222-222222222222";

pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLI: Duration = Duration::from_millis(1);

/// A millisecond less.
pub fn just_before(moment: Duration) -> Duration {
    moment.saturating_sub(MILLI)
}

/// Every key of `AgentRead`.
pub const AGENT_READ: [&str; 15] = [
    "board_id",
    "name",
    "status",
    "heartbeat_config",
    "identity_profile",
    "identity_template",
    "soul_template",
    "id",
    "gateway_id",
    "is_board_lead",
    "is_gateway_main",
    "openclaw_session_id",
    "last_seen_at",
    "created_at",
    "updated_at",
];

/// A path of one agent: itself with an empty `action`, else with its slash, as in `/heartbeat`.
pub fn agent_path(id: &str, action: &str) -> String {
    format!("{AGENTS}/{id}{action}")
}

/// Somebody with headers of their own.
pub struct Client<'a> {
    system: &'a TestSystem,
    headers: Vec<(&'static str, String)>,
}

impl<'a> Client<'a> {
    pub fn anonymous(system: &'a TestSystem) -> Self {
        Self { system, headers: Vec::new() }
    }

    pub fn with(self, name: &'static str, value: impl ToString) -> Self {
        let mut headers = self.headers;
        headers.push((name, value.to_string()));
        Self { headers, ..self }
    }

    pub fn bearer(system: &'a TestSystem, credential: &str) -> Self {
        Self::anonymous(system).with("authorization", format!("Bearer {credential}"))
    }

    pub fn x_agent_token(system: &'a TestSystem, credential: &str) -> Self {
        Self::anonymous(system).with("x-agent-token", credential)
    }

    /// An operator with a new token.
    pub async fn operator(system: &'a TestSystem) -> Self {
        Self::bearer(system, &system.operator_token().await)
    }

    /// Sends a body as it is.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<String>) -> Reply {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.system.send(method, path, &headers, body.into()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, body.to_string()).await
    }

    /// `POST` without a body.
    pub async fn touch(&self, path: &str) -> Reply {
        self.send(Method::POST, path, "").await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, "").await
    }

    /// A heartbeat by name.
    pub async fn heartbeat_as(&self, name: &str) -> Reply {
        self.post(HEARTBEAT_BY_NAME, &json!({ "name": name })).await
    }

    /// An active agent that this operator creates.
    pub async fn create(&self, body: &Value) -> TestAgent {
        with_key(&self.post(AGENTS, body).await).1
    }

    /// The agent, as it is shown now.
    pub async fn show(&self, agent: &TestAgent) -> Value {
        agent_read(&self.get(&agent_path(&agent.id, "")).await)
    }

    /// How many agents there are.
    pub async fn fleet_size(&self) -> u64 {
        let list = self.get(&format!("{AGENTS}?limit=1")).await;
        assert_eq!(list.status, 200, "{}", list.text);
        list.json()["total"].as_u64().expect("a total")
    }
}

/// A new enrollment token for all boards, changed by these fields.
pub async fn enrollment(system: &TestSystem, changes: &Value) -> Value {
    let mut request = json!({ "kind": "enrollment" });
    let fields = request.as_object_mut().expect("an object");
    fields.extend(changes.as_object().expect("an object").clone());
    if !fields.contains_key("board_id") {
        fields.insert("all_boards".to_owned(), json!(true));
    }
    system.mint(&request).await
}

/// The same, of which only the token matters.
pub async fn enrollment_token(system: &TestSystem, changes: &Value) -> String {
    text(&enrollment(system, changes).await, "token")
}

/// A string field.
#[track_caller]
pub fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("no string {field} in {object}")).to_owned()
}

/// The keys of an object, in order.
#[track_caller]
pub fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

/// A 200 whose body is `AgentRead` and nothing else.
#[track_caller]
pub fn agent_read(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let agent = reply.json();
    assert_eq!(keys(&agent), BTreeSet::from(AGENT_READ), "{}", reply.text);
    agent
}

/// A 200 whose body is `AgentRead` and the key, and `files` if they were asked for.
#[track_caller]
pub fn with_key(reply: &Reply) -> (Value, TestAgent) {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let agent = reply.json();
    let mut expected = BTreeSet::from(AGENT_READ);
    expected.insert("agent_token");
    let mut found = keys(&agent);
    found.remove("files");
    assert_eq!(found, expected, "{}", reply.text);
    let key = text(&agent, "agent_token");
    assert!(key.len() == 48 && key.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    let it = TestAgent { id: text(&agent, "id"), key };
    (agent, it)
}

/// Whether the answer carries a key.
pub fn has_key(reply: &Reply) -> bool {
    reply.json().get("agent_token").is_some()
}

/// Status and text of a refusal in this contract's form.
#[track_caller]
pub fn refusal(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    assert_eq!(keys(&body), BTreeSet::from(["detail", "request_id"]), "{}", reply.text);
    assert_eq!(body["request_id"].as_str(), reply.header("x-request-id"), "{}", reply.text);
    (reply.status, text(&body, "detail"))
}

/// The status of a refusal in this contract's form.
#[track_caller]
pub fn refused(reply: &Reply) -> u16 {
    refusal(reply).0
}

/// The `loc` of a 422, joined by dots.
#[track_caller]
pub fn invalid(reply: &Reply) -> String {
    assert_eq!(reply.status, 422, "{}", reply.text);
    let body = reply.json();
    assert_eq!(keys(&body), BTreeSet::from(["detail", "request_id"]), "{}", reply.text);
    let [detail] = body["detail"].as_array().expect("a list").as_slice() else {
        panic!("one problem at a time: {}", reply.text)
    };
    assert_eq!(keys(detail), BTreeSet::from(["input", "loc", "msg", "type"]), "{}", reply.text);
    assert!(!text(detail, "msg").is_empty(), "{}", reply.text);
    let loc = detail["loc"].as_array().expect("a list");
    loc.iter().map(|part| part.as_str().expect("a string")).collect::<Vec<_>>().join(".")
}
