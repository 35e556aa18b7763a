//! `POST /api/v1/agents/{agent_id}/directive`: an operator says what an agent should do.

use std::time::Duration;

use lambda_http::Request;
use shared::config::Setting::{AgentsTable, EventsTable, SystemEventRetention, TokensTable};
use shared::domain::directive::{Action, LONGEST_DEADLINE, NewDirective, SHORTEST_DEADLINE};
use shared::runtime::app::App;
use shared::runtime::callers::into_result;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields;
use shared::wire::json::{Json, Object};
use shared::wire::mission_control::{self, AgentRead};

use crate::state_change::reason;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "direct-agent",
    reads: &[AgentsTable, EventsTable, TokensTable, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// `{"action", "reason"?, "deadline_seconds"?, "then_revoke"?}`; the last two for `stop` alone.
fn directive(body: Json<'_>) -> Result<NewDirective, Invalid> {
    let body = body.object()?;
    body.refuse_spellings(&[("deadlineSeconds", "deadline_seconds"), ("thenRevoke", "then_revoke")])?;
    let action = body.string("action")?.ok_or_else(|| body.invalid("action", "is required"))?;
    let action = Action::parse(&action)
        .ok_or_else(|| body.invalid("action", "must be one of run, pause, drain, stop, rotate_key"))?;
    let deadline = deadline(&body)?;
    let then_revoke = body.boolean("then_revoke")?.unwrap_or(false);
    for (name, is_given) in [("deadline_seconds", deadline.is_some()), ("then_revoke", then_revoke)] {
        if is_given && action != Action::Stop {
            return Err(body.invalid(name, "comes with the action stop alone"));
        }
    }
    Ok(NewDirective { action, deadline, then_revoke, reason: reason(&body)? })
}

fn deadline(body: &Object<'_>) -> Result<Option<Duration>, Invalid> {
    let deadline = body.whole_number("deadline_seconds")?.map(Duration::from_secs);
    match deadline {
        Some(deadline) if !(SHORTEST_DEADLINE..=LONGEST_DEADLINE).contains(&deadline) => {
            Err(body.invalid("deadline_seconds", "must be 5 to 604800 seconds"))
        }
        deadline => Ok(deadline),
    }
}

/// Says what an agent should do, in every answer to a heartbeat until it changes.
///
/// # Errors
/// See [`App::operator_within`] and [`into_result`]; 409 for an agent that is not active, or has no key to rotate; 422
/// for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let agent_id = fields::agent_id(&request)?;
    let directive = directive(body)?;
    let agent = into_result(app.store.direct(agent_id, &directive, operator, now).await?)?;
    Ok(mission_control::body(&AgentRead::directed(&agent, app.gateway_id(), now))?)
}
