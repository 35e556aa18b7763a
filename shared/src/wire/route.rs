//! Which route a request took, as API Gateway says it: a path alone may begin with a mapping's or a stage's name.

use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};

/// The path of the route that API Gateway chose, as `/api/v1/agents/{agent_id}`; for its `$default` route, which
/// has no path, the request's own without a mapping before it.
#[must_use]
pub fn route(request: &Request) -> &str {
    let key = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.route_key.as_deref(),
        _ => None,
    };
    let of_default = || without_mapping(request.uri().path());
    key.and_then(|key| key.split_once(' ')).map_or_else(of_default, |(_method, path)| path)
}

/// The first parts of the contracts' paths.
const ROOTS: [&str; 2] = ["/api/v1", "/api/agents"];

/// A path without what a custom domain's mapping or a stage put before it, which may itself be called `api`.
#[must_use]
pub fn without_mapping(path: &str) -> &str {
    let begins_with = |rest: &str, root: &str| {
        rest.strip_prefix(root).is_some_and(|more| more.is_empty() || more.starts_with('/'))
    };
    let mut rests = path.match_indices("/api").map(|(start, _)| &path[start..]);
    rests.find(|rest| ROOTS.iter().any(|root| begins_with(rest, root))).unwrap_or(path)
}

/// What stands before the route in the request's path: a mapping of a custom domain, or a stage; mostly nothing.
#[must_use]
pub fn prefix(request: &Request) -> &str {
    let (path, parts) = (request.uri().path(), route(request).matches('/').count());
    let start = path.rmatch_indices('/').nth(parts.saturating_sub(1)).map_or(0, |(start, _)| start);
    &path[..start]
}

/// A variable of the route's path, as `agent_id`; empty if the route has none of this name.
#[must_use]
pub fn path_parameter(request: &Request, name: &str) -> String {
    let parameters = request.path_parameters();
    parameters.first(name).unwrap_or_default().to_owned()
}
