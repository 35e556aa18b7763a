//! One call of each operation: as a request over HTTP, and as the event that Lambda would make of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::system::Fleet;

/// A request, and the function that serves it.
pub struct Call {
    /// The function's binary.
    pub binary: &'static str,
    /// What it does, in the words of the cost table.
    pub what: &'static str,
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// The status of its answer.
    pub status: u16,
}

impl Call {
    pub fn new(
        binary: &'static str,
        what: &'static str,
        method: Method,
        path: impl Into<String>,
        headers: &[(&'static str, &str)],
        body: &Value,
    ) -> Self {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let status = if binary == "fallback" { 404 } else { 200 };
        Self { binary, what, method, path: path.into(), headers, body, status }
    }

    /// The event that API Gateway makes of it.
    pub fn event(&self) -> Value {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let fixture = include_str!("../tests/fixtures/apigw-v2-health.json");
        let mut event: Value = serde_json::from_str(fixture).expect("JSON");
        event["rawPath"] = json!(path);
        event["rawQueryString"] = json!(query);
        event["requestContext"]["http"]["method"] = json!(self.method.as_str());
        event["requestContext"]["http"]["path"] = json!(path);
        event["body"] = json!(self.body);
        event["headers"]["content-type"] = json!("application/json");
        for (name, value) in &self.headers {
            event["headers"][*name] = json!(value);
        }
        event
    }
}

/// The steady heartbeat.
pub fn heartbeat(fleet: &Fleet) -> Call {
    heartbeat_of(&fleet.agent.key)
}

/// The steady heartbeat of the agent with this key.
pub fn heartbeat_of(key: &str) -> Call {
    heartbeat_that_says(key, "healthy", "heartbeat")
}

/// An announced absence: two heartbeats.
pub fn absence(fleet: &Fleet) -> [Call; 2] {
    [
        heartbeat_that_says(&fleet.agent.key, "offline", "heartbeat that says `offline`"),
        heartbeat_that_says(&fleet.agent.key, "healthy", "first heartbeat after an absence"),
    ]
}

fn heartbeat_that_says(key: &str, status: &str, what: &'static str) -> Call {
    let body = json!({ "apiKey": key, "status": status });
    Call::new("heartbeat", what, Method::POST, "/api/agents/heartbeat", &[], &body)
}

/// One call of each function behind the API. They can be made in this order, again and again.
pub fn all(fleet: &Fleet) -> Vec<Call> {
    all_with(fleet, "renamed")
}

/// The same, with another new name for the agent that gets one.
pub fn all_with(fleet: &Fleet, new_name: &str) -> Vec<Call> {
    let mut calls = of_agents(fleet);
    calls.extend(of_operators(fleet, new_name));
    calls.push(Call::new("health", "readiness", Method::GET, "/readyz", &[], &Value::Null));
    calls.push(Call::new("page", "a file of the page", Method::GET, "/", &[], &Value::Null));
    calls.push(Call::new("fallback", "an unknown route", Method::GET, "/nowhere", &[], &Value::Null));
    calls
}

fn of_agents(fleet: &Fleet) -> Vec<Call> {
    let key = [("x-agent-token", fleet.agent.key.as_str())];
    let token = [("x-agent-token", fleet.enrollment_token.as_str())];
    let post = |binary, what, path: &str, headers: &[(&'static str, &str)], body: Value| {
        Call::new(binary, what, Method::POST, path, headers, &body)
    };
    let own_key = json!({ "apiKey": fleet.agent.key });
    let healthz = ("agent-healthz", "an agent asks how it stands", "/api/v1/agent/healthz");
    vec![
        post("register", "register, open", "/api/agents/register", &[], json!({ "name": "new" })),
        post("verify", "verify, an active agent again", "/api/agents/verify", &[], own_key),
        heartbeat(fleet),
        post("post-events", "one event", "/api/agents/events", &key, json!({ "event": "tool_call" })),
        post(
            "enroll",
            "heartbeat by an enrollment token",
            "/api/v1/agents/heartbeat",
            &token,
            json!({ "name": "enrolled" }),
        ),
        Call::new(healthz.0, healthz.1, Method::GET, healthz.2, &key, &Value::Null),
    ]
}

fn of_operators(fleet: &Fleet, new_name: &str) -> Vec<Call> {
    let bearer = format!("Bearer {}", fleet.operator_token);
    let (agents, tokens) = ("/api/v1/agents".to_owned(), "/api/v1/tokens".to_owned());
    let other = |rest: &str| format!("{agents}/{}{rest}", fleet.other.id);
    let nobodys = |collection: &str| format!("{collection}/00000000-0000-8000-8000-000000000000");
    let token = json!({ "kind": "enrollment", "all_boards": true });
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let none = Value::Null;
    let calls = [
        ("list-agents", "a page of 5 agents", &get, format!("{agents}?cursor=&limit=5"), none.clone()),
        ("create-agent", "an operator creates an agent", &post, agents.clone(), json!({ "name": "created" })),
        ("get-agent", "one agent", &get, other(""), none.clone()),
        ("update-agent", "change an agent", &Method::PATCH, other(""), json!({ "name": new_name })),
        ("direct-agent", "tell an agent to pause", &post, other("/directive"), json!({ "action": "pause" })),
        ("delete-agent", "delete nobody", &delete, nobodys(&agents), none.clone()),
        ("revoke-agent", "revoke", &post, other("/revoke"), json!({})),
        ("restore-agent", "restore", &post, other("/restore"), none.clone()),
        ("approve-agent", "approve an active agent", &post, other("/approve"), none.clone()),
        ("rotate-key", "an operator rotates a key", &post, other("/rotate-key"), json!({})),
        ("list-events", "an agent's events", &get, other("/events?limit=10"), none.clone()),
        ("get-usage", "an agent's usage", &get, other("/usage"), none.clone()),
        ("get-workspace", "an agent's files", &get, other("/workspace"), none.clone()),
        ("create-token", "mint a token", &post, tokens.clone(), token),
        ("list-tokens", "list a handful of tokens", &get, tokens.clone(), none.clone()),
        ("delete-token", "delete no token", &delete, nobodys(&tokens), none),
    ];
    let headers = [("authorization", bearer.as_str())];
    let call = |(binary, what, method, path, body): (_, _, &Method, String, Value)| {
        Call::new(binary, what, method.clone(), path, &headers, &body)
    };
    calls.map(call).into()
}
