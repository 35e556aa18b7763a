//! The way in and out of Lambda: cold start, trace, call, answer.

use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::app::App;
use super::function::{Endpoint, Handler, Job, JobError};
use super::gateway_event::{self, GatewayResponse};
use super::respond::{panic_text, refuse, respond};
use crate::config::{Setting, env};
use crate::time::Timestamp;

/// Serves an endpoint as a Lambda function, which connects to the database before it asks for an invocation.
///
/// # Errors
/// The Runtime API is gone.
pub async fn serve(endpoint: Endpoint) -> Result<(), Error> {
    let app = cold_start(endpoint.reads, LevelFilter::OFF);
    app.store.connect().await;
    serve_requests(app, endpoint.handler).await
}

/// Serves an endpoint that needs no database as a Lambda function.
///
/// # Errors
/// The Runtime API is gone.
pub async fn serve_unconnected(endpoint: Endpoint) -> Result<(), Error> {
    serve_requests(cold_start(endpoint.reads, LevelFilter::OFF), endpoint.handler).await
}

async fn serve_requests(app: &'static App, handler: Handler) -> Result<(), Error> {
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let event =
            serde_json::from_str::<ApiGatewayV2httpRequest>(event.payload.get()).map_err(|error| {
                warn!(cause = %error, "an event that is not API Gateway's");
                Diagnostic { error_type: "Invalid".to_owned(), error_message: error.to_string() }
            })?;
        let (request, problem) = gateway_event::request(event);
        let response = match problem {
            None => respond(app, handler, request, Timestamp::now()).await,
            Some(invalid) => refuse(&request, invalid, Timestamp::now()),
        };
        Ok::<_, Diagnostic>(GatewayResponse::from(response))
    }))
    .await
}

/// Runs a job as a Lambda function: for a schedule, or for whoever IAM lets invoke it. A failed invocation does
/// not end the process.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run(job: Job) -> Result<(), Error> {
    let app = cold_start(job.reads, LevelFilter::ERROR);
    app.store.connect().await;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let now = Timestamp::now();
        let deadline = i64::try_from(event.context.deadline).unwrap_or(i64::MAX);
        let time_left = Timestamp::from_millis(deadline).since(now);
        (job.work)(app, &event.payload, now, Instant::now() + time_left).await
    }))
    .await
}

/// The app of this process. A broken environment ends the process here, with one line in the log: an error that
/// `main` returns would be written once more, and not as JSON.
fn cold_start(reads: &[Setting], failures: LevelFilter) -> &'static App {
    log_as_json(failures);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // A warning, with the place: the error that it makes of its request is logged as well.
        warn!(cause = panic_text(panic.payload()), place, "panic");
    }));
    match App::from_env(reads) {
        Ok(app) => Box::leak(Box::new(app)),
        Err(error) => {
            error!(%error, "the function's environment is broken");
            std::process::exit(1)
        }
    }
}

/// Where the runtime logs that an invocation ended with an error.
const FAILURES: &str = "lambda_runtime::layers::panic";

/// The HTTP client, which warns of every answer of a receiver's that is no HTTP. What came of an attempt is in its delivery.
const CLIENT: &str = "aws_smithy_http_client";

/// One JSON object per line, at the level that Lambda's logging configuration sets. Libraries stay at `INFO`
/// whatever it sets: below that, they log whole events with the callers' keys.
///
/// `failures` is the level for what the runtime says of invocations that end with an error. A job's failure is such a
/// line; an endpoint's only errors are events that are not API Gateway's, which are logged here as warnings.
fn log_as_json(failures: LevelFilter) {
    let level = env("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let ours = [env!("CARGO_CRATE_NAME"), "functions"].map(|target| (target, level));
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_targets(ours)
        .with_target(CLIENT, LevelFilter::ERROR)
        .with_target(FAILURES, failures);
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
