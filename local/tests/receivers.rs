//! The receivers of docs/alerts.md verify what Rollcall sends, by Standard Webhooks' official libraries.
//!
//! `.ci/run` installs the libraries and says where: `ROLLCALL_TEST_PYTHON` is a Python that has its own,
//! `ROLLCALL_TEST_NODE_MODULES` a folder with Node's. Without them these tests say so and check nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use local::{Options, System};
use serde_json::{Value, json};
use shared::config::env;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a test waits for something that must happen, before it fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(1);

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.md"));

/// A secret of the receivers', and another.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The page's block in this language, as a file in a folder of the tests'.
fn program(language: &str, name: &str) -> PathBuf {
    let (_, after) = PAGE.split_once(&format!("```{language}\n")).expect("a block");
    let (block, _) = after.split_once("```").expect("its end");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, block).expect("a folder to write to");
    file
}

/// A running receiver of the page.
struct Receiver {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Receiver {
    async fn start(mut command: Command) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        command.env("SECRET", SECRET).env("PORT", port.to_string()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("an interpreter");
        let lines = BufReader::new(process.stdout.take().expect("a piped output")).lines();
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        patiently("a receiver that listens", listens).await;
        Self { _process: process, lines, url: format!("http://127.0.0.1:{port}/alerts") }
    }
}

/// What comes of a channel's greeting: the receiver's status and, if it takes it, the line that it prints.
async fn greet(receiver: &mut Receiver, secret: &str) -> (u64, Option<String>) {
    let parameters =
        [("Registration", "open"), ("Approval", "key"), ("WebhookTargets", "any"), ("CanaryUrl", "off")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let system =
        System::start(Options { parameters, ..Options::default() }).await.expect("the system starts");
    let minted =
        system.run_job("mint-token", r#"{"kind": "operator"}"#).await.expect("a job").expect("a token");
    let bearer = format!("Bearer {}", minted["token"].as_str().expect("a token"));
    let url = format!("http://{}/api/v1/channels", system.address());
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let body = json!({ "kind": "webhook", "url": receiver.url, "secret": secret });
    let made = http.post(&url).header("authorization", &bearer).json(&body).send().await.expect("an answer");
    let made: Value = made.json().await.expect("a channel");
    let url = format!("{url}/{}/deliveries", made["id"].as_str().expect("an id"));
    let attempted = async {
        loop {
            let page = http.get(&url).header("authorization", &bearer).send().await.expect("an answer");
            let page: Value = page.json().await.expect("deliveries");
            if let Some(status) = page["items"][0]["attempts"][0]["status"].as_u64() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let status = patiently("an attempt", attempted).await;
    let line = if status == 204 {
        patiently("a line", receiver.lines.next_line()).await.expect("text")
    } else {
        None
    };
    system.stop().await;
    (status, line)
}

async fn verifies(command: Command) {
    let mut receiver = Receiver::start(command).await;
    assert_eq!(greet(&mut receiver, OTHER).await, (400, None), "signed by somebody else");
    let (status, line) = greet(&mut receiver, SECRET).await;
    let line = line.expect("a line");
    assert!(status == 204 && line.starts_with("msg_") && line.contains(" channel.hello "), "{line}");
}

#[tokio::test]
async fn the_pages_receiver_in_python_takes_what_is_genuine_and_nothing_else() {
    let Some(python) = env("ROLLCALL_TEST_PYTHON") else {
        eprintln!("skipped: no Python with standardwebhooks");
        return;
    };
    let mut command = Command::new(python);
    command.arg(program("python", "receiver.py"));
    verifies(command).await;
}

#[tokio::test]
async fn the_pages_receiver_in_node_takes_what_is_genuine_and_nothing_else() {
    let Some(modules) = env("ROLLCALL_TEST_NODE_MODULES") else {
        eprintln!("skipped: no folder with Node's standardwebhooks");
        return;
    };
    // Node looks for a module beside the program that imports it.
    let file = Path::new(&modules).join("receiver.mjs");
    std::fs::copy(program("js", "receiver.mjs"), &file).expect("a folder to write to");
    let mut command = Command::new("node");
    command.arg(file);
    verifies(command).await;
}
