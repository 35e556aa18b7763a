//! The refusals that an environment remembers, so that a caller in a loop costs nothing.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::domain::agent::AgentId;
use crate::domain::check_in::Caller;
use crate::domain::credential::ApiKey;
use crate::domain::rate_limit::{Policy, Quota};
use crate::time::Timestamp;

/// How many refusals are remembered; the least recently met are forgotten first.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// How long an unknown key stays refused without a look. Only keys that were never issued, or have expired for
/// good, are unknown, so this delays nobody.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Who was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Refusee {
    Key([u8; 32]),
    Agent(AgentId),
    Address(String),
}

impl Refusee {
    /// A key is remembered by its digest: another key of the same agent may still be good.
    fn of(caller: &Caller) -> Self {
        match caller {
            Caller::Key(key) => Self::Key(*key.digest().as_bytes()),
            Caller::Namespace { .. } | Caller::Operator { .. } => Self::Agent(caller.agent_id()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Refused {
    OverLimit(Quota),
    Unknown { until: Timestamp },
}

/// What a remembered refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedRefusal {
    /// Over this limit, until its window ends.
    OverLimit(Quota),
    /// No agent has this key.
    Unknown,
}

/// The refusals of one environment, bounded. Pending and revoked agents are not among them: approval and
/// restore take effect with the next request.
#[derive(Debug)]
pub struct RefusalCache {
    refused: Mutex<LruCache<(Refusee, Option<Policy>), Refused>>,
}

impl Default for RefusalCache {
    fn default() -> Self {
        Self { refused: Mutex::new(LruCache::new(CAPACITY)) }
    }
}

impl RefusalCache {
    /// The refusal that a caller meets again, if any.
    #[must_use]
    pub fn of_caller(&self, caller: &Caller, policy: Policy, now: Timestamp) -> Option<CachedRefusal> {
        if self.is_empty() {
            return None;
        }
        let refusee = Refusee::of(caller);
        self.get(&(refusee.clone(), None), now).or_else(|| self.get(&(refusee, Some(policy)), now))
    }

    /// The limit that calls from this address are over, if any.
    #[must_use]
    pub fn of_address(&self, address: &str, policy: Policy, now: Timestamp) -> Option<Quota> {
        match self.get(&(Refusee::Address(address.to_owned()), Some(policy)), now) {
            Some(CachedRefusal::OverLimit(quota)) => Some(quota),
            _ => None,
        }
    }

    /// Remembers that this caller is over a limit.
    pub fn over_limit(&self, caller: &Caller, quota: Quota) {
        self.insert((Refusee::of(caller), Some(quota.policy)), Refused::OverLimit(quota));
    }

    /// Remembers that this address is over a limit.
    pub fn address_over_limit(&self, address: &str, quota: Quota) {
        self.insert((Refusee::Address(address.to_owned()), Some(quota.policy)), Refused::OverLimit(quota));
    }

    /// Remembers that nobody has this key.
    pub fn unknown_key(&self, key: &ApiKey, now: Timestamp) {
        let until = now.plus(UNKNOWN_FOR);
        self.insert((Refusee::Key(*key.digest().as_bytes()), None), Refused::Unknown { until });
    }

    /// Almost always so; a digest takes longer than this look.
    fn is_empty(&self) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn insert(&self, whom: (Refusee, Option<Policy>), refused: Refused) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).put(whom, refused);
    }

    fn get(&self, whom: &(Refusee, Option<Policy>), now: Timestamp) -> Option<CachedRefusal> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, remembered) = match *refused.get(whom)? {
            Refused::OverLimit(quota) => (quota.resets_at, CachedRefusal::OverLimit(quota)),
            Refused::Unknown { until } => (until, CachedRefusal::Unknown),
        };
        if now < until {
            return Some(remembered);
        }
        refused.pop(whom);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn over(policy: Policy) -> Quota {
        Quota::after(policy, 60, 60, NOW)
    }

    #[test]
    fn over_the_limit_lasts_until_the_window_ends() {
        let (refusals, caller) = (RefusalCache::default(), Caller::Key(ApiKey::generate()));
        refusals.over_limit(&caller, over(Policy::Heartbeats));
        let cached = |millis| refusals.of_caller(&caller, Policy::Heartbeats, Timestamp::from_millis(millis));
        assert_eq!(cached(59_999), Some(CachedRefusal::OverLimit(over(Policy::Heartbeats))));
        assert_eq!(cached(60_000), None);
    }

    #[test]
    fn one_limit_says_nothing_of_another() {
        let (refusals, caller) = (RefusalCache::default(), Caller::Key(ApiKey::generate()));
        refusals.over_limit(&caller, over(Policy::Heartbeats));
        assert_eq!(refusals.of_caller(&caller, Policy::Events, NOW), None);
        refusals.address_over_limit("192.0.2.1", over(Policy::Registrations));
        assert_eq!(refusals.of_address("192.0.2.1", Policy::FailedVerifications, NOW), None);
        assert!(refusals.of_address("192.0.2.1", Policy::Registrations, NOW).is_some());
    }

    #[test]
    fn an_unknown_key_is_refused_everywhere_for_a_second() {
        let (refusals, key) = (RefusalCache::default(), ApiKey::generate());
        refusals.unknown_key(&key, NOW);
        let caller = Caller::Key(key);
        assert_eq!(refusals.of_caller(&caller, Policy::Events, NOW), Some(CachedRefusal::Unknown));
        assert_eq!(refusals.of_caller(&caller, Policy::Events, NOW.plus(UNKNOWN_FOR)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = RefusalCache::default();
        for _ in 0..2 * CAPACITY.get() {
            refusals.unknown_key(&ApiKey::generate(), NOW);
        }
        assert_eq!(refusals.refused.lock().unwrap().len(), CAPACITY.get());
    }
}
