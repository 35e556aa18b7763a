//! The `rollcall-local` executable as a user runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use local::{Database, Options, System};
use serde_json::{Value, json};
use shared::store::Endpoint;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

/// How long a test waits for something that must happen, before it fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(1);

async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Asks again and again until there is an answer.
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    patiently(what, asking).await
}

/// An empty folder of a test's own, and the folder in which its processes run. It goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("what an earlier process of this id left");
        }
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names of what is in it.
    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).expect("the folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-local"));
        command.args(arguments).current_dir(&self.0).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs what must not start: its exit status, and its only line on standard error.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = patiently("a refusal", self.command(arguments).output()).await.expect("an executable");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!output.status.success(), "{arguments:?} succeeded: {stdout}{stderr}");
        assert_eq!(output.status.signal_or_code(), "code 1", "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        stderr.trim_end().to_owned()
    }

    /// Starts the executable on a free port; it keeps its data here unless `arguments` say otherwise.
    async fn start(&self, arguments: &[&str]) -> Rollcall {
        let mut command = self.command(&["--port", "0"]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("an executable");
        let stdout = child.stdout.take().expect("a piped output");
        let mut run = Rollcall { child, stdout: None, greeting: Vec::new(), http: reqwest::Client::new() };
        let mut lines = BufReader::new(stdout).lines();
        while run.greeting.last().is_none_or(|line| line != "Ctrl-C stops it.") {
            match patiently("the greeting", lines.next_line()).await.expect("text") {
                Some(line) => run.greeting.push(line),
                None => panic!("it ended at once: {}", run.stderr().await),
            }
        }
        Rollcall { stdout: Some(lines), ..run }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind lies in the target folder.
        fs::remove_dir_all(&self.0).ok();
    }
}

trait SignalOrCode {
    fn signal_or_code(&self) -> String;
}

impl SignalOrCode for ExitStatus {
    fn signal_or_code(&self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        match (self.code(), self.signal()) {
            (Some(code), _) => format!("code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "neither code nor signal".to_owned(),
        }
    }
}

/// A running executable. Dropping it kills the process.
struct Rollcall {
    child: Child,
    /// Its output after the greeting, which nobody reads.
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    greeting: Vec<String>,
    http: reqwest::Client,
}

impl Rollcall {
    /// What the greeting says after this word.
    #[track_caller]
    fn said(&self, word: &str) -> &str {
        let found = self.greeting.iter().find_map(|line| line.trim_start().strip_prefix(word));
        found.unwrap_or_else(|| panic!("no {word:?} in {:#?}", self.greeting)).trim()
    }

    fn url(&self) -> &str {
        self.said("Rollcall listens on ")
    }

    fn operator_token(&self) -> &str {
        let said = self.said("operator token ");
        said.split(' ').next().expect("a token")
    }

    async fn stderr(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().expect("a piped output");
        patiently("the end of standard error", stderr.read_to_string(&mut text)).await.expect("text");
        text
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("a process that was not waited for").to_string();
        let sent = std::process::Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill").success(), "kill {signal}");
    }

    /// Sends a signal; how the process ended, and what it wrote on standard error.
    async fn ended_by(mut self, signal: &str) -> (String, String) {
        self.signal(signal);
        let status = patiently("the end of the process", self.child.wait()).await.expect("a status");
        (status.signal_or_code(), self.stderr().await)
    }

    /// Ctrl-C.
    async fn stop(self) {
        assert_eq!(self.ended_by("-INT").await, ("code 0".to_owned(), String::new()));
    }

    async fn try_post(
        http: &reqwest::Client,
        url: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> reqwest::Result<(u16, Value)> {
        let mut request = http.post(url).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.url());
        Self::try_post(&self.http, &url, headers, &body).await.expect("an answer")
    }

    /// The envelope's data, of a 200.
    async fn data(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, &[], body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer["data"].clone()
    }

