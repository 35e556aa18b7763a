//! The README does what it says: its curl lines and its Python client, run as a reader would run them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));

// ---- The walk-through ----

#[test]
fn the_walk_throughs_lines_answer_as_shown() {
    let rollcall = Rollcall::start();
    let mut same = BTreeMap::new();
    let steps = walk_through(&rollcall.url);
    for step in &steps {
        match &step.shown {
            None => assert_eq!(step.printed, "", "after {}", step.lines),
            Some(shown) => {
                let printed = serde_json::from_str(&step.printed)
                    .unwrap_or_else(|error| panic!("{error}: {:?} after {}", step.printed, step.lines));
                assert_alike(shown, &printed, &mut same, &step.lines);
            }
        }
    }
    assert_eq!(steps.iter().filter(|step| step.shown.is_some()).count(), 5);
}

/// The walk-through's last words: with both doors closed, the printed tokens open them.
#[test]
fn the_printed_tokens_open_both_doors() {
    let rollcall = Rollcall::start_with(&["--registration", "enrollment", "--approval", "operator"]);
    let url = &rollcall.url;
    let closed = format!("curl -s {url}/api/agents/register -d '{{\"name\": \"researcher-1\"}}'");
    let closed: Value = serde_json::from_str(&run("bash", &[], &closed).output).expect("an answer");
    assert_eq!(closed["error"]["message"], "an enrollment token is required in X-Agent-Token");

    let curl = rollcall.said("curl ");
    let registered: Value = serde_json::from_str(&run("bash", &[], &curl).output).expect("an answer");
    assert_eq!(registered["data"]["status"], "pending", "{curl}");
    let verify = format!(
        "curl -s {url}/api/agents/verify -H 'authorization: Bearer {}' -d '{{\"apiKey\": {}}}'",
        rollcall.said("operator token").trim_start_matches("operator token").trim(),
        registered["data"]["apiKey"],
    );
    let verified: Value = serde_json::from_str(&run("bash", &[], &verify).output).expect("an answer");
    assert_eq!(verified["data"]["status"], "active", "{verified}");
}

/// One block of shell lines, the answer that the README shows below it, and what the lines printed.
struct Step {
    lines: String,
    shown: Option<Value>,
    printed: String,
}

/// Runs the walk-through's blocks in one bash, one after the other, against the system at `url`.
fn walk_through(url: &str) -> Vec<Step> {
    const END_OF_STEP: &str = "-- end of step --";
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in blocks("## Walk-through") {
        match language {
            "sh" => steps.push(Step { lines: text.to_owned(), shown: None, printed: String::new() }),
            "json" => {
                let shown = serde_json::from_str(text).expect("an answer in JSON");
                steps.last_mut().expect("lines before the answer").shown = Some(shown);
            }
            other => panic!("a block of {other:?} in the walk-through"),
        }
    }
    let say_so = format!("echo '{END_OF_STEP}'\n");
    let pasted: String = steps.iter().flat_map(|step| [step.lines.as_str(), &say_so]).collect();
    let default = "url=http://127.0.0.1:3000\n";
    assert_eq!(pasted.matches(default).count(), 1, "the walk-through says where the system listens");
    let printed = run("bash", &[], &pasted.replace(default, &format!("url={url}\n")));
    assert_eq!(printed.errors, "");
    let printed: Vec<&str> = printed.output.split(&format!("{END_OF_STEP}\n")).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{printed:?}");
    for (step, printed) in steps.iter_mut().zip(printed) {
        printed.trim_end().clone_into(&mut step.printed);
    }
    steps
}

/// The README's answer and the real one are the same, but for ids, keys and times; and what is the same id, key
/// or time in the README is the same in reality.
#[track_caller]
fn assert_alike(shown: &Value, real: &Value, same: &mut BTreeMap<String, String>, lines: &str) {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(shown), keys(real), "after {lines}");
            for (key, shown) in shown {
                assert_alike(shown, &real[key], same, lines);
            }
        }
        (Value::String(shown), Value::String(real)) if is_made_anew(shown) => {
            assert_eq!(shown.len(), real.len(), "after {lines}");
            assert!(is_made_anew(real), "{real:?} after {lines}");
            assert_eq!(same.entry(shown.clone()).or_insert_with(|| real.clone()), real, "after {lines}");
        }
        _ => assert_eq!(shown, real, "after {lines}"),
    }
}

