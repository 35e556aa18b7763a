//! One function's environment: its configuration, its store, and what it remembers.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use uuid::Uuid;

use super::canary::Canary;
use super::refusal_cache::RefusalCache;
use super::token_cache::TokenCache;
use crate::config::{Config, ConfigError, Setting, env};
use crate::domain::event::EventIds;
use crate::store::{Endpoint, Store};
use crate::wire::sender::{Patience, Sender};

/// The longest that a request may take, races and retries together. The template gives every HTTP function more.
pub const REQUEST_BUDGET: Duration = Duration::from_secs(6);

/// The namespace of the ids of gateways.
const GATEWAYS: Uuid = Uuid::from_u128(0x6f0c_3d57_8a1e_4b72_9c35_51d2_7f86_e0a4);

/// Built once at cold start.
#[derive(Debug)]
pub struct App {
    /// What the template says.
    pub config: Config,
    /// DynamoDB.
    pub store: Store,
    /// The longest that a request may take: [`REQUEST_BUDGET`], unless a host knows better.
    pub request_budget: Duration,
    /// Where a job's metrics go: standard output, from where Lambda takes them, unless a host knows better.
    pub metrics: fn(&str),
    /// How long an attempt to deliver waits for its receiver.
    pub patience: Patience,
    sender: OnceLock<Sender>,
    pub(super) canary: Canary,
    pub(super) refusals: RefusalCache,
    pub(super) enrollment_tokens: TokenCache,
}

impl App {
    /// The app of a function with this configuration. A host of several functions lets them share the client and
    /// the source of event ids.
    #[must_use]
    pub fn new(config: Config, client: Client, event_ids: EventIds) -> Self {
        let store = Store::new(client, &config, event_ids);
        Self {
            config,
            store,
            request_budget: REQUEST_BUDGET,
            metrics: print_line,
            patience: Patience::default(),
            sender: OnceLock::new(),
            canary: Canary::default(),
            refusals: RefusalCache::default(),
            enrollment_tokens: TokenCache::default(),
        }
    }

    /// The app that the function's environment describes.
    ///
    /// # Errors
    /// The environment is incomplete or broken.
    pub fn from_env(reads: &[Setting]) -> Result<Self, ConfigError> {
        Ok(Self::new(Config::read(reads, env)?, Endpoint::from_env()?.client(), EventIds::default()))
    }

    /// What sends to channels' receivers, made when it is first used.
    pub fn sender(&self) -> &Sender {
        self.sender.get_or_init(|| Sender::new(*self.config.webhook_targets.get(), self.patience))
    }

    /// This deployment as Mission Control's clients see it: the gateway of all its agents. Always the same UUID, made of
    /// the name of the agents' table, which no other deployment has.
    #[must_use]
    pub fn gateway_id(&self) -> Uuid {
        Uuid::new_v5(&GATEWAYS, self.config.tables.agents.get().as_bytes())
    }
}

/// A reader that has gone must not end the job.
fn print_line(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}
