//! What Mission Control's clients send.

use std::collections::HashMap;

use lambda_http::Request;
use uuid::Uuid;

use crate::domain::agent::{AgentId, AgentName, AgentState, Health, HeartbeatConfig};
use crate::domain::event;
use crate::store::{AgentFilter, Claim, NewAgent, Patch, is_cursor};
use crate::wire::contract::{self, Heartbeat};
use crate::wire::credentials;
use crate::wire::error::{ErrorKind, Invalid};
use crate::wire::json::{Json, Object};

/// The largest offset of a list.
const LARGEST_OFFSET: usize = 1_000_000_000;

/// The longest text that explains a change.
const REASON_LIMIT: usize = 500;

/// Every status that an agent can have, as a filter names it.
const STATUSES: [&str; 6] = ["provisioning", "online", "offline", "healthy", "degraded", "error"];

/// The body's syntax: it is judged before the credential, what it says after.
///
/// # Errors
/// The body is neither empty nor JSON.
pub fn json(request: &Request) -> Result<Json<'_>, Invalid> {
    Json::parse(request.body())
}

/// The `{agent_id}` of `/api/v1/agents/{agent_id}…`, or the `{id}` of `/api/v1/tokens/{id}`.
fn path_id(request: &Request) -> &str {
    request.uri().path().split('/').nth(4).unwrap_or_default()
}

/// The agent that the path names.
///
/// # Errors
/// It is no UUID.
pub fn agent_id(request: &Request) -> Result<AgentId, Invalid> {
    let id = AgentId::parse(path_id(request));
    id.ok_or_else(|| Invalid::new("agent_id", "must be a UUID").in_path())
}

/// The token that the path names.
///
/// # Errors
/// It is no UUID.
pub fn token_id(request: &Request) -> Result<Uuid, Invalid> {
    Uuid::parse_str(path_id(request)).map_err(|_| Invalid::new("id", "must be a UUID").in_path())
}

/// Reads `POST /api/v1/agent/heartbeat` and `POST /api/v1/agents/{agent_id}/heartbeat`.
///
/// # Errors
/// 422 where a body must be JSON and is not; 401 without a credential.
pub(super) fn heartbeat(request: &Request) -> Result<Heartbeat, ErrorKind> {
    if request.uri().path() == "/api/v1/agent/heartbeat" {
        let credential = credentials::credential(request.headers())?;
        let claim = lenient_claim(request.body());
        return Ok(Heartbeat { credential, agent_id: None, claim });
    }
    let body = json(request)?;
    let credential = credentials::credential(request.headers())?;
    let claim = body.object().and_then(|body| claim(&body));
    Ok(Heartbeat { credential, agent_id: Some(agent_id(request)), claim })
}

/// The claim of a body that may be anything: only an object's string `status` counts.
fn lenient_claim(body: &[u8]) -> Result<Claim, Invalid> {
    match Object::parse(body) {
        Ok(body) if matches!(body.string("status"), Ok(Some(_))) => claim(&body),
        _ => Ok(Claim::Keep),
    }
}

fn claim(body: &Object<'_>) -> Result<Claim, Invalid> {
    match body.string("status")?.as_deref() {
        None => Ok(Claim::Keep),
        Some("online") => Ok(Claim::Withdraw),
        Some(status) => Health::parse(status).map(Claim::Report).ok_or_else(|| {
            body.invalid("status", "must be one of online, healthy, degraded, error, offline")
        }),
    }
}

/// What `POST /api/v1/agents/heartbeat` says.
#[derive(Clone, Debug)]
pub struct FirstBeat {
    /// The agent's name. An agent's own key does not need it.
    pub name: Option<AgentName>,
    /// The group.
    pub board_id: Option<Uuid>,
    /// What it says of its health.
    pub claim: Claim,
}

impl FirstBeat {
    /// Checks the body.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn read(body: Json<'_>) -> Result<Self, Invalid> {
        let body = body.object()?;
        Ok(Self { name: name(&body)?, board_id: body.uuid("board_id")?, claim: claim(&body)? })
    }
}

fn name(body: &Object<'_>) -> Result<Option<AgentName>, Invalid> {
    let name = body.string("name")?;
    name.map(|name| AgentName::parse(&name).map_err(|problem| body.invalid("name", problem))).transpose()
}

/// The error for a body without a name, where one is needed.
#[must_use]
pub fn name_is_required() -> Invalid {
    Invalid::new("name", "is required")
}

fn heartbeat_config(body: &Object<'_>) -> Result<Option<HeartbeatConfig>, Invalid> {
    let config = body.object("heartbeat_config")?;
    config
        .map(|config| contract::heartbeat_config(&config, "interval_seconds", "missing_tolerance"))
        .transpose()
}

/// Reads `POST /api/v1/agents`.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn new_agent(body: Json<'_>) -> Result<NewAgent, Invalid> {
    let body = body.object()?;
    Ok(NewAgent {
        name: name(&body)?.ok_or_else(name_is_required)?,
        board_id: body.uuid("board_id")?,
        heartbeat: heartbeat_config(&body)?.unwrap_or_default(),
    })
}

