//! `report`: what a heartbeat says beside the agent's health. The contracts differ in how they spell it.

use std::time::Duration;

use super::contract::Contract;
use super::error::Invalid;
use super::json::{GZIP, Object, whole};
use crate::domain::agent::millis;
use crate::domain::boot::BootId;
use crate::domain::report::{LONGEST_AGE, Report};
use crate::domain::spend::{MOST, Usage};

/// How a contract spells a field: the envelope's spelling, and Mission Control's.
type Spellings = (&'static str, &'static str);

const ACK_DIRECTIVE: Spellings = ("ackDirective", "ack_directive");
const PROGRESS_AGE: Spellings = ("progressAgeSeconds", "progress_age_seconds");
const NEXT_BEAT_IN: Spellings = ("nextBeatInSeconds", "next_beat_in_seconds");
const BOOT_ID: Spellings = ("bootId", "boot_id");
const COST_USD: Spellings = ("costUsd", "cost_usd");

/// What a heartbeat's body reports, if it has a `report`, and what of it cannot be read, which is left out. A promise of more
/// than `max_promise` counts as that.
#[must_use]
pub fn read(body: &Object<'_>, contract: Contract, max_promise: Duration) -> (Option<Report>, Vec<Invalid>) {
    let object = match body.object("report") {
        Ok(Some(object)) => object,
        Ok(None) => return (None, Vec::new()),
        Err(problem) => return (None, vec![problem]),
    };
    let fields = Fields { object: &object, contract };
    let mut problems = Vec::new();
    let version = readable(fields.number(ACK_DIRECTIVE), &mut problems);
    let age = readable(fields.number(PROGRESS_AGE), &mut problems);
    let promise = readable(fields.number(NEXT_BEAT_IN), &mut problems);
    let report = Report {
        // What is no version is none that was ever given.
        ack_directive: version.map(|it| whole(it).and_then(|it| i64::try_from(it).ok()).unwrap_or(0)),
        progress_age: age.map(|seconds| clamped(seconds, LONGEST_AGE)),
        next_beat_in: promise.map(|seconds| clamped(seconds, max_promise)),
        boot_id: readable(fields.boot_id(), &mut problems),
        usage: fields.usage(&mut problems),
    };
    (Some(report), problems)
}

/// Whether a body that cannot be read may hold a report: the word is in it, or it is compressed.
#[must_use]
pub fn may_be_in(body: &[u8]) -> bool {
    const WORD: &[u8] = b"\"report\"";
    body.starts_with(GZIP) || body.windows(WORD.len()).any(|bytes| bytes == WORD)
}

/// What could be read; what could not be is noted.
fn readable<T>(read: Result<Option<T>, Invalid>, problems: &mut Vec<Invalid>) -> Option<T> {
    read.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

/// The first problem of what was read, if there is one.
fn refused<T>(read: T, problems: Vec<Invalid>) -> Result<T, Invalid> {
    problems.into_iter().next().map_or(Ok(read), Err)
}

/// What a heartbeat's body reports, if it has a `report`.
///
/// # Errors
/// The first field of another type than it should be, or in the other contract's spelling.
pub fn strict(
    body: &Object<'_>,
    contract: Contract,
    max_promise: Duration,
) -> Result<Option<Report>, Invalid> {
    let (report, problems) = read(body, contract, max_promise);
    refused(report, problems)
}

/// What an event's body reports as used.
///
/// # Errors
/// As [`strict`].
pub fn usage(body: &Object<'_>, contract: Contract) -> Result<Option<Usage>, Invalid> {
    let Some(object) = body.object("report")? else { return Ok(None) };
    let mut problems = Vec::new();
    let usage = Fields { object: &object, contract }.usage(&mut problems);
    refused(usage, problems)
}

/// A number between none and [`MOST`], half up.
fn counted(number: Option<f64>) -> u64 {
    let number = number.unwrap_or(0.0).max(0.0).round();
    whole(number).map_or(MOST, |number| number.min(MOST))
}

/// Seconds as a duration between none and `most`, in milliseconds: an agent's clock may say anything.
fn clamped(seconds: f64, most: Duration) -> Duration {
    let duration = Duration::from_secs_f64(seconds.clamp(0.0, most.as_secs_f64()));
    Duration::from_millis(millis(duration))
}

struct Fields<'a> {
    object: &'a Object<'a>,
    contract: Contract,
}

