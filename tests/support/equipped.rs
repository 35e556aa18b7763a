//! Agents with every feature on, and what a client that knows none of them may be told otherwise.
//!
//! With `ROLLCALL_TEST_AGENTS=equipped` every agent of the tests is equipped as soon as it is active, whoever made it. What
//! it is told then differs by one key: `directive`, in the answers to heartbeats and of `healthz`. This file leaves it out,
//! as a client does that does not know it, and nothing else.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::Method;
use serde_json::{Value, json};
use shared::config::env;

use super::{Reply, TestAgent, TestSystem, n, s};

/// Of the environment.
pub const VARIABLE: &str = "ROLLCALL_TEST_AGENTS";

/// Whether the tests' agents have every feature on.
pub fn are_equipped() -> bool {
    env(VARIABLE).is_some_and(|agents| agents == "equipped")
}

impl TestSystem {
    /// What is said of the whole fleet: nobody is told of it, and a channel would be.
    pub async fn equip(&self) {
        let minted = self.mint(&json!({ "kind": "operator" })).await;
        let bearer = format!("Bearer {}", minted["token"].as_str().expect("a token"));
        let headers = [("authorization", bearer.as_str())];
        let channel =
            json!({ "kind": "webhook", "url": "https://192.0.2.1/", "concerns": ["offline", "error"] });
        for (path, body) in [
            ("/api/v1/silences", json!({ "all": true, "for_seconds": 86_400 })),
            ("/api/v1/channels", channel),
        ] {
            assert_eq!(self.post_with(path, &headers, &body).await.status, 200, "{path}");
        }
        let own = format!("/api/v1/tokens/{}", minted["id"].as_str().expect("an id"));
        assert_eq!(self.send(Method::DELETE, &own, &headers, "").await.status, 200);
    }

    /// Everything that an operator may want of an agent and everything that it may have reported: a directive that it heard, a
    /// limit of its own, a budget that is used up, a process, a promise and an age of its progress. Past all rules, so that
    /// nothing else of it changes.
    pub async fn equip_agent(&self, agent_id: &str) {
        let agent = TestAgent { id: agent_id.to_owned(), key: String::new() };
        if self.row(&agent).await.contains_key("directive") {
            return;
        }
        let now = self.now().as_millis();
        // One in two is told by its directive, the other by its budget alone: an operator's word would go before it.
        let action = if agent.id.ends_with(|last: char| "01234567".contains(last)) { "drain" } else { "run" };
        for (attribute, value) in [
            ("directive", s(format!("{now} {action} ~0"))),
            ("unacked", n(now)),
            ("rate_limit", n(&self.limit)),
            ("budget_tokens", n(1_000)),
            ("spend_day", n(now / 86_400_000)),
            ("spent_tokens", n(1_000)),
            ("spent_microusd", n(42)),
            ("spend_told", n(100)),
            ("boot", AttributeValue::B(Blob::new([0xb0_u8; 8]))),
            ("stall_after_ms", n(60_000)),
            ("stalls_at", n(now)),
            ("next_beat_at", n(now + 3_600_000)),
        ] {
            self.set(&agent, attribute, value).await;
        }
    }

    /// Equips the agent that an answer made active, and leaves out what a client of these contracts does not know.
    pub(super) async fn as_equipped(&self, method: &Method, path: &str, reply: Reply) -> Reply {
        let Ok(mut body) = serde_json::from_str::<Value>(&reply.text) else { return reply };
        if reply.status != 200 {
            return reply;
        }
        let path = path.split('?').next().unwrap_or_default();
        let is_created = body["agent_token"].is_string() && !path.ends_with("/rotate-key");
        let is_active = body["data"]["status"] == "active"
            || path.ends_with("/approve")
            || (is_created && (path == "/api/v1/agents" || body["status"] != "provisioning"));
        let id = body["data"]["agentId"].as_str().or_else(|| body["id"].as_str());
        if is_active
            && *method == Method::POST
            && let Some(id) = id
        {
            self.equip_agent(id).await;
        }
        let answer = if body["data"].is_object() { &mut body["data"] } else { &mut body };
        let told = path.ends_with("/heartbeat") || path.ends_with("/healthz");
        let is_told =
            told && answer.as_object_mut().is_some_and(|answer| answer.remove("directive").is_some());
        if is_told { Reply { text: body.to_string(), ..reply } } else { reply }
    }
}
