//! A proxy between an unmodified client of DynamoDB and any DynamoDB endpoint that speaks plain
//! HTTP. It counts the requests and the capacity that they consume, and breaks the wire where a
//! test asks for it.
//!
//! ```ignore
//! let proxy = DynamoDbProxy::start(&engine_url).await;
//! let client = client_for(proxy.endpoint());
//!
//! proxy.take();
//! heartbeat(&client).await;
//! let tally = proxy.take();
//! assert_eq!(tally.operations(), ["UpdateItem"]);
//! assert_eq!((tally.read_units(), tally.write_units()), (0.0, 1.0));
//!
//! let lost = proxy.inject(When::operation("UpdateItem").times(1), Fault::DropAnswer);
//! heartbeat(&client).await;
//! assert_eq!(lost.hits(), 1);
//! ```
//!
//! Requests are forwarded with `ReturnConsumedCapacity` set, so their signatures no longer fit: the
//! endpoint has to be one that does not verify them, as the embedded engine and DynamoDB Local.

#![allow(dead_code, reason = "the benches include this module too, and each of the two uses a part of it")]

use std::future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};

use super::loopback::{Broken, LoopbackServer, Request, Response, patiently, whole};

/// The operations that modify items.
const WRITES: [&str; 5] = ["BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"];

/// The operations that read items.
const READS: [&str; 5] = ["BatchGetItem", "GetItem", "Query", "Scan", "TransactGetItems"];

/// A counting and fault-injecting proxy on loopback. Dropping it closes its port and every
/// connection.
pub struct DynamoDbProxy {
    server: LoopbackServer,
    endpoint: String,
    wire: Arc<Wire>,
}

impl DynamoDbProxy {
    /// Starts a proxy on a free port before `upstream`, the URL of a DynamoDB endpoint.
    pub async fn start(upstream: &str) -> Self {
        let wire = Arc::new(Wire::new(upstream));
        let serving = wire.clone();
        let server =
            LoopbackServer::start(move |request| serving.clone().serve(DynamoRequest::new(request))).await;
        let endpoint = format!("http://{}", server.address());
        Self { server, endpoint, wire }
    }

    /// The URL to give to clients.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Every request since the start or the last [`take`](Self::take), in the order of arrival.
    pub fn tally(&self) -> Tally {
        let state = self.wire.state();
        Tally(state.calls.iter().map(|(_, call)| call.clone()).collect())
    }

    /// As [`tally`](Self::tally), and begins a new one. A request that is still under way stays in
    /// the one taken.
    pub fn take(&self) -> Tally {
        let calls = std::mem::take(&mut self.wire.state().calls);
        Tally(calls.into_iter().map(|(_, call)| call).collect())
    }

    /// Lets the requests that `when` describes run into `fault`. A request obeys the oldest rule
    /// that applies to it, and no other. The rule outlives the returned handle.
    pub fn inject(&self, when: When, fault: Fault) -> Injected {
        self.wire.add_rule(when, Action::Fail(fault))
    }

    /// Holds the requests that `when` describes before they reach the endpoint. A held request is
    /// forwarded once it is released, even if its client has given up meanwhile.
    pub fn hold(&self, when: When) -> Gate {
        self.gate(when, Action::Hold)
    }

    /// Forwards the requests that `when` describes, and holds their answers.
    pub fn hold_answers(&self, when: When) -> Gate {
        self.gate(when, Action::HoldAnswer)
    }

    fn gate(&self, when: When, action: fn(Arc<Turnstile>) -> Action) -> Gate {
        let turnstile = Arc::new(Turnstile::new());
        let rule = self.wire.add_rule(when, action(turnstile.clone()));
        Gate { rule, turnstile }
    }

    /// Ends every rule, of faults and gates. What is held already stays with its [`Gate`].
    pub fn clear_rules(&self) {
        self.wire.state().rules.clear();
    }

    /// Ends every connection and closes the port: new connections are refused.
    pub async fn close(&self) {
        self.server.close().await;
    }

