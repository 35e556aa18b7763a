//! The two wire contracts. One domain core serves both; the path says which one a request speaks.

use super::error::ErrorKind;
use super::{envelope, mission_control};

/// A wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// `/api/agents/*`: `{ok, data | error}` in camelCase.
    Envelope,
    /// `/api/v1/*`: Mission Control's shapes in `snake_case`.
    MissionControl,
}

impl Contract {
    /// The contract of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path == "/api/v1" || path.starts_with("/api/v1/") { Self::MissionControl } else { Self::Envelope }
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
