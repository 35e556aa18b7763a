//! Runs a real Lambda executable against a Lambda Runtime API on loopback, one invocation at a
//! time, as Lambda does.
//!
//! ```ignore
//! let executable = env!("CARGO_BIN_EXE_register");
//! let lambda = LambdaProcess::start(executable, [("AGENTS_TABLE", &table)]).await;
//! let answer = lambda.invoke(fixture("apigw-v2-register.json")).await.answer();
//! assert_eq!(answer["statusCode"], 200);
//! ```

#![allow(dead_code, reason = "the benches include this module too, and each of the two uses a part of it")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::loopback::{Broken, LoopbackServer, PATIENCE, Request, Response, patiently, whole, within};

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";

/// The deadline of invocations that do not ask for another.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running Lambda executable. Dropping it kills the process.
pub struct LambdaProcess {
    function: String,
    pid: u32,
    started: Instant,
    api: Arc<RuntimeApi>,
    invocations: mpsc::UnboundedSender<Pending>,
    logs: watch::Receiver<Vec<String>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    kill: mpsc::Sender<()>,
    _server: LoopbackServer,
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// The function answered.
    Answer(Value),
    /// The function reported an error; or the process ended, which Lambda calls
    /// `Runtime.ExitError`.
    Error {
        /// The error's type, as the runtime names it.
        error_type: String,
        /// The error's message.
        message: String,
    },
}

impl Invocation {
    /// The answer.
    ///
    /// # Panics
    /// When it was an error.
    #[track_caller]
    pub fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            Self::Error { error_type, message } => panic!("the function failed with {error_type}: {message}"),
        }
    }

    /// Whether it was an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error { .. })
    }
}

/// What a runtime reports about an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorReport {
    /// The error's type, as the runtime names it.
    pub error_type: String,
    /// The error's message.
    pub error_message: String,
}

impl LambdaProcess {
    /// Starts an executable with nothing in its environment but what Lambda sets and `environment`,
    /// which wins. Returns when the function waits for its first invocation, or has ended.
    pub async fn start<K, V>(
        executable: impl AsRef<Path>,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let lambda = Self::spawn(executable, environment).await;
        lambda.ready().await;
        lambda
    }

    /// As [`start`](Self::start), but returns at once.
    pub async fn spawn<K, V>(
        executable: impl AsRef<Path>,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let executable = executable.as_ref();
        let function = executable.file_stem().expect("an executable's path").to_string_lossy().into_owned();
        Self::spawn_command(function, Command::new(executable), environment).await
    }

    /// As [`spawn`](Self::spawn), for a function whose executable takes arguments: an interpreter, or a tool that
    /// watches it.
    pub async fn spawn_command<K, V>(
        function: String,
        mut command: Command,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let (invocations, queue) = mpsc::unbounded_channel();
        let api = Arc::new(RuntimeApi::new(queue));
        let serving = api.clone();
        let server = LoopbackServer::start(move |request| serving.clone().serve(request)).await;

        command
            .env_clear()
            .envs(lambda_environment(&function, &server.address().to_string()))
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {function}: {error}"));
        let pid = child.id().expect("a process that was not waited for");

        let (log, logs) = watch::channel(Vec::new());
        let log = Arc::new(log);
        let mut readers = JoinSet::new();
        readers.spawn(read_lines(child.stdout.take(), log.clone()));
        readers.spawn(read_lines(child.stderr.take(), log));
        let (kill, killed) = mpsc::channel(1);
        let (exited, exit) = watch::channel(None);
        tokio::spawn(supervise(child, readers, killed, exited));

        Self { function, pid, started, api, invocations, logs, exit, kill, _server: server }
    }

    /// Waits until the function asks for its next invocation, or has ended.
    pub async fn ready(&self) {
        let mut progress = self.api.progress.subscribe();
        let asks = progress.wait_for(|progress| progress.polls > progress.deliveries);
        tokio::select! {
            _ = patiently("the function's next poll", asks) => {}
            _ = self.ended() => {}
        }
    }

    /// Invokes the function. Invocations that are made together are processed one by one.
    ///
    /// # Panics
    /// When there is neither an answer nor an error within a minute after the deadline.
    pub async fn invoke(&self, event: Value) -> Invocation {
        self.invoke_with_deadline(event, DEADLINE).await
    }

