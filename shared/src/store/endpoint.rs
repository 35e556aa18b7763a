//! Where DynamoDB is, and how it is reached: credentials, time limits, and whom to trust.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, Region, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use http::Uri;
use http::uri::InvalidUri;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::config::{ConfigError, env};

/// The AWS SDK's own time limits. The longest operation ends well inside the 10 s that the template gives an
/// HTTP function.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_500);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);
const ATTEMPTS: u32 = 3;

/// Lambda freezes an idle environment, and its connections die unnoticed; DynamoDB closes them after a minute.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(55);

/// How long the AWS SDK waits for DynamoDB.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For one sending.
    pub attempt: Duration,
    /// For an operation, all its sendings together.
    pub operation: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: CONNECT_TIMEOUT, attempt: ATTEMPT_TIMEOUT, operation: OPERATION_TIMEOUT }
    }
}

/// The roots of Amazon Trust Services, which sign AWS's public endpoints: <https://www.amazontrust.com/repository/>.
/// Reading the 140 roots of the machine's store takes longer than making all the rest of a client.
const AMAZON_ROOTS: &str = include_str!("amazon-roots.pem");

/// The beginnings of regions that have roots of their own.
const OTHER_ROOTS: [&str; 4] = ["cn-", "us-iso", "eu-iso", "eusc-"];

/// Whom a client trusts.
#[derive(Debug, PartialEq, Eq)]
enum Trust<'a> {
    /// The roots in this PEM.
    Roots(&'a str),
    /// Whom the machine trusts.
    Machine,
    /// Nobody: there is no TLS.
    Nobody,
}

/// Where DynamoDB is.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Another endpoint than AWS's own, as a URL. `AWS_ENDPOINT_URL_DYNAMODB`, else `AWS_ENDPOINT_URL`: the order of
    /// AWS's own SDKs, so that an emulator that sets the second for its functions reaches them.
    pub url: Option<String>,
    /// `AWS_REGION`.
    pub region: Option<String>,
    /// Fixed credentials for an engine that checks none; else the environment's.
    pub any_credentials: bool,
    /// Whom to trust, in PEM, instead of Amazon's roots or the machine's. The file that `AWS_CA_BUNDLE` names.
    pub ca_bundle: Option<String>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
}

impl Endpoint {
    /// What the function's environment says.
    ///
    /// # Errors
    /// The variable of the endpoint that counts is no URL of one. `AWS_CA_BUNDLE` names a file that cannot be read, or holds
    /// no certificate, or something else besides.
    pub fn from_env() -> Result<Self, ConfigError> {
        let url = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"].into_iter().find_map(|variable| {
            let url = endpoint_url(&env(variable)?);
            Some(url.map_err(|problem| ConfigError::new(variable, problem)))
        });
        Ok(Self {
            url: url.transpose()?,
            region: env("AWS_REGION"),
            any_credentials: false,
            ca_bundle: env("AWS_CA_BUNDLE").map(|path| certificates(&path)).transpose()?,
            timeouts: Timeouts::default(),
        })
    }

    /// A client for this endpoint. It connects with its first request.
    ///
    /// # Panics
    /// [`ca_bundle`](Self::ca_bundle) holds something else than certificates.
    #[must_use]
    pub fn client(self) -> Client {
        let trust = match self.trust() {
            Trust::Roots(pem) => TrustStore::empty().with_pem_certificate(pem),
            Trust::Machine => TrustStore::default(),
            Trust::Nobody => TrustStore::empty(),
        };
        let tls = TlsContext::builder().with_trust_store(trust).build();
        let http_client = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls.expect("a context that was only put together"))
            .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.timeouts.connect)
            .operation_attempt_timeout(self.timeouts.attempt)
            .operation_timeout(self.timeouts.operation)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(Duration::from_millis(50))
            .with_max_backoff(Duration::from_millis(500));
        let credentials = self.credentials();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(self.region.unwrap_or_else(|| "us-east-1".to_owned())))
            .credentials_provider(credentials)
            .http_client(http_client)
            .timeout_config(timeouts)
            .retry_config(retries)
            // It watches the throughput of long downloads. An answer of DynamoDB is short and read whole within its
            // attempt, whose time limit ends a stalled one as well.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let config = match self.url {
            Some(url) => config.endpoint_url(url),
            None => config,
        };
        Client::from_conf(config.build())
    }

    /// The credentials of a client for this endpoint.
    #[must_use]
    pub fn credentials(&self) -> SharedCredentialsProvider {
        if self.any_credentials {
            SharedCredentialsProvider::new(Credentials::new("rollcall", "rollcall", None, None, "any"))
        } else {
            SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
        }
    }

    fn trust(&self) -> Trust<'_> {
        let region = self.region.as_deref().unwrap_or_default();
        let has_other_roots = OTHER_ROOTS.iter().any(|other| region.starts_with(other));
        match (&self.ca_bundle, &self.url) {
            (_, Some(url)) if url.starts_with("http://") => Trust::Nobody,
            (Some(bundle), _) => Trust::Roots(bundle),
            (None, None) if !has_other_roots => Trust::Roots(AMAZON_ROOTS),
            (None, _) => Trust::Machine,
        }
    }
}

