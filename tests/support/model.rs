//! What should be said of an agent: a plain model, written from the documents and not from the code. Nothing is shared.
//!
//! Two tests hold the product against it: `shared/src/store/lives.rs` 20,000 random lives by the product's writes and
//! decisions, applied in memory; `tests/system/lives.rs` some hundreds over the real handlers and the real engine.

use std::fmt::Write as _;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// The deployment's longest promise. Agents promise more.
pub const MAX_PROMISE: i64 = 3_600;

/// For how long work may stand still, unless an operator chose.
const STALL_AFTER: i64 = 900;

/// An agent as the documents describe it. Moments are seconds since the beginning.
#[derive(Clone, Debug)]
pub struct Model {
    pub interval: i64,
    pub tolerance: i64,
    pub stall_after: i64,
    pub revoked: bool,
    /// When it was let in: verified, or restored.
    pub let_in: i64,
    /// Its last heartbeat or event.
    pub seen: Option<i64>,
    pub health: Option<&'static str>,
    /// When its next heartbeat is promised, and when its work stalls: as its last heartbeat said. Also when that heartbeat is
    /// due, once its interval was changed.
    pub promise: Option<i64>,
    pub stalls_at: Option<i64>,
    /// It said that it goes, or was announced as silent.
    pub gone_since: Option<i64>,
    pub directive: Option<Directive>,
    /// The concern that was told, and has not ended.
    pub told: Option<&'static str>,
    /// What the log says of its liveness.
    pub events: Vec<(i64, &'static str)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Directive {
    pub action: &'static str,
    pub since: i64,
    /// When the agent was first answered with it.
    pub heard: Option<i64>,
    pub acknowledged: bool,
}

impl Model {
    /// Verified at the beginning, and not heard yet.
    pub fn new() -> Self {
        Self {
            interval: 60,
            tolerance: 120,
            stall_after: STALL_AFTER,
            revoked: false,
            let_in: 0,
            seen: None,
            health: None,
            promise: None,
            stalls_at: None,
            gone_since: None,
            directive: None,
            told: None,
            events: Vec::new(),
        }
    }

    pub fn happens(&mut self, step: Step, now: i64) {
        match step {
            Step::Heartbeat { .. } | Step::OperatorsHeartbeat { .. } | Step::Event | Step::Directive(_)
                if self.revoked => {}
            Step::Heartbeat { says, age, promise, acknowledges, .. } => {
                self.is_heard(says, now);
                // Each heartbeat of the agent says all this anew, or takes it back.
                self.promise = promise.map(|promise| now + promise.min(MAX_PROMISE));
                self.stalls_at = age.map(|age| self.promise.unwrap_or(now) - age + self.stall_after);
                self.is_answered(now);
                if acknowledges && let Some(directive) = &mut self.directive {
                    directive.acknowledged = true;
                    self.directive = self.directive.filter(|directive| directive.action != "run");
                }
            }
            Step::OperatorsHeartbeat { says, reports, age } => {
                self.is_heard(says, now);
                // With a report of the agent it counts like the agent's own: one that promises nothing.
                if reports {
                    self.promise = None;
                    self.stalls_at = age.map(|age| now - age + self.stall_after);
                    self.is_answered(now);
                }
            }
            Step::Event => self.is_heard(None, now),
            Step::Config { interval, tolerance } => {
                // It hears of that with its next heartbeat, which is due by the interval that it knows.
                if interval != self.interval && self.promise.is_none() {
                    self.promise = self.seen.map(|seen| seen + self.interval);
                }
                (self.interval, self.tolerance) = (interval, tolerance);
            }
            Step::StallAfter(after) => self.stall_after = after.unwrap_or(STALL_AFTER),
            Step::Directive("run") if self.directive.is_none() => {}
            Step::Directive(action) => {
                self.directive = Some(Directive { action, since: now, heard: None, acknowledged: false });
            }
            Step::Revoke => self.revoked = true,
            Step::Restore if self.revoked => {
                (self.revoked, self.let_in, self.health, self.gone_since) = (false, now, None, None);
            }
            Step::Restore => {}
        }
    }

    /// A heartbeat of the agent is answered.
    fn is_answered(&mut self, now: i64) {
        if let Some(directive) = &mut self.directive {
            directive.heard = directive.heard.or(Some(now));
        }
    }

