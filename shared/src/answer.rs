//! What an endpoint answers, before a wire contract encodes it.

use uuid::Uuid;

use crate::agent::{Agent, AgentId};
use crate::credential::ApiKey;
use crate::error::ErrorKind;
use crate::event::Posting;
use crate::rate_limit::Quota;

/// What came of a request, as a domain value.
#[derive(Debug)]
pub enum Outcome {
    /// An agent registered. The one moment at which its key can be shown.
    Registered(Box<Agent>, ApiKey),
    /// The agent is active.
    Verified(AgentId),
    /// A heartbeat was accepted; the row as it is now.
    Beaten(Box<Agent>),
    /// One event was stored.
    Posted(Posting, Uuid),
    /// A batch of events, each stored or refused, in order.
    PostedBatch(Vec<Result<Uuid, ErrorKind>>),
    /// The service is there.
    Healthy,
    /// A browser may ask; the gateway says what. 204, without a body.
    Preflight,
}

/// An outcome, with the caller's quota if the request was counted.
#[derive(Debug)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
    /// Where the caller stands in its window.
    pub quota: Option<Quota>,
}

impl Answer {
    /// The answer to a request that was counted.
    #[must_use]
    pub const fn counted(outcome: Outcome, quota: Quota) -> Self {
        Self { outcome, quota: Some(quota) }
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, quota: None }
    }
}
