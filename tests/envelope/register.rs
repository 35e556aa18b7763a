//! `POST /api/agents/register`.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::dynamodb_proxy::When;
use crate::support::{Reply, Row, START, TestAgent, TestSystem, number, quota, text};

const PATH: &str = "/api/agents/register";

async fn enrollment() -> TestSystem {
    TestSystem::with().parameter("Registration", "enrollment").start().await
}

async fn register_with(system: &TestSystem, token: &str, body: &Value) -> Reply {
    system.post_with(PATH, &[("x-agent-token", token)], body).await
}

fn agent_of(reply: &Reply) -> TestAgent {
    let data = reply.data();
    let text = |field: &str| data[field].as_str().expect("a string").to_owned();
    TestAgent { id: text("agentId"), key: text("apiKey") }
}

#[tokio::test]
async fn the_answer_is_an_id_a_key_and_pending() {
    let system = TestSystem::start().await;
    let reply = system.register(&json!({ "name": "researcher-1" })).await;
    let agent = agent_of(&reply);
    let data = json!({ "agentId": agent.id, "apiKey": agent.key, "status": "pending" });
    assert_eq!(reply.json(), json!({ "ok": true, "data": data }));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(Uuid::parse_str(&agent.id).unwrap().get_version_num(), 5);
    assert_eq!(agent.key.len(), 48);
    assert!(agent.key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{}", agent.key);
}

#[tokio::test]
async fn a_registration_is_a_pending_row_and_its_event() {
    let system = TestSystem::start().await;
    let agent = system.registered("researcher-1").await;
    let row = system.row(&agent).await;
    assert_eq!(text(&row, "agent_name"), Some("researcher-1"));
    assert_eq!(text(&row, "agent_state"), Some("pending"));
    assert_eq!(number(&row, "interval_ms"), Some(60_000));
    assert_eq!(number(&row, "tolerance_ms"), Some(120_000));
    assert_eq!(number(&row, "created_at"), Some(START.as_millis()));
    assert_eq!(number(&row, "expires_at"), Some(START.as_seconds() + 7 * 86_400));
    assert_eq!(row.get("board_id"), None);
    assert_eq!(row.get("last_seen_at"), None);
    let config = json!({ "interval_seconds": 60, "missing_tolerance": 120 });
    let payload =
        json!({ "name": "researcher-1", "board_id": null, "state": "pending", "heartbeat_config": config });
    assert_eq!(system.payloads(&agent, "agent.registered").await, [payload]);
}

#[tokio::test]
async fn registering_twice_makes_two_agents() {
    let system = TestSystem::start().await;
    let (first, second) = (system.registered("twin").await, system.registered("twin").await);
    assert_ne!(first.id, second.id);
    assert_ne!(first.key, second.key);
    assert_eq!(system.rows("AgentsTable").await.len(), 2);
}

#[tokio::test]
async fn a_good_name_is_kept_without_the_space_around_it() {
    let system = TestSystem::start().await;
    let long = "x".repeat(100);
    let bytes_200 = "é".repeat(100);
    let robots = "🤖".repeat(50);
    for (name, kept) in [
        ("a", "a"),
        ("  researcher 1\t\n", "researcher 1"),
        (&long, long.as_str()),
        (&bytes_200, bytes_200.as_str()),
        (&robots, robots.as_str()),
        ("研究員-1", "研究員-1"),
        ("باحث", "باحث"),
        (r#"quotes " and \ slashes /"#, r#"quotes " and \ slashes /"#),
        ("\u{3000}wide\u{3000}", "wide"),
    ] {
        let agent = agent_of(&system.register(&json!({ "name": name })).await);
        assert_eq!(text(&system.row(&agent).await, "agent_name"), Some(kept));
    }
}

#[tokio::test]
async fn a_bad_name_is_refused_before_any_request() {
    let system = TestSystem::start().await;
    let (too_long, too_many_bytes) = ("x".repeat(101), "漢".repeat(67));
    for body in [
        json!({}),
        json!({ "name": null }),
        json!({ "name": 7 }),
        json!({ "name": true }),
        json!({ "name": ["a"] }),
        json!({ "name": { "a": "b" } }),
        json!({ "name": "" }),
        json!({ "name": " \t\r\n\u{3000}" }),
        json!({ "name": too_long }),
        json!({ "name": too_many_bytes }),
        json!({ "name": "a\u{0}b" }),
        json!({ "name": "a\nb" }),
        json!({ "name": "a\u{7f}b" }),
        json!({ "name": "a\u{85}b" }),
    ] {
        let reply = system.register(&body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
        assert!(reply.message().starts_with("name: "), "{body}: {}", reply.text);
    }
    assert_eq!(system.proxy.take().requests(), 0);
}

/// The board in an agent's row, of 16 bytes there.
fn board_of(row: &Row) -> Option<String> {
    let bytes = row.get("board_id")?.as_b().expect("Binary");
    Some(Uuid::from_slice(bytes.as_ref()).expect("16 bytes").to_string())
}

#[tokio::test]
async fn a_board_is_a_uuid_or_nothing() {
    let system = TestSystem::start().await;
    let board = "0b9c3c86-6b7a-4c55-9d9b-1f5a54a3a2a1";
    for (given, kept) in
        [(json!(board), Some(board)), (json!(board.to_uppercase()), Some(board)), (json!(null), None)]
    {
        let agent = agent_of(&system.register(&json!({ "name": "a", "boardId": given })).await);
        assert_eq!(board_of(&system.row(&agent).await).as_deref(), kept);
    }
    for given in [json!(""), json!("board"), json!(7), json!({}), json!([board]), json!(&board[1..])] {
        let reply = system.register(&json!({ "name": "a", "boardId": given })).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{given}");
        assert_eq!(reply.message(), "boardId: must be a UUID", "{given}");
    }
}

#[tokio::test]
async fn a_heartbeat_config_is_kept_and_completed() {
    let system = TestSystem::start().await;
    for (config, interval_ms, tolerance_ms) in [
        (json!(null), 60_000, 120_000),
        (json!({}), 60_000, 120_000),
        (json!({ "intervalSeconds": null, "missingTolerance": null }), 60_000, 120_000),
        (json!({ "intervalSeconds": 1 }), 1_000, 120_000),
        (json!({ "intervalSeconds": 600 }), 600_000, 1_200_000),
        (json!({ "missingTolerance": 30 }), 15_000, 30_000),
        (json!({ "missingTolerance": 2 }), 1_000, 2_000),
        (json!({ "missingTolerance": 604_800 }), 60_000, 604_800_000),
        (json!({ "intervalSeconds": 86_400, "missingTolerance": 172_800 }), 86_400_000, 172_800_000),
        (json!({ "intervalSeconds": 10, "missingTolerance": 20, "other": [] }), 10_000, 20_000),
    ] {
        let agent = agent_of(&system.register(&json!({ "name": "a", "heartbeatConfig": config })).await);
        let row = system.row(&agent).await;
        assert_eq!(number(&row, "interval_ms"), Some(interval_ms), "{config}");
        assert_eq!(number(&row, "tolerance_ms"), Some(tolerance_ms), "{config}");
    }
}

#[tokio::test]
async fn a_bad_heartbeat_config_names_its_half() {
    let system = TestSystem::start().await;
    let (interval, tolerance) = ("heartbeatConfig.intervalSeconds", "heartbeatConfig.missingTolerance");
    for (config, field) in [
        (json!([]), "heartbeatConfig"),
        (json!(60), "heartbeatConfig"),
        (json!("60"), "heartbeatConfig"),
        (json!({ "intervalSeconds": 0 }), interval),
        (json!({ "intervalSeconds": 86_401 }), interval),
        (json!({ "intervalSeconds": -1 }), interval),
        (json!({ "intervalSeconds": 1.5 }), interval),
        (json!({ "intervalSeconds": "60" }), interval),
        (json!({ "intervalSeconds": true }), interval),
        (json!({ "intervalSeconds": u64::MAX }), interval),
        (json!({ "missingTolerance": 0 }), tolerance),
        (json!({ "missingTolerance": 1 }), tolerance),
        (json!({ "missingTolerance": 604_801 }), tolerance),
        (json!({ "missingTolerance": u64::MAX }), tolerance),
        (json!({ "missingTolerance": [] }), tolerance),
        (json!({ "intervalSeconds": 60, "missingTolerance": 119 }), tolerance),
    ] {
        let reply = system.register(&json!({ "name": "a", "heartbeatConfig": config })).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{config}");
        assert!(reply.message().starts_with(&format!("{field}: ")), "{config}: {}", reply.text);
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let system = TestSystem::start().await;
    let body =
        json!({ "name": "a", "agentId": 7, "status": "active", "apiKey": [], "expires_at": {}, "": 0 });
    let agent = agent_of(&system.register(&body).await);
    assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
}

#[tokio::test]
async fn any_content_type_is_read_as_json() {
    let system = TestSystem::start().await;
    let body = || json!({ "name": "a" }).to_string();
    system.send(Method::POST, PATH, &[], body()).await.data();
    for content_type in ["application/json", "application/json; charset=utf-8", "text/plain", "nonsense"] {
        system.send(Method::POST, PATH, &[("content-type", content_type)], body()).await.data();
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let system = TestSystem::start().await;
    let object = "body: must be a JSON object";
    let bodies: [(&[u8], &str); 12] = [
        (b"[]", object),
        (br#"[{"name": "a"}]"#, object),
        (b"null", object),
        (b"1", object),
        (br#""name""#, object),
        (b"name=a", "body: must be JSON: a form is not read, send JSON"),
        (b"{", "body: must be JSON: EOF while parsing an object at line 1 column 1"),
        (br#"{"name": "a"} {}"#, "body: must be JSON: trailing characters at line 1 column 15"),
        (br#"{"name": "a",}"#, "body: must be JSON: key must be a string at line 1 column 14"),
        (br#"{"name": NaN}"#, "body: must be JSON: expected value at line 1 column 10"),
        (b"{\"name\": \"\xff\"}", "body: must be JSON in UTF-8"),
        (b"\xff\xfe{\0}\0", "body: must be JSON in UTF-8, not UTF-16"),
    ];
    for (body, message) in bodies {
        let reply = system.send(Method::POST, PATH, &[], body).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{shown}");
        assert_eq!(reply.message(), message, "{shown}");
    }
    let compressed = system.send(Method::POST, PATH, &[], b"\x1f\x8b\x08".as_slice()).await;
    assert_eq!(compressed.refusal(), (415, "UNSUPPORTED_MEDIA_TYPE".to_owned()));
    let reply = system.send(Method::POST, PATH, &[], "").await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    assert_eq!(reply.message(), "name: is required");
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_skipped() {
    let system = TestSystem::start().await;
    let reply = system.send_off_contract(Method::POST, PATH, &[], "\u{feff}{\"name\": \"a\"}").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn a_known_field_in_the_other_contracts_spelling_is_refused_with_the_right_one() {
    let system = TestSystem::start().await;
    for (body, message) in [
        (
            json!({ "name": "a", "heartbeat_config": {} }),
            "heartbeat_config: is not read here: send heartbeatConfig",
        ),
        (json!({ "name": "a", "board_id": "x" }), "board_id: is not read here: send boardId"),
        (
            json!({ "name": "a", "heartbeatConfig": { "interval_seconds": 3600 } }),
            "heartbeatConfig.interval_seconds: is not read here: send intervalSeconds",
        ),
    ] {
        let reply = system.post(PATH, &body).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{body}");
        assert_eq!(reply.message(), message, "{body}");
    }
    let agent = system.verified("poster").await;
    let event = json!({ "apiKey": agent.key, "event": "e", "data": {} });
    let reply = system.post("/api/agents/events", &event).await;
    assert_eq!(reply.message(), "data: is not read here: send payload");
}

#[tokio::test]
async fn a_body_has_at_most_64_kib() {
    let system = TestSystem::start().await;
    let frame = json!({ "name": "a", "padding": "" }).to_string().len();
    let body = |len: usize| json!({ "name": "a", "padding": "x".repeat(len - frame) }).to_string();
    assert_eq!(body(65_536).len(), 65_536);
    system.send(Method::POST, PATH, &[], body(65_536)).await.data();
    system.proxy.take();
    let reply = system.send(Method::POST, PATH, &[], body(65_537)).await;
    assert_eq!(reply.refusal(), (413, "PAYLOAD_TOO_LARGE".to_owned()));
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn no_table_holds_the_key() {
    let system = TestSystem::start().await;
    let agent = system.registered("secretive").await;
    system.verify(&agent.key).await.data();
    system.heartbeat(&agent, "healthy").await.data();
    system.post_events(&agent, &json!({ "event": "e", "id": "own" })).await.data();
    let bytes: Vec<u8> =
        (0..48).step_by(2).map(|at| u8::from_str_radix(&agent.key[at..at + 2], 16).unwrap()).collect();
    let secret = &agent.key[16..];
    for table in ["AgentsTable", "EventsTable", "WindowsTable", "TokensTable"] {
        for row in system.rows(table).await {
            let shown = format!("{row:?}");
            assert!(!shown.contains(secret), "{table}: {shown}");
            for value in row.values().filter_map(|value| value.as_b().ok()) {
                assert!(!value.as_ref().windows(16).any(|part| part == &bytes[8..]), "{table}: {shown}");
            }
        }
    }
    let row = system.row(&agent).await;
    assert_eq!(row["key_digest"].as_b().unwrap().as_ref().len(), 32);
}

#[tokio::test]
async fn a_registration_costs_two_requests_or_three_with_enrollment() {
    let system = TestSystem::start().await;
    system.registered("open").await;
    assert_eq!(system.proxy.take().operations(), ["UpdateItem", "TransactWriteItems"]);

    let system = enrollment().await;
    for reusable in [true, false] {
        let token = system.enrollment_token(json!({ "reusable": reusable })).await;
        system.proxy.take();
        register_with(&system, &token, &json!({ "name": "enrolled" })).await.data();
        assert_eq!(system.proxy.take().operations(), ["UpdateItem", "GetItem", "TransactWriteItems"]);
    }
}

// ---- The limit per address -------------------------------------------------------------------------------

#[tokio::test]
async fn registrations_are_limited_per_address_and_window() {
    let system = TestSystem::with().parameter("RegisterLimitPerIp", 3).start().await;
    for remaining in [2, 1, 0] {
        let reply = system.register(&json!({ "name": "a" })).await;
        reply.data();
        assert_eq!(reply.quota(), quota("register", 3, remaining, 30));
    }
    system.proxy.take();
    let refused = || async {
        let reply = system.register(&json!({ "name": "a" })).await;
        assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
        assert_eq!(reply.message(), "Too many requests");
        reply
    };
    let reply = refused().await;
    assert_eq!(reply.header("retry-after"), Some("30"));
    assert_eq!(reply.quota(), quota("register", 3, 0, 30));
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);

    system.advance(Duration::from_millis(29_999));
    let reply = refused().await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(system.proxy.take().requests(), 0, "the refusal is remembered");

    system.advance(Duration::from_millis(1));
    let reply = system.register(&json!({ "name": "a" })).await;
    reply.data();
    assert_eq!(reply.quota(), quota("register", 3, 2, 60));
    assert_eq!(system.rows("AgentsTable").await.len(), 4);
}

#[tokio::test]
async fn bad_input_is_not_counted_and_a_refused_token_is() {
    let system = TestSystem::with()
        .parameter("Registration", "enrollment")
        .parameter("RegisterLimitPerIp", 2)
        .start()
        .await;
    assert_eq!(system.register(&json!({})).await.status, 400);
    assert_eq!(system.register(&json!({ "name": "a" })).await.status, 401);
    let unknown = format!("rce_{}", "0".repeat(48));
    let reply = register_with(&system, &unknown, &json!({ "name": "a" })).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.quota(), quota("register", 2, 1, 30));
}

#[tokio::test]
async fn concurrent_registrations_do_not_pass_the_limit() {
    let system = TestSystem::with().parameter("RegisterLimitPerIp", 5).start().await;
    let body = json!({ "name": "a" });
    let replies = join_all((0..20).map(|_| system.register(&body))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 5);
    assert_eq!(replies.iter().filter(|reply| reply.status == 429).count(), 15);
    assert_eq!(system.rows("AgentsTable").await.len(), 5);
}

#[tokio::test]
async fn x_forwarded_for_is_not_believed_without_trusted_proxies() {
    let system = TestSystem::with().parameter("RegisterLimitPerIp", 1).start().await;
    let body = json!({ "name": "a" });
    system.post_with(PATH, &[("x-forwarded-for", "192.0.2.1")], &body).await.data();
    let reply = system.post_with(PATH, &[("x-forwarded-for", "192.0.2.2")], &body).await;
    assert_eq!(reply.status, 429);
    let windows = system.rows("WindowsTable").await;
    let minute = START.as_millis() / 60_000;
    assert_eq!(text(&windows[0], "window_id"), Some(format!("register#127.0.0.1#{minute}").as_str()));
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_entry_counts() {
    let system =
        TestSystem::with().parameter("RegisterLimitPerIp", 1).parameter("TrustedProxyHops", 1).start().await;
    let body = json!({ "name": "a" });
    let status = async |from: &str| system.post_with(PATH, &[("x-forwarded-for", from)], &body).await.status;
    assert_eq!(status("192.0.2.1").await, 200);
    assert_eq!(status("192.0.2.2").await, 200);
    assert_eq!(status("192.0.2.1").await, 429);
    assert_eq!(status("203.0.113.9, 192.0.2.2").await, 429, "what the caller wrote itself does not count");
    assert_eq!(status("2001:db8:1:2::1").await, 200);
    assert_eq!(status("2001:db8:1:2:ffff::9").await, 429, "the same /64");
    assert_eq!(status("2001:db8:1:3::1").await, 200);
    assert_eq!(system.post(PATH, &body).await.status, 200, "the connection's own address");
    assert_eq!(system.post(PATH, &body).await.status, 429);
}

#[tokio::test]
async fn the_header_of_the_proxy_in_front_counts_before_everything_else() {
    let system = TestSystem::with()
        .parameter("RegisterLimitPerIp", 1)
        .parameter("DomainName", "rollcall.example")
        .parameter("CertificateArn", "arn:aws:acm:us-east-1:000000000000:certificate/1")
        .parameter("TrustedAddressHeader", "CF-Connecting-IP")
        .start()
        .await;
    let body = json!({ "name": "a" });
    let status = async |told: &str, forwarded: &str| {
        let headers = [("cf-connecting-ip", told), ("x-forwarded-for", forwarded)];
        system.post_with(PATH, &headers, &body).await.status
    };
    assert_eq!(status("192.0.2.1", "203.0.113.1").await, 200);
    assert_eq!(status("192.0.2.2", "203.0.113.1").await, 200);
    assert_eq!(status("192.0.2.1", "203.0.113.2").await, 429);
}

// ---- Enrollment ------------------------------------------------------------------------------------------

#[tokio::test]
async fn under_enrollment_nobody_registers_without_an_enrollment_token() {
    let system = enrollment().await;
    let body = json!({ "name": "a" });
    let reply = system.register(&body).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.message(), "an enrollment token is required in X-Agent-Token");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));

    let unknown = format!("rce_{}", "0".repeat(48));
    let agent_key = "0".repeat(48);
    let operator = system.operator_token().await;
    for (token, status, code) in [
        ("nonsense", 401, "UNAUTHORIZED"),
        ("rce_123", 401, "UNAUTHORIZED"),
        (&unknown, 401, "UNAUTHORIZED"),
        (&agent_key, 403, "FORBIDDEN"),
        (&operator, 403, "FORBIDDEN"),
    ] {
        let reply = register_with(&system, token, &body).await;
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{token}");
        assert!(!reply.text.contains(token), "{}", reply.text);
    }
    assert_eq!(system.rows("AgentsTable").await, Vec::<Row>::new());
}

#[tokio::test]
async fn an_enrollment_token_lets_in_agents_and_is_named_in_their_event() {
    let system = enrollment().await;
    let minted = system.mint(&json!({ "kind": "enrollment", "all_boards": true })).await;
    let token = minted["token"].as_str().unwrap();
    let in_header = agent_of(&register_with(&system, token, &json!({ "name": "a" })).await);
    let bearer = format!("Bearer {token}");
    let as_bearer =
        agent_of(&system.post_with(PATH, &[("authorization", &bearer)], &json!({ "name": "b" })).await);
    for agent in [in_header, as_bearer] {
        assert_eq!(text(&system.row(&agent).await, "agent_state"), Some("pending"));
        let event = &system.event_rows(&agent.id).await[0];
        assert_eq!(
            text(event, "actor"),
            Some(format!("enrollment:{}", minted["id"].as_str().unwrap()).as_str())
        );
    }
}

#[tokio::test]
async fn an_enrollment_token_ends_to_the_millisecond() {
    let system = enrollment().await;
    let token = system.enrollment_token(json!({ "expires_in_seconds": 3600 })).await;
    system.advance(Duration::from_millis(3_599_999));
    register_with(&system, &token, &json!({ "name": "a" })).await.data();
    system.advance(Duration::from_millis(1));
    let reply = register_with(&system, &token, &json!({ "name": "a" })).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
}

#[tokio::test]
async fn an_enrollment_token_of_a_board_lets_in_to_that_board_only() {
    let system = enrollment().await;
    let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let token = system.enrollment_token(json!({ "board_id": own })).await;
    register_with(&system, &token, &json!({ "name": "a", "boardId": own })).await.data();
    let reply = register_with(&system, &token, &json!({ "name": "a", "boardId": other })).await;
    assert_eq!(reply.refusal(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(system.rows("AgentsTable").await.len(), 1);
    let agent = agent_of(&register_with(&system, &token, &json!({ "name": "a" })).await);
    assert_eq!(board_of(&system.row(&agent).await), Some(own.to_string()), "the token's own");
}

#[tokio::test]
async fn a_one_off_token_lets_in_one_agent() {
    let system = enrollment().await;
    let token = system.enrollment_token(json!({ "reusable": false })).await;
    let agent = agent_of(&register_with(&system, &token, &json!({ "name": "a" })).await);
    assert_eq!(text(&system.rows("TokensTable").await[0], "used_by"), Some(agent.id.as_str()));
    let reply = register_with(&system, &token, &json!({ "name": "a" })).await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.message(), "the enrollment token is used up");
}

/// All twenty have read the unused token before the first one uses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_off_token_lets_in_one_of_twenty_concurrent_registrations() {
    let system = enrollment().await;
    let token = system.enrollment_token(json!({ "reusable": false })).await;
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let body = json!({ "name": "a" });
    let registrations = join_all((0..20).map(|_| register_with(&system, &token, &body)));
    let (replies, ()) = futures_util::future::join(registrations, async {
        gate.held(20).await;
        gate.release();
    })
    .await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
    assert_eq!(replies.iter().filter(|reply| reply.status == 401).count(), 19);
    assert_eq!(system.rows("AgentsTable").await.len(), 1);
    let registered = system.rows("EventsTable").await;
    assert_eq!(
        registered.iter().filter(|row| text(row, "event_type") == Some("agent.registered")).count(),
        1
    );
}

// ---- Registrations that nobody verifies ------------------------------------------------------------------

#[tokio::test]
async fn a_registration_that_nobody_verified_in_time_is_unknown() {
    let system = TestSystem::with().parameter("PendingRetentionDays", 2).start().await;
    let (in_time, late) = (system.registered("in time").await, system.registered("late").await);
    assert_eq!(number(&system.row(&late).await, "expires_at"), Some(START.as_seconds() + 2 * 86_400));
    system.advance(Duration::from_hours(48) - Duration::from_millis(1));
    assert_eq!(
        system.heartbeat(&late, "healthy").await.message(),
        "the agent is not verified: verify the agent first"
    );
    system.verify(&in_time.key).await.data();
    system.advance(Duration::from_millis(1));
    assert_eq!(system.verify(&late.key).await.refusal(), (401, "INVALID_KEY".to_owned()));
    let reply = system.heartbeat(&late, "healthy").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.message(), "unknown API key");
    assert_eq!(text(&system.row(&late).await, "agent_state"), Some("pending"));
    assert_eq!(system.row(&in_time).await.get("expires_at"), None);
    system.heartbeat(&in_time, "healthy").await.data();
}
