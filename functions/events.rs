//! `POST /api/agents/events`: what an agent did, one event or a batch.

use lambda_http::Request;
use shared::domain::agent::AgentId;
use shared::domain::event::Posting;
use shared::runtime::app::App;
use shared::store::{Call, Caller};
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::envelope::{self, Postings};
use shared::wire::error::{ApiError, ErrorKind};
use uuid::Uuid;

/// Renews the lease and stores what was posted: 2 requests to DynamoDB, and one more for each event with an id
/// of its own.
///
/// # Errors
/// See [`App::check_in`]; 400 for bad input, 413 for a payload that is too large. In a batch one bad event does
/// not fail the others.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let (key, postings) = envelope::events(&request)?;
    let (agent, quota) = app.check_in(&Caller::Key(key), Call::Event, now).await?;
    let outcome = match postings {
        Postings::One(posting) => post_one(app, agent.agent_id, posting, now).await,
        Postings::Batch(postings) => Ok(post_batch(app, agent.agent_id, postings, now).await),
    };
    outcome.map_or_else(|error| Err(error.counted(quota)), |outcome| Ok(Answer::counted(outcome, quota)))
}

async fn post_one(
    app: &App,
    agent_id: AgentId,
    posting: Posting,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    let stored = app.store.post_events(agent_id, vec![posting.clone()], now).await;
    let event_id =
        stored.into_iter().next().ok_or_else(|| ErrorKind::Internal("no outcome".to_owned()))??;
    Ok(Outcome::Posted(posting, event_id))
}

async fn post_batch(
    app: &App,
    agent_id: AgentId,
    postings: Vec<Result<Posting, ErrorKind>>,
    now: Timestamp,
) -> Outcome {
    let good = postings.iter().filter_map(|posting| posting.as_ref().ok()).cloned().collect();
    let mut stored = app.store.post_events(agent_id, good, now).await.into_iter();
    let outcome = |posting: Result<Posting, ErrorKind>| -> Result<Uuid, ErrorKind> {
        posting?;
        Ok(stored.next().ok_or_else(|| ErrorKind::Internal("no outcome".to_owned()))??)
    };
    Outcome::PostedBatch(postings.into_iter().map(outcome).collect())
}
