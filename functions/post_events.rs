//! `POST /api/agents/events`: what an agent did, one event or a batch.

use lambda_http::Request;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::config::Setting::{AgentsTable, EventRetention, EventsTable, RateLimit, SystemEventRetention};
use shared::domain::agent::AgentId;
use shared::domain::check_in::{Call, Caller};
use shared::domain::event::{DEPTH_LIMIT, EventType, PAYLOAD_LIMIT, Posting, check_own_id, depth};
use shared::domain::ids::EventId;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::contract::Contract;
use shared::wire::envelope::{self, Refusal};
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::json::Object;
use shared::wire::report;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "post-events",
    reads: &[AgentsTable, EventsTable, RateLimit, EventRetention, SystemEventRetention],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// How many events one call may post.
const BATCH_LIMIT: usize = 25;

/// The body.
enum Postings {
    /// `{"event", "payload", "id"?}`.
    One(Posting),
    /// `{"events": […]}`: each one good or refused, in order.
    Batch(Vec<Result<Posting, ErrorKind>>),
}

impl Postings {
    fn read(body: &Object<'_>) -> Result<Self, ErrorKind> {
        let Some(events) = body.list("events")? else {
            return Ok(Self::One(posting(body)?));
        };
        if body.string("event")?.is_some() {
            return Err(body.invalid("events", "must not come together with event").into());
        }
        if !(1..=BATCH_LIMIT).contains(&events.len()) {
            return Err(body.invalid("events", "must hold 1 to 25 events").into());
        }
        let read = |(index, raw)| posting(&body.element("events", index, raw)?);
        Ok(Self::Batch(events.into_iter().enumerate().map(read).collect()))
    }
}

fn posting(body: &Object<'_>) -> Result<Posting, ErrorKind> {
    body.refuse_spellings(&[("data", "payload"), ("type", "event")])?;
    let event_type = body.string("event")?.ok_or_else(|| body.invalid("event", "is required"))?;
    let event_type = EventType::posted(event_type).map_err(|problem| body.invalid("event", problem))?;
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'a> {
    event: &'a str,
    payload: &'a RawValue,
    event_id: EventId,
}

#[derive(Serialize)]
struct PostedBatch {
    results: Vec<PostedInBatch>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", untagged)]
enum PostedInBatch {
    Stored { event_id: EventId },
    Refused { error: Refusal },
}

/// Renews the lease and stores what was posted: 2 requests to DynamoDB, and one more for each event with an id
/// of its own.
///
/// # Errors
/// See [`App::check_in`]; 400 for bad input, 413 for a payload that is too large. In a batch one bad event does
/// not fail the others.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let body = Object::parse(request.body())?;
    let key = envelope::api_key(request.headers(), &body)??;
    let postings = Postings::read(&body)?;
    let usage = report::usage(&body, Contract::Envelope)?;
    let (agent, quota) = app.check_in(&Caller::Key(key), Call::Event { usage }, now).await?;
    let posted = match postings {
        Postings::One(posting) => post_one(app, agent.agent_id, posting, now).await,
        Postings::Batch(postings) => post_batch(app, agent.agent_id, postings, now).await,
    };
    Ok(posted.map_err(|error| error.counted(quota))?.counted(quota))
}

async fn post_one(
    app: &App,
    agent_id: AgentId,
    posting: Posting,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let stored = app.store.post_events(agent_id, vec![posting.clone()], now).await;
    let event_id =
        stored.into_iter().next().ok_or_else(|| ErrorKind::Internal("no outcome".to_owned()))??;
    let payload = serde_json::from_str(&posting.payload).map_err(ErrorKind::encoding)?;
    Ok(envelope::data(&Posted { event: posting.event_type.as_str(), payload, event_id })?)
}

async fn post_batch(
    app: &App,
    agent_id: AgentId,
    postings: Vec<Result<Posting, ErrorKind>>,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let good = postings.iter().filter_map(|posting| posting.as_ref().ok()).cloned().collect();
    let mut stored = app.store.post_events(agent_id, good, now).await.into_iter();
    let outcome = |posting: Result<Posting, ErrorKind>| -> Result<EventId, ErrorKind> {
        posting?;
        Ok(stored.next().ok_or_else(|| ErrorKind::Internal("no outcome".to_owned()))??)
    };
    let results = postings.into_iter().map(outcome).map(|outcome| match outcome {
        Ok(event_id) => PostedInBatch::Stored { event_id },
        Err(error) => PostedInBatch::Refused { error: Refusal::of(&error) },
    });
    Ok(envelope::data(&PostedBatch { results: results.collect() })?)
}
