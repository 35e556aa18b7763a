//! The two wire contracts. One domain core serves both; the path says which one a request speaks.

use std::time::Duration;

use lambda_http::Request;

use super::{envelope, mission_control, requests};
use crate::domain::agent::{AgentId, BadHeartbeatConfig, HeartbeatConfig};
use crate::domain::credential::{ApiKey, Credential};
use crate::store::Claim;
use crate::time::Timestamp;
use crate::wire::answer::Outcome;
use crate::wire::error::{ApiError, ErrorKind, Invalid};
use crate::wire::json::{Json, Object};

/// A heartbeat's credential, and what it says once the credential is known to be good.
#[derive(Debug)]
pub struct Heartbeat {
    /// Who beats.
    pub credential: Credential,
    /// The agent that the path names, where it names one.
    pub agent_id: Option<Result<AgentId, Invalid>>,
    /// What the body claims.
    pub claim: Result<Claim, Invalid>,
}

/// A call for a new key.
#[derive(Debug)]
pub enum Rotation<'a> {
    /// By the agent itself.
    Own {
        /// Its current key.
        key: ApiKey,
        /// How long that stays valid.
        overlap: Duration,
    },
    /// By an operator; the body is read once the operator is known.
    ByOperator {
        /// The body.
        body: Json<'a>,
    },
}

/// A wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// `/api/agents/*`: `{ok, data | error}` in camelCase.
    Envelope,
    /// `/api/v1/*`: Mission Control's shapes in `snake_case`.
    MissionControl,
}

/// The longest overlap of a rotation, and the one without a word, in seconds.
const LONGEST_OVERLAP: u64 = 86_400;
const DEFAULT_OVERLAP: u64 = 300;

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

/// A heartbeat configuration, whose halves each contract names in its own way.
pub(crate) fn heartbeat_config(
    config: &Object<'_>,
    interval: &'static str,
    tolerance: &'static str,
) -> Result<HeartbeatConfig, Invalid> {
    let checked =
        HeartbeatConfig::from_seconds(config.whole_number(interval)?, config.whole_number(tolerance)?);
    checked.map_err(|bad| {
        let field = match bad {
            BadHeartbeatConfig::Interval => interval,
            BadHeartbeatConfig::Tolerance => tolerance,
        };
        config.invalid(field, bad.rule())
    })
}

impl Contract {
    /// The contract of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path == "/api/v1" || path.starts_with("/api/v1/") { Self::MissionControl } else { Self::Envelope }
    }

    /// Reads a heartbeat, as this contract sends it.
    ///
    /// # Errors
    /// 401 without a credential, 400 or 422 for a body that this contract does not take.
    pub fn heartbeat(self, request: &Request) -> Result<Heartbeat, ApiError> {
        match self {
            Self::Envelope => envelope::heartbeat(request),
            Self::MissionControl => Ok(requests::heartbeat(request)?),
        }
    }

    /// Reads a rotation, as this contract sends it.
    ///
    /// # Errors
    /// 401 without a credential, 400 or 422 for a body that this contract does not take.
    pub fn rotation(self, request: &Request) -> Result<Rotation<'_>, ApiError> {
        match self {
            Self::Envelope => envelope::rotation(request),
            Self::MissionControl => Ok(Rotation::ByOperator { body: requests::json(request)? }),
        }
    }

    /// The body of a success.
    ///
    /// # Errors
    /// A bug: what was stored does not encode.
    pub fn encode(self, outcome: &Outcome, now: Timestamp) -> serde_json::Result<String> {
        match self {
            Self::Envelope => envelope::encode(outcome, now),
            Self::MissionControl => mission_control::encode(outcome, now),
        }
    }

    /// The status of a refusal.
    #[must_use]
    pub const fn status(self, error: &ErrorKind) -> u16 {
        match self {
            Self::Envelope => error.in_envelope().0,
            Self::MissionControl => error.in_mission_control(),
        }
    }

    /// The body of a refusal.
    ///
    /// # Errors
    /// A bug: strings always encode.
    pub fn encode_error(self, error: &ErrorKind, request_id: &str) -> serde_json::Result<String> {
        match self {
            Self::Envelope => envelope::encode_error(error),
            Self::MissionControl => mission_control::encode_error(error, request_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_which_contract_a_request_speaks() {
        assert_eq!(Contract::of("/api/v1/agents"), Contract::MissionControl);
        for path in ["/api/agents/register", "/api/v10/agents", "/health", "/", ""] {
            assert_eq!(Contract::of(path), Contract::Envelope, "{path}");
        }
    }
}
