//! Days of a fleet in a moment: the real judgement of agents, hearing and pace, with a simulated clock.

use std::time::Duration;

use super::agent::{AgentId, AgentName, AgentState};
use super::concern::Told;
use super::credential::ApiKey;
use super::hearing::Hearing;
use super::heartbeat::Health;
use super::pace::Pace;
use super::watch::{Rules, Watched};
use crate::time::Timestamp;

const PERIOD: Duration = Duration::from_mins(1);
const RULES: Rules = Rules { missed: 3, waiting: false };
const BEGIN: i64 = 1_000_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(BEGIN + seconds * 1000)
}

/// Numbers that look random and are the same in each run.
fn dice(a: u64, b: u64) -> u64 {
    let mut state = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state ^= state >> 31;
    state = state.wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 29)
}

/// A fleet whose agents send a heartbeat each `interval` seconds, at moments of their own.
struct World {
    agents: Vec<Watched>,
    interval: i64,
    hearing: Hearing,
    pace: Pace,
    /// Messages of what began, each with how many agents.
    begun: Vec<usize>,
    /// Messages of what ended.
    ended: Vec<usize>,
}

impl World {
    fn new(agents: usize, interval: i64, tolerance: i64) -> Self {
        let agent = |_| Watched {
            agent_id: AgentId::of_key(&ApiKey::generate()),
            agent_name: AgentName::parse("a").unwrap(),
            board_id: None,
            agent_state: AgentState::Active,
            interval_ms: u64::try_from(interval * 1000).unwrap(),
            tolerance_ms: u64::try_from(tolerance * 1000).unwrap(),
            health: Some(Health::Healthy),
            last_seen_at: None,
            lease_expires_at: None,
            next_beat_at: None,
            boot_noise: None,
            spend_day: None,
            spent_tokens: 0,
            spent_microusd: 0,
            budget_microusd: None,
            budget_tokens: None,
            stalls_at: None,
            created_at: at(-1),
            verified_at: Some(at(-1)),
            offline_since: None,
            told: Told::NOTHING,
            directive: None,
            expires_at: None,
        };
        Self {
            agents: (0..agents).map(agent).collect(),
            interval,
            hearing: Hearing { heard_at: Some(at(0)), ..Hearing::default() },
            pace: Pace::default(),
            begun: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The heartbeats that arrive until `now`: `arrives` says of an agent's heartbeat at a moment whether it does.
    fn hear(&mut self, since: i64, now: i64, arrives: &impl Fn(usize, i64) -> bool) {
        for (place, agent) in self.agents.iter_mut().enumerate() {
            let phase = i64::try_from(dice(place as u64, 7) % u64::try_from(self.interval).unwrap()).unwrap();
            let mut beat = now - (now - phase).rem_euclid(self.interval);
            while beat > since && !arrives(place, beat) {
                beat -= self.interval;
            }
            if beat > since {
                agent.last_seen_at = Some(at(beat));
                agent.lease_expires_at = Some(at(beat).plus(Duration::from_millis(agent.tolerance_ms)));
                agent.offline_since = None;
            }
        }
    }

    fn sweep(&mut self, now: i64, canary: bool) {
        let now = at(now);
        let proof = self.hearing.proof_after(now, PERIOD);
        let is_heard = canary || self.agents.iter().any(|agent| agent.last_seen_at > Some(proof));
        if !is_heard {
            self.hearing = self.hearing.not_heard(now);
            return;
        }
        self.hearing = self.hearing.heard(now, PERIOD);
        let is_quiet = self.pace.is_quiet(now);
        let (mut begins, mut ends) = (0, 0);
        for agent in &mut self.agents {
            if agent.overdue(now, &self.hearing.windows).is_some() {
                agent.offline_since = Some(now);
            }
            match agent.change(now, &self.hearing.windows, RULES) {
                Some(change) if !is_quiet => {
                    begins += usize::from(change.begins.is_some());
                    ends += usize::from(change.begins.is_none());
                    agent.told = change.told;
                }
                _ => {}
            }
        }
        for (count, messages) in [(begins, &mut self.begun), (ends, &mut self.ended)] {
            if count > 0 {
                self.pace = self.pace.after(count, None, now);
                messages.push(count);
            }
        }
    }

    /// Runs until `end`, with a sweep each minute from `first` on.
    fn run(
        &mut self,
        first: i64,
        end: i64,
        arrives: impl Fn(usize, i64) -> bool,
        sweeps: impl Fn(i64) -> bool,
        canary: impl Fn(i64) -> bool,
    ) {
        let mut heard_until = 0;
        for now in (first..end).step_by(60) {
            if sweeps(now) {
                self.hear(heard_until, now, &arrives);
                heard_until = now;
                self.sweep(now, canary(now));
            }
        }
    }
}

/// Their events may say so: an outage within one period of the sweep looks like the silence of agents that send a heartbeat
/// each ten seconds.
#[test]
fn an_outage_of_our_own_tells_of_nobody_whatever_its_length_and_phase() {
    for (interval, tolerance) in [(10, 20), (30, 60), (60, 120)] {
        for outage in [20, 60, 130, 200, 300, 600, 1_800, 7_200] {
            for phase in 0..20 {
                // With and without the sweep running through it.
                for sweeps_on in [true, false] {
                    let begin = 900 + phase * 3;
                    let is_out = |moment: i64| (begin..begin + outage).contains(&moment);
                    let mut world = World::new(200, interval, tolerance);
                    world.run(
                        60 - phase,
                        begin + outage + 900,
                        |_, beat| !is_out(beat),
                        |now| sweeps_on || !is_out(now),
                        |now| !is_out(now),
                    );
                    let case =
                        format!("{tolerance} s, out for {outage} s from {begin} s, sweeps {sweeps_on}");
                    assert_eq!((&world.begun[..], &world.ended[..]), (&[][..], &[][..]), "{case}");
                }
            }
        }
    }
}

#[test]
fn sixty_of_two_hundred_are_two_messages_and_a_thousand_of_a_thousand_are() {
    for (fleet, dying) in [(10, 6), (200, 60), (1_000, 1_000)] {
        for phase in 0..20 {
            let death = 600 + phase * 3;
            let mut world = World::new(fleet, 60, 120);
            world.run(60, 3_600, |agent, beat| agent >= dying || beat < death, |_| true, |_| true);
            assert_eq!(world.begun.iter().sum::<usize>(), dying, "each is told");
            assert!(world.begun.len() <= 2, "{fleet} {phase}: {:?}", world.begun);
        }
    }
}

#[test]
fn twenty_deaths_ninety_seconds_apart_are_nine_messages() {
    let mut world = World::new(50, 60, 120);
    let dies = |agent: usize| 600 + i64::try_from(agent).unwrap() * 90;
    world.run(60, 7_200, |agent, beat| agent >= 20 || beat < dies(agent), |_| true, |_| true);
    assert_eq!(world.begun.iter().sum::<usize>(), 20);
    assert!(world.begun.len() <= 9, "{:?}", world.begun);
}

/// Agents that are told as silent by chance alone, for each thousand and day.
fn false_alarms(resent: bool) -> usize {
    let lost = |agent: usize, beat: i64, sending: u64| {
        dice(agent as u64 * 4 + sending, u64::try_from(beat).unwrap()).is_multiple_of(100)
    };
    let mut world = World::new(1_000, 60, 120);
    let arrives = |agent: usize, beat: i64| !lost(agent, beat, 0) || (resent && !lost(agent, beat, 1));
    world.run(60, 24 * 3_600, arrives, |_| true, |_| true);
    world.begun.len()
}

#[test]
fn one_heartbeat_in_a_hundred_lost_for_a_day_tells_of_next_to_nobody() {
    assert!(false_alarms(false) <= 2, "a client that does not send again");
    assert_eq!(false_alarms(true), 0, "a client that does");
}