    /// Opens the same port again after [`close`](Self::close).
    pub fn reopen(&self) {
        self.server.reopen();
    }
}

/// One request, and what became of it at the endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The operation, such as `UpdateItem`.
    pub operation: String,
    /// The tables that it names, each once.
    pub tables: Vec<String>,
    /// Whether it reached the endpoint.
    pub forwarded: bool,
    /// The status of the answer, the endpoint's own where there was one (it may not have reached
    /// the client), or the injected one. None while the request is under way, and where no answer
    /// came.
    pub status: Option<u16>,
    /// The name of the refusal or error, such as `ConditionalCheckFailedException`.
    pub error_type: Option<String>,
    /// The capacity consumed, as the endpoint says. A refusal does not say it, although it is
    /// billed like the write.
    pub capacity: Option<Capacity>,
}

impl Call {
    /// Whether a condition, or another transaction, refused this write. The endpoint bills it like
    /// an accepted one, if it got there.
    pub fn refused(&self) -> bool {
        matches!(
            self.error_type.as_deref(),
            Some(
                "ConditionalCheckFailedException"
                    | "TransactionCanceledException"
                    | "TransactionConflictException"
            )
        )
    }

    /// Read units, as far as the endpoint said.
    pub fn read_units(&self) -> f64 {
        self.capacity.map_or(0.0, |capacity| capacity.read_units)
    }

    /// Write units, as far as the endpoint said.
    pub fn write_units(&self) -> f64 {
        self.capacity.map_or(0.0, |capacity| capacity.write_units)
    }
}

/// Capacity that a request consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Capacity {
    /// Read request units.
    pub read_units: f64,
    /// Write request units.
    pub write_units: f64,
}

