//! TLS in front of a DynamoDB endpoint that speaks plain HTTP, with certificates made for the run.

#![allow(dead_code, reason = "every test binary includes this module and uses a part of it")]

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
pub struct TlsFront {
    /// `https://localhost:…`
    pub url: String,
    /// Whom its clients trust, as PEM: the authority that signed its certificate, and as many others as a function
    /// trusts on AWS.
    pub authorities: PathBuf,
    last_client: Arc<Mutex<Option<Instant>>>,
}

impl TlsFront {
    /// Puts TLS before `upstream`, a host and port; its authority's certificate goes into `folder`.
    pub async fn start(upstream: String, folder: &Path) -> Self {
        let (acceptor, authorities) = certificates(folder);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let last_client = Arc::new(Mutex::new(None));
        let connected = last_client.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                *connected.lock().expect("the last client") = Some(Instant::now());
                tokio::spawn(pass_on(client, acceptor.clone(), upstream.clone()));
            }
        });
        Self { url: format!("https://localhost:{port}"), authorities, last_client }
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

fn certificates(folder: &Path) -> (TlsAcceptor, PathBuf) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority of its own");
    let authority = params.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let chain = vec![certificate.der().clone(), authority.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits");

    let path = folder.join("authorities.pem");
    let amazons = include_str!("../../shared/src/store/amazon-roots.pem");
    std::fs::write(&path, authority.pem() + amazons).expect("a folder to write to");
    (TlsAcceptor::from(Arc::new(config)), path)
}
