//! `POST /api/agents/heartbeat`.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Value, json};
use shared::domain::rate_limit::WINDOW;

use crate::support::dynamodb_proxy::When;
use crate::support::{START, TestAgent, TestSystem, n, number, quota, s, text};

const PATH: &str = "/api/agents/heartbeat";

#[tokio::test]
async fn the_answer_is_the_lease_for_every_status() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for status in ["healthy", "degraded", "error", "offline"] {
        let reply = system.heartbeat(&agent, status).await;
        let data = json!({
            "ok": true,
            "agentId": agent.id,
            "status": status,
            "lastSeenAt": "2037-01-01T00:00:30.000Z",
            "intervalSeconds": 60,
            "leaseExpiresAt": "2037-01-01T00:02:30.000Z",
        });
        assert_eq!(reply.json(), json!({ "ok": true, "data": data }));
        let row = system.row(&agent).await;
        assert_eq!(text(&row, "health"), Some(status));
        assert_eq!(number(&row, "last_seen_at"), Some(START.as_millis()));
        assert_eq!(number(&row, "lease_expires_at"), Some(START.as_millis() + 120_000));
    }
}

#[tokio::test]
async fn the_lease_lasts_the_agents_own_tolerance() {
    let system = TestSystem::start().await;
    for (config, interval, lease) in [
        (json!({ "intervalSeconds": 5, "missingTolerance": 11 }), 5, "2037-01-01T00:00:42.250Z"),
        (
            json!({ "intervalSeconds": 86_400, "missingTolerance": 604_800 }),
            86_400,
            "2037-01-08T00:00:31.250Z",
        ),
    ] {
        let body = json!({ "name": "a", "heartbeatConfig": config });
        let key = system.register(&body).await.data()["apiKey"].as_str().unwrap().to_owned();
        system.verify(&key).await.data();
        if interval == 5 {
            system.advance(Duration::from_millis(1_250));
        }
        let data = system.post(PATH, &json!({ "apiKey": key, "status": "healthy" })).await.data();
        assert_eq!(data["intervalSeconds"], interval);
        assert_eq!(data["lastSeenAt"], "2037-01-01T00:00:31.250Z");
        assert_eq!(data["leaseExpiresAt"], lease);
    }
}

/// A steady heartbeat is one request and one write unit, whatever the gap.
#[tokio::test]
async fn a_steady_heartbeat_is_one_write_whatever_the_gap() {
    let system = TestSystem::start().await;
    let agent = system.verified("steady").await;
    system.heartbeat(&agent, "healthy").await.data();
    for windows in [0, 1, 2, 5, 60, 1_440] {
        system.advance(Duration::from_mins(windows));
        system.proxy.take();
        system.heartbeat(&agent, "healthy").await.data();
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"], "after {windows} windows");
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0), "after {windows} windows");
        let left = counters(&system, &agent).await;
        assert!((1..=2).contains(&left.len()), "after {windows} windows: {left:?}");
    }
}

/// The names of the row's counters: of `b0`…`b12`, `c0`…`c12`.
async fn counters(system: &TestSystem, agent: &TestAgent) -> Vec<String> {
    let is_counter = |name: &String| {
        name.strip_prefix(['b', 'c']).is_some_and(|slot| slot.parse::<u8>().is_ok_and(|slot| slot < 13))
    };
    system.row(agent).await.into_keys().filter(is_counter).collect()
}

#[tokio::test]
async fn a_heartbeat_changes_nothing_but_lease_health_and_counters() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let mut before = system.row(&agent).await;
    system.advance(Duration::from_secs(1));
    system.heartbeat(&agent, "degraded").await.data();
    let mut after = system.row(&agent).await;
    let slot = START.as_millis() / 60_000 % 13;
    assert_eq!(number(&after, &format!("b{slot}")), Some(1));
    for changed in ["health", "last_seen_at", "lease_expires_at", "requests_total", &format!("b{slot}")] {
        assert_ne!(before.remove(changed), after.remove(changed), "{changed}");
    }
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_bad_status_is_refused_before_any_request() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.proxy.take();
    for status in
        [json!(null), json!(""), json!("online"), json!("Healthy"), json!(" healthy"), json!(1), json!([])]
    {
        let reply = system.post(PATH, &json!({ "apiKey": agent.key, "status": status })).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()), "{status}");
        assert!(reply.message().starts_with("status: "), "{status}: {}", reply.text);
    }
    let reply = system.post(PATH, &json!({ "apiKey": agent.key })).await;
    assert_eq!(reply.message(), "status: is required");
    let reply = system.send(Method::POST, PATH, &[("x-agent-token", &agent.key)], "[]").await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    assert_eq!(system.proxy.take().requests(), 0);
}

