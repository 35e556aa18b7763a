//! Rollcall's functions: the endpoints and the jobs, one file each. Their mains are in `functions/bin`.

#![warn(missing_docs)]

pub mod agent_healthz;
pub mod approve;
pub mod create_agent;
pub mod create_token;
pub mod delete_agent;
pub mod delete_token;
pub mod enroll;
pub mod events;
pub mod fallback;
pub mod get_agent;
pub mod health;
pub mod heartbeat;
pub mod list_agents;
pub mod list_events;
pub mod list_tokens;
pub mod mint_token;
pub mod register;
pub mod restore;
pub mod revoke;
pub mod rotate_key;
pub mod sweep;
mod transition;
pub mod update_agent;
pub mod usage;
pub mod verify;
pub mod workspace;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lambda_http::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::answer::Answer;
use shared::app::App;
use shared::error::{ApiError, Invalid};
use shared::lambda::JobError;
use shared::time::Timestamp;
use tokio::time::Instant;

/// Every route of the API: method, path, and the function that serves it. `template.yaml` declares the same;
/// a test compares them.
pub const ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/api/agents/register", "register"),
    ("POST", "/api/agents/verify", "verify"),
    ("POST", "/api/agents/heartbeat", "heartbeat"),
    ("POST", "/api/agents/events", "events"),
    ("POST", "/api/agents/rotate-key", "rotate-key"),
    ("POST", "/api/v1/agent/heartbeat", "heartbeat"),
    ("GET", "/api/v1/agent/healthz", "agent-healthz"),
    ("POST", "/api/v1/agents/heartbeat", "enroll"),
    ("GET", "/api/v1/agents", "list-agents"),
    ("POST", "/api/v1/agents", "create-agent"),
    ("GET", "/api/v1/agents/{agent_id}", "get-agent"),
    ("PATCH", "/api/v1/agents/{agent_id}", "update-agent"),
    ("DELETE", "/api/v1/agents/{agent_id}", "delete-agent"),
    ("POST", "/api/v1/agents/{agent_id}/heartbeat", "heartbeat"),
    ("POST", "/api/v1/agents/{agent_id}/approve", "approve"),
    ("POST", "/api/v1/agents/{agent_id}/revoke", "revoke"),
    ("POST", "/api/v1/agents/{agent_id}/restore", "restore"),
    ("POST", "/api/v1/agents/{agent_id}/rotate-key", "rotate-key"),
    ("GET", "/api/v1/agents/{agent_id}/events", "list-events"),
    ("GET", "/api/v1/agents/{agent_id}/usage", "usage"),
    ("GET", "/api/v1/agents/{agent_id}/workspace", "workspace"),
    ("POST", "/api/v1/tokens", "create-token"),
    ("GET", "/api/v1/tokens", "list-tokens"),
    ("DELETE", "/api/v1/tokens/{id}", "delete-token"),
    ("GET", "/health", "health"),
    ("GET", "/healthz", "health"),
    ("GET", "/readyz", "health"),
];

/// A function, for a host that runs all of them in one process.
pub enum Function {
    /// Behind a route of the API.
    Endpoint(Endpoint),
    /// Behind a schedule, or invoked by hand.
    Job(Job),
}

/// What serves a route.
pub type Endpoint = Box<
    dyn Fn(&'static App, Request, Timestamp) -> BoxFuture<'static, Result<Answer, ApiError>> + Send + Sync,
>;

/// What runs a job: from JSON text to a JSON value.
pub type Job = Box<
    dyn Fn(&'static App, &str, Timestamp, Instant) -> BoxFuture<'static, Result<Value, JobError>>
        + Send
        + Sync,
>;

/// The function of a binary's name.
#[must_use]
pub fn function(binary: &str) -> Option<Function> {
    Some(match binary {
        "agent-healthz" => endpoint(agent_healthz::handle),
        "approve" => endpoint(approve::handle),
        "create-agent" => endpoint(create_agent::handle),
        "create-token" => endpoint(create_token::handle),
        "delete-agent" => endpoint(delete_agent::handle),
        "delete-token" => endpoint(delete_token::handle),
        "enroll" => endpoint(enroll::handle),
        "events" => endpoint(events::handle),
        "fallback" => endpoint(fallback::handle),
        "get-agent" => endpoint(get_agent::handle),
        "health" => endpoint(health::handle),
        "heartbeat" => endpoint(heartbeat::handle),
        "list-agents" => endpoint(list_agents::handle),
        "list-events" => endpoint(list_events::handle),
        "list-tokens" => endpoint(list_tokens::handle),
        "register" => endpoint(register::handle),
        "restore" => endpoint(restore::handle),
        "revoke" => endpoint(revoke::handle),
        "rotate-key" => endpoint(rotate_key::handle),
        "update-agent" => endpoint(update_agent::handle),
        "usage" => endpoint(usage::handle),
        "verify" => endpoint(verify::handle),
        "workspace" => endpoint(workspace::handle),
        "sweep" => job(sweep::run),
        "mint-token" => job(mint_token::run),
        _ => return None,
    })
}

fn endpoint<H, Answered>(handler: H) -> Function
where
    H: Fn(&'static App, Request, Timestamp) -> Answered + Send + Sync + 'static,
    Answered: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    Function::Endpoint(Box::new(move |app, request, now| handler(app, request, now).boxed()))
}

fn job<J, Input, Output, Done>(job: J) -> Function
where
    J: Fn(&'static App, Input, Timestamp, Instant) -> Done + Send + Sync + 'static,
    Input: DeserializeOwned,
    Output: Serialize,
    Done: Future<Output = Result<Output, JobError>> + Send + 'static,
{
    Function::Job(Box::new(move |app, input, now, deadline| {
        let done = serde_json::from_str(input).map(|input| job(app, input, now, deadline));
        async move {
            let output = done.map_err(|error| Invalid::new("input", error.to_string()))?.await?;
            Ok(serde_json::to_value(output).map_err(|error| Invalid::new("output", error.to_string()))?)
        }
        .boxed()
    }))
}
