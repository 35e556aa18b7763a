//! Contract A: the agents API with the envelope `{ok, data | error}`, in camelCase.

use lambda_http::http::HeaderMap;
use serde::Serialize;

use super::answer::Answer;
use super::credentials::{self, CredentialProblem};
use super::error::{ApiError, ErrorKind, Invalid};
use super::json::Object;
use crate::domain::credential::ApiKey;
use crate::time::Timestamp;

/// The agent's key, from a header or the body's `apiKey`; inside, why there is none.
///
/// # Errors
/// The `apiKey` in the body has not a key's form, which is bad input.
pub fn api_key(headers: &HeaderMap, body: &Object<'_>) -> Result<Result<ApiKey, CredentialProblem>, Invalid> {
    body.refuse_spellings(&[("api_key", "apiKey"), ("agent_token", "apiKey")])?;
    let in_body = match body.string("apiKey")? {
        None => None,
        Some(text) => {
            let key = ApiKey::parse(&text);
            Some(key.ok_or_else(|| body.invalid("apiKey", "must be 48 hexadecimal characters"))?)
        }
    };
    Ok(credentials::agent_key(headers, in_body))
}

#[derive(Serialize)]
struct Envelope<Data> {
    ok: bool,
    #[serde(flatten)]
    content: Content<Data>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Content<Data> {
    Data(Data),
    Error(Refusal),
}

/// A refusal as the envelope shows it.
#[derive(Serialize)]
pub struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    /// The code and the caller's half of the text.
    #[must_use]
    pub fn of(error: &ErrorKind) -> Self {
        Self { code: error.in_envelope().1, message: error.to_string() }
    }
}

/// The refusal of one of several: `{"code", "message", "retryAfterSeconds"?}`, as a request of its own would get it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartRefusal {
    #[serde(flatten)]
    refusal: Refusal,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl PartRefusal {
    /// The refusal, and what would be its `Retry-After`.
    #[must_use]
    pub fn of(error: &ApiError, now: Timestamp) -> Self {
        Self { refusal: Refusal::of(&error.kind), retry_after_seconds: error.retry_after(now) }
    }
}

/// A success: `{"ok": true, "data": …}`.
///
/// # Errors
/// A bug: the data does not encode.
pub fn data(data: &impl Serialize) -> Result<Answer, ErrorKind> {
    let body = serde_json::to_string(&Envelope { ok: true, content: Content::Data(data) });
    Ok(Answer::json(body.map_err(ErrorKind::encoding)?))
}

/// The body of a refusal: `{"ok": false, "error": {"code", "message"}}`.
pub(super) fn encode_error(error: &ErrorKind) -> serde_json::Result<String> {
    serde_json::to_string(&Envelope::<()> { ok: false, content: Content::Error(Refusal::of(error)) })
}
