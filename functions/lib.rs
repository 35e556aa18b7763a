//! Rollcall's functions: the endpoints and the jobs, one file each. Their mains are in `functions/bin`.

#![warn(missing_docs)]

pub mod agent_healthz;
pub mod approve_agent;
pub mod create_agent;
pub mod create_channel;
pub mod create_silence;
pub mod create_token;
pub mod delete_agent;
pub mod delete_channel;
pub mod delete_silence;
pub mod delete_token;
pub mod deliver;
pub mod direct_agent;
pub mod enroll;
pub mod fallback;
pub mod get_agent;
pub mod get_fleet;
pub mod get_usage;
pub mod get_workspace;
pub mod health;
pub mod heartbeat;
pub mod list_agents;
pub mod list_alerts;
pub mod list_channels;
pub mod list_deliveries;
pub mod list_events;
pub mod list_silences;
pub mod list_tokens;
pub mod mint_token;
pub mod page;
pub mod post_events;
pub mod post_heartbeats;
pub mod redeliver;
pub mod register;
pub mod restore_agent;
pub mod revoke_agent;
pub mod rotate_key;
pub mod state_change;
pub mod sweep;
pub mod test_channel;
pub mod update_agent;
pub mod update_channel;
pub mod verify;

use shared::runtime::function::Function;

/// Every route of the API: method, path, and the function that serves it. `template.yaml` declares the same;
/// a test compares them.
pub const ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/api/agents/register", "register"),
    ("POST", "/api/agents/verify", "verify"),
    ("POST", "/api/agents/heartbeat", "heartbeat"),
    ("POST", "/api/agents/heartbeats", "post-heartbeats"),
    ("POST", "/api/agents/events", "post-events"),
    ("POST", "/api/agents/rotate-key", "rotate-key"),
    ("POST", "/api/v1/agent/heartbeat", "heartbeat"),
    ("GET", "/api/v1/agent/healthz", "agent-healthz"),
    ("POST", "/api/v1/agents/heartbeat", "enroll"),
    ("POST", "/api/v1/agents/heartbeats", "post-heartbeats"),
    ("GET", "/api/v1/agents", "list-agents"),
    ("POST", "/api/v1/agents", "create-agent"),
    ("GET", "/api/v1/agents/{agent_id}", "get-agent"),
    ("PATCH", "/api/v1/agents/{agent_id}", "update-agent"),
    ("DELETE", "/api/v1/agents/{agent_id}", "delete-agent"),
    ("POST", "/api/v1/agents/{agent_id}/heartbeat", "heartbeat"),
    ("POST", "/api/v1/agents/{agent_id}/approve", "approve-agent"),
    ("POST", "/api/v1/agents/{agent_id}/revoke", "revoke-agent"),
    ("POST", "/api/v1/agents/{agent_id}/restore", "restore-agent"),
    ("POST", "/api/v1/agents/{agent_id}/rotate-key", "rotate-key"),
    ("POST", "/api/v1/agents/{agent_id}/directive", "direct-agent"),
    ("GET", "/api/v1/agents/{agent_id}/events", "list-events"),
    ("GET", "/api/v1/agents/{agent_id}/usage", "get-usage"),
    ("GET", "/api/v1/agents/{agent_id}/workspace", "get-workspace"),
    ("POST", "/api/v1/tokens", "create-token"),
    ("GET", "/api/v1/tokens", "list-tokens"),
    ("GET", "/api/v1/tokens/self", "list-tokens"),
    ("DELETE", "/api/v1/tokens/{id}", "delete-token"),
    ("POST", "/api/v1/channels", "create-channel"),
    ("GET", "/api/v1/channels", "list-channels"),
    ("PATCH", "/api/v1/channels/{id}", "update-channel"),
    ("DELETE", "/api/v1/channels/{id}", "delete-channel"),
    ("POST", "/api/v1/channels/{id}/test", "test-channel"),
    ("POST", "/api/v1/channels/{id}/redeliver", "redeliver"),
    ("GET", "/api/v1/channels/{id}/deliveries", "list-deliveries"),
    ("GET", "/", "page"),
    ("GET", "/page/{file}", "page"),
    ("GET", "/openapi.json", "page"),
    ("GET", "/api/v1/fleet", "get-fleet"),
    ("GET", "/api/v1/alerts", "list-alerts"),
    ("POST", "/api/v1/silences", "create-silence"),
    ("GET", "/api/v1/silences", "list-silences"),
    ("DELETE", "/api/v1/silences/{id}", "delete-silence"),
    ("GET", "/health", "health"),
    ("HEAD", "/health", "health"),
    ("GET", "/healthz", "health"),
    ("HEAD", "/healthz", "health"),
    ("GET", "/readyz", "health"),
    ("HEAD", "/readyz", "health"),
];

/// Every function, for a host that runs all of them in one process.
pub const FUNCTIONS: &[Function] = &[
    Function::Endpoint(agent_healthz::FUNCTION),
    Function::Endpoint(approve_agent::FUNCTION),
    Function::Endpoint(create_agent::FUNCTION),
    Function::Endpoint(create_channel::FUNCTION),
    Function::Endpoint(create_silence::FUNCTION),
    Function::Endpoint(create_token::FUNCTION),
    Function::Endpoint(delete_agent::FUNCTION),
    Function::Endpoint(delete_channel::FUNCTION),
    Function::Endpoint(delete_silence::FUNCTION),
    Function::Endpoint(delete_token::FUNCTION),
    Function::Endpoint(direct_agent::FUNCTION),
    Function::Endpoint(enroll::FUNCTION),
    Function::Endpoint(fallback::FUNCTION),
    Function::Endpoint(get_agent::FUNCTION),
    Function::Endpoint(get_fleet::FUNCTION),
    Function::Endpoint(get_usage::FUNCTION),
    Function::Endpoint(get_workspace::FUNCTION),
    Function::Endpoint(health::FUNCTION),
    Function::Endpoint(heartbeat::FUNCTION),
    Function::Endpoint(list_agents::FUNCTION),
    Function::Endpoint(list_alerts::FUNCTION),
    Function::Endpoint(list_channels::FUNCTION),
    Function::Endpoint(list_deliveries::FUNCTION),
    Function::Endpoint(list_events::FUNCTION),
    Function::Endpoint(list_silences::FUNCTION),
    Function::Endpoint(list_tokens::FUNCTION),
    Function::Endpoint(page::FUNCTION),
    Function::Endpoint(post_events::FUNCTION),
    Function::Endpoint(post_heartbeats::FUNCTION),
    Function::Endpoint(redeliver::FUNCTION),
    Function::Endpoint(register::FUNCTION),
    Function::Endpoint(restore_agent::FUNCTION),
    Function::Endpoint(revoke_agent::FUNCTION),
    Function::Endpoint(rotate_key::FUNCTION),
    Function::Endpoint(test_channel::FUNCTION),
    Function::Endpoint(update_agent::FUNCTION),
    Function::Endpoint(update_channel::FUNCTION),
    Function::Endpoint(verify::FUNCTION),
    Function::Job(deliver::FUNCTION),
    Function::Job(sweep::FUNCTION),
    Function::Job(mint_token::FUNCTION),
];

/// The function of a binary's name.
#[must_use]
pub fn function(binary: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|function| function.name() == binary).copied()
}