// ---- The key ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_key_may_be_in_three_places() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let bearer = format!("Bearer {}", agent.key);
    let lower = format!("bearer {}", agent.key);
    let body = json!({ "status": "healthy" });
    for header in
        [("x-agent-token", agent.key.as_str()), ("authorization", &bearer), ("authorization", &lower)]
    {
        assert_eq!(system.post_with(PATH, &[header], &body).await.data()["agentId"], agent.id, "{header:?}");
    }
    assert_eq!(system.heartbeat(&agent, "healthy").await.data()["agentId"], agent.id);
}

#[tokio::test]
async fn x_agent_token_comes_before_bearer_and_bearer_before_the_body() {
    let system = TestSystem::start().await;
    let (first, second, third) =
        (system.verified("a").await, system.verified("b").await, system.verified("c").await);
    let bearer = format!("Bearer {}", second.key);
    let body = json!({ "apiKey": third.key, "status": "healthy" });
    let heard = async |headers: &[(&str, &str)]| {
        system.post_with(PATH, headers, &body).await.data()["agentId"].as_str().unwrap().to_owned()
    };
    assert_eq!(heard(&[("x-agent-token", &first.key), ("authorization", &bearer)]).await, first.id);
    assert_eq!(heard(&[("authorization", &bearer)]).await, second.id);
    assert_eq!(heard(&[]).await, third.id);
    assert_eq!(heard(&[("x-agent-token", ""), ("authorization", "Basic YTpi")]).await, third.id);
}

#[tokio::test]
async fn a_missing_or_malformed_key_is_refused_before_any_request() {
    let system = TestSystem::start().await;
    let body = json!({ "status": "healthy" });
    assert_eq!(system.post(PATH, &body).await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    let operator = format!("rco_{}", "0".repeat(48));
    let bearer = format!("Bearer {operator}");
    for (header, status, code) in [
        (("x-agent-token", "nonsense"), 401, "UNAUTHORIZED"),
        (("authorization", "Bearer nonsense"), 401, "UNAUTHORIZED"),
        (("authorization", "Bearer"), 401, "UNAUTHORIZED"),
        (("authorization", "Basic YTpi"), 401, "UNAUTHORIZED"),
        (("x-agent-token", operator.as_str()), 403, "FORBIDDEN"),
        (("authorization", bearer.as_str()), 403, "FORBIDDEN"),
    ] {
        let reply = system.post_with(PATH, &[header], &body).await;
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{header:?}");
    }
    let reply = system.post(PATH, &json!({ "apiKey": "nonsense", "status": "healthy" })).await;
    assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".to_owned()));
    assert_eq!(system.proxy.take().requests(), 0);
}

#[tokio::test]
async fn an_unknown_key_is_remembered_for_a_second() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let wrong_secret = format!("{}{}", &agent.key[..16], "0".repeat(32));
    for key in ["0".repeat(48), wrong_secret] {
        let unknown = TestAgent { id: String::new(), key };
        system.proxy.take();
        for (later, requests) in [(0, 1), (0, 0), (999, 0), (1, 1), (0, 0)] {
            system.advance(Duration::from_millis(later));
            let reply = system.heartbeat(&unknown, "healthy").await;
            assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
            assert_eq!(reply.message(), "unknown API key");
            assert_eq!(system.proxy.take().requests(), requests, "{later} ms later");
        }
    }
    system.heartbeat(&agent, "healthy").await.data();
}

