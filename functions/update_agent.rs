//! `PATCH /api/v1/agents/{agent_id}`: an operator changes an agent.

use std::time::Duration;

use lambda_http::Request;
use shared::config::Setting::{AgentsTable, EventsTable, SystemEventRetention, TokensTable};
use shared::domain::change::Patch;
use shared::domain::ids::BoardId;
use shared::domain::spend::{Budget, MOST};
use shared::runtime::app::App;
use shared::runtime::callers::{into_result, reach};
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::fields;
use shared::wire::json::{Json, Object, whole};
use shared::wire::mission_control::{self, AgentRead};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "update-agent",
    reads: &[AgentsTable, EventsTable, TokensTable, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// `{"name"?, "board_id"?, "heartbeat_config"?, "rate_limit_per_minute"?, "stall_after_seconds"?, "budget"?}`; `null` takes
/// a board, a limit, a patience or a budget away.
fn patch(body: Json<'_>) -> Result<Patch, ErrorKind> {
    let body = body.object()?;
    body.refuse_spellings(&[
        ("heartbeatConfig", "heartbeat_config"),
        ("boardId", "board_id"),
        ("rateLimitPerMinute", "rate_limit_per_minute"),
        ("stallAfterSeconds", "stall_after_seconds"),
    ])?;
    if body.has("status") {
        return Err(ErrorKind::Forbidden("status is controlled by agent heartbeat"));
    }
    let rate_limit = match body.whole_number("rate_limit_per_minute")? {
        None => None,
        Some(limit) => {
            Some(u32::try_from(limit).ok().filter(|limit| (1..=6_000).contains(limit)).ok_or_else(|| {
                body.invalid("rate_limit_per_minute", "must be 1 to 6000, or null for the default")
            })?)
        }
    };
    let stall_after = match body.whole_number("stall_after_seconds")? {
        Some(seconds) if !(60..=604_800).contains(&seconds) => {
            let problem = "must be 60 to 604800, or null for the default";
            return Err(body.invalid("stall_after_seconds", problem).into());
        }
        seconds => seconds.map(Duration::from_secs),
    };
    let budget = body.object("budget")?.as_ref().map(budget).transpose()?;
    let board_id = body.uuid("board_id")?.map(BoardId::of);
    if body.has("name") && body.string("name")?.is_none() {
        return Err(body.invalid("name", "must be a string").into());
    }
    Ok(Patch {
        name: fields::name(&body)?,
        board_id: body.has("board_id").then_some(board_id),
        heartbeat: fields::heartbeat_config(&body)?,
        rate_limit: body.has("rate_limit_per_minute").then_some(rate_limit),
        stall_after: body.has("stall_after_seconds").then_some(stall_after),
        budget: body.has("budget").then_some(budget),
    })
}

/// `{"usd_per_day"}` or `{"tokens_per_day"}`.
fn budget(budget: &Object<'_>) -> Result<Budget, Invalid> {
    budget.refuse_spellings(&[("usdPerDay", "usd_per_day"), ("tokensPerDay", "tokens_per_day")])?;
    let within = |name, number: Option<u64>, rule: &'static str| {
        let amount = number.filter(|amount| (1..=MOST).contains(amount));
        amount.ok_or_else(|| budget.invalid(name, rule))
    };
    match (budget.number("usd_per_day")?, budget.number("tokens_per_day")?) {
        (Some(dollars), None) => {
            let microusd = whole((dollars * 1_000_000.0).round());
            Ok(Budget::MicroUsd(within("usd_per_day", microusd, "must be 0.000001 to 1000000")?))
        }
        (None, Some(tokens)) => {
            let rule = "must be a whole number from 1 to 1000000000000";
            Ok(Budget::Tokens(within("tokens_per_day", whole(tokens), rule)?))
        }
        (Some(_), Some(_)) => {
            Err(budget.invalid("tokens_per_day", "must not come together with usd_per_day"))
        }
        (None, None) => Err(budget.invalid("usd_per_day", "is required, or tokens_per_day")),
    }
}

/// Changes name, board, heartbeat configuration or limit.
///
/// # Errors
/// See [`App::operator_within`] and [`into_result`]; 403 for a `status`, 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    let operator = app.operator_within(request.headers(), now).await?;
    let agent_id = fields::agent_id(&request)?;
    let patch = patch(body)?;
    if let Some(board_id) = patch.board_id {
        reach(operator, board_id)?;
    }
    let changed = app.store.patch(agent_id, &patch, operator, now).await?;
    Ok(mission_control::body(&AgentRead::of(&*into_result(changed)?, app.gateway_id(), now))?)
}
