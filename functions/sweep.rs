//! The sweep: every minute it announces the agents that fell silent, and tells people of them.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::Setting::{
    AgentsTable, AlertAfterMissed, AlertRetention, AlertsTable, ApiUrl, CanaryUrl, ChannelsTable,
    EventsTable, ForgetAfter, SweepEvery, SweepSegments, SystemEventRetention,
};
use shared::domain::canary;
use shared::domain::hearing::Hearing;
use shared::domain::watch::Rules;
use shared::runtime::app::App;
use shared::runtime::function::{Job, JobError, work};
use shared::runtime::telling::Teller;
use shared::store::{Sweep, SweepReport, SweepSettings};
use shared::time::Timestamp;
use tokio::time::{Duration, Instant};

/// The function and what it reads.
pub const FUNCTION: Job = Job {
    name: "sweep",
    reads: &[
        AgentsTable,
        EventsTable,
        ChannelsTable,
        AlertsTable,
        SweepSegments,
        SweepEvery,
        SystemEventRetention,
        AlertRetention,
        ForgetAfter,
        AlertAfterMissed,
        CanaryUrl,
        ApiUrl,
    ],
    work: |app, input, now, deadline| work(input, move |tick| run(app, tick, now, deadline)),
};

/// Announcements at once in each segment.
const ANNOUNCEMENTS: usize = 8;

/// The time that the sweep keeps back, to report before its function's deadline.
const REPORTING_TIME: Duration = Duration::from_secs(5);

/// The time that it keeps back for telling, of a deadline that is long enough.
const TELLING_TIME: Duration = Duration::from_mins(1);

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

/// Hears whether it hears, scans every agent once, tells what is to be told, and reports in its answer and in one log
/// line.
///
/// # Errors
/// A part of the scan failed, or some of the announcements or messages did; the next sweep tries them again.
pub async fn run(app: &App, _tick: Tick, now: Timestamp, deadline: Instant) -> Result<SweepReport, JobError> {
    let began = Instant::now();
    let stop_at = deadline.checked_sub(REPORTING_TIME).unwrap_or(deadline);
    let scan_until = match deadline.saturating_duration_since(began) {
        long if long > TELLING_TIME * 2 => stop_at.checked_sub(TELLING_TIME).unwrap_or(stop_at),
        _ => stop_at,
    };
    let teller = Teller::begin(app, now, stop_at).await?;
    let period = *app.config.sweep_every.get();
    let read = teller.control().hearing.clone();
    let cursors = teller.control().cursors.clone();
    let hears = app.canary_is_heard(now).await?.unwrap_or(false);
    // What is overdue is judged only when something is heard: then what was open is a window until now.
    let hearing = read.heard(now, period);
    let settings = SweepSettings {
        segments: i32::from(app.config.sweep_segments.get().get()),
        announcements: ANNOUNCEMENTS,
        stop_at: scan_until,
        windows: &hearing.windows,
        hears,
        proof_after: read.proof_after(now, period),
        rules: Rules { missed: *app.config.alert_after_missed.get(), waiting: teller.tells_of_waiting() },
        canary: canary::agent_id(),
        cursors: &cursors,
    };
    let sweep = app.store.sweep(settings, now).await;
    let ended = now.plus(began.elapsed());
    let hearing = match sweep.heard {
        true if still_hears(app, ended.since(now), ended).await? => {
            Hearing { heard_at: Some(ended), ..hearing }
        }
        true => hearing,
        false => read.not_heard(now),
    };
    let told = teller.tell(&sweep, &read, hearing).await;
    let Sweep { mut report, .. } = sweep;
    match told {
        Ok(raised) => report.raised = raised,
        Err(error) => report.fail(error),
    }
    (app.metrics)(&log_line(&report, now).to_string());
    match report.first_failure.take() {
        None => Ok(report),
        Some(first) => Err(JobError::Partial { failed: report.failed, first }),
    }
}

/// Whether the end of a sweep is a moment at which we heard: a long one asks once more.
async fn still_hears(app: &App, took: Duration, now: Timestamp) -> Result<bool, JobError> {
    if took < Duration::from_mins(1) {
        return Ok(true);
    }
    Ok(app.canary_is_heard(now).await?.unwrap_or(true))
}

/// One line. The template's metric filters read `Deaf` and `Raised`: what feeds no alarm is a figure of the log alone,
/// since `CloudWatch` bills every metric.
fn log_line(report: &SweepReport, now: Timestamp) -> Value {
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
        "Revoked": report.revoked,
        "Raised": report.raised,
        "Deaf": u8::from(!report.heard),
        "SegmentsDone": report.segments_done,
        "Segments": report.segments,
    })
}