#[tokio::test]
async fn a_pending_agent_is_heard_as_soon_as_it_is_verified() {
    let system = TestSystem::start().await;
    let agent = system.registered("a").await;
    system.proxy.take();
    let reply = system.heartbeat(&agent, "healthy").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.message(), "the agent is not verified: verify the agent first");
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);
    assert_eq!(system.row(&agent).await.get("last_seen_at"), None);
    system.verify(&agent.key).await.data();
    system.heartbeat(&agent, "healthy").await.data();
}

#[tokio::test]
async fn a_revoked_agent_is_refused_until_it_is_restored() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    system.set(&agent, "agent_state", s("revoked")).await;
    let before = system.row(&agent).await;
    system.proxy.take();
    for _ in 0..2 {
        let reply = system.heartbeat(&agent, "healthy").await;
        assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
        assert_eq!(reply.message(), "the agent is revoked: an operator can restore it");
        assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);
    }
    assert_eq!(system.post_event(&agent, "e").await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(system.row(&agent).await, before);
    system.set(&agent, "agent_state", s("active")).await;
    system.heartbeat(&agent, "healthy").await.data();
}

// ---- The limit -------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_300_concurrent_heartbeats_60_are_accepted() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let replies = join_all((0..300).map(|_| system.heartbeat(&agent, "healthy"))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((accepted.len(), refused.len()), (60, 240));
    let left: HashSet<_> = accepted.iter().map(|reply| reply.quota()).collect();
    assert_eq!(left, (0..60).map(|remaining| quota("heartbeats", 60, remaining, 30)).collect());
    for reply in refused {
        assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
        assert_eq!(reply.message(), "Too many requests");
        assert_eq!(reply.header("retry-after"), Some("30"));
        assert_eq!(reply.quota(), quota("heartbeats", 60, 0, 30));
    }
    let row = system.row(&agent).await;
    assert_eq!(number(&row, "requests_total"), Some(60));
    let counted: Vec<i64> = (0..13).filter_map(|slot| number(&row, &format!("b{slot}"))).collect();
    assert_eq!(counted, [60], "the promise is about the row's counter");

    let reply = system.post_event(&agent, "still_here").await;
    reply.data();
    assert_eq!(reply.quota(), quota("events", 60, 59, 30));
    system.advance(Duration::from_secs(30));
    assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 60, 59, 60));
}

#[tokio::test]
async fn a_reject_costs_one_request_and_then_none_until_the_window_ends() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    let agent = system.verified("a").await;
    for remaining in [1, 0] {
        assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 2, remaining, 30));
    }
    let before = system.row(&agent).await;
    system.proxy.take();
    for (later, requests, retry_after) in [(1, 1, "30"), (0, 0, "30"), (10_000, 0, "20"), (19_998, 0, "1")] {
        system.advance(Duration::from_millis(later));
        let reply = system.heartbeat(&agent, "healthy").await;
        assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
        assert_eq!(reply.header("retry-after"), Some(retry_after));
        assert_eq!(system.proxy.take().requests(), requests, "{later} ms later");
    }
    assert_eq!(system.row(&agent).await, before, "a refused heartbeat renews nothing");
    system.advance(Duration::from_millis(1));
    assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 2, 1, 60));
    assert_eq!(system.proxy.take().requests(), 1);
}

/// Another environment, or this one after a restart, remembers nothing: the row refuses.
#[tokio::test]
async fn a_limit_holds_without_the_memory_of_its_environment() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 1).start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "offline").await.data();
    let reply = system.heartbeat(&agent, "offline").await;
    assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
    // `offline` over the limit neither begins nor ends an absence.
    system.advance(Duration::from_secs(30));
    system.heartbeat(&agent, "healthy").await.data();
    system.proxy.take();
    let reply = system.heartbeat(&agent, "offline").await;
    assert_eq!(reply.refusal(), (429, "RATE_LIMIT".to_owned()));
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);
    assert_eq!(system.row(&agent).await.get("offline_since"), None);
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
}

