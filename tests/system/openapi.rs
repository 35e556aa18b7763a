//! The document of the API: its paths are the routes, and it judges what the tests send and receive.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use shared::config::env;

use crate::support::Reply;
use crate::support::document::DOCUMENT;

/// Each operation of the document: method, path, and name.
fn operations() -> BTreeSet<(String, String, String)> {
    let paths = DOCUMENT.value["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().expect("operations").iter();
        operations.map(move |(method, operation)| {
            let name = operation["operationId"].as_str().expect("a name");
            (method.to_uppercase(), path.clone(), name.to_owned())
        })
    });
    operations.collect()
}

#[test]
fn paths_are_the_routes() {
    let routes = functions::ROUTES.iter();
    let routes: BTreeSet<_> =
        routes.map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    let documented: BTreeSet<_> = operations().into_iter().map(|(method, path, _)| (method, path)).collect();
    assert_eq!(documented, routes);
}

/// Whoever reads the document finds the function by it, and its log.
#[test]
fn operations_are_named_after_their_functions() {
    const NAMES_OF_THEIR_OWN: [(&str, &str); 3] =
        [("healthz", "health"), ("readyz", "health"), ("openapi", "page")];
    let mut names = BTreeSet::new();
    for (method, path, name) in operations() {
        let route =
            functions::ROUTES.iter().find(|route| (route.0, route.1) == (method.as_str(), path.as_str()));
        let function = route.expect("a route").2;
        let rest = name.strip_prefix(function);
        let is_its_own = NAMES_OF_THEIR_OWN.contains(&(name.trim_end_matches("-head"), function));
        let is_named_so = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        assert!(is_named_so || is_its_own, "{name} is served by {function}");
        assert!(names.insert(name.clone()), "{name} twice");
    }
    for (_, _, function) in functions::ROUTES {
        assert!(names.contains(*function), "no operation has the name of {function}");
    }
}

#[test]
fn what_is_served_is_what_is_written() {
    assert_eq!(DOCUMENT.value["info"]["version"], env!("CARGO_PKG_VERSION"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/page/openapi.json");
    let written = format!("{}\n", DOCUMENT.value);
    if env("ROLLCALL_WRITE").is_some() {
        fs::write(&file, &written).expect("a file");
    }
    let served = fs::read_to_string(&file).unwrap_or_default();
    assert!(served == written, "ROLLCALL_WRITE=1 cargo test --test system what_is_served writes it anew");
}

/// The answer of `GET /health`, with these changes.
fn health(status: u16, content_type: &'static str, body: &Value) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    headers.insert("x-request-id", HeaderValue::from_static("1"));
    Reply { status, headers, text: body.to_string() }
}

#[test]
fn an_answer_that_is_not_documented_is_found() {
    let problem =
        |reply: &Reply| DOCUMENT.judge_answer(&Method::GET, "/health", reply).expect_err("a problem");
    let sound = health(200, "application/json", &json!({ "ok": true }));
    assert_eq!(DOCUMENT.judge_answer(&Method::GET, "/health?x=1", &sound), Ok(()));
    let lacks = problem(&health(200, "application/json", &json!({})));
    assert!(lacks.contains("\"ok\" is a required property"), "{lacks}");
    let more = problem(&health(200, "application/json", &json!({ "ok": true, "more": 1 })));
    assert!(more.contains("'more' was unexpected"), "{more}");
    assert_eq!(problem(&health(201, "application/json", &json!({ "ok": true }))), "201 is not documented");
    assert!(problem(&health(200, "text/plain", &json!({ "ok": true }))).contains("content type"));
    let mut reply = sound.clone();
    reply.headers.remove("x-request-id");
    assert_eq!(problem(&reply), "header X-Request-Id is missing");
    reply = sound.clone();
    reply.headers.insert("x-more", HeaderValue::from_static("1"));
    assert_eq!(problem(&reply), "header x-more is not documented");
    let nowhere = DOCUMENT.judge_answer(&Method::GET, "/nowhere", &sound);
    assert_eq!(nowhere.expect_err("a problem"), "no operation is documented, and yet it is 200");
}

#[test]
fn a_request_that_is_not_documented_is_found() {
    let judge = |body: &str| DOCUMENT.judge_request(&Method::POST, "/api/agents/heartbeat", body.as_bytes());
    assert_eq!(judge(r#"{"status":"healthy","more":1}"#), Ok(()), "unknown fields are ignored");
    for wrong in ["", "{", "{}", r#"{"status":"fine"}"#] {
        assert!(judge(wrong).is_err(), "{wrong}");
    }
    let judge = |target: &str| DOCUMENT.judge_request(&Method::GET, target, b"");
    assert_eq!(judge("/api/v1/agents?limit=0&limit=200&more=1"), Ok(()), "the last of them counts");
    for wrong in ["/api/v1/agents?limit=0", "/api/v1/agents?limit=x", "/api/v1/agents/x"] {
        assert!(judge(wrong).is_err(), "{wrong}");
    }
}

/// What a receiver is sent by `channel.test`, with these changes.
fn message(header: &'static str, body: &Value) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", header] {
        headers.insert(name, HeaderValue::from_static("1"));
    }
    DOCUMENT.judge_message(&headers, &body.to_string())
}

#[test]
fn a_message_that_is_not_documented_is_found() {
    let id = "b7ec1a5e-6ad0-5c4f-9d77-0a1f0d4f3a55";
    let body = json!({
        "type": "channel.test",
        "timestamp": "2026-01-01T00:00:30.000Z",
        "data": { "channel": { "id": id, "label": null } },
    });
    let problem = |header, body: &Value| message(header, body).expect_err("a problem");
    assert_eq!(message("webhook-signature", &body), Ok(()));
    assert_eq!(problem("webhook-more", &body), "header webhook-signature is missing");
    let changed = |place: &str, value: Value| {
        let mut body = body.clone();
        *body.pointer_mut(place).expect("a place") = value;
        problem("webhook-signature", &body)
    };
    assert!(changed("/data/channel", json!({ "id": id, "label": null, "more": 1 })).contains("'more'"));
    assert!(changed("/timestamp", json!("yesterday")).contains("/timestamp"));
    assert_eq!(changed("/type", json!("channel.nothing")), "\"channel.nothing\" is not documented");
}

/// A test that is off contract says so; each new one is a decision.
#[test]
fn requests_that_are_off_contract_are_counted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut calls = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("a source");
                calls += text.matches(concat!("_off_", "contract(")).count();
            }
        }
    }
    assert_eq!(calls, 5, "the function, its call in the support, and three tests");
}
