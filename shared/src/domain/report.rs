//! What an agent reports in a heartbeat beside its health: everything in it is optional.

use std::time::Duration;

use super::boot::BootId;
use super::spend::Usage;
use crate::time::Timestamp;

/// How long work may stand still before it is stalled, unless an operator says otherwise.
pub const STALL_AFTER: Duration = Duration::from_mins(15);

/// How long ago progress may be said to be. What is older counts as this.
pub const LONGEST_AGE: Duration = Duration::from_hours(7 * 24);

/// A heartbeat's report. Each heartbeat of an agent says progress and promise anew: what it does not say is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of the directive that the agent obeys. An old or an invented one does nothing.
    pub ack_directive: Option<i64>,
    /// How long ago the agent's work last got further; said only while there is work.
    pub progress_age: Option<Duration>,
    /// In how long the next heartbeat comes, of an agent that sleeps on purpose.
    pub next_beat_in: Option<Duration>,
    /// Which process of the agent speaks.
    pub boot_id: Option<BootId>,
    /// What was used since the last report that was answered 200. Never nothing.
    pub usage: Option<Usage>,
}

impl Report {
    /// When the next heartbeat is promised.
    #[must_use]
    pub fn promised(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_beat_in.map(|promise| now.plus(promise))
    }

    /// When the work last got further. A promised sleep does not count: it is as if the progress had come that much later.
    #[must_use]
    pub fn moved_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.progress_age.map(|age| self.promised(now).unwrap_or(now).minus(age))
    }
}
