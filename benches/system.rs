//! The local system as its own process: the engine under everything that is measured, and the API that makes its
//! agents.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::calls::Call;
use crate::report::in_repository;

/// Registrations under way at once.
const REGISTERING: usize = 16;

/// The local system's table of agents.
pub const AGENTS_TABLE: &str = "rollcall-AgentsTable";

/// Its table of what was told, with the row that the sweep keeps its own state in.
pub const ALERTS_TABLE: &str = "rollcall-AlertsTable";

/// A running system. Dropping it kills the process.
pub struct System {
    process: Child,
    pub operator_token: String,
    /// The embedded engine's URL.
    pub dynamodb: String,
    url: String,
    http: reqwest::Client,
}

/// An agent as its own client knows it.
#[derive(Clone)]
pub struct Agent {
    pub id: String,
    pub key: String,
}

/// Who calls, and is called.
pub struct Fleet {
    /// An active agent, which makes the calls.
    pub agent: Agent,
    /// An active agent, to which operators do things.
    pub other: Agent,
    pub operator_token: String,
    pub enrollment_token: String,
    /// A channel that is paused: nothing is sent to it.
    pub channel_id: String,
}

impl System {
    /// A system with its data in `memory` or on disk.
    pub fn of(binaries: &Binaries, place: &str) -> Self {
        if place == "memory" { Self::in_memory(binaries) } else { Self::on_disk(binaries) }
    }

    /// A system in memory.
    pub fn in_memory(binaries: &Binaries) -> Self {
        Self::start(binaries, &["--memory"])
    }

    /// A system over the engine at this URL.
    pub fn over(binaries: &Binaries, dynamodb: &str) -> Self {
        // It keeps its operator's token there.
        let folder = binaries.empty_folder("over").to_string_lossy().into_owned();
        Self::start(binaries, &["--dynamodb", dynamodb, "--data", &folder])
    }

    /// A system on disk.
    fn on_disk(binaries: &Binaries) -> Self {
        let folder = binaries.empty_folder("data").to_string_lossy().into_owned();
        Self::start(binaries, &["--data", &folder])
    }

