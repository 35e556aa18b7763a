//! What an endpoint answers, before a wire contract encodes it.

use uuid::Uuid;

use crate::domain::agent::{Agent, AgentId};
use crate::domain::credential::ApiKey;
use crate::domain::event::Posting;
use crate::domain::rate_limit::Quota;
use crate::domain::token::{MintedToken, TokenRow};
use crate::domain::workspace::Workspace;
use crate::store::EventPage;
use crate::wire::error::ErrorKind;

/// What came of a request, as a domain value.
#[derive(Debug)]
pub enum Outcome {
    /// An agent as it is now: after a heartbeat, a change, or as it was read.
    Agent(Box<Agent>),
    /// An agent with a new key: the one moment at which the key can be shown.
    WithKey(Box<Agent>, ApiKey, Option<Workspace>),
    /// The agent is active.
    Verified(AgentId),
    /// What Mission Control's clients ask of themselves.
    AgentHealth(Box<Agent>),
    /// A list of agents.
    Agents(AgentList),
    /// What the agent has used.
    Usage(Box<Agent>),
    /// The agent's files.
    Workspace(Workspace),
    /// One event was stored.
    Posted(Posting, Uuid),
    /// A batch of events, each stored or refused, in order.
    PostedBatch(Vec<Result<Uuid, ErrorKind>>),
    /// What happened to an agent.
    Events(EventPage),
    /// A new token: the one moment at which it can be shown.
    Minted(MintedToken),
    /// Every token, without what is secret of it.
    Tokens(Vec<TokenRow>),
    /// It is done, or the service is there.
    Done,
    /// A browser may ask; the gateway says what. 204, without a body.
    Preflight,
}

/// A list of agents, newest first.
#[derive(Debug)]
pub struct AgentList {
    /// The agents of this page.
    pub agents: Vec<Agent>,
    /// How many a page holds at most.
    pub limit: usize,
    /// How the pages are told apart.
    pub paging: Paging,
}

/// How the pages of a list are told apart.
#[derive(Debug)]
pub enum Paging {
    /// By how many agents come before, of how many.
    Offset {
        /// Before this page.
        offset: usize,
        /// In all.
        total: usize,
    },
    /// By where the next page begins; `None` at the end.
    Cursor(Option<String>),
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
