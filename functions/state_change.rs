//! What approve, revoke and restore have in common.

use lambda_http::Request;
use shared::config::Setting::{self, AgentsTable, EventsTable, SystemEventRetention, TokensTable};
use shared::domain::change::StateChange;
use shared::runtime::app::App;
use shared::runtime::callers::into_result;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields;
use shared::wire::json::Object;
use shared::wire::mission_control::{self, AgentRead};

/// What the three functions read.
pub const READS: &[Setting] = &[AgentsTable, EventsTable, TokensTable, SystemEventRetention];

/// The longest text that explains a change.
const REASON_LIMIT: usize = 500;

/// The `reason` of a change: text of at most 500 characters.
pub(crate) fn reason(body: &Object<'_>) -> Result<Option<String>, Invalid> {
    let reason = body.string("reason")?;
    match &reason {
        Some(text) if text.chars().count() > REASON_LIMIT => {
            Err(body.invalid("reason", "must have at most 500 characters"))
        }
        _ => Ok(reason),
    }
}

/// Changes who may act, with the operator's reason. An agent that is in the wanted state already stays as it is.
///
/// # Errors
/// See [`App::operator_within`] and [`into_result`]; 422 for bad input.
pub async fn handle(
    app: &App,
    request: Request,
    change: StateChange,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let agent_id = fields::agent_id(&request)?;
    let reason = reason(&body.object()?)?;
    let changed = app.store.change_state(agent_id, change, reason.as_deref(), operator, now).await?;
    Ok(mission_control::body(&AgentRead::of(&*into_result(changed)?, app.gateway_id(), now))?)
}
