//! The Python client against the real system: what it does, and what its log says.
//!
//! Without Python these tests say so and check nothing.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a test waits for something that must happen, before it fails instead of hanging.
const PATIENCE: Duration = Duration::from_mins(1);

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python");

const PENDING: &str = "heartbeat refused: HTTP 403: the agent is pending: an operator can approve it;";

#[test]
fn its_own_tests_pass() {
    if !there_is_python() {
        return;
    }
    let tests = ["-m", "unittest", "discover", "-s", "tests"];
    let ran = Command::new("python3").args(tests).current_dir(CLIENT).output().expect("python3");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn started_while_pending_it_is_heard_as_soon_as_it_is_approved() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory", "--approval", "operator"]);
    let agent = rollcall.registered();
    let mut client = Client::start(&rollcall.url, &agent.key);
    client.says(PENDING);
    client.says(PENDING);
    rollcall.operator(&format!("{}/approve", agent.id), "POST");
    client.says("heartbeats are accepted");
    assert_eq!(rollcall.status(&agent), "healthy");
    client.ends();
    assert_eq!(rollcall.status(&agent), "offline");
    assert_eq!(rollcall.last_event(&agent)["payload"]["reason"], "reported");
}

#[test]
fn revoked_and_restored_it_is_heard_again() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let agent = rollcall.verified();
    let mut client = Client::start(&rollcall.url, &agent.key);
    client.says("heartbeats are accepted");
    rollcall.operator(&format!("{}/revoke", agent.id), "POST");
    client.says("heartbeat refused: HTTP 403: the agent is revoked: ");
    client.says("heartbeat refused: HTTP 403: the agent is revoked: ");
    rollcall.operator(&format!("{}/restore", agent.id), "POST");
    client.says("heartbeats are accepted again");
    client.ends();
}

#[test]
fn a_proxys_page_instead_of_an_answer_does_not_end_it() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let agent = rollcall.verified();
    let url = behind(&rollcall.url, |connection| {
        let page = "<html><h1>401 Authorization Required</h1></html>";
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nConnection: close\r\n";
        write!(connection, "{head}Content-Length: {}\r\n\r\n{page}", page.len())
    });
    let mut client = Client::start(&url, &agent.key);
    client.says("heartbeat refused: HTTP 401, and not from Rollcall;");
    client.says("heartbeats are accepted");
    client.ends();
}

#[test]
fn an_answer_that_drips_does_not_hang_it() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let agent = rollcall.verified();
    let url = behind(&rollcall.url, |connection| {
        connection.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")?;
        loop {
            connection.write_all(b"a")?;
            thread::sleep(Duration::from_millis(50));
        }
    });
    let mut client = Client::start_with(&url, &agent.key, "module.DEADLINE_SECONDS = 0.5");
    client.says("heartbeat failed: no whole answer within 0.5 s;");
    client.says("heartbeats are accepted");
    client.ends();
}

#[test]
fn after_a_fork_the_child_says_once_that_it_sends_no_heartbeats_and_the_parent_goes_on() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let agent = rollcall.verified();
    let mut client = Client::start(&rollcall.url, &agent.key);
    client.says("heartbeats are accepted");
    client.told("fork");
    client.says("process ");
    client.says("the child has ended");
    let usage = format!("{}/usage", agent.id);
    let requests = || rollcall.operator(&usage, "GET")["requests_total"].as_u64().expect("a number");
    let before = requests();
    until("the parent's next heartbeat", || requests() > before);
    // Its end alone says good-bye, not the child's.
    assert_eq!(rollcall.status(&agent), "healthy");
    client.ends();
    assert_eq!(rollcall.status(&agent), "offline");
}

#[test]
fn it_waits_for_a_server_that_was_stopped() {
    if !there_is_python() {
        return;
    }
    let folder = Folder::new();
    let data = folder.0.to_string_lossy().into_owned();
    let rollcall = Rollcall::start(&["--data", &data]);
    let agent = rollcall.verified();
    let (url, port) = (rollcall.url.clone(), rollcall.url.rsplit(':').next().expect("a port").to_owned());
    let mut client = Client::start(&url, &agent.key);
    client.says("heartbeats are accepted");
    drop(rollcall);
    client.says("heartbeat failed: ");
    let rollcall = Rollcall::start(&["--data", &data, "--port", &port]);
    client.says("heartbeats are accepted again");
    assert_eq!(rollcall.status(&agent), "healthy");
    client.ends();
}

