//! Contract B: Mission Control's wire format, in `snake_case`.

use lambda_http::Request;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::agent::{Agent, AgentId, AgentState};
use crate::domain::credential::{ApiKey, TokenKind};
use crate::domain::directive::{Action, Directive};
use crate::domain::heartbeat::Health;
use crate::domain::ids::{BoardId, TokenId};
use crate::domain::silence::{Scope, Silence};
use crate::domain::spend::{Budget, Usage, day_text, midnight_after};
use crate::domain::token::{MintedToken, Role, TokenRow};
use crate::domain::workspace::Workspace;
use crate::time::Timestamp;
use crate::wire::answer::Answer;
use crate::wire::base_url::base_url;
use crate::wire::error::{ApiError, ErrorKind, Invalid};
use crate::wire::fields::Query;

/// An agent as Mission Control shows it: 15 keys, always present, null where unknown.
#[derive(Serialize)]
pub struct AgentRead<'a> {
    board_id: Option<BoardId>,
    name: &'a str,
    status: &'static str,
    heartbeat_config: HeartbeatConfigRead,
    identity_profile: Option<()>,
    identity_template: Option<()>,
    soul_template: Option<()>,
    id: AgentId,
    gateway_id: Uuid,
    is_board_lead: bool,
    is_gateway_main: bool,
    openclaw_session_id: Option<()>,
    last_seen_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// Not Mission Control's: only where the caller asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<AgentDetail>,
    /// Not Mission Control's: only while there is one, in answers to heartbeats and to operators who say one.
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
    /// Not Mission Control's: what of a report was left out, where a report cannot be refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    report_errors: Vec<String>,
}

/// A directive as agents are told it: without the reason, which is an operator's free text.
#[derive(Serialize)]
pub struct DirectiveRead {
    version: i64,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// Only of what is computed, and stands in no row.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    computed: Option<Computed>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    record: Option<DirectiveRecord>,
}

/// Why there is a directive that nobody said, and until when.
#[derive(Serialize)]
struct Computed {
    cause: &'static str,
    until: String,
}

/// What operators see of it besides.
#[derive(Serialize)]
struct DirectiveRecord {
    since: String,
    then_revoke: bool,
    acknowledged_at: Option<String>,
}

impl DirectiveRead {
    /// What the agent is told now. Over its budget that is a pause, unless an operator wants more than that it runs: it goes
    /// on with a larger budget, or the next day.
    #[must_use]
    pub fn told(agent: &Agent, now: Timestamp) -> Option<Self> {
        let directive = agent.directive.as_ref();
        let runs = directive.is_none_or(|directive| directive.action == Action::Run);
        if !runs || !agent.spend().is_over(now) {
            return directive.map(Self::of);
        }
        let computed = Some(Computed { cause: "budget", until: midnight_after(now).to_string() });
        Some(Self { version: 0, action: Action::Pause, deadline: None, computed, record: None })
    }

    /// A directive without what only operators see.
    fn of(directive: &Directive) -> Self {
        Self {
            version: directive.version,
            action: directive.action,
            deadline: directive.deadline.map(|deadline| deadline.to_string()),
            computed: None,
            record: None,
        }
    }

    /// What operators see.
    fn for_operators(directive: &Directive) -> Self {
        let record = DirectiveRecord {
            since: directive.since().to_string(),
            then_revoke: directive.then_revoke,
            acknowledged_at: directive.acknowledged.map(|at| at.to_string()),
        };
        Self { record: Some(record), ..Self::of(directive) }
    }
}

/// What an agent used today, and how much it may.
#[derive(Serialize)]
pub struct TodayRead {
    day: String,
    tokens: u64,
    cost_usd: f64,
    budget: Option<Value>,
    over_budget: bool,
}

impl TodayRead {
    /// By its row.
    #[must_use]
    pub fn of(agent: &Agent, now: Timestamp) -> Self {
        let spend = agent.spend();
        let used = spend.today(now);
        Self {
            day: day_text(now),
            tokens: used.tokens,
            cost_usd: used.cost_usd(),
            budget: spend.budget.map(Budget::to_json),
            over_budget: spend.is_over(now),
        }
    }

    /// `None` if there is no budget, and nothing was used today.
    fn if_any(agent: &Agent, now: Timestamp) -> Option<Self> {
        let spend = agent.spend();
        let is_any = spend.budget.is_some() || spend.today(now) != Usage::NOTHING;
        is_any.then(|| Self::of(agent, now))
    }
}