impl Capacity {
    /// Reads `ConsumedCapacity`: one object, or a list of one per table. Operations on one table
    /// say a single number, which is read or written according to the operation.
    fn of_answer(operation: &str, answer: &Map<String, Value>) -> Option<Self> {
        let stated = answer.get("ConsumedCapacity")?;
        let tables = stated.as_array().map_or(std::slice::from_ref(stated), Vec::as_slice);
        let mut capacity = Self::default();
        for table in tables {
            let units = |name: &str| table.get(name).and_then(Value::as_f64);
            let read = units("ReadCapacityUnits");
            let written = units("WriteCapacityUnits");
            if read.is_some() || written.is_some() {
                capacity.read_units += read.unwrap_or(0.0);
                capacity.write_units += written.unwrap_or(0.0);
            } else if WRITES.contains(&operation) {
                capacity.write_units += units("CapacityUnits")?;
            } else {
                capacity.read_units += units("CapacityUnits")?;
            }
        }
        Some(capacity)
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally(Vec<Call>);

impl Tally {
    /// The requests, in the order of arrival.
    pub fn calls(&self) -> &[Call] {
        &self.0
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.0.len()
    }

    /// The operations, in the order of arrival.
    pub fn operations(&self) -> Vec<&str> {
        self.0.iter().map(|call| call.operation.as_str()).collect()
    }

    /// The read units of all requests whose answer stated them.
    pub fn read_units(&self) -> f64 {
        self.0.iter().map(Call::read_units).sum()
    }

    /// The write units of all requests whose answer stated them: refused writes are billed, and
    /// missing here.
    pub fn write_units(&self) -> f64 {
        self.0.iter().map(Call::write_units).sum()
    }

    /// How many writes were refused.
    pub fn refused(&self) -> usize {
        self.0.iter().filter(|call| call.refused()).count()
    }

    /// The part that consists of one operation.
    pub fn of(&self, operation: &str) -> Self {
        self.filter(|call| call.operation == operation)
    }

    /// The part that names a table.
    pub fn on(&self, table: &str) -> Self {
        self.filter(|call| call.tables.iter().any(|name| name == table))
    }

    fn filter(&self, wanted: impl Fn(&Call) -> bool) -> Self {
        Self(self.0.iter().filter(|call| wanted(call)).cloned().collect())
    }
}

/// The requests that a rule is for.
#[derive(Debug, Clone)]
#[must_use]
pub struct When {
    operations: Option<Vec<String>>,
    table: Option<String>,
    text: Option<String>,
    skipped: usize,
    remaining: Option<usize>,
}

impl When {
    /// Every request.
    pub fn always() -> Self {
        Self { operations: None, table: None, text: None, skipped: 0, remaining: None }
    }

    /// Requests of one operation, such as `UpdateItem`.
    pub fn operation(name: &str) -> Self {
        Self::one_of(&[name])
    }

    /// Requests that modify items, single ones, batches and transactions.
    pub fn writes() -> Self {
        Self::one_of(&WRITES)
    }

    /// Requests that read items.
    pub fn reads() -> Self {
        Self::one_of(&READS)
    }

    fn one_of(names: &[&str]) -> Self {
        Self { operations: Some(names.iter().map(ToString::to_string).collect()), ..Self::always() }
    }

    /// Only requests that name this table.
    pub fn table(self, name: &str) -> Self {
        Self { table: Some(name.to_owned()), ..self }
    }

    /// Only requests that contain this text, such as an item's key, somewhere in their body.
    pub fn mentioning(self, text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..self }
    }

    /// Only after this many such requests have passed.
    pub fn after(self, requests: usize) -> Self {
        Self { skipped: requests, ..self }
    }

    /// Only this many times.
    pub fn times(self, requests: usize) -> Self {
        Self { remaining: Some(requests), ..self }
    }

    fn describes(&self, request: &DynamoRequest) -> bool {
        self.operations.as_ref().is_none_or(|names| names.contains(&request.operation))
            && self.table.as_ref().is_none_or(|name| request.tables.contains(name))
            && self.text.as_ref().is_none_or(|text| String::from_utf8_lossy(&request.bytes).contains(text))
    }

    /// Whether the rule is for this request, which counts against `after` and `times`.
    fn applies(&mut self, request: &DynamoRequest) -> bool {
        if self.remaining == Some(0) || !self.describes(request) {
            return false;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        if let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        true
    }
}

/// What can go wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Not applied: another transaction is at work on the item. A transaction is cancelled for its
    /// first item's sake.
    TransactionConflict,
    /// Not applied: the transaction is cancelled, with this code (such as `ThrottlingError`) as its
    /// first item's reason.
    TransactionCanceled(&'static str),
    /// Not applied: `ThrottlingException`.
    Throttled,
    /// Not applied: `ProvisionedThroughputExceededException`.
    ThroughputExceeded,
    /// Not applied: `InternalServerError`, with status 500.
    InternalError,
    /// Not applied: an error of this status and type.
    Error(u16, &'static str),
    /// Not applied: the connection is closed instead of an answer.
    DropRequest,
    /// Applied, but the connection breaks in the midst of the answer.
    DropAnswer,
    /// Applied, but the second half of the answer never comes, on a connection that stays open.
    StallAnswer,
    /// Applied; the answer comes later.
    DelayAnswer(Duration),
    /// Not applied, and never answered.
    Hang,
    /// `BatchWriteItem` only (others pass): the first items are applied, table by table, and at
    /// most this many; the others are reported as `UnprocessedItems`.
    Unprocessed {
        /// How many items are applied.
        applied: usize,
    },
}

impl Fault {
    /// The answer to a request that the fault keeps from the endpoint.
    fn answer(&self, request: &DynamoRequest) -> Option<DynamoAnswer> {
        match *self {
            Self::TransactionConflict if request.transaction_items() > 0 => {
                Some(request.canceled("TransactionConflict"))
            }
            Self::TransactionConflict => Some(DynamoAnswer::error(
                400,
                "com.amazonaws.dynamodb.v20120810#TransactionConflictException",
                "Transaction is ongoing for the item",
            )),
            Self::TransactionCanceled(code) => Some(request.canceled(code)),
            Self::Throttled => Some(DynamoAnswer::error(
                400,
                "com.amazon.coral.availability#ThrottlingException",
                "Rate of requests exceeds the allowed throughput.",
            )),
            Self::ThroughputExceeded => Some(DynamoAnswer::error(
                400,
                "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
                "The level of configured provisioned throughput for the table was exceeded.",
            )),
            Self::InternalError => Some(DynamoAnswer::error(
                500,
                "com.amazonaws.dynamodb.v20120810#InternalServerError",
                "The request processing has failed because of an unknown error.",
            )),
            Self::Error(status, error_type) => {
                Some(DynamoAnswer::error(status, error_type, "injected by the test"))
            }
            Self::DropRequest
            | Self::DropAnswer
            | Self::StallAnswer
            | Self::DelayAnswer(_)
            | Self::Hang
            | Self::Unprocessed { .. } => None,
        }
    }
}

/// An injected fault.
pub struct Injected {
    wire: Arc<Wire>,
    id: u64,
    hits: watch::Receiver<usize>,
}

impl Injected {
    /// How many requests have met it.
    pub fn hits(&self) -> usize {
        *self.hits.borrow()
    }

    /// Waits until this many requests have met it.
    pub async fn hit(&self, requests: usize) {
        reach(&self.hits, requests, "requests that meet the fault").await;
    }

    /// Ends it for requests to come.
    pub fn clear(&self) {
        self.wire.state().rules.retain(|rule| rule.id != self.id);
    }
}

/// Holds requests, or answers, until they are released, so that a test can line up a race. Dropping
/// it releases all.
#[must_use = "a gate that is dropped is open"]
pub struct Gate {
    rule: Injected,
    turnstile: Arc<Turnstile>,
}

impl Gate {
    /// Waits until this many have come to the gate, those since let through included.
    pub async fn held(&self, count: usize) {
        reach(&self.turnstile.arrived.subscribe(), count, "held requests").await;
    }

    /// Lets this many through: those that came first, or the next to come.
    pub fn let_through(&self, count: usize) {
        self.turnstile.passes.add_permits(count);
    }

    /// Lets all through together, and holds none any more.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.rule.clear();
        self.turnstile.passes.close();
    }
}

async fn reach(counter: &watch::Receiver<usize>, count: usize, what: &str) {
    let what = format!("{count} {what}");
    patiently(&what, counter.clone().wait_for(|&reached| reached >= count))
        .await
        .expect("the rule to be in force");
}

struct Turnstile {
    arrived: watch::Sender<usize>,
    passes: Semaphore,
}

impl Turnstile {
    fn new() -> Self {
        Self { arrived: watch::Sender::new(0), passes: Semaphore::new(0) }
    }

    async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        // A closed semaphore is an open gate.
        if let Ok(pass) = self.passes.acquire().await {
            pass.forget();
        }
    }
}

#[derive(Clone)]
enum Action {
    Fail(Fault),
    Hold(Arc<Turnstile>),
    HoldAnswer(Arc<Turnstile>),
}

struct Rule {
    id: u64,
    when: When,
    action: Action,
    hits: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    calls: Vec<(u64, Call)>,
    rules: Vec<Rule>,
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// What lies between the clients and the endpoint.
struct Wire {
    upstream: String,
    client: reqwest::Client,
    state: Mutex<State>,
}

impl Wire {
    fn new(upstream: &str) -> Self {
        Self {
            upstream: upstream.trim_end_matches('/').to_owned(),
            client: reqwest::Client::builder().no_proxy().build().expect("an HTTP client"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the proxy's state")
    }

    fn add_rule(self: &Arc<Self>, when: When, action: Action) -> Injected {
        let (counter, hits) = watch::channel(0);
        let mut state = self.state();
        let id = state.new_id();
        state.rules.push(Rule { id, when, action, hits: counter });
        Injected { wire: self.clone(), id, hits }
    }

    /// Notes a request, and finds the rule that it has to obey.
    fn arrive(&self, request: &DynamoRequest) -> (u64, Option<Action>) {
        let mut state = self.state();
        let id = state.new_id();
        state.calls.push((id, request.as_call()));
        let rule = state.rules.iter_mut().find_map(|rule| rule.when.applies(request).then_some(rule));
        let action = rule.map(|rule| {
            rule.hits.send_modify(|hits| *hits += 1);
            rule.action.clone()
        });
        (id, action)
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut Call)) {
        let mut state = self.state();
        // Absent when the tally was taken meanwhile.
        if let Ok(index) = state.calls.binary_search_by_key(&id, |(id, _)| *id) {
            change(&mut state.calls[index].1);
        }
    }

    async fn serve(self: Arc<Self>, request: DynamoRequest) -> Result<Response, Broken> {
        let (id, action) = self.arrive(&request);
        match action {
            Some(Action::Fail(Fault::Hang)) => future::pending().await,
            Some(Action::Fail(Fault::DropRequest)) => return Err(Broken),
            _ => {}
        }
        // In a task of its own: what is under way arrives, even if the client hangs up.
        let exchange = tokio::spawn(self.exchange(id, request, action.clone()));
        let answer = exchange.await.map_err(|_| Broken)??;
        match action {
            Some(Action::Fail(Fault::DropAnswer)) => Ok(answer.half(Then::Breaks)),
            Some(Action::Fail(Fault::StallAnswer)) => Ok(answer.half(Then::Stalls)),
            Some(Action::Fail(Fault::DelayAnswer(delay))) => {
                tokio::time::sleep(delay).await;
                Ok(answer.complete())
            }
            Some(Action::HoldAnswer(turnstile)) => {
                turnstile.pass().await;
                Ok(answer.complete())
            }
            _ => Ok(answer.complete()),
        }
    }

    /// Has the request answered, by the endpoint or by the fault, and notes the outcome.
    async fn exchange(
        self: Arc<Self>,
        id: u64,
        mut request: DynamoRequest,
        action: Option<Action>,
    ) -> Result<DynamoAnswer, Broken> {
        match action {
            Some(Action::Hold(turnstile)) => turnstile.pass().await,
            Some(Action::Fail(Fault::Unprocessed { applied })) => {
                if let Some(unprocessed) = request.split_batch(applied) {
                    return self.forward_part(id, &request, unprocessed).await;
                }
            }
            Some(Action::Fail(fault)) => {
                if let Some(answer) = fault.answer(&request) {
                    self.update(id, |call| call.note(&answer));
                    return Ok(answer);
                }
            }
            _ => {}
        }
        self.forward(id, &request).await
    }

    /// Forwards what is left of a batch, if anything, and reports the other items as unprocessed.
    async fn forward_part(
        &self,
        id: u64,
        part: &DynamoRequest,
        unprocessed: Map<String, Value>,
    ) -> Result<DynamoAnswer, Broken> {
        if part.is_empty_batch() {
            let answer = DynamoAnswer::new(200, json!({"UnprocessedItems": unprocessed}));
            self.update(id, |call| call.note(&answer));
            return Ok(answer);
        }
        let mut answer = self.forward(id, part).await?;
        if answer.status.is_success() {
            answer.edit(|body| {
                // None of the endpoint's own are lost: nothing throttles it.
                body.insert("UnprocessedItems".to_owned(), Value::Object(unprocessed));
                true
            });
        }
        Ok(answer)
    }

    /// Sends the request to the endpoint, asking for the capacity that it consumes.
    async fn forward(&self, id: u64, request: &DynamoRequest) -> Result<DynamoAnswer, Broken> {
        self.update(id, |call| call.forwarded = true);
        let (body, asked) = request.with_capacity_asked();
        let sent = self
            .client
            .request(request.method.clone(), format!("{}{}", self.upstream, request.path))
            .headers(end_to_end(&request.headers))
            .body(body)
            .send()
            .await
            .map_err(|_| Broken)?;
        let mut answer = DynamoAnswer {
            status: sent.status(),
            headers: end_to_end(sent.headers()),
            bytes: sent.bytes().await.map_err(|_| Broken)?,
        };
        self.update(id, |call| call.note(&answer));
        if asked {
            answer.edit(|body| body.remove("ConsumedCapacity").is_some());
        }
        Ok(answer)
    }
}

impl Call {
    fn note(&mut self, answer: &DynamoAnswer) {
        self.status = Some(answer.status.as_u16());
        let Some(body) = answer.json() else {
            return;
        };
        self.capacity = Capacity::of_answer(&self.operation, &body);
        self.error_type = body
            .get("__type")
            .and_then(Value::as_str)
            .map(|name| name.rsplit('#').next().unwrap_or(name).to_owned());
    }
}

/// A request to DynamoDB.
struct DynamoRequest {
    method: Method,
    path: String,
    headers: HeaderMap,
    bytes: Bytes,
    /// The body, where it is a JSON object.
    body: Option<Map<String, Value>>,
    operation: String,
    tables: Vec<String>,
}

impl DynamoRequest {
    fn new(request: Request) -> Self {
        let (head, bytes) = request.into_parts();
        let body = serde_json::from_slice(&bytes).ok();
        let operation = head
            .headers
            .get("x-amz-target")
            .and_then(|target| target.to_str().ok())
            .and_then(|target| target.rsplit('.').next())
            .unwrap_or_default()
            .to_owned();
        Self {
            method: head.method,
            path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: head.headers,
            tables: body.as_ref().map(tables_of).unwrap_or_default(),
            bytes,
            body,
            operation,
        }
    }

