//! What happened to an agent, what it used, and the files that keep it online.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use super::client::{
    AGENTS, BOARD, Client, NO_AGENT, NOBODY, OWN_HEARTBEAT, SECOND, agent_path, agent_read, enrollment_token,
    invalid, keys, refused, text, with_key,
};
use crate::support::{TestAgent, TestSystem};

async fn events(operator: &Client<'_>, agent: &TestAgent, query: &str) -> (Vec<Value>, Option<String>) {
    let reply = operator.get(&agent_path(&agent.id, &format!("/events?{query}"))).await;
    assert_eq!(reply.status, 200, "{query}: {}", reply.text);
    assert_eq!(keys(&reply.json()), ["items", "next"].into());
    let items = reply.json()["items"].as_array().expect("a list").clone();
    (items, reply.json()["next"].as_str().map(str::to_owned))
}

fn types(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| text(event, "type")).collect()
}

#[tokio::test]
async fn a_full_page_of_events_is_one_query() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    for transition in ["/revoke", "/restore", "/revoke", "/restore"] {
        operator.touch(&agent_path(&agent.id, transition)).await;
    }
    for (limit, has_next) in [(3, true), (5, false)] {
        system.proxy.take();
        let page = operator.get(&agent_path(&agent.id, &format!("/events?limit={limit}"))).await.json();
        assert_eq!(page["items"].as_array().map(Vec::len), Some(limit));
        assert_eq!(!page["next"].is_null(), has_next);
        assert_eq!(system.proxy.take().operations(), ["GetItem", "Query"], "a page of {limit}");
    }
}

#[tokio::test]
async fn events_are_shown_newest_first_and_answer_why_an_agent_is_offline() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "quiet" })).await;
    system.advance(SECOND);
    let body = json!({ "event": "tool_call", "payload": { "tool": "search" } });
    Client::x_agent_token(&system, &agent.key).post("/api/agents/events", &body).await.data();
    system.advance(Duration::from_mins(5));
    system.sweep().await;
    system.proxy.take();
    let (items, next) = events(&operator, &agent, "").await;
    assert_eq!(system.proxy.take().operations(), ["GetItem", "Query"], "the operator's token and one read");
    assert_eq!(next, None);
    assert_eq!(types(&items), ["agent.offline", "tool_call", "agent.registered"]);
    for event in &items {
        assert_eq!(keys(event), ["actor", "at", "id", "payload", "type"].into());
        assert!(text(event, "at").ends_with('Z'));
    }
    assert_eq!(items[0]["actor"], "system");
    assert_eq!((&items[1]["actor"], &items[1]["payload"]), (&json!("agent"), &json!({ "tool": "search" })));
    assert!(text(&items[2], "actor").starts_with("operator:"));
}

#[tokio::test]
async fn events_are_walked_by_cursor_and_filtered_by_type() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "busy" })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    for number in 0..11 {
        system.advance(SECOND);
        let kind = if number % 5 == 0 { "rare" } else { "common" };
        let body = json!({ "event": kind, "payload": number, "id": format!("own-{number}") });
        client.post("/api/agents/events", &body).await.data();
    }
    let (all, _) = events(&operator, &agent, "").await;
    assert_eq!(all.len(), 12, "the eleven and the registration; their markers are not events");
    assert_eq!(all[0]["payload"], 10);
    for limit in [1, 4, 6, 12] {
        let (mut seen, mut before) = (Vec::new(), String::new());
        loop {
            let (page, next) = events(&operator, &agent, &format!("limit={limit}{before}")).await;
            assert!(page.len() <= limit);
            seen.extend(page);
            let Some(next) = next else { break };
            before = format!("&before={next}");
        }
        assert_eq!(seen, all, "limit {limit}");
    }
    let payloads = |events: &[Value]| events.iter().map(|event| event["payload"].clone()).collect::<Vec<_>>();
    let (rare, next) = events(&operator, &agent, "type=rare").await;
    assert_eq!((payloads(&rare), next), (vec![json!(10), json!(5), json!(0)], None));
    let (first, next) = events(&operator, &agent, "type=rare&limit=2").await;
    assert_eq!(payloads(&first), [json!(10), json!(5)]);
    let (rest, next) = events(&operator, &agent, &format!("type=rare&before={}", next.expect("more"))).await;
    assert_eq!((payloads(&rest), next), (vec![json!(0)], None));
    assert_eq!(types(&events(&operator, &agent, "type=agent.registered").await.0), ["agent.registered"]);
    assert!(events(&operator, &agent, "type=agent.offline").await.0.is_empty());
    for (query, loc) in [
        ("limit=0", "query.limit"),
        ("limit=201", "query.limit"),
        ("before=x", "query.before"),
        ("type=a%0Ab", "query.type"),
        ("type=", "query.type"),
    ] {
        let reply = operator.get(&agent_path(&agent.id, &format!("/events?{query}"))).await;
        assert_eq!(invalid(&reply), loc, "{query}");
    }
}