/// Whether a text looks like an id, a key or a time: what no two runs have in common.
fn is_made_anew(text: &str) -> bool {
    text.len() >= 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-:.TZ".contains(&byte))
}

// ---- The Python client ----

#[test]
fn the_client_beats_for_a_real_agent() {
    let rollcall = Rollcall::start();
    let agent = verified_agent(&rollcall.url);
    let run = Client::at(&rollcall.url).key(&agent).waits(3).run();
    assert_eq!(run, ClientRun { delays: vec![60.0; 3], log: vec![], still_runs: false });
}

#[test]
fn the_readmes_own_use_of_the_client_works() {
    let rollcall = Rollcall::start();
    let agent = verified_agent(&rollcall.url);
    let [client, usage] = python_blocks();
    let usage = usage.replace("http://127.0.0.1:3000", &rollcall.url).replace("the agent's API key", &agent);
    let ran = run("python3", &["-"], &format!("{client}\n{usage}"));
    assert_eq!((ran.output.as_str(), ran.errors.as_str()), ("", ""));
}

#[test]
fn the_client_stops_at_a_real_refusal() {
    let rollcall = Rollcall::start();
    let run = Client::at(&rollcall.url).key(&"0".repeat(48)).waits(3).run();
    assert_eq!(run.delays, [0.0; 0]);
    assert_eq!(run.log, ["heartbeat refused: the key is unknown, not verified or revoked; giving up"]);
}

#[test]
fn the_client_beats_at_once_then_at_the_answers_interval_and_says_offline_at_the_end() {
    let server = Scripted::start([Reply::accepted(30), Reply::accepted(10), Reply::accepted(10)]);
    let run = Client::at(&server.url).waits(2).run();
    assert_eq!(run, ClientRun { delays: vec![30.0, 10.0], log: vec![], still_runs: false });
    assert_eq!(server.statuses(), ["healthy", "healthy", "offline"]);
    assert_eq!(server.paths(), ["/api/agents/heartbeat"; 3]);
}

#[test]
fn the_client_is_early_by_up_to_a_tenth_of_the_interval() {
    let server = Scripted::start([Reply::accepted(60), Reply::accepted(60)]);
    assert_eq!(Client::at(&server.url).waits(1).chance(0.0).run().delays, [54.0]);
}

#[test]
fn the_client_waits_as_long_as_retry_after_says_and_longer_after_each_failure() {
    let server = Scripted::start([
        Reply::refused(429, Some("17")),
        Reply::refused(503, Some("2")),
        Reply::Broken,
        Reply::refused(500, None),
        Reply::answer(200, None, "<html>not Rollcall</html>"),
        Reply::refused(502, None),
        Reply::refused(502, None),
        Reply::accepted(20),
        Reply::refused(429, Some("1")),
        Reply::accepted(20),
    ]);
    let run = Client::at(&server.url).waits(9).run();
    assert_eq!(run.delays, [17.0 + 2.0, 2.0 + 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 20.0, 1.0 + 2.0]);
    assert_eq!(run.log.len(), 8, "every failure is logged: {:?}", run.log);
    assert_eq!(run.log[0], "heartbeat failed: HTTP 429; next try in 19.0 s");
    assert_eq!(server.statuses().len(), 10);
}

#[test]
fn the_clients_backoff_is_random_in_its_upper_half() {
    let server = Scripted::start([Reply::refused(503, Some("2"))]);
    assert_eq!(Client::at(&server.url).waits(1).chance(0.0).run().delays, [2.0 + 1.0]);
}

#[test]
fn the_client_stops_at_401_without_another_request() {
    let server = Scripted::start([Reply::accepted(30), Reply::refused(401, None)]);
    let run = Client::at(&server.url).waits(5).run();
    assert_eq!(run.delays, [30.0]);
    assert!(!run.still_runs);
    assert_eq!(server.statuses(), ["healthy", "healthy"]);
}

