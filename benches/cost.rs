//! What every operation takes of DynamoDB, counted by the engine, and what that costs on AWS.

use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::calls::{self, Call};
use crate::dynamodb::DynamoDb;
use crate::figures::{figure, thousands};
use crate::report::{Report, Table};
use crate::support::dynamodb_proxy::{DynamoDbProxy, Tally};
use crate::system::System;

// List prices of us-east-1 for arm64, without free tiers, in dollars per million or as said.
const WRITE_UNITS: f64 = 0.625;
const READ_UNITS: f64 = 0.125;
const HTTP_API: f64 = 1.00;
const LAMBDA_REQUESTS: f64 = 0.20;
const LAMBDA_GB_SECOND: f64 = 0.000_013_333_4;
const ACCESS_LOG: f64 = 0.125;
/// A write unit for an hour, provisioned.
const PROVISIONED_WRITE_UNIT: f64 = 0.000_65;
/// The share of what is provisioned that scaling aims at: the template's `CapacityTarget`.
const TARGET: f64 = 0.70;
/// How many heartbeats a gateway may send at once, and what Lambda takes for them: 0.2 s at 512 MB, reckoned from the
/// processor time of one.
const BATCH: f64 = 100.0;
const BATCH_GB_SECONDS: f64 = 0.2 * 0.5;

/// The functions' memory in GB.
const MEMORY: f64 = 0.125;
/// How long an invocation lasts besides its requests to DynamoDB, and how long each of those takes, in seconds: an
/// assumption, the same for both designs.
const HANDLING: f64 = 0.002;
const DYNAMODB_REQUEST: f64 = 0.003;

const MINUTES_PER_MONTH: f64 = 30.0 * 24.0 * 60.0;
/// Read units of a sweep per agent: rows of 399 bytes as in the sweep's table, eventually consistent.
const SWEEP_READ_UNITS: f64 = 399.0 / 8192.0;

/// What one call takes of DynamoDB.
#[derive(Clone, Copy)]
struct Usage {
    requests: f64,
    read_units: f64,
    write_units: f64,
}

impl Usage {
    fn of(tally: &Tally) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let requests = tally.calls().len() as f64;
        // Of no requests the sum is -0.
        let [read_units, write_units] = [tally.read_units(), tally.write_units()].map(|units| units + 0.0);
        Self { requests, read_units, write_units }
    }

    /// Dollars per million calls: DynamoDB's part, and Lambda's.
    fn dollars(self) -> [f64; 2] {
        let seconds = HANDLING + self.requests * DYNAMODB_REQUEST;
        let lambda = LAMBDA_REQUESTS + seconds * MEMORY * LAMBDA_GB_SECOND * 1e6;
        [self.write_units * WRITE_UNITS + self.read_units * READ_UNITS, lambda]
    }
}

pub async fn measure(binaries: &Binaries, report: &mut Report) {
    let engine = System::in_memory(binaries);
    let proxy = DynamoDbProxy::start(&engine.dynamodb).await;
    let system = System::over(binaries, proxy.endpoint());
    let fleet = system.fleet().await;
    let mut table = Table::new(["call", "function", "requests", "read units", "write units"]);
    let mut row = |call: &str, function: &str, usage: Usage| {
        let Usage { requests, read_units, write_units } = usage;
        table.row([
            call.into(),
            format!("`{function}`"),
            requests.to_string(),
            read_units.to_string(),
            write_units.to_string(),
        ]);
    };
    // The first round meets what only happens once: first heartbeats, first uses of a token.
    for call in calls::all(&fleet) {
        send(&system, &call).await;
    }
    for call in calls::all_with(&fleet, "renamed again") {
        proxy.take();
        send(&system, &call).await;
        row(call.what, call.binary, Usage::of(&proxy.take()));
    }
    for call in calls::absence(&fleet) {
        proxy.take();
        send(&system, &call).await;
        row(call.what, call.binary, Usage::of(&proxy.take()));
    }
    report.table("operations", &table);

    proxy.take();
    send(&system, &calls::heartbeat(&fleet)).await;
    let rollcall = Usage::of(&proxy.take());
    let tutorial = tutorial(&proxy).await;
    let counted = format!(
        "{} request, {} write unit, {} read units",
        rollcall.requests, rollcall.write_units, rollcall.read_units
    );
    let reached = counted == "1 request, 1 write unit, 0 read units";
    report.goal("a heartbeat in DynamoDB", "1 request, 1 write unit, 0 read units", counted, reached);
    report.table("heartbeat-price", &per_million(rollcall, tutorial));
    report.table("capacity", &by_capacity(rollcall));
    report.table("month", &per_month(rollcall, tutorial));
    report.table("quotas", &quotas(rollcall));
}

async fn send(system: &System, call: &Call) {
    let (status, answer) = system.call(call).await;
    assert_eq!(status, call.status, "{}: {answer}", call.what);
}

