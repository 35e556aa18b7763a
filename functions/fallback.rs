//! The API's `$default` route: 404 for an unknown path, 405 for an unknown method, in the path's contract.
//!
//! It also gets the browsers' preflights, since on AWS a `$default` route catches `OPTIONS` as well. API Gateway
//! adds the CORS headers; a preflight only needs a success to add them to.

use lambda_http::Request;
use lambda_http::http::Method;
use shared::runtime::app::App;
use shared::runtime::function::Endpoint;
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind};

use crate::ROUTES;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "fallback",
    reads: &[],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// Refuses whatever no route takes, except `OPTIONS`.
///
/// # Errors
/// 405 with `Allow` where the path has other methods, else 404.
pub async fn handle(_app: &App, request: Request, _now: Timestamp) -> Result<Answer, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(Answer::no_content());
    }
    let path = request.uri().path();
    let methods =
        ROUTES.iter().filter(|(_, template, _)| matches(template, path)).map(|(method, ..)| *method);
    let allow = methods.collect::<Vec<_>>().join(", ");
    if allow.is_empty() {
        Err(ErrorKind::NotFound("no such route").into())
    } else {
        Err(ErrorKind::MethodNotAllowed { allow }.into())
    }
}

/// Whether a path has the form of a route; a part in braces stands for any one part.
fn matches(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    template.split('/').all(|expected| {
        parts.next().is_some_and(|part| part == expected || (expected.starts_with('{') && !part.is_empty()))
    }) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_part_in_braces_stands_for_any_one_part() {
        assert!(matches("/agents/{agent_id}/heartbeat", "/agents/7/heartbeat"));
        assert!(!matches("/agents/{agent_id}/heartbeat", "/agents//heartbeat"));
        assert!(!matches("/agents/{agent_id}", "/agents/7/heartbeat"));
        assert!(!matches("/agents/{agent_id}/heartbeat", "/agents/7"));
    }
}
