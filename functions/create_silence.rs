//! `POST /api/v1/silences`: an operator silences some agents for a time.

use std::time::Duration;

use lambda_http::Request;
use shared::config::Setting::{AgentsTable, ChannelsTable, EventsTable, SystemEventRetention, TokensTable};
use shared::domain::agent::AgentId;
use shared::domain::ids::BoardId;
use shared::domain::silence::{LONGEST_SILENCE, Scope, Silence};
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::store::Silenced;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::fields;
use shared::wire::json::Json;
use shared::wire::mission_control::{self, SilenceRead};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "create-silence",
    reads: &[AgentsTable, ChannelsTable, EventsTable, TokensTable, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The longest reason, in characters.
const LONGEST_REASON: usize = 500;

/// `{"agent_id" or "board_id" or "all": true, "for_seconds", "reason"?}`.
fn silence(body: Json<'_>, now: Timestamp) -> Result<Silence, Invalid> {
    let body = body.object()?;
    let all = body.boolean("all")?.unwrap_or(false);
    let scope = match (body.uuid("agent_id")?, body.uuid("board_id")?.map(BoardId::of), all) {
        (Some(agent_id), None, false) => Scope::Agent(AgentId::of(agent_id)),
        (None, Some(board_id), false) => Scope::Board(board_id),
        (None, None, true) => Scope::All,
        _ => return Err(body.invalid("agent_id", "give one of agent_id, board_id and all: true")),
    };
    let seconds = body.whole_number("for_seconds")?.filter(|seconds| (1..=LONGEST_SILENCE).contains(seconds));
    let seconds = seconds.ok_or_else(|| body.invalid("for_seconds", "must be 1 to 2592000 seconds"))?;
    let reason = body.string("reason")?;
    let is_long =
        |reason: &String| reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control);
    if reason.as_ref().is_some_and(is_long) {
        let problem = "must have at most 500 characters, none of them control characters";
        return Err(body.invalid("reason", problem));
    }
    let board_id = match scope {
        Scope::Board(board_id) => Some(board_id),
        Scope::Agent(_) | Scope::All => None,
    };
    let ends_at = now.plus(Duration::from_secs(seconds));
    Ok(Silence { silence_id: Silence::new_id(), scope, board_id, reason, created_at: now, ends_at })
}

/// Silences an agent, a board's agents, or all. They are left untold until it ends; what is still so then is told.
///
/// # Errors
/// See [`App::operator_within`] and [`reach`]; 404 for an agent that does not exist, 409 when there are 200 already, 422
/// for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let mut silence = silence(body, now)?;
    if let Scope::Agent(agent_id) = silence.scope {
        silence.board_id = app.existing(agent_id, now).await?.board_id;
    }
    reach(operator, silence.board_id)?;
    match app.store.create_silence(&silence, operator.actor(), now).await? {
        Silenced::Done => Ok(mission_control::body(&SilenceRead::of(&silence))?),
        Silenced::TooMany => Err(ErrorKind::Conflict("there are 200 silences already").into()),
    }
}
