//! Where the caller found the API.

use lambda_http::Request;
use lambda_http::http::header::HOST;

use super::route::prefix;

/// The URL under which the caller reached the API, with the mapping of a custom domain if there is one.
///
/// Host and path are the caller's own words, so nothing but the characters of a host, a port and a plain path gets into
/// the files.
#[must_use]
pub fn base_url(request: &Request) -> String {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let has_only = |text: &str, more: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let host = header(HOST.as_str()).filter(|host| !host.is_empty() && has_only(host, b".-:[]"));
    let scheme = if header("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    let prefix = Some(prefix(request)).filter(|prefix| has_only(prefix, b"/-_.~")).unwrap_or_default();
    format!("{scheme}://{}{prefix}", host.unwrap_or("localhost"))
}
