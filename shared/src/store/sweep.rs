//! The sweep: a filtered scan that announces what the clock says against agents, and finds what is to be told of them.
//!
//! A scan and no index: at one heartbeat a minute an index on the lease would double the price of every heartbeat,
//! while scanning every row each minute costs about one hundredth of the heartbeats.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::expression::Expression;
use super::{Item, Store, Transaction};
use super::{failure, from_item, moment, number, string, transact};
use crate::domain::agent::{AgentId, AgentState, LEASE_GRACE};
use crate::domain::boot::SHORT_NOISE;
use crate::domain::concern::Concern;
use crate::domain::directive::Directive;
use crate::domain::event::{Actor, kind};
use crate::domain::failure::StoreError;
use crate::domain::fleet::{Counts, NAMED, Named};
use crate::domain::hearing::BlindWindow;
use crate::domain::heartbeat::Health;
use crate::domain::ids::BoardId;
use crate::domain::spend::day_of;
use crate::domain::watch::{Change, Overdue, Rules, Watched};
use crate::time::Timestamp;

/// How a sweep goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings<'a> {
    /// Segments of the table that are scanned at once.
    pub segments: i32,
    /// Announcements at once, in each segment.
    pub announcements: usize,
    /// When to stop, whether the table's end is reached or not.
    pub stop_at: Instant,
    /// Times in which nothing could be heard: they count against no agent.
    pub windows: &'a [BlindWindow],
    /// Whether it is known already that we hear.
    pub hears: bool,
    /// A heartbeat after this moment proves that we hear.
    pub proof_after: Timestamp,
    /// What is told.
    pub rules: Rules,
    /// An agent of our own, which is none of the fleet.
    pub canary: AgentId,
    /// Where each segment begins, after a sweep that stopped early.
    pub cursors: &'a BTreeMap<String, String>,
}

/// An agent of which something is to be told, as the sweep saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its row.
    pub watched: Watched,
    /// What changes.
    pub change: Change,
}

/// What a sweep found, beside what it reports.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// What it saw and did.
    pub report: SweepReport,
    /// Whether it heard: or nothing was announced, and nothing is to be told.
    pub heard: bool,
    /// What is to be told.
    pub sightings: Vec<Sighting>,
    /// Agents that flap, of which nothing else is to be told.
    pub flapping: Vec<Watched>,
    /// The fleet's counts, and those of its boards' agents that are not live.
    pub counts: Counts,
    /// See `counts`.
    pub boards: BTreeMap<Option<BoardId>, Counts>,
    /// Agents of which something was told before, at most [`NAMED`].
    pub told: Vec<Named>,
    /// How many there are.
    pub told_total: u64,
    /// Where each segment that did not reach its end goes on.
    pub cursors: BTreeMap<String, String>,
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
    /// Whether we hear at all: if not, nobody was announced.
    pub heard: bool,
    /// Agents that this sweep shut out, since they went on after a `stop` that said so.
    pub revoked: u64,
    /// Agents of which something was told by this sweep, as it began.
    pub raised: u64,
    /// The first failure, for the log.
    #[serde(skip)]
    pub first_failure: Option<String>,
}

impl SweepReport {
    /// Notes a failure; the first is kept in words.
    pub fn fail(&mut self, cause: impl ToString) {
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
        self.revoked += other.revoked;
        self.raised += other.raised;
        self.first_failure = self.first_failure.or(other.first_failure);
        self
    }
}

/// Everything but a live agent of which nothing is told: the rows that are announced, to be announced, to be told, or
/// only to be counted. And the canary's, which is to be left out of every count.
const IS_NOT_QUIET: &str = "\
agent_state <> :active \
 OR attribute_exists(offline_since) \
 OR attribute_not_exists(lease_expires_at) \
 OR lease_expires_at < :lease_deadline \
 OR attribute_exists(alerted) \
 OR health = :error \
 OR stalls_at < :now \
 OR boot_noise > :cloned \
 OR (spend_day >= :today AND (spent_microusd >= budget_microusd OR spent_tokens >= budget_tokens)) \
 OR attribute_exists(unacked) \
 OR contains(directive, :revokes) \
 OR agent_id = :canary";

