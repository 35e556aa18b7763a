//! `GET /api/v1/agents`: filters, pages, and what they cost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{
    AGENT_READ, AGENTS, BOARD, Client, MILLI, OTHER_BOARD, OWN_HEARTBEAT, SECOND, agent_path, agent_read,
    invalid, just_before, keys, text,
};
use crate::support::dynamodb_proxy::Tally;
use crate::support::{START, TestSystem};

async fn list(operator: &Client<'_>, query: &str) -> Value {
    let reply = operator.get(&format!("{AGENTS}?{query}")).await;
    assert_eq!(reply.status, 200, "{query}: {}", reply.text);
    reply.json()
}

#[track_caller]
fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().expect("a list").iter().map(|agent| text(agent, "name")).collect()
}

/// The place of the next page, as a query takes it.
fn next(list: &Value) -> Option<String> {
    list["next"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn agents_are_listed_newest_first_with_offset_and_total() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let empty = list(&operator, "").await;
    assert_eq!(empty, json!({ "items": [], "total": 0, "limit": 200, "offset": 0 }));
    for name in ["a", "b", "c", "d", "e"] {
        operator.create(&json!({ "name": name })).await;
        system.advance(MILLI);
    }
    let all = list(&operator, "").await;
    assert_eq!(keys(&all), ["items", "limit", "offset", "total"].into());
    assert_eq!(names(&all), ["e", "d", "c", "b", "a"]);
    assert_eq!(keys(&all["items"][0]), BTreeSet::from(AGENT_READ));
    let page = list(&operator, "limit=2&offset=1").await;
    assert_eq!(names(&page), ["d", "c"]);
    assert_eq!((&page["total"], &page["limit"], &page["offset"]), (&json!(5), &json!(2), &json!(1)));
    let beyond = list(&operator, "offset=7").await;
    assert_eq!((names(&beyond).len(), &beyond["total"]), (0, &json!(5)));
    assert_eq!(names(&list(&operator, "limit=2&offset=4").await), ["a"]);
}

#[tokio::test]
async fn detail_is_shown_where_it_is_asked_for_and_costs_nothing() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    Client::x_agent_token(&system, &agent.key).post(OWN_HEARTBEAT, &json!({ "status": "degraded" })).await;
    list(&operator, "cursor=").await;
    system.proxy.take();
    let plain = list(&operator, "cursor=").await;
    let price = |tally: Tally| (tally.requests(), tally.read_units());
    let of_plain = price(system.proxy.take());
    let detailed = list(&operator, "cursor=&detail=true").await;
    assert_eq!(price(system.proxy.take()), of_plain);
    assert_eq!(keys(&plain["items"][0]), BTreeSet::from(AGENT_READ));
    let mut with_detail = BTreeSet::from(AGENT_READ);
    with_detail.insert("detail");
    assert_eq!(keys(&detailed["items"][0]), with_detail);
    let expected = json!({
        "state": "active",
        "health": "degraded",
        "late": false,
        "offline_since": null,
        "lease_expires_at": START.plus(120 * SECOND).to_string(),
        "verified_at": START.to_string(),
        "rate_limit_per_minute": null,
        "requests_total": 1,
    });
    assert_eq!(detailed["items"][0]["detail"], expected);
    let shown = operator.get(&agent_path(&agent.id, "?detail=true")).await.json();
    assert_eq!(shown["detail"], expected);
    let reply = operator.get(&agent_path(&agent.id, "?detail=yes")).await;
    assert_eq!(reply.status, 422, "neither true nor false: {}", reply.text);
}

#[tokio::test]
async fn an_agent_is_late_from_ten_seconds_past_its_interval_to_the_end_of_its_tolerance() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    let detail = async || {
        let shown = operator.get(&agent_path(&agent.id, "?detail=true")).await.json();
        (shown["detail"]["late"].clone(), text(&shown, "status"))
    };
    assert_eq!(detail().await, (json!(false), "provisioning".to_owned()), "who never came is not late");
    Client::x_agent_token(&system, &agent.key).touch(OWN_HEARTBEAT).await;
    for (after, late, status) in [
        (70 * SECOND, false, "online"),
        (MILLI, true, "online"),
        (just_before(50 * SECOND), true, "online"),
        (MILLI, false, "offline"),
    ] {
        system.advance(after);
        assert_eq!(detail().await, (json!(late), status.to_owned()), "{after:?} later");
    }
}

