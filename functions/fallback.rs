//! The API's `$default` route: 404 for an unknown path, 405 for an unknown method, in the path's contract.
//!
//! It also gets the browsers' preflights, since on AWS a `$default` route catches `OPTIONS` as well. API Gateway
//! adds the CORS headers; a preflight only needs a success to add them to.

use std::future::ready;

use lambda_http::Request;
use lambda_http::http::Method;
use shared::runtime::function::Endpoint;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::route::without_mapping;

use crate::ROUTES;

/// The function and what it reads.
pub const FUNCTION: Endpoint =
    Endpoint { name: "fallback", reads: &[], handler: |_, request, _| Box::pin(ready(handle(&request))) };

/// Refuses whatever no route takes, except `OPTIONS`.
///
/// # Errors
/// 405 with `Allow` where the path has other methods, 308 where it has a slash too many, else 404.
pub fn handle(request: &Request) -> Result<Answer, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(Answer::no_content());
    }
    let path = request.uri().path();
    let tidied = without_extra_slashes(path);
    if tidied != path && !methods_of(without_mapping(&tidied)).is_empty() {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        return Err(ErrorKind::Moved { location: format!("{tidied}{query}") }.into());
    }
    let allow = methods_of(without_mapping(path)).join(", ");
    if !allow.is_empty() {
        return Err(ErrorKind::MethodNotAllowed { allow }.into());
    }
    Err(ErrorKind::NotFound("no such route").into())
}

/// The methods of the routes that a path has the form of.
fn methods_of(path: &str) -> Vec<&'static str> {
    ROUTES.iter().filter(|(_, template, _)| matches(template, path)).map(|(method, ..)| *method).collect()
}

/// A path with one slash where it has several, and none at its end. It begins with exactly one, so that as a location it
/// never names another host.
fn without_extra_slashes(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.fold(String::new(), |tidied, part| format!("{tidied}/{part}"))
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