/// The URL of a DynamoDB endpoint. The AWS SDK would find out with each request, and write all of it into its error.
///
/// # Errors
/// What is wrong, in words that do not repeat the text: it may hold a password.
pub fn endpoint_url(text: &str) -> Result<String, String> {
    let url: Uri = text.parse().map_err(|error: InvalidUri| error.to_string())?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    let is_host_and_port = url.authority().is_some_and(|authority| {
        let host = authority.host();
        !host.is_empty() && (authority.as_str() == host || authority.port().is_some())
    });
    let has_password = text.contains('@');
    if is_http && is_host_and_port && !has_password && url.query().is_none() {
        Ok(text.to_owned())
    } else {
        Err("must be http:// or https://, a host, and a port if it is another than usual".to_owned())
    }
}

/// Reads a file of certificates in PEM.
fn certificates(path: &str) -> Result<String, ConfigError> {
    let broken = |problem: String| ConfigError::new("AWS_CA_BUNDLE", format!("{path}: {problem}"));
    let text = std::fs::read_to_string(path).map_err(|error| broken(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = certificates.map_err(|error| broken(error.to_string()))?;
    if certificates.is_empty() {
        return Err(broken("holds no certificate".to_owned()));
    }
    for certificate in &certificates {
        webpki::anchor_from_trusted_cert(certificate).map_err(|error| broken(error.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_region(region: &str) -> Endpoint {
        Endpoint { region: Some(region.to_owned()), ..Endpoint::default() }
    }

    #[test]
    fn an_endpoints_url_is_a_scheme_a_host_and_perhaps_a_port() {
        for url in
            ["http://127.0.0.1:8000", "https://localhost", "http://[::1]:8000/", "https://dynamodb.example/"]
        {
            assert_eq!(endpoint_url(url), Ok(url.to_owned()));
        }
        for (text, secret) in [
            ("", "~"),
            ("localhost:8000", "~"),
            ("127.0.0.1:8000", "~"),
            ("http://", "~"),
            ("http://:8000", "~"),
            ("http://a b", "~"),
            ("http://127.0.0.1:99999", "~"),
            ("http://127.0.0.1:1/?query", "~"),
            ("ftp://localhost", "~"),
            ("http://somebody:password@localhost:8000", "password"),
        ] {
            let problem = endpoint_url(text).expect_err(text);
            assert!(!problem.contains(secret), "{problem}");
        }
    }

    #[test]
    fn awss_public_endpoints_are_trusted_by_amazons_roots() {
        assert_eq!(CertificateDer::pem_slice_iter(AMAZON_ROOTS.as_bytes()).flatten().count(), 5);
        for region in ["us-east-1", "eu-central-1", "us-gov-west-1"] {
            assert_eq!(in_region(region).trust(), Trust::Roots(AMAZON_ROOTS), "{region}");
        }
    }

    #[test]
    fn other_endpoints_are_trusted_as_the_machine_does() {
        for region in ["cn-north-1", "us-isob-east-1", "eusc-de-east-1"] {
            assert_eq!(in_region(region).trust(), Trust::Machine, "{region}");
        }
        let elsewhere = |url: &str| Endpoint { url: Some(url.to_owned()), ..in_region("us-east-1") };
        assert_eq!(elsewhere("https://localhost").trust(), Trust::Machine);
        assert_eq!(elsewhere("http://localhost").trust(), Trust::Nobody);
        let bundle = |url: &str| Endpoint { ca_bundle: Some("a bundle".to_owned()), ..elsewhere(url) };
        assert_eq!(bundle("https://localhost").trust(), Trust::Roots("a bundle"));
        assert_eq!(bundle("http://localhost").trust(), Trust::Nobody);
    }
}
