//! Contract B: Mission Control's wire format, in `snake_case`.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::agent::{Agent, AgentId, AgentState};
use crate::domain::credential::TokenKind;
use crate::domain::event::{Actor, Event};
use crate::domain::token::{MintedToken, TokenRow};
use crate::domain::workspace::Workspace;
use crate::time::Timestamp;
use crate::wire::answer::{AgentList, Outcome, Paging};
use crate::wire::error::{ErrorKind, Invalid};

/// An agent as Mission Control shows it: 15 keys, always present, null where unknown.
#[derive(Serialize)]
struct AgentRead<'a> {
    board_id: Option<Uuid>,
    name: &'a str,
    status: &'static str,
    heartbeat_config: HeartbeatConfigRead,
    identity_profile: Option<()>,
    identity_template: Option<()>,
    soul_template: Option<()>,
    id: AgentId,
    gateway_id: Option<()>,
    is_board_lead: bool,
    is_gateway_main: bool,
    openclaw_session_id: Option<()>,
    last_seen_at: Option<String>,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
struct HeartbeatConfigRead {
    interval_seconds: u64,
    missing_tolerance: u64,
}

impl<'a> AgentRead<'a> {
    fn of(agent: &'a Agent, now: Timestamp) -> Self {
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
            gateway_id: None,
            is_board_lead: false,
            is_gateway_main: false,
            openclaw_session_id: None,
            last_seen_at: agent.last_seen_at.map(|seen| seen.to_string()),
            created_at: agent.created_at.to_string(),
            updated_at: agent.updated_at.to_string(),
        }
    }
}

/// An agent with its new key, which only this answer carries.
#[derive(Serialize)]
struct AgentWithKey<'a> {
    #[serde(flatten)]
    agent: AgentRead<'a>,
    agent_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a Workspace>,
}

#[derive(Serialize)]
struct AgentHealth {
    ok: bool,
    agent_id: AgentId,
    board_id: Option<Uuid>,
    gateway_id: Option<()>,
    status: &'static str,
    is_board_lead: bool,
}

#[derive(Serialize)]
struct Agents<'a> {
    items: Vec<AgentRead<'a>>,
    limit: usize,
    #[serde(flatten)]
    paging: PagingRead<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum PagingRead<'a> {
    Offset { total: usize, offset: usize },
    Cursor { total: Option<()>, next: Option<&'a str> },
}

impl<'a> Agents<'a> {
    fn of(list: &'a AgentList, now: Timestamp) -> Self {
        let items = list.agents.iter().map(|agent| AgentRead::of(agent, now)).collect();
        let paging = match &list.paging {
            Paging::Offset { offset, total } => PagingRead::Offset { total: *total, offset: *offset },
            Paging::Cursor(next) => PagingRead::Cursor { total: None, next: next.as_deref() },
        };
        Self { items, limit: list.limit, paging }
    }
}

#[derive(Serialize)]
struct Verified {
    id: AgentId,
    state: AgentState,
}

#[derive(Serialize)]
struct Usage {
    requests_total: u64,
    since: String,
}

#[derive(Serialize)]
struct Files<'a> {
    files: &'a Workspace,
}

#[derive(Serialize)]
struct Posted {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Posted {
    fn of(result: &Result<Uuid, ErrorKind>) -> Self {
        Self { id: result.as_ref().ok().copied(), detail: result.as_ref().err().map(ToString::to_string) }
    }
}

#[derive(Serialize)]
struct Events<'a> {
    items: Vec<EventRead<'a>>,
    next: Option<Uuid>,
}

#[derive(Serialize)]
struct EventRead<'a> {
    id: Uuid,
    #[serde(rename = "type")]
    kind: &'a str,
    at: String,
    actor: Actor,
    payload: &'a RawValue,
}

impl<'a> EventRead<'a> {
    fn of(event: &'a Event) -> serde_json::Result<Self> {
        Ok(Self {
            id: event.event_id,
            kind: &event.event_type,
            at: event.created_at.to_string(),
            actor: event.actor,
            payload: serde_json::from_str(&event.payload)?,
        })
    }
}

