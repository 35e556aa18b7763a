//! `POST /api/v1/agents/{agent_id}/rotate-key` for operators and `POST /api/agents/rotate-key` for the agent
//! itself: a new key, while the one before stays valid for a while.

use std::time::Duration;

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{
    AgentsTable, EventsTable, RateLimit, SystemEventRetention, TokensTable, WindowsTable,
};
use shared::domain::agent::{Agent, AgentId};
use shared::domain::credential::ApiKey;
use shared::domain::event::Actor;
use shared::runtime::app::App;
use shared::runtime::callers::{into_result, reach};
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::contract::Contract;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::json::Object;
use shared::wire::mission_control::{self, AgentWithKey, WorkspaceAt};
use shared::wire::route::route;
use shared::wire::{envelope, fields};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "rotate-key",
    reads: &[AgentsTable, EventsTable, WindowsTable, TokensTable, RateLimit, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    agent_id: AgentId,
    api_key: String,
}

/// Rotates an agent's key. What agents rotate for themselves is limited.
///
/// # Errors
/// See [`App::operator_within`], [`App::agent_of_key`] and [`into_result`]; 403 for a previous key, 409 when another
/// rotation was faster, 400 or 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    match Contract::of(route(&request)) {
        Contract::Envelope => own(app, &request, now).await,
        Contract::MissionControl => by_operator(app, &request, now).await,
    }
}

async fn own(app: &App, request: &Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = Object::parse(request.body())?;
    let key = envelope::api_key(request.headers(), &body)??;
    body.refuse_spellings(&[("overlap_seconds", "overlapSeconds")])?;
    let overlap = fields::overlap(&body, "overlapSeconds")?;
    let agent = app.agent_of_key(&key, now).await?;
    if agent.key_digest != key.digest() {
        return Err(ErrorKind::Forbidden("a previous key does not rotate: use the current one").into());
    }
    let quota = app.count_rotation(&agent, now).await?;
    let rotated = rotate(app, &agent, overlap, Actor::Agent, now).await;
    let (agent, key) = rotated.map_err(|error| error.counted(quota))?;
    Ok(envelope::data(&Rotated { agent_id: agent.agent_id, api_key: key.reveal() })?.counted(quota))
}

async fn by_operator(app: &App, request: &Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let agent_id = fields::agent_id(request)?;
    let body = body.object()?;
    body.refuse_spellings(&[("overlapSeconds", "overlap_seconds")])?;
    let overlap = fields::overlap(&body, "overlap_seconds")?;
    let workspace = WorkspaceAt::wanted_by(request)?;
    let agent = app.existing(agent_id, now).await?;
    reach(operator, agent.board_id)?;
    let (agent, key) = rotate(app, &agent, overlap, operator.actor(), now).await?;
    Ok(mission_control::body(&AgentWithKey::of(&agent, &key, app.gateway_id(), workspace.as_ref(), now))?)
}

async fn rotate(
    app: &App,
    agent: &Agent,
    overlap: Duration,
    actor: Actor,
    now: Timestamp,
) -> Result<(Box<Agent>, ApiKey), ApiError> {
    Ok(into_result(app.store.rotate_key(agent, overlap, actor, now).await?)?)
}
