//! API Gateway's part: the template's routes and CORS in front of the functions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lambda_http::RequestExt;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext;
use lambda_http::http::header::DATE;
use lambda_http::http::{HeaderName, HeaderValue, Method, StatusCode};
use lambda_http::request::RequestContext;
use shared::runtime::app::App;
use shared::runtime::function::Handler;
use shared::runtime::respond::respond;
use tower::ServiceExt as _;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::clock::Clock;
use crate::template::{Cors, Route};

/// API Gateway's own limit; the functions' is lower.
const GATEWAY_BODY_LIMIT: usize = 10 * 1024 * 1024;

/// A route with a method and a path, which API Gateway tells its function of.
struct ExactRoute {
    method: Method,
    path: String,
}

impl ExactRoute {
    fn key(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The path's variables, by name.
    fn parameters(&self, path: &str) -> HashMap<String, String> {
        let parts = self.path.split('/').zip(path.split('/'));
        let variables = parts.filter_map(|(name, value)| {
            Some((name.strip_prefix('{')?.strip_suffix('}')?.to_owned(), value.to_owned()))
        });
        variables.collect()
    }
}

/// An endpoint with its environment.
pub(crate) struct Mounted {
    pub(crate) handler: Handler,
    pub(crate) app: &'static App,
    pub(crate) clock: Clock,
}

impl Mounted {
    async fn call(&self, route: Option<&ExactRoute>, request: Request, peer: SocketAddr) -> Response {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, GATEWAY_BODY_LIMIT).await else {
            let body = r#"{"message":"Request Entity Too Large"}"#;
            return (StatusCode::PAYLOAD_TOO_LARGE, body).into_response();
        };
        let mut context = ApiGatewayV2httpRequestContext::default();
        context.route_key = Some(route.map_or_else(|| "$default".to_owned(), ExactRoute::key));
        context.http.source_ip = Some(peer.ip().to_canonical().to_string());
        let event = lambda_http::Request::from_parts(parts, lambda_http::Body::Binary(body.into()));
        let parameters = route.map(|route| route.parameters(event.uri().path())).unwrap_or_default();
        let event = event
            .with_path_parameters(parameters)
            .with_request_context(RequestContext::ApiGatewayV2(context));
        let now = self.clock.now();
        let mut response = respond(self.app, self.handler, event, now).await.map(into_axum).into_response();
        // API Gateway says the time of its own clock; here the functions' clock may be another than the machine's.
        if let Ok(date) = HeaderValue::try_from(now.http_date()) {
            response.headers_mut().insert(DATE, date);
        }
        response
    }
}

fn into_axum(body: lambda_http::Body) -> Body {
    match body {
        lambda_http::Body::Text(text) => text.into(),
        lambda_http::Body::Binary(bytes) => bytes.into(),
        _ => Body::empty(),
    }
}

/// A router with the template's routes. As in API Gateway the method chooses first: a path that one method knows
/// by name may be another's path with a variable. What no route takes goes to the `$default` one.
pub(crate) fn router(routes: Vec<(Route, Arc<Mounted>)>, cors: Option<&Cors>) -> Result<Router, String> {
    let mut default = None;
    let mut by_method: HashMap<Method, Router> = HashMap::new();
    for (route, mounted) in routes {
        match route {
            Route::Default => default = Some(mounted),
            Route::Exact { method, path } => {
                let method: Method =
                    method.parse().map_err(|_| format!("{method} {path}: unknown method"))?;
                let router = by_method.remove(&method).unwrap_or_default();
                let route = Some(ExactRoute { method: method.clone(), path: path.clone() });
                by_method.insert(method, router.route(&path, any(call(mounted, route))));
            }
        }
    }
    let default = default.map(|mounted| Router::new().fallback(call(mounted, None))).unwrap_or_default();
    for router in by_method.values_mut() {
        *router = std::mem::take(router).fallback_service(default.clone());
    }
    let dispatch = move |request: Request| {
        let router = by_method.get(request.method()).unwrap_or(&default).clone();
        router.oneshot(request)
    };
    let router = Router::new().fallback(dispatch);
    match cors {
        None => Ok(router),
        Some(cors) => Ok(router.layer(cors_layer(cors)?)),
    }
}

/// An endpoint as a handler of the server's.
fn call(
    mounted: Arc<Mounted>,
    route: Option<ExactRoute>,
) -> impl Fn(ConnectInfo<SocketAddr>, Request) -> BoxFuture<'static, Response> + Clone {
    let route = Arc::new(route);
    move |ConnectInfo(peer), request| {
        let (mounted, route) = (Arc::clone(&mounted), Arc::clone(&route));
        async move { mounted.call(route.as_ref().as_ref(), request, peer).await }.boxed()
    }
}

fn cors_layer(cors: &Cors) -> Result<CorsLayer, String> {
    let origins: Vec<HeaderValue> = parse("origin", &cors.allow_origins)?;
    let methods: Vec<Method> = parse("method", &cors.allow_methods)?;
    let allowed: Vec<HeaderName> = parse("header", &cors.allow_headers)?;
    let exposed: Vec<HeaderName> = parse("header", &cors.expose_headers)?;
    let any = origins.iter().any(|origin| origin == "*");
    let origin = if any { AllowOrigin::any() } else { AllowOrigin::list(origins) };
    let layer = CorsLayer::new().allow_origin(origin).allow_methods(methods).allow_headers(allowed);
    Ok(layer.expose_headers(exposed).max_age(cors.max_age))
}

fn parse<T: std::str::FromStr>(what: &str, words: &[String]) -> Result<Vec<T>, String> {
    words.iter().map(|word| word.parse().map_err(|_| format!("CORS: {word:?} is no {what}"))).collect()
}
