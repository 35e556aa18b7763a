//! How long to wait until the next heartbeat.

use std::time::Duration;

/// The interval until an answer names one.
const FIRST_INTERVAL: Duration = Duration::from_mins(1);

/// The longest interval that an agent may have.
const INTERVAL_MOST: u64 = 86_400;

/// Half of the first pause after a lost heartbeat. It doubles up to the interval.
const RETRY: Duration = Duration::from_secs(1);

/// The first pause after a refusal. It doubles, too.
const REFUSED: Duration = Duration::from_mins(1);

/// The longest pause after a refusal.
const REFUSED_MOST: Duration = Duration::from_mins(10);

/// What the answers so far say about the next heartbeat. `chance` is a number from 0 to 1 each time: a fleet that
/// started, or was refused, at once spreads out.
pub struct Pace {
    interval: Duration,
    refusals: u32,
    failures: u32,
    accepted_before: bool,
}

impl Pace {
    pub const fn new() -> Self {
        Self { interval: FIRST_INTERVAL, refusals: 0, failures: 0, accepted_before: false }
    }

    /// Whether any heartbeat of this run was accepted.
    pub const fn was_accepted(&self) -> bool {
        self.accepted_before
    }

    /// Whether the last heartbeat was accepted, so that one out of turn does no harm.
    pub const fn is_accepted(&self) -> bool {
        self.accepted_before && self.refusals == 0 && self.failures == 0
    }

    /// After a 200 that names an interval in seconds.
    pub fn accepted(&mut self, interval_seconds: u64, chance: f64) -> Duration {
        self.interval = Duration::from_secs(interval_seconds.clamp(1, INTERVAL_MOST));
        (self.refusals, self.failures, self.accepted_before) = (0, 0, true);
        self.interval.mul_f64(0.9 + 0.1 * chance)
    }

    /// After a 401 or 403: an agent that is not verified or is revoked, or a proxy's own door. All may pass.
    pub fn refused(&mut self, chance: f64) -> Duration {
        let delay = doubled(REFUSED, self.refusals).min(REFUSED_MOST);
        self.refusals = self.refusals.saturating_add(1);
        delay.mul_f64(0.9 + 0.1 * chance)
    }

    /// After anything else, whose answer may have asked for a pause.
    pub fn lost(&mut self, retry_after: Duration, chance: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        retry_after + doubled(RETRY, self.failures).min(self.interval).mul_f64(0.5 + 0.5 * chance)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.min(20)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    fn seconds(pauses: impl IntoIterator<Item = Duration>) -> Vec<u64> {
        pauses.into_iter().map(|pause| pause.as_secs()).collect()
    }

    #[test]
    fn an_accepted_heartbeat_is_followed_by_the_next_within_its_interval() {
        let mut pace = Pace::new();
        assert_eq!(seconds([pace.accepted(100, 0.0), pace.accepted(100, 1.0)]), [90, 100]);
        assert_eq!(seconds([pace.accepted(0, 1.0), pace.accepted(u64::MAX, 1.0)]), [1, 86_400]);
    }

    #[test]
    fn a_refused_one_goes_on_slowly_and_at_the_ordinary_pace_as_soon_as_it_is_let_in() {
        let mut pace = Pace::new();
        let refused = std::iter::repeat_with(|| pace.refused(1.0)).take(6).collect::<Vec<_>>();
        assert_eq!(seconds(refused), [60, 120, 240, 480, 600, 600]);
        assert!(!pace.is_accepted());
        assert_eq!(seconds([pace.accepted(30, 1.0), pace.refused(1.0)]), [30, 60]);
    }

    #[test]
    fn a_lost_one_is_repeated_within_the_interval_and_not_before_the_answer_allows() {
        let mut pace = Pace::new();
        pace.accepted(10, 1.0);
        let lost = std::iter::repeat_with(|| pace.lost(Duration::ZERO, 1.0)).take(5).collect::<Vec<_>>();
        assert_eq!(seconds(lost), [2, 4, 8, 10, 10]);
        assert_eq!(pace.lost(Duration::from_hours(1), 0.0).as_secs(), 3605);
        assert!(pace.was_accepted() && !pace.is_accepted());
    }
}
