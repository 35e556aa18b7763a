//! The system under test: the local system over the real engine, behind a proxy that counts and breaks.
//!
//! `ROLLCALL_TEST_DYNAMODB=URL` puts another DynamoDB endpoint in the engine's place. Over one that counts no units of
//! indexes and of `BatchGetItem`, as an emulator of AWS, what asserts these fails, and nothing else:
//! `what_channels_cost_is_what_the_document_says`, `a_page_of_200_of_10_000_costs_the_same_wherever_it_is`,
//! `a_page_with_a_rare_status_looks_at_a_thousand_agents_and_may_be_short`,
//! `the_index_of_absences_costs_a_steady_heartbeat_nothing_also_of_an_agent_in_it` and
//! `the_indexes_are_paid_by_creations_changes_and_removals_alone`; and
//! `clients_of_either_contract_notice_nothing_of_the_features`, which runs most tests once more.

pub mod document;
pub mod dynamodb_proxy;
pub mod equipped;
pub mod loopback;
pub mod model;
pub mod receiver;
pub mod runtime_api;
pub mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use local::{Clock, Database, Options, StreamInvocation, System};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use shared::config::{Config, Setting, env};
use shared::domain::event::EventIds;
use shared::runtime::app::REQUEST_BUDGET;
use shared::store::{Endpoint, Store, Timeouts};
use shared::time::Timestamp;
use shared::wire::sender::Patience;
use tokio::net::TcpListener;

use document::DOCUMENT;
use dynamodb_proxy::DynamoDbProxy;
use equipped::are_equipped;

/// Where a test's clock stands at first: 2037-01-01T00:00:30Z, in the middle of a rate-limit window, and to come: an
/// engine that deletes expired rows by the machine's clock takes none of the tests' away.
pub const START: Timestamp = Timestamp::from_millis(2_114_380_830_000);

/// How a system under test is to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Instead of the shipped one.
    template: Option<PathBuf>,
    parameters: BTreeMap<String, String>,
    timeouts: Timeouts,
    request_budget: Duration,
    patience: Patience,
    /// Where its clock stands; without that it is the machine's.
    stands_at: Option<Timestamp>,
    /// How often schedules run by themselves.
    every: Option<Duration>,
}

/// So patient that a busy machine changes no outcome: a request that is given up and sent again counts twice.
pub const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(30),
    attempt: Duration::from_secs(30),
    operation: Duration::from_mins(1),
};

impl Setup {
    /// Another value for one of the template's parameters.
    pub fn parameter(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.insert(name.to_owned(), value.to_string());
        self
    }

    /// Deliveries that wait no longer than so for a receiver that hangs.
    pub fn patience(self, attempt: Duration) -> Self {
        Self { patience: Patience { attempt, ..self.patience }, ..self }
    }

    /// Another template, which may allow functions too little: calls that are refused do not fail the test.
    pub fn template(self, file: impl Into<PathBuf>) -> Self {
        Self { template: Some(file.into()), ..self }
    }

    /// Requests that are answered within so long, whatever waits.
    pub fn request_budget(self, request_budget: Duration) -> Self {
        Self { request_budget, ..self }
    }

    /// Functions that wait no longer than on Lambda.
    pub fn impatient(self) -> Self {
        Self { timeouts: Timeouts::default(), request_budget: REQUEST_BUDGET, ..self }
    }

    /// A clock that stands at this moment first.
    pub fn standing_at(self, stands_at: Timestamp) -> Self {
        Self { stands_at: Some(stands_at), ..self }
    }

    /// The machine's own clock, and schedules that run by themselves, as `cargo run` has them, this often.
    #[allow(dead_code, reason = "the tests in a browser need it, and they alone")]
    pub fn running(self, every: Duration) -> Self {
        Self { stands_at: None, every: Some(every), ..self }
    }

    /// Starts the system.
    pub async fn start(self) -> TestSystem {
        let engine = dynamodb_endpoint().await;
        let proxy = DynamoDbProxy::start(&engine).await;
        let prefix = format!("rollcall-test-{:032x}", rand_u128());
        let is_shipped = self.template.is_none();
        let options = Options {
            template: self.template.unwrap_or(Options::default().template),
            parameters: self.parameters,
            database: Database::Endpoint(proxy.endpoint().to_owned()),
            table_prefix: prefix.clone(),
            clock: self.stands_at.map_or_else(Clock::default, Clock::standing_at),
            schedules: self.every.map(Some),
            timeouts: self.timeouts,
            request_budget: self.request_budget,
            patience: self.patience,
            ..Options::default()
        };
        let limit = options.parameters.get("RateLimitPerMinute").cloned().unwrap_or_else(|| "60".to_owned());
        let system = System::start(options).await.expect("the system starts");
        let system = TestSystem {
            url: format!("http://{}", system.address()),
            dynamodb: client(&engine),
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("an HTTP client"),
            system,
            proxy,
            prefix,
            is_shipped,
            limit,
        };
        if are_equipped() {
            system.equip().await;
        }
        system.proxy.take();
        system
    }
}

