//! Deliver: sends what is queued for channels, when the alerts' stream rings and every minute.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::Setting::{
    AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, WebhookTargets,
};
use shared::domain::channel::ChannelId;
use shared::domain::notification::channel_of;
use shared::runtime::app::App;
use shared::runtime::deliverer::{DeliveryReport, Wanted};
use shared::runtime::function::{Job, JobError, work};
use shared::time::Timestamp;
use tokio::time::{Duration, Instant};

/// The function and what it reads.
pub const FUNCTION: Job = Job {
    name: "deliver",
    reads: &[AlertsTable, ChannelsTable, EventsTable, SecretsTable, SystemEventRetention, WebhookTargets],
    work: |app, input, now, deadline| work(input, move |bell| run(app, bell, now, deadline)),
};

/// No attempt begins with less time left: 15 s for the attempt, and the rest to note what came of it.
const ATTEMPT_TIME: Duration = Duration::from_secs(20);

/// What rings: the schedule, or the stream of the alerts' table. Anything else is somebody else's event.
#[derive(Debug, Deserialize)]
#[serde(from = "Event")]
pub struct Bell(Wanted);

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Schedule {
        #[serde(rename = "source")]
        _source: Source,
    },
    Stream {
        #[serde(rename = "Records")]
        records: Vec<Record>,
    },
}

#[derive(Deserialize)]
enum Source {
    #[serde(rename = "rollcall.deliver")]
    Schedule,
}

/// A record of a stream that holds keys only.
#[derive(Deserialize)]
struct Record {
    dynamodb: Change,
}

#[derive(Deserialize)]
struct Change {
    #[serde(rename = "Keys")]
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    alert_log: Text,
    alert_key: Text,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "S")]
    text: String,
}

impl From<Event> for Bell {
    fn from(event: Event) -> Self {
        let Event::Stream { records } = event else { return Self(Wanted::Due) };
        let mut keys: BTreeMap<ChannelId, Vec<String>> = BTreeMap::new();
        for Record { dynamodb: Change { keys: Keys { alert_log, alert_key } } } in records {
            if let Some(channel_id) = channel_of(&alert_log.text) {
                keys.entry(channel_id).or_default().push(alert_key.text);
            }
        }
        Self(Wanted::Rung(keys))
    }
}

/// Delivers what is due, or what the stream names, and reports in its answer and in one log line. A receiver that does not take its delivery is no failure.
///
/// # Errors
/// The store failed; the next minute tries again.
pub async fn run(
    app: &App,
    Bell(wanted): Bell,
    now: Timestamp,
    deadline: Instant,
) -> Result<DeliveryReport, JobError> {
    let stop_at = deadline.checked_sub(ATTEMPT_TIME).unwrap_or(deadline);
    let mut report = app.deliver(wanted, now, stop_at).await?;
    (app.metrics)(&log_line(&report, now).to_string());
    match report.first_failure.take() {
        None => Ok(report),
        Some(first) => Err(JobError::Partial { failed: report.failed, first }),
    }
}

/// One line. The template's metric filters read `OldestDue` and `ChannelsDisabled`.
fn log_line(report: &DeliveryReport, now: Timestamp) -> Value {
    let mut line = json!({
        "timestamp": now.to_string(),
        "level": "INFO",
        "message": "delivered",
        "Delivered": report.delivered,
        "Retried": report.retried,
        "Undelivered": report.undelivered,
        "Canceled": report.canceled,
        "ChannelsDisabled": report.disabled,
        "Left": report.left,
        "LostRaces": report.lost_races,
        "Failed": report.failed,
    });
    if let Some(oldest_due) = report.oldest_due_ms {
        line["OldestDue"] = oldest_due.into();
    }
    line
}
