//! What an endpoint answers.

use std::borrow::Cow;

use crate::domain::rate_limit::Quota;

/// The content type of almost every answer.
pub const JSON: &str = "application/json";

/// An answer on its way out: what the caller gets, before the runtime adds the headers that every answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`; empty for an answer without a body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// Where the caller stands in its window, if the request was counted.
    pub quota: Option<Quota>,
    /// Headers of this answer's own, by lower-case name.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Answer {
    /// A success with this JSON.
    #[must_use]
    pub const fn json(body: String) -> Self {
        Self { status: 200, content_type: JSON, body, quota: None, headers: Vec::new() }
    }

    /// It is done, or the service is there: `{"ok":true}` in both contracts.
    #[must_use]
    pub fn ok() -> Self {
        Self::json(r#"{"ok":true}"#.to_owned())
    }

    /// 204, without a body.
    #[must_use]
    pub const fn no_content() -> Self {
        Self { status: 204, content_type: "", body: String::new(), quota: None, headers: Vec::new() }
    }

    /// This answer, to a request that was counted.
    #[must_use]
    pub fn counted(self, quota: Quota) -> Self {
        Self { quota: Some(quota), ..self }
    }
}
