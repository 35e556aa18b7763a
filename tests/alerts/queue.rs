//! Channels' rows and the queue of deliveries: what the sweep and `deliver` rely on.

use serde_json::json;
use shared::domain::channel::CHANNELS_LIMIT;
use shared::domain::event::Actor;
use shared::domain::notification::{deliveries_of, seq_key};

use super::{READS, channel, message};
use crate::support::{START, TestSystem, number, text};

const URL: &str = "https://receiver.example/abcd";

#[tokio::test]
async fn fifty_channels_are_the_most_however_many_are_made_at_once() {
    let system = TestSystem::start().await;
    let store = system.store(READS);
    let mut first = None;
    for _ in 0..CHANNELS_LIMIT - 2 {
        let (channel, secrets) = channel(URL);
        assert!(
            store.create_channel(&channel, &secrets, None, Actor::System, START).await.expect("an answer")
        );
        first = Some(channel.channel_id);
    }
    let at_once = (0..6).map(|_| async {
        let (channel, secrets) = channel(URL);
        store.create_channel(&channel, &secrets, None, Actor::System, START).await
    });
    let made = futures_util::future::join_all(at_once).await;
    // Those that lost every race made nothing, and say so.
    let made = made.into_iter().filter(|made| matches!(made, Ok(true))).count();
    assert!(made <= 2, "{made}");
    for _ in made..2 {
        let (channel, secrets) = channel(URL);
        assert!(
            store.create_channel(&channel, &secrets, None, Actor::System, START).await.expect("an answer")
        );
    }
    let (one_more, secrets) = channel(URL);
    assert!(!store.create_channel(&one_more, &secrets, None, Actor::System, START).await.expect("an answer"));
    assert_eq!(store.channels().await.expect("channels").len(), CHANNELS_LIMIT);
    let first = first.expect("a channel");
    assert!(store.delete_channel(first, Actor::System, START).await.expect("an answer"));
    assert!(!store.delete_channel(first, Actor::System, START).await.expect("an answer"), "gone already");
    assert!(store.create_channel(&one_more, &secrets, None, Actor::System, START).await.expect("an answer"));
    assert_eq!(system.rows("SecretsTable").await.len(), CHANNELS_LIMIT);
}

#[tokio::test]
async fn a_channel_is_read_as_it_was_written() {
    let system = TestSystem::start().await;
    let store = system.store(READS);
    let (channel, secrets) = channel(URL);
    store.create_channel(&channel, &secrets, None, Actor::System, START).await.expect("an answer");
    assert_eq!(store.channel(channel.channel_id).await.expect("an answer"), Some(channel.clone()));
    assert_eq!(store.channels().await.expect("channels"), [channel]);
}

#[tokio::test]
async fn a_message_is_queued_once_for_a_channel() {
    let system = TestSystem::start().await;
    let store = system.store(READS);
    let (channel, _) = channel(URL);
    let one = message(&json!({ "seq": 7, "agent": { "name": "a" } }));
    assert!(store.enqueue(&channel, &seq_key(7), &one, START).await.expect("an answer"));
    assert!(!store.enqueue(&channel, &seq_key(7), &one, START).await.expect("an answer"), "there already");
    let rows = system.rows("AlertsTable").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(text(&rows[0], "alert_log"), Some(&*deliveries_of(channel.channel_id)));
    assert_eq!(text(&rows[0], "alert_key"), Some("000000000007"));
    assert_eq!(text(&rows[0], "due"), Some(&*channel.channel_id.to_string()));
    assert_eq!(number(&rows[0], "due_at"), Some(START.as_millis()));
    assert_eq!(number(&rows[0], "expires_at"), Some(START.as_seconds() + 30 * 24 * 60 * 60));
    assert_eq!(text(&rows[0], "body"), Some(&*one.to_json().to_string()));
}

#[tokio::test]
async fn a_message_that_no_row_can_hold_is_a_failed_delivery_and_not_a_stop() {
    let system = TestSystem::start().await;
    let store = system.store(READS);
    let (channel, _) = channel(URL);
    let huge = message(&json!({ "note": "x".repeat(500_000) }));
    assert!(store.enqueue(&channel, &seq_key(1), &huge, START).await.expect("no stop"));
    assert!(!store.enqueue(&channel, &seq_key(1), &huge, START).await.expect("no stop"), "there already");
    let rows = system.rows("AlertsTable").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(text(&rows[0], "delivery_state"), Some("failed"));
    assert_eq!(text(&rows[0], "due"), None, "nobody sends it");
}
