//! `POST /api/v1/agents/heartbeat`: a heartbeat that creates its agent on first sight.

use lambda_http::Request;
use shared::domain::agent::{Agent, AgentId, AgentName};
use shared::domain::credential::{ApiKey, Credential, Token, TokenKind};
use shared::domain::event::Actor;
use shared::domain::rate_limit::{Policy, Quota};
use shared::domain::token::{TOKEN_USED_UP, TokenRow};
use shared::domain::workspace::{Workspace, base_url};
use shared::runtime::app::App;
use shared::store::{Call, Caller, Claim, Creation, NewEnrolled};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::credentials;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::json::Json;
use shared::wire::requests::{self, FirstBeat};
use uuid::Uuid;

/// Whose names the agents have that operators create by heartbeat.
const OPERATORS_NAMESPACE: &str = "operator";

/// Beats for the agent of this key; or for the agent of this board and name, which it creates if there is none.
///
/// # Errors
/// See [`App::check_in`]; 401 for an unknown token, 403 for one that may not create, or not on this board; 422
/// for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = requests::json(&request)?;
    match credentials::credential(request.headers())? {
        Credential::Agent(key) => {
            let beat = match FirstBeat::read(body) {
                Ok(beat) => beat,
                Err(invalid) => {
                    app.agent_of_key(&key, now).await?;
                    return Err(invalid.into());
                }
            };
            let (agent, quota) = app.check_in(&Caller::Key(key), Call::Heartbeat(beat.claim), now).await?;
            Ok(Answer::counted(Outcome::Agent(agent), quota))
        }
        Credential::Token(token) => beat_by_name(app, &request, &token, body, now).await,
    }
}

/// Beats, or creates, or beats once more for whoever was first to create.
async fn beat_by_name(
    app: &App,
    request: &Request,
    token: &Token,
    body: Json<'_>,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let grant = Grant::of(app, token, now).await?;
    let beat = FirstBeat::read(body)?;
    let name = beat.name.ok_or_else(requests::name_is_required)?;
    let board_id = beat.board_id.or(grant.row.board_id);
    grant.row.admit(board_id)?;
    let key_id = NewEnrolled::key_id(&grant.namespace, board_id, &name);
    let agent_id = AgentId::of_key_id(key_id);
    let caller = Caller::Namespace { agent_id, namespace: grant.namespace.clone(), actor: grant.actor };
    let call = Call::Heartbeat(beat.claim);
    if let Some((agent, quota)) = app.check_in_if_known(&caller, call, now).await? {
        return Ok(Answer::counted(Outcome::Agent(agent), quota));
    }
    let grant = grant.for_creation(app, token, agent_id, now).await?;
    match app.store.enroll(&grant.new_agent(name, board_id, beat.claim), now).await? {
        Creation::Created(agent, key) => Ok(created(app, request, &grant, agent, key, now).await),
        Creation::Exists => {
            let (agent, quota) = app.check_in(&caller, call, now).await?;
            Ok(Answer::counted(Outcome::Agent(agent), quota))
        }
        Creation::TokenUsedUp => Err(ErrorKind::Forbidden(TOKEN_USED_UP).into()),
    }
}

/// The answer that shows the key. An approved agent's creation is its first beat, and counted.
async fn created(
    app: &App,
    request: &Request,
    grant: &Grant,
    agent: Box<Agent>,
    key: ApiKey,
    now: Timestamp,
) -> Answer {
    if grant.row.reusable {
        app.note_use(&grant.row, true, now).await;
    }
    let wanted = requests::wants_workspace(request);
    let files = wanted.then(|| Workspace::render(&agent, Some(&key), &base_url(request)));
    let quota = Quota::after(Policy::Heartbeats, app.config.rate_limit, 1, now);
    let counted = agent.last_seen_at.is_some().then_some(quota);
    Answer { outcome: Outcome::WithKey(agent, key, files), quota: counted }
}

/// What a token lets its holder do here.
struct Grant {
    row: TokenRow,
    namespace: String,
    actor: Actor,
}

impl Grant {
    async fn of(app: &App, token: &Token, now: Timestamp) -> Result<Self, ApiError> {
        match token.kind() {
            TokenKind::Enrollment => Ok(Self::enrollment(app.enrollment_token(token, now).await?)),
            TokenKind::Operator => {
                let row = app.operator_row(token, now).await?;
                let (namespace, actor) = (OPERATORS_NAMESPACE.to_owned(), Actor::Operator(row.token_id));
                Ok(Self { row, namespace, actor })
            }
        }
    }

    fn enrollment(row: TokenRow) -> Self {
        let (namespace, actor) = (row.enrollment_namespace.clone(), Actor::Enrollment(row.token_id));
        Self { row, namespace, actor }
    }

    /// The agent that the grant lets in.
    fn new_agent(&self, name: AgentName, board_id: Option<Uuid>, claim: Claim) -> NewEnrolled<'_> {
        NewEnrolled {
            namespace: &self.namespace,
            name,
            board_id,
            approved: self.row.pre_approved,
            claim,
            actor: self.actor,
            one_off: (!self.row.reusable).then_some(&self.row),
        }
    }

    /// The same, read anew if it may be old, and only if it lets this agent in.
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
        let grant = Self::enrollment(app.fresh_enrollment_token(token).await?);
        match grant.row.bars_creation(Some(agent_id), now) {
            Some(why) => Err(ErrorKind::Forbidden(why).into()),
            None => Ok(grant),
        }
    }
}
