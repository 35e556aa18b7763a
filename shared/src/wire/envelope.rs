//! Contract A: the agents API with the envelope, in camelCase.

use lambda_http::Request;
use lambda_http::http::HeaderMap;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::agent::{AgentId, AgentName, AgentState, Health, HeartbeatConfig};
use crate::domain::credential::{ApiKey, Credential};
use crate::domain::event::{DEPTH_LIMIT, PAYLOAD_LIMIT, Posting, check_own_id, check_type, depth};
use crate::store::{Claim, NewAgent};
use crate::time::Timestamp;
use crate::wire::answer::Outcome;
use crate::wire::contract::{self, Heartbeat, Rotation, overlap};
use crate::wire::credentials::{self, Denied};
use crate::wire::error::{ApiError, ErrorKind, Invalid};
use crate::wire::json::Object;

/// How many events one call may post.
const BATCH_LIMIT: usize = 25;

/// Reads `POST /api/agents/register`.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn registration(request: &Request) -> Result<NewAgent, ApiError> {
    let body = Object::parse(request.body())?;
    let name = body.string("name")?.ok_or_else(|| body.invalid("name", "is required"))?;
    let name = AgentName::parse(&name).map_err(|problem| body.invalid("name", problem))?;
    let board_id = body.uuid("boardId")?;
    let heartbeat = match body.object("heartbeatConfig")? {
        None => HeartbeatConfig::default(),
        Some(config) => contract::heartbeat_config(&config, "intervalSeconds", "missingTolerance")?,
    };
    Ok(NewAgent { name, board_id, heartbeat })
}

/// The agent's key, from a header or the body's `apiKey`. A malformed one in the body is bad input.
fn api_key(headers: &HeaderMap, body: &Object<'_>) -> Result<Result<ApiKey, Denied>, Invalid> {
    let in_body = match body.string("apiKey")? {
        None => None,
        Some(text) => {
            let key = ApiKey::parse(&text);
            Some(key.ok_or_else(|| body.invalid("apiKey", "must be 48 hexadecimal characters"))?)
        }
    };
    Ok(credentials::agent_key(headers, in_body))
}

/// Reads `POST /api/agents/verify`.
///
/// # Errors
/// 400 for a body that breaks a rule, else 401 `INVALID_KEY` without a key.
pub fn verification(request: &Request) -> Result<ApiKey, ApiError> {
    let body = Object::parse(request.body())?;
    let key = api_key(request.headers(), &body)?;
    key.map_err(|denied| match denied {
        Denied::Missing => ErrorKind::InvalidKey("an API key is required").into(),
        Denied::Malformed => ErrorKind::InvalidKey("the API key is malformed").into(),
        Denied::WrongKind => ErrorKind::InvalidKey("an agent's API key is required").into(),
    })
}

/// Reads `POST /api/agents/rotate-key`: the agent's key, and how long it stays valid.
///
/// # Errors
/// 401 without a key, 400 for a body that breaks a rule.
pub(super) fn rotation(request: &Request) -> Result<Rotation<'_>, ApiError> {
    let body = Object::parse(request.body())?;
    let key = api_key(request.headers(), &body)??;
    Ok(Rotation::Own { key, overlap: overlap(&body, "overlapSeconds")? })
}

/// Reads `POST /api/agents/heartbeat`.
///
/// # Errors
/// 401 without a key, 400 for a body that breaks a rule.
pub(super) fn heartbeat(request: &Request) -> Result<Heartbeat, ApiError> {
    let body = Object::parse(request.body())?;
    let key = api_key(request.headers(), &body)??;
    let status = body.string("status")?.ok_or_else(|| body.invalid("status", "is required"))?;
    let health = Health::parse(&status)
        .ok_or_else(|| body.invalid("status", "must be one of healthy, degraded, error, offline"))?;
    Ok(Heartbeat { credential: Credential::Agent(key), agent_id: None, claim: Ok(Claim::Report(health)) })
}

/// What `POST /api/agents/events` posts.
#[derive(Debug)]
pub enum Postings {
    /// `{"event", "payload", "id"?}`.
    One(Posting),
    /// `{"events": […]}`: each one good or refused, in order.
    Batch(Vec<Result<Posting, ErrorKind>>),
}

/// Reads `POST /api/agents/events`.
///
/// # Errors
/// 401 without a key, 400 for a body that breaks a rule, 413 for a single payload that is too large.
pub fn events(request: &Request) -> Result<(ApiKey, Postings), ApiError> {
    let body = Object::parse(request.body())?;
    let key = api_key(request.headers(), &body)??;
    let Some(events) = body.list("events")? else {
        return Ok((key, Postings::One(posting(&body)?)));
    };
    if body.string("event")?.is_some() {
        return Err(body.invalid("events", "must not come together with event").into());
    }
    if !(1..=BATCH_LIMIT).contains(&events.len()) {
        return Err(body.invalid("events", "must hold 1 to 25 events").into());
    }
    let read = |(index, raw)| posting(&body.element("events", index, raw)?);
    Ok((key, Postings::Batch(events.into_iter().enumerate().map(read).collect())))
}

