//! Rate-limit windows: pure arithmetic, and what an answer says of them.

use std::time::Duration;

use crate::time::Timestamp;

/// The length of every window.
pub const WINDOW: Duration = Duration::from_mins(1);

const WINDOW_MILLIS: i64 = 60_000;

/// How many windows' counters an agent's row tells apart. With this ring one write both counts the current
/// window and removes what older ones left; a prime number of slots keeps regular gaps from meeting an old
/// count, except a gap of exactly k × 13 windows.
pub const SLOTS: i64 = 13;

/// A fixed window of [`WINDOW`], counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(i64);

impl Window {
    /// The window that holds `now`.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self(now.as_millis() / WINDOW_MILLIS)
    }

    /// Its number since the epoch.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Its place in the ring of an agent's counters: 0 to 12.
    #[must_use]
    pub const fn slot(self) -> i64 {
        self.0 % SLOTS
    }

    /// Its first millisecond.
    #[must_use]
    pub const fn starts_at(self) -> Timestamp {
        Timestamp::from_millis(self.0 * WINDOW_MILLIS)
    }

    /// The first millisecond after it.
    #[must_use]
    pub const fn ends_at(self) -> Timestamp {
        Timestamp::from_millis((self.0 + 1) * WINDOW_MILLIS)
    }
}

/// What is counted against a limit, each on its own. The name is what `RateLimit-Policy` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Heartbeats of one agent.
    Heartbeats,
    /// Events of one agent, so that they never starve its heartbeats.
    Events,
    /// Registrations from one address.
    Registrations,
    /// Refused verifications from one address.
    FailedVerifications,
    /// Rotations that one agent makes for itself.
    Rotations,
}

impl Policy {
    /// The policy's name in the answer's headers and in the keys of the `windows` table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeats => "heartbeats",
            Self::Events => "events",
            Self::Registrations => "register",
            Self::FailedVerifications => "verify",
            Self::Rotations => "rotate",
        }
    }
}

/// Where a caller stands in the current window. Every counted answer carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What was counted.
    pub policy: Policy,
    /// Calls allowed per window.
    pub limit: u32,
    /// Calls left in this window.
    pub remaining: u32,
    /// When the window ends and the count begins anew.
    pub resets_at: Timestamp,
}

/// What came of counting a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Within the limit.
    Within(Quota),
    /// Over the limit: the call was not counted.
    Over(Quota),
}

impl Quota {
    /// The quota after `used` calls of the window that holds `now`.
    #[must_use]
    pub fn after(policy: Policy, limit: u32, used: u32, now: Timestamp) -> Self {
        Self { policy, limit, remaining: limit.saturating_sub(used), resets_at: Window::at(now).ends_at() }
    }

    /// Whole seconds until the window ends, at least 1: `Retry-After`.
    #[must_use]
    pub fn retry_after(&self, now: Timestamp) -> u64 {
        let left = self.resets_at.since(now);
        u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
    }

    /// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    #[must_use]
    pub fn policy_header(&self) -> String {
        format!("\"{}\";q={};w={}", self.policy.as_str(), self.limit, WINDOW.as_secs())
    }

    /// The value of `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    #[must_use]
    pub fn state_header(&self, now: Timestamp) -> String {
        format!("\"{}\";r={};t={}", self.policy.as_str(), self.remaining, self.retry_after(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_minutes_of_the_epoch() {
        let window = Window::at(Timestamp::from_millis(119_999));
        assert_eq!(window.number(), 1);
        assert_eq!(window.starts_at(), Timestamp::from_millis(60_000));
        assert_eq!(window.ends_at(), Timestamp::from_millis(120_000));
        assert_eq!(Window::at(Timestamp::from_millis(120_000)).number(), 2);
    }

    #[test]
    fn only_a_gap_of_whole_rings_meets_the_same_slot() {
        let slot = |minute: i64| Window::at(Timestamp::from_millis(minute * 60_000)).slot();
        for gap in (1..=1_440).filter(|gap| gap % 13 != 0) {
            assert_ne!(slot(1_000), slot(1_000 + gap), "gap of {gap} windows");
        }
        assert_eq!(slot(1_000), slot(1_013));
    }

    #[test]
    fn a_refused_caller_comes_back_when_the_window_has_ended() {
        let now = Timestamp::from_millis(60_001);
        let quota = Quota::after(Policy::Heartbeats, 60, 61, now);
        assert_eq!(quota.retry_after(now), 60);
        assert_eq!(quota.retry_after(Timestamp::from_millis(119_999)), 1);
        assert_eq!(quota.policy_header(), "\"heartbeats\";q=60;w=60");
        assert_eq!(quota.state_header(now), "\"heartbeats\";r=0;t=60");
    }
}
