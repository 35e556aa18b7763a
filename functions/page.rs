//! `GET /`, `GET /page/{file}`: the page for operators; `GET /openapi.json`: the document of the API.
//!
//! A handful of static files without a library or a build step, held in the binary. Whatever the page knows it asks of
//! the operators' API, with the token that its user brings; no answer of this function depends on who asks.

use std::borrow::Cow;
use std::future::ready;

use lambda_http::Request;
use lambda_http::http::header::IF_NONE_MATCH;
use sha2::{Digest as _, Sha256};
use shared::runtime::function::Endpoint;
use shared::wire::answer::Answer;
use shared::wire::error::{ApiError, ErrorKind};
use shared::wire::route::{path_parameter, route};

/// The function and what it reads.
pub const FUNCTION: Endpoint =
    Endpoint { name: "page", reads: &[], handler: |_, request, _| Box::pin(ready(handle(&request))) };

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// One of the page's files, or the document.
struct File {
    content_type: &'static str,
    text: &'static str,
}

impl File {
    /// The file that a request asks for.
    fn asked_for(request: &Request) -> Option<Self> {
        match route(request) {
            // A test keeps it equal to docs/openapi.yaml.
            "/openapi.json" => Some(Self { content_type: JSON, text: include_str!("page/openapi.json") }),
            _ => Self::named(&path_parameter(request, "file")),
        }
    }

    /// The file of this name in `/page/`; the page itself has none.
    fn named(name: &str) -> Option<Self> {
        let (content_type, text) = match name {
            "" => (HTML, include_str!("page/index.html")),
            "style.css" => (CSS, include_str!("page/style.css")),
            "app.js" => (JAVASCRIPT, include_str!("page/app.js")),
            "api.js" => (JAVASCRIPT, include_str!("page/api.js")),
            "dom.js" => (JAVASCRIPT, include_str!("page/dom.js")),
            "fleet.js" => (JAVASCRIPT, include_str!("page/fleet.js")),
            "agent.js" => (JAVASCRIPT, include_str!("page/agent.js")),
            "tokens.js" => (JAVASCRIPT, include_str!("page/tokens.js")),
            "alerts.js" => (JAVASCRIPT, include_str!("page/alerts.js")),
            "icon.svg" => (SVG, include_str!("page/icon.svg")),
            _ => return None,
        };
        Some(Self { content_type, text })
    }

    /// What browsers compare: a new deployment's files are asked for again, and no others.
    fn etag(&self) -> String {
        let digest = Sha256::digest(self.text);
        let hex = digest.iter().take(16).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        format!("\"{hex}\"")
    }
}

/// Nothing but this origin's own files runs, is shown or is asked; no text becomes markup, and no other page may hold
/// this one in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The headers of every file.
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-cache"),
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// For two years browsers come by TLS alone. Said where they came by it: on AWS, and not on a laptop.
const TLS_ONLY: (&str, &str) = ("strict-transport-security", "max-age=63072000");

/// Serves a file, or says that the caller's copy is still right.
///
/// # Errors
/// 404 for a file that is none of the page's, 308 to the page's own address for one without its last slash.
pub fn handle(request: &Request) -> Result<Answer, ApiError> {
    let path = request.uri().path();
    if route(request) == "/" && !path.ends_with('/') {
        // A mapping alone, as `/rollcall`: the addresses in the page would be taken for those of its parent.
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        return Err(ErrorKind::Moved { location: format!("/{}/{query}", path.trim_matches('/')) }.into());
    }
    let file = File::asked_for(request).ok_or(ErrorKind::NotFound("no such file"))?;
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let by_tls = header("x-forwarded-proto") == Some("https");
    let etag = file.etag();
    let known = header(IF_NONE_MATCH.as_str())
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let fixed = HEADERS.into_iter().chain(by_tls.then_some(TLS_ONLY));
    let mut headers: Vec<_> = fixed.map(|(name, value)| (name, Cow::Borrowed(value))).collect();
    headers.push(("etag", Cow::Owned(etag)));
    let (status, content_type, body) =
        if known { (304, "", String::new()) } else { (200, file.content_type, file.text.to_owned()) };
    Ok(Answer { status, content_type, body, quota: None, headers })
}