    fn is_heard(&mut self, says: Option<&'static str>, now: i64) {
        self.seen = Some(now);
        if says == Some("offline") {
            if self.gone_since.is_none() {
                self.gone_since = Some(now);
                self.events.push((now, "agent.offline"));
            }
            self.health = says;
            return;
        }
        if self.gone_since.take().is_some() {
            self.health = None;
            self.events.push((now, "agent.online"));
        }
        match says {
            None => {}
            Some("online") => self.health = None,
            Some(_) => self.health = says,
        }
    }

    /// Until when it must be heard: its tolerance from the last heartbeat or the promised one; and let in again it has five
    /// minutes at least. `None` before the first.
    pub fn lease(&self) -> Option<i64> {
        let seen = self.seen?;
        let lease = seen.max(self.promise.unwrap_or(seen)) + self.tolerance;
        let anew = self.let_in + self.tolerance.max(300);
        Some(if self.let_in > seen { lease.max(anew) } else { lease })
    }

    fn is_live(&self, now: i64) -> bool {
        !self.revoked && self.gone_since.is_none() && self.lease().is_some_and(|lease| now <= lease)
    }

    /// Its work stands still: by its own word, since it was let in; and nobody paused it, or lets it go on just now.
    pub fn is_stalled(&self, now: i64) -> bool {
        let is_paused = self.directive.is_some_and(|directive| match directive.action {
            "pause" => true,
            "run" => directive.heard.is_none_or(|heard| now < heard + STALL_AFTER),
            _ => false,
        });
        let is_word = self.seen >= Some(self.let_in);
        self.is_live(now) && is_word && !is_paused && self.stalls_at.is_some_and(|at| at < now)
    }

    pub fn status(&self, now: i64) -> &'static str {
        match self.seen {
            _ if self.revoked => "offline",
            None => "provisioning",
            Some(seen) if now > seen.max(self.promise.unwrap_or(seen)) + self.tolerance => "offline",
            Some(_) => self.health.unwrap_or("online"),
        }
    }

    /// The worst that is wrong with it.
    fn concern(&self, now: i64) -> Option<&'static str> {
        if self.revoked || (self.gone_since.is_some() && self.health == Some("offline")) {
            return None;
        }
        if self.gone_since.is_some() {
            let Some(seen) = self.seen else { return Some("never_seen") };
            let patience = self.tolerance.max(120).max((3 * self.interval).min(self.tolerance + 300));
            let since = seen.max(self.let_in).max(self.promise.unwrap_or(seen));
            return (now > since + patience + 10).then_some("offline");
        }
        let unheeded = self.directive.is_some_and(|directive| {
            !directive.acknowledged
                && directive.action != "run"
                && directive.heard.is_some_and(|heard| now > heard + 2 * self.interval)
                && now > directive.since + 300
                && self.promise.is_none_or(|promise| promise <= now)
        });
        match () {
            () if !self.is_live(now) => None,
            () if self.health == Some("error") => Some("error"),
            () if self.is_stalled(now) => Some("stalled"),
            () if unheeded => Some("unheeded"),
            () => None,
        }
    }

    /// A sweep announces a silence ten seconds after its lease, and whoever never came five minutes after it was let in; then
    /// it tells what has changed, if it may.
    pub fn is_swept(&mut self, now: i64, may_tell: bool) {
        let (end, event) = match self.lease() {
            Some(lease) => (lease + 10, "agent.offline"),
            None => (self.let_in + self.tolerance.max(300), "agent.never_seen"),
        };
        if !self.revoked && self.gone_since.is_none() && now > end {
            self.gone_since = Some(now);
            self.events.push((now, event));
        }
        let concern = self.concern(now);
        if !may_tell || self.told == concern {
            return;
        }
        let has_left = self.gone_since.is_some() && self.health == Some("offline");
        let was_silent = matches!(self.told, Some("offline" | "never_seen"));
        // A silence is ended by a heartbeat, and not by an operator who lets it in again.
        let is_over = self.is_live(now) && (self.seen > Some(self.let_in) || !was_silent);
        if concern.is_some() || self.revoked || has_left || is_over {
            self.told = concern;
            self.events.extend((concern == Some("stalled")).then_some((now, "agent.stalled")));
        }
    }

    /// As operators see it.
    pub fn shown(&self, now: i64) -> Shown {
        let late = self.seen.is_some_and(|seen| {
            let due = (seen + self.interval).max(self.promise.unwrap_or(seen));
            let end = seen.max(self.promise.unwrap_or(seen)) + self.tolerance;
            !self.revoked && self.gone_since.is_none() && now > due + 10 && now <= end
        });
        Shown {
            status: self.status(now).to_owned(),
            revoked: self.revoked,
            health: self.health.map(str::to_owned),
            late,
            gone_since: self.gone_since,
            lease: self.lease(),
            promise: self.promise,
            stalls_at: self.stalls_at,
        }
    }
}

