//! The sweep: every minute it announces the agents that fell silent.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::Setting::{AgentsTable, EventsTable, SweepSegments, SystemEventRetention};
use shared::runtime::app::App;
use shared::runtime::function::{Job, JobError, work};
use shared::store::{SweepReport, SweepSettings};
use shared::time::Timestamp;
use tokio::time::{Duration, Instant};

/// The function and what it reads.
pub const FUNCTION: Job = Job {
    name: "sweep",
    reads: &[AgentsTable, EventsTable, SweepSegments, SystemEventRetention],
    work: |app, input, now, deadline| work(input, move |tick| run(app, tick, now, deadline)),
};

/// Announcements at once in each segment.
const ANNOUNCEMENTS: usize = 8;

/// The time that the sweep keeps back, to report before its function's deadline.
const REPORTING_TIME: Duration = Duration::from_secs(5);

/// What the schedule sends. Anything else is somebody else's event.
#[derive(Debug, Deserialize)]
pub struct Tick {
    #[serde(rename = "source")]
    _source: Source,
}

#[derive(Debug, Deserialize)]
enum Source {
    #[serde(rename = "rollcall.sweep")]
    Schedule,
}

/// Scans every agent once, and reports in its answer and in one log line, which is also its metrics.
///
/// # Errors
/// A part of the scan failed, or some of the announcements did; the next sweep tries them again.
pub async fn run(app: &App, _tick: Tick, now: Timestamp, deadline: Instant) -> Result<SweepReport, JobError> {
    let stop_at = deadline.checked_sub(REPORTING_TIME).unwrap_or(deadline);
    let segments = i32::from(app.config.sweep_segments.get().get());
    let settings = SweepSettings { segments, announcements: ANNOUNCEMENTS, stop_at };
    let mut report = app.store.sweep(settings, now).await;
    (app.metrics)(&log_line(&report, now).to_string());
    match report.first_failure.take() {
        None => Ok(report),
        Some(first) => Err(JobError::Partial { failed: report.failed, first }),
    }
}

/// One line, both a log record and metrics in CloudWatch's embedded metric format.
fn log_line(report: &SweepReport, now: Timestamp) -> Value {
    let metric = |name: &str, unit: &str| json!({ "Name": name, "Unit": unit });
    json!({
        "timestamp": now.to_string(),
        "level": if report.complete { "INFO" } else { "WARN" },
        "message": if report.complete { "swept" } else { "stopped before the end of the table" },
        "Scanned": report.scanned,
        "Live": report.live,
        "Offline": report.offline,
        "Announced": report.announced,
        "LostRaces": report.lost_races,
        "Failed": report.failed,
        "OldestLag": report.oldest_lag_ms,
        "SegmentsDone": report.segments_done,
        "Segments": report.segments,
        "_aws": {
            "Timestamp": now.as_millis(),
            "CloudWatchMetrics": [{
                "Namespace": "Rollcall",
                "Dimensions": [[]],
                "Metrics": [
                    metric("Scanned", "Count"),
                    metric("Live", "Count"),
                    metric("Offline", "Count"),
                    metric("Announced", "Count"),
                    metric("LostRaces", "Count"),
                    metric("Failed", "Count"),
                    metric("OldestLag", "Milliseconds"),
                ],
            }],
        },
    })
}
