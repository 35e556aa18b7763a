//! One exchange with Rollcall: one deadline for all of it, no more of an answer than is expected, no redirects.

use std::fmt;
use std::io::Read as _;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::http::{Method, Request, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Error};

use crate::environment::{self, Secret};
use crate::text::visible;

/// What an exchange may take in all, from the look-up of the host to the last byte of the answer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The longest pause that an answer may ask for.
const RETRY_AFTER_MOST: Duration = Duration::from_hours(1);

/// What is read of an answer to a heartbeat.
const HEARTBEAT_BYTES: u64 = 64 * 1024;

/// What is read of any other answer: a page of events with their payloads has megabytes.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Where Rollcall is.
#[derive(Clone)]
pub struct Client {
    base: String,
    /// It is on this machine.
    is_local: bool,
    /// Made by the first call: reading the machine's certificates takes a while.
    agent: Arc<OnceLock<Agent>>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    /// How long to stay away; zero if the answer does not say.
    pub retry_after: Duration,
    /// Null if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// What Rollcall says of a refusal, in either contract; none if it was not Rollcall.
    pub fn message(&self) -> Option<String> {
        let detail = match &self.body["detail"] {
            Value::Array(problems) => {
                let problems = problems.iter().filter_map(|problem| {
                    let place = problem["loc"].as_array()?.iter().skip(1).filter_map(Value::as_str);
                    let place = place.collect::<Vec<_>>().join(".");
                    Some(format!("{place}: {}", problem["msg"].as_str()?))
                });
                Some(problems.collect::<Vec<_>>().join("; "))
            }
            detail => detail.as_str().map(str::to_owned),
        };
        let message = detail.or_else(|| self.body["error"]["message"].as_str().map(str::to_owned));
        message.map(|text| visible(&text, 300))
    }

    /// The status, and what Rollcall says of it.
    pub fn problem(&self) -> String {
        self.message().map_or_else(
            || format!("HTTP {}, and not from Rollcall", self.status),
            |message| format!("HTTP {}: {message}", self.status),
        )
    }
}

/// No whole answer, and why.
#[derive(Debug)]
pub struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// Of a base URL, with or without a slash at its end.
    ///
    /// # Errors
    /// It is no URL of HTTP, it holds a user's name, or it would send secrets in the clear over a network.
    pub fn new(url: &str, insecure_http: bool) -> Result<Self, String> {
        let base = url.trim().trim_end_matches('/').to_owned();
        let form = "must be http:// or https://, a host and maybe a path, without a user's name";
        let uri: Uri = base.parse().map_err(|_| format!("{}: {form}", environment::URL))?;
        let host = uri.host().unwrap_or_default();
        let with_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_web || host.is_empty() || with_user || uri.query().is_some() {
            return Err(format!("{}: {form}", environment::URL));
        }
        let is_local = is_loopback(host);
        if uri.scheme_str() == Some("http") && !is_local && !insecure_http {
            let host = visible(host, 100);
            return Err(format!(
                "{}: http://{host} would show keys and tokens to the network: use https, or --insecure-http",
                environment::URL
            ));
        }
        Ok(Self { base, is_local, agent: Arc::default() })
    }

    /// What [`environment::URL`] names, or where `cargo run` listens.
    ///
    /// # Errors
    /// As [`new`](Self::new), or the variable cannot be read.
    pub fn from_environment(insecure_http: bool) -> Result<Self, String> {
        let url = environment::text(environment::URL)?;
        Self::new(url.as_deref().unwrap_or(environment::DEFAULT_URL), insecure_http)
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// An agent's call: little is read of its answer.
    ///
    /// # Errors
    /// There was no whole answer within `deadline`.
    pub fn post(
        &self,
        path: &str,
        bearer: Option<&Secret>,
        body: &Value,
        deadline: Duration,
    ) -> Result<Answer, Lost> {
        let request = self.request(&Method::POST, path, bearer, body.to_string())?;
        self.exchange(request, deadline, HEARTBEAT_BYTES)
    }

    /// An operator's call.
    ///
    /// # Errors
    /// There was no whole answer within [`DEADLINE`].
    pub fn call(
        &self,
        method: &Method,
        path: &str,
        bearer: &Secret,
        body: Option<&Value>,
    ) -> Result<Answer, Lost> {
        match body {
            Some(body) => {
                let request = self.request(method, path, Some(bearer), body.to_string())?;
                self.exchange(request, DEADLINE, ANSWER_BYTES)
            }
            None => self.exchange(self.request(method, path, Some(bearer), ())?, DEADLINE, ANSWER_BYTES),
        }
    }

    fn request<B: AsSendBody>(
        &self,
        method: &Method,
        path: &str,
        bearer: Option<&Secret>,
        body: B,
    ) -> Result<Request<B>, Lost> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        request = request.header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {}", bearer.reveal()));
        }
        // The HTTP library's own error might repeat the secret.
        request.body(body).map_err(|_| Lost("the key or token has a character that none has".to_owned()))
    }

    fn exchange(
        &self,
        request: Request<impl AsSendBody>,
        deadline: Duration,
        answer_bytes: u64,
    ) -> Result<Answer, Lost> {
        let agent = self.agent.get_or_init(|| agent(self.is_local));
        let request = agent.configure_request(request).timeout_global(Some(deadline)).build();
        let mut answer = agent.run(request).map_err(|error| lost(&error, deadline))?;
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map_or(Duration::ZERO, |value| wait(value, environment::now()));
        let status = answer.status().as_u16();
        let mut text = Vec::new();
        let mut reader = answer.body_mut().as_reader().take(answer_bytes + 1);
        reader.read_to_end(&mut text).map_err(|error| lost(&Error::from(error), deadline))?;
        if text.len() as u64 > answer_bytes {
            return Err(Lost(format!("the answer is longer than {answer_bytes} bytes")));
        }
        Ok(Answer { status, retry_after, body: serde_json::from_slice(&text).unwrap_or_default() })
    }
}