/// What Mission Control's form has no word for.
#[derive(Serialize)]
struct AgentDetail {
    state: AgentState,
    health: Option<Health>,
    late: bool,
    offline_since: Option<String>,
    lease_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_beat_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalls_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_after_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    verified_at: Option<String>,
    rate_limit_per_minute: Option<u32>,
    requests_total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    today: Option<TodayRead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
}

impl AgentDetail {
    fn of(agent: &Agent, now: Timestamp) -> Self {
        let text = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
        Self {
            state: agent.agent_state,
            health: agent.health,
            late: agent.is_late(now),
            offline_since: text(agent.offline_since),
            lease_expires_at: text(agent.lease()),
            next_beat_at: text(agent.next_beat_at),
            stalls_at: text(agent.stalls_at),
            stall_after_seconds: agent.stall_after_ms.map(|after| after / 1000),
            boot_id: agent.boot.map(|boot_id| boot_id.to_string()),
            verified_at: text(agent.verified_at),
            rate_limit_per_minute: agent.rate_limit,
            requests_total: agent.requests_total,
            today: TodayRead::if_any(agent, now),
            directive: agent.directive.as_ref().map(DirectiveRead::for_operators),
        }
    }
}

#[derive(Serialize)]
struct HeartbeatConfigRead {
    interval_seconds: u64,
    missing_tolerance: u64,
}

impl<'a> AgentRead<'a> {
    /// The agent as it is now.
    #[must_use]
    pub fn of(agent: &'a Agent, gateway_id: Uuid, now: Timestamp) -> Self {
        Self {
            board_id: agent.board_id,
            name: agent.agent_name.as_str(),
            status: agent.status(now),
            heartbeat_config: HeartbeatConfigRead {
                interval_seconds: agent.heartbeat().interval_seconds(),
                missing_tolerance: agent.heartbeat().tolerance_seconds(),
            },
            identity_profile: None,
            identity_template: None,
            soul_template: None,
            id: agent.agent_id,
            gateway_id,
            is_board_lead: false,
            is_gateway_main: false,
            openclaw_session_id: None,
            last_seen_at: agent.last_seen_at.map(|seen| seen.to_string()),
            created_at: agent.created_at.to_string(),
            updated_at: agent.updated_at.to_string(),
            detail: None,
            directive: None,
            report_errors: Vec::new(),
        }
    }

    /// The answer to a heartbeat: with the directive, while there is one, and with what of its report was left out.
    #[must_use]
    pub fn heard(agent: &'a Agent, report_errors: Vec<String>, gateway_id: Uuid, now: Timestamp) -> Self {
        let directive = DirectiveRead::told(agent, now);
        Self { directive, report_errors, ..Self::of(agent, gateway_id, now) }
    }

    /// The answer to an operator who said what the agent should do.
    #[must_use]
    pub fn directed(agent: &'a Agent, gateway_id: Uuid, now: Timestamp) -> Self {
        let directive = agent.directive.as_ref().map(DirectiveRead::for_operators);
        Self { directive, ..Self::of(agent, gateway_id, now) }
    }

    /// The same, with `detail` where it is wanted.
    #[must_use]
    pub fn with_detail(agent: &'a Agent, wanted: bool, gateway_id: Uuid, now: Timestamp) -> Self {
        let detail = wanted.then(|| AgentDetail::of(agent, now));
        Self { detail, ..Self::of(agent, gateway_id, now) }
    }
}

/// An agent with its new key, which only this answer carries.
#[derive(Serialize)]
pub struct AgentWithKey<'a> {
    #[serde(flatten)]
    agent: AgentRead<'a>,
    agent_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Workspace>,
}

impl<'a> AgentWithKey<'a> {
    /// An agent whose key was just made, and its files if they are wanted.
    #[must_use]
    pub fn of(
        agent: &'a Agent,
        key: &ApiKey,
        gateway_id: Uuid,
        workspace: Option<&WorkspaceAt>,
        now: Timestamp,
    ) -> Self {
        let files = workspace.map(|at| Workspace::render(agent, Some(key), &at.base_url));
        Self { agent: AgentRead::of(agent, gateway_id, now), agent_token: key.reveal(), files }
    }
}

/// Where the files of a workspace say that the API is.
pub struct WorkspaceAt {
    base_url: String,
}

impl WorkspaceAt {
    /// The address by which the caller reached the API, if it wants the files: `?workspace=true`.
    ///
    /// # Errors
    /// `workspace` is neither `true` nor `false`.
    pub fn wanted_by(request: &Request) -> Result<Option<Self>, Invalid> {
        let is_wanted = Query::of(request).flag("workspace")?;
        Ok(is_wanted.then(|| Self { base_url: base_url(request) }))
    }
}

