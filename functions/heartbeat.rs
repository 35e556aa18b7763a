//! `POST /api/agents/heartbeat`, `/api/v1/agent/heartbeat` and `/api/v1/agents/{agent_id}/heartbeat`: the agent
//! is alive.

use lambda_http::Request;
use shared::domain::agent::AgentId;
use shared::domain::credential::{Credential, TokenKind};
use shared::domain::event::Actor;
use shared::runtime::app::App;
use shared::store::{Call, Caller};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::contract::{Contract, Heartbeat};
use shared::wire::credentials::Denied;
use shared::wire::error::ApiError;

/// Renews the lease: 1 request to DynamoDB, 1 write unit. An operator's beat also reads the operator's token.
///
/// # Errors
/// See [`App::check_in`]; 404 for a path without an agent, 403 for another agent's; 400 or 422 for bad input,
/// which Mission Control's clients are told only with a good credential.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let beat = Contract::of(request.uri().path()).heartbeat(&request)?;
    let caller = caller(app, &beat, now).await?;
    let claim = match (beat.claim, &caller) {
        (Ok(claim), _) => claim,
        (Err(invalid), Caller::Key(key)) => {
            app.agent_of_key(key, now).await?;
            return Err(invalid.into());
        }
        (Err(invalid), _) => return Err(invalid.into()),
    };
    let (agent, quota) = app.check_in(&caller, Call::Heartbeat(claim), now).await?;
    Ok(Answer::counted(Outcome::Agent(agent), quota))
}

/// Who beats, for whom. A key always means its own agent.
async fn caller(app: &App, beat: &Heartbeat, now: Timestamp) -> Result<Caller, ApiError> {
    match (&beat.credential, &beat.agent_id) {
        (Credential::Agent(key), None) => Ok(Caller::Key(key.clone())),
        (Credential::Agent(key), Some(Ok(meant))) if AgentId::of_key(key) == *meant => {
            Ok(Caller::Key(key.clone()))
        }
        (Credential::Agent(key), Some(meant)) => {
            let agent = app.agent_of_key(key, now).await?;
            app.only_itself(&agent, meant.clone()?, now).await?;
            Ok(Caller::Key(key.clone()))
        }
        (Credential::Token(token), Some(meant)) if token.kind() == TokenKind::Operator => {
            let operator = app.operator_row(token, now).await?;
            Ok(Caller::Operator { agent_id: meant.clone()?, actor: Actor::Operator(operator.token_id) })
        }
        (Credential::Token(_), _) => Err(Denied::WrongKind.into()),
    }
}
