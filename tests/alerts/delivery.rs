//! `deliver`: from a queued message to its receiver, and what comes of receivers that do not take it.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use shared::domain::channel::{Channel, ChannelKind};
use shared::domain::delivery::RETRIES;
use shared::domain::event::Actor;
use shared::domain::notification::{deliveries_of, seq_key};
use shared::time::Timestamp;
use standardwebhooks::Webhook;

use super::{READS, SECRET, channel, silence};
use crate::support::receiver::{Received, Receiver};
use crate::support::{Row, START, TestSystem, number, text};

const DAY: Duration = Duration::from_hours(24);

/// A channel of this kind to this URL.
async fn connected(system: &TestSystem, kind: ChannelKind, url: &str) -> Channel {
    let (mut channel, secrets) = channel(url);
    channel.kind = kind;
    let store = system.store(READS);
    assert!(store.create_channel(&channel, &secrets, None, Actor::System, START).await.expect("an answer"));
    channel
}

/// A webhook to this receiver.
pub async fn webhook(system: &TestSystem, receiver: &Receiver) -> Channel {
    connected(system, ChannelKind::Webhook, &receiver.url()).await
}

/// Queues message `seq` for a channel.
pub async fn queue(system: &TestSystem, channel: &Channel, seq: u64) {
    let store = system.store(READS);
    let enqueued = store.enqueue(channel, &seq_key(seq), &silence(seq), system.now()).await;
    assert!(enqueued.expect("an answer"));
}

/// A delivery's row.
async fn delivery(system: &TestSystem, channel: &Channel, seq: u64) -> Row {
    let request = system.dynamodb.get_item().table_name(system.table("AlertsTable")).consistent_read(true);
    let request = request
        .key("alert_log", AttributeValue::S(deliveries_of(channel.channel_id)))
        .key("alert_key", AttributeValue::S(seq_key(seq)));
    request.send().await.expect("a read").item.expect("a delivery").into_iter().collect()
}

async fn state(system: &TestSystem, channel: &Channel, seq: u64) -> String {
    text(&delivery(system, channel, seq).await, "delivery_state").expect("a state").to_owned()
}

async fn row_of(system: &TestSystem, channel: &Channel) -> Channel {
    system.store(READS).channel(channel.channel_id).await.expect("an answer").expect("a channel")
}

/// Whether it was then, or as much later as a run takes: its own time goes on.
fn is_about(moment: Option<Timestamp>, then: Timestamp) -> bool {
    moment.is_some_and(|moment| (then..then.plus(Duration::from_mins(1))).contains(&moment))
}

/// The types of a channel's events, oldest first.
async fn events(system: &TestSystem, channel: &Channel) -> Vec<String> {
    let rows = system.event_rows(&format!("channel#{}", channel.channel_id)).await;
    rows.iter().map(|row| text(row, "event_type").expect("a type").to_owned()).collect()
}

/// Advances time until the delivery is due again, and delivers. How long that took; `None`: it is not due again.
async fn retry(system: &TestSystem, channel: &Channel, seq: u64) -> Option<Duration> {
    let due_at = number(&delivery(system, channel, seq).await, "due_at")?;
    let pause = Duration::from_millis(u64::try_from(due_at - system.now().as_millis()).expect("later"));
    system.advance(pause);
    system.deliver().await;
    Some(pause)
}

#[tokio::test]
async fn a_queued_message_rings_and_is_delivered_signed() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 7).await;
    let rung = system.pump().await;
    assert_eq!(rung.len(), 1, "{rung:?}");
    assert_eq!((&*rung[0].0, rung[0].1.as_ref().expect("a run")["delivered"].as_u64()), ("deliver", Some(1)));
    let [one] = &receiver.take()[..] else { panic!("one request") };
    assert_eq!(one.json(), silence(7).to_json());
    assert_eq!(one.header("content-type"), "application/json");
    let row = delivery(&system, &channel, 7).await;
    let id = format!("msg_{}", text(&row, "delivery_id").expect("an id"));
    assert_eq!(one.header("webhook-id"), id);
    let timestamp: i64 = one.header("webhook-timestamp").parse().expect("seconds");
    assert_eq!(timestamp, system.now().as_seconds());
    let signed = Webhook::new(SECRET).expect("a secret").sign(&id, timestamp, one.body.as_bytes());
    assert_eq!(one.header("webhook-signature"), signed.expect("a signature"));
    assert_eq!(text(&row, "delivery_state"), Some("delivered"));
    assert_eq!((text(&row, "due"), number(&row, "due_at")), (None, None), "out of the index");
    assert_eq!(system.deliver().await["delivered"], 0);
    assert_eq!(receiver.take().len(), 0);
}

