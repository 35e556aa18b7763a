//! `GET /api/v1/alerts`: what was told, by its number: a pull without gaps.

use lambda_http::Request;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::config::Setting::{AlertsTable, TokensTable};
use shared::domain::message::{Message, View};
use shared::domain::notification::message_type;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, Invalid};
use shared::wire::fields::{Query, invalid_query};
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-alerts",
    reads: &[AlertsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// The largest number of a message: 12 digits.
const LARGEST_SEQ: usize = 999_999_999_999;

/// Where the list begins.
enum Start {
    /// After this number, oldest first.
    After(u64),
    /// Before this number, newest first; the newest of all without one.
    Before(Option<u64>),
}

/// The query string.
struct ListAlerts {
    start: Start,
    message_type: Option<String>,
    limit: usize,
}

impl ListAlerts {
    fn read(request: &Request) -> Result<Self, Invalid> {
        let query = Query::of(request);
        let number = |name| {
            let number = query.count(name, 0, LARGEST_SEQ)?;
            Ok::<_, Invalid>(number.and_then(|number| u64::try_from(number).ok()))
        };
        let start = match (number("after")?, number("before")?) {
            (Some(_), Some(_)) => return Err(invalid_query("before", "must not come together with after")),
            (Some(after), None) => Start::After(after),
            (None, before) => Start::Before(before),
        };
        let message_type = query.text("type").map(str::to_owned);
        if message_type.as_deref().is_some_and(|name| !message_type::ALL.contains(&name)) {
            return Err(invalid_query("type", "must be the type of a message"));
        }
        Ok(Self { start, message_type, limit: query.count("limit", 1, 200)?.unwrap_or(50) })
    }
}

#[derive(Serialize)]
struct Alerts {
    items: Vec<AlertRead>,
    /// The number to go on with, in the direction of the list; `None` at its end.
    next: Option<u64>,
}

#[derive(Serialize)]
struct AlertRead {
    seq: u64,
    #[serde(rename = "type")]
    message_type: String,
    at: String,
    data: Map<String, Value>,
}

impl AlertRead {
    fn of(message: &Message, list: &ListAlerts, view: View<'_>) -> Option<Self> {
        let seen = message.seen_by(view)?;
        let is_wanted = list.message_type.as_ref().is_none_or(|wanted| *wanted == seen.message_type);
        is_wanted.then(|| Self {
            seq: message.seq,
            message_type: seen.message_type,
            at: seen.at.to_string(),
            data: seen.data,
        })
    }
}

/// Lists what was told; to the token of a board what its agents are part of. With a type, or to such a token, a page may be short and still have a next one.
///
/// # Errors
/// See [`App::viewer`]; 422 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let list = ListAlerts::read(&request)?;
    let view = View::of_board(viewer.board_id);
    let limit = i32::try_from(list.limit).unwrap_or(i32::MAX);
    let messages = match list.start {
        Start::After(seq) => app.store.messages_after(seq, limit).await?,
        Start::Before(seq) => app.store.messages_before(seq, limit).await?,
    };
    let next = messages.last().filter(|_| messages.len() == list.limit).map(|last| last.seq);
    let items = messages.iter().filter_map(|message| AlertRead::of(message, &list, view)).collect();
    Ok(mission_control::body(&Alerts { items, next })?)
}
