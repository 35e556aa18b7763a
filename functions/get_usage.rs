//! `GET /api/v1/agents/{agent_id}/usage`: what an agent has used.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AgentsTable, TokensTable};
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::fields;
use shared::wire::mission_control::{self, TodayRead};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "get-usage",
    reads: &[AgentsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Usage {
    requests_total: u64,
    since: String,
    today: TodayRead,
}

/// Shows the meter that every accepted request of the agent moved, and what it reported as used today.
///
/// # Errors
/// See [`App::viewer`] and [`reach`]; 404 for an unknown id, 422 for a path without a UUID.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let agent = app.existing(fields::agent_id(&request)?, now).await?;
    reach(viewer, agent.board_id)?;
    Ok(mission_control::body(&Usage {
        requests_total: agent.requests_total,
        since: agent.created_at.to_string(),
        today: TodayRead::of(&agent, now),
    })?)
}
