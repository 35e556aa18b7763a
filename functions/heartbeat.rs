//! `POST /api/agents/heartbeat`, `/api/v1/agent/heartbeat` and `/api/v1/agents/{agent_id}/heartbeat`: the agent
//! is alive.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{
    AgentsTable, EventsTable, MaxPromise, RateLimit, SystemEventRetention, TokensTable,
};
use shared::domain::agent::{Agent, AgentId};
use shared::domain::check_in::{Call, Caller, HealthReport};
use shared::domain::credential::{ApiKey, Credential, TokenKind};
use shared::domain::heartbeat::Health;
use shared::domain::token::Operator;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::contract::Contract;
use shared::wire::credentials::{self, CredentialProblem};
use shared::wire::error::{ApiError, Invalid};
use shared::wire::json::Object;
use shared::wire::mission_control::{self, AgentRead, DirectiveRead};
use shared::wire::route::route;
use shared::wire::{envelope, fields, report};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "heartbeat",
    reads: &[AgentsTable, EventsTable, TokensTable, RateLimit, MaxPromise, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// What the envelope's answer says: when to send the next heartbeat, and until when the lease lasts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeartbeatData {
    ok: bool,
    agent_id: AgentId,
    status: Option<Health>,
    last_seen_at: Option<String>,
    interval_seconds: u64,
    lease_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
}

impl HeartbeatData {
    fn of(agent: &Agent, now: Timestamp) -> Self {
        Self {
            ok: true,
            agent_id: agent.agent_id,
            status: agent.health,
            last_seen_at: agent.last_seen_at.map(|seen| seen.to_string()),
            interval_seconds: agent.heartbeat().interval_seconds(),
            lease_expires_at: agent.lease().map(|end| end.to_string()),
            directive: DirectiveRead::told(agent, now),
        }
    }
}

/// Renews the lease: 1 request to DynamoDB, 1 write unit. An operator's heartbeat also reads the operator's token.
///
/// # Errors
/// See [`App::check_in`]; 404 for a path without an agent, 403 for another agent's; 400 or 422 for bad input,
/// which Mission Control's clients are told only with a good credential.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    match route(&request) {
        "/api/v1/agent/heartbeat" => own(app, &request, now).await,
        path if path.starts_with("/api/v1/") => by_id(app, &request, now).await,
        _ => in_envelope(app, &request, now).await,
    }
}

/// The envelope: body, key and status are judged before the database is asked.
async fn in_envelope(app: &App, request: &Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = Object::parse(request.body())?;
    let key = envelope::api_key(request.headers(), &body)??;
    let health = fields::health_in_envelope(&body)?;
    let report = report::strict(&body, Contract::Envelope, *app.config.max_promise.get())?;
    let call = Call::Heartbeat { health, report: report.unwrap_or_default() };
    let (agent, quota) = app.check_in(&Caller::Key(key), call, now).await?;
    Ok(envelope::data(&HeartbeatData::of(&agent, now))?.counted(quota))
}

/// Mission Control's shortest form: the key says which agent, and the body may be anything. What of a report cannot be read
/// is named in the answer: its agent must not believe that it was heard.
async fn own(app: &App, request: &Request, now: Timestamp) -> Result<Answer, ApiError> {
    let Credential::Agent(key) = credentials::credential(request.headers())? else {
        return Err(CredentialProblem::WrongKind.into());
    };
    let mut problems = Vec::new();
    let (health, report) = match Object::parse(request.body()) {
        Err(problem) => {
            if report::may_be_in(request.body()) {
                problems.push(problem.to_string());
            }
            (Ok(HealthReport::Keep), None)
        }
        Ok(body) => {
            let health = match body.string("status") {
                Ok(Some(_)) => fields::health(&body),
                _ => Ok(HealthReport::Keep),
            };
            let (report, unread) =
                report::read(&body, Contract::MissionControl, *app.config.max_promise.get());
            problems.extend(unread.iter().map(ToString::to_string));
            (health, report)
        }
    };
    let health = known_key_first(app, &key, health, now).await?;
    let call = Call::Heartbeat { health, report: report.unwrap_or_default() };
    renew(app, &Caller::Key(key), call, problems, now).await
}

/// By the path's id: for the agent itself and for operators.
async fn by_id(app: &App, request: &Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(request)?;
    let credential = credentials::credential(request.headers())?;
    let meant = fields::agent_id(request);
    let said = body.object().and_then(|body| {
        let report = report::strict(&body, Contract::MissionControl, *app.config.max_promise.get())?;
        Ok((fields::health(&body)?, report))
    });
    match credential {
        Credential::Agent(key) => {
            if meant.as_ref() != Ok(&AgentId::of_key(&key)) {
                let agent = app.agent_of_key(&key, now).await?;
                app.only_itself(&agent, meant?, now).await?;
            }
            let (health, report) = known_key_first(app, &key, said, now).await?;
            let call = Call::Heartbeat { health, report: report.unwrap_or_default() };
            renew(app, &Caller::Key(key), call, Vec::new(), now).await
        }
        Credential::Token(token) if token.kind() == TokenKind::Operator => {
            let operator = app.operator_row(&token, now).await?.operator();
            let reports = matches!(said, Ok((_, Some(_))));
            let caller = in_place_of(app, operator, meant?, reports, now).await?;
            let (health, report) = said?;
            let call = Call::Heartbeat { health, report: report.unwrap_or_default() };
            renew(app, &caller, call, Vec::new(), now).await
        }
        Credential::Token(_) => Err(CredentialProblem::WrongKind.into()),
    }
}

/// An operator in place of this agent, if the operator's token reaches it. `reports`: whether with a report of the agent.
///
/// # Errors
/// For an operator of one board: 404 without such an agent, 403 if it is of another board, 503 without a database.
pub(crate) async fn in_place_of(
    app: &App,
    operator: Operator,
    agent_id: AgentId,
    reports: bool,
    now: Timestamp,
) -> Result<Caller, ApiError> {
    if operator.board_id.is_some() {
        reach(operator, app.existing(agent_id, now).await?.board_id)?;
    }
    Ok(Caller::Operator { agent_id, actor: operator.actor(), reports })
}

/// What the body says, or what is wrong with it: which only the agent with this key is told.
async fn known_key_first<T>(
    app: &App,
    key: &ApiKey,
    said: Result<T, Invalid>,
    now: Timestamp,
) -> Result<T, ApiError> {
    match said {
        Ok(said) => Ok(said),
        Err(invalid) => {
            app.agent_of_key(key, now).await?;
            Err(invalid.into())
        }
    }
}

async fn renew(
    app: &App,
    caller: &Caller,
    call: Call,
    problems: Vec<String>,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let (agent, quota) = app.check_in(caller, call, now).await?;
    Ok(mission_control::body(&AgentRead::heard(&agent, problems, app.gateway_id(), now))?.counted(quota))
}