    fn as_call(&self) -> Call {
        Call {
            operation: self.operation.clone(),
            tables: self.tables.clone(),
            forwarded: false,
            status: None,
            error_type: None,
            capacity: None,
        }
    }

    /// The body to forward, and whether it asks for the consumed capacity where the client did not.
    fn with_capacity_asked(&self) -> (Bytes, bool) {
        let operation = self.operation.as_str();
        match &self.body {
            Some(body) if WRITES.contains(&operation) || READS.contains(&operation) => {
                let asked = body.get("ReturnConsumedCapacity").and_then(Value::as_str);
                if matches!(asked, Some("TOTAL" | "INDEXES")) {
                    return (self.bytes.clone(), false);
                }
                let mut body = body.clone();
                body.insert("ReturnConsumedCapacity".to_owned(), json!("TOTAL"));
                (Value::Object(body).to_string().into(), true)
            }
            _ => (self.bytes.clone(), false),
        }
    }

    fn transaction_items(&self) -> usize {
        self.body.as_ref().and_then(|body| body.get("TransactItems")?.as_array()).map_or(0, Vec::len)
    }

    /// A transaction's refusal for its first item's sake.
    fn canceled(&self, code: &str) -> DynamoAnswer {
        let mut reasons = vec![json!({"Code": "None"}); self.transaction_items().max(1)];
        reasons[0] = json!({"Code": code, "Message": format!("Injected: {code}")});
        let codes: Vec<_> = reasons.iter().filter_map(|reason| reason["Code"].as_str()).collect();
        let message = format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            codes.join(", ")
        );
        DynamoAnswer::new(
            400,
            json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message": message,
                "CancellationReasons": reasons,
            }),
        )
    }

