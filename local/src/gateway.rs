//! API Gateway's part: the template's routes and CORS in front of the functions.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use lambda_http::RequestExt;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext;
use lambda_http::http::{HeaderName, HeaderValue, Method, StatusCode};
use lambda_http::request::RequestContext;
use rollcall::Endpoint;
use shared::app::App;
use shared::lambda::respond;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::clock::Clock;
use crate::template::{Cors, Route};

/// API Gateway's own limit; the functions' is lower.
const GATEWAY_BODY_LIMIT: usize = 10 * 1024 * 1024;

/// An endpoint with its environment.
pub(crate) struct Mounted {
    pub(crate) endpoint: Endpoint,
    pub(crate) app: &'static App,
    pub(crate) clock: Clock,
}

impl Mounted {
    async fn call(&self, request: Request, peer: SocketAddr) -> Response {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, GATEWAY_BODY_LIMIT).await else {
            let body = r#"{"message":"Request Entity Too Large"}"#;
            return (StatusCode::PAYLOAD_TOO_LARGE, body).into_response();
        };
        let mut context = ApiGatewayV2httpRequestContext::default();
        context.http.source_ip = Some(peer.ip().to_canonical().to_string());
        let event = lambda_http::Request::from_parts(parts, lambda_http::Body::Binary(body.into()));
        let event = event.with_request_context(RequestContext::ApiGatewayV2(context));
        respond(self.app, &self.endpoint, event, self.clock.now()).await.map(into_axum).into_response()
    }
}

fn into_axum(body: lambda_http::Body) -> Body {
    match body {
        lambda_http::Body::Text(text) => text.into(),
        lambda_http::Body::Binary(bytes) => bytes.into(),
        _ => Body::empty(),
    }
}

/// A router with the template's routes. What no route takes goes to the `$default` one.
pub(crate) fn router(routes: Vec<(Route, Arc<Mounted>)>, cors: Option<&Cors>) -> Result<Router, String> {
    let mut router = Router::new();
    for (route, mounted) in routes {
        let call = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
            let mounted = Arc::clone(&mounted);
            async move { mounted.call(request, peer).await }
        };
        router = match route {
            Route::Default => router.fallback(call.clone()).method_not_allowed_fallback(call),
            Route::Exact { method, path } => {
                let method: Method =
                    method.parse().map_err(|_| format!("{method} {path}: unknown method"))?;
                let filter = MethodFilter::try_from(method).map_err(|error| error.to_string())?;
                router.route(&path, on(filter, call))
            }
        };
    }
    match cors {
        None => Ok(router),
        Some(cors) => Ok(router.layer(cors_layer(cors)?)),
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
