//! `GET /api/v1/silences`: the silences that have not ended.

use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{ChannelsTable, TokensTable};
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::ApiError;
use shared::wire::mission_control::{self, SilenceRead};

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "list-silences",
    reads: &[ChannelsTable, TokensTable],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

#[derive(Serialize)]
struct Silences<'a> {
    items: Vec<SilenceRead<'a>>,
}

/// Lists the silences that the caller's token reaches, the one that ends first before the others.
///
/// # Errors
/// See [`App::viewer`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let viewer = app.viewer(request.headers(), now).await?;
    let mut silences = app.store.silences(now).await?;
    silences.retain(|silence| viewer.reaches(silence.board_id));
    silences.sort_by_key(|silence| silence.ends_at);
    Ok(mission_control::body(&Silences { items: silences.iter().map(SilenceRead::of).collect() })?)
}