    /// The API key of an agent that may send heartbeats.
    async fn verified(&self, registration: Value) -> (String, String) {
        let registered = self.data("/api/agents/register", registration).await;
        let text = |field: &str| registered[field].as_str().expect("a string").to_owned();
        self.data("/api/agents/verify", json!({ "apiKey": text("apiKey") })).await;
        (text("agentId"), text("apiKey"))
    }

    async fn heartbeat(&self, key: &str) -> u16 {
        let heartbeat = json!({ "apiKey": key, "status": "healthy" });
        self.post("/api/agents/heartbeat", &[], heartbeat).await.0
    }
}

/// Serves an engine to the unmodified SDK: its URL, and a client of it.
async fn serve(engine: dynoxide::Database) -> (String, Client) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(dynoxide::server::serve_on(listener, engine));
    let client = client(&url);
    (url, client)
}

fn client(url: &str) -> Client {
    Endpoint { url: Some(url.to_owned()), any_credentials: true, ..Endpoint::default() }.client()
}

/// The database that a process keeps in a folder.
async fn open(data: &Path) -> Client {
    let file = data.join("rollcall.db");
    serve(dynoxide::Database::new(&file.to_string_lossy()).expect("a database")).await.1
}

async fn rows(client: &Client, table: &str) -> Vec<BTreeMap<String, AttributeValue>> {
    let mut pages = client.scan().table_name(table).into_paginator().items().send();
    let mut rows = Vec::new();
    while let Some(row) = pages.next().await {
        rows.push(row.expect("a row").into_iter().collect());
    }
    rows
}

async fn event_types(client: &Client, agent_id: &str) -> Vec<String> {
    let text = |row: &BTreeMap<String, AttributeValue>, name: &str| {
        row.get(name).and_then(|value| value.as_s().ok().cloned()).unwrap_or_default()
    };
    let mut events = rows(client, "rollcall-EventsTable").await;
    events.retain(|row| text(row, "agent_id") == agent_id);
    events.sort_by_key(|row| text(row, "event_id"));
    events.iter().map(|row| text(row, "event_type")).collect()
}

#[tokio::test]
async fn it_says_where_it_listens_in_which_modes_and_what_to_do_first() {
    let folder = Folder::new();
    let run = folder.start(&[]).await;
    assert!(run.url().starts_with("http://127.0.0.1:"), "{}", run.url());
    assert_eq!(run.said("data "), ".rollcall");
    assert!(run.said("registration ").starts_with("open "), "{:#?}", run.greeting);
    assert!(run.said("approval ").starts_with("key "), "{:#?}", run.greeting);
    assert!(run.operator_token().starts_with("rco_"), "{:#?}", run.greeting);
    let page = format!("{}/#token={}", run.url(), run.operator_token());
    assert_eq!(run.said("page "), page, "the link opens the page, and its token is sent to nobody");

    let first = run.greeting.iter().map(|line| line.trim()).find(|line| line.starts_with("curl "));
    let pasted = Command::new("sh").args(["-c", first.expect("a curl")]).output().await.expect("a shell");
    let answer: Value = serde_json::from_slice(&pasted.stdout).expect("JSON");
    assert_eq!(answer["data"]["status"], "pending", "{answer}");
    run.stop().await;
}

#[tokio::test]
async fn an_agent_survives_a_restart_and_the_operator_token_too() {
    let folder = Folder::new();
    let run = folder.start(&[]).await;
    let (_, key) = run.verified(json!({ "name": "lasting" })).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    let token = run.operator_token().to_owned();
    let kept = folder.file(".rollcall/operator-token");
    assert_eq!(fs::read_to_string(&kept).expect("the token's file").trim(), token);
    assert_eq!(fs::metadata(&kept).expect("the token's file").permissions().mode() & 0o777, 0o600);
    run.stop().await;

    let run = folder.start(&[]).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    assert_eq!(run.operator_token(), token);
    assert_eq!(fs::metadata(&kept).expect("the token's file").permissions().mode() & 0o777, 0o600);
    run.stop().await;
}

