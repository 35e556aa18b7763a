//! API Gateway's event as a request, and the response as what API Gateway wants. Whatever an event holds, nothing here
//! panics: a stranger writes its paths, queries and headers.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_smithy_types::base64;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::http::{Request as HttpRequest, Response, Uri};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt};
use serde::Serialize;

use crate::wire::error::Invalid;

/// The request that an event holds, and what is wrong with it if it cannot be served: its path, its query string or its
/// body has not the form that it says it has. A route and a request id are there in either case.
#[must_use]
pub fn request(event: ApiGatewayV2httpRequest) -> (Request, Option<Invalid>) {
    let mut problem = None;
    let path = event.raw_path.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/");
    let mut target = encoded(path, b"?#");
    if let Some(query) = event.raw_query_string.as_deref().filter(|query| !query.is_empty()) {
        target.push('?');
        target.push_str(&encoded(query, b"#"));
    }
    let uri = target.parse::<Uri>().unwrap_or_else(|error| {
        problem = Some(Invalid::new("path", error.to_string()).in_path());
        Uri::from_static("/")
    });
    let body = match event.body {
        None => Body::Empty,
        Some(text) if !event.is_base64_encoded => Body::Text(text),
        Some(text) => base64::decode(&text).map_or_else(
            |_| {
                problem = Some(Invalid::new("body", "must be base64, as its event says"));
                Body::Empty
            },
            Body::Binary,
        ),
    };
    let mut request = HttpRequest::new(body);
    *request.uri_mut() = uri;
    *request.method_mut() = event.request_context.http.method.clone();
    *request.headers_mut() = event.headers;
    let request = request
        .with_path_parameters(event.path_parameters)
        .with_request_context(RequestContext::ApiGatewayV2(event.request_context));
    (request, problem)
}

/// A part of a request's target with every byte percent-encoded that no URL may hold, and those of `more`.
fn encoded(text: &str, more: &[u8]) -> String {
    let is_allowed =
        |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) && !more.contains(&byte);
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if is_allowed(byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A response as API Gateway takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayResponse {
    status_code: u16,
    headers: HashMap<String, String>,
    body: String,
    is_base64_encoded: bool,
}

impl From<Response<Body>> for GatewayResponse {
    fn from(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let text = |(name, value): (&lambda_http::http::HeaderName, &lambda_http::http::HeaderValue)| {
            Some((name.to_string(), value.to_str().ok()?.to_owned()))
        };
        Self {
            status_code: parts.status.as_u16(),
            headers: parts.headers.iter().filter_map(text).collect(),
            body: match body {
                Body::Text(text) => text,
                _ => String::new(),
            },
            is_base64_encoded: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, query: &str) -> ApiGatewayV2httpRequest {
        let mut event = ApiGatewayV2httpRequest::default();
        event.raw_path = Some(path.to_owned());
        event.raw_query_string = Some(query.to_owned());
        event
    }

    #[test]
    fn a_query_string_of_any_bytes_is_served_percent_encoded() {
        for (query, expected) in [
            ("a=\"b\"", "a=%22b%22"),
            ("a=<b>&c= d", "a=%3Cb%3E&c=%20d"),
            ("a=\u{1}\u{7f}é#", "a=%01%7F%C3%A9%23"),
            ("a=%zz&b=%41", "a=%zz&b=%41"),
        ] {
            let (request, problem) = request(event("/api/v1/agents", query));
            assert_eq!(problem, None, "{query}");
            assert_eq!(request.uri().query(), Some(expected), "{query}");
        }
    }

    #[test]
    fn a_path_of_any_bytes_is_a_path() {
        for path in ["", "x", "/a b", "/\u{0}", "//", "/?", "/#x", "/{agent_id}", "/é"] {
            let (request, problem) = request(event(path, ""));
            assert_eq!(problem, None, "{path:?}");
            assert!(request.uri().path().starts_with('/'), "{path:?}: {}", request.uri());
        }
    }
}
