//! Who knows none of the features notices none of them: the suites of both contracts' clients, once more.

use std::collections::BTreeSet;
use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::support::TestSystem;
use crate::support::equipped::VARIABLE;

/// What the clients of the tutorial and of Mission Control do.
const SUITES: [&str; 11] = [
    "envelope::register::",
    "envelope::verify::",
    "envelope::heartbeat::",
    "envelope::events::",
    "mission_control::heartbeat::",
    "mission_control::enroll::",
    "mission_control::events_usage_workspace::",
    "mission_control::lists::",
    "mission_control::operators::",
    "mission_control::rotate::",
    "mission_control::schema::",
];

/// What only operators see, and what holds because nobody promised anything.
const APART: [&str; 10] = [
    // A promise holds until a heartbeat takes it back: so long an agent that is not heard is not missed.
    "mission_control::enroll::creation_is_the_first_heartbeat",
    "envelope::events::an_event_renews_the_lease",
    "mission_control::events_usage_workspace::events_are_shown_newest_first_and_answer_why_an_agent_is_offline",
    // The first heartbeat that reports nothing takes the promise and the age of the progress back.
    "envelope::heartbeat::a_heartbeat_changes_nothing_but_lease_health_and_counters",
    // Operators see what is used, and all the rest, and may take an agent's own limit away.
    "mission_control::events_usage_workspace::usage_counts_accepted_requests",
    "mission_control::lists::detail_is_shown_where_it_is_asked_for_and_costs_nothing",
    "mission_control::operators::a_patch_that_changes_nothing_writes_nothing",
    // Their thousands of agents are written past every client.
    "mission_control::lists::a_page_of_200_of_10_000_costs_the_same_wherever_it_is",
    "mission_control::lists::a_page_with_a_rare_status_looks_at_a_thousand_agents_and_may_be_short",
    // It counts every kind of row, and silences and channels have theirs.
    "envelope::events::every_expires_at_is_in_epoch_seconds",
];

/// This program runs itself, with the same tests and other agents.
#[test]
fn clients_of_either_contract_notice_nothing_of_the_features() {
    let program = std::env::current_exe().expect("this program");
    let apart = APART.iter().flat_map(|test| ["--skip", *test]);
    let ran = Command::new(program).args(SUITES).args(apart).env(VARIABLE, "equipped").output();
    let ran = ran.expect("the same tests");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let passed = said.split_once("test result: ok. ").and_then(|(_, rest)| rest.split_once(' '));
    let passed: usize = passed.expect("a count").0.parse().expect("a number");
    assert!(passed > 150, "{said}");
}

/// The preparation is one: each agent is told what the features have to tell, and operators see them all.
#[tokio::test]
async fn an_equipped_agent_has_every_feature_on() {
    let system = TestSystem::start().await;
    system.equip().await;
    let operator = format!("Bearer {}", system.operator_token().await);
    let headers = [("authorization", operator.as_str())];
    let mut told = BTreeSet::new();
    // The last digit of an id decides which of the two words an agent hears.
    while told.len() < 2 {
        let agent = system.verified("a").await;
        system.equip_agent(&agent.id).await;
        let path = format!("/api/v1/agents/{}?detail=true", agent.id);
        let shown = system.send(Method::GET, &path, &headers, "").await.json();
        let detail = shown["detail"].as_object().expect("an object");
        for feature in ["boot_id", "directive", "next_beat_at", "stall_after_seconds", "stalls_at"] {
            assert!(detail.contains_key(feature), "{feature}: {shown}");
        }
        assert_eq!(
            (&detail["rate_limit_per_minute"], &detail["today"]["over_budget"]),
            (&json!(60), &json!(true))
        );
        let data = system.heartbeat(&agent, "healthy").await.data();
        let action = &data["directive"]["action"];
        assert_eq!(*action == "pause", data["directive"]["cause"] == "budget", "{data}");
        told.insert(action.as_str().expect("an action").to_owned());
    }
    assert_eq!(told, BTreeSet::from(["drain".to_owned(), "pause".to_owned()]));
    for list in ["silences", "channels"] {
        let list = system.send(Method::GET, &format!("/api/v1/{list}"), &headers, "").await.json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    }
}