/// While it is not known whether we hear: whoever was heard of late proves it.
const OR_PROVES_HEARING: &str = " OR last_seen_at > :proof_after";

const WHAT_WATCHING_NEEDS: &str = "\
agent_id, agent_name, board_id, agent_state, interval_ms, tolerance_ms, health, last_seen_at, lease_expires_at, \
next_beat_at, stalls_at, boot_noise, spend_day, spent_tokens, spent_microusd, budget_microusd, budget_tokens, \
created_at, verified_at, offline_since, alerted, directive, expires_at";

/// Rows to a page. Of 500 bytes, as many fill the 1 MB at which DynamoDB ends a page by itself; without a limit the
/// embedded engine would read the whole rest of the table for each.
const PAGE: i32 = 2_000;

/// How many agents are held while it is not known whether we hear, and how many are told in one sweep. The next sweep has
/// the rest.
const HELD: usize = 10_000;

/// How often a segment waits for a page that DynamoDB will not give it now, and how long on average. A segment reads one
/// partition after the other, faster than a partition gives what heartbeats leave of it; the SDK's own attempts are over
/// within a fifth of a second, which is right for a caller who waits.
const WAITS: u32 = 5;
const WAIT: Duration = Duration::from_millis(500);

/// How DynamoDB says that it will not now.
const THROTTLED: [&str; 3] =
    ["ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException"];

/// A segment on its way: what it found, and what waits for a proof that we hear.
#[derive(Default)]
struct Segment {
    sweep: Sweep,
    held: Vec<Watched>,
}

/// What the segments of one sweep know together.
struct Shared<'a> {
    settings: SweepSettings<'a>,
    now: Timestamp,
    hears: AtomicBool,
    held: AtomicUsize,
}

impl Sweep {
    fn merge(mut self, other: Self) -> Self {
        self.report = self.report.merge(other.report);
        self.sightings.extend(other.sightings);
        self.flapping.extend(other.flapping);
        self.counts = self.counts.plus(other.counts);
        for (board, counts) in other.boards {
            let sum = self.boards.entry(board).or_default();
            *sum = sum.plus(counts);
        }
        self.told.extend(other.told);
        self.told_total += other.told_total;
        self.cursors.extend(other.cursors);
        self
    }

    /// Counts one agent that was returned by the scan.
    fn count(&mut self, watched: &Watched, now: Timestamp) {
        let is_live = watched.agent_state == AgentState::Active
            && watched.offline_since.is_none()
            && watched.lease().is_some_and(|lease| lease >= now.minus(LEASE_GRACE));
        self.report.live += u64::from(is_live);
        self.report.offline +=
            u64::from(watched.agent_state == AgentState::Active && watched.offline_since.is_some());
        let one = Counts::of(watched, is_live, now);
        self.counts = self.counts.plus(one);
        let board = self.boards.entry(watched.board_id).or_default();
        *board = board.plus(one);
        if let Some(concern) = watched.told.worst().filter(|concern| *concern != Concern::Waiting) {
            self.told_total += 1;
            if self.told.len() < NAMED {
                self.told.push(Named::of(watched, concern));
            }
        }
    }

    /// Notes what is to be told of one agent.
    fn see(&mut self, watched: Watched, shared: &Shared<'_>) {
        let SweepSettings { windows, rules, .. } = shared.settings;
        if self.sightings.len() >= HELD {
            return;
        }
        match watched.change(shared.now, windows, rules) {
            Some(change) => self.sightings.push(Sighting { watched, change }),
            None if watched.told.flapping => self.flapping.push(watched),
            None => {}
        }
    }
}