#[tokio::test]
async fn slack_and_discord_get_words_and_no_signature() {
    let system = TestSystem::start().await;
    for (kind, field) in [(ChannelKind::Slack, "text"), (ChannelKind::Discord, "content")] {
        let receiver = Receiver::start().await;
        let channel = connected(&system, kind, &receiver.url()).await;
        queue(&system, &channel, 1).await;
        system.deliver().await;
        let [one] = &receiver.take()[..] else { panic!("one request") };
        let text = one.json()[field].as_str().expect("words").to_owned();
        assert!(text.starts_with("`builder-1` is silent"), "{text}");
        assert_eq!(one.header("webhook-signature"), "");
    }
}

/// ⚠ A crash between claim and note.
#[tokio::test]
async fn what_was_claimed_and_never_noted_is_sent_again_after_a_minute() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    let store = system.store(READS);
    let claim = store.claim_delivery(channel.channel_id, &seq_key(1), system.now()).await.expect("an answer");
    assert!(matches!(claim, shared::store::Claim::Ours(_)), "{claim:?}");
    system.advance(Duration::from_secs(30));
    system.deliver().await;
    assert_eq!(receiver.take().len(), 0, "somebody may be sending it");
    system.advance(Duration::from_secs(30));
    system.deliver().await;
    assert_eq!(receiver.take().len(), 1);
    let row = delivery(&system, &channel, 1).await;
    assert_eq!((text(&row, "delivery_state"), number(&row, "attempt")), (Some("delivered"), Some(2)));
}

#[tokio::test]
async fn two_runs_at_once_send_once() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    for seq in 0..20 {
        queue(&system, &channel, seq).await;
    }
    let (one, other) = tokio::join!(system.deliver(), system.deliver());
    let count = |report: &Value| report["delivered"].as_u64().expect("a count");
    assert_eq!(count(&one) + count(&other), 20);
    assert_eq!(receiver.take().len(), 20);
}

#[tokio::test]
async fn a_receiver_sees_one_id_on_every_retry_of_75_hours() {
    let system = TestSystem::start().await;
    let receiver = Receiver::answering(500).await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    system.deliver().await;
    let mut pauses = Vec::new();
    while let Some(pause) = retry(&system, &channel, 1).await {
        pauses.push(pause);
    }
    assert_eq!(pauses.len(), RETRIES.len());
    for (pause, planned) in pauses.iter().zip(RETRIES) {
        let (least, most) = (planned.mul_f64(0.79), planned.mul_f64(1.21) + Duration::from_secs(2));
        assert!((least..most).contains(pause), "{pause:?} in place of {planned:?}");
    }
    let total: Duration = pauses.iter().sum();
    assert!((DAY * 60 / 24..DAY * 91 / 24).contains(&total), "{total:?}");
    let received = receiver.take();
    assert_eq!(received.len(), 10);
    let of_all = |field: fn(&Received) -> &str| -> std::collections::BTreeSet<&str> {
        received.iter().map(field).collect()
    };
    assert_eq!(of_all(|it| it.header("webhook-id")).len(), 1, "the receiver's own means against duplicates");
    assert_eq!(of_all(|it| it.header("webhook-timestamp")).len(), 10, "each attempt is signed anew");
    assert_eq!(of_all(|it| &it.body).len(), 1);
    let row = delivery(&system, &channel, 1).await;
    assert_eq!(text(&row, "delivery_state"), Some("failed"));
    let attempts = row["attempts"].as_l().expect("a list");
    assert_eq!(attempts.len(), 10);
    assert_eq!(attempts[9].as_m().expect("a map")["status"], AttributeValue::N("500".to_owned()));
    let now = row_of(&system, &channel).await;
    assert!(now.is_enabled() && is_about(now.failing_since, START), "noted, and not yet disabled");
}

