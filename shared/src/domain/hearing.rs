//! Deaf or dead: when nothing could be heard, nobody's silence means anything.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How many blind windows are kept. Older ones become one.
const WINDOWS: usize = 50;

/// What a deadline gains for each blind window beside its length: an agent needs a moment to be heard again.
pub const AFTER_A_WINDOW: Duration = Duration::from_mins(1);

/// What a proof of hearing may be older than one period of the sweep.
const PROOF_GRACE: Duration = Duration::from_secs(10);

/// How long nothing is heard before every channel is told.
pub const DEAF_AFTER: Duration = Duration::from_mins(10);

/// A time in which nothing could be heard: after the last moment at which something was, until the first again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindWindow {
    /// The last moment at which we heard.
    pub from: Timestamp,
    /// The first moment at which we heard again.
    pub until: Timestamp,
}

impl BlindWindow {
    /// How much of the window lies after `base`.
    fn after(self, base: Timestamp) -> Duration {
        self.until.since(self.from.max(base))
    }
}

/// By how much a deadline that runs from `base` is extended: by the part of each window after it, and
/// [`AFTER_A_WINDOW`] for each. It never starts anew: with windows that come again and again nobody would ever be told.
#[must_use]
pub fn extension(windows: &[BlindWindow], base: Timestamp) -> Duration {
    let parts = windows.iter().filter(|window| window.until > base);
    parts.map(|window| window.after(base) + AFTER_A_WINDOW).sum()
}

/// What is known of our own hearing, kept from sweep to sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// The end of the last sweep that heard. Absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Timestamp>,
    /// The last moment at which we heard, while we do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaf_since: Option<Timestamp>,
    /// Whether the channels were told that we are deaf.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deaf_told: bool,
    /// The last times in which nothing could be heard, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<BlindWindow>,
}

impl Hearing {
    /// What is known when something is heard at `now`, by a sweep that runs each `period`: with the window that this
    /// ends, if there was one. Before the first sweep, that is all the time before now.
    #[must_use]
    pub fn heard(&self, now: Timestamp, period: Duration) -> Self {
        let longest_pause = period.max(Duration::from_mins(1)).mul_f64(2.5);
        let paused = self.heard_at.is_none_or(|heard| now.since(heard) > longest_pause);
        let mut windows = self.windows.clone();
        if paused || self.deaf_since.is_some() {
            let from = self.heard_at.unwrap_or(Timestamp::from_millis(0));
            windows
                .push(BlindWindow { from: self.deaf_since.map_or(from, |deaf| deaf.min(from)), until: now });
        }
        if windows.len() > WINDOWS {
            let merged = BlindWindow { from: windows[0].from, until: windows[1].until };
            windows.splice(..2, [merged]);
        }
        Self { heard_at: Some(now), deaf_since: None, deaf_told: self.deaf_told, windows }
    }

    /// What is known when a sweep heard nothing.
    #[must_use]
    pub fn not_heard(&self, now: Timestamp) -> Self {
        let deaf_since = self.deaf_since.or(self.heard_at).unwrap_or(now);
        Self { deaf_since: Some(deaf_since), ..self.clone() }
    }

    /// Whether the channels are to be told that we are deaf, or that we hear again.
    #[must_use]
    pub fn news(&self, now: Timestamp) -> Option<DeafNews> {
        match self.deaf_since {
            Some(since) if !self.deaf_told && now.since(since) >= DEAF_AFTER => Some(DeafNews::Deaf),
            None if self.deaf_told => Some(DeafNews::Heard),
            _ => None,
        }
    }

    /// A heartbeat after this moment proves that we hear: it must be fresh, or what came before we became deaf would be
    /// a proof.
    #[must_use]
    pub fn proof_after(&self, now: Timestamp, period: Duration) -> Timestamp {
        let fresh = now.minus(period + PROOF_GRACE);
        self.deaf_since.map_or(fresh, |deaf| deaf.max(fresh))
    }
}

/// What there is to be told of our own hearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeafNews {
    /// Nothing has been heard for [`DEAF_AFTER`].
    Deaf,
    /// Something is heard again.
    Heard,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    fn window(from: i64, until: i64) -> BlindWindow {
        BlindWindow { from: at(from), until: at(until) }
    }

    #[test]
    fn a_deadline_is_extended_by_what_of_a_window_lies_after_its_base() {
        let windows = [window(0, 100), window(200, 300)];
        assert_eq!(extension(&windows, at(300)), Duration::ZERO);
        assert_eq!(extension(&windows, at(250)), Duration::from_secs(50 + 60));
        assert_eq!(extension(&windows, at(-5)), Duration::from_secs(200 + 120));
    }

    #[test]
    fn a_pause_between_sweeps_is_a_window_and_two_minutes_are_none() {
        let heard = Hearing { heard_at: Some(at(0)), ..Hearing::default() };
        assert_eq!(heard.heard(at(150), MINUTE).windows, []);
        assert_eq!(heard.heard(at(151), MINUTE).windows, [window(0, 151)]);
        assert_eq!(heard.heard(at(600), MINUTE * 10).windows, [], "a sweep each ten minutes is no blindness");
    }

    #[test]
    fn the_first_sweep_was_blind_before() {
        let first = Hearing::default().heard(at(0), MINUTE);
        assert_eq!(first.windows, [BlindWindow { from: Timestamp::from_millis(0), until: at(0) }]);
    }

    #[test]
    fn a_window_lasts_from_the_last_moment_heard_to_the_first_again() {
        let deaf =
            Hearing { heard_at: Some(at(0)), ..Hearing::default() }.not_heard(at(60)).not_heard(at(120));
        assert_eq!(deaf.deaf_since, Some(at(0)));
        let heard = deaf.heard(at(180), MINUTE);
        assert_eq!((heard.windows, heard.deaf_since), (vec![window(0, 180)], None));
    }

    #[test]
    fn a_proof_is_fresh() {
        let hearing = Hearing { heard_at: Some(at(0)), ..Hearing::default() };
        assert_eq!(hearing.proof_after(at(60), MINUTE), at(-10));
        assert_eq!(hearing.not_heard(at(60)).proof_after(at(62), MINUTE), at(0));
        assert_eq!(hearing.not_heard(at(60)).proof_after(at(600), MINUTE), at(530));
    }

    #[test]
    fn old_windows_become_one() {
        let mut hearing = Hearing { heard_at: Some(at(0)), ..Hearing::default() };
        for hour in 1..=60 {
            hearing = hearing.heard(at(hour * 3600), MINUTE);
        }
        assert_eq!(hearing.windows.len(), WINDOWS);
        assert_eq!(hearing.windows[0], window(0, 11 * 3600));
    }
}
