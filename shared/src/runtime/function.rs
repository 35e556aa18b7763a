//! What a function is: its name, what it reads of the configuration, and what it does.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lambda_http::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::app::App;
use crate::config::Setting;
use crate::time::Timestamp;
use crate::wire::answer::Answer;
use crate::wire::error::{ApiError, Invalid};

/// What answers a request. The handler's type is erased, so that the runtime and its HTTP client are compiled
/// once and not for every function.
pub type Handler = fn(&'static App, Request, Timestamp) -> BoxFuture<'static, Result<Answer, ApiError>>;

/// What does a job: its input is JSON as it was sent, its last argument the deadline.
pub type Work =
    fn(&'static App, &RawValue, Timestamp, Instant) -> BoxFuture<'static, Result<Value, JobError>>;

/// A function behind routes of the API.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The name of its binary.
    pub name: &'static str,
    /// What it reads of the configuration: the template gives it that and no more.
    pub reads: &'static [Setting],
    /// What answers its requests.
    pub handler: Handler,
}

/// A function behind a schedule or a stream, or invoked by hand.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The name of its binary.
    pub name: &'static str,
    /// What it reads of the configuration: the template gives it that and no more.
    pub reads: &'static [Setting],
    /// What it does.
    pub work: Work,
}

/// A function of either kind.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// Behind routes of the API.
    Endpoint(Endpoint),
    /// Behind a schedule or a stream, or invoked by hand.
    Job(Job),
}

impl Function {
    /// The name of its binary.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Endpoint(endpoint) => endpoint.name,
            Self::Job(job) => job.name,
        }
    }

    /// What it reads of the configuration.
    #[must_use]
    pub const fn reads(&self) -> &'static [Setting] {
        match self {
            Self::Endpoint(endpoint) => endpoint.reads,
            Self::Job(job) => job.reads,
        }
    }
}

/// Reads a job's input, does `work` with it, and writes down its output. An event that is not an `Input` is an error
/// of its invocation.
pub fn work<Input, Output, Done>(
    input: &RawValue,
    work: impl FnOnce(Input) -> Done,
) -> BoxFuture<'static, Result<Value, JobError>>
where
    Input: DeserializeOwned,
    Output: Serialize,
    Done: Future<Output = Result<Output, JobError>> + Send + 'static,
{
    let done = serde_json::from_str(input.get()).map(work);
    async move {
        let output = done.map_err(|error| Invalid::new("input", error.to_string()))?.await?;
        Ok(serde_json::to_value(output)?)
    }
    .boxed()
}

/// Why a job failed: the error that its invocation ends with.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The input breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::domain::failure::StoreError),
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