/// The shipped template with these changes, in a file of this name for a test of its own.
pub fn changed_template(name: &str, changes: &[(&str, &str)]) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("template.yaml");
    let mut text = std::fs::read_to_string(shipped).expect("the template");
    for (old, new) in changes {
        assert_eq!(text.matches(old).count(), 1, "{old}");
        text = text.replace(old, new);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).expect("a file");
    file
}

fn rand_u128() -> u128 {
    uuid::Uuid::now_v7().as_u128()
}

/// The engine that the tests run over: a new one in memory, or the one that the environment names.
pub async fn dynamodb_endpoint() -> String {
    if let Some(url) = env("ROLLCALL_TEST_DYNAMODB") {
        return url;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let engine = dynoxide::Database::memory().expect("an engine");
    tokio::spawn(dynoxide::server::serve_on(listener, engine));
    url
}

/// A client of the tests' own, past the proxy.
pub fn client(url: &str) -> Client {
    let any_credentials = env("AWS_ACCESS_KEY_ID").is_none();
    let url = Some(url.to_owned());
    let endpoint = Endpoint::from_env().expect("a sound environment");
    Endpoint { url, any_credentials, timeouts: PATIENT, ..endpoint }.client()
}

/// A running system of a test's own, with a clock that stands still until the test advances it.
pub struct TestSystem {
    pub system: System,
    /// Between the system and the engine.
    pub proxy: DynamoDbProxy,
    /// Past the proxy.
    pub dynamodb: Client,
    http: reqwest::Client,
    url: String,
    prefix: String,
    is_shipped: bool,
    /// The deployment's, of heartbeats a minute.
    limit: String,
}

/// Every test is one of the shipped policies, too: a function that needs more than it may fails the test.
impl Drop for TestSystem {
    fn drop(&mut self) {
        let refused = self.system.refused_permissions();
        for (function, permission) in &refused {
            eprintln!("the template does not allow {function}: {permission}");
        }
        assert!(std::thread::panicking() || !self.is_shipped || refused.is_empty(), "{refused:?}");
    }
}

/// A row as the table has it.
pub type Row = BTreeMap<String, AttributeValue>;

/// A string attribute.
pub fn text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name)?.as_s().ok().map(String::as_str)
}

/// A number attribute.
pub fn number(row: &Row, name: &str) -> Option<i64> {
    row.get(name)?.as_n().ok()?.parse().ok()
}

