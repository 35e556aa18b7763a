//! The sweep over tables of different sizes, as its own process over the embedded engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::dynamodb::DynamoDb;
use crate::figures::{figure, thousands};
use crate::process::{cpu, megabytes, peak_memory};
use crate::report::{Report, Table};
use crate::support::dynamodb_proxy::DynamoDbProxy;
use crate::support::runtime_api::LambdaProcess;
use crate::system::{AGENTS_TABLE, ALERTS_TABLE, System, environment};

const ROWS: [u64; 3] = [10_000, 100_000, 1_000_000];

/// The function's own timeout, by the template.
const TIMEOUT: Duration = Duration::from_mins(5);
/// A time that half a million announcements do not keep.
const SHORT: Duration = Duration::from_secs(20);

/// Writers at once when a table is filled, a block of rows at a time.
const WRITERS: u64 = 4;
const BLOCK: u64 = 1_000;

pub async fn measure(binaries: &Binaries, report: &mut Report) {
    let header = [
        "rows",
        "expired",
        "time, s",
        "µs per row",
        "CPU, s",
        "peak RSS, MB",
        "read units",
        "announced",
        "whole",
    ];
    let mut table = Table::new(header);
    for rows in ROWS {
        let fleet = Fleet::new(binaries, rows).await;
        let mut line = |expired: &str, sweep: &Sweep, read_units: Option<f64>| {
            eprintln!("sweep: {rows} agents, {expired} expired: {:.1?}", sweep.time);
            table.row([
                thousands(count(rows)),
                expired.to_owned(),
                figure(sweep.time.as_secs_f64()),
                figure(sweep.time.as_secs_f64() * 1e6 / count(rows)),
                figure(sweep.cpu.as_secs_f64()),
                figure(sweep.memory),
                read_units.map_or_else(String::new, thousands),
                thousands(sweep.number("announced")),
                if sweep.report["complete"] == true { "yes" } else { "stopped" }.to_owned(),
            ]);
        };
        let none = fleet.sweep(binaries, TIMEOUT).await;
        assert_eq!((&none.report["live"], &none.report["announced"]), (&json!(rows), &json!(0)));
        let read_units = fleet.read_units(binaries).await;
        line("0", &none, Some(read_units));
        if rows == 1_000_000 {
            let seconds = none.time.as_secs_f64();
            let figures = "sweep of 1,000,000 live rows, embedded engine";
            report.goal(figures, "≤ 30 s", format!("{} s", figure(seconds)), seconds <= 30.0);
            let memory = none.memory;
            report.goal(figures, "≤ 64 MB", format!("{} MB", figure(memory)), memory <= 64.0);
        }

        fleet.expire(rows / 100).await;
        let few = fleet.sweep(binaries, TIMEOUT).await;
        assert_eq!(few.report["announced"], rows / 100, "{}", few.report);
        line("1%", &few, None);

        fleet.expire(rows / 2).await;
        let first = fleet.sweep(binaries, SHORT).await;
        line("50%, with 20 s", &first, None);
        let second = fleet.sweep(binaries, SHORT).await;
        line("the same, going on", &second, None);
        let announced = first.number("announced") + second.number("announced");
        assert!(announced <= count(rows / 2), "{announced} of {} announced", rows / 2);
        assert!(second.report["complete"] == false || announced >= count(rows / 2), "{}", second.report);
    }
    report.table("sweep", &table);
}

#[expect(clippy::cast_precision_loss, reason = "at most a million")]
fn count(rows: u64) -> f64 {
    rows as f64
}

/// What one invocation of the sweep took, and its report.
struct Sweep {
    time: Duration,
    cpu: Duration,
    memory: f64,
    report: Value,
}

impl Sweep {
    fn number(&self, name: &str) -> f64 {
        self.report[name].as_f64().expect("a number")
    }
}

/// A table of agents in an engine of its own.
struct Fleet {
    system: System,
}

impl Fleet {
    /// Active agents whose leases run for a day.
    async fn new(binaries: &Binaries, rows: u64) -> Self {
        let fleet = Self { system: System::in_memory(binaries) };
        fleet.put(0..rows, now_millis() + DAY_MILLIS).await;
        fleet
    }