#[tokio::test]
async fn an_agents_own_limit_overrides_the_default() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    for (own, accepted) in [(1, 1), (5, 5)] {
        let agent = system.verified("a").await;
        system.set(&agent, "rate_limit", n(own)).await;
        for remaining in (0..accepted).rev() {
            assert_eq!(
                system.heartbeat(&agent, "healthy").await.quota(),
                quota("heartbeats", own, remaining, 30)
            );
        }
        let reply = system.heartbeat(&agent, "healthy").await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.quota(), quota("heartbeats", own, 0, 30));
        assert_eq!(system.post_event(&agent, "e").await.quota(), quota("events", own, own - 1, 30));
    }
}

/// Known quirk: a gap of exactly k × 13 windows meets the old count, and the limit is stricter for that window.
#[tokio::test]
async fn after_exactly_13_windows_the_old_count_is_met_for_one_window() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 2).start().await;
    for rings in [1, 2, 24] {
        let agent = system.verified("a").await;
        system.heartbeat(&agent, "healthy").await.data();
        system.heartbeat(&agent, "healthy").await.data();
        system.advance(rings * 13 * WINDOW);
        assert_eq!(system.heartbeat(&agent, "healthy").await.quota(), quota("heartbeats", 2, 0, 30));
        assert_eq!(system.heartbeat(&agent, "healthy").await.status, 429);
        system.advance(Duration::from_mins(1));
        for remaining in [1, 0] {
            assert_eq!(
                system.heartbeat(&agent, "healthy").await.quota(),
                quota("heartbeats", 2, remaining, 30)
            );
        }
        system.advance(60 * WINDOW);
        for remaining in [1, 0] {
            assert_eq!(
                system.heartbeat(&agent, "healthy").await.quota(),
                quota("heartbeats", 2, remaining, 30)
            );
        }
    }
}

#[tokio::test]
async fn requests_total_counts_what_was_accepted() {
    let system = TestSystem::with().parameter("RateLimitPerMinute", 3).start().await;
    let agent = system.verified("a").await;
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(0));
    for accepted in 1..=3 {
        system.heartbeat(&agent, "healthy").await.data();
        assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(accepted));
    }
    assert_eq!(system.heartbeat(&agent, "healthy").await.status, 429);
    assert_eq!(system.heartbeat(&agent, "nonsense").await.status, 400);
    system.post_event(&agent, "e").await.data();
    system.advance(Duration::from_mins(1));
    system.heartbeat(&agent, "offline").await.data();
    system.heartbeat(&agent, "offline").await.data();
    system.heartbeat(&agent, "healthy").await.data();
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(7));
}

// ---- Offline and back ------------------------------------------------------------------------------------

#[tokio::test]
async fn saying_offline_is_announced_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    system.advance(Duration::from_secs(1));
    system.proxy.take();
    system.heartbeat(&agent, "offline").await.data();
    assert_eq!(system.proxy.take().operations(), ["UpdateItem", "TransactWriteItems"]);
    let mut before = system.row(&agent).await;
    assert_eq!(number(&before, "offline_since"), Some(START.as_millis() + 1_000));
    let payload = json!({ "reason": "reported", "last_seen_at": "2037-01-01T00:00:31.000Z" });
    assert_eq!(system.payloads(&agent, "agent.offline").await, [payload]);

    system.advance(Duration::from_secs(1));
    system.proxy.take();
    let reply = system.heartbeat(&agent, "offline").await;
    assert_eq!(reply.data()["lastSeenAt"], "2037-01-01T00:00:32.000Z");
    assert_eq!(system.proxy.take().operations(), ["UpdateItem"]);
    let mut after = system.row(&agent).await;
    let counter = counters(&system, &agent).await.pop().unwrap();
    for changed in ["last_seen_at", "lease_expires_at", "requests_total", &counter] {
        assert_ne!(before.remove(changed), after.remove(changed), "{changed}");
    }
    assert_eq!(before, after);
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
}

#[tokio::test]
async fn the_first_request_may_be_offline() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    assert_eq!(system.heartbeat(&agent, "offline").await.data()["status"], "offline");
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
}

