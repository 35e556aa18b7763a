//! Sends a finished body to a receiver: once, without redirects or proxies, to an address that was judged before.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::date_time::Format;
use futures_util::future::BoxFuture;

use super::target::Target;
use crate::config::WebhookTargets;
use crate::domain::delivery::{ERROR_LIMIT, Outcome};
use crate::domain::public_address::is_public;
use crate::domain::rendering::is_seen;
use crate::time::Timestamp;

/// How long an attempt waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For all of it: looking up, connecting, sending, and the answer's status.
    pub attempt: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), attempt: Duration::from_secs(15) }
    }
}

/// How long the beginning of an answer may take after its status, which is what counts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that are read of an answer.
const ANSWER_LIMIT: usize = 1_024;

/// A piece of a URL's path that is at least so long is looked for in whatever is kept of an answer.
const PIECE: usize = 6;

/// Looks a host name up: every address that it has.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The machine's resolver.
fn machine(name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// Keeps of what a name resolves to the addresses that may be called. The connection is made to one of these: there is no
/// second look-up that could have another answer.
#[derive(Clone)]
struct Guard {
    allowed: WebhookTargets,
    lookup: Lookup,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// A name that stands for nothing that may be called.
#[derive(Debug, thiserror::Error)]
#[error("the name stands for no public address")]
struct NotPublic;

impl ResolveDns for Guard {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let mut found = (self.lookup)(name.to_owned()).await.map_err(ResolveDnsError::new)?;
            if self.allowed == WebhookTargets::Public {
                found.retain(|address| is_public(*address));
                if found.is_empty() {
                    return Err(ResolveDnsError::new(NotPublic));
                }
            }
            Ok(found)
        })
    }
}

/// Sends to receivers. Cheap until it is first used: reading the machine's roots takes longer than anything else in it.
pub struct Sender {
    allowed: WebhookTargets,
    patience: Patience,
    connector: LazyLock<Connector, Box<dyn FnOnce() -> Connector + Send + Sync>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Sender {
    /// A sender to what is `allowed`, which trusts whom the machine trusts.
    #[must_use]
    pub fn new(allowed: WebhookTargets, patience: Patience) -> Self {
        Self::over(allowed, patience, TrustStore::default(), Arc::new(machine))
    }

    /// The same, with these roots and this way to look names up.
    #[must_use]
    pub fn over(allowed: WebhookTargets, patience: Patience, roots: TrustStore, lookup: Lookup) -> Self {
        let connect = move || connector(roots, patience, Guard { allowed, lookup });
        Self { allowed, patience, connector: LazyLock::new(Box::new(connect)) }
    }

    /// Posts `body` to `url`, once. What comes of it is an outcome, whatever it is: an error's words have at most
    /// [`ERROR_LIMIT`] bytes, and none of them is the URL's path.
    pub async fn send(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
        now: Timestamp,
    ) -> Outcome {
        let target = match Target::parse(url, self.allowed) {
            Ok(target) => target,
            Err(problem) => return Outcome::Unanswered(format!("the URL {problem}")),
        };
        match tokio::time::timeout(self.patience.attempt, self.post(&target, headers, body, now)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(problem)) => Outcome::Unanswered(kept(&problem, &target)),
            Err(_) => Outcome::Unanswered(format!("no answer within {:?}", self.patience.attempt)),
        }
    }

    async fn post(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: String,
        now: Timestamp,
    ) -> Result<Outcome, String> {
        let mut request = http::Request::post(target.url())
            .header("content-type", "application/json")
            .header("user-agent", concat!("rollcall/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(SdkBody::from(body)).map_err(|error| error.to_string())?;
        let request = HttpRequest::try_from(request).map_err(|error| error.to_string())?;
        let answer = self.connector.call(request).await.map_err(|error| chain(&error))?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").and_then(|value| retry_after(value, now));
        let said = match status {
            200..=299 => None,
            _ => Some(kept(&beginning(answer.into_body()).await, target)),
        };
        Ok(Outcome::Answered { status, retry_after, said: said.filter(|said| !said.is_empty()) })
    }
}

/// A connector that keeps no connections: each attempt looks its receiver up and judges it anew, and nothing is sent
/// twice because an idle connection turned out to be dead.
fn connector(roots: TrustStore, patience: Patience, guard: Guard) -> Connector {
    let tls = TlsContext::builder().with_trust_store(roots).build();
    Connector::builder()
        .connector_settings(HttpConnectorSettings::builder().connect_timeout(patience.connect).build())
        .pool_max_idle_per_host(0)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls.expect("a context that was only put together"))
        .build_with_resolver(guard)
}

/// What a receiver asks to wait, in seconds or until a moment.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::from_str(value, Format::HttpDate).ok()?.to_millis().ok()?;
    Some(Timestamp::from_millis(until).since(now))
}

/// The beginning of an answer's body. What comes after it, or too late, is not read.
async fn beginning(body: SdkBody) -> String {
    let mut read = Vec::new();
    let reading = async {
        let mut body = ByteStream::new(body);
        while let Some(Ok(part)) = body.next().await {
            read.extend_from_slice(&part[..part.len().min(ANSWER_LIMIT - read.len())]);
            if read.len() == ANSWER_LIMIT {
                break;
            }
        }
    };
    let _late = tokio::time::timeout(ANSWER_TIMEOUT, reading).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// What is kept of a text that a receiver, or the way to it, caused: its beginning, on one line; nothing of it if it holds
/// a piece of the URL's path.
fn kept(text: &str, target: &Target) -> String {
    let path = target.url().path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default();
    let pieces = path.split(['/', '?', '&', '=']).filter(|piece| piece.len() >= PIECE);
    if pieces.into_iter().any(|piece| text.contains(piece)) {
        return String::new();
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept: String = line.chars().filter(|character| is_seen(*character)).collect();
    kept.truncate(kept.floor_char_boundary(ERROR_LIMIT));
    kept
}

/// An error and what caused it, in words.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By TLS these are no names, so they would fail for that reason; this is the guard's own answer.
    #[tokio::test]
    async fn a_name_that_the_resolver_reads_as_an_address_is_judged_as_that_address() {
        let guard = |allowed| Guard { allowed, lookup: Arc::new(machine) };
        for name in ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "017700000001", "0", "10.1", "2852039166"]
        {
            assert!(!guard(WebhookTargets::Any).resolve_dns(name).await.unwrap().is_empty(), "{name}");
            let refused = guard(WebhookTargets::Public).resolve_dns(name).await.unwrap_err();
            assert!(chain(&refused).ends_with("no public address"), "{name}: {refused}");
        }
        let one = guard(WebhookTargets::Public).resolve_dns("16843009").await.unwrap();
        assert_eq!(one, ["1.1.1.1".parse::<IpAddr>().unwrap()]);
    }
}
