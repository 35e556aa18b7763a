//! One function's environment: its configuration, its store, what it remembers; and the steps that several
//! endpoints take.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use lambda_http::http::HeaderMap;
use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};
use tracing::warn;
use uuid::Uuid;

use crate::config::{Config, ConfigError, env};
use crate::domain::agent::{Agent, AgentId, AgentState};
use crate::domain::credential::{ApiKey, Credential, Token, TokenKind};
use crate::domain::event::{Actor, EventIds};
use crate::domain::rate_limit::{Policy, Quota};
use crate::domain::token::TokenRow;
use crate::runtime::refusal_cache::{Refusals, Remembered};
use crate::runtime::token_cache::TokenMemory;
use crate::store::{Call, Caller, Changed, CheckIn, Endpoint, Store, Verification};
use crate::time::Timestamp;
use crate::wire::credentials::{self, Denied};
use crate::wire::error::{ApiError, ErrorKind, Invalid};
use crate::wire::source_address::source_address;

/// The longest that a request may take, races and retries together. The template gives every HTTP function more.
pub const REQUEST_BUDGET: Duration = Duration::from_secs(6);

const UNKNOWN_KEY: ErrorKind = ErrorKind::Unauthorized("unknown API key");
/// There is no agent with this id.
pub const NO_SUCH_AGENT: ErrorKind = ErrorKind::NotFound("no such agent");

