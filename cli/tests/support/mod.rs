//! The real `rollcall` against the real system.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use local::{Clock, Options, System};
use serde_json::{Value, json};
use shared::time::Timestamp;
use signal_hook::consts::{SIGINT, SIGQUIT};
use tokio::runtime::Runtime;

/// How long a test waits for something that must happen, before it fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running Rollcall, whose clock stands until a test advances it.
pub struct Rollcall {
    runtime: Runtime,
    system: System,
    pub url: String,
    pub operator: String,
}

impl Rollcall {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With these parameters of the template.
    pub fn with(parameters: &[(&str, &str)]) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let defaults = [("Registration", "open"), ("Approval", "key"), ("WebhookTargets", "any")];
        let parameters = defaults.iter().chain(parameters);
        let parameters = parameters.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = Options {
            parameters: parameters.collect(),
            clock: Clock::standing_at(Timestamp::now()),
            schedules: None,
            ..Options::default()
        };
        let system = runtime.block_on(System::start(options)).expect("a system");
        let url = format!("http://{}", system.address());
        let mut rollcall = Self { runtime, system, url, operator: String::new() };
        rollcall.operator = rollcall.mint(&json!({ "kind": "operator" }));
        rollcall
    }

    /// Mints a token.
    pub fn mint(&self, request: &Value) -> String {
        self.job("mint-token", request)["token"].as_str().expect("a token").to_owned()
    }

    /// A token under which names make agents.
    pub fn enrollment_token(&self) -> String {
        self.mint(&json!({ "kind": "enrollment", "all_boards": true }))
    }

    pub fn job(&self, binary: &str, input: &Value) -> Value {
        let answer = self.runtime.block_on(self.system.run_job(binary, &input.to_string()));
        answer.expect("a job of that name").expect("an answer")
    }

    pub fn sweep(&self) -> Value {
        self.job("sweep", &json!({ "source": "rollcall.sweep" }))
    }

    pub fn advance(&self, seconds: u64) {
        self.system.clock().advance(Duration::from_secs(seconds));
    }

    /// An operator's call; the answer must be a 200.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_call(method, path, &body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    pub fn try_call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.operator));
        let request = request.body(body.to_string()).expect("a request");
        let request = agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut answer = agent.run(request).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a body");
        (answer.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
    }

    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, json!({}))
    }

    /// A heartbeat of the agent that has this key.
    pub fn heartbeat(&self, key: &str, status: &str) {
        self.call("POST", "/api/agents/heartbeat", json!({ "apiKey": key, "status": status }));
    }

    /// A new agent.
    pub fn agent(&self, fields: Value) -> Agent {
        let answer = self.call("POST", "/api/v1/agents", fields);
        let text = |key: &str| answer[key].as_str().expect("text").to_owned();
        Agent { id: text("id"), key: text("agent_token") }
    }

    /// The agent of this name, as soon as it is there.
    #[track_caller]
    pub fn named(&self, name: &str) -> Value {
        eventually(name, || {
            let agents = self.get("/api/v1/agents?detail=true");
            agents["items"].as_array()?.iter().find(|agent| agent["name"] == name).cloned()
        })
    }

    pub fn status(&self, id: &str) -> String {
        self.get(&format!("/api/v1/agents/{id}"))["status"].as_str().expect("a status").to_owned()
    }

    #[track_caller]
    pub fn until_status(&self, id: &str, status: &str) {
        eventually(&format!("{status} of {id}"), || (self.status(id) == status).then_some(()));
    }

    /// The agent's events of this type, newest first.
    pub fn events(&self, id: &str, event: &str) -> Vec<Value> {
        let events = self.get(&format!("/api/v1/agents/{id}/events?type={event}"));
        events["items"].as_array().expect("a list").clone()
    }

    pub fn direct(&self, id: &str, directive: Value) {
        self.call("POST", &format!("/api/v1/agents/{id}/directive"), directive);
    }

    /// Whether the directive that stands is acknowledged.
    pub fn is_acknowledged(&self, id: &str) -> bool {
        let agent = self.get(&format!("/api/v1/agents/{id}?detail=true"));
        agent["detail"]["directive"]["acknowledged_at"].is_string()
    }
}

/// A server that closes each connection after its answer to it.
pub fn answering(answer: impl Fn(usize, &str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for (n, connection) in listener.incoming().enumerate() {
            let mut connection: TcpStream = connection.expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // A body is an object.
            while !(request.ends_with(b"}") || request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n"))
            {
                match connection.read(&mut buffer) {
                    Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            connection.write_all(answer(n, &String::from_utf8_lossy(&request)).as_bytes()).ok();
        }
    });
    url
}

pub struct Agent {
    pub id: String,
    pub key: String,
}

/// Who is started with INT and QUIT ignored, as in the background of a script, hands that on to the programs it starts; who
/// has handlers does not. These do what happens by default.
fn hear_interrupts() {
    for signal in [SIGINT, SIGQUIT] {
        let by_default = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal, by_default).expect("a handler");
    }
}

/// An empty folder of a test's own, which is also its home. It goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        static HEARD: Once = Once::new();
        let name = format!("cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("what an earlier process of this id left");
        }
        fs::create_dir_all(&folder).expect("a folder");
        HEARD.call_once(hear_interrupts);
        Self(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `rollcall` with nothing of this machine's in its environment but the path.
    pub fn rollcall(&self, url: &str) -> Command {
        self.by(env!("CARGO_BIN_EXE_rollcall"), url)
    }

    /// Another program, in the same environment.
    pub fn by(&self, program: &str, url: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(["PATH", "LLVM_PROFILE_FILE"].iter().filter_map(|name| path(name)));
        command.env("HOME", &self.0).env("ROLLCALL_URL", url).current_dir(&self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    pub fn until_written(&self, name: &str) -> String {
        eventually(name, || fs::read_to_string(self.file(name)).ok().filter(|text| text.ends_with('\n')))
    }
}

#[expect(clippy::disallowed_methods, reason = "what a program needs to find others")]
pub fn path(name: &'static str) -> Option<(&'static str, std::ffi::OsString)> {
    std::env::var_os(name).map(|value| (name, value))
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A program that runs, and what it says on standard error. Its group ends with the test.
pub struct Running {
    pub child: Child,
    errors: Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("an executable");
        let (lines, errors) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("standard error"));
        thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
        Self { child, errors }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains this.
    #[track_caller]
    pub fn says(&self, part: &str) -> String {
        let (mut lines, ends) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            let line = self.errors.recv_timeout(ends.saturating_duration_since(Instant::now()));
            let Ok(line) = line else { panic!("waited in vain for {part:?} after {lines:#?}") };
            if line.contains(part) {
                return line;
            }
            lines.push(line);
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        eventually("its end", || self.child.try_wait().expect("a child"))
    }

    /// What it wrote to standard output, to its end.
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().expect("standard output").read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in children(self.pid()) {
            signal(child, "KILL");
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent =
        Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
    sent.expect("kill");
}

/// The processes that this one started and that still are.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// What `/proc` says of a process: `R`, `S`, `T` (stopped), `Z`; none if it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