#[tokio::test]
async fn the_tokens_are_there_before_the_port_answers() {
    let folder = Folder::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let port = free.port().to_string();
    let mut command = folder.command(&["--port", &port, "--registration", "enrollment"]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("an executable");
    let ready = async {
        while reqwest::get(format!("http://{free}/readyz")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    patiently("an answer", ready).await;
    for file in ["operator-token", "enrollment-token"] {
        let token = fs::read_to_string(folder.file(".rollcall").join(file));
        assert_eq!(token.expect(file).trim().len(), "rco_".len() + 48);
    }
    child.kill().await.expect("the end");
}

#[tokio::test]
async fn its_data_is_its_owners_alone() {
    let folder = Folder::new();
    let data = folder.file(".rollcall");
    let mode = |name: &str| fs::metadata(data.join(name)).expect(name).permissions().mode() & 0o777;
    let run = folder.start(&[]).await;
    assert_eq!(mode(""), 0o700);
    let files = || {
        let entries = fs::read_dir(&data).expect("the folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
    };
    let modes = || files().map(|name| (mode(&name), name)).collect::<Vec<_>>();
    assert!(modes().iter().all(|(mode, _)| *mode == 0o600), "{:?}", modes());
    assert!(files().any(|name| name == "rollcall.db"));
    run.stop().await;

    // As an earlier version left them.
    fs::set_permissions(data.join("rollcall.db"), fs::Permissions::from_mode(0o644)).expect("its rights");
    let run = folder.start(&[]).await;
    assert!(modes().iter().all(|(mode, _)| *mode == 0o600), "{:?}", modes());
    run.stop().await;
}

#[tokio::test]
async fn it_tells_who_died_and_who_is_back_and_nothing_else() {
    let folder = Folder::new();
    let mut run = folder.start(&["--memory", "--sweep-every", "1"]).await;
    let every_second = json!({ "intervalSeconds": 1, "missingTolerance": 2 });
    let agent = json!({ "name": "build\u{202e}er", "heartbeatConfig": every_second });
    let (agent_id, key) = run.verified(agent).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    let (short_id, _) = agent_id.split_once('-').expect("a UUID");
    let who = format!("\"build\\u{{202e}}er\" ({short_id})");

    let mut lines = run.stdout.take().expect("its output");
    let mut next = async || patiently("a line", lines.next_line()).await.expect("text").expect("a line");
    let died = next().await;
    assert!(died.starts_with(&format!("agent.offline {who}: silent, last seen at 2")), "{died}");
    assert_eq!(run.heartbeat(&key).await, 200);
    assert_eq!(next().await, format!("agent.online {who}"));
    let goodbye = json!({ "apiKey": key, "status": "offline" });
    run.data("/api/agents/heartbeat", goodbye).await;
    let left = next().await;
    assert!(left.starts_with(&format!("agent.offline {who}: reported, last seen at 2")), "{left}");
    run.signal("-INT");
    assert_eq!(next().await, "Stopping.");
    assert!(patiently("the end", run.child.wait()).await.expect("a status").success());
}

#[tokio::test]
async fn a_token_that_the_database_does_not_know_is_replaced() {
    let folder = Folder::new();
    let run = folder.start(&[]).await;
    let token = run.operator_token().to_owned();
    run.stop().await;
    for file in ["rollcall.db", "rollcall.db-wal", "rollcall.db-shm"] {
        fs::remove_file(folder.file(".rollcall").join(file)).ok();
    }
    let run = folder.start(&[]).await;
    assert_ne!(run.operator_token(), token);
    let kept = fs::read_to_string(folder.file(".rollcall/operator-token")).expect("the token's file");
    assert_eq!(kept.trim(), run.operator_token());
    run.stop().await;
}

#[tokio::test]
async fn ctrl_c_and_sigterm_stop_it_cleanly_with_clients_connected() {
    let folder = Folder::new();
    for signal in ["-INT", "-TERM"] {
        let run = folder.start(&[]).await;
        let (_, key) = run.verified(json!({ "name": "connected" })).await;
        // Its connection stays open.
        let client = run.http.clone();
        assert_eq!(run.heartbeat(&key).await, 200);
        assert_eq!(run.ended_by(signal).await, ("code 0".to_owned(), String::new()), "kill {signal}");
        drop(client);
    }
}

#[tokio::test]
async fn what_stands_in_its_way_is_one_line() {
    let folder = Folder::new();
    let occupied = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = occupied.local_addr().expect("an address").port().to_string();
    let busy = folder.refused(&["--port", &port]).await;
    assert!(busy.starts_with(&format!("rollcall: cannot listen on 127.0.0.1:{port}: ")), "{busy}");

    fs::write(folder.file("a-file"), "not a folder").expect("a file");
    for data in ["a-file", "a-file/below"] {
        let unusable = folder.refused(&["--port", "0", "--data", data]).await;
        assert!(unusable.starts_with(&format!("rollcall: data folder {data}: ")), "{unusable}");
    }

    fs::create_dir(folder.file("other")).expect("a folder");
    fs::write(folder.file("other/rollcall.db"), "certainly not a database, ".repeat(100)).expect("a file");
    let foreign = folder.refused(&["--port", "0", "--data", "other"]).await;
    assert!(foreign.starts_with("rollcall: database does not open: "), "{foreign}");

    let parameter = folder.refused(&["--port", "0", "--parameter", "Nope=1"]).await;
    assert!(parameter.starts_with("rollcall: template.yaml:") && parameter.contains("Nope"), "{parameter}");
    let value = folder.refused(&["--port", "0", "--parameter", "RateLimitPerMinute=many"]).await;
    assert!(value.contains("RateLimitPerMinute"), "{value}");

    let nowhere = folder.refused(&["--port", "0", "--memory", "--template", "nowhere.yaml"]).await;
    assert!(nowhere.starts_with("rollcall: nowhere.yaml: "), "{nowhere}");
    let shipped = fs::read_to_string(Options::default().template).expect("the template");
    let unknown = shipped.replacen("AWS::DynamoDB::Table", "AWS::S3::Bucket", 1);
    let line = unknown.lines().position(|line| line.contains("AWS::S3::Bucket")).expect("a line") + 1;
    for (broken, line) in [("Transform: [", 2), ("a: b\n\tc", 1), ("", 1), (&unknown, line)] {
        fs::write(folder.file("broken.yaml"), broken).expect("a file");
        let refused = folder.refused(&["--port", "0", "--memory", "--template", "broken.yaml"]).await;
        assert!(refused.starts_with(&format!("rollcall: broken.yaml:{line}: ")), "{refused}");
    }
}

#[tokio::test]
async fn a_folder_of_an_earlier_build_without_an_index_is_one_line() {
    let folder = Folder::new();
    let shipped = fs::read_to_string(Options::default().template).expect("the template");
    fs::write(folder.file("earlier.yaml"), shipped.replace("by_name", "by_another_name")).expect("a file");
    folder.start(&["--template", "earlier.yaml"]).await.stop().await;
    let refused = folder.refused(&["--port", "0"]).await;
    assert!(refused.contains("AgentsTable") && refused.contains("without the index by_name"), "{refused}");
}

#[tokio::test]
async fn a_folder_that_is_in_use_is_one_line_until_it_is_free() {
    let folder = Folder::new();
    let run = folder.start(&[]).await;
    let in_use = folder.refused(&["--port", "0"]).await;
    assert_eq!(in_use, "rollcall: data folder .rollcall: another process is using it");
    run.stop().await;
    folder.start(&[]).await.stop().await;
}

#[tokio::test]
async fn a_wrong_argument_is_one_line_that_names_it() {
    let folder = Folder::new();
    for (arguments, named) in [
        (&["--registration", "everybody"][..], "'--registration"),
        (&["--approval", "nobody"], "'--approval"),
        (&["--port", "many"], "'--port"),
        (&["--sweep-every", "0"], "'--sweep-every"),
        (&["--sweep-every", "18446744073709551615"], "'--sweep-every"),
        (&["--parameter", "RateLimitPerMinute"], "'--parameter"),
        (&["--parameter", "Registration=enrollment"], "use --registration"),
        (&["--parameter", "Approval=operator"], "use --approval"),
        (&["--dynamodb", ""], "'--dynamodb"),
        (&["--dynamodb", "127.0.0.1:8000"], "'--dynamodb"),
        (&["--dynamodb", "localhost:8000"], "'--dynamodb"),
        (&["--dynamodb", "http://127.0.0.1:99999"], "'--dynamodb"),
        (&["--dynamodb", "http://127.0.0.1:1/?q"], "'--dynamodb"),
        (&["--memory", "--data", "here"], "'--memory'"),
        (&["--nonsense"], "'--nonsense'"),
    ] {
        let refused = folder.refused(arguments).await;
        assert!(refused.starts_with("rollcall: ") && refused.contains(named), "{refused}");
    }
    let names = folder.refused(&["--registration", "everybody"]).await;
    assert!(names.contains("open, enrollment"), "{names}");
}

#[tokio::test]
async fn help_names_every_option() {
    let output = Folder::new().command(&["--help"]).output().await.expect("an executable");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("text");
    for option in [
        "--port",
        "--listen",
        "--data",
        "--memory",
        "--dynamodb",
        "--dynamodb-port",
        "--registration",
        "--approval",
        "--sweep-every",
        "--parameter",
        "--template",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

#[tokio::test]
async fn in_memory_it_leaves_nothing_on_disk() {
    let folder = Folder::new();
    let run = folder.start(&["--memory"]).await;
    let (_, key) = run.verified(json!({ "name": "fleeting" })).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    assert_eq!(folder.names(), BTreeSet::new());
    run.stop().await;
    assert_eq!(folder.names(), BTreeSet::new());

    let run = folder.start(&["--memory"]).await;
    assert_eq!(run.heartbeat(&key).await, 401, "another process, another memory");
}

#[tokio::test]
async fn its_sweep_announces_a_silent_agent_in_the_database_it_was_given() {
    let folder = Folder::new();
    let (url, database) = serve(dynoxide::Database::memory().expect("an engine")).await;
    let run = folder.start(&["--dynamodb", &url, "--sweep-every", "1"]).await;
    assert_eq!(run.said("data "), format!("DynamoDB at {url}"));
    let eager =
        json!({ "name": "silent", "heartbeatConfig": { "intervalSeconds": 1, "missingTolerance": 2 } });
    let (agent_id, key) = run.verified(eager).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    let last = async || event_types(&database, &agent_id).await.pop().unwrap_or_default();
    eventually("the announcement", async || (last().await == "agent.offline").then_some(())).await;
    assert_eq!(run.heartbeat(&key).await, 200);
    assert_eq!(last().await, "agent.online");
    run.stop().await;
}

#[tokio::test]
async fn its_engine_answers_any_client_on_the_port_it_was_given() {
    let folder = Folder::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let port = free.port().to_string();
    let run = folder.start(&["--memory", "--dynamodb-port", &port]).await;
    assert!(run.said("DynamoDB ").starts_with(&format!("http://{free} ")), "{:#?}", run.greeting);
    let (agent_id, _) = run.verified(json!({ "name": "seen" })).await;
    let database = client(&format!("http://{free}"));
    assert!(event_types(&database, &agent_id).await.contains(&"agent.verified".to_owned()));

    let refused = folder.refused(&["--memory", "--port", "0", "--dynamodb-port", &port]).await;
    assert!(refused.starts_with(&format!("rollcall: database cannot listen on port {port}: ")), "{refused}");
    run.stop().await;
}

#[tokio::test]
async fn it_sweeps_on_when_nobody_reads_its_output() {
    let folder = Folder::new();
    let (url, database) = serve(dynoxide::Database::memory().expect("an engine")).await;
    let mut run = folder.start(&["--dynamodb", &url, "--sweep-every", "1"]).await;
    run.stdout = None;
    for name in ["first", "second"] {
        let (agent_id, key) = run.verified(json!({ "name": name })).await;
        assert_eq!(run.heartbeat(&key).await, 200);
        let update = database.update_item().table_name("rollcall-AgentsTable");
        let update = update.key("agent_id", AttributeValue::S(agent_id.clone()));
        let update = update.update_expression("SET lease_expires_at = :ended");
        update
            .expression_attribute_values(":ended", AttributeValue::N("1".to_owned()))
            .send()
            .await
            .expect("a write");
        eventually("the announcement", async || {
            event_types(&database, &agent_id).await.contains(&"agent.offline".to_owned()).then_some(())
        })
        .await;
    }
    run.stop().await;
}

#[tokio::test]
async fn a_database_that_is_not_there_is_one_line() {
    let folder = Folder::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let refused = folder.refused(&["--port", "0", "--dynamodb", &format!("http://{free}")]).await;
    assert!(refused.starts_with(&format!("rollcall: DynamoDB at http://{free}: ")), "{refused}");
    assert!(!refused.contains('{'), "no debug form: {refused}");
}

#[tokio::test]
async fn closed_doors_open_with_tokens() {
    let folder = Folder::new();
    let (url, _database) = serve(dynoxide::Database::memory().expect("an engine")).await;
    let run =
        folder.start(&["--dynamodb", &url, "--registration", "enrollment", "--approval", "operator"]).await;
    assert!(run.said("registration ").starts_with("enrollment "), "{:#?}", run.greeting);
    assert!(run.said("approval ").starts_with("operator "), "{:#?}", run.greeting);

    // The same tables in a second system, for what IAM alone may invoke.
    let doors = [("Registration", "enrollment"), ("Approval", "operator")];
    let beside = System::start(Options {
        parameters: doors.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        database: Database::Endpoint(url),
        schedules: None,
        ..Options::default()
    })
    .await
    .expect("a second system");
    let asked = json!({ "kind": "enrollment", "all_boards": true }).to_string();
    let minted = beside.run_job("mint-token", &asked).await.expect("the job").expect("a token");
    let enrollment = minted["token"].as_str().expect("a token");

    let registration = json!({ "name": "let in" });
    assert_eq!(run.post("/api/agents/register", &[], registration.clone()).await.0, 401);
    let headers = [("x-agent-token", enrollment)];
    let (status, registered) = run.post("/api/agents/register", &headers, registration).await;
    assert_eq!(status, 200, "{registered}");
    let verification = json!({ "apiKey": registered["data"]["apiKey"] });
    assert_eq!(run.post("/api/agents/verify", &[], verification.clone()).await.0, 403);
    let bearer = format!("Bearer {}", run.operator_token());
    let headers = [("authorization", bearer.as_str())];
    let (status, verified) = run.post("/api/agents/verify", &headers, verification).await;
    assert_eq!((status, &verified["data"]["status"]), (200, &json!("active")), "{verified}");
    assert_eq!(run.heartbeat(registered["data"]["apiKey"].as_str().expect("a key")).await, 200);
    run.stop().await;
}

#[tokio::test]
async fn rows_whose_time_to_live_is_over_are_removed() {
    let folder = Folder::new();
    let data = folder.file(".rollcall");
    let run = folder.start(&[]).await;
    for name in ["over", "waiting"] {
        run.data("/api/agents/register", json!({ "name": name })).await;
    }
    run.stop().await;

    let database = open(&data).await;
    let name = |row: &BTreeMap<String, AttributeValue>| row["agent_name"].as_s().expect("text").clone();
    let names = async || {
        let rows = rows(&database, "rollcall-AgentsTable").await;
        // The sweep's own canary is none of the agents.
        rows.iter().map(name).filter(|name| name != "canary").collect::<BTreeSet<_>>()
    };
    assert_eq!(names().await, ["over", "waiting"].map(str::to_owned).into());
    let agents = rows(&database, "rollcall-AgentsTable").await;
    let over = agents.iter().find(|row| name(row) == "over").expect("the row");
    let update = database.update_item().table_name("rollcall-AgentsTable");
    let update = update.key("agent_id", over["agent_id"].clone());
    let update = update.update_expression("SET expires_at = :long_ago");
    let long_ago = AttributeValue::N("1000000000".to_owned());
    update.expression_attribute_values(":long_ago", long_ago).send().await.expect("a row that is over");

    let run = folder.start(&[]).await;
    let left = async || (!names().await.contains("over")).then_some(());
    eventually("the end of the row", left).await;
    assert_eq!(names().await, ["waiting".to_owned()].into());
    run.stop().await;
}

/// What a client heard a yes to.
#[derive(Default)]
struct Acknowledged {
    registered: Vec<(String, String)>,
    verified: BTreeSet<String>,
    events: Vec<(String, String)>,
}

/// One client, until the server is gone: registers agent after agent, each verified and busy.
async fn work(http: reqwest::Client, url: String, count: Arc<watch::Sender<usize>>) -> Acknowledged {
    let mut done = Acknowledged::default();
    let post = async |path: &str, body: Value| {
        let answer = Rollcall::try_post(&http, &format!("{url}{path}"), &[], &body).await.ok()?;
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
        count.send_modify(|count| *count += 1);
        Some(answer.1["data"].clone())
    };
    let text = |data: &Value, field: &str| data[field].as_str().expect("a string").to_owned();
    while let Some(registered) = post("/api/agents/register", json!({ "name": "busy" })).await {
        let (id, key) = (text(&registered, "agentId"), text(&registered, "apiKey"));
        done.registered.push((id.clone(), key.clone()));
        if post("/api/agents/verify", json!({ "apiKey": key })).await.is_none() {
            break;
        }
        done.verified.insert(id.clone());
        for step in 0..4 {
            let event = json!({ "apiKey": key, "event": "step", "payload": step });
            let Some(posted) = post("/api/agents/events", event).await else { break };
            done.events.push((id.clone(), text(&posted, "eventId")));
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    const CLIENTS: usize = 8;
    const BEFORE_THE_KILL: usize = 400;

    let folder = Folder::new();
    let unlimited = ["--parameter", "RegisterLimitPerIp=60000", "--parameter", "RateLimitPerMinute=6000"];
    let run = folder.start(&unlimited).await;
    let (count, mut counted) = watch::channel(0);
    let count = Arc::new(count);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(work(run.http.clone(), run.url().to_owned(), Arc::clone(&count))))
        .collect();
    let enough = counted.wait_for(|count| *count >= BEFORE_THE_KILL);
    patiently("some hundreds of acknowledged requests", enough).await.expect("the clients");
    assert_eq!(run.ended_by("-KILL").await, ("signal 9".to_owned(), String::new()));
    let mut done = Acknowledged::default();
    for client in join_all(clients).await {
        let client = client.expect("a client without complaints");
        done.registered.extend(client.registered);
        done.verified.extend(client.verified);
        done.events.extend(client.events);
    }
    let acknowledged = done.registered.len() + done.verified.len() + done.events.len();
    assert!(acknowledged >= BEFORE_THE_KILL, "{acknowledged}");

    let run = folder.start(&unlimited).await;
    for (id, key) in &done.registered {
        if !done.verified.contains(id) {
            run.data("/api/agents/verify", json!({ "apiKey": key })).await;
        }
        assert_eq!(run.heartbeat(key).await, 200, "{id}");
    }
    run.stop().await;

    let database = open(&folder.file(".rollcall")).await;
    let text = |row: &BTreeMap<String, AttributeValue>, name: &str| row[name].as_s().expect("text").clone();
    let stored: BTreeSet<(String, String)> = rows(&database, "rollcall-EventsTable")
        .await
        .iter()
        .map(|row| (text(row, "agent_id"), text(row, "event_id")))
        .collect();
    let lost: Vec<_> = done.events.iter().filter(|event| !stored.contains(event)).collect();
    assert!(lost.is_empty(), "of {} events {} are lost: {lost:?}", done.events.len(), lost.len());
}

/// A receiver that takes requests and answers none until it is told to: the ids that it was sent.
struct HeldReceiver {
    url: String,
    answers: watch::Sender<bool>,
    ids: watch::Receiver<Vec<String>>,
}

impl HeldReceiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let (answers, answering) = watch::channel(false);
        let (noted, ids) = watch::channel(Vec::new());
        let noted = Arc::new(noted);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut answering, noted) = (answering.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let mut head = BufReader::new(&mut stream).lines();
                    while let Ok(Some(line)) = head.next_line().await {
                        if let Some(id) = line.strip_prefix("webhook-id: ") {
                            noted.send_modify(|ids| ids.push(id.to_owned()));
                        }
                        if line.is_empty() {
                            break;
                        }
                    }
                    drop(answering.wait_for(|answers| *answers).await);
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.ok();
                });
            }
        });
        Self { url, answers, ids }
    }

    /// Waits until it was sent so many; their ids.
    async fn sent(&mut self, count: usize) -> Vec<String> {
        let enough = self.ids.wait_for(|ids| ids.len() >= count);
        patiently("deliveries", enough).await.expect("a receiver").clone()
    }
}