/// Built once at cold start.
#[derive(Debug)]
pub struct App {
    /// What the template says.
    pub config: Config,
    /// DynamoDB.
    pub store: Store,
    /// The longest that a request may take: [`REQUEST_BUDGET`], unless a host knows better.
    pub request_budget: Duration,
    refusals: Refusals,
    enrollment_tokens: TokenMemory,
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
            refusals: Refusals::default(),
            enrollment_tokens: TokenMemory::default(),
        }
    }

    /// The app that the function's environment describes.
    ///
    /// # Errors
    /// The environment is incomplete or broken.
    pub fn from_env() -> Result<Self, ConfigError> {
        Ok(Self::new(Config::read(env)?, Endpoint::from_env()?.client(), EventIds::default()))
    }

    /// Authenticates, rate limits and renews the lease of the agent that is there.
    ///
    /// # Errors
    /// Without such an agent 401 for a key and 404 for an operator's path; 401 or 403 for one that is not
    /// active, 403 in another namespace, 429 over the limit, 503 without a database.
    pub async fn check_in(
        &self,
        caller: &Caller,
        call: Call,
        now: Timestamp,
    ) -> Result<(Box<Agent>, Quota), ApiError> {
        let checked_in = self.check_in_if_known(caller, call, now).await?;
        checked_in.ok_or_else(|| match caller {
            Caller::Key(_) => UNKNOWN_KEY.into(),
            Caller::Namespace { .. } | Caller::Operator { .. } => NO_SUCH_AGENT.into(),
        })
    }

    /// The same, where `None` says that there is no such agent.
    ///
    /// # Errors
    /// As [`App::check_in`].
    pub async fn check_in_if_known(
        &self,
        caller: &Caller,
        call: Call,
        now: Timestamp,
    ) -> Result<Option<(Box<Agent>, Quota)>, ApiError> {
        match self.refusals.of_caller(caller, call.policy(), now) {
            Some(Remembered::OverLimit(quota)) => return Err(ApiError::rate_limited(quota)),
            Some(Remembered::Unknown) => return Ok(None),
            None => {}
        }
        match self.store.check_in(caller, call, now).await? {
            CheckIn::Accepted(agent, quota) => Ok(Some((agent, quota))),
            CheckIn::Inactive(state) => Err(ErrorKind::Inactive(state).into()),
            CheckIn::Foreign => Err(ErrorKind::Forbidden("the agent belongs to another namespace").into()),
            CheckIn::OverLimit(quota) => {
                self.refusals.over_limit(caller, quota);
                Err(ApiError::rate_limited(quota))
            }
            CheckIn::Unknown => {
                if let Caller::Key(key) = caller {
                    self.refusals.unknown_key(key, now);
                }
                Ok(None)
            }
        }
    }

    /// Counts a registration against its address.
    ///
    /// # Errors
    /// 429 over the limit, 503 without a database.
    pub async fn count_registration(&self, request: &Request, now: Timestamp) -> Result<Quota, ApiError> {
        let address = self.source_address(request);
        self.refuse_if_over_limit(&address, Policy::Registrations, now)?;
        self.count(&address, Policy::Registrations, self.config.register_limit, now).await
    }

    /// Refuses an unknown key from an address whose verifications failed too often in this window, as far as this
    /// environment knows: one read. Nobody's failures lock out the good keys of their neighbours.
    ///
    /// # Errors
    /// 429 over the limit, 503 without a database.
    pub async fn refuse_guessing(
        &self,
        request: &Request,
        key: &ApiKey,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let address = self.source_address(request);
        let Err(refused) = self.refuse_if_over_limit(&address, Policy::FailedVerifications, now) else {
            return Ok(());
        };
        let agent = self.store.agent(AgentId::of_key(key), now).await?;
        match Verification::of(agent.as_ref(), key, now) {
            Verification::UnknownKey => Err(refused),
            Verification::Active(_) | Verification::Inactive(_) => Ok(()),
        }
    }

    /// Counts a rotation that an agent makes for itself, by its id: each one leaves an event.
    ///
    /// # Errors
    /// 429 over the limit, 503 without a database.
    pub async fn count_rotation(&self, agent: &Agent, now: Timestamp) -> Result<Quota, ApiError> {
        let (agent_id, limit) = (agent.agent_id.to_string(), self.config.rate_limit);
        let limit = agent.rate_limit_per_minute.unwrap_or(limit);
        self.refuse_if_over_limit(&agent_id, Policy::Rotations, now)?;
        self.count(&agent_id, Policy::Rotations, limit, now).await
    }

    /// Counts a failed verification against its address.
    ///
    /// # Errors
    /// 429 over the limit, 503 without a database.
    pub async fn count_failed_verification(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Quota, ApiError> {
        let address = self.source_address(request);
        self.count(&address, Policy::FailedVerifications, self.config.verify_failure_limit, now).await
    }

    fn refuse_if_over_limit(&self, address: &str, policy: Policy, now: Timestamp) -> Result<(), ApiError> {
        let refused = self.refusals.of_address(address, policy, now);
        refused.map_or(Ok(()), |quota| Err(ApiError::rate_limited(quota)))
    }

    async fn count(
        &self,
        address: &str,
        policy: Policy,
        limit: u32,
        now: Timestamp,
    ) -> Result<Quota, ApiError> {
        self.store.count_call(policy, address, limit, now).await?.map_err(|quota| {
            self.refusals.address_over_limit(address, quota);
            ApiError::rate_limited(quota)
        })
    }

    fn source_address(&self, request: &Request) -> String {
        let context = request.request_context_ref();
        let source_ip = match context {
            Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.as_deref(),
            _ => None,
        };
        source_address(source_ip, request.headers(), self.config.trusted_proxy_hops)
    }

    /// The operator who is calling, by `Authorization: Bearer`: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 without a valid operator token, 403 with a credential of another kind, 503 without a database.
    pub async fn operator(&self, headers: &HeaderMap, now: Timestamp) -> Result<Actor, ApiError> {
        self.operator_of(&credentials::operator_token(headers)?, now).await
    }

    async fn operator_of(&self, token: &Token, now: Timestamp) -> Result<Actor, ApiError> {
        Ok(Actor::Operator(self.operator_row(token, now).await?.token_id))
    }

    /// The row of a valid operator token, whose use is noted: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 if the token is unknown, expired or deleted, 503 without a database.
    pub async fn operator_row(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.approver(token, now).await?;
        self.note_use(&row, false, now).await;
        Ok(row)
    }

    /// The row of a valid operator token: one read. Its use is not noted.
    ///
    /// # Errors
    /// 401 if the token is unknown, expired or deleted, 503 without a database.
    pub async fn approver(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.store.token(token).await?;
        let row = row.filter(|row| row.token_kind == TokenKind::Operator && row.is_valid(now));
        row.ok_or_else(|| ErrorKind::Unauthorized("unknown or expired operator token").into())
    }

    /// Notes a token's use. The request that used it does not fail for this.
    pub async fn note_use(&self, row: &TokenRow, created: bool, now: Timestamp) {
        if let Err(error) = self.store.note_token_use(row, created, now).await {
            warn!(cause = %error, token_id = %row.token_id, "a token's use was not noted");
        }
    }

    /// The agent whose key this is, by a read that renews nothing and is not counted.
    ///
    /// # Errors
    /// 401 for an unknown key, 401 or 403 for an agent that is not active, 503 without a database.
    pub async fn agent_of_key(&self, key: &ApiKey, now: Timestamp) -> Result<Agent, ApiError> {
        match self.store.agent(AgentId::of_key(key), now).await? {
            Some(agent) if !agent.accepts(&key.digest(), now) => Err(UNKNOWN_KEY.into()),
            None => Err(UNKNOWN_KEY.into()),
            Some(agent) if agent.agent_state != AgentState::Active => {
                Err(ErrorKind::Inactive(agent.agent_state).into())
            }
            Some(agent) => Ok(agent),
        }
    }

    /// An agent that must exist.
    ///
    /// # Errors
    /// 404 if it does not, 503 without a database.
    pub async fn existing(&self, agent_id: AgentId, now: Timestamp) -> Result<Agent, ApiError> {
        self.store.agent(agent_id, now).await?.ok_or_else(|| NO_SUCH_AGENT.into())
    }

    /// The agent of a path, for an operator or for the agent itself.
    ///
    /// # Errors
    /// 401 without a valid credential, 422 for a path without a UUID, 404 without such an agent, 403 for
    /// another agent or kind of credential, 503 without a database.
    pub async fn readable_agent(
        &self,
        headers: &HeaderMap,
        agent_id: impl FnOnce() -> Result<AgentId, Invalid>,
        now: Timestamp,
    ) -> Result<Agent, ApiError> {
        match credentials::credential(headers)? {
            Credential::Token(token) if token.kind() == TokenKind::Operator => {
                self.operator_of(&token, now).await?;
                self.existing(agent_id()?, now).await
            }
            Credential::Token(_) => Err(Denied::WrongKind.into()),
            Credential::Agent(key) => {
                let agent = self.agent_of_key(&key, now).await?;
                self.only_itself(&agent, agent_id()?, now).await?;
                Ok(agent)
            }
        }
    }

    /// Refuses an agent that means another one.
    ///
    /// # Errors
    /// 404 if there is no such other, else 403; 503 without a database.
    pub async fn only_itself(&self, agent: &Agent, meant: AgentId, now: Timestamp) -> Result<(), ApiError> {
        if agent.agent_id == meant {
            return Ok(());
        }
        self.existing(meant, now).await?;
        Err(ErrorKind::Forbidden("this key is another agent's").into())
    }

    /// The row of the enrollment token that lets an agent in to this board: one read.
    ///
    /// # Errors
    /// 401 for an unknown, expired or used-up token, 403 if it is for another board, 503 without a database.
    pub async fn enrollment(
        &self,
        token: &Token,
        board_id: Option<Uuid>,
        now: Timestamp,
    ) -> Result<TokenRow, ApiError> {
        let row = self.fresh_enrollment_token(token).await?;
        row.admit(board_id)?;
        match row.bars_creation(None, now) {
            Some(why) => Err(ErrorKind::Unauthorized(why).into()),
            None => Ok(row),
        }
    }

    /// The row of an enrollment token: one read, remembered for at most a minute.
    ///
    /// # Errors
    /// 401 if the token is unknown or deleted, 503 without a database.
    pub async fn enrollment_token(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        if let Some(row) = self.enrollment_tokens.recall(token, now) {
            return Ok(row);
        }
        let row = self.fresh_enrollment_token(token).await?;
        self.note_use(&row, false, now).await;
        self.enrollment_tokens.remember(token, &row, now);
        Ok(row)
    }

    /// The same, as it is now: creation is decided by nothing older.
    ///
    /// # Errors
    /// As [`App::enrollment_token`].
    pub async fn fresh_enrollment_token(&self, token: &Token) -> Result<TokenRow, ApiError> {
        let row = self.store.token(token).await?;
        row.ok_or_else(|| ErrorKind::Unauthorized("unknown enrollment token").into())
    }
}

/// What a change came to, as an answer.
///
/// # Errors
/// 404 without such an agent, 409 if its state does not allow it or somebody else was faster.
pub fn done<T>(changed: Changed<T>) -> Result<T, ErrorKind> {
    match changed {
        Changed::Done(done) => Ok(done),
        Changed::NoSuchAgent => Err(NO_SUCH_AGENT),
        Changed::Refused(why) => Err(ErrorKind::Conflict(why)),
        Changed::Overtaken => Err(ErrorKind::Conflict("somebody else changed the agent at the same time")),
    }
}
