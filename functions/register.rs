//! `POST /api/agents/register`: a new pending agent, and its API key.

use lambda_http::Request;
use shared::config::Registration;
use shared::domain::credential::Token;
use shared::domain::event::Actor;
use shared::domain::token::TOKEN_USED_UP;
use shared::runtime::app::App;
use shared::store::NewAgent;
use shared::time::Timestamp;
use shared::wire::answer::{Answer, Outcome};
use shared::wire::credentials::{self, Denied};
use shared::wire::envelope;
use shared::wire::error::{ApiError, ErrorKind};

/// Registers an agent: at most 3 requests to DynamoDB.
///
/// # Errors
/// See [`App::count_registration`] and [`App::enrollment`]; 401 or 403 without an enrollment token where one is
/// needed, 400 for bad input.
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let new = envelope::registration(&request)?;
    let token = match app.config.registration {
        Registration::Open => None,
        Registration::Enrollment => Some(enrollment_token(&request)?),
    };
    let quota = app.count_registration(&request, now).await?;
    register(app, new, token.as_ref(), now)
        .await
        .map_or_else(|error| Err(error.counted(quota)), |outcome| Ok(Answer::counted(outcome, quota)))
}

fn enrollment_token(request: &Request) -> Result<Token, ErrorKind> {
    credentials::enrollment_token(request.headers()).map_err(|denied| match denied {
        Denied::Missing => ErrorKind::Unauthorized("an enrollment token is required in X-Agent-Token"),
        denied => denied.into(),
    })
}

async fn register(
    app: &App,
    mut new: NewAgent,
    token: Option<&Token>,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    let token = match token {
        None => None,
        Some(token) => Some(app.enrollment(token, new.board_id, now).await?),
    };
    new.board_id = new.board_id.or(token.as_ref().and_then(|token| token.board_id));
    let actor = token.as_ref().map_or(Actor::Agent, |token| Actor::Enrollment(token.token_id));
    let one_off = token.as_ref().filter(|token| !token.reusable);
    match app.store.register(&new, actor, one_off, now).await? {
        Some((agent, key)) => Ok(Outcome::WithKey(agent, key, None)),
        None => Err(ErrorKind::Unauthorized(TOKEN_USED_UP).into()),
    }
}