impl Fields<'_> {
    fn number(&self, spellings: Spellings) -> Result<Option<f64>, Invalid> {
        self.object.number(self.name(spellings)?)
    }

    fn boot_id(&self) -> Result<Option<BootId>, Invalid> {
        let name = self.name(BOOT_ID)?;
        let Some(text) = self.object.string(name)? else { return Ok(None) };
        let boot_id =
            BootId::parse(&text).ok_or_else(|| self.object.invalid(name, "must be 16 hex digits"))?;
        Ok(Some(boot_id))
    }

    /// Of two numbers one may be readable: what was used is counted all the same.
    fn usage(&self, problems: &mut Vec<Invalid>) -> Option<Usage> {
        let object = readable(self.object.object("usage"), problems)?;
        let fields = Fields { object: &object, contract: self.contract };
        let tokens = counted(readable(object.number("tokens"), problems));
        let dollars = readable(fields.number(COST_USD), problems);
        let microusd = counted(dollars.map(|dollars| dollars * 1_000_000.0));
        Some(Usage { tokens, microusd }).filter(|usage| *usage != Usage::NOTHING)
    }

    /// A field's name in this contract. The other contract's is refused.
    fn name(&self, (camel, snake): Spellings) -> Result<&'static str, Invalid> {
        let (name, other) = match self.contract {
            Contract::Envelope => (camel, snake),
            Contract::MissionControl => (snake, camel),
        };
        self.object.refuse_spellings(&[(other, name)])?;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn ack(contract: Contract, report: &str) -> (Option<i64>, Vec<String>) {
        let body = format!(r#"{{"report": {report}}}"#);
        let (report, problems) = read(&Object::parse(body.as_bytes()).unwrap(), contract, DAY);
        let version = report.and_then(|report| report.ack_directive);
        (version, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_no_version_acknowledges_nothing_and_only_a_wrong_type_is_a_problem() {
        let here = Contract::MissionControl;
        assert_eq!(ack(here, r#"{"ack_directive": 1764107662}"#), (Some(1_764_107_662), vec![]));
        assert_eq!(ack(here, r#"{"ack_directive": 1764107662.0}"#), (Some(1_764_107_662), vec![]));
        for nothing in ["null", "{}", r#"{"ack_directive": null}"#, r#"{"other": []}"#] {
            assert_eq!(ack(here, nothing), (None, vec![]), "{nothing}");
        }
        for invented in ["-1", "1.5", "1e300", "0"] {
            assert_eq!(ack(here, &format!(r#"{{"ack_directive": {invented}}}"#)), (Some(0), vec![]));
        }
        assert_eq!(ack(here, "[]").1, ["report: must be a JSON object"]);
        assert_eq!(ack(here, r#"{"ack_directive": "1"}"#).1, ["report.ack_directive: must be a number"]);
    }

    #[test]
    fn ages_and_promises_are_clamped() {
        let read = |field: &str, value: &str| {
            let body = format!(r#"{{"report": {{"{field}": {value}}}}}"#);
            read(&Object::parse(body.as_bytes()).unwrap(), Contract::MissionControl, DAY).0.unwrap()
        };
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        for (value, age) in [("12.3456", 12.345), ("-3", 0.0), ("1e300", 604_800.0), ("1e309", 604_800.0)] {
            assert_eq!(read("progress_age_seconds", value).progress_age, seconds(age), "{value}");
        }
        for (value, promise) in [("0", 0.0), ("14400", 14_400.0), ("86401", 86_400.0)] {
            assert_eq!(read("next_beat_in_seconds", value).next_beat_in, seconds(promise), "{value}");
        }
    }

    #[test]
    fn what_was_used_is_clamped_and_rounded_half_up() {
        let read = |usage: &str| {
            let body = format!(r#"{{"report": {{"usage": {usage}}}}}"#);
            usage_of(&body)
        };
        let used = |tokens, microusd| Some(Usage { tokens, microusd });
        for (said, usage) in [
            (r#"{"tokens": 18250, "cost_usd": 0.042}"#, used(18_250, 42_000)),
            (r#"{"tokens": 1.5}"#, used(2, 0)),
            (r#"{"cost_usd": 0.0000004}"#, None),
            (r#"{"cost_usd": 0.0000015}"#, used(0, 2)),
            (r#"{"tokens": -3, "cost_usd": 1e300}"#, used(0, MOST)),
            (r#"{"tokens": 1e309, "cost_usd": -1e309}"#, used(MOST, 0)),
            (r#"{"tokens": 1e13, "cost_usd": 1000000.01}"#, used(MOST, MOST)),
            (r#"{"tokens": 0, "cost_usd": 0}"#, None),
            ("{}", None),
            ("null", None),
        ] {
            assert_eq!(read(said), Ok(usage), "{said}");
        }
        assert_eq!(read("7"), Err("report.usage: must be a JSON object".to_owned()));
        assert_eq!(read(r#"{"tokens": "7"}"#), Err("report.usage.tokens: must be a number".to_owned()));
        let other = "report.usage.costUsd: is not read here: send cost_usd".to_owned();
        assert_eq!(read(r#"{"costUsd": 7}"#), Err(other));
    }

    fn usage_of(body: &str) -> Result<Option<Usage>, String> {
        let body = Object::parse(body.as_bytes()).unwrap();
        let (report, problems) = read(&body, Contract::MissionControl, DAY);
        let alone = usage(&body, Contract::MissionControl).map_err(|problem| problem.to_string());
        match problems.first() {
            Some(problem) => assert_eq!(alone, Err(problem.to_string())),
            None => assert_eq!(alone, Ok(report.unwrap().usage)),
        }
        alone
    }

    #[test]
    fn what_can_be_read_of_the_usage_is_counted_and_what_cannot_is_named() {
        let read = |usage: &str| {
            let body = format!(r#"{{"report": {{"usage": {usage}}}}}"#);
            let body = Object::parse(body.as_bytes()).unwrap();
            let (report, problems) = read(&body, Contract::MissionControl, DAY);
            (report.unwrap().usage, problems.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (tokens, dollars) =
            ("report.usage.tokens: must be a number", "report.usage.cost_usd: must be a number");
        for (usage, counted, problems) in [
            (
                r#"{"tokens": 1200, "cost_usd": "0.1"}"#,
                Some(Usage { tokens: 1_200, microusd: 0 }),
                vec![dollars],
            ),
            (
                r#"{"tokens": [], "cost_usd": 0.1}"#,
                Some(Usage { tokens: 0, microusd: 100_000 }),
                vec![tokens],
            ),
            (r#"{"tokens": [], "cost_usd": "0.1"}"#, None, vec![tokens, dollars]),
        ] {
            assert_eq!(read(usage), (counted, problems.iter().map(ToString::to_string).collect()), "{usage}");
        }
    }

    #[test]
    fn each_contract_has_its_spelling() {
        assert_eq!(ack(Contract::Envelope, r#"{"ackDirective": 7}"#).0, Some(7));
        let problems = ack(Contract::Envelope, r#"{"ack_directive": 7}"#).1;
        assert_eq!(problems, ["report.ack_directive: is not read here: send ackDirective"]);
    }
}