/// The tutorial's heartbeat, carried over to DynamoDB as it stands: count the call, look the key up by an index, read
/// the agent's heartbeat by another, write it.
async fn tutorial(proxy: &DynamoDbProxy) -> Usage {
    let dynamodb = DynamoDb::at(proxy.endpoint());
    let (agents, heartbeats, limits) = ("tutorial-agents", "tutorial-heartbeats", "tutorial-limits");
    dynamodb.call("CreateTable", &table(agents, "id", Some(("by_key", "apiKey")))).await;
    dynamodb.call("CreateTable", &table(heartbeats, "id", Some(("by_agent", "agentId")))).await;
    dynamodb.call("CreateTable", &table(limits, "caller", None)).await;
    let agent = json!({
        "id": { "S": "agent" }, "name": { "S": "researcher-1" }, "apiKey": { "S": "key" },
        "status": { "S": "active" }, "createdAt": { "N": "1" },
    });
    dynamodb.call("PutItem", &json!({ "TableName": agents, "Item": agent })).await;
    let beat = json!({
        "id": { "S": "beat" }, "agentId": { "S": "agent" }, "lastSeen": { "N": "1" }, "status": { "S": "healthy" },
    });
    dynamodb.call("PutItem", &json!({ "TableName": heartbeats, "Item": beat })).await;

    proxy.take();
    let count = json!({
        "TableName": limits,
        "Key": { "caller": { "S": "192.0.2.1" } },
        "UpdateExpression": "ADD calls :one",
        "ExpressionAttributeValues": { ":one": { "N": "1" } },
    });
    dynamodb.call("UpdateItem", &count).await;
    for (table, index, attribute, value) in
        [(agents, "by_key", "apiKey", "key"), (heartbeats, "by_agent", "agentId", "agent")]
    {
        let query = json!({
            "TableName": table,
            "IndexName": index,
            "Limit": 1,
            "KeyConditionExpression": format!("{attribute} = :value"),
            "ExpressionAttributeValues": { ":value": { "S": value } },
        });
        dynamodb.call("Query", &query).await;
    }
    let beat = json!({
        "TableName": heartbeats,
        "Key": { "id": { "S": "beat" } },
        "UpdateExpression": "SET lastSeen = :now, #status = :status",
        "ExpressionAttributeNames": { "#status": "status" },
        "ExpressionAttributeValues": { ":now": { "N": "2" }, ":status": { "S": "healthy" } },
    });
    dynamodb.call("UpdateItem", &beat).await;
    Usage::of(&proxy.take())
}

fn table(name: &str, key: &str, index: Option<(&str, &str)>) -> Value {
    let schema = |attribute: &str| json!([{ "AttributeName": attribute, "KeyType": "HASH" }]);
    let attribute = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    let mut table = json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": schema(key),
        "AttributeDefinitions": [attribute(key)],
    });
    if let Some((index, key)) = index {
        let all = json!({ "ProjectionType": "ALL" });
        table["GlobalSecondaryIndexes"] =
            json!([{ "IndexName": index, "KeySchema": schema(key), "Projection": all }]);
        table["AttributeDefinitions"].as_array_mut().expect("a list").push(attribute(key));
    }
    table
}

fn per_million(rollcall: Usage, tutorial: Usage) -> Table {
    let mut table = Table::new(["one million heartbeats", "Rollcall", "the tutorial's design"]);
    let [own, theirs] = [rollcall, tutorial].map(Usage::dollars);
    let arithmetic = |usage: Usage| {
        let Usage { write_units, read_units, .. } = usage;
        let [dynamodb, _] = usage.dollars();
        format!("{write_units} × ${WRITE_UNITS} + {read_units} × ${READ_UNITS} = {}", dollars(dynamodb))
    };
    let lambda = |usage: Usage| {
        let [_, lambda] = usage.dollars();
        let millis = (HANDLING + usage.requests * DYNAMODB_REQUEST) * 1e3;
        format!("${LAMBDA_REQUESTS:.2} + {millis:.0} ms at 128 MB = {}", dollars(lambda))
    };
    table.row(["requests to DynamoDB".into(), rollcall.requests.to_string(), tutorial.requests.to_string()]);
    table.row(["DynamoDB".into(), arithmetic(rollcall), arithmetic(tutorial)]);
    table.row(["Lambda".into(), lambda(rollcall), lambda(tutorial)]);
    table.row(["HTTP API".into(), dollars(HTTP_API), dollars(HTTP_API)]);
    table.row(["access log, 250 bytes a line".into(), dollars(ACCESS_LOG), dollars(ACCESS_LOG)]);
    let total = |parts: [f64; 2]| parts.iter().sum::<f64>() + HTTP_API + ACCESS_LOG;
    table.row(["**together**".into(), dollars(total(own)), dollars(total(theirs))]);
    let ratio = figure(theirs[0] / own[0]);
    table.row(["DynamoDB's part, × Rollcall".into(), "1".into(), ratio]);
    table
}