#[tokio::test]
async fn a_heartbeat_or_an_event_brings_an_agent_back_once() {
    let system = TestSystem::start().await;
    for by_event in [false, true] {
        let agent = system.verified("a").await;
        system.heartbeat(&agent, "degraded").await.data();
        system.heartbeat(&agent, "offline").await.data();
        let announced = system.now();
        system.advance(Duration::from_secs(1));
        system.proxy.take();
        if by_event {
            system.post_event(&agent, "back").await.data();
        } else {
            assert_eq!(system.heartbeat(&agent, "healthy").await.data()["status"], "healthy");
        }
        assert_eq!(system.proxy.take().operations()[..2], ["UpdateItem", "TransactWriteItems"]);
        let row = system.row(&agent).await;
        assert_eq!(row.get("offline_since"), None);
        assert_eq!(number(&row, "last_seen_at"), Some(system.now().as_millis()));
        assert_eq!(number(&row, "lease_expires_at"), Some(system.now().as_millis() + 120_000));
        assert_eq!(text(&row, "health"), (!by_event).then_some("healthy"));
        let payload =
            json!({ "offline_since": announced.to_string(), "last_seen_at": announced.to_string() });
        assert_eq!(system.payloads(&agent, "agent.online").await, std::slice::from_ref(&payload));

        system.advance(Duration::from_secs(1));
        system.heartbeat(&agent, "healthy").await.data();
        system.post_event(&agent, "more").await.data();
        assert_eq!(system.payloads(&agent, "agent.online").await, [payload]);
    }
}

/// All twenty have read the announced absence before the first one ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_concurrent_first_heartbeats_one_brings_the_agent_back() {
    let system = TestSystem::start().await;
    for by_event in [false, true] {
        let agent = system.verified("a").await;
        system.heartbeat(&agent, "offline").await.data();
        let gate = system.proxy.hold(When::operation("TransactWriteItems"));
        let heartbeats = join_all((0..20).map(|number| {
            let (system, agent) = (&system, &agent);
            async move {
                if by_event && number % 2 == 0 {
                    system.post_event(agent, "back").await
                } else {
                    system.heartbeat(agent, "healthy").await
                }
            }
        }));
        let (replies, ()) = join(heartbeats, async {
            gate.held(20).await;
            gate.release();
        })
        .await;
        for reply in replies {
            reply.data();
        }
        assert_eq!(system.payloads(&agent, "agent.online").await.len(), 1);
        assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
        let row = system.row(&agent).await;
        assert_eq!(row.get("offline_since"), None);
        assert_eq!(number(&row, "requests_total"), Some(21));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_concurrent_goodbyes_are_announced_once() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    let gate = system.proxy.hold(When::operation("TransactWriteItems"));
    let (replies, ()) = join(join_all((0..20).map(|_| system.heartbeat(&agent, "offline"))), async {
        gate.held(20).await;
        gate.release();
    })
    .await;
    for reply in replies {
        assert_eq!(reply.data()["status"], "offline");
    }
    assert_eq!(system.payloads(&agent, "agent.offline").await.len(), 1);
    assert_eq!(number(&system.row(&agent).await, "requests_total"), Some(21));
}

#[tokio::test]
async fn a_wrong_key_brings_nobody_back() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "offline").await.data();
    let stranger = TestAgent { key: format!("{}{}", &agent.key[..16], "0".repeat(32)), ..agent.clone() };
    assert_eq!(system.heartbeat(&stranger, "healthy").await.status, 401);
    assert_eq!(system.post_event(&stranger, "e").await.status, 401);
    assert_eq!(system.payloads(&agent, "agent.online").await, Vec::<Value>::new());
}

#[tokio::test]
async fn an_event_keeps_the_health_but_not_across_an_announced_absence() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "degraded").await.data();
    system.post_event(&agent, "e").await.data();
    assert_eq!(text(&system.row(&agent).await, "health"), Some("degraded"));
    system.advance(Duration::from_mins(10));
    system.sweep().await;
    assert_eq!(
        text(&system.row(&agent).await, "health"),
        Some("degraded"),
        "the sweep leaves the health alone"
    );
    system.post_event(&agent, "back").await.data();
    assert_eq!(system.row(&agent).await.get("health"), None);
}