    /// Leaves the first items of a batch in the request, and returns the others, by table. None,
    /// and unchanged, where there are no others, or where this is no batch of writes.
    fn split_batch(&mut self, applied: usize) -> Option<Map<String, Value>> {
        if self.operation != "BatchWriteItem" {
            return None;
        }
        let body = self.body.as_mut()?;
        let mut kept = body.get("RequestItems")?.as_object()?.clone();
        let mut unprocessed = Map::new();
        let mut left = applied;
        for (table, items) in &mut kept {
            let items = items.as_array_mut()?;
            let others = items.split_off(left.min(items.len()));
            left -= items.len();
            if !others.is_empty() {
                unprocessed.insert(table.clone(), Value::Array(others));
            }
        }
        if unprocessed.is_empty() {
            return None;
        }
        kept.retain(|_, items| items.as_array().is_some_and(|items| !items.is_empty()));
        body.insert("RequestItems".to_owned(), Value::Object(kept));
        self.bytes = Value::Object(body.clone()).to_string().into();
        Some(unprocessed)
    }

    fn is_empty_batch(&self) -> bool {
        self.operation == "BatchWriteItem"
            && self
                .body
                .as_ref()
                .and_then(|body| body.get("RequestItems")?.as_object())
                .is_some_and(Map::is_empty)
    }
}