#[tokio::test]
async fn kill_9_between_claim_and_note_loses_no_delivery() {
    const CHANNELS: usize = 5;

    let folder = Folder::new();
    let mut receiver = HeldReceiver::start().await;
    let run = folder.start(&[]).await;
    let bearer = format!("Bearer {}", run.operator_token());
    for _ in 0..CHANNELS {
        let body = json!({ "kind": "webhook", "url": receiver.url });
        let (status, made) = run.post("/api/v1/channels", &[("authorization", &bearer)], body).await;
        assert_eq!(status, 200, "{made}");
    }
    let sent: BTreeSet<String> = receiver.sent(CHANNELS).await.into_iter().collect();
    assert_eq!(sent.len(), CHANNELS, "each channel's greeting is under way");
    assert_eq!(run.ended_by("-KILL").await, ("signal 9".to_owned(), String::new()));

    // The minute of the claims, which no test waits for, is over.
    let database = open(&folder.file(".rollcall")).await;
    let deliveries = async || {
        let rows = rows(&database, "rollcall-AlertsTable").await;
        let text = |row: &BTreeMap<String, AttributeValue>, name: &str| {
            row.get(name).and_then(|value| value.as_s().ok().cloned()).unwrap_or_default()
        };
        let deliveries = rows.into_iter().filter(|row| text(row, "alert_log").starts_with("channel#"));
        deliveries
            .map(|row| (text(&row, "alert_log"), text(&row, "alert_key"), text(&row, "delivery_state")))
            .collect::<Vec<_>>()
    };
    for (log, key, state) in deliveries().await {
        assert_eq!(state, "pending");
        let update = database.update_item().table_name("rollcall-AlertsTable");
        let update = update.key("alert_log", AttributeValue::S(log)).key("alert_key", AttributeValue::S(key));
        let update = update.update_expression("SET due_at = :long_ago");
        let long_ago = AttributeValue::N("1".to_owned());
        update.expression_attribute_values(":long_ago", long_ago).send().await.expect("a delivery");
    }
    receiver.answers.send_replace(true);
    let run = folder.start(&["--sweep-every", "1"]).await;
    let again: BTreeSet<String> = receiver.sent(2 * CHANNELS).await.into_iter().skip(CHANNELS).collect();
    assert_eq!(again, sent, "by the ids that the receiver knows");
    let all_delivered = async || {
        let deliveries = deliveries().await;
        let are = deliveries.iter().all(|(_, _, state)| state == "delivered");
        are.then_some(deliveries.len())
    };
    assert_eq!(eventually("the notes", all_delivered).await, CHANNELS);
    run.stop().await;
}