    /// A system whose limits are out of the way, and whose sweep does not run by itself.
    fn start(binaries: &Binaries, arguments: &[&str]) -> Self {
        let mut command = Command::new(binaries.path("rollcall-local"));
        command.args(["--port", "0", "--sweep-every", "1000000"]).args(arguments);
        command.arg("--template").arg(boundless_template(binaries));
        for limit in ["RateLimitPerMinute", "RegisterLimitPerIp", "VerifyFailureLimitPerIp"] {
            command.args(["--parameter", &format!("{limit}=1000000000")]);
        }
        if !arguments.contains(&"--dynamodb") {
            command.args(["--dynamodb-port", "0"]);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the local system");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (mut url, mut dynamodb) = <(String, String)>::default();
        let mut line = String::new();
        let operator_token = loop {
            line.clear();
            assert!(output.read_line(&mut line).is_ok_and(|length| length > 0), "the local system ended");
            if let Some(address) = line.trim().strip_prefix("Rollcall listens on ") {
                address.clone_into(&mut url);
            }
            if let Some((_, engine)) = line.split_once("DynamoDB        ") {
                engine.split_whitespace().next().expect("a URL").clone_into(&mut dynamodb);
            }
            if let Some((_, token)) = line.split_once("operator token  ") {
                break token.split_whitespace().next().expect("a token").to_owned();
            }
        };
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { process, operator_token, dynamodb, url, http }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where agents send their heartbeats.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn heartbeat_url(&self) -> String {
        format!("{}/api/agents/heartbeat", self.url)
    }

    /// Makes a call; its status and its answer.
    pub async fn call(&self, call: &Call) -> (u16, Value) {
        let mut request = self.http.request(call.method.clone(), format!("{}{}", self.url, call.path));
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let answer = request.body(call.body.clone()).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// `POST` without a header, which must succeed.
    async fn post(&self, path: &str, headers: &[(&'static str, &str)], body: &Value) -> Value {
        let (status, answer) = self.call(&Call::new("", "", Method::POST, path, headers, body)).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// An active agent that has not sent a heartbeat yet.
    pub async fn agent(&self, name: &str) -> Agent {
        let registered = self.post("/api/agents/register", &[], &json!({ "name": name })).await;
        let text = |field: &str| registered["data"][field].as_str().expect("text").to_owned();
        let agent = Agent { id: text("agentId"), key: text("apiKey") };
        self.post("/api/agents/verify", &[], &json!({ "apiKey": agent.key })).await;
        agent
    }

    /// Many of them.
    pub async fn agents(&self, count: usize) -> Vec<Agent> {
        let register = async |first: usize| {
            let mut agents = Vec::new();
            for number in (first..count).step_by(REGISTERING) {
                agents.push(self.agent(&format!("agent-{number}")).await);
            }
            agents
        };
        let all = join_all((0..REGISTERING).map(register)).await;
        all.into_iter().flatten().collect()
    }

    pub async fn fleet(&self) -> Fleet {
        let bearer = format!("Bearer {}", self.operator_token);
        let enrollment = json!({ "kind": "enrollment", "all_boards": true });
        let headers = [("authorization", bearer.as_str())];
        let token = self.post("/api/v1/tokens", &headers, &enrollment).await;
        let webhook = json!({ "kind": "webhook", "url": "http://127.0.0.1:9/" });
        let channel = self.post("/api/v1/channels", &headers, &webhook).await;
        let channel_id = channel["id"].as_str().expect("an id").to_owned();
        let pause = json!({ "state": "paused" });
        let path = format!("/api/v1/channels/{channel_id}");
        let (status, answer) = self.call(&Call::new("", "", Method::PATCH, path, &headers, &pause)).await;
        assert_eq!(status, 200, "{answer}");
        Fleet {
            agent: self.agent("agent").await,
            other: self.agent("other").await,
            operator_token: self.operator_token.clone(),
            enrollment_token: token["token"].as_str().expect("a token").to_owned(),
            channel_id,
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The shipped template without upper bounds, so that one agent may send heartbeats as fast as it can.
fn boundless_template(binaries: &Binaries) -> PathBuf {
    let shipped = std::fs::read_to_string(in_repository("template.yaml")).expect("the template");
    let bounds = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("MaxValue:") && !line.starts_with("AllowedPattern:")
    };
    let path = binaries.folder().join("template.yaml");
    std::fs::write(&path, shipped.lines().filter(bounds).collect::<Vec<_>>().join("\n")).expect("a folder");
    path
}

/// The environment that the template gives to every function, on the local system's tables, with limits out of the
/// way and a single segment to sweep, as the engine likes it.
pub fn environment(dynamodb: &str) -> BTreeMap<String, String> {
    let given = [
        ("AGENTS_TABLE", AGENTS_TABLE),
        ("EVENTS_TABLE", "rollcall-EventsTable"),
        ("WINDOWS_TABLE", "rollcall-WindowsTable"),
        ("TOKENS_TABLE", "rollcall-TokensTable"),
        ("CHANNELS_TABLE", "rollcall-ChannelsTable"),
        ("SECRETS_TABLE", "rollcall-SecretsTable"),
        ("ALERTS_TABLE", ALERTS_TABLE),
        ("REGISTRATION", "open"),
        ("APPROVAL", "key"),
        ("RATE_LIMIT_PER_MINUTE", "1000000000"),
        ("MAX_PROMISE_SECONDS", "86400"),
        ("REGISTER_LIMIT_PER_IP", "1000000000"),
        ("VERIFY_FAILURE_LIMIT_PER_IP", "1000000000"),
        ("EVENT_RETENTION_DAYS", "30"),
        ("SYSTEM_EVENT_RETENTION_DAYS", "90"),
        ("PENDING_RETENTION_DAYS", "7"),
        ("SWEEP_SEGMENTS", "1"),
        ("SWEEP_EVERY_SECONDS", "60"),
        ("ALERT_RETENTION_DAYS", "30"),
        ("FORGET_AFTER_DAYS", "0"),
        ("ALERT_AFTER_MISSED", "3"),
        ("CANARY_URL", "off"),
        ("API_URL", "http://127.0.0.1"),
        ("WEBHOOK_TARGETS", "any"),
        ("TRUSTED_PROXY_HOPS", "0"),
        ("TRUSTED_ADDRESS_HEADER", "none"),
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
    ];
    given.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