impl Store {
    /// Scans all agents once and announces each transition, with its event, in one transaction that is
    /// conditional on what the scan saw; and finds what is to be told. Memory does not grow with the table: one page per
    /// segment, and at most 10,000 agents that are not live.
    ///
    /// While it is not known whether we hear, nothing is announced: who is overdue is held until some agent is found that
    /// was heard of late.
    ///
    /// A row, an announcement or a segment that fails is reported and does not stop the others.
    pub async fn sweep(&self, settings: SweepSettings<'_>, now: Timestamp) -> Sweep {
        let shared =
            Shared { settings, now, hears: AtomicBool::new(settings.hears), held: AtomicUsize::new(0) };
        let segments = (0..settings.segments).map(|segment| self.sweep_segment(segment, &shared));
        let mut sweep = Sweep {
            report: SweepReport {
                segments: u32::try_from(settings.segments).unwrap_or_default(),
                ..SweepReport::default()
            },
            ..Sweep::default()
        };
        let mut held = Vec::new();
        for segment in join_all(segments).await {
            sweep = sweep.merge(segment.sweep);
            held.extend(segment.held);
        }
        sweep.heard = shared.hears.load(Ordering::Relaxed);
        let in_time = !sweep.heard || self.announce_all(held, &shared, &mut sweep).await;
        let report = &mut sweep.report;
        report.heard = sweep.heard;
        report.complete = in_time && report.segments_done == report.segments && settings.cursors.is_empty();
        sweep
    }

    async fn sweep_segment(&self, number: i32, shared: &Shared<'_>) -> Segment {
        let settings = &shared.settings;
        let mut segment = Segment::default();
        // One segment is a plain scan: the embedded engine sorts the whole table for each page of a parallel one.
        let parallel = settings.segments > 1;
        let key = number.to_string();
        let mut next: Option<Item> =
            settings.cursors.get(&key).map(|after| Item::from([("agent_id".to_owned(), string(after))]));
        let mut waits = 0;
        while Instant::now() < settings.stop_at {
            let hears = shared.hears.load(Ordering::Relaxed);
            let mut request = self
                .client
                .scan()
                .table_name(self.tables.agents.get())
                .limit(PAGE)
                .set_segment(parallel.then_some(number))
                .set_total_segments(parallel.then_some(settings.segments))
                .projection_expression(WHAT_WATCHING_NEEDS)
                .expression_attribute_values(":active", string(AgentState::Active.as_str()))
                .expression_attribute_values(":now", moment(shared.now))
                .expression_attribute_values(":lease_deadline", moment(shared.now.minus(LEASE_GRACE)))
                .expression_attribute_values(":cloned", moment(shared.now.plus(SHORT_NOISE)))
                .expression_attribute_values(":today", super::number(day_of(shared.now)))
                .expression_attribute_values(":error", string(Health::Error.as_str()))
                .expression_attribute_values(":revokes", string(Directive::REVOKES))
                .expression_attribute_values(":canary", string(settings.canary))
                .set_exclusive_start_key(next.clone());
            request = if hears {
                request.filter_expression(IS_NOT_QUIET)
            } else {
                request
                    .filter_expression(format!("{IS_NOT_QUIET}{OR_PROVES_HEARING}"))
                    .expression_attribute_values(":proof_after", moment(settings.proof_after))
            };
            let page = match request.send().await {
                Ok(page) => page,
                Err(error) if waits < WAITS && error.code().is_some_and(|code| THROTTLED.contains(&code)) => {
                    waits += 1;
                    tokio::time::sleep(WAIT.mul_f64(rand::random_range(0.5..1.5))).await;
                    continue;
                }
                Err(error) => {
                    segment.sweep.report.fail(failure(&error));
                    break;
                }
            };
            waits = 0;
            let scanned = u64::try_from(page.scanned_count).unwrap_or_default();
            let rows = page.items.unwrap_or_default();
            let quiet = scanned.saturating_sub(rows.len() as u64);
            segment.sweep.report.scanned += scanned;
            segment.sweep.report.live += quiet;
            segment.sweep.counts.agents += quiet;
            segment.sweep.counts.live += quiet;
            if !self.take_page(rows, shared, &mut segment).await {
                break;
            }
            next = page.last_evaluated_key;
            if next.is_none() {
                segment.sweep.report.segments_done = 1;
                return segment;
            }
        }
        // Where it stopped the next sweep goes on, or the end of a large table would never be reached.
        let stopped_at = next.and_then(|mut key| match key.remove("agent_id") {
            Some(AttributeValue::S(agent_id)) => Some(agent_id),
            _ => None,
        });
        segment.sweep.cursors.extend(stopped_at.map(|agent_id| (key, agent_id)));
        segment
    }

