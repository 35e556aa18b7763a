//! The template's functions as Lambda runs them: one process each, with the environment that the template gives
//! it, on the tables that the template declares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use local::template::{Function, Place, Template};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use shared::time::Timestamp;
use shared::wire::route::without_mapping;

use crate::support::document::DOCUMENT;
use crate::support::runtime_api::LambdaProcess;
use crate::support::{Reply, TestAgent, TestSystem};

/// 2026-01-01T00:00:30Z: before whatever the machine's clock says.
const LONG_AGO: Timestamp = Timestamp::from_millis(1_767_225_630_000);

/// A deployment of a test's own. The local system made its tables and serves to look into them: its clock
/// stands still long ago, while the functions read the machine's.
pub struct Deployment {
    pub system: TestSystem,
    functions: Vec<Function>,
}

impl Deployment {
    /// Open registration, agents verify themselves.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same, with other values for some of the template's parameters.
    pub async fn with(parameters: &[(&str, &str)]) -> Self {
        let open = [("Registration", "open"), ("Approval", "key")];
        let given = open.iter().chain(parameters).map(|(name, value)| ((*name).into(), (*value).into()));
        let given: BTreeMap<String, String> = given.collect();
        let setup = given.iter().fold(TestSystem::with().standing_at(LONG_AGO), |setup, (name, value)| {
            setup.parameter(name, value)
        });
        let system = setup.start().await;
        let template =
            template(&given, &|logical_id| system.table(logical_id), system.url()).expect("the template");
        Self { system, functions: template.functions }
    }

    /// The environment that the template gives to the function of this binary, and where the database is.
    pub fn environment(&self, binary: &str) -> BTreeMap<String, String> {
        let function = self.functions.iter().find(|function| function.binary == binary);
        let mut environment = function.expect("a function of this binary").environment.clone();
        let endpoint = self.system.proxy.endpoint().to_owned();
        environment.insert("AWS_ENDPOINT_URL_DYNAMODB".to_owned(), endpoint);
        environment
    }

    /// Starts the function of this binary. It waits for its first invocation.
    pub async fn function(&self, binary: &str) -> LambdaProcess {
        self.function_with(binary, &[]).await
    }

    /// The same, with other values for some of its environment.
    pub async fn function_with(&self, binary: &str, changes: &[(&str, &str)]) -> LambdaProcess {
        let mut environment = self.environment(binary);
        if binary == "sweep" {
            // As if sweeps had run until now by the machine's clock, which is the function's.
            self.system.has_heard_until(Timestamp::now()).await;
        }
        environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let lambda = LambdaProcess::start(executable(binary), &environment).await;
        assert!(lambda.is_alive(), "{binary} ended: {}", lambda.logs().join("\n"));
        lambda
    }

    /// An agent that sent one heartbeat, when the local system's clock began to stand still: it is long silent.
    pub async fn silent_agent(&self, name: &str) -> TestAgent {
        let agent = self.system.verified(name).await;
        self.system.heartbeat(&agent, "healthy").await.data();
        agent
    }
}

/// Where Cargo put a function's executable: they all stand side by side.
pub fn executable(binary: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_register")).with_file_name(binary)
}

/// The names of all functions' binaries, as the template has them.
pub fn binaries() -> Vec<String> {
    let open = [("Registration", "open"), ("Approval", "key")];
    let open = open.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let functions = template(&open, &str::to_owned, "http://api").expect("the template").functions;
    functions.into_iter().map(|function| function.binary).collect()
}

/// The shipped template.
pub fn template(
    parameters: &BTreeMap<String, String>,
    table_name: &dyn Fn(&str) -> String,
    api_url: &str,
) -> Result<Template, String> {
    let text = std::fs::read_to_string(in_package("template.yaml")).expect("the template");
    let place = Place { table_name, api_url };
    Template::read("template.yaml", &text, parameters, place).map_err(|error| error.to_string())
}

/// A path in the package.
pub fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An event as AWS sends it.
pub fn fixture(name: &str) -> Value {
    let text = std::fs::read_to_string(in_package("tests/fixtures").join(name)).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// Events that no function behind the API understands, and what sends them.
pub fn events_of_the_wrong_kind() -> [(&'static str, Value); 3] {
    [
        ("scheduler", fixture("scheduler-sweep.json")),
        ("EventBridge", fixture("eventbridge-scheduled-event.json")),
        ("SQS", fixture("sqs-event.json")),
    ]
}

/// API Gateway's event for a `POST` with this body.
pub fn post(path: &str, body: &Value) -> Value {
    let mut event = fixture("apigw-v2-register.json");
    let body = body.to_string();
    event["headers"]["content-length"] = json!(body.len().to_string());
    event["body"] = json!(body);
    routed(event, "POST", path)
}

/// API Gateway's event for a request without a body.
pub fn request(method: &str, path: &str) -> Value {
    routed(fixture("apigw-v2-health.json"), method, path)
}

fn routed(mut event: Value, method: &str, path: &str) -> Value {
    let route = json!(format!("{method} {path}"));
    event["routeKey"] = route.clone();
    event["rawPath"] = json!(path);
    event["requestContext"]["routeKey"] = route;
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    event
}

/// The same event with another header.
pub fn with_header(mut event: Value, name: &str, value: &str) -> Value {
    event["headers"][name] = json!(value);
    event
}

/// Invokes a function behind the API; its answer as API Gateway passes it on, which is one that docs/openapi.yaml knows.
pub async fn call(lambda: &LambdaProcess, event: Value) -> Reply {
    let of_event = |place: &str| event.pointer(place).and_then(Value::as_str).expect("an event").to_owned();
    let method: Method = of_event("/requestContext/http/method").parse().expect("a method");
    let route = of_event("/routeKey");
    let of_default = || without_mapping(&of_event("/rawPath")).to_owned();
    let path = route.split_once(' ').map_or_else(of_default, |(_, path)| path.to_owned());
    let answer = lambda.invoke(event).await.answer();
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    let mut headers = HeaderMap::new();
    for (name, value) in answer["headers"].as_object().expect("headers") {
        let name: HeaderName = name.parse().expect("a header's name");
        headers.insert(name, HeaderValue::from_str(value.as_str().expect("text")).expect("a header's value"));
    }
    let status = answer["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
    let reply = Reply {
        status: status.expect("a status"),
        headers,
        text: answer["body"].as_str().unwrap_or_default().to_owned(),
    };
    if let Err(problem) = DOCUMENT.judge_answer(&method, &path, &reply) {
        panic!("{method} {path} answered against the document: {problem}\n{reply:?}");
    }
    reply
}

/// What the process logged, each line as the one JSON object that it must be.
#[track_caller]
pub fn log_records(lambda: &LambdaProcess) -> Vec<Value> {
    let parse = |line: &String| match serde_json::from_str::<Value>(line) {
        Ok(record) if record.is_object() => record,
        _ => panic!("a log line that is no JSON object: {line}"),
    };
    lambda.logs().iter().map(parse).collect()
}