#[test]
fn the_client_bears_any_retry_after() {
    let odd = ["soon", "-5", "1e9", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT"];
    let server = Scripted::start(odd.map(|retry_after| Reply::refused(429, Some(retry_after))));
    let run = Client::at(&server.url).waits(5).run();
    assert_eq!(run.delays, [2.0, 4.0, 8.0, 3600.0 + 16.0, 32.0]);
}

#[test]
fn the_client_bears_a_server_that_is_not_there_and_a_url_that_is_none() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", gone.local_addr().expect("an address"));
    drop(gone);
    for url in [url.as_str(), "nonsense", ""] {
        let run = Client::at(url).waits(2).run();
        assert_eq!(run.delays, [2.0, 4.0], "{url:?}");
        assert_eq!(run.log.len(), 3, "{url:?}: {:?}", run.log);
        assert!(!run.log.iter().any(|line| line.contains(KEY)), "the key is not logged");
    }
}

/// A key of no agent, for servers that do not look at it.
const KEY: &str = "000102030405060708090a0b0c0d0e0f1011121314151617";

/// Runs the client with a clock of its own: waiting takes no time, and is written down.
const DRIVER: &str = r#"
import sys

url, key, waits, chance = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
delays, lines = [], []


class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())


def wait(seconds):
    delays.append(seconds)
    return len(delays) >= waits


def raised(problem):
    lines.append(f"the thread raised {problem.exc_value!r}")


threading.excepthook = raised
log.addHandler(Lines())
log.propagate = False
heartbeat = Heartbeat(url, key, wait=wait, chance=lambda: chance).start()
assert heartbeat._thread.daemon
heartbeat._thread.join()
heartbeat.stop()
print(json.dumps({"delays": delays, "log": lines, "still_runs": heartbeat._thread.is_alive()}))
"#;

struct Client {
    url: String,
    key: String,
    waits: usize,
    chance: f64,
}

#[derive(Debug, PartialEq)]
struct ClientRun {
    /// How long the client waited after each heartbeat, in seconds.
    delays: Vec<f64>,
    log: Vec<String>,
    still_runs: bool,
}

impl Client {
    fn at(url: &str) -> Self {
        Self { url: url.to_owned(), key: KEY.to_owned(), waits: 1, chance: 1.0 }
    }

    fn key(self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self }
    }

    /// Stops it in its n-th pause.
    fn waits(self, waits: usize) -> Self {
        Self { waits, ..self }
    }

    /// What its random numbers all are.
    fn chance(self, chance: f64) -> Self {
        Self { chance, ..self }
    }

    fn run(self) -> ClientRun {
        let [client, _] = python_blocks();
        let (waits, chance) = (self.waits.to_string(), self.chance.to_string());
        let ran =
            run("python3", &["-", &self.url, &self.key, &waits, &chance], &format!("{client}\n{DRIVER}"));
        assert_eq!(ran.errors, "");
        let report: Value = serde_json::from_str(&ran.output).expect("the driver's report");
        let list = |name: &str| report[name].as_array().cloned().expect("a list");
        ClientRun {
            delays: list("delays").iter().map(|delay| delay.as_f64().expect("a number")).collect(),
            log: list("log").iter().map(|line| line.as_str().expect("a line").to_owned()).collect(),
            still_runs: report["still_runs"] == json!(true),
        }
    }
}

/// The client, and the lines that use it.
fn python_blocks() -> [&'static str; 2] {
    let blocks = blocks("## A heartbeat client").into_iter();
    let blocks: Vec<&str> =
        blocks.filter(|(language, _)| *language == "python").map(|(_, text)| text).collect();
    blocks.try_into().expect("two blocks of Python")
}

/// The key of an agent that the walk-through registered and verified.
fn verified_agent(url: &str) -> String {
    let steps = walk_through(url);
    let registered: Value = steps
        .iter()
        .find(|step| step.shown.is_some())
        .and_then(|step| serde_json::from_str(&step.printed).ok())
        .expect("an answer");
    registered["data"]["apiKey"].as_str().expect("a key").to_owned()
}

/// What a scripted server answers.
enum Reply {
    Answer(String),
    /// The connection ends without an answer.
    Broken,
}