#[tokio::test]
async fn lists_are_filtered_by_state_which_no_status_tells() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    system.registered("waits").await;
    let revoked = operator.create(&json!({ "name": "out" })).await;
    operator.touch(&agent_path(&revoked.id, "/revoke")).await;
    operator.create(&json!({ "name": "in" })).await;
    for (state, name) in [("pending", "waits"), ("active", "in"), ("revoked", "out")] {
        let by_offset = list(&operator, &format!("state={state}")).await;
        assert_eq!((names(&by_offset), &by_offset["total"]), (vec![name.to_owned()], &json!(1)), "{state}");
        assert_eq!(names(&list(&operator, &format!("state={state}&cursor=")).await), [name], "{state}");
    }
    assert_eq!(invalid(&operator.get(&format!("{AGENTS}?state=asleep")).await), "query.state");
}

#[tokio::test]
async fn lists_are_filtered_by_board_and_by_status() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (name, board, says) in [
        ("silent", None, None),
        ("online", Some(BOARD), Some("online")),
        ("degraded", Some(BOARD), Some("degraded")),
        ("gone", Some(OTHER_BOARD), Some("offline")),
        ("error", Some(OTHER_BOARD), Some("error")),
        ("healthy", None, Some("healthy")),
    ] {
        let agent = operator.create(&json!({ "name": name, "board_id": board })).await;
        if let Some(says) = says {
            let client = Client::x_agent_token(&system, &agent.key);
            agent_read(&client.post(OWN_HEARTBEAT, &json!({ "status": says })).await);
        }
        system.advance(MILLI);
    }
    for (query, expected) in [
        (format!("board_id={BOARD}"), &["degraded", "online"][..]),
        (format!("board_id={}", BOARD.to_uppercase()), &["degraded", "online"]),
        (format!("board_id={OTHER_BOARD}&status=error"), &["error"]),
        (format!("board_id={OTHER_BOARD}&status=online"), &[]),
        ("status=provisioning".to_owned(), &["silent"]),
        ("status=online".to_owned(), &["online"]),
        ("status=degraded".to_owned(), &["degraded"]),
        ("status=offline".to_owned(), &["gone"]),
        ("status=error".to_owned(), &["error"]),
        ("status=healthy".to_owned(), &["healthy"]),
    ] {
        let found = list(&operator, &query).await;
        assert_eq!(names(&found), expected, "{query}");
        assert_eq!(found["total"], expected.len(), "{query}");
        assert_eq!(names(&list(&operator, &format!("{query}&cursor=")).await), expected, "{query} by cursor");
    }
    system.advance(Duration::from_secs(121));
    assert_eq!(
        names(&list(&operator, "status=offline").await),
        ["healthy", "error", "gone", "degraded", "online"],
        "by the clock"
    );
}

#[tokio::test]
async fn a_list_follows_its_agents_to_other_boards_and_out() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "mover", "board_id": BOARD })).await;
    agent_read(&operator.patch(&agent_path(&agent.id, ""), &json!({ "board_id": OTHER_BOARD })).await);
    for query in ["", "&cursor="] {
        assert!(names(&list(&operator, &format!("board_id={BOARD}{query}")).await).is_empty());
        assert_eq!(names(&list(&operator, &format!("board_id={OTHER_BOARD}{query}")).await), ["mover"]);
    }
    operator.delete(&agent_path(&agent.id, "")).await;
    for query in ["", "cursor="] {
        assert!(names(&list(&operator, query).await).is_empty());
    }
}

#[tokio::test]
async fn registrations_that_are_over_are_not_listed() {
    let system = TestSystem::with().parameter("PendingRetentionDays", 1).start().await;
    system.registered("nobody came").await;
    assert_eq!(names(&list(&Client::operator(&system).await, "").await), ["nobody came"]);
    system.advance(Duration::from_hours(24));
    let operator = Client::operator(&system).await;
    for query in ["", "cursor=", "status=provisioning"] {
        assert!(names(&list(&operator, query).await).is_empty(), "{query}");
    }
}

