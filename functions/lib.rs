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
pub mod transition;
pub mod update_agent;
pub mod usage;
pub mod verify;
pub mod workspace;

use shared::runtime::lambda::{Endpoint, Job, endpoint, job};

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

/// The function of a binary's name.
#[must_use]
pub fn function(binary: &str) -> Option<Function> {
    Some(match binary {
        "agent-healthz" => Function::Endpoint(endpoint(agent_healthz::handle)),
        "approve" => Function::Endpoint(endpoint(approve::handle)),
        "create-agent" => Function::Endpoint(endpoint(create_agent::handle)),
        "create-token" => Function::Endpoint(endpoint(create_token::handle)),
        "delete-agent" => Function::Endpoint(endpoint(delete_agent::handle)),
        "delete-token" => Function::Endpoint(endpoint(delete_token::handle)),
        "enroll" => Function::Endpoint(endpoint(enroll::handle)),
        "events" => Function::Endpoint(endpoint(events::handle)),
        "fallback" => Function::Endpoint(endpoint(fallback::handle)),
        "get-agent" => Function::Endpoint(endpoint(get_agent::handle)),
        "health" => Function::Endpoint(endpoint(health::handle)),
        "heartbeat" => Function::Endpoint(endpoint(heartbeat::handle)),
        "list-agents" => Function::Endpoint(endpoint(list_agents::handle)),
        "list-events" => Function::Endpoint(endpoint(list_events::handle)),
        "list-tokens" => Function::Endpoint(endpoint(list_tokens::handle)),
        "register" => Function::Endpoint(endpoint(register::handle)),
        "restore" => Function::Endpoint(endpoint(restore::handle)),
        "revoke" => Function::Endpoint(endpoint(revoke::handle)),
        "rotate-key" => Function::Endpoint(endpoint(rotate_key::handle)),
        "update-agent" => Function::Endpoint(endpoint(update_agent::handle)),
        "usage" => Function::Endpoint(endpoint(usage::handle)),
        "verify" => Function::Endpoint(endpoint(verify::handle)),
        "workspace" => Function::Endpoint(endpoint(workspace::handle)),
        "sweep" => Function::Job(job(sweep::run)),
        "mint-token" => Function::Job(job(mint_token::run)),
        _ => return None,
    })
}
