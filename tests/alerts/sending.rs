//! What sends to receivers: whom it calls, what it follows and what it reads. Receivers are real servers.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_http_client::tls::TrustStore;
use hyper::Response;
use hyper::body::Bytes;
use shared::config::WebhookTargets::{self, Any, Public};
use shared::domain::delivery::Outcome;
use shared::wire::sender::{Lookup, Patience, Sender};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::loopback::{LoopbackServer, patiently, whole};
use crate::support::tls::TlsProxy;
use crate::support::{PATIENT, START};

/// No test is decided by a busy machine.
const PATIENCE: Patience = Patience { connect: PATIENT.connect, attempt: PATIENT.attempt };

/// A look-up that answers each time with the next of these, and at last again and again with the last; and how often it
/// was asked.
fn answering(answers: &[&[Ipv4Addr]]) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let answers: Vec<Vec<IpAddr>> =
        answers.iter().map(|answer| answer.iter().copied().map(IpAddr::V4).collect()).collect();
    let counted = asked.clone();
    let lookup = move |_name| {
        let place = counted.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        let answer = answers[place].clone();
        Box::pin(async move { Ok(answer) }) as futures_util::future::BoxFuture<'static, _>
    };
    (Arc::new(lookup), asked)
}

fn sender(allowed: WebhookTargets, answers: &[&[Ipv4Addr]]) -> (Sender, Arc<AtomicUsize>) {
    let (lookup, asked) = answering(answers);
    (Sender::over(allowed, PATIENCE, TrustStore::empty(), lookup), asked)
}

async fn send(sender: &Sender, url: &str) -> Outcome {
    sender.send(url, &[("webhook-id", "msg_1".to_owned())], "{}".to_owned(), START).await
}

/// A receiver that counts its requests and answers with `status` and these headers.
async fn receiver(
    status: u16,
    headers: &'static [(&str, &str)],
    body: &'static str,
) -> (LoopbackServer, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let server = LoopbackServer::start(move |_request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(whole(body)).expect("an answer");
        async move { Ok(response) }
    })
    .await;
    (server, hits)
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None, said: None }
}

#[tokio::test]
async fn a_receiver_below_a_private_root_is_reached_by_who_trusts_that_root() {
    let got: Arc<Mutex<Vec<(String, Bytes)>>> = Arc::default();
    let noted = got.clone();
    let server = LoopbackServer::start(move |request| {
        let id = request.headers()["webhook-id"].to_str().expect("text").to_owned();
        noted.lock().expect("what came").push((id, request.body().clone()));
        async move { Ok(Response::builder().status(204).body(whole("")).expect("an answer")) }
    })
    .await;
    let tls = TlsProxy::start(server.address().to_string(), Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let roots = std::fs::read(&tls.ca_bundle).expect("the roots");
    let (lookup, _) = answering(&[&[Ipv4Addr::LOCALHOST]]);
    let trusting =
        Sender::over(Any, PATIENCE, TrustStore::empty().with_pem_certificate(roots), lookup.clone());
    assert_eq!(send(&trusting, &tls.url).await, answered(204));
    assert_eq!(*got.lock().expect("what came"), [("msg_1".to_owned(), Bytes::from("{}"))]);
    let distrusting = Sender::over(Any, PATIENCE, TrustStore::empty(), lookup);
    let Outcome::Unanswered(problem) = send(&distrusting, &tls.url).await else { panic!("no trust") };
    assert!(problem.contains("invalid peer certificate: UnknownIssuer"), "{problem}");
    assert_eq!(got.lock().expect("what came").len(), 1);
}

/// Spellings of addresses that are not public; some are literals, some become addresses in the resolver.
const SPELLINGS: [&str; 62] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "0x7F.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "0.0",
    "0x0",
    "00.0.0.0",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "ip6-localhost",
    "localhost.localdomain",
    "10.0.0.1",
    "10.1",
    "0xa000001",
    "167772161",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.1",
    "0300.0250.0.1",
    "3232235521",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:db8::1]",
    "[2001::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[ff02::1]",
];

