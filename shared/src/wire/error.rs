//! What can go wrong, once for all endpoints and both wire contracts.

use std::borrow::Cow;

use crate::domain::agent::AgentState;
use crate::domain::failure::StoreError;
use crate::domain::rate_limit::Quota;
use crate::time::Timestamp;

/// When a 503 asks the caller to come back, in seconds.
const RETRY_AFTER_OUTAGE: u64 = 2;

/// Where a field stands in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// In the body.
    #[default]
    Body,
    /// In the path.
    Path,
    /// In the query string.
    Query,
}

impl Location {
    /// The word that Mission Control's `loc` begins with.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Path => "path",
            Self::Query => "query",
        }
    }
}

/// A field that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Where the field stands.
    pub location: Location,
    /// The field's path in the body, as in `heartbeatConfig.intervalSeconds`.
    pub field: Cow<'static, str>,
    /// The rule, in words.
    pub problem: Cow<'static, str>,
}

impl Invalid {
    /// `field` breaks the rule that `problem` states.
    pub fn new(field: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { location: Location::Body, field: field.into(), problem: problem.into() }
    }

    /// This error, of a field in the path.
    #[must_use]
    pub fn in_path(self) -> Self {
        Self { location: Location::Path, ..self }
    }

    /// This error, of a field in the query string.
    #[must_use]
    pub fn in_query(self) -> Self {
        Self { location: Location::Query, ..self }
    }
}