/// HTTP by way of the environment's proxies, but for what is on this machine: a proxy would have it in the clear. No redirect
/// is followed: the key is for this host alone. No connection is kept: between two heartbeats it would be closed by one of
/// the two, and the next one be lost.
fn agent(is_local: bool) -> Agent {
    let tls = TlsConfig::builder();
    let tls = tls.unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = Agent::config_builder()
        .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .tls_config(tls.root_certs(machines_certificates()).build());
    let config = if is_local { config.proxy(None) } else { config };
    config.build().into()
}

/// The certificates that this machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` count.
fn machines_certificates() -> RootCerts {
    let found = rustls_native_certs::load_native_certs().certs;
    let certificates = found.iter().map(|der| Certificate::from_der(der).to_owned());
    RootCerts::Specific(Arc::new(certificates.collect()))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn lost(error: &Error, deadline: Duration) -> Lost {
    Lost(match error {
        Error::Timeout(_) => format!("no whole answer within {} s", deadline.as_secs_f32()),
        error => visible(&error.to_string(), 300),
    })
}

/// A `Retry-After`, a number of seconds or a date, from now on.
fn wait(retry_after: &str, now: SystemTime) -> Duration {
    let retry_after = retry_after.trim();
    let is_number = !retry_after.is_empty() && retry_after.bytes().all(|byte| byte.is_ascii_digit());
    // A number that is too large for one is one all the same.
    let seconds = is_number.then(|| retry_after.parse().map_or(RETRY_AFTER_MOST, Duration::from_secs));
    let date = || {
        let date = OffsetDateTime::parse(retry_after, &Rfc2822).ok()?;
        SystemTime::from(date).duration_since(now).ok()
    };
    seconds.or_else(date).unwrap_or_default().min(RETRY_AFTER_MOST)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Client, wait};

    #[test]
    fn a_pause_is_a_number_or_a_date_and_an_hour_at_most() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        assert_eq!(wait("7", now), Duration::from_secs(7));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", now), Duration::from_secs(90));
        assert_eq!(wait("Sun, 06 Nov 1994 08:40:37 GMT", now), Duration::ZERO);
        assert_eq!(wait("soon", now), Duration::ZERO);
        assert_eq!(wait("86400", now), Duration::from_hours(1));
        assert_eq!(wait("99999999999999999999999", now), Duration::from_hours(1));
        assert_eq!((wait("-7", now), wait("", now)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn secrets_go_in_the_clear_to_this_machine_alone() {
        let said = |url, insecure| Client::new(url, insecure).map(|client| client.base().to_owned());
        assert_eq!(said("http://127.0.0.1:3000/", false).unwrap(), "http://127.0.0.1:3000");
        assert_eq!(said("http://[::1]:3000", false).unwrap(), "http://[::1]:3000");
        assert_eq!(said("https://rollcall.example/prod/", false).unwrap(), "https://rollcall.example/prod");
        assert!(said("http://rollcall.example", false).unwrap_err().contains("--insecure-http"));
        assert!(said("http://rollcall.example", true).is_ok());
        for wrong in
            ["ftp://a", "rollcall.example", "https://me@rollcall.example", "", "https://", "https://a?b"]
        {
            assert!(said(wrong, true).is_err(), "{wrong}");
        }
    }
}