#[tokio::test]
async fn no_spelling_of_a_private_address_is_connected_to() {
    // Of both versions where there are both, so that nothing on this machine takes a connection unnoticed.
    let listener = match TcpListener::bind("[::]:0").await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("0.0.0.0:0").await.expect("a free port"),
    };
    let port = listener.local_addr().expect("an address").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let trap = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    let sender = Sender::new(Public, PATIENCE);
    for spelling in SPELLINGS {
        let url = format!("https://{spelling}:{port}/secret-path");
        let Outcome::Unanswered(problem) = send(&sender, &url).await else { panic!("{spelling} answered") };
        // Of a host that ends with digits and is no address, TLS itself says that it is no name.
        let refused = [
            "must be a public address",
            "stands for no public address",
            "failed to lookup",
            "invalid dns name",
        ];
        assert!(refused.iter().any(|words| problem.contains(words)), "{spelling}: {problem}");
        assert!(!problem.contains("secret-path"), "{problem}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    let open = Sender::new(Any, PATIENCE);
    send(&open, &format!("https://127.0.0.1:{port}/")).await;
    assert_eq!(connections.load(Ordering::Relaxed), 1, "the trap is one");
    trap.abort();
}

#[tokio::test]
async fn the_spellings_do_reach_this_machine_without_the_guard() {
    let (server, hits) = receiver(200, &[], "").await;
    let sender = Sender::new(Any, PATIENCE);
    for spelling in ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"] {
        let url = format!("http://{spelling}:{}/", server.address().port());
        assert_eq!(send(&sender, &url).await, answered(200), "{spelling}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_an_attempt_and_what_was_vetted_is_connected_to() {
    let (first, first_hits) = receiver(200, &[], "").await;
    let port = first.address().port();
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let second = TcpListener::bind((elsewhere, port)).await.expect("the port on another address");
    let (sender, asked) = sender(Any, &[&[Ipv4Addr::LOCALHOST], &[elsewhere]]);
    let url = format!("http://rebinding.example:{port}/");
    assert_eq!(send(&sender, &url).await, answered(200));
    assert_eq!((asked.load(Ordering::Relaxed), first_hits.load(Ordering::Relaxed)), (1, 1));
    let arrives = async {
        let (mut stream, _) = second.accept().await.expect("a connection");
        let mut request = [0; 1024];
        let _some = stream.read(&mut request).await.expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
    };
    let arrives = patiently("a connection to the other address", arrives);
    let (outcome, ()) = tokio::join!(send(&sender, &url), arrives);
    assert_eq!(outcome, answered(204), "each attempt looks anew, and keeps no connection");
    assert_eq!((asked.load(Ordering::Relaxed), first_hits.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test]
async fn of_a_names_addresses_only_public_ones_are_left() {
    let (server, hits) = receiver(200, &[], "").await;
    let url = format!("https://mixed.example:{}/", server.address().port());
    let private = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254)];
    let (sender, asked) = sender(Public, &[&private, &[Ipv4Addr::LOCALHOST], &[]]);
    for _ in 0..3 {
        let Outcome::Unanswered(problem) = send(&sender, &url).await else { panic!("answered") };
        assert!(problem.ends_with("the name stands for no public address"), "{problem}");
    }
    assert_eq!((asked.load(Ordering::Relaxed), hits.load(Ordering::Relaxed)), (3, 0));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (elsewhere, hits) = receiver(200, &[], "").await;
    let location: &'static str = format!("http://{}/", elsewhere.address()).leak();
    for status in [301, 302, 303, 307, 308] {
        let headers: &'static [(&str, &str)] = vec![("location", location)].leak();
        let (server, _) = receiver(status, headers, "").await;
        let sender = Sender::new(Any, PATIENCE);
        assert_eq!(send(&sender, &format!("http://{}/", server.address())).await, answered(status));
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_receiver_says_how_long_to_wait_in_seconds_or_by_a_moment() {
    let sender = Sender::new(Any, PATIENCE);
    for (value, expected) in [
        ("120", Some(120)),
        ("Thu, 01 Jan 2037 00:10:30 GMT", Some(600)),
        ("Wed, 31 Dec 2036 00:10:30 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        let headers: &'static [(&str, &str)] = vec![("retry-after", value)].leak();
        let (server, _) = receiver(503, headers, "").await;
        let outcome = send(&sender, &format!("http://{}/", server.address())).await;
        let retry_after = expected.map(Duration::from_secs);
        assert_eq!(outcome, Outcome::Answered { status: 503, retry_after, said: None }, "{value}");
    }
}

#[tokio::test]
async fn of_a_refusal_its_beginning_is_kept_on_one_line_without_the_path() {
    let sender = Sender::new(Any, PATIENCE);
    let said = async |body: &'static str| {
        let (server, _) = receiver(400, &[], body).await;
        match send(&sender, &format!("http://{}/services/T0SECRET?token=abcdefgh", server.address())).await {
            Outcome::Answered { status: 400, said, .. } => said,
            outcome => panic!("{outcome:?}"),
        }
    };
    assert_eq!(said("invalid_payload\r\n\u{1b}[31mred").await.as_deref(), Some("invalid_payload [31mred"));
    assert_eq!(
        said("\u{202e}live\u{200b}").await.as_deref(),
        Some("live"),
        "nothing that turns what stands beside it"
    );
    assert_eq!(said("").await, None);
    assert_eq!(said("no such hook: T0SECRET").await, None);
    assert_eq!(said("no such token: abcdefgh").await, None);
    assert_eq!(said("é".repeat(3_000).leak()).await.map(|said| said.len()), Some(200));
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let written = Arc::new(AtomicUsize::new(0));
    let counted = written.clone();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 1024];
        let _some = stream.read(&mut request).await.expect("a request");
        stream.write_all(b"HTTP/1.1 500 Broken\r\ncontent-length: 1000000000\r\n\r\n").await.expect("a head");
        while stream.write_all(&[b'x'; 8_192]).await.is_ok() {
            counted.fetch_add(8_192, Ordering::Relaxed);
        }
    });
    let outcome = send(&Sender::new(Any, PATIENCE), &url).await;
    let said = Some("x".repeat(200));
    assert_eq!(outcome, Outcome::Answered { status: 500, retry_after: None, said });
    server.await.expect("a receiver whose client left");
    assert!(written.load(Ordering::Relaxed) < 100_000_000);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_left_in_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/secret-path", listener.local_addr().expect("an address"));
    let patience = Patience { attempt: Duration::from_millis(50), ..PATIENCE };
    assert_eq!(
        send(&Sender::new(Any, patience), &url).await,
        Outcome::Unanswered("no answer within 50ms".to_owned())
    );
    drop(listener);
    let Outcome::Unanswered(problem) = send(&Sender::new(Any, PATIENCE), &url).await else {
        panic!("answered")
    };
    assert!(problem.contains("Connection refused") && !problem.contains("secret-path"), "{problem}");
}