#[tokio::test]
async fn every_parameter_has_its_rule() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (query, loc) in [
        ("limit=0", "query.limit"),
        ("limit=201", "query.limit"),
        ("limit=ten", "query.limit"),
        ("limit=", "query.limit"),
        ("offset=-1", "query.offset"),
        ("offset=x", "query.offset"),
        ("board_id=x", "query.board_id"),
        ("status=asleep", "query.status"),
        ("status=", "query.status"),
        ("cursor=x", "query.cursor"),
        ("cursor=0000000000000%23x", "query.cursor"),
    ] {
        assert_eq!(invalid(&operator.get(&format!("{AGENTS}?{query}")).await), loc, "{query}");
    }
}

/// Every agent that is there from the beginning to the end is seen exactly once, whatever comes meanwhile.
#[tokio::test]
async fn a_walk_by_cursor_sees_each_agent_once_also_with_creations_in_between() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let mut expected = BTreeSet::new();
    for number in 0..23 {
        let name = format!("agent-{number}");
        operator.create(&json!({ "name": name })).await;
        expected.insert(name);
        // Some share their millisecond.
        system.advance(if number % 3 == 0 { MILLI } else { Duration::ZERO });
    }
    let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = list(&operator, &format!("limit=5&cursor={cursor}")).await;
        assert_eq!(keys(&page), ["items", "limit", "next", "total"].into());
        assert_eq!(page["total"], Value::Null);
        seen.extend(names(&page));
        pages += 1;
        operator.create(&json!({ "name": format!("late-{pages}") })).await;
        let Some(next) = next(&page) else { break };
        cursor = next;
    }
    seen.retain(|name| !name.starts_with("late-"));
    assert_eq!(seen.len(), expected.len(), "none twice: {seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn a_page_that_just_holds_the_rest_is_the_last() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for number in 0..4 {
        operator.create(&json!({ "name": format!("agent-{number}") })).await;
    }
    let first = list(&operator, "limit=2&cursor=").await;
    let second = list(&operator, &format!("limit=2&cursor={}", next(&first).expect("a second page"))).await;
    assert_eq!(names(&second).len(), 2);
    if let Some(cursor) = next(&second) {
        let third = list(&operator, &format!("limit=2&cursor={cursor}")).await;
        assert_eq!((names(&third).len(), &third["next"]), (0, &Value::Null));
    }
}

const FLEET: usize = 10_000;