/// The tables that a request names: by itself, as a batch, or in the parts of a transaction.
fn tables_of(body: &Map<String, Value>) -> Vec<String> {
    let own = body.get("TableName").and_then(Value::as_str);
    let batch = body.get("RequestItems").and_then(Value::as_object);
    let transaction = body.get("TransactItems").and_then(Value::as_array);
    let named = own.into_iter().chain(batch.into_iter().flat_map(Map::keys).map(String::as_str)).chain(
        transaction
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .flat_map(Map::values)
            .filter_map(|part| part.get("TableName")?.as_str()),
    );
    let mut tables = Vec::new();
    for table in named {
        if !tables.iter().any(|known| known == table) {
            tables.push(table.to_owned());
        }
    }
    tables
}

/// An answer of DynamoDB, or in its name.
struct DynamoAnswer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl DynamoAnswer {
    fn new(status: u16, body: Value) -> Self {
        let content_type = HeaderValue::from_static("application/x-amz-json-1.0");
        let request_id = HeaderValue::from_static("INJECTEDBYTHETESTPROXY");
        Self {
            status: StatusCode::from_u16(status).expect("an HTTP status"),
            headers: HeaderMap::from_iter([
                (header::CONTENT_TYPE, content_type),
                (HeaderName::from_static("x-amzn-requestid"), request_id),
            ]),
            bytes: body.to_string().into(),
        }
    }

