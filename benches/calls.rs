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
        Self { binary, what, method, path: path.into(), headers, body, status: 200 }
    }

    /// The same call, of which it is known that it is refused.
    fn refused(self, status: u16) -> Self {
        Self { status, ..self }
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

/// As [`all`], with another new name for the agent and the channel that get one.
pub fn all_with(fleet: &Fleet, new_name: &str) -> Vec<Call> {
    let mut calls = of_agents(fleet);
    calls.extend(of_operators(fleet, new_name));
    calls.extend(of_alerts(fleet, new_name));
    calls.push(Call::new("health", "readiness", Method::GET, "/readyz", &[], &Value::Null));
    calls.push(Call::new("page", "a file of the page", Method::GET, "/", &[], &Value::Null));
    let unknown = Call::new("fallback", "an unknown route", Method::GET, "/nowhere", &[], &Value::Null);
    calls.push(unknown.refused(404));
    calls
}

fn of_agents(fleet: &Fleet) -> Vec<Call> {
    let key = [("x-agent-token", fleet.agent.key.as_str())];
    let token = [("x-agent-token", fleet.enrollment_token.as_str())];
    let post = |binary, what, path: &str, headers: &[(&'static str, &str)], body: Value| {
        Call::new(binary, what, Method::POST, path, headers, &body)
    };
    let own_key = json!({ "apiKey": fleet.agent.key });
    let names: Vec<_> = (0..10).map(|number| json!({ "name": format!("enrolled-{number}") })).collect();
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
        post(
            "post-heartbeats",
            "a batch of 10 names by an enrollment token",
            "/api/v1/agents/heartbeats",
            &token,
            json!({ "heartbeats": names }),
        ),
        Call::new(healthz.0, healthz.1, Method::GET, healthz.2, &key, &Value::Null),
    ]
}

fn of_operators(fleet: &Fleet, new_name: &str) -> Vec<Call> {
    let (agents, tokens) = ("/api/v1/agents".to_owned(), "/api/v1/tokens".to_owned());
    let other = |rest: &str| format!("{agents}/{}{rest}", fleet.other.id);
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
    calls.map(|call| by_operator(fleet, call)).into()
}

/// What is neither an agent nor a token. What would add up over the starts of a function, or may be had but once a
/// minute, is asked for in a way that is refused: the refusal comes after the reads that it needs.
fn of_alerts(fleet: &Fleet, new_name: &str) -> Vec<Call> {
    let (channels, silences) = ("/api/v1/channels".to_owned(), "/api/v1/silences".to_owned());
    let own = |rest: &str| format!("{channels}/{}{rest}", fleet.channel_id);
    let a_second = json!({ "all": true, "for_seconds": 1 });
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let none = Value::Null;
    let calls = [
        ("create-channel", "a channel without a URL", &post, channels.clone(), json!({ "kind": "webhook" })),
        ("test-channel", "test a channel that is paused", &post, own("/test"), none.clone()),
        ("redeliver", "redeliver to nobody", &post, nobodys(&channels) + "/redeliver", json!({ "seq": 1 })),
    ];
    let mut refused: Vec<Call> = calls.map(|call| by_operator(fleet, call)).into();
    for (call, status) in refused.iter_mut().zip([422, 409, 404]) {
        call.status = status;
    }
    let calls = [
        ("list-channels", "the channels", &get, channels.clone(), none.clone()),
        ("update-channel", "change a channel", &Method::PATCH, own(""), json!({ "label": new_name })),
        ("delete-channel", "delete no channel", &delete, nobodys(&channels), none.clone()),
        ("list-deliveries", "a channel's deliveries", &get, own("/deliveries"), none.clone()),
        ("create-silence", "silence all for a second", &post, silences.clone(), a_second),
        ("list-silences", "the silences", &get, silences.clone(), none.clone()),
        ("delete-silence", "delete no silence", &delete, nobodys(&silences), none.clone()),
        ("get-fleet", "the fleet", &get, "/api/v1/fleet".to_owned(), none.clone()),
        ("list-alerts", "the messages of alerts", &get, "/api/v1/alerts".to_owned(), none),
    ];
    refused.extend(calls.map(|call| by_operator(fleet, call)));
    refused
}

type Operation<'a> = (&'static str, &'static str, &'a Method, String, Value);

fn by_operator(fleet: &Fleet, (binary, what, method, path, body): Operation<'_>) -> Call {
    let bearer = format!("Bearer {}", fleet.operator_token);
    Call::new(binary, what, method.clone(), path, &[("authorization", &bearer)], &body)
}

fn nobodys(collection: &str) -> String {
    format!("{collection}/00000000-0000-8000-8000-000000000000")
}