/// A row as a creation writes it, with the index's attributes, and a lease.
fn row(number: usize) -> HashMap<String, AttributeValue> {
    let id = Uuid::from_u128(0x8000_8000_0000_0000_0000 << 48 | number as u128).to_string();
    let string = |text: &str| AttributeValue::S(text.to_owned());
    let binary_id =
        |id: &str| AttributeValue::B(Uuid::parse_str(id).expect("a UUID").as_bytes().to_vec().into());
    let millis = |millis: i64| AttributeValue::N(millis.to_string());
    let created = START.as_millis() - i64::try_from(number).expect("small") * 10;
    let bytes = |length: usize| AttributeValue::B(vec![7_u8; length].into());
    let mut row: HashMap<&str, AttributeValue> = HashMap::from([
        ("agent_id", string(&id)),
        ("agent_name", string(&format!("worker-{number:05}"))),
        ("board_id", binary_id(BOARD)),
        ("agent_state", string("active")),
        ("key_id", bytes(8)),
        ("key_digest", bytes(32)),
        ("interval_ms", millis(60_000)),
        ("tolerance_ms", millis(120_000)),
        ("last_seen_at", millis(START.as_millis())),
        ("lease_expires_at", millis(START.as_millis() + 120_000)),
        ("requests_total", millis(1)),
        ("created_at", millis(created)),
        ("verified_at", millis(created)),
        ("updated_at", millis(created)),
        ("listing", string("agents")),
        ("listing_key", string(&format!("{created:013}.{}", &id[..8]))),
    ]);
    // One in a thousand says that something is wrong.
    if number % 1_000 == 999 {
        row.insert("health", string("error"));
    }
    row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn write_fleet(system: &TestSystem, size: usize) {
    let table = system.table("AgentsTable");
    let numbers: Vec<usize> = (0..size).collect();
    for batch in numbers.chunks(25) {
        let put = |number: &usize| {
            let put = PutRequest::builder().set_item(Some(row(*number))).build().expect("a row");
            WriteRequest::builder().put_request(put).build()
        };
        let request = system.dynamodb.batch_write_item();
        let request = request.request_items(&table, batch.iter().map(put).collect());
        let left = request.send().await.expect("a batch").unprocessed_items.unwrap_or_default();
        assert!(left.is_empty());
    }
}

/// What a page costs beyond the reading of the operator's token: requests by operation, and read units.
fn cost(tally: &Tally) -> (BTreeMap<String, usize>, f64) {
    let calls = &tally.calls()[1..];
    let mut operations = BTreeMap::new();
    for call in calls {
        *operations.entry(call.operation.clone()).or_default() += 1;
    }
    (operations, tally.read_units() - tally.calls()[0].read_units())
}

/// The index's key of an agent is its millisecond and the beginning of its id, which two agents may share.
#[tokio::test]
async fn agents_of_one_millisecond_and_alike_ids_are_each_listed_once() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    write_fleet(&system, 2).await;
    let key = row(0)["listing_key"].clone();
    for number in 2..7 {
        // The last of the id's digits are the number's.
        let mut row = row(number);
        row.insert("listing_key".to_owned(), key.clone());
        row.insert("created_at".to_owned(), AttributeValue::N(START.as_millis().to_string()));
        let put = system.dynamodb.put_item().table_name(system.table("AgentsTable"));
        put.set_item(Some(row)).send().await.expect("a row");
    }
    let mut expected = vec!["worker-00000"];
    let clashing: Vec<String> = (2..7).map(|number| format!("worker-{number:05}")).collect();
    expected.extend(clashing.iter().map(String::as_str));
    expected.push("worker-00001");
    for limit in 1..=8 {
        let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = list(&operator, &format!("limit={limit}&cursor={cursor}")).await;
            seen.extend(names(&page));
            pages += 1;
            assert!(pages <= 8, "limit {limit} loops at {cursor}");
            let Some(next) = next(&page) else { break };
            cursor = next;
        }
        assert_eq!(seen.last().map(String::as_str), Some("worker-00001"), "limit {limit}: the oldest");
        seen.sort();
        let mut expected = expected.clone();
        expected.sort_unstable();
        assert_eq!(seen, expected, "limit {limit}");
    }
    let offsets = async |offset: usize| names(&list(&operator, &format!("limit=1&offset={offset}")).await);
    let mut seen = Vec::new();
    for offset in 0..7 {
        seen.extend(offsets(offset).await);
    }
    seen.sort();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    // Who is deleted while its cursor is out leaves a place behind.
    let first = list(&operator, "limit=3&cursor=").await;
    let (before, cursor) = (names(&first), next(&first).expect("a second page"));
    let (_, last_id) = cursor.split_once('.').expect("a cursor");
    operator.delete(&format!("/api/v1/agents/{last_id}")).await;
    let rest = names(&list(&operator, &format!("cursor={cursor}")).await);
    assert_eq!(before.len() + rest.len(), 7, "{before:?} {rest:?}");
    assert!(rest.iter().all(|name| !before.contains(name)), "{before:?} {rest:?}");
}

#[tokio::test]
async fn a_page_of_200_of_10_000_costs_the_same_wherever_it_is() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    write_fleet(&system, FLEET).await;
    list(&operator, "limit=1&cursor=").await;
    let (mut cursor, mut seen, mut costs) = (String::new(), BTreeSet::new(), Vec::new());
    loop {
        system.proxy.take();
        let page = list(&operator, &format!("cursor={cursor}")).await;
        costs.push(cost(&system.proxy.take()));
        seen.extend(names(&page));
        let Some(next) = next(&page) else { break };
        assert_eq!(seen.len(), 200 * costs.len(), "full pages");
        cursor = next;
    }
    assert_eq!(seen.len(), FLEET);
    // For docs/api.md: a page of 200 is 1 Query of the index and 2 BatchGetItem, 203 read units: 200 rows read
    // consistently at 1 each, and 3 for the index. The first page costs what every other one costs.
    let page = (BTreeMap::from([("BatchGetItem".to_owned(), 2), ("Query".to_owned(), 1)]), 203.0);
    let (last, full) = costs.split_last().expect("pages");
    assert_eq!(full.len(), 50);
    for (number, cost) in full.iter().enumerate() {
        assert_eq!(*cost, page, "page {number}");
    }
    // The page after the last agent is empty: 1 Query, half a read unit.
    assert_eq!(*last, (BTreeMap::from([("Query".to_owned(), 1)]), 0.5));
    // By offset it costs what the fleet is large: for the total the whole index is read, 1,000 keys and 14 read
    // units a Query; with a status every row as well.
    let by_offset =
        |batches| BTreeMap::from([("BatchGetItem".to_owned(), batches), ("Query".to_owned(), 11)]);
    for (query, expected) in [
        ("limit=200", (by_offset(2), 340.5)),
        ("offset=9800", (by_offset(2), 340.5)),
        ("status=error", (by_offset(101), 10_150.5)),
    ] {
        system.proxy.take();
        list(&operator, query).await;
        assert_eq!(cost(&system.proxy.take()), expected, "{query}");
    }
}

