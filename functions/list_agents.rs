//! `GET /api/v1/agents`: the fleet, newest first; or who is absent, longest first.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AgentsTable, TokensTable};
use shared::domain::agent::AgentFilter;
use shared::domain::agent::{Agent, AgentState};
use shared::domain::ids::BoardId;
use shared::runtime::app::App;
use shared::runtime::callers::reach;
use shared::runtime::function::Endpoint;
use shared::store::is_cursor;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::fields::{Query, invalid_query};
use shared::wire::mission_control::{self, AgentRead};
use uuid::Uuid;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-agents",
    reads: &[AgentsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The largest offset of a list.
const LARGEST_OFFSET: usize = 1_000_000_000;

/// Every status that an agent can have, as a filter names it.
const STATUSES: [&str; 6] = ["provisioning", "online", "offline", "healthy", "degraded", "error"];

/// Where the list begins.
enum Start {
    /// After so many agents. The answer counts all of them.
    Offset(usize),
    /// After this place; `None` is the beginning. The answer counts nothing, and costs the same everywhere.
    Cursor(Option<String>),
    /// The same, of the agents that are announced absent alone.
    Absent(Option<String>),
}

/// The query string.
struct ListAgents {
    filter: AgentFilter,
    limit: usize,
    start: Start,
    /// There is one gateway: this deployment.
    gateway_id: Option<Uuid>,
    detail: bool,
}

impl ListAgents {
    fn read(request: &Request) -> Result<Self, Invalid> {
        let query = Query::of(request);
        let status = query.text("status").map(str::to_owned);
        if status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
            return Err(invalid_query("status", format!("must be one of {}", STATUSES.join(", "))));
        }
        let absent = query.flag("absent")?;
        if absent && query.text("offset").is_some() {
            return Err(invalid_query("offset", "must not come together with absent: use cursor"));
        }
        let cursor = match query.text("cursor") {
            None => None,
            Some("") => Some(None),
            Some(cursor) if is_cursor(cursor) => Some(Some(cursor.to_owned())),
            Some(_) => return Err(invalid_query("cursor", "must be the next of an earlier page")),
        };
        let start = match cursor {
            cursor if absent => Start::Absent(cursor.flatten()),
            Some(cursor) => Start::Cursor(cursor),
            None => Start::Offset(query.count("offset", 0, LARGEST_OFFSET)?.unwrap_or(0)),
        };
        let state = match query.text("state") {
            None => None,
            Some(word) => Some(
                AgentState::parse(word)
                    .ok_or_else(|| invalid_query("state", "must be one of pending, active, revoked"))?,
            ),
        };
        let name = query.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
        if name.is_some() && query.text("cursor").is_some() {
            return Err(invalid_query("cursor", "must not come together with name: use offset"));
        }
        if name.is_some() && absent {
            return Err(invalid_query("absent", "must not come together with name"));
        }
        if name.as_ref().is_some_and(|name| name.len() > 200) {
            return Err(invalid_query("name", "must have at most 200 bytes"));
        }
        let filter = AgentFilter { name, board_id: query.uuid("board_id")?.map(BoardId::of), status, state };
        Ok(Self {
            filter,
            limit: query.count("limit", 1, 200)?.unwrap_or(200),
            start,
            gateway_id: query.uuid("gateway_id")?,
            detail: query.flag("detail")?,
        })
    }
}

#[derive(Serialize)]
struct Agents<'a> {
    items: Vec<AgentRead<'a>>,
    limit: usize,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Paging {
    Offset { total: usize, offset: usize },
    Cursor { total: Option<()>, next: Option<String> },
}

/// Lists agents: by cursor at a bounded cost, by offset with a count of all.
///
/// # Errors
/// See [`App::viewer`]; 403 for another board than the viewer's; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let mut list = ListAgents::read(&request)?;
    list.filter.board_id = list.filter.board_id.or(viewer.board_id);
    reach(viewer, list.filter.board_id)?;
    if list.gateway_id.is_some_and(|gateway_id| gateway_id != app.gateway_id()) {
        return Err(ErrorKind::NotFound("no such gateway").into());
    }
    let (agents, paging): (Vec<Agent>, Paging) = match list.start {
        Start::Offset(offset) => {
            let (agents, total) = app.store.agents_from(&list.filter, offset, list.limit, now).await?;
            (agents, Paging::Offset { total, offset })
        }
        Start::Cursor(cursor) => {
            let page = app.store.agents_after(&list.filter, cursor.as_deref(), list.limit, now).await?;
            (page.agents, Paging::Cursor { total: None, next: page.next })
        }
        Start::Absent(cursor) => {
            let page =
                app.store.absent_agents_after(&list.filter, cursor.as_deref(), list.limit, now).await?;
            (page.agents, Paging::Cursor { total: None, next: page.next })
        }
    };
    let read = |agent| AgentRead::with_detail(agent, list.detail, app.gateway_id(), now);
    let items = agents.iter().map(read).collect();
    Ok(mission_control::body(&Agents { items, limit: list.limit, paging })?)
}