/// A million heartbeats of a steady fleet, as its deployment chooses to pay for them.
fn by_capacity(rollcall: Usage) -> Table {
    let mut table = Table::new([
        "one million heartbeats of a steady fleet",
        "DynamoDB",
        "Lambda",
        "HTTP API",
        "access log",
        "together",
    ]);
    let [on_demand, lambda] = rollcall.dollars();
    let provisioned = rollcall.write_units * PROVISIONED_WRITE_UNIT / 3600.0 / TARGET * 1e6;
    let batched = (LAMBDA_REQUESTS + BATCH_GB_SECONDS * LAMBDA_GB_SECOND * 1e6) / BATCH;
    let mut line = |name: &str, parts: [f64; 4]| {
        let total = format!("**{}**", dollars(parts.iter().sum()));
        table.row([[name.to_owned()].as_slice(), &parts.map(dollars), &[total]].concat());
    };
    line("as shipped", [on_demand, lambda, HTTP_API, ACCESS_LOG]);
    line("`AccessLogging=none`", [on_demand, lambda, HTTP_API, 0.0]);
    line("`Capacity=provisioned`, 70% of it used", [provisioned, lambda, HTTP_API, ACCESS_LOG]);
    line("both", [provisioned, lambda, HTTP_API, 0.0]);
    let front = [HTTP_API / BATCH, ACCESS_LOG / BATCH];
    line("as shipped, by 100 at once", [on_demand, batched, front[0], front[1]]);
    line("`Capacity=provisioned`, by 100 at once", [provisioned, batched, front[0], front[1]]);
    table
}

const FLEETS: [f64; 3] = [1e3, 1e5, 1e6];

fn per_month(rollcall: Usage, tutorial: Usage) -> Table {
    let mut table = Table::new(["a month, one heartbeat a minute", "1,000 agents", "100,000", "1,000,000"]);
    let mut line = |name: &str, of: &dyn Fn(f64) -> f64| {
        table.row([[name.to_owned()].as_slice(), &FLEETS.map(|agents| dollars(of(agents)))].concat());
    };
    let millions = |agents: f64| agents * MINUTES_PER_MONTH / 1e6;
    let front = |agents: f64| {
        // The first 300 million requests of a month, and the others.
        let millions = millions(agents);
        millions.min(300.0) * HTTP_API + (millions - 300.0).max(0.0) * 0.90 + millions * ACCESS_LOG
    };
    let sweep = |agents: f64| agents * SWEEP_READ_UNITS * MINUTES_PER_MONTH / 1e6 * READ_UNITS;
    let [own, theirs] = [rollcall, tutorial].map(Usage::dollars);
    line("HTTP API and access log, either design", &front);
    line("Rollcall: DynamoDB, heartbeats", &|agents| millions(agents) * own[0]);
    line("Rollcall: DynamoDB, sweep", &sweep);
    line("Rollcall: Lambda", &|agents| millions(agents) * own[1]);
    line("**Rollcall, together**", &|agents| {
        front(agents) + millions(agents) * (own[0] + own[1]) + sweep(agents)
    });
    line("tutorial: DynamoDB", &|agents| millions(agents) * theirs[0]);
    line("tutorial: Lambda", &|agents| millions(agents) * theirs[1]);
    line("**tutorial, together**, and nobody notices a silence", &|agents| {
        front(agents) + millions(agents) * (theirs[0] + theirs[1])
    });
    table
}

fn quotas(rollcall: Usage) -> Table {
    let mut table = Table::new([
        "per second, one heartbeat a minute",
        "default quota",
        "1,000 agents",
        "100,000",
        "1,000,000",
    ]);
    let mut line = |name: &str, quota: f64, of: &dyn Fn(f64) -> f64| {
        let cells = FLEETS.map(|agents| {
            let rate = of(agents / 60.0);
            let text = if rate < 10.0 { figure(rate) } else { thousands(rate) };
            if rate > quota { format!("**{text}**") } else { text }
        });
        table.row([[name.to_owned(), thousands(quota)].as_slice(), &cells].concat());
    };
    let environments = |usage: Usage| {
        move |rate: f64| {
            let busy = rate * (HANDLING + usage.requests * DYNAMODB_REQUEST);
            busy.max(rate / 10.0)
        }
    };
    line("HTTP API: requests", 10_000.0, &|rate| rate);
    line("Lambda: environments, at 10 requests a second each", 1_000.0, &environments(rollcall));
    line("Rollcall: write units of `agents`, a new table", 4_000.0, &|rate| rate * rollcall.write_units);
    line("the same table, once it has grown", 40_000.0, &|rate| rate * rollcall.write_units);
    line("tutorial: writes to the counter of one address, a fleet behind it", 1_000.0, &|rate| rate);
    table
}

fn dollars(amount: f64) -> String {
    match amount {
        amount if amount < 1.0 => format!("${amount:.3}"),
        amount if amount < 100.0 => format!("${amount:.2}"),
        amount => format!("${}", thousands(amount)),
    }
}
