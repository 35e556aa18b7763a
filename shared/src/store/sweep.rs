//! The sweep: a filtered scan that announces what the clock says against agents.
//!
//! A scan and no index: at one beat a minute an index on the lease would double the price of every heartbeat,
//! while scanning every row each minute costs about one hundredth of the heartbeats.

use std::time::Duration;

use aws_sdk_dynamodb::types::{TransactWriteItem, Update};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Item, Store, Transaction};
use super::{broken, failure, from_item, moment, string, transact};
use crate::domain::agent::{AgentState, LEASE_GRACE, Lease, Overdue};
use crate::domain::event::{Actor, kind};
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// How a sweep goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    /// Segments of the table that are scanned at once.
    pub segments: i32,
    /// Announcements at once, in each segment.
    pub announcements: usize,
    /// When to stop, whether the table's end is reached or not.
    pub stop_at: Instant,
}

/// What a sweep saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Rows read.
    pub scanned: u64,
    /// Active agents whose lease runs, or is past by less than its grace.
    pub live: u64,
    /// Active agents that are announced offline, by this sweep or before.
    pub offline: u64,
    /// Transitions that this sweep announced.
    pub announced: u64,
    /// Transitions that a heartbeat or another sweep was first to make impossible or make.
    pub lost_races: u64,
    /// Announcements and rows that failed. The next sweep tries them again.
    pub failed: u64,
    /// How long the oldest of the announced transitions had been due, in milliseconds.
    pub oldest_lag_ms: u64,
    /// Segments read to their end.
    pub segments_done: u32,
    /// Segments in all.
    pub segments: u32,
    /// Whether the whole table was read.
    pub complete: bool,
    /// The first failure, for the log.
    #[serde(skip)]
    pub first_failure: Option<String>,
}

impl SweepReport {
    fn fail(&mut self, cause: impl ToString) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| cause.to_string());
    }

    fn merge(mut self, other: Self) -> Self {
        self.scanned += other.scanned;
        self.live += other.live;
        self.offline += other.offline;
        self.announced += other.announced;
        self.lost_races += other.lost_races;
        self.failed += other.failed;
        self.oldest_lag_ms = self.oldest_lag_ms.max(other.oldest_lag_ms);
        self.segments_done += other.segments_done;
        self.first_failure = self.first_failure.or(other.first_failure);
        self
    }
}

/// Everything but a live agent: the rows that are announced, to be announced, or only to be counted.
const IS_NOT_LIVE: &str = "\
agent_state <> :active \
 OR attribute_exists(offline_since) \
 OR attribute_not_exists(lease_expires_at) \
 OR lease_expires_at < :lease_deadline";

const WHAT_LIVENESS_NEEDS: &str = "\
agent_id, agent_state, tolerance_ms, last_seen_at, lease_expires_at, verified_at, offline_since";

/// Rows to a page. Of 500 bytes, as many fill the 1 MB at which DynamoDB ends a page by itself; without a limit the
/// embedded engine would read the whole rest of the table for each.
const PAGE: i32 = 2_000;

impl Store {
    /// Scans all agents once and announces each transition, with its event, in one transaction that is
    /// conditional on what the scan saw. Memory does not grow with the table: one page per segment.
    ///
    /// A row, an announcement or a segment that fails is reported and does not stop the others.
    pub async fn sweep(&self, settings: SweepSettings, now: Timestamp) -> SweepReport {
        let segments = (0..settings.segments).map(|segment| self.sweep_segment(segment, settings, now));
        let mut report = SweepReport {
            segments: u32::try_from(settings.segments).unwrap_or_default(),
            ..SweepReport::default()
        };
        for segment in join_all(segments).await {
            report = report.merge(segment);
        }
        report.complete = report.segments_done == report.segments;
        report
    }