// ---- Rotated keys ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_previous_key_is_valid_until_it_ends() {
    let system = TestSystem::start().await;
    let (agent, donor) = (system.verified("a").await, system.verified("b").await);
    let old_digest = system.row(&agent).await["key_digest"].clone();
    let new_digest = system.row(&donor).await["key_digest"].clone();
    system.set(&agent, "key_digest", new_digest).await;
    system.set(&agent, "prior_digest", old_digest).await;
    system.set(&agent, "prior_key_ends", n(START.as_millis() + 1_000)).await;
    system.advance(Duration::from_millis(999));
    system.heartbeat(&agent, "healthy").await.data();
    system.heartbeat(&agent, "offline").await.data();
    system.heartbeat(&agent, "healthy").await.data();
    system.advance(Duration::from_millis(1));
    let reply = system.heartbeat(&agent, "healthy").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
}

// ---- An older word never undoes a newer one ----------------------------------------------------------------

#[tokio::test]
async fn a_goodbye_is_never_undone_by_a_heartbeat_that_came_before_it() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    let gate = system.proxy.hold(When::operation("UpdateItem").times(1));
    let goodbye = async {
        gate.held(1).await;
        system.advance(Duration::from_millis(300));
        system.heartbeat(&agent, "offline").await.data();
        gate.release();
    };
    let (late, ()) = futures_util::future::join(system.heartbeat(&agent, "healthy"), goodbye).await;
    assert_eq!(late.status, 200, "it is answered alike: {}", late.text);
    let row = system.row(&agent).await;
    assert_eq!(text(&row, "health"), Some("offline"));
    assert_eq!(number(&row, "last_seen_at"), Some(system.now().as_millis()));
    assert!(row.contains_key("offline_since"));
    let events = system.event_rows(&agent.id).await;
    let last = events.iter().filter_map(|event| text(event, "event_type")).next_back();
    assert_eq!(last, Some("agent.offline"), "nothing came after the goodbye");
}

#[tokio::test]
async fn a_write_that_is_delayed_by_two_seconds_undoes_nothing() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    system.heartbeat(&agent, "healthy").await.data();
    let gate = system.proxy.hold(When::operation("UpdateItem").times(1));
    let newer = async {
        gate.held(1).await;
        system.advance(Duration::from_secs(2));
        system.heartbeat(&agent, "degraded").await.data();
        let row = system.row(&agent).await;
        gate.release();
        row
    };
    let (late, told) = futures_util::future::join(system.heartbeat(&agent, "healthy"), newer).await;
    assert_eq!(late.status, 200, "it is answered alike: {}", late.text);
    assert_eq!(system.row(&agent).await, told);
}

/// Calls of two minutes that are written out of order do not erase each other's counter.
#[tokio::test]
async fn around_a_minutes_boundary_two_windows_count_apart_in_any_order() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    let early = 70;
    let gate = system.proxy.hold(When::operation("UpdateItem").times(early));
    system.advance(Duration::from_millis(29_900));
    let first = futures_util::future::join_all((0..early).map(|_| system.heartbeat(&agent, "healthy")));
    let second = async {
        gate.held(early).await;
        system.advance(Duration::from_millis(200));
        let mut passed = 0;
        // One held call of the old minute is written before each call of the new one.
        for _ in 0..early {
            gate.let_through(1);
            passed += usize::from(system.heartbeat(&agent, "healthy").await.status == 200);
        }
        gate.release();
        passed
    };
    let (first, second) = futures_util::future::join(first, second).await;
    let first = first.iter().filter(|reply| reply.status == 200).count();
    assert!(first + second <= 140, "{first} and {second}");
    assert_eq!((first, second), (60, 60));
}

#[tokio::test]
async fn a_key_in_the_other_contracts_spelling_is_named() {
    let system = TestSystem::start().await;
    let agent = system.verified("a").await;
    for name in ["api_key", "agent_token"] {
        let reply =
            system.post("/api/agents/heartbeat", &json!({ name: agent.key, "status": "healthy" })).await;
        assert_eq!((reply.status, reply.message()), (400, format!("{name}: is not read here: send apiKey")));
    }
}