#[test]
fn a_name_and_an_enrollment_token_are_enough() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let asked = json!({ "kind": "enrollment", "all_boards": true });
    let token = rollcall.call("POST", "/api/v1/tokens", &asked.to_string())["token"].clone();
    let token = token.as_str().expect("a token");
    let setting = "module.Heartbeat = lambda url, token: Heartbeat(url, name='by-name', token=token)";
    let setting = format!("from rollcall_heartbeat import Heartbeat\n{setting}");
    // Started again it is the same agent.
    for _ in 0..2 {
        let mut client = Client::start_with(&rollcall.url, token, &setting);
        client.says("heartbeats are accepted");
        client.ends();
    }
    let agents = rollcall.call("GET", "/api/v1/agents", "");
    assert_eq!((&agents["total"], &agents["items"][0]["name"]), (&json!(1), &json!("by-name")));
}

#[test]
fn operators_see_work_sleep_and_obedience() {
    if !there_is_python() {
        return;
    }
    let rollcall = Rollcall::start(&["--memory"]);
    let agent = rollcall.verified();
    let detail = |key: &str| {
        let path = format!("/api/v1/agents/{}?detail=true", agent.id);
        rollcall.call("GET", &path, "")["detail"][key].clone()
    };
    let mut client = Client::start(&rollcall.url, &agent.key);
    client.says("heartbeats are accepted");
    assert!(detail("stalls_at").is_null());
    client.told("work = heartbeat.working(); work.__enter__(); heartbeat.usage(tokens=5, cost_usd=0.01)");
    until("the age of its progress", || !detail("stalls_at").is_null());
    client.told("heartbeat.on('drain')(lambda directive: print('drains', flush=True))");
    let path = format!("/api/v1/agents/{}/directive", agent.id);
    rollcall.call("POST", &path, r#"{"action": "drain"}"#);
    client.says("drains");
    until("the acknowledgement", || !detail("directive")["acknowledged_at"].is_null());
    client.told("sleep = lambda: heartbeat.sleep_until(time.time() + 600)");
    client.told("import threading, time; threading.Thread(target=sleep, daemon=True).start()");
    until("its promise", || !detail("next_beat_at").is_null());
    assert!(detail("stalls_at").is_null());
    client.ends();
    assert_eq!(rollcall.status(&agent), "offline");
}

/// Whether these tests can run. The harness shows nothing of what passes, so this writes past it.
fn there_is_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|ran| ran.status.success());
    if !there {
        let line = "SKIPPED: there is no python3 on the PATH; the Python client is not tested";
        writeln!(io::stderr(), "{line}").expect("standard error");
    }
    there
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 50 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}

/// A server in front of `upstream`: its first connection is `first`'s, all others go through.
fn behind(upstream: &str, first: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let upstream = upstream.strip_prefix("http://").expect("a URL").to_owned();
    thread::spawn(move || {
        let mut first = Some(first);
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let request = read_request(&connection).expect("a request");
            if let Some(first) = first.take() {
                // It ends when the client hangs up.
                first(&mut connection).ok();
                continue;
            }
            let mut server = TcpStream::connect(&upstream).expect("the system");
            server.write_all(&request).expect("a request");
            // The client may be gone before the answer.
            io::copy(&mut server, &mut connection).ok();
        }
    });
    url
}

fn read_request(connection: &TcpStream) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::new(connection);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok([head.into_bytes(), body].concat())
}

/// A folder of a test's own. It goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-client-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The real executable.
struct Rollcall {
    process: Child,
    url: String,
    operator_token: String,
}

struct Agent {
    id: String,
    key: String,
}