/// A token without what is secret of it.
#[derive(Serialize)]
pub struct TokenRead<'a> {
    id: TokenId,
    kind: TokenKind,
    label: Option<&'a str>,
    role: Option<Role>,
    board_id: Option<BoardId>,
    reusable: bool,
    approved: bool,
    created_at: String,
    expires_at: String,
}

impl<'a> TokenRead<'a> {
    /// The row's public part.
    #[must_use]
    pub fn of(row: &'a TokenRow) -> Self {
        Self {
            id: row.token_id,
            kind: row.token_kind,
            label: row.label.as_deref(),
            role: row.role,
            board_id: row.board_id,
            reusable: row.reusable,
            approved: row.pre_approved,
            created_at: row.created_at.to_string(),
            expires_at: row.valid_until.to_string(),
        }
    }
}

/// The answer to a minting, also `mint-token`'s: with the token, this once.
#[derive(Serialize)]
pub struct Minted<'a> {
    token: String,
    /// For operators' tokens: where the page is, with the token behind the `#`, which is sent to no server.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(flatten)]
    row: TokenRead<'a>,
}

impl<'a> Minted<'a> {
    /// A token that was just minted, where the API is at `base_url`.
    #[must_use]
    pub fn of(minted: &'a MintedToken, base_url: &str) -> Self {
        let token = minted.token.reveal();
        let is_operators = minted.row.token_kind == TokenKind::Operator;
        let link = is_operators.then(|| format!("{base_url}/#token={token}"));
        Self { token, link, row: TokenRead::of(&minted.row) }
    }
}

/// A silence.
#[derive(Serialize)]
pub struct SilenceRead<'a> {
    id: Uuid,
    agent_id: Option<AgentId>,
    board_id: Option<BoardId>,
    all: bool,
    reason: Option<&'a str>,
    created_at: String,
    ends_at: String,
}

impl<'a> SilenceRead<'a> {
    /// The silence as it is shown.
    #[must_use]
    pub fn of(silence: &'a Silence) -> Self {
        let (agent_id, board_id, all) = match silence.scope {
            Scope::Agent(agent_id) => (Some(agent_id), None, false),
            Scope::Board(board_id) => (None, Some(board_id), false),
            Scope::All => (None, None, true),
        };
        Self {
            id: silence.silence_id,
            agent_id,
            board_id,
            all,
            reason: silence.reason.as_deref(),
            created_at: silence.created_at.to_string(),
            ends_at: silence.ends_at.to_string(),
        }
    }
}

/// A success.
///
/// # Errors
/// A bug: the body does not encode.
pub fn body(body: &impl Serialize) -> Result<Answer, ErrorKind> {
    serde_json::to_string(body).map(Answer::json).map_err(ErrorKind::encoding)
}

#[derive(Serialize)]
struct Refusal<'a> {
    detail: Detail,
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail {
    Text(String),
    Invalid([InvalidField; 1]),
}

#[derive(Serialize)]
struct InvalidField {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: Vec<String>,
    msg: String,
    input: Option<()>,
}

impl InvalidField {
    fn of(invalid: &Invalid) -> Self {
        let path = invalid.field.split('.').filter(|part| *part != "body");
        let place = invalid.location.as_str();
        Self {
            kind: "value_error",
            loc: std::iter::once(place).chain(path).map(str::to_owned).collect(),
            msg: invalid.problem.to_string(),
            input: None,
        }
    }
}

impl Detail {
    fn of(error: &ErrorKind) -> Self {
        match error {
            ErrorKind::Invalid(invalid) => Self::Invalid([InvalidField::of(invalid)]),
            // There is nothing here by which an agent could verify itself.
            ErrorKind::Inactive(AgentState::Pending) => {
                Self::Text("the agent is pending: an operator can approve it".to_owned())
            }
            error => Self::Text(error.to_string()),
        }
    }
}

/// The body of a refusal: `{"detail", "request_id"}`, where `detail` is a list for bad input.
pub(super) fn encode_error(error: &ErrorKind, request_id: &str) -> serde_json::Result<String> {
    serde_json::to_string(&Refusal { detail: Detail::of(error), request_id })
}

/// The refusal of one of several: `{"status", "detail", "retry_after_seconds"?}`, as a request of its own would get it.
#[derive(Serialize)]
pub struct PartRefusal {
    status: u16,
    detail: Detail,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl PartRefusal {
    /// The refusal's status and detail, and what would be its `Retry-After`.
    #[must_use]
    pub fn of(error: &ApiError, now: Timestamp) -> Self {
        Self {
            status: error.kind.in_mission_control(),
            detail: Detail::of(&error.kind),
            retry_after_seconds: error.retry_after(now),
        }
    }
}
