//! What both contracts read alike: names, health, heartbeat configurations, ids in paths, and the query string.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use lambda_http::Request;
use uuid::Uuid;

use super::error::{ErrorKind, Invalid};
use super::json::{Json, Object};
use super::route::path_parameter;
use crate::domain::agent::{AgentId, AgentName};
use crate::domain::check_in::HealthReport;
use crate::domain::heartbeat::{BadHeartbeatConfig, Health, HeartbeatConfig};

/// The longest overlap of a rotation, and the one without a word, in seconds.
const LONGEST_OVERLAP: u64 = 86_400;
const DEFAULT_OVERLAP: u64 = 300;

/// The body's syntax: it is judged before the credential, what it says after.
///
/// # Errors
/// The body is neither empty nor JSON.
pub fn json(request: &Request) -> Result<Json<'_>, ErrorKind> {
    Json::parse(request.body())
}

/// The agent that the path names by `{agent_id}`.
///
/// # Errors
/// It is not a UUID.
pub fn agent_id(request: &Request) -> Result<AgentId, Invalid> {
    let id = AgentId::parse(&path_parameter(request, "agent_id"));
    id.ok_or_else(|| Invalid::new("agent_id", "must be a UUID").in_path())
}

/// The thing that the path names by `{id}`.
///
/// # Errors
/// It is not a UUID.
pub fn id(request: &Request) -> Result<Uuid, Invalid> {
    let id = Uuid::parse_str(&path_parameter(request, "id"));
    id.map_err(|_| Invalid::new("id", "must be a UUID").in_path())
}

/// What a heartbeat of Mission Control's contract says of the agent's health: `status`, or nothing.
///
/// # Errors
/// `status` is not one of the words.
pub fn health(body: &Object<'_>) -> Result<HealthReport, Invalid> {
    match body.string("status")?.as_deref() {
        None => Ok(HealthReport::Keep),
        Some("online") => Ok(HealthReport::Withdraw),
        Some(status) => Health::parse(status).map(HealthReport::Report).ok_or_else(|| {
            body.invalid("status", "must be one of online, healthy, degraded, error, offline")
        }),
    }
}

/// What a heartbeat in the envelope says of the agent's health: `status`, which it must say.
///
/// # Errors
/// `status` is missing, or not one of the words.
pub fn health_in_envelope(body: &Object<'_>) -> Result<HealthReport, Invalid> {
    let status = body.string("status")?.ok_or_else(|| body.invalid("status", "is required"))?;
    let health = Health::parse(&status);
    let health =
        health.ok_or_else(|| body.invalid("status", "must be one of healthy, degraded, error, offline"))?;
    Ok(HealthReport::Report(health))
}

/// An agent's `name`, if it is there.
///
/// # Errors
/// It breaks a rule of names.
pub fn name(body: &Object<'_>) -> Result<Option<AgentName>, Invalid> {
    let name = body.string("name")?;
    name.map(|name| AgentName::parse(&name).map_err(|problem| body.invalid("name", problem))).transpose()
}

/// The error for a body without a name, where one is needed.
#[must_use]
pub fn name_is_required() -> Invalid {
    Invalid::new("name", "is required")
}

/// `heartbeat_config` of Mission Control's contract; `None` if it is not there, or holds no key that is known here.
///
/// Mission Control's own form is `{"every": "10m", "target", "includeReasoning"}`: `every` is the interval, unless
/// `interval_seconds` says it.
///
/// # Errors
/// Names the part that breaks its rule.
pub fn heartbeat_config(body: &Object<'_>) -> Result<Option<HeartbeatConfig>, Invalid> {
    let Some(config) = body.object("heartbeat_config")? else { return Ok(None) };
    config.refuse_spellings(&[
        ("intervalSeconds", "interval_seconds"),
        ("missingTolerance", "missing_tolerance"),
    ])?;
    let every = match config.string("every")? {
        None => None,
        Some(text) => {
            Some(seconds(&text).ok_or_else(|| config.invalid("every", "must be as 30s, 10m or 1h"))?)
        }
    };
    let interval = config.whole_number("interval_seconds")?;
    let tolerance = config.whole_number("missing_tolerance")?;
    if interval.or(tolerance).or(every).is_none() {
        return Ok(None);
    }
    let names = (
        if interval.is_none() && every.is_some() { "every" } else { "interval_seconds" },
        "missing_tolerance",
    );
    checked(&config, names, interval.or(every), tolerance).map(Some)
}

/// The whole seconds of a duration such as `30s`, `10m` or `1h`.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return None,
    };
    let number: u64 = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
    number.checked_mul(unit)
}

/// `heartbeatConfig` of the envelope; the defaults if it is not there.
///
/// # Errors
/// Names the half that breaks its rule.
pub fn heartbeat_config_in_envelope(body: &Object<'_>) -> Result<HeartbeatConfig, Invalid> {
    let Some(config) = body.object("heartbeatConfig")? else { return Ok(HeartbeatConfig::default()) };
    config.refuse_spellings(&[
        ("interval_seconds", "intervalSeconds"),
        ("missing_tolerance", "missingTolerance"),
    ])?;
    let names = ("intervalSeconds", "missingTolerance");
    checked(&config, names, config.whole_number(names.0)?, config.whole_number(names.1)?)
}

/// A heartbeat configuration in seconds, whose halves each contract names in its own way.
fn checked(
    config: &Object<'_>,
    (interval_name, tolerance_name): (&str, &str),
    interval: Option<u64>,
    tolerance: Option<u64>,
) -> Result<HeartbeatConfig, Invalid> {
    HeartbeatConfig::from_seconds(interval, tolerance).map_err(|bad| {
        let name = match bad {
            BadHeartbeatConfig::Interval => interval_name,
            BadHeartbeatConfig::Tolerance => tolerance_name,
        };
        config.invalid(name, bad.rule())
    })
}

/// How long a rotated key stays valid: `overlap_seconds`, or `overlapSeconds` in the envelope.
///
/// # Errors
/// It is not 0 to 86,400.
pub fn overlap(body: &Object<'_>, field: &str) -> Result<Duration, Invalid> {
    match body.whole_number(field)?.unwrap_or(DEFAULT_OVERLAP) {
        seconds if seconds <= LONGEST_OVERLAP => Ok(Duration::from_secs(seconds)),
        _ => Err(body.invalid(field, "must be 0 to 86400 seconds")),
    }
}

/// The query string, each name once: the last one counts.
pub struct Query(HashMap<String, String>);

impl Query {
    /// The request's query string.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// A parameter as it was sent.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter that is a whole number from `least` to `most`.
    ///
    /// # Errors
    /// It is something else.
    pub fn count(&self, name: &'static str, least: usize, most: usize) -> Result<Option<usize>, Invalid> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(count) if (least..=most).contains(&count) => Ok(Some(count)),
            _ => Err(invalid_query(name, format!("must be a whole number from {least} to {most}"))),
        }
    }

    /// A parameter that is `true` or `false`; without it, false.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &'static str) -> Result<bool, Invalid> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid_query(name, "must be true or false")),
        }
    }

    /// A parameter that is a UUID.
    ///
    /// # Errors
    /// It is something else.
    pub fn uuid(&self, name: &'static str) -> Result<Option<Uuid>, Invalid> {
        let text = self.text(name);
        text.map(|text| Uuid::parse_str(text).map_err(|_| invalid_query(name, "must be a UUID"))).transpose()
    }
}

/// An error about a parameter of the query string.
pub fn invalid_query(name: &'static str, problem: impl Into<Cow<'static, str>>) -> Invalid {
    Invalid::new(name, problem).in_query()
}
