//! Watching an agent: what the clock says against it, and what of it is to be told. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::{self, AgentId, AgentName, AgentState, FIRST_HEARTBEAT_GRACE, LEASE_GRACE};
use super::boot::{SHORT_NOISE, shows_within};
use super::concern::{Concern, Told};
use super::directive::{Action, Directive};
use super::hearing::{BlindWindow, extension};
use super::heartbeat::Health;
use super::ids;
use super::ids::BoardId;
use super::report::STALL_AFTER;
use super::spend::{Budget, Spend, Usage};
use crate::time::Timestamp;

/// The shortest silence that is told: within two sweeps nobody can tell a dead agent from deafness.
const SHORTEST_SILENCE: Duration = Duration::from_mins(2);

/// How much longer than its tolerance an agent may be silent before it is told, at most: or agents with long intervals
/// would be told hours after they are shown as offline.
const LONGEST_PATIENCE: Duration = Duration::from_mins(5);

/// How long an agent waits to be let in before it is told.
const WAITING_AFTER: Duration = Duration::from_mins(1);

/// How long before a forgotten agent's row goes its alert ends.
const FORGOTTEN_WITHIN: Duration = Duration::from_hours(1);

/// What an operator may choose of telling.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Missed heartbeats after which a silence is told, within the bounds of [`Watched::patience`].
    pub missed: u32,
    /// Whether any channel wants to know who waits to be let in.
    pub waiting: bool,
}

/// The part of an agent's row by which it is watched, as the sweep reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Watched {
    /// Whose row it is.
    pub agent_id: AgentId,
    /// Display name.
    pub agent_name: AgentName,
    /// The group it belongs to.
    #[serde(default, with = "ids::board")]
    pub board_id: Option<BoardId>,
    /// Who may act.
    pub agent_state: AgentState,
    /// Milliseconds between its heartbeats.
    pub interval_ms: u64,
    /// Milliseconds that a lease lasts.
    pub tolerance_ms: u64,
    /// What it says of itself.
    pub health: Option<Health>,
    /// The last heartbeat or event.
    pub last_seen_at: Option<Timestamp>,
    /// `last_seen_at` and the tolerance.
    pub lease_expires_at: Option<Timestamp>,
    /// When the next heartbeat is promised.
    pub next_beat_at: Option<Timestamp>,
    /// When its work counts as stalled.
    pub stalls_at: Option<Timestamp>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// The last activation.
    pub verified_at: Option<Timestamp>,
    /// When its silence or its leave was announced.
    pub offline_since: Option<Timestamp>,
    /// What was told of it and has not ended.
    #[serde(default, rename = "alerted")]
    pub told: Told,
    /// What an operator wants of it.
    pub directive: Option<Directive>,
    /// Until when its processes are not told apart.
    pub boot_noise: Option<Timestamp>,
    /// The UTC day whose use is counted.
    pub spend_day: Option<i64>,
    /// Tokens used in it.
    #[serde(default)]
    pub spent_tokens: u64,
    /// Millionths of a dollar used in it.
    #[serde(default)]
    pub spent_microusd: u64,
    /// Millionths of a dollar that it may use in a day.
    pub budget_microusd: Option<u64>,
    /// Tokens that it may use in a day.
    pub budget_tokens: Option<u64>,
    /// Epoch seconds at which DynamoDB removes the row.
    pub expires_at: Option<i64>,
}

/// What the clock says against an agent, with the attribute that the announcement is conditional on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It was heard once, and its lease ran out.
    Silent {
        /// When the lease that counts ran out.
        expired: Timestamp,
        /// `lease_expires_at` as it was read.
        lease: Timestamp,
        /// `next_beat_at` as it was read.
        promised: Option<Timestamp>,
    },
    /// It was let in and never heard.
    NeverSeen {
        /// `verified_at` as it was read.
        verified: Timestamp,
    },
}

/// Why what was told has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The agent is heard, and well.
    Resumed,
    /// The same, of a silence that another process ended than the one that fell silent.
    Restarted,
    /// The agent said that it goes.
    Left,
    /// An operator shut it out.
    Revoked,
    /// An operator removed it.
    Deleted,
    /// It was silent for so long that its row goes.
    Forgotten,
    /// It was flapping, and has not fallen silent for an hour.
    Stable,
    /// Something worse began.
    Worse,
}

