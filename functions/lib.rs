//! Rollcall's functions: the endpoints and the jobs, one file each. Their mains are in `functions/bin`.

#![warn(missing_docs)]

pub mod events;
pub mod fallback;
pub mod health;
pub mod heartbeat;
pub mod mint_token;
pub mod register;
pub mod sweep;
pub mod verify;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lambda_http::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::answer::Answer;
use shared::app::App;
use shared::error::{ApiError, Invalid};
use shared::lambda::JobError;
use shared::time::Timestamp;
use tokio::time::Instant;

/// Every route of the API: method, path, and the function that serves it. `template.yaml` declares the same;
/// a test compares them.
pub const ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/api/agents/register", "register"),
    ("POST", "/api/agents/verify", "verify"),
    ("POST", "/api/agents/heartbeat", "heartbeat"),
    ("POST", "/api/agents/events", "events"),
    ("GET", "/health", "health"),
    ("GET", "/healthz", "health"),
    ("GET", "/readyz", "health"),
];

/// A function, for a host that runs all of them in one process.
pub enum Function {
    /// Behind a route of the API.
    Endpoint(Endpoint),
    /// Behind a schedule, or invoked by hand.
    Job(Job),
}

/// What serves a route.
pub type Endpoint = Box<
    dyn Fn(&'static App, Request, Timestamp) -> BoxFuture<'static, Result<Answer, ApiError>> + Send + Sync,
>;

/// What runs a job: from JSON text to a JSON value.
pub type Job = Box<
    dyn Fn(&'static App, &str, Timestamp, Instant) -> BoxFuture<'static, Result<Value, JobError>>
        + Send
        + Sync,
>;

/// The function of a binary's name.
#[must_use]
pub fn function(binary: &str) -> Option<Function> {
    Some(match binary {
        "register" => endpoint(register::handle),
        "verify" => endpoint(verify::handle),
        "heartbeat" => endpoint(heartbeat::handle),
        "events" => endpoint(events::handle),
        "health" => endpoint(health::handle),
        "fallback" => endpoint(fallback::handle),
        "sweep" => job(sweep::run),
        "mint-token" => job(mint_token::run),
        _ => return None,
    })
}

fn endpoint<H, Answered>(handler: H) -> Function
where
    H: Fn(&'static App, Request, Timestamp) -> Answered + Send + Sync + 'static,
    Answered: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    Function::Endpoint(Box::new(move |app, request, now| handler(app, request, now).boxed()))
}

fn job<J, Input, Output, Done>(job: J) -> Function
where
    J: Fn(&'static App, Input, Timestamp, Instant) -> Done + Send + Sync + 'static,
    Input: DeserializeOwned,
    Output: Serialize,
    Done: Future<Output = Result<Output, JobError>> + Send + 'static,
{
    Function::Job(Box::new(move |app, input, now, deadline| {
        let done = serde_json::from_str(input).map(|input| job(app, input, now, deadline));
        async move {
            let output = done.map_err(|error| Invalid::new("input", error.to_string()))?.await?;
            Ok(serde_json::to_value(output).map_err(|error| Invalid::new("output", error.to_string()))?)
        }
        .boxed()
    }))
}