impl Rollcall {
    fn start(arguments: &[&str]) -> Self {
        let port: &[&str] = if arguments.contains(&"--port") { &[] } else { &["--port", "0"] };
        let mut process = Command::new(env!("CARGO_BIN_EXE_rollcall-local"))
            .args(port)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("rollcall starts");
        let lines = BufReader::new(process.stdout.as_mut().expect("its output")).lines();
        let lines = lines.map(|line| line.expect("a line").trim().to_owned());
        let greeting: Vec<String> = lines.take_while(|line| line != "Ctrl-C stops it.").collect();
        let said = |beginning: &str| {
            let found = greeting.iter().find_map(|line| line.strip_prefix(beginning));
            let found = found.unwrap_or_else(|| panic!("no {beginning:?} in {greeting:#?}"));
            found.split_whitespace().next().expect("a word").to_owned()
        };
        Self { url: said("Rollcall listens on "), operator_token: said("operator token "), process }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let bearer = format!("authorization: Bearer {}", self.operator_token);
        let url = format!("{}{path}", self.url);
        let ran = Command::new("curl").args(["-sS", "-X", method, &url, "-H", &bearer, "-d", body]).output();
        let ran = ran.expect("these tests need curl on the PATH");
        serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}: {ran:?}"))
    }

    /// An operator's call under `/api/v1/agents/`.
    fn operator(&self, path: &str, method: &str) -> Value {
        let answer = self.call(method, &format!("/api/v1/agents/{path}"), "");
        assert!(answer.get("detail").is_none(), "{path}: {answer}");
        answer
    }

    /// A pending agent that is to send a heartbeat every second.
    fn registered(&self) -> Agent {
        let registration = json!({ "name": "in-python", "heartbeatConfig": { "intervalSeconds": 1 } });
        let answer = self.call("POST", "/api/agents/register", &registration.to_string());
        let text = |field: &str| answer["data"][field].as_str().expect("text").to_owned();
        Agent { id: text("agentId"), key: text("apiKey") }
    }

    fn verified(&self) -> Agent {
        let agent = self.registered();
        self.call("POST", "/api/agents/verify", &json!({ "apiKey": agent.key }).to_string());
        agent
    }

    fn status(&self, agent: &Agent) -> String {
        self.operator(&agent.id, "GET")["status"].as_str().expect("a status").to_owned()
    }

    fn last_event(&self, agent: &Agent) -> Value {
        self.operator(&format!("{}/events?limit=1", agent.id), "GET")["items"][0].clone()
    }
}

impl Drop for Rollcall {
    fn drop(&mut self) {
        self.process.kill().expect("rollcall ends");
        self.process.wait().expect("rollcall has ended");
    }
}

/// A program that sends heartbeats by the module until its input ends; what it logs is its output.
const DRIVER: &str = r#"
import logging, os, sys
sys.path.insert(0, sys.argv[1])
import rollcall_heartbeat as module

module.REFUSED_SECONDS, module.REFUSED_MOST_SECONDS, module.RETRY_SECONDS = 0.1, 0.2, 0.05
exec(sys.argv[4])
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
with module.Heartbeat(sys.argv[2], sys.argv[3]) as heartbeat:
    for line in sys.stdin:
        if line.strip() == "fork":
            child = os.fork()
            if child == 0:
                heartbeat.status = "degraded"
                heartbeat.__exit__(None, None, None)
                os._exit(0)
            os.waitpid(child, 0)
            print("the child has ended", flush=True)
        else:
            exec(line)
"#;

struct Client {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Client {
    fn start(url: &str, key: &str) -> Self {
        Self::start_with(url, key, "")
    }

    fn start_with(url: &str, key: &str, setting: &str) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", DRIVER, &format!("{CLIENT}/src"), url, key, setting])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let (input, output) = (process.stdin.take(), process.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line.expect("a line")).is_err() {
                    return;
                }
            }
        });
        Self { process, input, lines }
    }

    fn told(&mut self, what: &str) {
        writeln!(self.input.as_mut().expect("its input"), "{what}").expect("it reads");
    }

    /// Waits for a line that begins so.
    #[track_caller]
    fn says(&mut self, beginning: &str) -> String {
        let mut before = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.starts_with(beginning) {
                return line;
            }
            before.push(line);
        }
        panic!("no {beginning:?} after {before:#?}");
    }

    /// Ends its work; nothing else is said.
    #[track_caller]
    fn ends(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().expect("its end").success());
        assert_eq!(self.lines.iter().collect::<Vec<_>>(), [""; 0]);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended, unless the test fails.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
