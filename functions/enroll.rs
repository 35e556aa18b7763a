//! `POST /api/v1/agents/heartbeat`: a heartbeat that creates its agent on first sight.

use lambda_http::Request;
use shared::config::Setting::{
    AgentsTable, EventsTable, PendingRetention, RateLimit, SystemEventRetention, TokensTable,
};
use shared::domain::agent::{Agent, AgentId, AgentName};
use shared::domain::check_in::{Call, Caller, HealthReport};
use shared::domain::credential::{ApiKey, Credential, Token, TokenKind};
use shared::domain::event::Actor;
use shared::domain::ids::{BoardId, NamespaceId};
use shared::domain::rate_limit::{Policy, Quota};
use shared::domain::registration::{Creation, NewEnrolled};
use shared::domain::report::Report;
use shared::domain::token::{TOKEN_USED_UP, TokenRow};
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::contract::Contract;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::json::Json;
use shared::wire::mission_control::{self, AgentRead, AgentWithKey};
use shared::wire::{credentials, fields, report};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "enroll",
    reads: &[AgentsTable, EventsTable, TokensTable, RateLimit, PendingRetention, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The body: `{"name"?, "board_id"?, "status"?, "report"?}`. An agent's own key does not need the name.
struct FirstHeartbeat {
    name: Option<AgentName>,
    board_id: Option<BoardId>,
    health: HealthReport,
    report: Report,
}

impl FirstHeartbeat {
    fn read(body: Json<'_>) -> Result<Self, Invalid> {
        let body = body.object()?;
        body.refuse_spellings(&[("boardId", "board_id")])?;
        Ok(Self {
            name: fields::name(&body)?,
            board_id: body.uuid("board_id")?.map(BoardId::of),
            health: fields::health(&body)?,
            report: report::strict(&body, Contract::MissionControl)?,
        })
    }

    const fn call(&self) -> Call {
        Call::Heartbeat { health: self.health, report: self.report }
    }
}

/// Renews the lease of the agent with this key; or of the agent of this board and name, which it creates if there is
/// none.
///
/// # Errors
/// See [`App::check_in`]; 401 for an unknown token, 403 for one that may not create, or not on this board; 422
/// for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = fields::json(&request)?;
    match credentials::credential(request.headers())? {
        Credential::Agent(key) => {
            let heartbeat = match FirstHeartbeat::read(body) {
                Ok(heartbeat) => heartbeat,
                Err(invalid) => {
                    app.agent_of_key(&key, now).await?;
                    return Err(invalid.into());
                }
            };
            let (agent, quota) = app.check_in(&Caller::Key(key), heartbeat.call(), now).await?;
            heard(app, &agent, quota, now)
        }
        Credential::Token(token) => heartbeat_by_name(app, &request, &token, body, now).await,
    }
}

/// Renews, or creates, or renews the lease of an agent that somebody else was first to create.
async fn heartbeat_by_name(
    app: &App,
    request: &Request,
    token: &Token,
    body: Json<'_>,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let sponsor = Sponsor::of(app, token, now).await?;
    let heartbeat = FirstHeartbeat::read(body)?;
    let call = heartbeat.call();
    let name = heartbeat.name.ok_or_else(fields::name_is_required)?;
    let board_id = heartbeat.board_id.or(sponsor.row.board_id);
    sponsor.row.admit(board_id).map_err(ErrorKind::Forbidden)?;
    let key_id = NewEnrolled::key_id(sponsor.namespace, board_id, &name);
    let agent_id = AgentId::of_key_id(key_id);
    if token.kind() == TokenKind::Operator && sponsor.row.board_id.is_some() {
        // The name is of this board; the agent may have been moved to another since.
        if let Some(agent) = app.store.agent(agent_id, now).await? {
            reach(sponsor.row.operator(), agent.board_id)?;
        }
    }
    let caller = Caller::Namespace { agent_id, namespace: sponsor.namespace, actor: sponsor.actor };
    if let Some((agent, quota)) = app.check_in_if_known(&caller, call, now).await? {
        return heard(app, &agent, quota, now);
    }
    let sponsor = sponsor.for_creation(app, token, agent_id, now).await?;
    match app
        .store
        .enroll(&sponsor.new_agent(name, board_id, heartbeat.health, heartbeat.report), now)
        .await?
    {
        Creation::Created(agent, key) => created(app, request, &sponsor, &agent, &key, now).await,
        Creation::Exists => {
            let (agent, quota) = app.check_in(&caller, call, now).await?;
            heard(app, &agent, quota, now)
        }
        Creation::TokenUsedUp => Err(ErrorKind::Forbidden(TOKEN_USED_UP).into()),
    }
}

/// The answer to a heartbeat of an agent that is there.
fn heard(app: &App, agent: &Agent, quota: Quota, now: Timestamp) -> Result<Answer, ApiError> {
    Ok(mission_control::body(&AgentRead::heard(agent, Vec::new(), app.gateway_id(), now))?.counted(quota))
}

/// The answer that shows the key. An approved agent's creation is its first heartbeat, and counted.
async fn created(
    app: &App,
    request: &Request,
    sponsor: &Sponsor,
    agent: &Agent,
    key: &ApiKey,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    if sponsor.row.reusable {
        app.note_use(&sponsor.row, true, now).await;
    }
    let answer = mission_control::body(&AgentWithKey::of(agent, key, app.gateway_id(), request, now))?;
    let quota = Quota::after(Policy::Heartbeats, *app.config.rate_limit.get(), 1, now);
    Ok(if agent.last_seen_at.is_some() { answer.counted(quota) } else { answer })
}

/// Whoever lets a new agent in: a token, with its namespace and the name under which events are recorded.
struct Sponsor {
    row: TokenRow,
    namespace: NamespaceId,
    actor: Actor,
}

impl Sponsor {
    async fn of(app: &App, token: &Token, now: Timestamp) -> Result<Self, ApiError> {
        match token.kind() {
            TokenKind::Enrollment => Ok(Self::enrollment(app.cached_token(token, now).await?)),
            TokenKind::Operator => {
                let row = app.operator_row(token, now).await?;
                let (namespace, actor) = (NamespaceId::OPERATORS, Actor::Operator(row.token_id));
                Ok(Self { row, namespace, actor })
            }
        }
    }

    fn enrollment(row: TokenRow) -> Self {
        let (namespace, actor) = (row.namespace_id, Actor::Enrollment(row.token_id));
        Self { row, namespace, actor }
    }

    /// The agent that the sponsor lets in.
    fn new_agent(
        &self,
        name: AgentName,
        board_id: Option<BoardId>,
        report: HealthReport,
        claims: Report,
    ) -> NewEnrolled<'_> {
        NewEnrolled {
            namespace: self.namespace,
            name,
            board_id,
            approved: self.row.pre_approved,
            report,
            claims,
            actor: self.actor,
            one_off: (!self.row.reusable).then_some(&self.row),
        }
    }

    /// The sponsor as its row is now, and only if it lets this agent in: a cached row may be a minute old.
    async fn for_creation(
        self,
        app: &App,
        token: &Token,
        agent_id: AgentId,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        if token.kind() == TokenKind::Operator {
            return Ok(self);
        }
        let sponsor = Self::enrollment(app.current_token(token).await?);
        match sponsor.row.bars_creation(Some(agent_id), now) {
            Some(why) => Err(ErrorKind::Forbidden(why).into()),
            None => Ok(sponsor),
        }
    }
}