    fn error(status: u16, error_type: &str, message: &str) -> Self {
        Self::new(status, json!({"__type": error_type, "message": message}))
    }

    fn json(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.bytes).ok()
    }

    /// Changes the body, if `edit` says that it did. The checksum goes with the old body.
    fn edit(&mut self, edit: impl FnOnce(&mut Map<String, Value>) -> bool) {
        let Some(mut body) = self.json() else {
            return;
        };
        if edit(&mut body) {
            self.bytes = Value::Object(body).to_string().into();
            self.headers.remove("x-amz-crc32");
        }
    }

    fn complete(&self) -> Response {
        self.head(whole(self.bytes.clone()))
    }

    fn half(&self, then: Then) -> Response {
        self.head(HalfBody::new(&self.bytes, then).boxed_unsync())
    }

    fn head<B>(&self, body: B) -> hyper::Response<B> {
        let mut response = hyper::Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// The headers that are meant for the other end and not for this connection. Compression is left
/// out too, since the proxy reads the answers.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [
        header::ACCEPT_ENCODING,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    headers
}

/// What becomes of a body after its first half.
#[derive(Clone, Copy)]
enum Then {
    /// The connection breaks.
    Breaks,
    /// Nothing: the connection stays open.
    Stalls,
}

/// A body that promises all of its bytes, and sends half of them.
struct HalfBody {
    promised: u64,
    half: Option<Bytes>,
    flushed: bool,
    then: Then,
}

impl HalfBody {
    fn new(bytes: &Bytes, then: Then) -> Self {
        Self {
            promised: bytes.len().max(1) as u64,
            half: Some(bytes.slice(..bytes.len() / 2)),
            flushed: false,
            then,
        }
    }
}

impl Body for HalfBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.flushed {
            // The server sends what it has when a body keeps it waiting.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.then {
            Then::Breaks => Poll::Ready(Some(Err(Broken))),
            Then::Stalls => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
