//! `GET /api/v1/fleet`: the fleet at a glance, as the last complete sweep saw it.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{AlertsTable, TokensTable};
use shared::domain::fleet::{BoardCounts, Counts, Fleet, Named};
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::mission_control;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "get-fleet",
    reads: &[AlertsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct FleetRead<'a> {
    /// When the sweep began; `None`: none has come to its end yet.
    as_of: Option<String>,
    seq: u64,
    deaf_since: Option<String>,
    #[serde(flatten)]
    counts: Counts,
    boards: &'a [BoardCounts],
    told: &'a [Named],
    more: u64,
}

impl<'a> FleetRead<'a> {
    fn of(fleet: Option<&'a Fleet>) -> Self {
        Self {
            as_of: fleet.map(|fleet| fleet.as_of.to_string()),
            seq: fleet.map_or(0, |fleet| fleet.seq),
            deaf_since: fleet.and_then(|fleet| fleet.deaf_since).map(|since| since.to_string()),
            counts: fleet.map(|fleet| fleet.counts).unwrap_or_default(),
            boards: fleet.map(|fleet| &fleet.boards[..]).unwrap_or_default(),
            told: fleet.map(|fleet| &fleet.told[..]).unwrap_or_default(),
            more: fleet.map_or(0, |fleet| fleet.more),
        }
    }
}

/// Shows the summary: one read, whatever the fleet's size. To the token of a board its own agents that are not live.
///
/// # Errors
/// See [`App::viewer`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let fleet = app.store.fleet().await?.map(|fleet| match viewer.board_id {
        None => fleet,
        Some(board_id) => fleet.of_board(board_id),
    });
    Ok(mission_control::body(&FleetRead::of(fleet.as_ref()))?)
}
