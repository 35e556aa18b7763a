//! The limits of callers that no agent's row counts: by address, and for rotations by agent.

use lambda_http::Request;
use lambda_http::RequestExt;
use lambda_http::request::RequestContext;

use super::app::App;
use crate::domain::agent::{Agent, AgentId};
use crate::domain::credential::ApiKey;
use crate::domain::rate_limit::{Counted, Policy, Quota};
use crate::domain::registration::Verification;
use crate::time::Timestamp;
use crate::wire::error::ApiError;
use crate::wire::source_address::source_address;

impl App {
    /// Counts a registration against its address.
    ///
    /// # Errors
    /// 429 over the limit, 503 without a database.
    pub async fn count_registration(&self, request: &Request, now: Timestamp) -> Result<Quota, ApiError> {
        let address = self.source_address(request);
        self.refuse_if_over_limit(&address, Policy::Registrations, now)?;
        self.count(&address, Policy::Registrations, *self.config.register_limit.get(), now).await
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
        let (agent_id, limit) = (agent.agent_id.to_string(), *self.config.rate_limit.get());
        let limit = agent.rate_limit.unwrap_or(limit);
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
        self.count(&address, Policy::FailedVerifications, *self.config.verify_failure_limit.get(), now).await
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
        match self.store.count_call(policy, address, limit, now).await? {
            Counted::Within(quota) => Ok(quota),
            Counted::Over(quota) => {
                self.refusals.address_over_limit(address, quota);
                Err(ApiError::rate_limited(quota))
            }
        }
    }

    fn source_address(&self, request: &Request) -> String {
        let context = request.request_context_ref();
        let source_ip = match context {
            Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.as_deref(),
            _ => None,
        };
        let trusted_header = self.config.trusted_address_header.get().as_deref();
        let trusted_hops = *self.config.trusted_proxy_hops.get();
        source_address(source_ip, request.headers(), trusted_header, trusted_hops)
    }
}