    /// As [`invoke`](Self::invoke), and tells the function that its time ends `remaining` from now.
    /// Unlike in Lambda, a function that does not keep to it may still answer.
    pub async fn invoke_with_deadline(&self, event: Value, remaining: Duration) -> Invocation {
        let (reply, replied) = oneshot::channel();
        let pending = Pending { event, function: self.function.clone(), deadline: now() + remaining, reply };
        // Refused only if the API is gone, and this process holds it.
        self.invocations.send(pending).ok();
        tokio::select! {
            biased;
            Ok(invocation) = within(remaining + PATIENCE, "the function's answer", replied) => invocation,
            status = self.ended() => Invocation::Error {
                error_type: "Runtime.ExitError".to_owned(),
                message: format!("the runtime ended ({status}): {}", self.logs().join("\n")),
            },
        }
    }

    /// What the function reported about its failed start, if it did.
    pub fn init_error(&self) -> Option<ErrorReport> {
        self.api.state().init_error.clone()
    }

    /// How often the function has asked for an invocation.
    pub fn polls(&self) -> usize {
        self.api.progress.borrow().polls
    }

    /// When the process was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How long after its start the function first asked for an invocation, if it has.
    pub fn time_to_first_poll(&self) -> Option<Duration> {
        Some(self.api.state().first_poll? - self.started)
    }

    /// How long after its start the function first answered, or reported an error, if it has.
    pub fn time_to_first_answer(&self) -> Option<Duration> {
        Some(self.api.state().first_answer? - self.started)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process runs.
    pub fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// What the process has written so far, standard output and standard error, line by line.
    /// Complete once it has ended.
    pub fn logs(&self) -> Vec<String> {
        self.logs.borrow().clone()
    }

    /// Waits for a line that contains `text`, and returns the first one.
    pub async fn logged(&self, text: &str) -> String {
        let mut logs = self.logs.clone();
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let what = format!("a log line with {text:?}");
        let lines = patiently(&what, logs.wait_for(|lines| find(lines).is_some())).await;
        let lines = lines.unwrap_or_else(|_| panic!("the process ended without {what}"));
        find(&lines).expect("the line that was waited for")
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await;
        status.expect("the process's supervisor").expect("the status that was waited for")
    }

    /// Kills the process, and waits for its end.
    pub async fn stop(&self) -> ExitStatus {
        self.kill.try_send(()).ok();
        patiently("the end of the process", self.ended()).await
    }
}

/// The environment that Lambda gives to every function.
fn lambda_environment(function: &str, runtime_api: &str) -> HashMap<&'static str, String> {
    HashMap::from([
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{function}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "test".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_SESSION_TOKEN", "test".to_owned()),
        ("_HANDLER", "bootstrap".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ])
}

#[expect(clippy::disallowed_methods, reason = "a deadline is given on the real clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

async fn read_lines(output: Option<impl AsyncRead + Unpin>, log: Arc<watch::Sender<Vec<String>>>) {
    let mut lines = BufReader::new(output.expect("a piped output")).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        log.send_modify(|lines| lines.push(line));
    }
}

/// Waits for the end of the process, brings it about when the owner says so or is gone, and
/// announces it once all of the output has been read.
async fn supervise(
    mut child: Child,
    readers: JoinSet<()>,
    mut killed: mpsc::Receiver<()>,
    exited: watch::Sender<Option<ExitStatus>>,
) {
    let ended = tokio::select! {
        ended = child.wait() => ended,
        _ = killed.recv() => {
            child.start_kill().ok();
            child.wait().await
        }
    };
    readers.join_all().await;
    exited.send_replace(Some(ended.expect("the child's exit status")));
}

/// An invocation that the function has not answered yet.
struct Pending {
    event: Value,
    function: String,
    deadline: SystemTime,
    reply: oneshot::Sender<Invocation>,
}