/// Reads `PATCH /api/v1/agents/{agent_id}`.
///
/// # Errors
/// 403 for a `status`, which only heartbeats control; else 422, naming the field that breaks its rule.
pub fn patch(body: Json<'_>) -> Result<Patch, ErrorKind> {
    let body = body.object()?;
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
    let board_id = body.uuid("board_id")?;
    if body.has("name") && body.string("name")?.is_none() {
        return Err(body.invalid("name", "must be a string").into());
    }
    Ok(Patch {
        name: name(&body)?,
        board_id: body.has("board_id").then_some(board_id),
        heartbeat: heartbeat_config(&body)?,
        rate_limit: body.has("rate_limit_per_minute").then_some(rate_limit),
    })
}

/// Reads the `reason` of a transition.
///
/// # Errors
/// It is no string of at most 500 characters.
pub fn reason(body: Json<'_>) -> Result<Option<String>, Invalid> {
    let body = body.object()?;
    let reason = body.string("reason")?;
    match &reason {
        Some(text) if text.chars().count() > REASON_LIMIT => {
            Err(body.invalid("reason", "must have at most 500 characters"))
        }
        _ => Ok(reason),
    }
}

/// The query string, each name once: the last one counts.
struct Query(HashMap<String, String>);

impl Query {
    fn of(request: &Request) -> Self {
        let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn count(&self, name: &'static str, least: usize, most: usize) -> Result<Option<usize>, Invalid> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(count) if (least..=most).contains(&count) => Ok(Some(count)),
            _ => Err(invalid_query(name, format!("must be a whole number from {least} to {most}"))),
        }
    }

    fn uuid(&self, name: &'static str) -> Result<Option<Uuid>, Invalid> {
        let text = self.text(name);
        text.map(|text| Uuid::parse_str(text).map_err(|_| invalid_query(name, "must be a UUID"))).transpose()
    }
}

fn invalid_query(name: &'static str, problem: impl Into<std::borrow::Cow<'static, str>>) -> Invalid {
    Invalid::new(name, problem).in_query()
}

/// Whether the caller wants the workspace's files: `?workspace=true`.
#[must_use]
pub fn wants_workspace(request: &Request) -> bool {
    Query::of(request).text("workspace") == Some("true")
}

/// Where a list begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After so many agents. The answer counts all of them.
    Offset(usize),
    /// After this place; `None` is the beginning. The answer counts nothing, and costs the same everywhere.
    Cursor(Option<String>),
}

/// What `GET /api/v1/agents` asks for.
#[derive(Debug)]
pub struct ListAgents {
    /// Which agents.
    pub filter: AgentFilter,
    /// How many at most.
    pub limit: usize,
    /// From where.
    pub start: Start,
}

/// Reads `GET /api/v1/agents`.
///
/// # Errors
/// Names the parameter that breaks its rule.
pub fn list_agents(request: &Request) -> Result<ListAgents, Invalid> {
    let query = Query::of(request);
    let status = query.text("status").map(str::to_owned);
    if status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
        return Err(invalid_query("status", format!("must be one of {}", STATUSES.join(", "))));
    }
    let start = match query.text("cursor") {
        None => Start::Offset(query.count("offset", 0, LARGEST_OFFSET)?.unwrap_or(0)),
        Some("") => Start::Cursor(None),
        Some(cursor) if is_cursor(cursor) => Start::Cursor(Some(cursor.to_owned())),
        Some(_) => return Err(invalid_query("cursor", "must be the next of an earlier page")),
    };
    let state = match query.text("state") {
        None => None,
        Some(word) => Some(
            AgentState::parse(word)
                .ok_or_else(|| invalid_query("state", "must be one of pending, active, revoked"))?,
        ),
    };
    let filter = AgentFilter { board_id: query.uuid("board_id")?, status, state };
    Ok(ListAgents { filter, limit: query.count("limit", 1, 200)?.unwrap_or(200), start })
}

/// What `GET /api/v1/agents/{agent_id}/events` asks for.
#[derive(Debug)]
pub struct ListEvents {
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Only events before this one.
    pub before: Option<Uuid>,
    /// How many at most.
    pub limit: usize,
}

/// Reads `GET /api/v1/agents/{agent_id}/events`.
///
/// # Errors
/// Names the parameter that breaks its rule.
pub fn list_events(request: &Request) -> Result<ListEvents, Invalid> {
    let query = Query::of(request);
    let event_type = query.text("type").map(str::to_owned);
    if event_type.as_deref().is_some_and(|name| !event::is_type(name)) {
        return Err(invalid_query("type", "must be the name of an event"));
    }
    Ok(ListEvents {
        event_type,
        before: query.uuid("before")?,
        limit: query.count("limit", 1, 200)?.unwrap_or(50),
    })
}