/// A token without what is secret of it.
#[derive(Serialize)]
struct TokenRead<'a> {
    id: Uuid,
    kind: TokenKind,
    label: Option<&'a str>,
    board_id: Option<Uuid>,
    reusable: bool,
    approved: bool,
    created_at: String,
    expires_at: String,
}

impl<'a> TokenRead<'a> {
    fn of(row: &'a TokenRow) -> Self {
        Self {
            id: row.token_id,
            kind: row.token_kind,
            label: row.label.as_deref(),
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
    #[serde(flatten)]
    row: TokenRead<'a>,
}

impl<'a> Minted<'a> {
    /// A token that was just minted.
    #[must_use]
    pub fn of(minted: &'a MintedToken) -> Self {
        Self { token: minted.token.reveal(), row: TokenRead::of(&minted.row) }
    }
}

#[derive(Serialize)]
struct ListedToken<'a> {
    #[serde(flatten)]
    row: TokenRead<'a>,
    last_used_at: Option<String>,
    uses: u64,
}

#[derive(Serialize)]
struct Tokens<'a> {
    items: Vec<ListedToken<'a>>,
}

impl<'a> Tokens<'a> {
    fn of(rows: &'a [TokenRow]) -> Self {
        let listed = |row: &'a TokenRow| ListedToken {
            row: TokenRead::of(row),
            last_used_at: row.last_used_at.map(|hour| hour.to_string()),
            uses: row.uses,
        };
        Self { items: rows.iter().map(listed).collect() }
    }
}

/// The body of a success.
pub(super) fn encode(outcome: &Outcome, now: Timestamp) -> serde_json::Result<String> {
    match outcome {
        Outcome::Agent(agent) => serde_json::to_string(&AgentRead::of(agent, now)),
        Outcome::WithKey(agent, key, files) => serde_json::to_string(&AgentWithKey {
            agent: AgentRead::of(agent, now),
            agent_token: key.reveal(),
            files: files.as_ref(),
        }),
        Outcome::Verified(agent_id) => {
            serde_json::to_string(&Verified { id: *agent_id, state: AgentState::Active })
        }
        Outcome::AgentHealth(agent) => serde_json::to_string(&AgentHealth {
            ok: true,
            agent_id: agent.agent_id,
            board_id: agent.board_id,
            gateway_id: None,
            status: agent.status(now),
            is_board_lead: false,
        }),
        Outcome::Agents(list) => serde_json::to_string(&Agents::of(list, now)),
        Outcome::Usage(agent) => serde_json::to_string(&Usage {
            requests_total: agent.requests_total,
            since: agent.created_at.to_string(),
        }),
        Outcome::Workspace(files) => serde_json::to_string(&Files { files }),
        Outcome::Posted(_, event_id) => serde_json::to_string(&Posted { id: Some(*event_id), detail: None }),
        Outcome::PostedBatch(results) => {
            serde_json::to_string(&results.iter().map(Posted::of).collect::<Vec<_>>())
        }
        Outcome::Events(page) => {
            let items = page.events.iter().map(EventRead::of).collect::<Result<_, _>>()?;
            serde_json::to_string(&Events { items, next: page.next })
        }
        Outcome::Minted(minted) => serde_json::to_string(&Minted::of(minted)),
        Outcome::Tokens(rows) => serde_json::to_string(&Tokens::of(rows)),
        Outcome::Done => Ok(r#"{"ok":true}"#.to_owned()),
        Outcome::Preflight => Ok(String::new()),
    }
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
        let place = invalid.place.as_str();
        Self {
            kind: "value_error",
            loc: std::iter::once(place).chain(path).map(str::to_owned).collect(),
            msg: invalid.problem.to_string(),
            input: None,
        }
    }
}

/// The body of a refusal: `{"detail", "request_id"}`, where `detail` is a list for bad input.
pub(super) fn encode_error(error: &ErrorKind, request_id: &str) -> serde_json::Result<String> {
    let detail = match error {
        ErrorKind::Invalid(invalid) => Detail::Invalid([InvalidField::of(invalid)]),
        // There is nothing here by which an agent could verify itself.
        ErrorKind::Inactive(AgentState::Pending) => {
            Detail::Text("the agent is pending: an operator can approve it".to_owned())
        }
        error => Detail::Text(error.to_string()),
    };
    serde_json::to_string(&Refusal { detail, request_id })
}
