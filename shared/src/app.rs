//! One function's environment: its configuration, its store, the refusals that it remembers; and the steps that
//! several endpoints take.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use lambda_http::http::HeaderMap;
use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};
use uuid::Uuid;

use crate::agent::Agent;
use crate::auth::{self, Denied};
use crate::config::{Config, ConfigError, env};
use crate::credential::ApiKey;
use crate::error::{ApiError, ErrorKind};
use crate::event::Actor;
use crate::rate_limit::{Policy, Quota};
use crate::refusals::{Refusals, Remembered};
use crate::source_address::source_address;
use crate::store::{Call, CheckIn, Endpoint, Store};
use crate::time::Timestamp;
use crate::token::TokenRow;

/// The longest that a request may take, races and retries together. The template gives every HTTP function more.
pub const REQUEST_BUDGET: Duration = Duration::from_secs(6);

const UNKNOWN_KEY: &str = "unknown API key";

/// Built once at cold start.
#[derive(Debug)]
pub struct App {
    /// What the template says.
    pub config: Config,
    /// DynamoDB.
    pub store: Store,
    refusals: Refusals,
}

impl App {
    /// The app of a function with this configuration.
    #[must_use]
    pub fn new(config: Config, client: Client) -> Self {
        let store = Store::new(client, &config);
        Self { config, store, refusals: Refusals::default() }
    }

    /// The app that the function's environment describes.
    ///
    /// # Errors
    /// The environment is incomplete or broken.
    pub fn from_env() -> Result<Self, ConfigError> {
        Ok(Self::new(Config::read(env)?, Endpoint::from_env().client()))
    }

    /// Authenticates, rate limits and renews the lease of the agent with this key.
    ///
    /// # Errors
    /// 401 for an unknown key or an agent that is not active, 429 over the limit, 503 without a database.
    pub async fn check_in(
        &self,
        key: &ApiKey,
        call: Call,
        now: Timestamp,
    ) -> Result<(Box<Agent>, Quota), ApiError> {
        let digest = key.digest();
        match self.refusals.of_key(&digest, call.policy(), now) {
            Some(Remembered::OverLimit(quota)) => return Err(ApiError::rate_limited(quota)),
            Some(Remembered::Unknown) => return Err(ErrorKind::Unauthorized(UNKNOWN_KEY).into()),
            None => {}
        }
        match self.store.check_in(key, call, now).await? {
            CheckIn::Accepted(agent, quota) => Ok((agent, quota)),
            CheckIn::Inactive(state) => Err(ErrorKind::Inactive(state).into()),
            CheckIn::UnknownKey => {
                self.refusals.unknown_key(&digest, now);
                Err(ErrorKind::Unauthorized(UNKNOWN_KEY).into())
            }
            CheckIn::OverLimit(quota) => {
                self.refusals.key_over_limit(&digest, quota);
                Err(ApiError::rate_limited(quota))
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

    /// Refuses an address whose verifications failed too often in this window, as far as this environment knows.
    ///
    /// # Errors
    /// 429 over the limit.
    pub fn refuse_guessing(&self, request: &Request, now: Timestamp) -> Result<(), ApiError> {
        self.refuse_if_over_limit(&self.source_address(request), Policy::FailedVerifications, now)
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
        self.refusals
            .of_address(address, policy, now)
            .map_or(Ok(()), |quota| Err(ApiError::rate_limited(quota)))
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

    /// The operator who is calling: one read.
    ///
    /// # Errors
    /// 401 without a valid operator token, 403 with a credential of another kind, 503 without a database.
    pub async fn operator(&self, headers: &HeaderMap, now: Timestamp) -> Result<Actor, ApiError> {
        let token = auth::operator_token(headers)?;
        match self.store.token(&token).await? {
            Some(row) if row.is_valid(now) => Ok(Actor::Operator(row.token_id)),
            _ => Err(ErrorKind::Unauthorized("unknown or expired operator token").into()),
        }
    }

    /// The enrollment token that lets an agent in to this board: one read.
    ///
    /// # Errors
    /// 401 without a valid enrollment token, 403 if it is for another board or for another kind of call, 503
    /// without a database.
    pub async fn enrollment(
        &self,
        headers: &HeaderMap,
        board_id: Option<Uuid>,
        now: Timestamp,
    ) -> Result<TokenRow, ApiError> {
        let token = auth::enrollment_token(headers).map_err(|denied| match denied {
            Denied::Missing => ErrorKind::Unauthorized("an enrollment token is required in X-Agent-Token"),
            denied => denied.into(),
        })?;
        let row = self.store.token(&token).await?;
        let row = row
            .filter(|row| row.is_valid(now))
            .ok_or(ErrorKind::Unauthorized("unknown or expired enrollment token"))?;
        if row.board_id.is_some() && row.board_id != board_id {
            return Err(ErrorKind::Forbidden("the enrollment token is for another board").into());
        }
        if !row.reusable && row.used_by.is_some() {
            return Err(ErrorKind::Unauthorized(TOKEN_USED_UP).into());
        }
        Ok(row)
    }
}

/// Said of a one-off token that has let in its agent.
pub const TOKEN_USED_UP: &str = "the enrollment token is used up";
