//! `POST /api/agents/verify`: a pending agent becomes active, by its key or with an operator's approval.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Approval;
use shared::config::Setting::{
    self, AgentsTable, EventsTable, SystemEventRetention, TokensTable, TrustedAddressHeader,
    TrustedProxyHops, VerifyFailureLimit, WindowsTable,
};
use shared::domain::agent::{AgentId, AgentState};
use shared::domain::credential::ApiKey;
use shared::domain::event::Actor;
use shared::domain::registration::Verification;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::credentials::{self, CredentialProblem};
use shared::wire::envelope;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::json::Object;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "verify",
    reads: &[
        AgentsTable,
        EventsTable,
        WindowsTable,
        TokensTable,
        Setting::Approval,
        VerifyFailureLimit,
        TrustedProxyHops,
        TrustedAddressHeader,
        SystemEventRetention,
    ],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The agent's key, from a header or `{"apiKey"}`.
fn key(request: &Request) -> Result<ApiKey, ApiError> {
    let body = Object::parse(request.body())?;
    let key = envelope::api_key(request.headers(), &body)?;
    key.map_err(|problem| match problem {
        CredentialProblem::Missing => ErrorKind::InvalidKey("an API key is required").into(),
        CredentialProblem::Malformed => ErrorKind::InvalidKey("the API key is malformed").into(),
        CredentialProblem::WrongKind => ErrorKind::InvalidKey("an agent's API key is required").into(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    agent_id: AgentId,
    status: AgentState,
}

/// Verifies an agent: at most 2 requests to DynamoDB, 3 under approval.
///
/// Under approval a call without an operator's token changes nothing, but tells an agent that waits whether it
/// is active yet.
///
/// # Errors
/// 401 `INVALID_KEY` for an unknown key, 403 `APPROVAL_REQUIRED`, or `FORBIDDEN` for an agent of another board, 429 after too many unknown keys from one
/// address, 400 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let key = key(&request)?;
    app.refuse_guessing(&request, &key, now).await?;
    let approver = match app.config.approval.get() {
        Approval::Key => None,
        Approval::Operator if !credentials::presents_approval(request.headers()) => {
            return waiting(app, &request, &key, now).await;
        }
        Approval::Operator => {
            Some(app.operator_row_unnoted(&credentials::operator_token(request.headers())?, now).await?)
        }
    };
    if let Some(approver) = approver.as_ref().filter(|row| row.board_id.is_some()) {
        let agent = app.store.agent(AgentId::of_key(&key), now).await?;
        if let Some(agent) = agent.filter(|agent| agent.accepts(&key.digest(), now)) {
            reach(approver.operator(), agent.board_id)?;
        }
    }
    let actor = approver.as_ref().map_or(Actor::Agent, |token| Actor::Operator(token.token_id));
    let verification = app.store.verify(&key, actor, now).await?;
    if let (Some(token), Verification::Active(_)) = (&approver, verification) {
        app.note_use(token, false, now).await;
    }
    answer(app, &request, verification, now).await
}

/// What an agent is told that waits for an operator's approval.
async fn waiting(app: &App, request: &Request, key: &ApiKey, now: Timestamp) -> Result<Answer, ApiError> {
    let agent = app.store.agent(AgentId::of_key(key), now).await?;
    answer(app, request, Verification::of(agent.as_ref(), key, now), now).await
}

async fn answer(
    app: &App,
    request: &Request,
    verification: Verification,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    match verification {
        Verification::Active(agent_id) => {
            Ok(envelope::data(&Verified { agent_id, status: AgentState::Active })?)
        }
        Verification::Inactive(AgentState::Pending) => Err(ErrorKind::ApprovalRequired.into()),
        Verification::Inactive(state) => Err(ErrorKind::Inactive(state).into()),
        Verification::UnknownKey => {
            let quota = app.count_failed_verification(request, now).await?;
            Err(ApiError::from(ErrorKind::InvalidKey("unknown API key")).counted(quota))
        }
    }
}
