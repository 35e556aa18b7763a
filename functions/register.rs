//! `POST /api/agents/register`: a new pending agent, and its API key.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Registration;
use shared::config::Setting::{
    self, AgentsTable, EventsTable, PendingRetention, RegisterLimit, SystemEventRetention, TokensTable,
    TrustedAddressHeader, TrustedProxyHops, WindowsTable,
};
use shared::domain::agent::{AgentId, AgentName, AgentState};
use shared::domain::credential::Token;
use shared::domain::event::Actor;
use shared::domain::ids::BoardId;
use shared::domain::registration::NewAgent;
use shared::domain::token::TOKEN_USED_UP;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::credentials::{self, CredentialProblem};
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::json::Object;
use shared::wire::{envelope, fields};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "register",
    reads: &[
        AgentsTable,
        EventsTable,
        WindowsTable,
        TokensTable,
        Setting::Registration,
        RegisterLimit,
        TrustedProxyHops,
        TrustedAddressHeader,
        PendingRetention,
        SystemEventRetention,
    ],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// `{"name", "boardId"?, "heartbeatConfig"?}`.
fn registration(request: &Request) -> Result<NewAgent, ApiError> {
    let body = Object::parse(request.body())?;
    body.refuse_spellings(&[("heartbeat_config", "heartbeatConfig"), ("board_id", "boardId")])?;
    let name = body.string("name")?.ok_or_else(|| body.invalid("name", "is required"))?;
    let name = AgentName::parse(&name).map_err(|problem| body.invalid("name", problem))?;
    let board_id = body.uuid("boardId")?.map(BoardId::of);
    let heartbeat = fields::heartbeat_config_in_envelope(&body)?;
    Ok(NewAgent { name, board_id, heartbeat })
}

/// The one answer that shows the key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    agent_id: AgentId,
    api_key: String,
    status: AgentState,
}

/// Registers an agent: at most 3 requests to DynamoDB.
///
/// # Errors
/// See [`App::count_registration`] and [`App::token_for_registration`]; 401 or 403 without an enrollment token where
/// one is needed, 400 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let new = registration(&request)?;
    let token = match app.config.registration.get() {
        Registration::Open => None,
        Registration::Enrollment => Some(enrollment_token(&request)?),
    };
    let quota = app.count_registration(&request, now).await?;
    let registered = register(app, new, token.as_ref(), now).await.map_err(|error| error.counted(quota))?;
    Ok(envelope::data(&registered)?.counted(quota))
}

fn enrollment_token(request: &Request) -> Result<Token, ErrorKind> {
    credentials::enrollment_token(request.headers()).map_err(|problem| match problem {
        CredentialProblem::Missing => {
            ErrorKind::Unauthorized("an enrollment token is required in X-Agent-Token")
        }
        problem => problem.into(),
    })
}

async fn register(
    app: &App,
    mut new: NewAgent,
    token: Option<&Token>,
    now: Timestamp,
) -> Result<Registered, ApiError> {
    let token = match token {
        None => None,
        Some(token) => Some(app.token_for_registration(token, new.board_id, now).await?),
    };
    new.board_id = new.board_id.or(token.as_ref().and_then(|token| token.board_id));
    let actor = token.as_ref().map_or(Actor::Agent, |token| Actor::Enrollment(token.token_id));
    let one_off = token.as_ref().filter(|token| !token.reusable);
    match app.store.register(&new, actor, one_off, now).await? {
        Some((agent, key)) => {
            Ok(Registered { agent_id: agent.agent_id, api_key: key.reveal(), status: agent.agent_state })
        }
        None => Err(ErrorKind::Unauthorized(TOKEN_USED_UP).into()),
    }
}
