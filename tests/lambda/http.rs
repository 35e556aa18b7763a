//! The functions behind the API.

use std::collections::BTreeSet;

use functions::register;
use lambda_http::Body;
use lambda_http::http::Request;
use reqwest::Url;
use serde_json::{Value, json};
use shared::config::Config;
use shared::domain::event::EventIds;
use shared::runtime::app::App;
use shared::runtime::respond::respond;
use shared::time::Timestamp;

use super::deployment::{
    Deployment, call, events_of_the_wrong_kind, fixture, log_records, post, request, with_header,
};
use crate::support::TestAgent;
use crate::support::dynamodb_proxy::{Fault, When};

fn agent_in(registered: &Value) -> TestAgent {
    let text = |field: &str| registered[field].as_str().expect("a string").to_owned();
    TestAgent { id: text("agentId"), key: text("apiKey") }
}

#[tokio::test]
async fn an_agent_lives_through_the_binaries() {
    let deployment = Deployment::start().await;

    let register = deployment.function("register").await;
    let registered = call(&register, fixture("apigw-v2-register.json")).await;
    assert_eq!(registered.data()["status"], "pending");
    assert_eq!(registered.header("content-type"), Some("application/json"));
    assert_eq!(registered.header("x-request-id"), Some("HZyQJj2goAMEPKA="), "API Gateway's own id");
    let agent = agent_in(&registered.data());
    assert_eq!(deployment.system.row(&agent).await["agent_name"].as_s().unwrap(), "researcher-1");

    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    let early = call(&heartbeat, said.clone()).await;
    assert_eq!(early.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(early.header("www-authenticate"), Some("Bearer"));

    let verify = deployment.function("verify").await;
    let verified = call(&verify, post("/api/agents/verify", &json!({ "apiKey": agent.key }))).await;
    assert_eq!(verified.data(), json!({ "agentId": agent.id, "status": "active" }));

    let heard = call(&heartbeat, said).await.data();
    assert_eq!(heard["agentId"], agent.id.as_str());
    assert_eq!(heard["intervalSeconds"], 60, "the fixture's own heartbeatConfig");
    let row = deployment.system.row(&agent).await;
    let moment = |name: &str| row[name].as_n().unwrap().parse::<i64>().unwrap();
    assert_eq!(moment("lease_expires_at") - moment("last_seen_at"), 180_000);

    let events = deployment.function("post-events").await;
    let event = json!({ "event": "tool_call", "payload": { "tool": "search" } });
    let event = with_header(post("/api/agents/events", &event), "x-agent-token", &agent.key);
    let posted = call(&events, event).await.data();
    assert_eq!(posted["payload"], json!({ "tool": "search" }));
    assert!(deployment.system.event_types(&agent).await.contains(&"tool_call".to_owned()));

    let health = deployment.function("health").await;
    assert_eq!(call(&health, fixture("apigw-v2-health.json")).await.json(), json!({ "ok": true }));
    assert_eq!(call(&health, request("GET", "/readyz")).await.status, 200);
}

#[tokio::test]
async fn what_no_route_takes_is_answered_in_the_contract_of_its_path() {
    let deployment = Deployment::start().await;
    let fallback = deployment.function("fallback").await;
    let unknown = call(&fallback, request("GET", "/api/agents/nowhere")).await;
    assert_eq!(unknown.refusal(), (404, "NOT_FOUND".to_owned()));
    let method = call(&fallback, request("DELETE", "/api/agents/heartbeat")).await;
    assert_eq!(method.refusal(), (405, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(method.header("allow"), Some("POST"));
    let other_contract = call(&fallback, request("GET", "/api/v1/nowhere")).await;
    assert_eq!(other_contract.status, 404);
    assert!(other_contract.json().get("ok").is_none(), "{}", other_contract.text);
    let preflight = call(&fallback, request("OPTIONS", "/api/agents/heartbeat")).await;
    assert_eq!((preflight.status, preflight.text.as_str()), (204, ""));
    let tally = deployment.system.proxy.take();
    assert_eq!(tally.requests(), 0, "{:?}", tally.operations());
}

#[tokio::test]
async fn a_body_in_base64_is_read_like_any_other() {
    let deployment = Deployment::start().await;
    let register = deployment.function("register").await;
    let agent = agent_in(&call(&register, fixture("apigw-v2-register-base64.json")).await.data());
    assert_eq!(deployment.system.row(&agent).await["agent_name"].as_s().unwrap(), "forscher-ü");
}

#[tokio::test]
async fn an_event_without_body_headers_and_query_is_bad_input_and_no_failure() {
    let deployment = Deployment::start().await;
    let register = deployment.function("register").await;
    let reply = call(&register, fixture("apigw-v2-missing-fields.json")).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    assert_eq!(reply.header("x-request-id"), Some("HZyQMiXaIAMEJcQ="));
}

#[tokio::test]
async fn one_process_answers_one_invocation_after_the_other() {
    let deployment = Deployment::start().await;
    let register = deployment.function("register").await;
    let mut keys = BTreeSet::new();
    for name in ["first", "second", "third"] {
        let reply = call(&register, post("/api/agents/register", &json!({ "name": name }))).await;
        keys.insert(agent_in(&reply.data()).key);
    }
    assert_eq!(keys.len(), 3, "each agent has a key of its own");
    assert!(register.is_alive());
}

#[tokio::test]
async fn an_event_of_the_wrong_kind_is_an_error_of_its_own_invocation() {
    let deployment = Deployment::start().await;
    let unknown_key = json!({ "apiKey": "0".repeat(48), "status": "healthy", "event": "tool_call" });
    for (binary, next, status) in [
        ("register", fixture("apigw-v2-register.json"), 200),
        ("verify", post("/api/agents/verify", &unknown_key), 401),
        ("heartbeat", post("/api/agents/heartbeat", &unknown_key), 401),
        ("post-events", post("/api/agents/events", &unknown_key), 401),
        ("health", fixture("apigw-v2-health.json"), 200),
        ("fallback", request("GET", "/nowhere"), 404),
    ] {
        let lambda = deployment.function(binary).await;
        for (sender, event) in events_of_the_wrong_kind() {
            let invocation = lambda.invoke(event).await;
            assert!(invocation.is_error(), "{binary} answered an event of {sender}: {invocation:?}");
        }
        assert_eq!(call(&lambda, next).await.status, status, "{binary}, after events of the wrong kind");
    }
}

#[tokio::test]
async fn a_broken_deployment_is_a_bare_500_and_not_the_end_of_the_process() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("steady").await;
    let heartbeat = deployment.function_with("heartbeat", &[("EVENTS_TABLE", "no-such-table")]).await;
    let says =
        |status: &str| post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": status }));
    // Only to say `offline` takes the table that is missing.
    let broken = call(&heartbeat, with_header(says("offline"), "x-request-id", "mine-7")).await;
    assert_eq!(
        broken.json(),
        json!({
            "ok": false,
            "error": { "code": "INTERNAL", "message": "internal error" },
        })
    );
    assert_eq!((broken.status, broken.header("x-request-id")), (500, Some("mine-7")));
    assert_eq!(call(&heartbeat, says("healthy")).await.data()["status"], "healthy");

    heartbeat.stop().await;
    let records = log_records(&heartbeat);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((&records[0]["level"], &records[0]["request_id"]), (&json!("ERROR"), &json!("mine-7")));
    let cause = records[0]["cause"].as_str().expect("a cause");
    assert!(cause.contains("ResourceNotFoundException"), "{cause}");
}

#[tokio::test]
async fn a_panic_is_a_500_in_the_contract_of_the_path() {
    let deployment = Deployment::start().await;
    let environment = deployment.environment("register");
    let config = Config::read(register::FUNCTION.reads, |name| environment.get(name).cloned())
        .expect("the configuration");
    let app: &App =
        Box::leak(Box::new(App::new(config, deployment.system.dynamodb.clone(), EventIds::default())));
    for (path, text) in [
        (
            "/api/agents/register",
            json!({
                "ok": false,
                "error": { "code": "INTERNAL", "message": "internal error" },
            }),
        ),
        ("/api/v1/agents", Value::Null),
    ] {
        let event = Request::post(path).body(Body::Empty).expect("a request");
        let response =
            respond(app, |_, _, _| Box::pin(async { panic!("at the disco") }), event, Timestamp::now()).await;
        assert_eq!(response.status(), 500, "{path}");
        let Body::Text(body) = response.body() else { panic!("{path}: {:?}", response.body()) };
        assert!(!body.contains("disco"), "{path}: {body}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert!(text.is_null() || text == body, "{path}: {body}");
    }
}

/// Two windows hold at most as many of them as three calls: whenever the minute ends, one of three is too many.
#[tokio::test]
async fn callers_without_a_row_are_counted_by_the_address_that_api_gateway_saw() {
    let deployment = Deployment::with(&[("RegisterLimitPerIp", "1")]).await;
    let register = deployment.function("register").await;
    let from = |address: &str| {
        let mut event = fixture("apigw-v2-register.json");
        event["requestContext"]["http"]["sourceIp"] = json!(address);
        event
    };
    let mut refused = Vec::new();
    for spoofed in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let reply = call(&register, with_header(from("203.0.113.7"), "x-forwarded-for", spoofed)).await;
        assert_eq!(reply.header("ratelimit-policy"), Some("\"register\";q=1;w=60"));
        if reply.status == 429 {
            refused.push(reply);
        }
    }
    assert!(!refused.is_empty(), "three registrations from one address, and one a minute is allowed");
    for reply in refused {
        assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
        let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    call(&register, from("2001:db8:1:2::3")).await.data();

    let windows = deployment.system.dynamodb.scan().table_name(deployment.system.table("WindowsTable"));
    let rows = windows.send().await.expect("the windows").items.unwrap_or_default();
    let key = |row: &std::collections::HashMap<_, aws_sdk_dynamodb::types::AttributeValue>| {
        let id = row["window_id"].as_s().expect("a string").clone();
        id.rsplit_once('#').expect("the window's number").0.to_owned()
    };
    let counted: BTreeSet<String> = rows.iter().map(key).collect();
    assert_eq!(counted, ["register#2001:db8:1:2::/64", "register#203.0.113.7"].map(str::to_owned).into());
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_own_entry_of_x_forwarded_for_counts() {
    let deployment = Deployment::with(&[("RegisterLimitPerIp", "1"), ("TrustedProxyHops", "1")]).await;
    let register = deployment.function("register").await;
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let event = with_header(fixture("apigw-v2-register.json"), "x-forwarded-for", address);
        call(&register, event).await.data();
    }
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_without_the_database() {
    let deployment = Deployment::start().await;
    let register = deployment.function("register").await;
    deployment.system.proxy.take();
    let body = json!({ "name": "large", "padding": "x".repeat(64 * 1024) });
    let reply = call(&register, post("/api/agents/register", &body)).await;
    assert_eq!(reply.refusal(), (413, "PAYLOAD_TOO_LARGE".to_owned()));
    assert_eq!(deployment.system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_throttled_database_is_a_503_that_says_when_to_come_back() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("steady").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    for fault in [Fault::Throttled, Fault::ThroughputExceeded, Fault::InternalError, Fault::DropRequest] {
        let throttled = deployment.system.proxy.inject(When::writes(), fault.clone());
        let reply = call(&heartbeat, said.clone()).await;
        assert_eq!(reply.refusal(), (503, "UNAVAILABLE".to_owned()), "{fault:?}");
        assert_eq!(reply.header("retry-after"), Some("2"), "{fault:?}");
        assert!(throttled.hits() >= 2, "{fault:?}: the SDK tries again, {} times", throttled.hits());
        throttled.clear();
        call(&heartbeat, said.clone()).await.data();
    }
}

#[tokio::test]
async fn a_database_that_never_answers_is_a_503_and_no_hang() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("patient").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    let silence = deployment.system.proxy.inject(When::always(), Fault::Hang);
    assert_eq!(call(&heartbeat, said.clone()).await.refusal(), (503, "UNAVAILABLE".to_owned()));
    silence.clear();
    call(&heartbeat, said).await.data();
}

/// A mapping of a custom domain, of one part and of several; one may even be called as the routes begin.
const MAPPINGS: [&str; 3] = ["/rollcall", "/teams/rollcall-2", "/api"];

/// The same event as API Gateway sends it for a custom domain with a mapping, or a stage with a name: the path begins
/// with it, the route does not. Without its own endpoint, the domain is all that a client ever sees.
fn mapped(mapping: &str, mut event: Value) -> Value {
    let path = format!("{mapping}{}", event["rawPath"].as_str().expect("a path"));
    event["rawPath"] = json!(path);
    event["requestContext"]["http"]["path"] = json!(path);
    event["requestContext"]["domainName"] = json!("agents.example");
    event["requestContext"]["domainPrefix"] = json!("agents");
    with_header(with_header(event, "host", "agents.example"), "x-forwarded-proto", "https")
}

/// API Gateway's event for a route with this variable in it.
fn with_parameter(method: &str, route: &str, name: &str, value: &str) -> Value {
    let mut event = request(method, &route.replace(&format!("{{{name}}}"), value));
    event["routeKey"] = json!(format!("{method} {route}"));
    event["requestContext"]["routeKey"] = event["routeKey"].clone();
    event["pathParameters"] = json!({ name: value });
    event
}

#[tokio::test]
async fn a_mapping_before_the_path_changes_no_answer_and_stands_in_the_rendered_lines() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("mapped").await;
    let get = deployment.function("get-agent").await;
    let heartbeat = deployment.function("heartbeat").await;
    let workspace = deployment.function("get-workspace").await;
    let tokens = deployment.function("create-token").await;
    let fallback = deployment.function("fallback").await;
    // By the machine's clock, which is the functions'.
    let operator =
        deployment.function("mint-token").await.invoke(json!({ "kind": "operator" })).await.answer();
    let operator = format!("Bearer {}", operator["token"].as_str().expect("a token"));
    for mapping in MAPPINGS {
        let of_agent = |method: &str, route: &str| {
            let event = mapped(mapping, with_parameter(method, route, "agent_id", &agent.id));
            with_header(event, "x-agent-token", &agent.key)
        };
        let shown = call(&get, of_agent("GET", "/api/v1/agents/{agent_id}")).await;
        assert_eq!(shown.json()["name"], "mapped", "{}", shown.text);
        for route in ["/api/v1/agents/{agent_id}/heartbeat", "/api/v1/agent/heartbeat"] {
            let reply = call(&heartbeat, of_agent("POST", route)).await;
            assert_eq!(reply.json()["id"], agent.id.as_str(), "{route}: {}", reply.text);
        }
        let body = json!({ "apiKey": agent.key, "status": "healthy" });
        let reply = call(&heartbeat, mapped(mapping, post("/api/agents/heartbeat", &body))).await;
        assert_eq!(reply.data()["agentId"], agent.id.as_str());

        let api = format!("https://agents.example{mapping}");
        let files = call(&workspace, of_agent("GET", "/api/v1/agents/{agent_id}/workspace")).await;
        let tools = files.json()["files"]["TOOLS.md"].as_str().expect("a file").to_owned();
        assert!(tools.contains(&format!("{api}\n")), "{tools}");
        let wanted = json!({ "kind": "operator", "label": "behind a mapping" });
        let minting = mapped(mapping, post("/api/v1/tokens", &wanted));
        let minted = call(&tokens, with_header(minting, "authorization", &operator)).await.json();
        let link = format!("{api}/#token={}", minted["token"].as_str().expect("a token"));
        assert_eq!(minted["link"], link.as_str());

        let unrouted = |method: &str, path: &str| {
            call(&fallback, with_default_route(mapped(mapping, request(method, path))))
        };
        assert_eq!(unrouted("GET", "/api/v1/nothing").await.json()["detail"], "no such route", "{mapping}");
        assert_eq!(unrouted("GET", "/api/agents/nothing").await.refusal().1, "NOT_FOUND", "{mapping}");
        let method = unrouted("DELETE", "/api/agents/heartbeat").await;
        assert_eq!((method.status, method.header("allow")), (405, Some("POST")), "{mapping}");
        let slash = unrouted("POST", "/api/v1/agents/").await;
        let location = format!("{mapping}/api/v1/agents");
        assert_eq!((slash.status, slash.header("location")), (308, Some(location.as_str())), "{mapping}");
    }
}

/// Addresses in the page are relative, so each is right wherever the page itself was found.
#[tokio::test]
async fn behind_a_mapping_the_page_finds_its_files_and_the_api() {
    let deployment = Deployment::start().await;
    let page = deployment.function("page").await;
    for mapping in MAPPINGS {
        let root = Url::parse(&format!("https://agents.example{mapping}/")).expect("a URL");
        let html = call(&page, mapped(mapping, request("GET", "/"))).await;
        assert_eq!(html.status, 200, "{}", html.text);
        assert!(html.header("strict-transport-security").is_some(), "TLS ends at the domain");

        let mut wanted: Vec<Url> = ["href=\"", "src=\""]
            .iter()
            .flat_map(|attribute| html.text.split(attribute).skip(1))
            .map(|rest| root.join(rest.split('"').next().expect("an address")).expect("a URL"))
            .collect();
        assert!(wanted.len() > 3, "{}", html.text);
        let mut read = BTreeSet::new();
        while let Some(url) = wanted.pop() {
            if !read.insert(url.path().to_owned()) {
                continue;
            }
            let route = url.path().strip_prefix(mapping).unwrap_or_else(|| panic!("{url} is not in {root}"));
            let name = route.strip_prefix("/page/").unwrap_or_else(|| panic!("{url} is no file of the page"));
            let event = mapped(mapping, with_parameter("GET", "/page/{file}", "file", name));
            let file = call(&page, event).await;
            assert_eq!(file.status, 200, "{url}: {}", file.text);
            wanted.extend(
                file.text
                    .split(" from \"./")
                    .skip(1)
                    .map(|rest| url.join(rest.split('"').next().expect("a module")).expect("a URL")),
            );
            // A script asks relative to the page, and not to itself.
            for rest in file.text.split("fetch(`").skip(1) {
                let asked = root.join(rest.split('$').next().expect("an address")).expect("a URL");
                assert_eq!(asked.path(), format!("{mapping}/api/v1/"), "{url}");
            }
        }
        assert!(read.len() > 8, "{read:?}");

        // Without the slash at its end, as a mapping is mostly typed, they would be sought beside it.
        let mut bare = mapped(mapping, request("GET", "/"));
        bare["rawPath"] = json!(mapping);
        bare["rawQueryString"] = json!("from=chat");
        let moved = call(&page, bare).await;
        let location = format!("{mapping}/?from=chat");
        assert_eq!((moved.status, moved.header("location")), (308, Some(location.as_str())));
    }
}

fn with_default_route(mut event: Value) -> Value {
    event["routeKey"] = json!("$default");
    event["requestContext"]["routeKey"] = json!("$default");
    event
}

/// What a stranger writes into a URL or a header reaches the function as API Gateway heard it.
#[tokio::test]
async fn no_event_of_a_strangers_making_panics_or_writes_an_error_line() {
    let deployment = Deployment::start().await;
    let health = deployment.function("health").await;
    let mut events = Vec::new();
    for query in ["a=\"b\"", "a=<b>", "a= b", "a=\u{1}", "%", "&&&=", "a=\u{e9}#", "\u{0}"] {
        let mut event = request("GET", "/health");
        event["rawQueryString"] = json!(query);
        events.push(event);
    }
    for host in ["", " ", "a b", "localhost:99999", "[::1", "\u{e9}"] {
        events.push(with_header(request("GET", "/health"), "host", host));
    }
    events.push(with_header(request("GET", "/health"), "x-forwarded-proto", "https,http"));
    for path in ["", "health", "/a b", "/<script>", "/\u{0}", "//", "/%", "/#"] {
        let mut event = request("GET", "/health");
        event["rawPath"] = json!(path);
        events.push(event);
    }
    for event in events {
        let reply = call(&health, event.clone()).await;
        assert_eq!(reply.status, 200, "{event}");
    }
    // What no gateway lets through is an error of its invocation, and a warning.
    let name_that_is_no_token = with_header(request("GET", "/health"), "a name", "x");
    assert!(health.invoke(name_that_is_no_token).await.is_error());
    let mut broken = post("/api/agents/register", &json!({ "name": "a" }));
    broken["isBase64Encoded"] = json!(true);
    let register = deployment.function("register").await;
    let reply = call(&register, broken).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    for (lambda, warnings) in [(health, 1), (register, 0)] {
        lambda.stop().await;
        let records = log_records(&lambda);
        assert_eq!(records.len(), warnings, "{records:?}");
        assert!(records.iter().all(|record| record["level"] == "WARN"), "{records:?}");
    }
}
