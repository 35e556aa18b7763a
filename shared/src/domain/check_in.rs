//! Checking in: what a heartbeat or an event asks of an agent's row, and what comes of it.

use super::agent::{Agent, AgentId, AgentState};
use super::credential::ApiKey;
use super::event::Actor;
use super::heartbeat::Health;
use super::ids::NamespaceId;
use super::rate_limit::{Policy, Quota};
use super::report::Report;
use super::spend::Usage;
use crate::time::Timestamp;

/// What a heartbeat says of the agent's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthReport {
    /// Nothing: the health stays, but not across an announced absence.
    Keep,
    /// `online`: the agent takes back what it said.
    Withdraw,
    /// The agent says this.
    Report(Health),
}

/// What checks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A heartbeat.
    Heartbeat {
        /// What the agent says of its health.
        health: HealthReport,
        /// What it says besides.
        report: Report,
    },
    /// Any other call that renews the lease.
    Event {
        /// What was used, as in a heartbeat's report.
        usage: Option<Usage>,
    },
}

impl Call {
    /// The limit that the call counts against.
    #[must_use]
    pub const fn policy(self) -> Policy {
        match self {
            Self::Heartbeat { .. } => Policy::Heartbeats,
            Self::Event { .. } => Policy::Events,
        }
    }

    /// What the call says of the agent's health.
    #[must_use]
    pub const fn health(self) -> HealthReport {
        match self {
            Self::Heartbeat { health, .. } => health,
            Self::Event { .. } => HealthReport::Keep,
        }
    }

    /// A heartbeat that says this of the agent's health, and reports nothing.
    #[must_use]
    pub fn heartbeat(health: HealthReport) -> Self {
        Self::Heartbeat { health, report: Report::default() }
    }

    /// What the call reports.
    #[must_use]
    pub fn report(self) -> Report {
        match self {
            Self::Heartbeat { report, .. } => report,
            Self::Event { usage } => Report { usage, ..Report::default() },
        }
    }

    /// Whether the agent says that it goes.
    #[must_use]
    pub const fn says_offline(self) -> bool {
        matches!(self.health(), HealthReport::Report(Health::Offline))
    }
}

/// Who checks in, and by what right.
#[derive(Clone, Debug)]
pub enum Caller {
    /// An agent, by its API key.
    Key(ApiKey),
    /// An agent that was created by heartbeat, by a credential of its namespace.
    Namespace {
        /// The agent that the heartbeat's name addresses.
        agent_id: AgentId,
        /// The credential's namespace. The row must have the same.
        namespace: NamespaceId,
        /// Whoever holds the credential.
        actor: Actor,
    },
    /// Any agent, by an operator.
    Operator {
        /// The agent that the path names.
        agent_id: AgentId,
        /// The operator.
        actor: Actor,
        /// Whether the operator passes on a report of the agent: then the heartbeat counts like the agent's own.
        reports: bool,
    },
}

impl Caller {
    /// The row that the call addresses: with a key always the key's own.
    #[must_use]
    pub fn agent_id(&self) -> AgentId {
        match self {
            Self::Key(key) => AgentId::of_key(key),
            Self::Namespace { agent_id, .. } | Self::Operator { agent_id, .. } => *agent_id,
        }
    }

    /// Who an event names as its cause.
    #[must_use]
    pub const fn actor(&self) -> Actor {
        match self {
            Self::Key(_) => Actor::Agent,
            Self::Namespace { actor, .. } | Self::Operator { actor, .. } => *actor,
        }
    }

    /// Whether the call says what the agent has to say: an operator's does so with a report alone.
    #[must_use]
    pub const fn speaks_for_agent(&self) -> bool {
        !matches!(self, Self::Operator { reports: false, .. })
    }

    /// Why the caller has no right to this row, if so.
    #[must_use]
    pub fn refusal(&self, agent: &Agent, now: Timestamp) -> Option<CheckIn> {
        match self {
            Self::Key(key) if !agent.accepts(&key.digest(), now) => Some(CheckIn::Unknown),
            Self::Namespace { namespace, .. } if agent.namespace_id != Some(*namespace) => {
                Some(CheckIn::Foreign)
            }
            _ => None,
        }
    }
}

/// The outcome of a check-in.
#[derive(Debug)]
pub enum CheckIn {
    /// The call came too late to keep what it promised: it is to be sent again.
    Overtaken,
    /// The lease is renewed. The row as it is now.
    Accepted(Box<Agent>, Quota),
    /// There is no such agent, or none with this key.
    Unknown,
    /// The agent belongs to another namespace.
    Foreign,
    /// The agent is pending or revoked.
    Inactive(AgentState),
    /// Over the limit of this window.
    OverLimit(Quota),
}