#[tokio::test]
async fn a_last_attempt_that_never_ended_is_a_failure() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    let store = system.store(READS);
    for _ in 0..10 {
        let claim = store.claim_delivery(channel.channel_id, &seq_key(1), system.now()).await;
        assert!(matches!(claim, Ok(shared::store::Claim::Ours(_))), "{claim:?}");
        system.advance(Duration::from_mins(1));
    }
    let report = system.deliver().await;
    assert_eq!((&report["undelivered"], &report["delivered"]), (&json!(1), &json!(0)));
    assert_eq!(state(&system, &channel, 1).await, "failed");
    assert_eq!(receiver.take().len(), 0);
}

#[tokio::test]
async fn a_receiver_that_says_it_is_gone_is_asked_nothing_more() {
    let system = TestSystem::start().await;
    let receiver = Receiver::answering(410).await;
    let channel = webhook(&system, &receiver).await;
    for seq in 0..12 {
        queue(&system, &channel, seq).await;
    }
    let report = system.deliver().await;
    assert_eq!(report["disabled"], 1);
    let asked = receiver.take().len();
    assert!((1..=4).contains(&asked), "{asked}: those that were under way");
    let now = row_of(&system, &channel).await;
    assert_eq!((now.is_enabled(), now.disabled_reason.as_deref()), (false, Some("gone")));
    assert_eq!(events(&system, &channel).await, ["channel.created", "channel.disabled"]);
    system.advance(DAY);
    system.deliver().await;
    assert_eq!(receiver.take().len(), 0);
}

/// A message each day, to a receiver that takes none of them.
#[tokio::test]
async fn five_days_of_nothing_but_failures_disable_a_channel() {
    let system = TestSystem::start().await;
    let receiver = Receiver::answering(500).await;
    let channel = webhook(&system, &receiver).await;
    let mut disabled_after = None;
    for hour in 0..24 * 9 {
        if hour % 24 == 0 {
            queue(&system, &channel, hour).await;
        }
        system.deliver().await;
        if disabled_after.is_none() && !row_of(&system, &channel).await.is_enabled() {
            disabled_after = Some(hour);
        }
        system.advance(Duration::from_hours(1));
    }
    let hour = disabled_after.expect("disabled");
    assert!((120..168).contains(&hour), "{hour}");
    let now = row_of(&system, &channel).await;
    assert_eq!(now.disabled_reason.as_deref(), Some("failing"));
    assert!(!now.disabled_told, "the sweep tells the others");
    assert_eq!(events(&system, &channel).await, ["channel.created", "channel.disabled"]);
}

#[tokio::test]
async fn one_success_begins_the_five_days_anew() {
    let system = TestSystem::start().await;
    let receiver = Receiver::answering(500).await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    system.deliver().await;
    assert!(is_about(row_of(&system, &channel).await.failing_since, START));
    receiver.answer(204);
    system.advance(DAY * 4);
    queue(&system, &channel, 2).await;
    system.deliver().await;
    let now = row_of(&system, &channel).await;
    assert_eq!(now.failing_since, None);
    assert!(now.last_ok_at >= Some(START.plus(DAY * 4)));
    receiver.answer(500);
    system.advance(Duration::from_mins(1));
    queue(&system, &channel, 3).await;
    system.deliver().await;
    assert!(row_of(&system, &channel).await.failing_since >= Some(START.plus(DAY * 4)));
}

/// A fleet that has little to tell: one message failed for good a month ago, and its receiver stumbles once now.
#[tokio::test]
async fn an_old_failure_and_a_new_one_disable_nobody() {
    let system = TestSystem::start().await;
    let receiver = Receiver::answering(500).await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    system.deliver().await;
    while retry(&system, &channel, 1).await.is_some() {}
    system.advance(DAY * 25);
    queue(&system, &channel, 2).await;
    system.deliver().await;
    receiver.answer(204);
    retry(&system, &channel, 2).await.expect("a retry");
    assert_eq!(state(&system, &channel, 2).await, "delivered");
    let now = row_of(&system, &channel).await;
    assert!(now.is_enabled() && now.failing_since.is_none());
}

#[tokio::test]
async fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
    let system = TestSystem::start().await;
    for (status, asked, seconds) in [(503, "7200", 7_200), (429, "1000000", 12 * 3_600), (429, "0", 60)] {
        let receiver = Receiver::start().await;
        receiver.answer_with(status, &[("retry-after", asked)]);
        let channel = webhook(&system, &receiver).await;
        queue(&system, &channel, 1).await;
        system.deliver().await;
        assert_eq!(receiver.take().len(), 1);
        let due_at = number(&delivery(&system, &channel, 1).await, "due_at").expect("a retry");
        let pause = due_at - system.now().as_millis();
        assert!((seconds * 1000..seconds * 1000 + 5_000).contains(&pause), "{status} {asked}: {pause}");
    }
}