/// A page reads a bounded number of rows whatever the filter. It also takes few requests.
#[tokio::test]
async fn a_page_with_a_rare_status_looks_at_a_thousand_agents_and_may_be_short() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    write_fleet(&system, 2_500).await;
    list(&operator, "limit=1&cursor=").await;
    let page = async |limit: usize, status: &str, cursor: &str| {
        system.proxy.take();
        let page = list(&operator, &format!("limit={limit}&status={status}&cursor={cursor}")).await;
        (names(&page), next(&page), cost(&system.proxy.take()))
    };
    for limit in [1, 50, 200] {
        let (found, next, (operations, reads)) = page(limit, "degraded", "").await;
        assert!(found.is_empty() && next.is_some(), "limit {limit}");
        assert!(operations["Query"] <= 11, "limit {limit}: {operations:?}");
        assert!(operations["BatchGetItem"] <= 25, "limit {limit}: {operations:?}");
        // 1,000 rows at 1 each, and the index.
        assert!((1_000.0..1_030.0).contains(&reads), "limit {limit}: {reads}");
    }
    for limit in [1, 2, 200] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (found, next, _) = page(limit, "error", &cursor).await;
            assert!(found.len() <= limit);
            seen.extend(found);
            let Some(next) = next else { break };
            cursor = next;
        }
        assert_eq!(seen, ["worker-00999", "worker-01999"], "limit {limit}");
    }
}

/// Listing must not make heartbeats dearer.
#[tokio::test]
async fn a_heartbeat_writes_nothing_to_the_index() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "listed", "board_id": BOARD })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    agent_read(&client.touch(OWN_HEARTBEAT).await);
    let listing = async || {
        let mut row = system.row(&agent).await;
        row.retain(|name, _| ["listing", "listing_key", "board_id", "expires_at"].contains(&name.as_str()));
        row
    };
    let before = listing().await;
    assert_eq!(before.len(), 3);
    system.proxy.take();
    for says in [json!({}), json!({ "status": "degraded" }), json!({ "status": "online" })] {
        system.advance(SECOND);
        agent_read(&client.post(OWN_HEARTBEAT, &says).await);
        let tally = system.proxy.take();
        assert_eq!((tally.requests(), tally.write_units()), (1, 1.0), "{says}: the row and no index");
    }
    assert_eq!(listing().await, before);
}

#[tokio::test]
async fn a_list_by_the_beginning_of_the_name_is_in_the_order_of_names() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (name, board) in [("beta-1", None), ("alpha-2", Some(BOARD)), ("alpha-1", None), ("Alpha", None)] {
        operator.create(&json!({ "name": name, "board_id": board })).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let list = operator.get(&format!("/api/v1/agents?{query}")).await.json();
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("name=alpha").await, ["alpha-1", "alpha-2"]);
    assert_eq!(names("name=alpha&limit=1&offset=1").await, ["alpha-2"]);
    assert_eq!(names(&format!("name=alpha&board_id={BOARD}")).await, ["alpha-2"]);
    assert_eq!(names("name=gamma").await, [""; 0]);
    assert_eq!(names("name=").await.len(), 4, "an empty name is the beginning of all");
    let agent = operator.create(&json!({ "name": "before" })).await;
    operator.patch(&format!("/api/v1/agents/{}", agent.id), &json!({ "name": "alpha-0" })).await;
    assert_eq!(names("name=alpha").await, ["alpha-0", "alpha-1", "alpha-2"]);
    let both = operator.get("/api/v1/agents?name=a&cursor=").await;
    assert_eq!(both.status, 422, "{}", both.text);
}

