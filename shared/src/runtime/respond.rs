//! The HTTP half of a function: one request in, one response out, whatever happens in between.

use std::any::Any;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use lambda_http::http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use lambda_http::http::{HeaderMap, HeaderValue, Method, Response};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt};
use tracing::{error, warn};

use super::app::App;
use super::function::Handler;
use crate::domain::rate_limit::Quota;
use crate::time::Timestamp;
use crate::wire::answer::{Answer, JSON};
use crate::wire::contract::Contract;
use crate::wire::error::{ApiError, ErrorKind, Invalid};
use crate::wire::route::route;

/// The largest body that any route takes, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

const X_REQUEST_ID: &str = "x-request-id";

/// Answers one request: the same on Lambda and in the local system.
///
/// Never fails and never hangs: what takes longer than the app's budget is a 503, a panic is a 500.
pub async fn respond(
    app: &'static App,
    handler: Handler,
    request: Request,
    now: Timestamp,
) -> Response<Body> {
    let contract = Contract::of(route(&request));
    let (request_id, is_head) = (request_id(&request), request.method() == Method::HEAD);
    let result = if request.body().len() > BODY_LIMIT {
        Err(ErrorKind::PayloadTooLarge("the body must have at most 64 KiB".into()).into())
    } else {
        let call = AssertUnwindSafe(handler(app, request, now)).catch_unwind();
        match tokio::time::timeout(app.request_budget, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(ErrorKind::Internal(panic_text(panic.as_ref()).to_owned()).into()),
            Err(_) => Err(ErrorKind::Unavailable("the request's time is over".to_owned()).into()),
        }
    };
    let mut response = match result {
        Ok(answer) => success(answer, now),
        Err(error) => {
            log_failure(&error.kind, &request_id);
            refusal(contract, &error, &request_id, now)
        }
    };
    if is_head {
        *response.body_mut() = Body::Empty;
    }
    with_request_id(response, &request_id)
}

/// Refuses a request that cannot be read.
pub(super) fn refuse(request: &Request, invalid: Invalid, now: Timestamp) -> Response<Body> {
    let request_id = request_id(request);
    let response = refusal(Contract::of(route(request)), &invalid.into(), &request_id, now);
    with_request_id(response, &request_id)
}

fn success(answer: Answer, now: Timestamp) -> Response<Body> {
    let mut response = response(answer.status, answer.content_type, answer.body);
    if let Some(quota) = &answer.quota {
        set_quota(response.headers_mut(), quota, now);
    }
    for (name, value) in answer.headers {
        set(response.headers_mut(), name, value);
    }
    response
}

fn refusal(contract: Contract, error: &ApiError, request_id: &str, now: Timestamp) -> Response<Body> {
    let body = contract.encode_error(&error.kind, request_id).unwrap_or_default();
    let mut response = response(contract.status(&error.kind), JSON, body);
    let status = response.status();
    let headers = response.headers_mut();
    if let Some(quota) = &error.quota {
        set_quota(headers, quota, now);
    }
    if let Some(seconds) = error.retry_after(now) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match &error.kind {
        ErrorKind::Moved { location } => set(headers, LOCATION.as_str(), location),
        ErrorKind::MethodNotAllowed { allow } => set(headers, ALLOW.as_str(), allow),
        _ if status == 401 => set(headers, WWW_AUTHENTICATE.as_str(), "Bearer"),
        _ => {}
    }
    response
}

fn response(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(if body.is_empty() { Body::Empty } else { Body::Text(body) });
    *response.status_mut() = status.try_into().unwrap_or_default();
    if !content_type.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

fn set_quota(headers: &mut HeaderMap, quota: &Quota, now: Timestamp) {
    set(headers, "ratelimit-policy", quota.policy_header());
    set(headers, "ratelimit", quota.state_header(now));
}

fn set(headers: &mut HeaderMap, name: &'static str, value: impl Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(name, value);
    }
}

fn with_request_id(mut response: Response<Body>, request_id: &str) -> Response<Body> {
    set(response.headers_mut(), X_REQUEST_ID, request_id);
    response
}

/// The caller's request id, if it is at most 128 visible ASCII characters; else API Gateway's; else a new one.
#[must_use]
pub fn request_id(request: &Request) -> String {
    let callers = request.headers().get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).map(str::trim);
    let gateways = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.request_id.as_deref(),
        _ => None,
    };
    let is_sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    callers.filter(is_sane).or(gateways.filter(is_sane)).map_or_else(
        || uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string(),
        str::to_owned,
    )
}

/// A bug is an error; an outage is DynamoDB's, and a warning. The caller's mistakes are the caller's to log.
pub fn log_failure(error: &ErrorKind, request_id: &str) {
    let cause = error.cause().unwrap_or_default();
    match error {
        ErrorKind::Internal(_) => error!(request_id, cause, "internal error"),
        ErrorKind::Unavailable(_) => warn!(request_id, cause, "unavailable"),
        _ => {}
    }
}

pub(super) fn panic_text(panic: &dyn Any) -> &str {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text")
}