impl Cause {
    /// The word that the wire uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Restarted => "restarted",
            Self::Left => "left",
            Self::Revoked => "revoked",
            Self::Deleted => "deleted",
            Self::Forgotten => "forgotten",
            Self::Stable => "stable",
            Self::Worse => "worse",
        }
    }
}

/// What is to be told of one agent: what ends, what begins, and what was told then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The concern that ends, and why.
    pub ends: Option<(Concern, Cause)>,
    /// The concern that begins.
    pub begins: Option<Concern>,
    /// The row's mark afterwards.
    pub told: Told,
}

impl Change {
    fn ended(concern: Concern, cause: Cause, told: Told) -> Self {
        Self { ends: Some((concern, cause)), begins: None, told }
    }

    /// Whether there is a message in it: who was waiting and no longer does is no news.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        self.begins.is_some() || self.ends.is_some()
    }
}

impl Watched {
    /// How long this agent may take from its activation to its first heartbeat.
    #[must_use]
    pub fn first_heartbeat_grace(&self) -> Duration {
        self.tolerance().max(FIRST_HEARTBEAT_GRACE)
    }

    const fn tolerance(&self) -> Duration {
        Duration::from_millis(self.tolerance_ms)
    }

    /// The lease that counts.
    #[must_use]
    pub fn lease(&self) -> Option<Timestamp> {
        agent::lease(self.lease_expires_at, self.next_beat_at, self.tolerance())
    }

    /// From when its silence counts: it was heard, or activated, or had promised to be heard.
    #[must_use]
    pub fn base(&self) -> Timestamp {
        self.last_seen_at.max(self.verified_at).max(self.next_beat_at).unwrap_or(self.created_at)
    }

    /// What the sweep has to announce of this agent, if anything.
    ///
    /// A lease more than [`LEASE_GRACE`] past is silence; an agent not seen max(tolerance, [`FIRST_HEARTBEAT_GRACE`]) after
    /// its activation never came. Time in which nothing could be heard does not count.
    #[must_use]
    pub fn overdue(&self, now: Timestamp, windows: &[BlindWindow]) -> Option<Overdue> {
        if self.agent_state != AgentState::Active || self.offline_since.is_some() {
            return None;
        }
        let unheard = extension(windows, self.base());
        match (self.lease_expires_at, self.verified_at) {
            (Some(lease), _) => {
                let (promised, expired) = (self.next_beat_at, self.lease().unwrap_or(lease));
                (now.since(expired) > LEASE_GRACE + unheard).then_some(Overdue::Silent {
                    expired,
                    lease,
                    promised,
                })
            }
            (None, Some(verified)) => (now.since(verified) > self.first_heartbeat_grace() + unheard)
                .then_some(Overdue::NeverSeen { verified }),
            (None, None) => None,
        }
    }

    /// How long the agent may be silent before it is told: max(tolerance, min(missed × interval, tolerance + 5
    /// minutes), 2 minutes).
    #[must_use]
    pub fn patience(&self, missed: u32) -> Duration {
        let missed = Duration::from_millis(self.interval_ms.saturating_mul(u64::from(missed)));
        missed.min(self.tolerance() + LONGEST_PATIENCE).max(self.tolerance()).max(SHORTEST_SILENCE)
    }

    /// Whether it has been silent for longer than `patience`, by what we could hear.
    fn is_silent_for(&self, patience: Duration, now: Timestamp, windows: &[BlindWindow]) -> bool {
        let base = self.base();
        now.since(base) > patience + LEASE_GRACE + extension(windows, base)
    }