    /// Announces and notes what a page holds, or holds it. `false`: time was up before its end.
    async fn take_page(&self, rows: Vec<Item>, shared: &Shared<'_>, segment: &mut Segment) -> bool {
        let mut page = Vec::new();
        for row in rows {
            match from_item::<Watched>(row) {
                // An agent of our own is none of the fleet.
                Ok(watched) if watched.agent_id == shared.settings.canary => {
                    segment.sweep.report.scanned -= 1;
                }
                Ok(watched) => {
                    if watched.last_seen_at > Some(shared.settings.proof_after) {
                        shared.hears.store(true, Ordering::Relaxed);
                    }
                    page.push(watched);
                }
                Err(error) => segment.sweep.report.fail(error),
            }
        }
        if shared.hears.load(Ordering::Relaxed) {
            let mut held = std::mem::take(&mut segment.held);
            held.extend(page);
            return self.announce_all(held, shared, &mut segment.sweep).await;
        }
        for watched in page {
            if shared.held.fetch_add(1, Ordering::Relaxed) < HELD {
                segment.held.push(watched);
            }
        }
        true
    }

    /// Announces who is overdue, and notes what is to be told. `false`: time was up before the end.
    async fn announce_all(&self, agents: Vec<Watched>, shared: &Shared<'_>, sweep: &mut Sweep) -> bool {
        let Shared { settings, now, .. } = shared;
        let now = *now;
        let (mut overdue, mut in_time) = (Vec::new(), true);
        for mut watched in agents {
            if let Some(directive) = watched.defies() {
                match self.end(&watched, directive, now).await {
                    Ok(Transaction::Applied) => {
                        sweep.report.revoked += 1;
                        watched.agent_state = AgentState::Revoked;
                    }
                    Ok(Transaction::Refused(..) | Transaction::Conflicted) => sweep.report.lost_races += 1,
                    Err(error) => sweep.report.fail(error),
                }
            }
            if let Some(reason) = watched.overdue(now, settings.windows) {
                overdue.push((watched, reason));
            } else {
                sweep.count(&watched, now);
                sweep.see(watched, shared);
            }
        }
        let mut outcomes = stream::iter(overdue)
            .map(async |(watched, reason)| {
                if Instant::now() >= settings.stop_at {
                    return (watched, reason, None);
                }
                let outcome = self.announce(&watched, reason, now).await;
                (watched, reason, Some(outcome))
            })
            .buffer_unordered(settings.announcements);
        while let Some((watched, reason, outcome)) = outcomes.next().await {
            match outcome {
                None => in_time = false,
                Some(Ok(Transaction::Refused(..) | Transaction::Conflicted)) => sweep.report.lost_races += 1,
                Some(Err(error)) => sweep.report.fail(error),
                Some(Ok(Transaction::Applied)) => {
                    sweep.report.announced += 1;
                    let lag = u64::try_from(due_for(&watched, reason, now).as_millis()).unwrap_or(u64::MAX);
                    sweep.report.oldest_lag_ms = sweep.report.oldest_lag_ms.max(lag);
                    let watched = Watched { offline_since: Some(now), ..watched };
                    sweep.count(&watched, now);
                    sweep.see(watched, shared);
                }
            }
        }
        in_time
    }

