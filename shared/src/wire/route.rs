//! Which route a request took, as API Gateway says it: a path alone may begin with a mapping's or a stage's name.

use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};

/// The path of the route that API Gateway chose, as `/api/v1/agents/{agent_id}`; for its `$default` route, which
/// has no path, the request's own.
#[must_use]
pub fn route(request: &Request) -> &str {
    let key = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => context.route_key.as_deref(),
        _ => None,
    };
    key.and_then(|key| key.split_once(' ')).map_or_else(|| request.uri().path(), |(_method, path)| path)
}

/// A variable of the route's path, as `agent_id`; empty if the route has none of this name.
#[must_use]
pub fn path_parameter(request: &Request, name: &str) -> String {
    let parameters = request.path_parameters();
    parameters.first(name).unwrap_or_default().to_owned()
}
