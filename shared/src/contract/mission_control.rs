//! Contract B: Mission Control's wire format, in `snake_case`.

use serde::Serialize;
use uuid::Uuid;

use crate::agent::{Agent, AgentId, AgentState};
use crate::answer::Outcome;
use crate::error::{ErrorKind, Invalid};
use crate::time::Timestamp;

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
    /// Only in the answer that made the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_token: Option<String>,
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
                interval_seconds: agent.interval_ms / 1000,
                missing_tolerance: agent.tolerance_ms / 1000,
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
            agent_token: None,
        }
    }
}

#[derive(Serialize)]
struct Verified {
    id: AgentId,
    state: AgentState,
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

/// The body of a success.
pub(super) fn encode(outcome: &Outcome, now: Timestamp) -> serde_json::Result<String> {
    match outcome {
        Outcome::Registered(agent, key) => {
            serde_json::to_string(&AgentRead { agent_token: Some(key.reveal()), ..AgentRead::of(agent, now) })
        }
        Outcome::Verified(agent_id) => {
            serde_json::to_string(&Verified { id: *agent_id, state: AgentState::Active })
        }
        Outcome::Beaten(agent) => serde_json::to_string(&AgentRead::of(agent, now)),
        Outcome::Posted(_, event_id) => serde_json::to_string(&Posted { id: Some(*event_id), detail: None }),
        Outcome::PostedBatch(results) => {
            serde_json::to_string(&results.iter().map(Posted::of).collect::<Vec<_>>())
        }
        Outcome::Healthy => Ok(r#"{"ok":true}"#.to_owned()),
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
        Self {
            kind: "value_error",
            loc: std::iter::once("body").chain(path).map(str::to_owned).collect(),
            msg: invalid.problem.to_string(),
            input: None,
        }
    }
}

/// The body of a refusal: `{"detail", "request_id"}`, where `detail` is a list for bad input.
pub(super) fn encode_error(error: &ErrorKind, request_id: &str) -> serde_json::Result<String> {
    let detail = match error {
        ErrorKind::Invalid(invalid) => Detail::Invalid([InvalidField::of(invalid)]),
        error => Detail::Text(error.to_string()),
    };
    serde_json::to_string(&Refusal { detail, request_id })
}
