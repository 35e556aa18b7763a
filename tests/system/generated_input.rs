//! What strangers send: malformed JSON and unusual strings on every route, generated from a fixed seed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::json;

use crate::support::{Reply, TestSystem};

const CASES: usize = 10_000;

/// Strings that have broken parsers, terminals, queries and pages elsewhere.
const STRINGS: [&str; 24] = [
    "",
    " ",
    "\u{0}",
    "\u{feff}",
    "\u{200b}",
    "null",
    "undefined",
    "NaN",
    "true",
    "-1",
    "1e999",
    "'; DROP TABLE agents; --",
    "<script>alert(1)</script>",
    "${jndi:ldap://x}",
    "../../etc/passwd",
    "%s%n",
    "{{7*7}}",
    "\u{202e}abc",
    "𝕳𝖊𝖑𝖑𝖔",
    "ﷺ",
    "👩‍👩‍👧‍👦",
    "Z͑ͫ̓a̴͡l̡̛g̸o",
    "\r\nX-Injected: 1",
    "\u{e000}\u{10ffff}",
];

/// Values that are JSON, or nearly.
const VALUES: [&str; 30] = [
    "null",
    "true",
    "0",
    "-0",
    "1",
    "-1",
    "60.0",
    "1.5",
    "1e400",
    "1E-5",
    "18446744073709551616",
    "01",
    "+1",
    "NaN",
    "Infinity",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"\\x41\"",
    "'a'",
    "[1,]",
    "{\"a\":1,}",
    "/**/1",
    "\"a\tb\"",
    "{\"a\":1,\"a\":2}",
    "\u{feff}1",
];

/// The fields that some route reads, and some that none does.
const FIELDS: [&str; 33] = [
    "name",
    "boardId",
    "board_id",
    "heartbeatConfig",
    "heartbeat_config",
    "intervalSeconds",
    "interval_seconds",
    "missingTolerance",
    "every",
    "apiKey",
    "status",
    "event",
    "events",
    "heartbeats",
    "agent_token",
    "agentId",
    "agent_id",
    "report",
    "payload",
    "id",
    "overlapSeconds",
    "overlap_seconds",
    "kind",
    "label",
    "expires_in_seconds",
    "all_boards",
    "reusable",
    "approved",
    "succeeds",
    "reason",
    "rate_limit_per_minute",
    "unknown",
    "",
];

fn pick<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices[random.random_range(0..choices.len())]
}

fn value(random: &mut StdRng, depth: usize) -> String {
    match random.random_range(0..6) {
        0 | 1 => pick(random, &VALUES).to_owned(),
        2 | 3 => json!(pick(random, &STRINGS)).to_string(),
        4 if depth < 3 => object(random, depth + 1),
        _ => format!("[{}]", value(random, depth + 3)),
    }
}

fn object(random: &mut StdRng, depth: usize) -> String {
    let fields = (0..random.random_range(0..6)).map(|_| {
        let name = json!(pick(random, &FIELDS));
        format!("{name}: {}", value(random, depth))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn body(random: &mut StdRng) -> Vec<u8> {
    let mut body = match random.random_range(0..8) {
        0 => value(random, 0).into_bytes(),
        1 => (0..random.random_range(0..40)).map(|_| random.random()).collect(),
        _ => object(random, 0).into_bytes(),
    };
    if random.random_range(0..8) == 0 {
        body.truncate(random.random_range(0..=body.len()));
    }
    if random.random_range(0..12) == 0 && !body.is_empty() {
        let place = random.random_range(0..body.len());
        body[place] = random.random();
    }
    body
}

/// Whether a refusal of bad input says which field it is about.
fn names_its_field(reply: &Reply) -> bool {
    let answer = reply.json();
    match reply.status {
        400 => answer["error"]["message"].as_str().is_some_and(|text| text.contains(": ")),
        422 => answer["detail"][0]["loc"].as_array().is_some_and(|path| !path.is_empty()),
        _ => true,
    }
}

#[tokio::test]
async fn no_input_is_a_5xx_and_every_refusal_names_its_field() {
    let system = TestSystem::with()
        .parameter("RateLimitPerMinute", 6000)
        .parameter("RegisterLimitPerIp", 60000)
        .parameter("VerifyFailureLimitPerIp", 60000)
        .start()
        .await;
    let random = &mut StdRng::seed_from_u64(20_261_126);
    let operator = system.operator_token().await;
    let agent = system.verified("steady").await;
    let routes: Vec<_> = functions::ROUTES
        .iter()
        .filter(|(method, _, function)| *method != "HEAD" && *function != "page")
        .collect();
    for case in 0..CASES {
        let (method, path, _) = routes[random.random_range(0..routes.len())];
        let method: Method = method.parse().unwrap();
        let id = if random.random_range(0..4) == 0 { "%00%22x" } else { &agent.id };
        let mut path = path.replace("{agent_id}", id).replace("{id}", id);
        if random.random_range(0..4) == 0 {
            let pairs = [(
                pick(random, &["limit", "cursor", "offset", "status", "type", "before"]),
                pick(random, &STRINGS),
            )];
            path = format!("{path}?{}", query_string(&pairs));
        }
        let credential = match random.random_range(0..3) {
            0 => format!("Bearer {operator}"),
            1 => format!("Bearer {}", agent.key),
            _ => String::new(),
        };
        let body = if method == Method::GET { Vec::new() } else { body(random) };
        let shown = String::from_utf8_lossy(&body).into_owned();
        let headers = [("authorization", credential.as_str())];
        let reply = system.send_off_contract(method.clone(), &path, &headers, body).await;
        assert!(reply.status < 500, "case {case}: {method} {path} {shown}: {} {}", reply.status, reply.text);
        assert!(
            names_its_field(&reply),
            "case {case}: {method} {path} {shown}: {} {}",
            reply.status,
            reply.text
        );
    }
}

fn query_string(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}