/// For docs/api.md: what the two indexes add to the rows' own units, where they change.
#[tokio::test]
async fn the_indexes_are_paid_by_creations_changes_and_removals_alone() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    operator.get("/api/v1/agents").await;
    let mut paid = Vec::new();
    let mut note = |what: &'static str| paid.push((what, system.proxy.take().write_units()));
    note("before");
    let pending = system.registered("pending").await;
    note("register");
    system.verify(&pending.key).await.data();
    note("verify");
    let agent = operator.create(&json!({ "name": "a" })).await;
    note("create");
    let path = agent_path(&agent.id, "");
    for (what, body) in [
        ("name", json!({ "name": "b" })),
        ("board", json!({ "board_id": BOARD })),
        ("limit", json!({ "rate_limit_per_minute": 7 })),
    ] {
        operator.patch(&path, &body).await;
        note(what);
    }
    operator.send(reqwest::Method::DELETE, &path, "").await;
    note("delete");
    let reusable = system.enrollment_token(json!({})).await;
    let one_off = system.enrollment_token(json!({ "reusable": false })).await;
    for (what, token) in [("first", &reusable), ("by name", &reusable), ("one-off", &one_off)] {
        note("minting, or nothing");
        Client::x_agent_token(&system, token).heartbeat_as(what).await;
        note(what);
    }
    // Of a transaction: 2 for each row and 1 for each index entry that is written or removed.
    let expected = [
        ("before", None),
        ("register", Some(5.0 + 2.0)),
        ("verify", Some(4.0 + 2.0)),
        ("create", Some(4.0 + 2.0)),
        ("name", Some(4.0 + 2.0)),
        ("board", Some(4.0 + 2.0)),
        ("limit", Some(4.0)),
        ("delete", Some(4.0 + 2.0)),
        ("minting, or nothing", None),
        // The hour's first use of each token is noted in its row, and in the tokens' index.
        ("first", Some(6.0 + 2.0 + 2.0)),
        ("minting, or nothing", None),
        ("by name", Some(6.0 + 2.0)),
        ("minting, or nothing", None),
        ("one-off", Some(7.0 + 2.0 + 2.0)),
    ];
    for ((what, units), (of, expected)) in paid.into_iter().zip(expected) {
        assert_eq!(what, of);
        assert!(expected.is_none_or(|expected| (units - expected).abs() < 0.01), "{what}: {units}");
    }
}

/// Agents that are announced absent one after the other, by an operator's list of their names.
async fn absent(operator: &Client<'_>, query: &str) -> Vec<String> {
    names(&list(operator, &format!("absent=true{query}")).await)
}