    /// Whether it said that it goes, and has not been heard since.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.offline_since.is_some() && self.health == Some(Health::Offline)
    }

    /// Whether its lease runs.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.agent_state == AgentState::Active
            && self.offline_since.is_none()
            && self.lease().is_some_and(|lease| now <= lease)
    }

    /// What is wrong with this agent, worst first.
    #[must_use]
    pub fn concern(&self, now: Timestamp, windows: &[BlindWindow], rules: Rules) -> Option<Concern> {
        let is_announced = self.offline_since.is_some() && !self.has_left();
        match self.agent_state {
            AgentState::Pending => {
                (rules.waiting && now.since(self.created_at) > WAITING_AFTER).then_some(Concern::Waiting)
            }
            AgentState::Revoked => None,
            AgentState::Active if self.is_forgotten(now) => None,
            AgentState::Active if is_announced && self.last_seen_at.is_none() => Some(Concern::NeverSeen),
            AgentState::Active if is_announced => {
                self.is_silent_for(self.patience(rules.missed), now, windows).then_some(Concern::Offline)
            }
            AgentState::Active if !self.is_live(now) => None,
            AgentState::Active if self.is_cloned(now) => Some(Concern::Cloned),
            AgentState::Active if self.health == Some(Health::Error) => Some(Concern::Error),
            AgentState::Active if self.is_stalled(now) => Some(Concern::Stalled),
            AgentState::Active if self.is_over_budget(now) => Some(Concern::OverBudget),
            AgentState::Active => self.is_unheeding(now).then_some(Concern::Unheeded),
        }
    }

    /// What is to be told of this agent, by comparing what is so with what was told; `None` if nothing changes.
    #[must_use]
    pub fn change(&self, now: Timestamp, windows: &[BlindWindow], rules: Rules) -> Option<Change> {
        let Told { concern: told, flapping } = self.told;
        if self.told != Told::NOTHING
            && let Some(cause) = self.end_of_all(now)
        {
            return Some(match self.told.worst() {
                None | Some(Concern::Waiting) => Change { ends: None, begins: None, told: Told::NOTHING },
                Some(worst) => Change::ended(worst, cause, Told::NOTHING),
            });
        }
        let concern = self.concern(now, windows, rules).filter(|concern| {
            // A flapping agent's silences are known, until one lasts.
            let lasts = || self.is_silent_for(self.patience(rules.missed) * 2, now, windows);
            !flapping || *concern != Concern::Offline || told == Some(Concern::Offline) || lasts()
        });
        match (told, concern) {
            (None, None) => None,
            (Some(told), Some(concern)) if told == concern => None,
            (Some(Concern::Waiting), concern) => {
                Some(Change { ends: None, begins: concern, told: Told { concern, flapping } })
            }
            (told, Some(begins)) => Some(Change {
                ends: told.map(|told| (told, Cause::Worse)),
                begins: Some(begins),
                told: Told { concern: Some(begins), flapping },
            }),
            (Some(told), None) => self
                .has_recovered(told, now)
                .then(|| Change::ended(told, Cause::Resumed, Told { concern: None, flapping })),
        }
    }

    /// Whether its work stands still, by its own word since it was let in, and nobody paused it. Whoever ends a pause leaves
    /// the work its time to get further.
    #[must_use]
    pub fn is_stalled(&self, now: Timestamp) -> bool {
        let is_paused = self.directive.is_some_and(|directive| match directive.action {
            Action::Pause => true,
            Action::Run => directive.heard.is_none_or(|heard| now < heard.plus(STALL_AFTER)),
            Action::Drain | Action::Stop | Action::RotateKey => false,
        });
        // Midnight ends that pause.
        let is_paused = is_paused || self.is_over_budget(now.minus(STALL_AFTER));
        let is_its_word = self.last_seen_at >= self.verified_at;
        self.is_live(now) && is_its_word && !is_paused && self.stalls_at.is_some_and(|at| at < now)
    }

    /// Whether more than one process has its key. Only then the noise lasts longer than a deployment. What was told holds
    /// until they would have shown themselves again.
    fn is_cloned(&self, now: Timestamp) -> bool {
        let was_told = self.told.concern == Some(Concern::Cloned);
        self.boot_noise.is_some_and(|until| {
            let interval = Duration::from_millis(self.interval_ms);
            until > now.plus(SHORT_NOISE) || (was_told && now <= until.plus(shows_within(interval)))
        })
    }

    /// Whether it has used up today's budget, so that every answer tells it to pause.
    fn is_over_budget(&self, now: Timestamp) -> bool {
        let used = Usage { tokens: self.spent_tokens, microusd: self.spent_microusd };
        let budget = Budget::of_row(self.budget_microusd, self.budget_tokens);
        Spend { day: self.spend_day, used, budget, told: None }.is_over(now)
    }

    /// Whether it sends heartbeats, and does not acknowledge what an operator wants. Who is asleep has not heard it.
    fn is_unheeding(&self, now: Timestamp) -> bool {
        let interval = Duration::from_millis(self.interval_ms);
        let is_asleep = self.next_beat_at.is_some_and(|promised| now < promised);
        !is_asleep && self.directive.is_some_and(|directive| directive.is_unheeded(interval, now))
    }

    /// Whether an operator wanted it to end, and it goes on: it was heard when it should have been gone. Who could not
    /// hear, or has gone since, is spared.
    #[must_use]
    pub fn defies(&self) -> Option<Directive> {
        let directive = self.directive?;
        let end = directive.revokes_after(Duration::from_millis(self.interval_ms))?;
        let goes_on = self.agent_state == AgentState::Active && self.offline_since.is_none();
        (goes_on && self.last_seen_at > Some(end)).then_some(directive)
    }

    /// Whether its row goes within the hour.
    fn is_forgotten(&self, now: Timestamp) -> bool {
        let goes_at = now.plus(FORGOTTEN_WITHIN).as_seconds();
        self.expires_at.is_some_and(|end| end <= goes_at)
    }

    /// Why nothing more is told of this agent, if so.
    fn end_of_all(&self, now: Timestamp) -> Option<Cause> {
        match self.agent_state {
            AgentState::Revoked => Some(Cause::Revoked),
            AgentState::Active if self.has_left() => Some(Cause::Left),
            AgentState::Active if self.is_forgotten(now) => Some(Cause::Forgotten),
            AgentState::Active | AgentState::Pending => None,
        }
    }

    /// Whether what was told is over. A silence is ended by a heartbeat and not by an operator: neither a longer
    /// tolerance nor a restore says that the agent lives.
    fn has_recovered(&self, told: Concern, now: Timestamp) -> bool {
        let is_heard = self.last_seen_at > self.verified_at;
        self.is_live(now) && (is_heard || !told.is_silence())
    }

    /// Heartbeats that did not come, by the interval.
    #[must_use]
    pub fn missed_heartbeats(&self, until: Timestamp) -> u64 {
        let silent = u64::try_from(until.since(self.base()).as_millis()).unwrap_or(u64::MAX);
        silent / self.interval_ms.max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::{Just, Strategy};

    use super::*;
    use crate::domain::credential::ApiKey;

    fn active(verified: i64, lease: Option<i64>) -> Watched {
        Watched {
            agent_id: AgentId::of_key(&ApiKey::generate()),
            agent_state: AgentState::Active,
            agent_name: AgentName::parse("a").unwrap(),
            board_id: None,
            interval_ms: 60_000,
            tolerance_ms: 120_000,
            health: None,
            created_at: Timestamp::from_millis(0),
            told: Told::NOTHING,
            directive: None,
            expires_at: None,
            last_seen_at: None,
            lease_expires_at: lease.map(Timestamp::from_millis),
            next_beat_at: None,
            stalls_at: None,
            boot_noise: None,
            spend_day: None,
            spent_tokens: 0,
            spent_microusd: 0,
            budget_microusd: None,
            budget_tokens: None,
            verified_at: Some(Timestamp::from_millis(verified)),
            offline_since: None,
        }
    }

    #[test]
    fn a_lease_is_overdue_only_after_its_grace() {
        let agent = active(0, Some(120_000));
        assert_eq!(agent.overdue(Timestamp::from_millis(130_000), &[]), None);
        assert!(agent.overdue(Timestamp::from_millis(130_001), &[]).is_some());
    }

    #[test]
    fn an_agent_never_seen_has_five_minutes_or_its_tolerance() {
        let mut agent = active(0, None);
        assert_eq!(agent.overdue(Timestamp::from_millis(300_000), &[]), None);
        assert!(agent.overdue(Timestamp::from_millis(300_001), &[]).is_some());
        agent.tolerance_ms = 600_000;
        assert_eq!(agent.overdue(Timestamp::from_millis(600_000), &[]), None);
        assert!(agent.overdue(Timestamp::from_millis(600_001), &[]).is_some());
    }

    #[test]
    fn what_is_announced_or_not_active_is_not_overdue() {
        let mut agent = active(0, Some(0));
        agent.offline_since = Some(Timestamp::from_millis(1));
        assert_eq!(agent.overdue(Timestamp::from_millis(i64::MAX), &[]), None);
        agent.offline_since = None;
        agent.agent_state = AgentState::Revoked;
        assert_eq!(agent.overdue(Timestamp::from_millis(i64::MAX), &[]), None);
    }

    #[test]
    fn a_silence_is_told_after_three_missed_heartbeats_within_bounds() {
        let mut agent = active(0, Some(0));
        for (interval, tolerance, missed, seconds) in [
            (60, 120, 3, 180),
            (60, 120, 1, 120),
            // Within two sweeps nobody can tell a dead agent from deafness.
            (10, 20, 3, 120),
            // Never long after it is shown as offline.
            (3_600, 7_200, 3, 7_500),
            (60, 86_400, 3, 86_400),
        ] {
            (agent.interval_ms, agent.tolerance_ms) = (interval * 1000, tolerance * 1000);
            assert_eq!(agent.patience(missed), Duration::from_secs(seconds), "{interval} {tolerance}");
        }
    }

    #[test]
    fn who_is_forgotten_is_told_so_once() {
        let rules = Rules { missed: 3, waiting: false };
        let mut agent = active(0, Some(120_000));
        agent.last_seen_at = Some(Timestamp::from_millis(0));
        agent.offline_since = Some(Timestamp::from_millis(131_000));
        agent.expires_at = Some(100_000);
        let hour_before = Timestamp::from_millis((100_000 - 3_600) * 1000);
        let begins = agent.change(hour_before.minus(Duration::from_secs(1)), &[], rules).expect("a change");
        assert_eq!(begins.begins, Some(Concern::Offline));
        agent.told = begins.told;
        let ends = agent.change(hour_before, &[], rules).expect("a change");
        assert_eq!(ends.ends, Some((Concern::Offline, Cause::Forgotten)));
        agent.told = ends.told;
        assert_eq!(agent.change(hour_before, &[], rules), None);
    }

    /// A tolerance, and how long ago a heartbeat came that is within it, in milliseconds.
    fn within_a_tolerance() -> impl Strategy<Value = (u64, i64)> {
        (0_i64..1_000_000).prop_flat_map(|tolerance| (Just(tolerance.unsigned_abs()), 0..=tolerance))
    }

    proptest::proptest! {
        #[test]
        fn nobody_is_silent_whose_heartbeat_is_within_its_tolerance(
            interval in 1_u64..100_000,
            (tolerance, ago) in within_a_tolerance(),
            announced in proptest::bool::ANY,
            missed in 1_u32..100,
            windows in proptest::collection::vec((0_i64..2_000_000, 0_i64..500_000), 0..5),
        ) {
            let now = Timestamp::from_millis(1_500_000);
            let seen = Timestamp::from_millis(now.as_millis() - ago);
            let window = |(from, length)| BlindWindow {
                from: Timestamp::from_millis(from),
                until: Timestamp::from_millis(from + length),
            };
            let windows: Vec<_> = windows.into_iter().map(window).collect();
            let mut agent = active(0, None);
            (agent.interval_ms, agent.tolerance_ms) = (interval, tolerance);
            agent.last_seen_at = Some(seen);
            agent.lease_expires_at = Some(seen.plus(agent.tolerance()));
            agent.offline_since = announced.then_some(seen);
            let rules = Rules { missed, waiting: true };
            proptest::prop_assert_eq!(agent.concern(now, &windows, rules), None);
            agent.offline_since = None;
            proptest::prop_assert_eq!(agent.overdue(now, &windows), None);
        }
    }
}
