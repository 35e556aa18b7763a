//! `GET /api/v1/agents/{agent_id}/events`: what happened to an agent, newest first.

use lambda_http::Request;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::config::Setting::{AgentsTable, EventsTable, TokensTable};
use shared::domain::event::{Actor, Event, EventType};
use shared::domain::ids::EventId;
use shared::runtime::app::App;
use shared::runtime::callers::{NO_SUCH_AGENT, reach};
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::fields::{self, Query, invalid_query};
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-events",
    reads: &[AgentsTable, EventsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The query string: only events of this type, only those before this one, and how many at most.
struct ListEvents {
    event_type: Option<EventType>,
    before: Option<EventId>,
    limit: usize,
}

impl ListEvents {
    fn read(request: &Request) -> Result<Self, Invalid> {
        let query = Query::of(request);
        let event_type = query.text("type").map(|name| {
            EventType::parse(name.to_owned())
                .map_err(|_| invalid_query("type", "must be the name of an event"))
        });
        Ok(Self {
            event_type: event_type.transpose()?,
            before: query.uuid("before")?.map(EventId::of),
            limit: query.count("limit", 1, 200)?.unwrap_or(50),
        })
    }
}

#[derive(Serialize)]
struct Events<'a> {
    items: Vec<EventRead<'a>>,
    next: Option<EventId>,
}

#[derive(Serialize)]
struct EventRead<'a> {
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'a str,
    at: String,
    actor: Actor,
    payload: &'a RawValue,
}

impl<'a> EventRead<'a> {
    fn of(event: &'a Event) -> serde_json::Result<Self> {
        Ok(Self {
            id: event.event_id,
            event_type: event.event_type.as_str(),
            at: event.created_at.to_string(),
            actor: event.actor,
            payload: serde_json::from_str(&event.payload)?,
        })
    }
}

/// Lists an agent's events; a deleted agent's too, for as long as they are kept.
///
/// # Errors
/// See [`App::viewer`] and [`reach`]; 404 for an id that nothing ever happened to, 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let agent_id = fields::agent_id(&request)?;
    let list = ListEvents::read(&request)?;
    if viewer.board_id.is_some() {
        // A deleted agent's board is not known any more.
        reach(viewer, app.existing(agent_id, now).await?.board_id)?;
    }
    let event_type = list.event_type.as_ref();
    let page = app.store.events_before(agent_id, event_type, list.before, list.limit, now).await?;
    if page.events.is_empty() && app.store.agent(agent_id, now).await?.is_none() {
        let any = app.store.events_before(agent_id, None, None, 1, now).await?;
        if any.events.is_empty() {
            return Err(NO_SUCH_AGENT.into());
        }
    }
    let items = page.events.iter().map(EventRead::of).collect::<Result<_, _>>();
    Ok(mission_control::body(&Events { items: items.map_err(ErrorKind::encoding)?, next: page.next })?)
}