/// A number, to be written.
pub fn n(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A string, to be written.
pub fn s(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

/// The values of `RateLimit-Policy` and `RateLimit` that an answer should have.
pub fn quota(policy: &str, limit: u32, remaining: u32, resets_in: u32) -> (String, String) {
    (format!("\"{policy}\";q={limit};w=60"), format!("\"{policy}\";r={remaining};t={resets_in}"))
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The envelope's `data`, of a 200.
    #[track_caller]
    pub fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.json()["ok"], true, "{}", self.text);
        self.json()["data"].clone()
    }

    /// Status and the envelope's error code.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String) {
        assert_eq!(self.json()["ok"], false, "{}", self.text);
        (self.status, self.json()["error"]["code"].as_str().expect("a code").to_owned())
    }

    /// The envelope's error message.
    #[track_caller]
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("a message").to_owned()
    }

    /// The values of `RateLimit-Policy` and `RateLimit`, of a counted answer.
    #[track_caller]
    pub fn quota(&self) -> (String, String) {
        let value = |name| self.header(name).unwrap_or_else(|| panic!("no {name}: {}", self.text)).to_owned();
        (value("ratelimit-policy"), value("ratelimit"))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An agent as its own client knows it.
#[derive(Clone, Debug)]
pub struct TestAgent {
    pub id: String,
    pub key: String,
}

impl TestSystem {
    /// A system as `cargo run` starts it: open registration, agents verify themselves.
    pub async fn start() -> Self {
        Self::with().start().await
    }

    /// The same, to be changed before it starts.
    pub fn with() -> Setup {
        let parameters = [("Registration", "open"), ("Approval", "key"), ("WebhookTargets", "any")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let patience = Patience { connect: PATIENT.connect, attempt: PATIENT.attempt };
        let (timeouts, request_budget) = (PATIENT, PATIENT.operation);
        Setup {
            template: None,
            parameters,
            timeouts,
            request_budget,
            patience,
            stands_at: Some(START),
            every: None,
        }
    }

    /// Sends a request with these headers and this body, as it is. The answer is one that docs/openapi.yaml knows, and so
    /// is the request, if it is granted.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        let body = body.into();
        let sent = body.as_bytes().unwrap_or_default().to_vec();
        let reply = self.send_off_contract(method.clone(), path, headers, body).await;
        if (200..300).contains(&reply.status)
            && let Err(problem) = DOCUMENT.judge_request(&method, path, &sent)
        {
            let sent = String::from_utf8_lossy(&sent);
            panic!("{method} {path} was granted against the document: {problem}\n{sent}");
        }
        reply
    }

    /// The same for a request that no client should send and that is granted all the same. The answer is documented.
    pub async fn send_off_contract(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let reply = Reply { status, headers, text: response.text().await.expect("a body") };
        if let Err(problem) = DOCUMENT.judge_answer(&method, path, &reply) {
            panic!("{method} {path} answered against the document: {problem}\n{status} {}", reply.text);
        }
        if are_equipped() { Box::pin(self.as_equipped(&method, path, reply)).await } else { reply }
    }

    /// `POST` with a JSON body and no header.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[], body.to_string()).await
    }

    /// `POST` with a JSON body and these headers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        self.send(Method::POST, path, headers, body.to_string()).await
    }

    /// `GET` without a header.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    /// A pending agent.
    pub async fn registered(&self, name: &str) -> TestAgent {
        let data = self.post("/api/agents/register", &json!({ "name": name })).await.data();
        let text = |field: &str| data[field].as_str().expect("a string").to_owned();
        TestAgent { id: text("agentId"), key: text("apiKey") }
    }

    /// An active agent that has not sent a heartbeat yet.
    pub async fn verified(&self, name: &str) -> TestAgent {
        let agent = self.registered(name).await;
        self.post("/api/agents/verify", &json!({ "apiKey": agent.key })).await.data();
        agent
    }

    /// A registration, as it is.
    pub async fn register(&self, body: &Value) -> Reply {
        self.post("/api/agents/register", body).await
    }

    /// A verification by this key, in the body.
    pub async fn verify(&self, key: &str) -> Reply {
        self.post("/api/agents/verify", &json!({ "apiKey": key })).await
    }

    /// Posts one event, or a batch, with the agent's key in a header.
    pub async fn post_events(&self, agent: &TestAgent, body: &Value) -> Reply {
        self.post_with("/api/agents/events", &[("x-agent-token", &agent.key)], body).await
    }

    /// Posts an event without a payload.
    pub async fn post_event(&self, agent: &TestAgent, event: &str) -> Reply {
        self.post_events(agent, &json!({ "event": event })).await
    }

    /// A heartbeat in the envelope.
    pub async fn heartbeat(&self, agent: &TestAgent, status: &str) -> Reply {
        self.post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": status })).await
    }

    /// Moves the functions' clock on.
    pub fn advance(&self, duration: Duration) {
        self.system.clock().advance(duration);
    }

    /// Where the system answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The functions' clock.
    pub fn now(&self) -> Timestamp {
        self.system.clock().now()
    }

    /// Runs the sweep once, as if it had run each minute before; its report.
    pub async fn sweep(&self) -> Value {
        self.try_sweep().await.expect("a whole sweep")
    }

    /// The same, or why it failed.
    pub async fn try_sweep(&self) -> Result<Value, String> {
        self.has_heard_until(self.now()).await;
        self.lone_sweep().await
    }

    /// Runs the sweep once. It was blind since the sweep before, if that is longer ago than two and a half minutes.
    pub async fn lone_sweep(&self) -> Result<Value, String> {
        self.run_job("sweep", &json!({ "source": "rollcall.sweep" })).await
    }

    /// Writes down that some sweep heard until then, past all rules: time that a test advances at once is not time in
    /// which nothing could be heard.
    pub async fn has_heard_until(&self, now: Timestamp) {
        let request = self.dynamodb.update_item().table_name(self.table("AlertsTable"));
        let request = request.key("alert_log", s("control")).key("alert_key", s("control"));
        let request = request.update_expression("SET heard_at = :now");
        let request = request.expression_attribute_values(":now", n(now.as_millis()));
        request.send().await.expect("a control row");
    }

    /// Delivers what is due, once; its report.
    pub async fn deliver(&self) -> Value {
        self.run_job("deliver", &json!({ "source": "rollcall.deliver" })).await.expect("a whole run")
    }

    /// Hands what the streams hold to their functions; what came of each invocation.
    pub async fn pump(&self) -> Vec<StreamInvocation> {
        self.system.pump().await.expect("streams that can be read")
    }

    /// Invokes a job, as IAM or a schedule would.
    pub async fn run_job(&self, binary: &str, input: &Value) -> Result<Value, String> {
        let answer = self.system.run_job(binary, &input.to_string()).await.expect("a job of that name");
        answer.map_err(|error| error.to_string())
    }

    /// Mints a token; the answer of `mint-token`.
    pub async fn mint(&self, request: &Value) -> Value {
        self.run_job("mint-token", request).await.expect("a token")
    }

    /// A new operator token.
    pub async fn operator_token(&self) -> String {
        let minted = self.mint(&json!({ "kind": "operator" })).await;
        minted["token"].as_str().expect("a token").to_owned()
    }

    /// A new enrollment token for all boards, with these fields besides.
    pub async fn enrollment_token(&self, fields: Value) -> String {
        let mut request = json!({ "kind": "enrollment" });
        if fields.get("board_id").is_none() {
            request["all_boards"] = true.into();
        }
        for (name, value) in fields.as_object().expect("fields") {
            request[name] = value.clone();
        }
        self.mint(&request).await["token"].as_str().expect("a token").to_owned()
    }

    /// The store as a function would have it that reads these settings, without its policy. Days are 30.
    pub fn store(&self, reads: &[Setting]) -> Store {
        let value = |name: &str| match name.strip_suffix("_TABLE") {
            Some(table) => self.table(&format!("{}{}Table", &table[..1], table[1..].to_lowercase())),
            None => "30".to_owned(),
        };
        let config = Config::read(reads, |name| Some(value(name))).expect("a sound configuration");
        Store::new(self.dynamodb.clone(), &config, EventIds::default())
    }

    /// The name of a table, by its logical id in the template.
    pub fn table(&self, logical_id: &str) -> String {
        format!("{}-{logical_id}", self.prefix)
    }

    /// An agent's row, straight from the table.
    pub async fn row(&self, agent: &TestAgent) -> Row {
        let request = self.dynamodb.get_item().table_name(self.table("AgentsTable")).consistent_read(true);
        let output =
            request.key("agent_id", AttributeValue::S(agent.id.clone())).send().await.expect("a row");
        output.item.unwrap_or_default().into_iter().collect()
    }

    /// The rows of a partition of the events table, oldest first, markers included.
    pub async fn event_rows(&self, partition: &str) -> Vec<Row> {
        let mut pages = self
            .dynamodb
            .query()
            .table_name(self.table("EventsTable"))
            .key_condition_expression("agent_id = :partition")
            .expression_attribute_values(":partition", AttributeValue::S(partition.to_owned()))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut rows = Vec::new();
        while let Some(row) = pages.next().await {
            rows.push(row.expect("a row").into_iter().collect());
        }
        rows
    }

    /// All rows of a table, by its logical id in the template.
    pub async fn rows(&self, logical_id: &str) -> Vec<Row> {
        let request = self.dynamodb.scan().table_name(self.table(logical_id)).consistent_read(true);
        let mut pages = request.into_paginator().items().send();
        let mut rows = Vec::new();
        while let Some(row) = pages.next().await {
            rows.push(row.expect("a row").into_iter().collect());
        }
        rows
    }

    /// Sets an attribute of an agent's row, past all rules.
    pub async fn set(&self, agent: &TestAgent, attribute: &str, value: AttributeValue) {
        let request = self.dynamodb.update_item().table_name(self.table("AgentsTable"));
        let request = request.key("agent_id", AttributeValue::S(agent.id.clone()));
        let request = request.update_expression("SET #attribute = :value");
        let request = request.expression_attribute_names("#attribute", attribute);
        request.expression_attribute_values(":value", value).send().await.expect("an update");
    }

    /// The rows of an agent's events of one type, oldest first.
    pub async fn events_of(&self, agent: &TestAgent, event_type: &str) -> Vec<Row> {
        let mut rows = self.event_rows(&agent.id).await;
        rows.retain(|row| text(row, "event_type") == Some(event_type));
        rows
    }

    /// The payloads of an agent's events of one type, oldest first.
    pub async fn payloads(&self, agent: &TestAgent, event_type: &str) -> Vec<Value> {
        let payload = |row| serde_json::from_str(text(row, "payload").expect("a payload")).expect("JSON");
        self.events_of(agent, event_type).await.iter().map(payload).collect()
    }

    /// The types of an agent's events, oldest first.
    pub async fn event_types(&self, agent: &TestAgent) -> Vec<String> {
        let rows = self.event_rows(&agent.id).await;
        rows.iter().filter_map(|row| text(row, "event_type")).map(str::to_owned).collect()
    }

    /// The same in the order of the alphabet, for what happened at once.
    pub async fn sorted_event_types(&self, agent: &TestAgent) -> Vec<String> {
        let mut types = self.event_types(agent).await;
        types.sort();
        types
    }
}