/// DynamoDB removes expired rows days late; until then a page reads past them, in few requests.
#[tokio::test]
async fn expired_events_are_not_shown_and_are_passed_in_few_requests() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "old" })).await;
    let created = system.now().as_millis();
    let string = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: i64| AttributeValue::N(number.to_string());
    let put = |place: u64| {
        let millis = u128::try_from(created).expect("after 1970") + 1_000 + u128::from(place);
        let id = Uuid::from_u128(millis << 80 | 0x7000 << 64 | 0x8000 << 48).to_string();
        let row: HashMap<String, AttributeValue> = [
            ("agent_id", string(&agent.id)),
            ("event_id", string(&id)),
            ("event_type", string("posted")),
            ("actor", string("agent")),
            ("payload", string("null")),
            ("created_at", number(created)),
            ("expires_at", number(created / 1_000 + 60)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        WriteRequest::builder()
            .put_request(PutRequest::builder().set_item(Some(row)).build().expect("a row"))
            .build()
    };
    for batch in 0..20 {
        let request = system.dynamodb.batch_write_item();
        let puts = (batch * 25..(batch + 1) * 25).map(put).collect();
        request.request_items(system.table("EventsTable"), puts).send().await.expect("a batch");
    }
    assert_eq!(events(&operator, &agent, "limit=3").await.0.len(), 3);
    system.advance(Duration::from_mins(1));
    for query in ["limit=1", "limit=50", "type=agent.registered"] {
        system.proxy.take();
        let (found, next) = events(&operator, &agent, query).await;
        assert_eq!((types(&found), next), (vec!["agent.registered".to_owned()], None), "{query}");
        assert!(system.proxy.take().of("Query").requests() <= 11, "{query}");
    }
    assert!(events(&operator, &agent, "type=posted").await.0.is_empty());
}

#[tokio::test]
async fn a_deleted_agents_events_stay_readable_and_an_unknown_id_is_404() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "gone" })).await;
    system.advance(SECOND);
    operator.delete(&agent_path(&agent.id, "")).await;
    assert_eq!(types(&events(&operator, &agent, "").await.0), ["agent.deleted", "agent.registered"]);
    assert_eq!(refused(&operator.get(&agent_path(NO_AGENT, "/events")).await), 404);
    assert_eq!(refused(&operator.get(&agent_path(NO_AGENT, "/usage")).await), 404);
    assert_eq!(refused(&operator.get(&agent_path(&agent.id, "/usage")).await), 404);
    assert_eq!(refused(&operator.get(&agent_path(NO_AGENT, "/workspace")).await), 404);
    for action in ["/events", "/usage", "/workspace"] {
        assert_eq!(invalid(&operator.get(&agent_path("x", action)).await), "path.agent_id");
    }
}

#[tokio::test]
async fn usage_counts_accepted_requests() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "metered" })).await;
    let since = system.now().to_string();
    let usage = async || operator.get(&agent_path(&agent.id, "/usage")).await.json();
    let today =
        json!({ "day": "2037-01-01", "tokens": 0, "cost_usd": 0.0, "budget": null, "over_budget": false });
    assert_eq!(usage().await, json!({ "requests_total": 0, "since": since, "today": today }));
    let client = Client::x_agent_token(&system, &agent.key);
    for status in [200, 200, 429] {
        assert_eq!(client.touch(OWN_HEARTBEAT).await.status, status);
    }
    client.post("/api/agents/events", &json!({ "event": "done" })).await.data();
    client.get(&agent_path(&agent.id, "")).await;
    assert_eq!(usage().await, json!({ "requests_total": 3, "since": since, "today": today }));
}