    async fn sweep_segment(&self, segment: i32, settings: SweepSettings, now: Timestamp) -> SweepReport {
        let mut report = SweepReport::default();
        // One segment is a plain scan: the embedded engine sorts the whole table for each page of a parallel one.
        let parallel = settings.segments > 1;
        let mut next: Option<Item> = None;
        while Instant::now() < settings.stop_at {
            let page = self
                .client
                .scan()
                .table_name(self.tables.agents.get())
                .limit(PAGE)
                .set_segment(parallel.then_some(segment))
                .set_total_segments(parallel.then_some(settings.segments))
                .filter_expression(IS_NOT_LIVE)
                .projection_expression(WHAT_LIVENESS_NEEDS)
                .expression_attribute_values(":active", string(AgentState::Active.as_str()))
                .expression_attribute_values(":lease_deadline", moment(now.minus(LEASE_GRACE)))
                .set_exclusive_start_key(next)
                .send()
                .await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    report.fail(failure(&error));
                    break;
                }
            };
            let scanned = u64::try_from(page.scanned_count).unwrap_or_default();
            let rows = page.items.unwrap_or_default();
            report.scanned += scanned;
            report.live += scanned.saturating_sub(rows.len() as u64);
            if !self.announce_page(rows, settings, now, &mut report).await {
                return report;
            }
            next = page.last_evaluated_key;
            if next.is_none() {
                report.segments_done = 1;
                break;
            }
        }
        report
    }

    /// Announces what a page holds. `false`: time was up before its end.
    async fn announce_page(
        &self,
        rows: Vec<Item>,
        settings: SweepSettings,
        now: Timestamp,
        report: &mut SweepReport,
    ) -> bool {
        let mut overdue = Vec::new();
        for row in rows {
            match from_item::<Lease>(row) {
                Ok(lease) => {
                    report.offline +=
                        u64::from(lease.agent_state == AgentState::Active && lease.offline_since.is_some());
                    overdue.extend(lease.overdue(now).map(|reason| (lease, reason)));
                }
                Err(error) => report.fail(error),
            }
        }
        let mut outcomes = stream::iter(overdue)
            .map(async |(lease, reason)| {
                if Instant::now() >= settings.stop_at {
                    return None;
                }
                Some((due_for(&lease, reason, now), self.announce(&lease, reason, now).await))
            })
            .buffer_unordered(settings.announcements);
        let mut in_time = true;
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                None => in_time = false,
                Some((_, Ok(Transaction::Refused(..) | Transaction::Conflicted))) => report.lost_races += 1,
                Some((_, Err(error))) => report.fail(error),
                Some((due_for, Ok(Transaction::Applied))) => {
                    report.announced += 1;
                    report.offline += 1;
                    let lag = u64::try_from(due_for.as_millis()).unwrap_or(u64::MAX);
                    report.oldest_lag_ms = report.oldest_lag_ms.max(lag);
                }
            }
        }
        in_time
    }

    /// One transition: the row, as the scan saw it, and its event.
    async fn announce(
        &self,
        lease: &Lease,
        overdue: Overdue,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        let (event_type, as_seen, seen, payload) = match overdue {
            Overdue::Silent { lease: expired } => {
                (kind::AGENT_OFFLINE, "lease_expires_at = :seen", expired, silence(lease, expired))
            }
            Overdue::NeverSeen { verified } => (
                kind::AGENT_NEVER_SEEN,
                "attribute_not_exists(last_seen_at) AND verified_at = :seen",
                verified,
                json!({ "verified_at": verified.to_string() }),
            ),
        };
        let update = Update::builder()
            .table_name(self.tables.agents.get())
            .key("agent_id", string(lease.agent_id))
            .condition_expression(format!(
                "agent_state = :active AND attribute_not_exists(offline_since) AND {as_seen}"
            ))
            .update_expression("SET offline_since = :now")
            .expression_attribute_values(":active", string(AgentState::Active.as_str()))
            .expression_attribute_values(":seen", moment(seen))
            .expression_attribute_values(":now", moment(now))
            .build()
            .map_err(broken)?;
        let event = self.record(lease.agent_id, event_type, Actor::System, &payload, now);
        let writes = vec![TransactWriteItem::builder().update(update).build(), self.put_event(&event)?];
        transact(&self.client, writes).await
    }
}

fn silence(lease: &Lease, expired: Timestamp) -> Value {
    json!({
        "reason": "silent",
        "last_seen_at": lease.last_seen_at.map(|seen| seen.to_string()),
        "lease_expires_at": expired.to_string(),
    })
}

/// How long a transition has been due.
fn due_for(lease: &Lease, overdue: Overdue, now: Timestamp) -> Duration {
    match overdue {
        Overdue::Silent { lease: expired } => now.since(expired),
        Overdue::NeverSeen { verified } => now.since(verified).saturating_sub(lease.first_beat_grace()),
    }
}
