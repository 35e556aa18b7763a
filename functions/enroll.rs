//! `POST /api/v1/agents/heartbeat`: a heartbeat that creates its agent on first sight.

use lambda_http::Request;
use shared::config::Setting::{
    AgentsTable, EventsTable, MaxPromise, PendingRetention, RateLimit, SystemEventRetention, TokensTable,
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
use shared::wire::mission_control::{self, AgentRead, AgentWithKey, WorkspaceAt};
use shared::wire::{credentials, fields, report};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "enroll",
    reads: &[
        AgentsTable,
        EventsTable,
        TokensTable,
        RateLimit,
        MaxPromise,
        PendingRetention,
        SystemEventRetention,
    ],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The body: `{"name"?, "board_id"?, "status"?, "report"?}`, of which an agent's own key does not need the name; and
/// whether whoever creates an agent wants its files.
struct FirstHeartbeat {
    name: Option<AgentName>,
    board_id: Option<BoardId>,
    health: HealthReport,
    report: Report,
    workspace: Option<WorkspaceAt>,
}

impl FirstHeartbeat {
    fn read(app: &App, request: &Request, body: Json<'_>) -> Result<Self, Invalid> {
        let body = body.object()?;
        body.refuse_spellings(&[("boardId", "board_id")])?;
        Ok(Self {
            name: fields::name(&body)?,
            board_id: body.uuid("board_id")?.map(BoardId::of),
            health: fields::health(&body)?,
            report: report::strict(&body, Contract::MissionControl, *app.config.max_promise.get())?
                .unwrap_or_default(),
            workspace: WorkspaceAt::wanted_by(request)?,
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
            let heartbeat = match FirstHeartbeat::read(app, &request, body) {
                Ok(heartbeat) => heartbeat,
                Err(invalid) => {
                    app.agent_of_key(&key, now).await?;
                    return Err(invalid.into());
                }
            };
            let (agent, quota) = app.check_in(&Caller::Key(key), heartbeat.call(), now).await?;
            heard(app, &agent, quota, now)
        }
        Credential::Token(token) => {
            let sponsor = Sponsor::of(app, token, now).await?;
            let heartbeat = FirstHeartbeat::read(app, &request, body)?;
            let name = heartbeat.name.ok_or_else(fields::name_is_required)?;
            let named = Named { name, board_id: heartbeat.board_id };
            match sponsor.hear(app, named, heartbeat.health, heartbeat.report, now).await? {
                Heard::Renewed(agent, quota) => heard(app, &agent, quota, now),
                Heard::Created(agent, key) => created(app, heartbeat.workspace.as_ref(), &agent, &key, now),
            }
        }
    }
}

/// The answer to a heartbeat of an agent that is there.
fn heard(app: &App, agent: &Agent, quota: Quota, now: Timestamp) -> Result<Answer, ApiError> {
    Ok(mission_control::body(&AgentRead::heard(agent, Vec::new(), app.gateway_id(), now))?.counted(quota))
}

/// The answer that shows the key. An approved agent's creation is its first heartbeat, and counted.
fn created(
    app: &App,
    workspace: Option<&WorkspaceAt>,
    agent: &Agent,
    key: &ApiKey,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let answer = mission_control::body(&AgentWithKey::of(agent, key, app.gateway_id(), workspace, now))?;
    let quota = Quota::after(Policy::Heartbeats, *app.config.rate_limit.get(), 1, now);
    Ok(if agent.last_seen_at.is_some() { answer.counted(quota) } else { answer })
}

/// What came of a heartbeat by name or by key.
pub(crate) enum Heard {
    /// The agent's lease is renewed.
    Renewed(Box<Agent>, Quota),
    /// The agent is new. The one moment at which its key can be shown.
    Created(Box<Agent>, ApiKey),
}

/// An agent by its name.
pub(crate) struct Named {
    pub(crate) name: AgentName,
    /// The group it belongs to; without one the token's.
    pub(crate) board_id: Option<BoardId>,
}

/// Whoever lets a new agent in: a token, with its namespace and the name under which events are recorded.
pub(crate) struct Sponsor {
    token: Token,
    pub(crate) row: TokenRow,
    namespace: NamespaceId,
    actor: Actor,
}

impl Sponsor {
    /// Whoever holds this token, and may let agents in.
    ///
    /// # Errors
    /// 401 for an unknown, expired or deleted token, 403 for a viewer's, 503 without a database.
    pub(crate) async fn of(app: &App, token: Token, now: Timestamp) -> Result<Self, ApiError> {
        match token.kind() {
            TokenKind::Enrollment => Ok(Self::enrollment(app.cached_token(&token, now).await?, token)),
            TokenKind::Operator => {
                let row = app.operator_row(&token, now).await?;
                let (namespace, actor) = (NamespaceId::OPERATORS, Actor::Operator(row.token_id));
                Ok(Self { token, row, namespace, actor })
            }
        }
    }

    fn enrollment(row: TokenRow, token: Token) -> Self {
        let (namespace, actor) = (row.namespace_id, Actor::Enrollment(row.token_id));
        Self { token, row, namespace, actor }
    }

    fn board_of(&self, agent: &Named) -> Option<BoardId> {
        agent.board_id.or(self.row.board_id)
    }

    /// The agent that a name means, of those that this token reaches.
    pub(crate) fn agent_id(&self, agent: &Named) -> AgentId {
        AgentId::of_key_id(NewEnrolled::key_id(self.namespace, self.board_of(agent), &agent.name))
    }

    /// Renews, or creates, or renews the lease of an agent that somebody else was first to create.
    ///
    /// # Errors
    /// See [`App::check_in`]; 403 for a board that is not the token's, or a token that may not create.
    pub(crate) async fn hear(
        &self,
        app: &App,
        agent: Named,
        health: HealthReport,
        report: Report,
        now: Timestamp,
    ) -> Result<Heard, ApiError> {
        let (agent_id, board_id) = (self.agent_id(&agent), self.board_of(&agent));
        self.row.admit(board_id).map_err(ErrorKind::Forbidden)?;
        if self.token.kind() == TokenKind::Operator && self.row.board_id.is_some() {
            // The name is of this board; the agent may have been moved to another since.
            if let Some(agent) = app.store.agent(agent_id, now).await? {
                reach(self.row.operator(), agent.board_id)?;
            }
        }
        let call = Call::Heartbeat { health, report };
        let caller = Caller::Namespace { agent_id, namespace: self.namespace, actor: self.actor };
        if let Some((agent, quota)) = app.check_in_if_known(&caller, call, now).await? {
            return Ok(Heard::Renewed(agent, quota));
        }
        let row = self.row_for_creation(app, agent_id, now).await?;
        let new = NewEnrolled {
            namespace: self.namespace,
            name: agent.name,
            board_id,
            approved: row.pre_approved,
            report: health,
            claims: report,
            actor: self.actor,
            one_off: (!row.reusable).then_some(&row),
        };
        match app.store.enroll(&new, now).await? {
            Creation::Created(agent, key) => {
                if row.reusable {
                    app.note_use(&row, true, now).await;
                }
                Ok(Heard::Created(agent, key))
            }
            Creation::Exists => {
                let (agent, quota) = app.check_in(&caller, call, now).await?;
                Ok(Heard::Renewed(agent, quota))
            }
            Creation::TokenUsedUp => Err(ErrorKind::Forbidden(TOKEN_USED_UP).into()),
        }
    }

    /// The token's row as it is now, and only if it lets this agent in: a cached row may be a minute old.
    async fn row_for_creation(
        &self,
        app: &App,
        agent_id: AgentId,
        now: Timestamp,
    ) -> Result<TokenRow, ApiError> {
        if self.token.kind() == TokenKind::Operator {
            return Ok(self.row.clone());
        }
        let row = app.current_token(&self.token).await?;
        match row.bars_creation(Some(agent_id), now) {
            Some(why) => Err(ErrorKind::Forbidden(why).into()),
            None => Ok(row),
        }
    }
}
