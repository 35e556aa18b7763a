//! What an agent spends in a day, and how much it may. Days are UTC's. A meter, not an invoice. Pure.

use serde_json::{Value, json};

use crate::time::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// The most that one report, or a budget, may say: tokens, or millionths of a dollar.
pub const MOST: u64 = 1_000_000_000_000;

/// Of how many percent of a budget an agent's events tell, once a day each.
const TOLD_AT: [u8; 2] = [100, 80];

/// What was used since the last report that was answered 200.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens.
    pub tokens: u64,
    /// Millionths of a dollar.
    pub microusd: u64,
}

impl Usage {
    /// Nothing was used.
    pub const NOTHING: Self = Self { tokens: 0, microusd: 0 };

    /// Dollars, as the wire has them.
    #[must_use]
    pub fn cost_usd(self) -> f64 {
        dollars(self.microusd)
    }
}

/// Millionths of a dollar as dollars.
#[expect(
    clippy::cast_precision_loss,
    reason = "what is lost is less than a millionth below 9 billion dollars"
)]
fn dollars(microusd: u64) -> f64 {
    microusd as f64 / 1_000_000.0
}

/// How much an agent may use in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Millionths of a dollar.
    MicroUsd(u64),
    /// Tokens.
    Tokens(u64),
}

impl Budget {
    /// The budget of a row's two attributes, of which one stands at most.
    #[must_use]
    pub fn of_row(microusd: Option<u64>, tokens: Option<u64>) -> Option<Self> {
        microusd.map(Self::MicroUsd).or_else(|| tokens.map(Self::Tokens))
    }

    /// As the wire has it.
    #[must_use]
    pub fn to_json(self) -> Value {
        match self {
            Self::MicroUsd(microusd) => json!({ "usd_per_day": dollars(microusd) }),
            Self::Tokens(tokens) => json!({ "tokens_per_day": tokens }),
        }
    }

    /// Whether that much of it is used.
    fn is_used(self, used: Usage, percent: u8) -> bool {
        let (used, budget) = match self {
            Self::MicroUsd(budget) => (used.microusd, budget),
            Self::Tokens(budget) => (used.tokens, budget),
        };
        u128::from(used) * 100 >= u128::from(budget) * u128::from(percent)
    }
}

/// The number of the UTC day, counted from 1970.
#[must_use]
pub const fn day_of(now: Timestamp) -> i64 {
    now.as_millis() / DAY_MS
}

/// When the UTC day ends.
#[must_use]
pub const fn midnight_after(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((day_of(now) + 1) * DAY_MS)
}

/// A row's counters, and the budget that they are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spend {
    /// The day that is counted.
    pub day: Option<i64>,
    /// What was used in it.
    pub used: Usage,
    /// How much may be.
    pub budget: Option<Budget>,
    /// The percentage of the budget that was told last.
    pub told: Option<u8>,
}

impl Spend {
    /// The same on the first report of a new day.
    #[must_use]
    pub const fn begins(self, used: Usage, now: Timestamp) -> Self {
        Self { day: Some(day_of(now)), used, told: None, ..self }
    }

    /// What was used today. A call of yesterday that was late on its way counts for today.
    #[must_use]
    pub fn today(&self, now: Timestamp) -> Usage {
        if self.day >= Some(day_of(now)) { self.used } else { Usage::NOTHING }
    }

    /// Whether today's budget is used up.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.budget.is_some_and(|budget| budget.is_used(self.today(now), 100))
    }

    /// The percentage that is to be told now: the higher alone, once each.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<u8> {
        let (budget, used) = (self.budget?, self.today(now));
        let reached = TOLD_AT.into_iter().find(|percent| budget.is_used(used, *percent));
        reached.filter(|percent| self.told.is_none_or(|told| told < *percent))
    }

    /// What the event says that tells it.
    #[must_use]
    pub fn payload(&self, percent: u8, now: Timestamp) -> Value {
        let used = self.today(now);
        json!({
            "percent": percent,
            "day": day_text(now),
            "tokens": used.tokens,
            "cost_usd": used.cost_usd(),
            "budget": self.budget.map(Budget::to_json),
        })
    }
}

/// `2026-01-01`.
#[must_use]
pub fn day_text(now: Timestamp) -> String {
    let mut day = now.to_string();
    day.truncate(10);
    day
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(20_454 * DAY_MS + 1);

    fn spend(tokens: u64, told: Option<u8>) -> Spend {
        let used = Usage { tokens, microusd: 7 };
        Spend { day: Some(20_454), used, budget: Some(Budget::Tokens(1_000)), told }
    }

    #[test]
    fn eighty_and_a_hundred_percent_are_told_once_each_and_the_higher_alone() {
        for (tokens, told, due) in [
            (799, None, None),
            (800, None, Some(80)),
            (800, Some(80), None),
            (999, Some(80), None),
            (1_000, Some(80), Some(100)),
            (1_000, None, Some(100)),
            (5_000, Some(100), None),
        ] {
            assert_eq!(spend(tokens, told).due(NOW), due, "{tokens} {told:?}");
            assert_eq!(spend(tokens, told).is_over(NOW), tokens >= 1_000);
        }
        assert_eq!(Spend { budget: None, ..spend(5_000, None) }.due(NOW), None);
        let dollars = Spend { budget: Some(Budget::MicroUsd(7)), ..spend(0, None) };
        assert_eq!(dollars.due(NOW), Some(100));
    }

    #[test]
    fn at_midnight_nothing_is_used_and_what_was_late_counts_for_the_new_day() {
        let (yesterday, tomorrow) = (Timestamp::from_millis(NOW.as_millis() - 2), midnight_after(NOW));
        assert!(spend(1_000, None).is_over(yesterday));
        assert!(!spend(1_000, None).is_over(tomorrow));
        assert_eq!(spend(1_000, None).today(tomorrow), Usage::NOTHING);
        assert_eq!((day_text(yesterday).as_str(), day_text(tomorrow).as_str()), ("2025-12-31", "2026-01-02"));
    }
}