/// ⚠ One dead endpoint holds up nobody else.
#[tokio::test]
async fn ten_receivers_of_which_one_hangs_one_fails_and_one_is_overloaded() {
    // So long that a busy machine's living receivers are in time.
    let system = TestSystem::with().patience(Duration::from_secs(2)).start().await;
    let mut channels = Vec::new();
    for place in 0..10 {
        let receiver = Receiver::start().await;
        match place {
            0 => receiver.hang(),
            1 => receiver.answer(500),
            2 => receiver.answer_with(429, &[("retry-after", "600")]),
            _ => {}
        }
        channels.push((webhook(&system, &receiver).await, receiver));
    }
    for seq in 0..50 {
        for (channel, _) in &channels {
            queue(&system, channel, seq).await;
        }
    }
    assert_eq!(deliver_all(&system).await, (350, 150));
    for (_, receiver) in &channels {
        assert_eq!(receiver.take().len(), 50);
    }
    // What failed comes again by itself once its receiver is well.
    for (_, receiver) in &channels {
        receiver.answer(204);
    }
    system.advance(Duration::from_mins(13));
    assert_eq!(deliver_all(&system).await, (150, 0));
    for row in system.rows("AlertsTable").await {
        assert_eq!(text(&row, "delivery_state"), Some("delivered"));
    }
}

/// Delivers until nothing is left for want of time, as a busy machine may; how much was delivered, and is to be retried.
async fn deliver_all(system: &TestSystem) -> (u64, u64) {
    let (mut delivered, mut retried) = (0, 0);
    loop {
        let report = system.deliver().await;
        delivered += report["delivered"].as_u64().expect("a count");
        retried += report["retried"].as_u64().expect("a count");
        if report["left"] == 0 {
            return (delivered, retried);
        }
    }
}

#[tokio::test]
async fn a_paused_channels_deliveries_wait_and_are_not_late() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    set_state(&system, &channel, "paused").await;
    queue(&system, &channel, 1).await;
    system.pump().await;
    system.advance(DAY);
    assert_eq!(system.deliver().await["oldest_due_ms"], 0);
    assert_eq!(receiver.take().len(), 0);
    set_state(&system, &channel, "enabled").await;
    system.deliver().await;
    assert_eq!(receiver.take().len(), 1);
}

async fn set_state(system: &TestSystem, channel: &Channel, state: &str) {
    let request = system.dynamodb.update_item().table_name(system.table("ChannelsTable"));
    let request = request
        .key("listing", AttributeValue::S("channels".to_owned()))
        .key("channel_id", AttributeValue::S(channel.channel_id.to_string()))
        .update_expression("SET channel_state = :state")
        .expression_attribute_values(":state", AttributeValue::S(state.to_owned()));
    request.send().await.expect("a write");
}

#[tokio::test]
async fn how_long_the_oldest_has_been_due_is_measured() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    queue(&system, &channel, 1).await;
    system.advance(Duration::from_mins(11));
    let oldest = system.deliver().await["oldest_due_ms"].as_u64().expect("a figure");
    assert!((660_000..670_000).contains(&oldest), "{oldest}");
    assert_eq!(system.deliver().await["oldest_due_ms"], 0);
}

/// A sweep read the channels, and queued for one that was deleted meanwhile.
#[tokio::test]
async fn what_is_queued_for_a_channel_that_is_gone_is_canceled() {
    let system = TestSystem::start().await;
    let receiver = Receiver::start().await;
    let channel = webhook(&system, &receiver).await;
    let store = system.store(READS);
    store.delete_channel(channel.channel_id, Actor::System, START).await.expect("an answer");
    queue(&system, &channel, 1).await;
    system.pump().await;
    assert_eq!(state(&system, &channel, 1).await, "canceled");
    assert_eq!(receiver.take().len(), 0);
    assert_eq!(text(&delivery(&system, &channel, 1).await, "due"), None);
}

#[tokio::test]
async fn what_is_neither_a_tick_nor_records_is_an_error() {
    let system = TestSystem::start().await;
    for input in [json!({}), json!({ "source": "rollcall.sweep" }), json!({ "Records": [{}] }), json!([])] {
        assert!(system.run_job("deliver", &input).await.is_err(), "{input}");
    }
}
