//! `GET /api/v1/agents`: the fleet, newest first.

use lambda_http::Request;
use shared::runtime::app::App;
use shared::time::Timestamp;
use shared::wire::answer::{AgentList, Answer, Outcome, Paging};
use shared::wire::error::ApiError;
use shared::wire::requests::{self, Start};

/// Lists agents: by cursor at a bounded cost, by offset with a count of all.
///
/// # Errors
/// See [`App::operator`]; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    app.operator(request.headers(), now).await?;
    let list = requests::list_agents(&request)?;
    let (agents, paging) = match list.start {
        Start::Offset(offset) => {
            let (agents, total) = app.store.agents_from(&list.filter, offset, list.limit, now).await?;
            (agents, Paging::Offset { offset, total })
        }
        Start::Cursor(cursor) => {
            let page = app.store.agents_after(&list.filter, cursor.as_deref(), list.limit, now).await?;
            (page.agents, Paging::Cursor(page.next))
        }
    };
    Ok(Outcome::Agents(AgentList { agents, limit: list.limit, paging }).into())
}