/// The Lambda Runtime API.
struct RuntimeApi {
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Pending>>,
    progress: watch::Sender<Progress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct Progress {
    polls: usize,
    deliveries: usize,
}

#[derive(Default)]
struct State {
    under_way: HashMap<String, oneshot::Sender<Invocation>>,
    init_error: Option<ErrorReport>,
    first_poll: Option<Instant>,
    first_answer: Option<Instant>,
}

impl RuntimeApi {
    fn new(queue: mpsc::UnboundedReceiver<Pending>) -> Self {
        Self {
            queue: tokio::sync::Mutex::new(queue),
            progress: watch::Sender::new(Progress::default()),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the API's state")
    }

    async fn serve(self: Arc<Self>, request: Request) -> Result<Response, Broken> {
        let path = request.uri().path();
        let route: Vec<_> = path
            .strip_prefix("/2018-06-01/runtime/")
            .map(|path| path.split('/').collect())
            .unwrap_or_default();
        match (request.method(), route.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => Ok(self.end(id, answer_of(request.body()))),
            (&Method::POST, ["invocation", id, "error"]) => {
                Ok(self.end(id, error_of(request.headers(), request.body()).into()))
            }
            (&Method::POST, ["init", "error"]) => {
                let report = error_of(request.headers(), request.body());
                self.state().init_error = Some(report);
                Ok(accepted())
            }
            _ => Ok(refused(StatusCode::NOT_FOUND, "the Runtime API has no such resource")),
        }
    }

    /// Waits for an invocation, and hands it to the function.
    async fn next(&self) -> Result<Response, Broken> {
        self.state().first_poll.get_or_insert_with(Instant::now);
        self.progress.send_modify(|progress| progress.polls += 1);
        // The other end is gone when the test has dropped the process.
        let pending = self.queue.lock().await.recv().await.ok_or(Broken)?;
        let mut count = 0;
        self.progress.send_modify(|progress| {
            progress.deliveries += 1;
            count = progress.deliveries;
        });
        let id = format!("00000000-0000-4000-8000-{count:012x}");
        let deadline = pending
            .deadline
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a deadline after 1970")
            .as_millis();
        let response = hyper::Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", &id)
            .header("lambda-runtime-deadline-ms", deadline.to_string())
            .header(
                "lambda-runtime-invoked-function-arn",
                format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{}", pending.function),
            )
            .header(
                "lambda-runtime-trace-id",
                format!("Root=1-00000000-{count:024x};Parent={count:016x};Sampled=0"),
            )
            .body(whole(pending.event.to_string()))
            .expect("a valid response");
        self.state().under_way.insert(id, pending.reply);
        Ok(response)
    }

    fn end(&self, id: &str, invocation: Invocation) -> Response {
        let mut state = self.state();
        state.first_answer.get_or_insert_with(Instant::now);
        match state.under_way.remove(id) {
            Some(reply) => {
                // A test that no longer waits has dropped the other end.
                reply.send(invocation).ok();
                accepted()
            }
            None => refused(StatusCode::BAD_REQUEST, "no such invocation is under way"),
        }
    }
}

fn answer_of(body: &[u8]) -> Invocation {
    match serde_json::from_slice(body) {
        Ok(answer) => Invocation::Answer(answer),
        Err(error) => Invocation::Error {
            error_type: "Runtime.InvalidResponse".to_owned(),
            message: format!("the answer is not JSON: {error}"),
        },
    }
}

fn error_of(headers: &HeaderMap, body: &[u8]) -> ErrorReport {
    serde_json::from_slice(body).unwrap_or_else(|_| ErrorReport {
        error_type: headers
            .get("lambda-runtime-function-error-type")
            .and_then(|name| name.to_str().ok())
            .unwrap_or("Runtime.Unknown")
            .to_owned(),
        error_message: String::from_utf8_lossy(body).into_owned(),
    })
}

impl From<ErrorReport> for Invocation {
    fn from(report: ErrorReport) -> Self {
        Self::Error { error_type: report.error_type, message: report.error_message }
    }
}

fn accepted() -> Response {
    respond(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

fn refused(status: StatusCode, message: &str) -> Response {
    respond(status, &json!({"errorType": "InvalidRequest", "errorMessage": message}))
}

fn respond(status: StatusCode, body: &Value) -> Response {
    hyper::Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(whole(body.to_string()))
        .expect("a valid response")
}
