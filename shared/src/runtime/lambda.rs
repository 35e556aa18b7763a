//! The way in and out of Lambda: cold start, trace, call, answer.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::ready;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lambda_http::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use lambda_http::http::{HeaderMap, HeaderValue, Response};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Error, IntoResponse, Request, RequestExt, service_fn};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::env;
use crate::domain::rate_limit::Quota;
use crate::runtime::app::App;
use crate::time::Timestamp;
use crate::wire::answer::{Answer, Outcome};
use crate::wire::contract::Contract;
use crate::wire::error::{ApiError, ErrorKind, Invalid};

/// The largest body that any route takes, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

const X_REQUEST_ID: &str = "x-request-id";

/// When a 503 asks the caller to come back, in seconds.
const RETRY_AFTER_OUTAGE: u64 = 2;

/// What serves a route. The handler's type is erased, so that the runtime and its HTTP client are compiled once
/// and not for every function.
pub type Endpoint = Box<
    dyn Fn(&'static App, Request, Timestamp) -> BoxFuture<'static, Result<Answer, ApiError>> + Send + Sync,
>;

/// What runs a job: its input is JSON as it was sent, its last argument the deadline.
pub type Job = Box<
    dyn Fn(&'static App, &RawValue, Timestamp, Instant) -> BoxFuture<'static, Result<Value, JobError>>
        + Send
        + Sync,
>;

/// An endpoint of this handler.
pub fn endpoint<H, Answered>(handler: H) -> Endpoint
where
    H: Fn(&'static App, Request, Timestamp) -> Answered + Send + Sync + 'static,
    Answered: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    Box::new(move |app, request, now| handler(app, request, now).boxed())
}

/// A job of this function. An event that is no `Input` is an error of its invocation.
pub fn job<J, Input, Output, Done>(job: J) -> Job
where
    J: Fn(&'static App, Input, Timestamp, Instant) -> Done + Send + Sync + 'static,
    Input: DeserializeOwned,
    Output: Serialize,
    Done: Future<Output = Result<Output, JobError>> + Send + 'static,
{
    Box::new(move |app, input, now, deadline| {
        let done = serde_json::from_str(input.get()).map(|input| job(app, input, now, deadline));
        async move {
            let output = done.map_err(|error| Invalid::new("input", error.to_string()))?.await?;
            Ok(serde_json::to_value(output)?)
        }
        .boxed()
    })
}

/// Serves an HTTP endpoint as a Lambda function, which connects to the database before it asks for an invocation.
///
/// # Errors
/// The Runtime API is gone.
pub async fn serve<H, Answered>(handler: H) -> Result<(), Error>
where
    H: Fn(&'static App, Request, Timestamp) -> Answered + Send + Sync + 'static,
    Answered: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    let app = cold_start();
    app.store.connect().await;
    serve_endpoint(app, endpoint(handler)).await
}

/// Serves an HTTP endpoint that needs no database as a Lambda function.
///
/// # Errors
/// The Runtime API is gone.
pub async fn serve_unconnected<H, Answered>(handler: H) -> Result<(), Error>
where
    H: Fn(&'static App, Request, Timestamp) -> Answered + Send + Sync + 'static,
    Answered: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    serve_endpoint(cold_start(), endpoint(handler)).await
}

async fn serve_endpoint(app: &'static App, endpoint: Endpoint) -> Result<(), Error> {
    let endpoint = &endpoint;
    lambda_http::run(service_fn(move |request: Request| async move {
        Ok::<_, Infallible>(TextResponse(respond(app, endpoint, request, Timestamp::now()).await))
    }))
    .await
}

/// A response whose body is text already. The runtime would otherwise read and convert it once more, and link every
/// character set of the web for that.
struct TextResponse(Response<Body>);

impl IntoResponse for TextResponse {
    fn into_response(self) -> BoxFuture<'static, Response<Body>> {
        ready(self.0).boxed()
    }
}

/// Runs a job as a Lambda function: for a schedule, or for whoever IAM lets invoke it. A failed invocation does
/// not end the process.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run<J, Input, Output, Done>(function: J) -> Result<(), Error>
where
    J: Fn(&'static App, Input, Timestamp, Instant) -> Done + Send + Sync + 'static,
    Input: DeserializeOwned,
    Output: Serialize,
    Done: Future<Output = Result<Output, JobError>> + Send + 'static,
{
    run_job(job(function)).await
}

async fn run_job(job: Job) -> Result<(), Error> {
    let app = cold_start();
    app.store.connect().await;
    let job = &job;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let now = Timestamp::now();
        let deadline = i64::try_from(event.context.deadline).unwrap_or(i64::MAX);
        let time_left = Timestamp::from_millis(deadline).since(now);
        job(app, &event.payload, now, Instant::now() + time_left).await
    }))
    .await
}