/// Why a request was refused. The text is for the caller; a cause inside is for the log alone.
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The body is not JSON, or a field breaks its rule.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The credential is missing, malformed, unknown or expired.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Verify's own answer to a credential that is missing, malformed or unknown.
    #[error("{0}")]
    InvalidKey(&'static str),
    /// The agent is known, but not active.
    #[error("{}", inactive(*.0))]
    Inactive(AgentState),
    /// Verify needs an operator's approval.
    #[error("an operator must approve this agent: send an operator token in Authorization: Bearer")]
    ApprovalRequired,
    /// A valid credential of the wrong kind, or for something else.
    #[error("{0}")]
    Forbidden(&'static str),
    /// No such route or thing.
    #[error("{0}")]
    NotFound(&'static str),
    /// The route exists with other methods.
    #[error("method not allowed; allowed: {allow}")]
    MethodNotAllowed {
        /// The route's methods, as `Allow` lists them.
        allow: String,
    },
    /// A slash too many: the route is elsewhere.
    #[error("the route is {location}")]
    Moved {
        /// The path, with the query string.
        location: String,
    },
    /// A body that is not text.
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    /// The state does not allow it, or somebody else changed it at the same time, each time that it was tried.
    #[error("{0}")]
    Conflict(&'static str),
    /// The body, or one event, is too large.
    #[error("{0}")]
    PayloadTooLarge(Cow<'static, str>),
    /// Over the limit of the quota that the error carries.
    #[error("Too many requests")]
    RateLimited,
    /// What may be done only so often, of one thing.
    #[error("too soon after the last time; not before {again_at}")]
    TooSoon {
        /// When it may be done again.
        again_at: Timestamp,
    },
    /// A heartbeat that was overtaken on its way, and promised something.
    #[error("a later call was faster, and the report was not kept: send it again")]
    Overtaken,
    /// DynamoDB is throttled, conflicting or away.
    #[error("the store is busy or away; try again")]
    Unavailable(String),
    /// A bug, or a broken deployment.
    #[error("internal error")]
    Internal(String),
}

const fn inactive(state: AgentState) -> &'static str {
    match state {
        AgentState::Pending => "the agent is not verified: verify the agent first",
        AgentState::Revoked => "the agent is revoked: an operator can restore it",
        AgentState::Active => "the agent is active",
    }
}

impl ErrorKind {
    /// Status and code in the envelope (contract A).
    #[must_use]
    pub const fn in_envelope(&self) -> (u16, &'static str) {
        match self {
            Self::Invalid(_) => (400, "VALIDATION_ERROR"),
            Self::Unauthorized(_) | Self::Inactive(_) => (401, "UNAUTHORIZED"),
            Self::InvalidKey(_) => (401, "INVALID_KEY"),
            Self::ApprovalRequired => (403, "APPROVAL_REQUIRED"),
            Self::Forbidden(_) => (403, "FORBIDDEN"),
            Self::Moved { .. } => (308, "MOVED"),
            Self::NotFound(_) => (404, "NOT_FOUND"),
            Self::MethodNotAllowed { .. } => (405, "METHOD_NOT_ALLOWED"),
            Self::Conflict(_) => (409, "CONFLICT"),
            Self::PayloadTooLarge(_) => (413, "PAYLOAD_TOO_LARGE"),
            Self::UnsupportedMediaType(_) => (415, "UNSUPPORTED_MEDIA_TYPE"),
            Self::RateLimited | Self::TooSoon { .. } => (429, "RATE_LIMIT"),
            Self::Overtaken | Self::Unavailable(_) => (503, "UNAVAILABLE"),
            Self::Internal(_) => (500, "INTERNAL"),
        }
    }

    /// Status in Mission Control's wire format (contract B).
    #[must_use]
    pub const fn in_mission_control(&self) -> u16 {
        match self {
            Self::Invalid(_) => 422,
            Self::Unauthorized(_) | Self::InvalidKey(_) => 401,
            Self::Inactive(_) | Self::ApprovalRequired | Self::Forbidden(_) => 403,
            Self::Moved { .. } => 308,
            Self::NotFound(_) => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::Conflict(_) => 409,
            Self::PayloadTooLarge(_) => 413,
            Self::UnsupportedMediaType(_) => 415,
            Self::RateLimited | Self::TooSoon { .. } => 429,
            Self::Overtaken | Self::Unavailable(_) => 503,
            Self::Internal(_) => 500,
        }
    }

    /// A bug: an answer that does not encode.
    #[must_use]
    pub fn encoding(error: serde_json::Error) -> Self {
        Self::Internal(error.to_string())
    }

    /// The log's half of the error: what the caller is not told.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Unavailable(cause) | Self::Internal(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<StoreError> for ErrorKind {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Contended => Self::Unavailable(error.to_string()),
            StoreError::Unavailable(cause) => Self::Unavailable(cause),
            StoreError::Broken(cause) => Self::Internal(cause),
        }
    }
}

/// A refusal, with the caller's quota if the request was counted.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ApiError {
    /// Why.
    pub kind: ErrorKind,
    /// Where the caller stands in its window.
    pub quota: Option<Quota>,
}

impl ApiError {
    /// Over the limit.
    #[must_use]
    pub const fn rate_limited(quota: Quota) -> Self {
        Self { kind: ErrorKind::RateLimited, quota: Some(quota) }
    }

    /// In how many seconds the caller may try again, if it makes sense to.
    #[must_use]
    pub fn retry_after(&self, now: Timestamp) -> Option<u64> {
        match &self.kind {
            ErrorKind::RateLimited => Some(self.quota.map_or(1, |quota| quota.retry_after(now))),
            ErrorKind::TooSoon { again_at } => {
                let left = again_at.since(now).as_millis().div_ceil(1000);
                Some(u64::try_from(left).unwrap_or(u64::MAX).max(1))
            }
            ErrorKind::Unavailable(_) => Some(RETRY_AFTER_OUTAGE),
            ErrorKind::Overtaken => Some(1),
            _ => None,
        }
    }

    /// This refusal, of a request that was counted.
    #[must_use]
    pub fn counted(self, quota: Quota) -> Self {
        Self { quota: self.quota.or(Some(quota)), ..self }
    }
}

impl<E: Into<ErrorKind>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self { kind: error.into(), quota: None }
    }
}
