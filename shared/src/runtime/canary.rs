//! The canary's heartbeat: a real one, through the URL that the agents call.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use tokio::time::timeout;

use super::app::App;
use crate::domain::canary;
use crate::domain::credential::ApiKey;
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// The longest that the canary's heartbeat may take, in all.
const PATIENCE: Duration = Duration::from_secs(3);

/// The canary of this environment. Its key exists in this memory only.
#[derive(Debug, Default)]
pub struct Canary {
    key: OnceLock<ApiKey>,
    is_known: AtomicBool,
    connector: OnceLock<Connector>,
}

impl App {
    /// Sends the canary's heartbeat: whether it was answered, by this code and not by something before it. `None` if there
    /// is no canary.
    ///
    /// # Errors
    /// The canary's row cannot be written.
    pub async fn canary_is_heard(&self, now: Timestamp) -> Result<Option<bool>, StoreError> {
        let Some(url) = self.config.canary_url.get() else { return Ok(None) };
        let key = self.canary.key.get_or_init(canary::key);
        if !self.canary.is_known.load(Ordering::Relaxed) {
            self.store.put_canary(&canary::row(key, now)).await?;
        }
        let answer = timeout(PATIENCE, self.canary.heartbeat(url, key)).await.ok().flatten();
        // Another environment's canary has taken the row: it is written again with the next sweep.
        self.canary.is_known.store(answer == Some(200), Ordering::Relaxed);
        Ok(Some(answer.is_some_and(|status| status < 500 && status != 429)))
    }
}

impl Canary {
    /// The status of an answer of our own code, which is JSON and has a request id.
    async fn heartbeat(&self, url: &str, key: &ApiKey) -> Option<u16> {
        let request = http::Request::post(format!("{url}/api/agents/heartbeat"))
            .header("content-type", "application/json")
            .header("x-agent-token", key.reveal())
            .body(r#"{"status":"healthy"}"#.into())
            .ok()?;
        let connector = self
            .connector
            .get_or_init(|| Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build());
        let answer = connector.call(HttpRequest::try_from(request).ok()?).await.ok()?;
        let header = |name: &str| answer.headers().get(name).unwrap_or_default();
        let is_ours =
            header("content-type").starts_with("application/json") && !header("x-request-id").is_empty();
        is_ours.then(|| answer.status().as_u16())
    }
}