/// The app of this process. A broken environment ends the process here, with one line in the log: an error that
/// `main` returns would be written once more, and not as JSON.
fn cold_start() -> &'static App {
    log_as_json();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // A warning, with the place: the error that it makes of its request is logged as well.
        warn!(cause = panic_text(panic.payload()), place, "panic");
    }));
    match App::from_env() {
        Ok(app) => Box::leak(Box::new(app)),
        Err(error) => {
            error!(%error, "the function's environment is broken");
            std::process::exit(1)
        }
    }
}

/// One JSON object per line, at the level that Lambda's logging configuration sets. Libraries stay at `INFO`
/// whatever it sets: below that, they log whole events with the callers' keys.
pub fn log_as_json() {
    let level = env("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let ours = [env!("CARGO_CRATE_NAME"), "rollcall"].map(|target| (target, level));
    let targets = Targets::new().with_default(level.min(LevelFilter::INFO)).with_targets(ours);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        // The runtime's own, which holds Lambda's request id.
        .with_current_span(true)
        .with_span_list(false)
        .with_target(false);
    // Only the first call in a process takes effect.
    let _already_set = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}

/// Why a job failed: the error that its invocation ends with.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The input breaks a rule.
    #[error(transparent)]
    Invalid(#[from] crate::wire::error::Invalid),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// What was done does not encode.
    #[error(transparent)]
    Encoding(#[from] serde_json::Error),
    /// Some of the work failed. The next run tries it again.
    #[error("{failed} of the work failed, first: {first}")]
    Partial {
        /// How much.
        failed: u64,
        /// The first failure.
        first: String,
    },
}

impl From<JobError> for Diagnostic {
    fn from(error: JobError) -> Self {
        let error_type = match &error {
            JobError::Invalid(_) => "Invalid",
            JobError::Store(_) => "Store",
            JobError::Encoding(_) => "Encoding",
            JobError::Partial { .. } => "Partial",
        };
        Self { error_type: error_type.to_owned(), error_message: error.to_string() }
    }
}

/// Answers one request: the same on Lambda and in the local system.
///
/// Never fails and never hangs: what takes longer than the app's budget is a 503, a panic is a 500.
pub async fn respond(
    app: &'static App,
    endpoint: &Endpoint,
    request: Request,
    now: Timestamp,
) -> Response<Body> {
    let contract = Contract::of(request.uri().path());
    let request_id = request_id(&request);
    let result = if request.body().len() > BODY_LIMIT {
        Err(ErrorKind::PayloadTooLarge("the body must have at most 64 KiB".into()).into())
    } else {
        let call = AssertUnwindSafe(endpoint(app, request, now)).catch_unwind();
        match tokio::time::timeout(app.request_budget, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(ErrorKind::Internal(panic_text(panic.as_ref()).to_owned()).into()),
            Err(_) => Err(ErrorKind::Unavailable("the request's time is over".to_owned()).into()),
        }
    };
    match result.and_then(|answer| success(contract, &answer, now)) {
        Ok(response) => with_request_id(response, &request_id),
        Err(error) => {
            log_failure(&error.kind, &request_id);
            with_request_id(refusal(contract, &error, &request_id, now), &request_id)
        }
    }
}

fn success(contract: Contract, answer: &Answer, now: Timestamp) -> Result<Response<Body>, ApiError> {
    let body =
        contract.encode(&answer.outcome, now).map_err(|error| ErrorKind::Internal(error.to_string()))?;
    let mut response = match answer.outcome {
        Outcome::Preflight => empty(204),
        _ => json(200, body),
    };
    if let Some(quota) = &answer.quota {
        set_quota(response.headers_mut(), quota, now);
    }
    Ok(response)
}

fn refusal(contract: Contract, error: &ApiError, request_id: &str, now: Timestamp) -> Response<Body> {
    let body = contract.encode_error(&error.kind, request_id).unwrap_or_default();
    let mut response = json(contract.status(&error.kind), body);
    let status = response.status();
    let headers = response.headers_mut();
    if let Some(quota) = &error.quota {
        set_quota(headers, quota, now);
    }
    match &error.kind {
        ErrorKind::RateLimited => {
            let seconds = error.quota.map_or(1, |quota| quota.retry_after(now));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        ErrorKind::Unavailable(_) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_OUTAGE));
        }
        ErrorKind::MethodNotAllowed { allow } => set(headers, ALLOW.as_str(), allow),
        _ if status == 401 => set(headers, WWW_AUTHENTICATE.as_str(), "Bearer"),
        _ => {}
    }
    response
}

fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status.try_into().unwrap_or_default();
    response
}

fn json(status: u16, body: String) -> Response<Body> {
    let mut response = empty(status);
    *response.body_mut() = Body::Text(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
fn request_id(request: &Request) -> String {
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
fn log_failure(error: &ErrorKind, request_id: &str) {
    let cause = error.cause().unwrap_or_default();
    match error {
        ErrorKind::Internal(_) => error!(request_id, cause, "internal error"),
        ErrorKind::Unavailable(_) => warn!(request_id, cause, "unavailable"),
        _ => {}
    }
}

fn panic_text(panic: &dyn Any) -> &str {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text")
}