#[tokio::test]
async fn the_workspace_is_for_operators_and_the_agent_itself_and_holds_no_token() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let config = json!({ "interval_seconds": 15, "missing_tolerance": 45 });
    let agent = operator.create(&json!({ "name": "a", "board_id": BOARD, "heartbeat_config": config })).await;
    let other = system.verified("other").await;
    let path = agent_path(&agent.id, "/workspace");
    let itself = Client::x_agent_token(&system, &agent.key);
    let (mine, theirs) = (itself.get(&path).await, operator.get(&path).await);
    assert_eq!((mine.status, mine.json()), (200, theirs.json()));
    assert_eq!(keys(&mine.json()), ["files"].into());
    let files = &mine.json()["files"];
    assert_eq!(keys(files), ["HEARTBEAT.md", "TOOLS.md"].into());
    let tools = text(files, "TOOLS.md");
    for line in [format!("AGENT_ID={}", agent.id), format!("BOARD_ID={BOARD}")] {
        assert!(tools.lines().any(|it| it == line), "{tools}");
    }
    assert!(!tools.contains("AUTH_TOKEN=") && !mine.text.contains(&agent.key));
    let heartbeat = text(files, "HEARTBEAT.md");
    assert!(heartbeat.contains("every 15 seconds") && heartbeat.contains("After 45 seconds"), "{heartbeat}");
    assert_eq!(refused(&Client::x_agent_token(&system, &other.key).get(&path).await), 403);
    assert_eq!(refused(&Client::anonymous(&system).get(&path).await), 401);
    assert_eq!(refused(&Client::bearer(&system, NOBODY).get(&path).await), 401);
    let enrollment = Client::bearer(&system, &enrollment_token(&system, &json!({})).await);
    assert_eq!(refused(&enrollment.get(&path).await), 403);
}

/// A folder of a test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("rollcall-workspace-{}", Uuid::now_v7()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// The shell blocks of a Markdown file, in order.
fn shell_blocks(markdown: &str) -> Vec<&str> {
    let after = markdown.split("```sh\n").skip(1);
    after.map(|rest| rest.split("```").next().expect("a block")).collect()
}

#[tokio::test]
async fn the_lines_of_heartbeat_md_keep_a_fresh_agent_online_as_pasted() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let reply = operator.post(&format!("{AGENTS}?workspace=true"), &json!({ "name": "fresh" })).await;
    let (shown, agent) = with_key(&reply);
    let folder = Folder::new();
    for file in ["TOOLS.md", "HEARTBEAT.md"] {
        std::fs::write(folder.0.join(file), text(&shown["files"], file)).expect("a file");
    }
    let curl = Command::new("curl").arg("--version").output().await;
    assert!(curl.is_ok_and(|curl| curl.status.success()), "this test needs curl");
    let heartbeat = text(&shown["files"], "HEARTBEAT.md");
    let blocks = shell_blocks(&heartbeat);
    assert_eq!(blocks.len(), 4, "{heartbeat}");
    let paste = async |blocks: &[&str]| {
        let output = Command::new("sh")
            .args(["-eu", "-c", &blocks.concat()])
            .current_dir(&folder.0)
            .output()
            .await
            .expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("the answer")
    };
    for _ in 0..3 {
        assert_eq!(paste(&blocks[..2]).await["status"], "online");
        system.advance(Duration::from_mins(1));
        assert_eq!(operator.show(&agent).await["status"], "online");
        system.advance(Duration::from_secs(61));
        assert_eq!(operator.show(&agent).await["status"], "offline");
        system.sweep().await;
    }
    assert_eq!(paste(&[blocks[0], blocks[2]]).await["status"], "degraded");
    assert!(blocks[3].starts_with("while sleep 60; do curl "), "{}", blocks[3]);
}

#[tokio::test]
async fn a_hostile_host_header_does_not_get_into_the_files() {
    let system = TestSystem::start().await;
    let agent = system.verified("target").await;
    for host in
        ["x; touch pwned #", "$(id)", "`id`", "a b", "x'y", "x\"y", "x|y", "x&y", "x/../y", "x@y", "{a,b}"]
    {
        let client = Client::x_agent_token(&system, &agent.key).with("host", host);
        let reply = client.get(&agent_path(&agent.id, "/workspace")).await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.text);
        let files = reply.json()["files"].clone();
        for file in ["TOOLS.md", "HEARTBEAT.md"] {
            let file = text(&files, file);
            assert!(!file.contains(host), "{host}: {file}");
            assert!(file.contains("http://localhost"), "{host}: {file}");
        }
    }
    let client = Client::x_agent_token(&system, &agent.key).with("host", "api.example:8443");
    let client = client.with("x-forwarded-proto", "https");
    let files = client.get(&agent_path(&agent.id, "/workspace")).await.json()["files"].clone();
    assert!(text(&files, "TOOLS.md").contains("BASE_URL=https://api.example:8443\n"));
    assert_eq!(agent_read(&client.touch(OWN_HEARTBEAT).await)["status"], "online");
}
