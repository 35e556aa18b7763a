//! What holds for every route: credentials, unknown paths and methods, request ids, CORS, health.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Reply, TestSystem};

/// The routes of the envelope's contract; Mission Control's and the page's files have tests of their own.
fn routes() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    let is_file = |path: &str| path == "/page/{file}";
    functions::ROUTES.iter().filter(move |(_, path, _)| !path.starts_with("/api/v1/") && !is_file(path))
}

/// A body that each route would take, without a credential.
fn good_body(path: &str) -> Value {
    match path {
        "/api/agents/register" => json!({ "name": "a" }),
        "/api/agents/verify"
        | "/api/agents/rotate-key"
        | "/health"
        | "/healthz"
        | "/readyz"
        | "/"
        | "/openapi.json" => json!({}),
        "/api/agents/heartbeat" => json!({ "status": "healthy" }),
        "/api/agents/heartbeats" => json!({ "heartbeats": [{ "name": "a", "status": "healthy" }] }),
        "/api/agents/events" => json!({ "event": "e" }),
        other => panic!("say here what {other} takes"),
    }
}

/// What a route answers to a call without a credential, with one that is none, with one that nobody has, and
/// with one of another kind. `None`: the route is public.
fn refusals(path: &str) -> Option<[(u16, &'static str); 4]> {
    let (missing, malformed) = ((401, "UNAUTHORIZED"), (401, "UNAUTHORIZED"));
    match path {
        "/api/agents/register"
        | "/api/agents/heartbeat"
        | "/api/agents/events"
        | "/api/agents/rotate-key" => Some([missing, malformed, (401, "UNAUTHORIZED"), (403, "FORBIDDEN")]),
        "/api/agents/verify" => Some([(401, "INVALID_KEY"); 4]),
        // Credentials of each kind may send a batch.
        "/api/agents/heartbeats" => Some([(401, "UNAUTHORIZED"); 4]),
        "/health" | "/healthz" | "/readyz" | "/" | "/openapi.json" => None,
        other => panic!("say here what {other} requires"),
    }
}

/// A well-formed credential of the kind that the route takes, and one of another kind.
fn strangers(path: &str) -> [String; 2] {
    let hex = "0123456789abcdef".repeat(3);
    let (key, enrollment, operator) = (hex.clone(), format!("rce_{hex}"), format!("rco_{hex}"));
    match path {
        "/api/agents/register" => [enrollment, key],
        "/api/agents/heartbeats" => [key, enrollment],
        _ => [key, operator],
    }
}

#[tokio::test]
async fn every_route_refuses_missing_malformed_and_wrong_credentials() {
    let system = TestSystem::with().parameter("Registration", "enrollment").start().await;
    for (method, path, _) in routes() {
        let body = if *method == "GET" { String::new() } else { good_body(path).to_string() };
        let call = async |header: Option<(&str, &str)>| {
            let headers: Vec<_> = header.into_iter().collect();
            system.send(method.parse().unwrap(), path, &headers, body.clone()).await
        };
        let Some([missing, malformed, unknown, wrong_kind]) = refusals(path) else {
            assert_eq!(call(None).await.status, 200, "{path}");
            continue;
        };
        let expect = |reply: Reply, (status, code): (u16, &str), what: &str| {
            assert_eq!(reply.refusal(), (status, code.to_owned()), "{path}: {what}");
            let challenge = (status == 401).then_some("Bearer");
            assert_eq!(reply.header("www-authenticate"), challenge, "{path}: {what}");
        };
        expect(call(None).await, missing, "none");
        let [stranger, other_kind] = strangers(path);
        for name in ["x-agent-token", "authorization"] {
            let value = |credential: &str| match name {
                "authorization" => format!("Bearer {credential}"),
                _ => credential.to_owned(),
            };
            for credential in ["nonsense", &stranger[1..], &format!("{stranger}0"), "rcx_"] {
                expect(call(Some((name, &value(credential)))).await, malformed, credential);
            }
            expect(call(Some((name, &value(&stranger)))).await, unknown, "unknown");
            expect(call(Some((name, &value(&other_kind)))).await, wrong_kind, "of another kind");
        }
    }
    assert!(system.rows("AgentsTable").await.is_empty());
}

// ---- What no route takes ---------------------------------------------------------------------------------

#[tokio::test]
async fn an_unknown_path_is_404_in_the_contract_of_the_path() {
    let system = TestSystem::start().await;
    for path in [
        "/nothing",
        "/api",
        "/api/agents",
        "/api/agents/register/x",
        "/api/agents/nobody",
        "/API/agents/register",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT] {
            let reply = system.send(method, path, &[], "").await;
            assert_eq!(reply.refusal(), (404, "NOT_FOUND".to_owned()), "{path}");
            assert_eq!(reply.header("content-type"), Some("application/json"));
            assert!(reply.header("x-request-id").is_some());
        }
    }
    for path in ["/api/v1", "/api/v1/", "/api/v1/nothing"] {
        let reply = system.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        let body = json!({ "detail": "no such route", "request_id": reply.header("x-request-id") });
        assert_eq!(reply.json(), body, "{path}");
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_slash_too_many_is_a_redirect_to_the_route_and_never_to_another_host() {
    let system = TestSystem::start().await;
    for (path, location) in [
        ("/api/v1/agents/", "/api/v1/agents"),
        ("/api/v1/agents/?limit=1", "/api/v1/agents?limit=1"),
        ("/api/agents/heartbeat/", "/api/agents/heartbeat"),
        ("//api/agents/heartbeat", "/api/agents/heartbeat"),
        ("/rollcall//api/agents/heartbeat", "/rollcall/api/agents/heartbeat"),
        ("//evil.example/api/agents/heartbeat", "/evil.example/api/agents/heartbeat"),
        ("/health/", "/health"),
    ] {
        let reply = system.send(Method::POST, path, &[], "").await;
        assert_eq!((reply.status, reply.header("location")), (308, Some(location)), "{path}");
    }
    assert_eq!(system.send(Method::POST, "//evil.example/", &[], "").await.status, 404);
}

#[tokio::test]
async fn health_answers_head_without_a_body() {
    let system = TestSystem::start().await;
    for path in ["/health", "/healthz", "/readyz"] {
        let reply = system.send(Method::HEAD, path, &[], "").await;
        assert_eq!((reply.status, reply.text.as_str()), (200, ""), "{path}");
    }
}

/// Every method that has a route for this path, by name or by a variable.
fn methods_of(path: &str) -> BTreeSet<String> {
    let takes = |template: &str| {
        let (expected, parts) = (template.split('/'), path.split('/'));
        template.split('/').count() == path.split('/').count()
            && expected.zip(parts).all(|(expected, part)| expected.starts_with('{') || expected == part)
    };
    let routes = functions::ROUTES.iter().filter(|(_, template, _)| takes(template));
    routes.map(|(method, ..)| (*method).to_owned()).collect()
}

#[tokio::test]
async fn a_wrong_method_is_405_with_the_right_ones() {
    let system = TestSystem::start().await;
    for (_, path, _) in functions::ROUTES {
        let right = methods_of(path);
        for wrong in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if right.contains(wrong.as_str()) {
                continue;
            }
            let reply = system.send(wrong.clone(), path, &[], "").await;
            assert_eq!(reply.status, 405, "{wrong} {path}: {}", reply.text);
            assert_eq!(reply.headers.get_all("allow").iter().count(), 1, "{wrong} {path}");
            let allowed = list(&reply, "allow").into_iter().map(|method| method.to_uppercase());
            assert_eq!(allowed.collect::<BTreeSet<_>>(), right, "{wrong} {path}");
            if path.starts_with("/api/v1") {
                assert!(reply.json()["detail"].is_string(), "{wrong} {path}");
            } else {
                assert_eq!(reply.refusal().1, "METHOD_NOT_ALLOWED", "{wrong} {path}");
            }
        }
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

// ---- Request ids -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_sane_request_id_comes_back_and_any_other_is_replaced() {
    let system = TestSystem::start().await;
    let longest = "x".repeat(128);
    for id in ["a", "7f3b-22", "{}\"'<>&", longest.as_str()] {
        let reply = system.send(Method::GET, "/health", &[("x-request-id", id)], "").await;
        assert_eq!(reply.header("x-request-id"), Some(id));
    }
    let too_long = "x".repeat(129);
    for id in ["", " ", "a b", "a\tb", "é", too_long.as_str()] {
        let reply = system.send(Method::GET, "/health", &[("x-request-id", id)], "").await;
        let made = reply.header("x-request-id").expect("an id");
        assert!(uuid::Uuid::parse_str(made).is_ok(), "{id:?}: {made}");
    }
    let (first, second) = (system.get("/health").await, system.get("/health").await);
    assert_ne!(first.header("x-request-id").unwrap(), second.header("x-request-id").unwrap());
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 1).start().await;
    let agent = system.verified("a").await;
    let statuses = [
        system.heartbeat(&agent, "healthy").await,
        system.heartbeat(&agent, "healthy").await,
        system.heartbeat(&agent, "nonsense").await,
        system.post("/api/agents/heartbeat", &json!({ "status": "healthy" })).await,
        system.get("/api/agents/heartbeat").await,
        system.get("/nowhere").await,
        system.send(Method::POST, "/api/agents/register", &[], "x".repeat(65_537)).await,
    ]
    .map(|reply| {
        assert!(reply.header("x-request-id").is_some(), "{}", reply.text);
        reply.status
    });
    assert_eq!(statuses, [200, 429, 400, 401, 405, 404, 413]);
}

// ---- CORS ------------------------------------------------------------------------------------------------

fn list(reply: &Reply, header: &str) -> Vec<String> {
    let value = reply.header(header).unwrap_or_default();
    let mut words: Vec<_> = value.split(',').map(|word| word.trim().to_lowercase()).collect();
    words.sort();
    words
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_function() {
    let system = TestSystem::start().await;
    for (method, path, _) in functions::ROUTES {
        let headers = [
            ("origin", "https://app.example"),
            ("access-control-request-method", *method),
            ("access-control-request-headers", "x-agent-token,content-type"),
        ];
        let reply = system.send(Method::OPTIONS, path, &headers, "").await;
        assert!(matches!(reply.status, 200 | 204), "{path}: {}", reply.status);
        assert_eq!(reply.text, "");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(list(&reply, "access-control-allow-methods"), ["delete", "get", "patch", "post"]);
        let allowed = [
            "authorization",
            "cache-control",
            "content-type",
            "traceparent",
            "tracestate",
            "x-agent-token",
            "x-request-id",
            "x-requested-with",
        ];
        assert_eq!(list(&reply, "access-control-allow-headers"), allowed);
        assert_eq!(reply.header("access-control-max-age"), Some("3600"));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn answers_and_refusals_can_be_read_by_pages_of_every_origin() {
    let system = TestSystem::start().await;
    let origin = ("origin", "https://app.example");
    for (method, path, status) in [
        (Method::GET, "/health", 200),
        (Method::POST, "/api/agents/heartbeat", 401),
        (Method::GET, "/nowhere", 404),
        (Method::PUT, "/health", 405),
    ] {
        let reply = system.send(method, path, &[origin], "").await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{path}");
        let exposed = ["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"];
        assert_eq!(list(&reply, "access-control-expose-headers"), exposed, "{path}");
    }
}

#[tokio::test]
async fn only_the_configured_origins_are_let_in() {
    let origins = "https://a.example,https://b.example";
    let system = TestSystem::with().parameter("CorsOrigins", origins).start().await;
    for (origin, allowed) in [
        ("https://a.example", Some("https://a.example")),
        ("https://b.example", Some("https://b.example")),
        ("https://c.example", None),
        ("http://a.example", None),
    ] {
        let reply = system.send(Method::GET, "/health", &[("origin", origin)], "").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{origin}");
    }
}

// ---- Health ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn health_asks_nobody_and_readiness_asks_the_database() {
    let system = TestSystem::start().await;
    for path in ["/health", "/healthz", "/readyz"] {
        let reply = system.get(path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "ok": true })), "{path}");
        let expected: &[&str] = if path == "/readyz" { &["GetItem"] } else { &[] };
        assert_eq!(system.proxy.take().operations(), expected, "{path}");
    }

    system.proxy.close().await;
    for path in ["/health", "/healthz"] {
        assert_eq!(system.get(path).await.status, 200, "{path}");
    }
    let reply = system.get("/readyz").await;
    assert_eq!(reply.refusal(), (503, "UNAVAILABLE".to_owned()));
    assert_eq!(reply.header("retry-after"), Some("2"));

    system.proxy.reopen();
    assert_eq!(system.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn readiness_knows_a_missing_table() {
    let system = TestSystem::start().await;
    system.dynamodb.delete_table().table_name(system.table("AgentsTable")).send().await.unwrap();
    let reply = system.get("/readyz").await;
    assert_eq!(reply.refusal(), (500, "INTERNAL".to_owned()));
    assert_eq!(reply.message(), "internal error", "the cause is for the log");
    assert!(system.proxy.tally().on(&system.table("AgentsTable")).requests() >= 1);
}