/// What operators see of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub status: String,
    pub revoked: bool,
    pub health: Option<String>,
    pub late: bool,
    pub gone_since: Option<i64>,
    pub lease: Option<i64>,
    pub promise: Option<i64>,
    pub stalls_at: Option<i64>,
}

// ---- What happens ------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Heartbeat {
        says: Option<&'static str>,
        age: Option<i64>,
        promise: Option<i64>,
        acknowledges: bool,
    },
    /// `reports`: with a report of the agent, which may say how old its progress is.
    OperatorsHeartbeat {
        says: Option<&'static str>,
        reports: bool,
        age: Option<i64>,
    },
    Event,
    Config {
        interval: i64,
        tolerance: i64,
    },
    StallAfter(Option<i64>),
    Directive(&'static str),
    Revoke,
    Restore,
}

fn health(random: &mut StdRng) -> Option<&'static str> {
    let words = [None, None, None, Some("healthy"), Some("degraded"), Some("error"), Some("online")];
    *words.choose(random).expect("a word")
}

/// What an agent does, or an operator to it; mostly it sends heartbeats.
pub fn step(random: &mut StdRng) -> Step {
    let some = |random: &mut StdRng, chance: f64, values: &[i64]| {
        random.random_bool(chance).then(|| *values.choose(random).expect("a value"))
    };
    match random.random_range(0..100) {
        0..58 => {
            let reports = random.random_bool(0.7);
            let chance = |chance| if reports { chance } else { 0.0 };
            Step::Heartbeat {
                says: if random.random_bool(0.06) { Some("offline") } else { health(random) },
                age: some(random, chance(0.7), &[0, 1, 59, 300, 840, 899, 900, 901, 5_000]),
                promise: some(random, chance(0.4), &[0, 1, 60, 300, 1_800, 3_600, 14_400]),
                acknowledges: random.random_bool(chance(0.5)),
            }
        }
        58..68 => Step::Event,
        68..72 => {
            let reports = random.random_bool(0.4);
            let age = some(random, if reports { 0.5 } else { 0.0 }, &[0, 300, 899, 901]);
            Step::OperatorsHeartbeat { says: health(random), reports, age }
        }
        72..78 => {
            let configs = [(1, 2), (15, 30), (60, 120), (60, 600), (300, 600), (1_000, 3_600)];
            let (interval, tolerance) = *configs.choose(random).expect("a configuration");
            Step::Config { interval, tolerance }
        }
        78..81 => Step::StallAfter(some(random, 0.7, &[60, 300, 3_600])),
        81..88 => Step::Directive(["pause", "pause", "run", "drain"].choose(random).expect("an action")),
        88..93 => Step::Revoke,
        _ => Step::Restore,
    }
}

/// Where an agent's time may come to an edge.
fn edges(model: &Model) -> Vec<i64> {
    let mut edges = vec![model.let_in + model.tolerance.max(300)];
    edges.extend(model.lease().map(|lease| lease + 10));
    edges.extend(model.lease());
    edges.extend(model.promise);
    edges.extend(model.stalls_at);
    edges.extend(model.directive.map(|directive| directive.since + 300));
    let heard = model.directive.and_then(|directive| directive.heard);
    edges.extend(heard.into_iter().flat_map(|heard| [heard + 2 * model.interval, heard + STALL_AFTER]));
    edges.into_iter().flat_map(|edge| [edge, edge + 1]).collect()
}

/// How long it takes until the next step.
pub fn pause(random: &mut StdRng, model: &Model, now: i64) -> i64 {
    let edges = edges(model);
    let ahead: Vec<i64> = edges.into_iter().filter(|edge| *edge > now).collect();
    match ahead.choose(random) {
        Some(edge) if random.random_bool(0.6) => edge - now,
        _ => *[1, 30, 60, 60, 110, 125, 300, 600, 900, 3_600].choose(random).expect("a time"),
    }
}

/// An agent's life up to where it went wrong, as a person reads it.
pub fn story(life: &[(i64, Step)], wrong: &str, model: &Model) -> String {
    let mut story = String::new();
    for (at, step) in life {
        writeln!(story, "  t+{at} s: {step:?}").expect("a string");
    }
    write!(story, "  and then {wrong}\n  by the model: {model:?}").expect("a string");
    story
}
