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
        Self { binary, what, method, path: path.into(), headers, body }
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
    heartbeat_that_says(fleet, "healthy", "heartbeat")
}

/// An announced absence: two heartbeats.
pub fn absence(fleet: &Fleet) -> [Call; 2] {
    [
        heartbeat_that_says(fleet, "offline", "heartbeat that says `offline`"),
        heartbeat_that_says(fleet, "healthy", "first heartbeat after an absence"),
    ]
}

fn heartbeat_that_says(fleet: &Fleet, status: &str, what: &'static str) -> Call {
    let body = json!({ "apiKey": fleet.agent.key, "status": status });
    Call::new("heartbeat", what, Method::POST, "/api/agents/heartbeat", &[], &body)
}

/// One call of each function behind the API. They can be made in this order, again and again.
pub fn all(fleet: &Fleet) -> Vec<Call> {
    let mut calls = of_agents(fleet);
    calls.extend(of_operators(fleet));
    calls.push(Call::new("health", "readiness", Method::GET, "/readyz", &[], &Value::Null));
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
        post("events", "one event", "/api/agents/events", &key, json!({ "event": "tool_call" })),
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

fn of_operators(fleet: &Fleet) -> Vec<Call> {
    let bearer = format!("Bearer {}", fleet.operator_token);
    let (agents, tokens) = ("/api/v1/agents".to_owned(), "/api/v1/tokens".to_owned());
    let other = |rest: &str| format!("{agents}/{}{rest}", fleet.other.id);
    let nobodys = |collection: &str| format!("{collection}/00000000-0000-8000-8000-000000000000");
    let token = json!({ "kind": "enrollment", "all_boards": true });
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let none = Value::Null;
    let calls = [
        ("list-agents", "a list of agents", &get, format!("{agents}?cursor="), none.clone()),
        ("create-agent", "an operator creates an agent", &post, agents.clone(), json!({ "name": "created" })),
        ("get-agent", "one agent", &get, other(""), none.clone()),
        ("update-agent", "change an agent", &Method::PATCH, other(""), json!({ "name": "renamed" })),
        ("delete-agent", "delete nobody", &delete, nobodys(&agents), none.clone()),
        ("revoke", "revoke", &post, other("/revoke"), json!({})),
        ("restore", "restore", &post, other("/restore"), none.clone()),
        ("approve", "approve an active agent", &post, other("/approve"), none.clone()),
        ("rotate-key", "an operator rotates a key", &post, other("/rotate-key"), json!({})),
        ("list-events", "an agent's events", &get, other("/events?limit=10"), none.clone()),
        ("usage", "an agent's usage", &get, other("/usage"), none.clone()),
        ("workspace", "an agent's files", &get, other("/workspace"), none.clone()),
        ("create-token", "mint a token", &post, tokens.clone(), token),
        ("list-tokens", "list tokens", &get, tokens.clone(), none.clone()),
        ("delete-token", "delete no token", &delete, nobodys(&tokens), none),
    ];
    let headers = [("authorization", bearer.as_str())];
    let call = |(binary, what, method, path, body): (_, _, &Method, String, Value)| {
        Call::new(binary, what, method.clone(), path, &headers, &body)
    };
    calls.map(call).into()
}