    /// Shuts out an agent that goes on after a `stop` that said so, with the event.
    async fn end(
        &self,
        watched: &Watched,
        directive: Directive,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        let payload = json!({
            "before": { "state": AgentState::Active },
            "after": { "state": AgentState::Revoked },
            "reason": "went on after a stop",
            "directive": directive.version,
        });
        let update = ending(directive, now).into_part(self.tables.agents.get(), watched.agent_id)?;
        let event = self.record(watched.agent_id, kind::AGENT_REVOKED, Actor::System, &payload, now);
        transact(&self.client, vec![update, self.put_event(&event)?]).await
    }

    /// One transition: the row, as the scan saw it, and its event.
    async fn announce(
        &self,
        watched: &Watched,
        overdue: Overdue,
        now: Timestamp,
    ) -> Result<Transaction, StoreError> {
        let (event_type, mut payload) = match overdue {
            Overdue::Silent { expired, .. } => (kind::AGENT_OFFLINE, silence(watched, expired)),
            Overdue::NeverSeen { verified } => {
                (kind::AGENT_NEVER_SEEN, json!({ "verified_at": verified.to_string() }))
            }
        };
        let forget_after = *self.forget_after.get();
        let forgotten_at = (!forget_after.is_zero()).then(|| now.plus(forget_after));
        if let (Some(at), Value::Object(payload)) = (forgotten_at, &mut payload) {
            payload.insert("forgotten_at".to_owned(), json!(at.to_string()));
        }
        let announcement = announcement(overdue, forgotten_at, now);
        let update = announcement.into_part(self.tables.agents.get(), watched.agent_id)?;
        let event = self.record(watched.agent_id, event_type, Actor::System, &payload, now);
        transact(&self.client, vec![update, self.put_event(&event)?]).await
    }
}

/// The write that announces an absence, if the row is as the scan saw it; and, if so wished, when the row goes.
pub(super) fn announcement(overdue: Overdue, forgotten_at: Option<Timestamp>, now: Timestamp) -> Expression {
    let mut announcement = Expression::default();
    let (as_seen, seen) = match overdue {
        Overdue::Silent { lease, promised: None, .. } => {
            ("lease_expires_at = :seen AND attribute_not_exists(next_beat_at)", lease)
        }
        Overdue::Silent { lease, promised: Some(promised), .. } => {
            announcement.value(":promised", moment(promised));
            ("lease_expires_at = :seen AND next_beat_at = :promised", lease)
        }
        Overdue::NeverSeen { verified } => {
            ("attribute_not_exists(last_seen_at) AND verified_at = :seen", verified)
        }
    };
    announcement.require("agent_state = :active");
    announcement.value(":active", string(AgentState::Active.as_str()));
    announcement.require("attribute_not_exists(offline_since)");
    announcement.require(as_seen);
    announcement.value(":seen", moment(seen));
    announcement.write("offline_since", moment(now));
    if let Some(at) = forgotten_at {
        announcement.write("expires_at", number(at.as_seconds()));
    }
    announcement
}

/// The write that shuts out an agent which goes on, if nobody has wanted anything else since.
pub(super) fn ending(directive: Directive, now: Timestamp) -> Expression {
    let mut ending = Expression::default();
    ending.require("agent_state = :active");
    ending.value(":active", string(AgentState::Active.as_str()));
    ending.require("attribute_not_exists(offline_since)");
    ending.require("directive = :seen");
    ending.value(":seen", string(directive));
    ending.write("directive", string(directive.disarmed()));
    ending.write("agent_state", string(AgentState::Revoked.as_str()));
    ending.set("revoked_from = :active");
    ending.write("updated_at", moment(now));
    ending
}

fn silence(watched: &Watched, expired: Timestamp) -> Value {
    json!({
        "reason": "silent",
        "last_seen_at": watched.last_seen_at.map(|seen| seen.to_string()),
        "lease_expires_at": expired.to_string(),
    })
}

/// How long a transition has been due.
fn due_for(watched: &Watched, overdue: Overdue, now: Timestamp) -> Duration {
    match overdue {
        Overdue::Silent { expired, .. } => now.since(expired),
        Overdue::NeverSeen { verified } => {
            now.since(verified).saturating_sub(watched.first_heartbeat_grace())
        }
    }
}
