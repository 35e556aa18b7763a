//! TLS in front of a DynamoDB endpoint that speaks plain HTTP, with certificates made for the run.

#![allow(dead_code, reason = "the benches include this module too, and each of the two uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A loopback port that speaks TLS and passes everything on.
pub struct TlsProxy {
    /// `https://localhost:…`
    pub url: String,
    /// Whom its clients trust, as PEM: the root above its certificate, and those that a function trusts on AWS.
    pub ca_bundle: PathBuf,
    last_client: Arc<Mutex<Option<Instant>>>,
}

impl TlsProxy {
    /// Puts TLS before `upstream`, a host and port; the bundle of roots goes into `folder`.
    pub async fn start(upstream: String, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (acceptor, root) = certificates();
        let ca_bundle = folder.join(format!("roots-{port}.pem"));
        let amazons = include_str!("../../shared/src/store/amazon-roots.pem");
        std::fs::write(&ca_bundle, root + amazons).expect("a folder to write to");
        let last_client = Arc::new(Mutex::new(None));
        let connected = last_client.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                *connected.lock().expect("the last client") = Some(Instant::now());
                tokio::spawn(pass_on(client, acceptor.clone(), upstream.clone()));
            }
        });
        Self { url: format!("https://localhost:{port}"), ca_bundle, last_client }
    }

    /// When the last client connected, if one has since this was last asked.
    pub fn take_last_client(&self) -> Option<Instant> {
        self.last_client.lock().expect("the last client").take()
    }
}

async fn pass_on(client: TcpStream, acceptor: TlsAcceptor, upstream: String) {
    client.set_nodelay(true).ok();
    // A client that leaves is no failure here; one that does not get through reports it itself.
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    server.set_nodelay(true).ok();
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
}

/// A certificate for `localhost`, below an intermediate as AWS's are; and the root above them, as PEM.
fn certificates() -> (TlsAcceptor, String) {
    let new_key = || KeyPair::generate().expect("a key");
    let named = |name: &str, is_ca: IsCa| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let authority = |name: &str| named(name, IsCa::Ca(BasicConstraints::Unconstrained));

    let root_key = new_key();
    let root = authority("root").self_signed(&root_key).expect("a certificate");
    let root_issuer = Issuer::new(authority("root"), root_key);
    let intermediate_key = new_key();
    let intermediate =
        authority("intermediate").signed_by(&intermediate_key, &root_issuer).expect("a certificate");
    let intermediate_issuer = Issuer::new(authority("intermediate"), intermediate_key);
    let key = new_key();
    let certificate =
        named("localhost", IsCa::NoCa).signed_by(&key, &intermediate_issuer).expect("a certificate");

    let chain = vec![certificate.der().clone(), intermediate.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits");
    (TlsAcceptor::from(Arc::new(config)), root.pem())
}