impl Reply {
    fn answer(status: u16, retry_after: Option<&str>, body: &str) -> Self {
        let retry_after = retry_after.map_or(String::new(), |value| format!("Retry-After: {value}\r\n"));
        let length = body.len();
        Self::Answer(format!(
            "HTTP/1.1 {status} As-Scripted\r\n{retry_after}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
    }

    fn accepted(interval: u64) -> Self {
        Self::answer(200, None, &json!({ "ok": true, "data": { "intervalSeconds": interval } }).to_string())
    }

    fn refused(status: u16, retry_after: Option<&str>) -> Self {
        Self::answer(status, retry_after, r#"{"ok": false}"#)
    }
}

/// A server that answers as its script says, then with 500, and remembers what it was asked.
struct Scripted {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone)]
struct Seen {
    path: String,
    body: Value,
}

impl Scripted {
    fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut script, log) = (script.into_iter().collect::<VecDeque<_>>(), Arc::clone(&seen));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let request = read_request(&connection);
                log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                if let Reply::Answer(text) = script.pop_front().unwrap_or_else(|| Reply::refused(500, None)) {
                    connection.write_all(text.as_bytes()).expect("the answer is sent");
                }
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The status that each request said.
    fn statuses(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.body["status"].as_str().expect("a status").to_owned()).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }
}

fn read_request(connection: &TcpStream) -> Seen {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request line");
    let path = line.split(' ').nth(1).expect("a path").to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        match line.trim_end().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().expect("a length");
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    Seen { path, body: serde_json::from_slice(&body).expect("JSON") }
}

// ---- The pages ----

#[test]
fn every_link_to_a_file_of_the_repository_leads_somewhere() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs");
    let docs = docs.map(|entry| entry.expect("a page").path());
    for page in docs.chain([root.join("README.md"), root.join("CHANGELOG.md")]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let target =
                if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            let problem = format!("{}: {link}", page.display());
            assert!(target.exists(), "{problem}");
            let target = if heading.is_empty() { continue } else { std::fs::read_to_string(target) };
            assert!(headings(&target.expect(&problem)).any(|it| it == heading), "{problem}");
        }
    }
}

/// A page's headings, as links name them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles =
        text.lines().filter_map(|line| line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' '));
    titles.map(|title| {
        let kept = title.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
    })
}

// ---- Tools ----

/// The fenced blocks under a heading of the README, each with its language.
fn blocks(heading: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = README.split_once(&format!("\n{heading}\n")).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let fences: Vec<&str> = section.split("```").collect();
    fences.iter().skip(1).step_by(2).map(|block| block.split_once('\n').expect("a language")).collect()
}

/// The real executable, over an engine in memory.
struct Rollcall {
    process: Child,
    url: String,
    greeting: Vec<String>,
}

impl Rollcall {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .args(["--memory", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("rollcall starts");
        let lines = BufReader::new(process.stdout.as_mut().expect("its output")).lines();
        let lines = lines.map(|line| line.expect("a line").trim().to_owned());
        let greeting: Vec<String> = lines.take_while(|line| line != "Ctrl-C stops it.").collect();
        let url = greeting.first().and_then(|line| line.strip_prefix("Rollcall listens on "));
        Self { url: url.expect("where it listens").to_owned(), process, greeting }
    }

    /// The line of its greeting that begins like this.
    fn said(&self, beginning: &str) -> String {
        let said = self.greeting.iter().find(|line| line.starts_with(beginning));
        said.unwrap_or_else(|| panic!("no {beginning:?} in {:#?}", self.greeting)).clone()
    }
}

impl Drop for Rollcall {
    fn drop(&mut self) {
        self.process.kill().expect("rollcall ends");
        self.process.wait().expect("rollcall has ended");
    }
}

struct Ran {
    output: String,
    errors: String,
}

/// Runs a program that reads `input`.
fn run(program: &str, arguments: &[&str], input: &str) -> Ran {
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need {program} on the PATH: {error}"));
    process.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let ended = process.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let ran = Ran { output: text(ended.stdout), errors: text(ended.stderr) };
    assert!(ended.status.success(), "{program}: {}\n{}{}", ended.status, ran.output, ran.errors);
    ran
}