    /// The sweep's environment: it hears itself through the local system.
    async fn environment(&self, dynamodb: &str) -> BTreeMap<String, String> {
        // As if sweeps had run until now: time before the first one counts against no agent.
        let control = json!({ "alert_log": { "S": "control" }, "alert_key": { "S": "control" } });
        let heard = json!({ ":now": { "N": now_millis().to_string() } });
        let update = json!({
            "TableName": ALERTS_TABLE,
            "Key": control,
            "UpdateExpression": "SET heard_at = :now",
            "ExpressionAttributeValues": heard,
        });
        DynamoDb::at(&self.system.dynamodb).call("UpdateItem", &update).await;
        let mut environment = environment(dynamodb);
        environment.insert("CANARY_URL".to_owned(), self.system.url().to_owned());
        environment
    }

    /// Lets the leases of the first agents end a minute ago. What was announced of them is taken back.
    async fn expire(&self, rows: u64) {
        self.put(0..rows, now_millis() - 60_000).await;
    }

    async fn put(&self, rows: Range<u64>, lease_expires_at: u64) {
        let dynamodb = DynamoDb::at(&self.system.dynamodb);
        let put = async |writer: u64| {
            let mut first = rows.start + writer * BLOCK;
            while first < rows.end {
                let last = rows.end.min(first + BLOCK);
                let rows: Vec<Value> = (first..last).map(|row| agent(row, lease_expires_at)).collect();
                dynamodb.put(AGENTS_TABLE, &rows).await;
                first += WRITERS * BLOCK;
            }
        };
        join_all((0..WRITERS).map(put)).await;
    }

    async fn sweep(&self, binaries: &Binaries, time_left: Duration) -> Sweep {
        let environment = self.environment(&self.system.dynamodb).await;
        let function = LambdaProcess::start(binaries.path("sweep"), environment).await;
        let started = Instant::now();
        let report = function.invoke_with_deadline(tick(), time_left).await.answer();
        let time = started.elapsed();
        function.ready().await;
        let (cpu, memory) = (cpu(function.pid()), megabytes(peak_memory(function.pid())));
        Sweep { time, cpu, memory, report }
    }

    /// What DynamoDB would bill for a sweep that announces nothing.
    async fn read_units(&self, binaries: &Binaries) -> f64 {
        let proxy = DynamoDbProxy::start(&self.system.dynamodb).await;
        let function =
            LambdaProcess::start(binaries.path("sweep"), self.environment(proxy.endpoint()).await).await;
        // The start has read something, too.
        proxy.take();
        function.invoke_with_deadline(tick(), TIMEOUT).await.answer();
        proxy.take().read_units()
    }
}

/// What the schedule sends.
fn tick() -> Value {
    json!({ "source": "rollcall.sweep" })
}

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

#[expect(clippy::disallowed_methods, reason = "the functions read the machine's clock, too")]
fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(now.as_millis()).expect("a clock of this age of the world")
}

/// A row in use, with a board and a namespace: 399 bytes.
fn agent(row: u64, lease_expires_at: u64) -> Value {
    let text = |value: &str| json!({ "S": value });
    let number = |value: u64| json!({ "N": value.to_string() });
    let binary = |length: usize| json!({ "B": "A".repeat(length) + "=" });
    // 16 bytes in Base64.
    let id_bytes = |start: &str| json!({ "B": format!("{start}{}==", "A".repeat(20)) });
    // Spread over the table's segments, as the ids of agents are.
    let id = format!("{:08x}-0000-8000-8000-{row:012x}", row.wrapping_mul(0x9e37_79b9) & 0xffff_ffff);
    let created = now_millis() - DAY_MILLIS;
    json!({
        "agent_id": text(&id),
        "agent_name": text(&format!("agent-{row:07}")),
        "agent_state": text("active"),
        "board_id": id_bytes("AQ"),
        "namespace_id": id_bytes("Ag"),
        "key_id": binary(11),
        "key_digest": binary(43),
        "interval_ms": number(60_000),
        "tolerance_ms": number(120_000),
        "health": text("healthy"),
        "last_seen_at": number(lease_expires_at - 120_000),
        "lease_expires_at": number(lease_expires_at),
        "b7": number(1),
        "requests_total": number(1_440),
        "created_at": number(created),
        "verified_at": number(created),
        "updated_at": number(created),
        "listing": text("agents"),
        "listing_key": text(&format!("{created:013}.{}", &id[..8])),
    })
}