#[tokio::test]
async fn who_is_absent_is_listed_longest_first_and_nobody_else() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let heartbeat = async |key: &str, status: &str| {
        Client::x_agent_token(&system, key).post(OWN_HEARTBEAT, &json!({ "status": status })).await
    };
    let patient = json!({ "interval_seconds": 3600 });
    let mut made = Vec::new();
    for (name, board, patient) in [
        ("leaves", Some(BOARD), true),
        ("silent-1", None, false),
        ("silent-2", Some(BOARD), false),
        ("silent-3", Some(OTHER_BOARD), false),
        ("here", Some(BOARD), true),
    ] {
        let config = if patient { json!({ "interval_seconds": 3600 }) } else { json!({}) };
        let agent =
            operator.create(&json!({ "name": name, "board_id": board, "heartbeat_config": config })).await;
        heartbeat(&agent.key, "healthy").await;
        made.push(agent);
    }
    operator.create(&json!({ "name": "never came", "heartbeat_config": patient })).await;
    assert_eq!(absent(&operator, "").await, [""; 0], "nobody is announced yet");
    heartbeat(&made[0].key, "offline").await;
    system.advance(131 * SECOND);
    system.sweep().await;
    let mut all = absent(&operator, "").await;
    assert_eq!(all.remove(0), "leaves", "it left before the others were announced");
    // The sweep announced the others at one moment.
    all.sort();
    assert_eq!(all, ["silent-1", "silent-2", "silent-3"]);
    system.advance(7200 * SECOND);
    system.sweep().await;
    let mut last = absent(&operator, "").await.split_off(4);
    last.sort();
    assert_eq!(last, ["here", "never came"]);

    for limit in 1..=3 {
        let (mut found, mut cursor) = (Vec::new(), Some(String::new()));
        while let Some(at) = cursor {
            let page = list(&operator, &format!("absent=true&limit={limit}&cursor={at}")).await;
            assert!(page["items"].as_array().expect("a list").len() <= limit);
            found.extend(names(&page));
            cursor = next(&page);
        }
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, ["here", "leaves", "never came", "silent-1", "silent-2", "silent-3"], "{limit}");
        assert_eq!(found[0], "leaves");
    }
    let on_board = absent(&operator, &format!("&board_id={BOARD}")).await;
    assert_eq!(
        BTreeSet::from_iter(on_board),
        BTreeSet::from(["here", "leaves", "silent-2"].map(str::to_owned))
    );

    heartbeat(&made[1].key, "healthy").await;
    assert!(!absent(&operator, "").await.contains(&"silent-1".to_owned()), "it is back");
    operator.delete(&agent_path(&made[2].id, "")).await;
    assert!(!absent(&operator, "").await.contains(&"silent-2".to_owned()), "it is deleted");
    let page = list(&operator, "absent=true&cursor=0000000000000.00000000-0000-4000-8000-000000000000").await;
    assert_eq!(names(&page)[0], "leaves", "a cursor of nobody's is a place as well");

    for (query, loc) in [
        ("absent=yes", "query.absent"),
        ("absent=true&name=a", "query.absent"),
        ("absent=true&offset=1", "query.offset"),
        ("absent=true&cursor=x", "query.cursor"),
    ] {
        assert_eq!(invalid(&operator.get(&format!("{AGENTS}?{query}")).await), loc, "{query}");
    }
    assert_eq!(list(&operator, "absent=false").await["total"], 5, "an ordinary list");
}

/// For docs/api.md: an agent is written to the index of absences when it goes and when it comes back, and by no heartbeat
/// in between.
#[tokio::test]
async fn the_index_of_absences_costs_a_steady_heartbeat_nothing_also_of_an_agent_in_it() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    let client = Client::x_agent_token(&system, &agent.key);
    let heartbeat = async |status: &str| {
        system.advance(SECOND);
        agent_read(&client.post(OWN_HEARTBEAT, &json!({ "status": status })).await);
        let tally = system.proxy.take();
        (tally.requests(), tally.write_units())
    };
    let close = |(requests, units): (usize, f64), expected: (usize, f64), what: &str| {
        assert!(requests == expected.0 && (units - expected.1).abs() < 0.01, "{what}: {requests}, {units}");
    };
    heartbeat("healthy").await;
    close(heartbeat("healthy").await, (1, 1.0), "steady");
    // Refused as an ordinary heartbeat, which is billed and not counted here; then row and event in a transaction.
    close(heartbeat("offline").await, (2, 4.0 + ENTRY), "it goes");
    assert_eq!(absent(&operator, "").await, ["a"]);
    system.proxy.take();
    close(heartbeat("offline").await, (1, 1.0), "it says so again, and is in the index");
    close(heartbeat("healthy").await, (2, 4.0 + ENTRY), "it is back");
    close(heartbeat("healthy").await, (1, 1.0), "steady");
    system.advance(131 * SECOND);
    system.proxy.take();
    system.sweep().await;
    let tally = system.proxy.take().of("TransactWriteItems").on(&system.table("AgentsTable"));
    assert!(
        (tally.write_units() - (4.0 + ENTRY)).abs() < 0.01,
        "announced by the sweep: {}",
        tally.write_units()
    );
    assert_eq!(absent(&operator, "").await, ["a"]);
    system.proxy.take();
    operator.delete(&agent_path(&agent.id, "")).await;
    let removed = system.proxy.take().write_units();
    assert!((removed - (4.0 + 2.0 + ENTRY)).abs() < 0.01, "deleted: {removed}");
}

/// What an entry of an index adds to a transaction.
const ENTRY: f64 = 1.0;