fn posting(body: &Object<'_>) -> Result<Posting, ErrorKind> {
    let event_type = body.string("event")?.ok_or_else(|| body.invalid("event", "is required"))?;
    check_type(&event_type).map_err(|problem| body.invalid("event", problem))?;
    let payload = body.raw("payload").map_or("null", RawValue::get);
    if payload.len() > PAYLOAD_LIMIT {
        let problem = format!("{}: must have at most 16 KiB", body.path("payload"));
        return Err(ErrorKind::PayloadTooLarge(problem.into()));
    }
    if depth(payload) > DEPTH_LIMIT {
        return Err(body.invalid("payload", "must be nested at most 128 deep").into());
    }
    let own_id = body.string("id")?;
    if let Some(own_id) = &own_id {
        check_own_id(own_id).map_err(|problem| body.invalid("id", problem))?;
    }
    Ok(Posting { event_type, payload: payload.to_owned(), own_id })
}

/// A success or a refusal, in the envelope.
#[derive(Serialize)]
struct Envelope<Data> {
    ok: bool,
    #[serde(flatten)]
    content: Content<Data>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Content<Data> {
    Data(Data),
    Error(Refusal),
}

#[derive(Serialize)]
struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    fn of(error: &ErrorKind) -> Self {
        Self { code: error.in_envelope().1, message: error.to_string() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithKey {
    agent_id: AgentId,
    api_key: String,
    /// Of a registration, which makes pending agents; only active ones rotate their keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<AgentState>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    agent_id: AgentId,
    status: AgentState,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Beaten {
    ok: bool,
    agent_id: AgentId,
    status: Option<Health>,
    last_seen_at: Option<String>,
    interval_seconds: u64,
    lease_expires_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'a> {
    event: &'a str,
    payload: &'a RawValue,
    event_id: Uuid,
}

#[derive(Serialize)]
struct PostedBatch {
    results: Vec<PostedInBatch>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", untagged)]
enum PostedInBatch {
    Stored { event_id: Uuid },
    Refused { error: Refusal },
}

/// The body of a success: `{"ok": true, "data": …}`; for health, `{"ok": true}`.
pub(super) fn encode(outcome: &Outcome, now: Timestamp) -> serde_json::Result<String> {
    match outcome {
        Outcome::WithKey(agent, key, _) => success(WithKey {
            agent_id: agent.agent_id,
            api_key: key.reveal(),
            status: (agent.agent_state == AgentState::Pending).then_some(AgentState::Pending),
        }),
        Outcome::Verified(agent_id) => success(Verified { agent_id: *agent_id, status: AgentState::Active }),
        Outcome::Agent(agent) => success(Beaten {
            ok: true,
            agent_id: agent.agent_id,
            status: agent.health,
            last_seen_at: agent.last_seen_at.map(|seen| seen.to_string()),
            interval_seconds: agent.heartbeat().interval_seconds(),
            lease_expires_at: agent.lease_expires_at.map(|end| end.to_string()),
        }),
        Outcome::Posted(posting, event_id) => success(Posted {
            event: &posting.event_type,
            payload: serde_json::from_str(&posting.payload)?,
            event_id: *event_id,
        }),
        Outcome::PostedBatch(results) => {
            let results = results.iter().map(|result| match result {
                Ok(event_id) => PostedInBatch::Stored { event_id: *event_id },
                Err(error) => PostedInBatch::Refused { error: Refusal::of(error) },
            });
            success(PostedBatch { results: results.collect() })
        }
        Outcome::Done => Ok(r#"{"ok":true}"#.to_owned()),
        Outcome::Preflight => Ok(String::new()),
        // The operators' plane has one wire form; in an envelope it would be the data.
        Outcome::AgentHealth(_)
        | Outcome::Agents(_)
        | Outcome::Usage(_)
        | Outcome::Workspace(_)
        | Outcome::Events(_)
        | Outcome::Minted(_)
        | Outcome::Tokens(_) => {
            let data = RawValue::from_string(super::mission_control::encode(outcome, now)?)?;
            success(data)
        }
    }
}

fn success(data: impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(&Envelope { ok: true, content: Content::Data(data) })
}

/// The body of a refusal: `{"ok": false, "error": {"code", "message"}}`.
pub(super) fn encode_error(error: &ErrorKind) -> serde_json::Result<String> {
    serde_json::to_string(&Envelope::<()> { ok: false, content: Content::Error(Refusal::of(error)) })
}
