//! The local system under load: how many heartbeats it takes over HTTP, and how long they take.

use std::collections::HashMap;
use std::future::ready;
use std::path::PathBuf;
use std::process::Command;

use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::binaries::Binaries;
use crate::calls;
use crate::dynamodb::DynamoDb;
use crate::figures::{Sample, figure, thousands};
use crate::process::{cpu, megabytes, peak_memory};
use crate::report::{Report, Table, in_repository};
use crate::support::loopback::{Broken, LoopbackServer, Request};
use crate::support::runtime_api::LambdaProcess;
use crate::system::{AGENTS_TABLE, System, environment};

/// Agents of the largest fleet, which the goals are about.
const LARGEST: usize = 10_000;
const CONNECTIONS: usize = 16;
const SECONDS: usize = 5;
const ROUNDS: usize = 3;

pub async fn measure(binaries: &Binaries, report: &mut Report) {
    let header =
        ["data", "agents", "heartbeats/s", "p50, ms", "p99, ms", "p99 / p50", "CPU, µs", "peak RSS, MB"];
    let mut table = Table::new(header);
    let agents = Agents::register(binaries).await;
    for count in [1, 100] {
        table.row(agents.beat(binaries, "memory", count).await.row("memory", &shown(count)));
    }
    let [system, engine] = agents.beside_the_engine(binaries).await;
    table.row(system.row("memory", &shown(LARGEST)));
    table.row(engine.row("memory", "one heartbeat's write, straight to the engine"));
    for count in [1, 100, LARGEST] {
        table.row(agents.beat(binaries, "disk", count).await.row("disk", &shown(count)));
    }
    report.table("load", &table);

    let (rate, tail) = (system.rate.median(), system.p99.over(&system.p50).median());
    let figures = "local system in memory, 10,000 agents";
    report.open_goal(figures, "≥ 5,000 heartbeats/s", thousands(rate), rate >= 5_000.0);
    let part = system.rate.over(&engine.rate).median();
    let against = "the same, against the engine alone with such writes";
    report.goal(against, "≥ 0.5 ×", format!("{} ×", figure(part)), part >= 0.5);
    report.goal(figures, "p99 ≤ 10 × p50", format!("{} ×", figure(tail)), tail <= 10.0);
}

fn shown(count: usize) -> String {
    thousands(u32::try_from(count).map(f64::from).unwrap_or_default())
}

/// Active agents, as their clients and the database know them, in the same order. They are registered once, and
/// their rows put into every system that is measured.
struct Agents {
    keys: Vec<String>,
    rows: Vec<Value>,
}

impl Agents {
    async fn register(binaries: &Binaries) -> Self {
        let system = System::in_memory(binaries);
        let agents = system.agents(LARGEST).await;
        let rows = DynamoDb::at(&system.dynamodb).scan(AGENTS_TABLE).await;
        let id = |row: &Value| row["agent_id"]["S"].as_str().expect("an id").to_owned();
        let mut rows: HashMap<String, Value> = rows.into_iter().map(|row| (id(&row), row)).collect();
        let (keys, rows) =
            agents.into_iter().map(|agent| (agent.key, rows.remove(&agent.id).expect("its row"))).unzip();
        Self { keys, rows }
    }

    /// A system with the first of them in its table.
    async fn system(&self, binaries: &Binaries, place: &str, count: usize) -> System {
        let system = System::of(binaries, place);
        DynamoDb::at(&system.dynamodb).put(AGENTS_TABLE, &self.rows[..count]).await;
        system
    }

    /// The first of them send heartbeats in turn.
    async fn beat(&self, binaries: &Binaries, place: &str, count: usize) -> Run {
        let system = self.system(binaries, place, count).await;
        let heartbeats = self.heartbeats(binaries, &system, count);
        let mut run = Run::default();
        for _ in 0..ROUNDS {
            run.round(&system, &heartbeats);
        }
        run
    }

    /// All of them send heartbeats in memory; and, in turn with that, the engine of another system takes nothing but
    /// writes.
    async fn beside_the_engine(&self, binaries: &Binaries) -> [Run; 2] {
        let system = self.system(binaries, "memory", LARGEST).await;
        let engine = self.system(binaries, "memory", LARGEST).await;
        let heartbeats = self.heartbeats(binaries, &system, LARGEST);
        let write = binaries.folder().join("write");
        std::fs::write(&write, write_of_a_heartbeat(binaries, &self.keys[0]).await).expect("a folder");
        let writes = Load { script: "writes.lua", url: engine.dynamodb.clone(), argument: write };
        let mut runs = <[Run; 2]>::default();
        for _ in 0..ROUNDS {
            runs[0].round(&system, &heartbeats);
            runs[1].round(&engine, &writes);
        }
        runs
    }

    fn heartbeats(&self, binaries: &Binaries, system: &System, count: usize) -> Load {
        let keys = binaries.folder().join("keys");
        std::fs::write(&keys, self.keys[..count].join("\n")).expect("a folder to write to");
        Load { script: "heartbeats.lua", url: system.heartbeat_url(), argument: keys }
    }
}

/// What wrk sends where.
struct Load {
    script: &'static str,
    url: String,
    /// The script's: a file.
    argument: PathBuf,
}

/// The figures of one system: per round, and its memory in MB.
#[derive(Default)]
struct Run {
    rate: Sample,
    p50: Sample,
    p99: Sample,
    cpu: Sample,
    memory: f64,
}

impl Run {
    /// Five seconds of wrk.
    fn round(&mut self, system: &System, load: &Load) {
        let before = cpu(system.pid());
        let mut wrk = Command::new("wrk");
        wrk.current_dir(in_repository("benches/wrk"));
        wrk.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
        wrk.args(["--duration", &format!("{SECONDS}s"), "--script", load.script, &load.url])
            .arg(&load.argument);
        let output = wrk.output().expect("wrk");
        let used = cpu(system.pid()).saturating_sub(before);

        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with('{'));
        let result: Value =
            serde_json::from_str(line.unwrap_or_else(|| panic!("wrk: {text}"))).expect("JSON");
        let number = |name: &str| result[name].as_f64().expect("a number");
        assert!(number("failures") < 1.0, "{}: {result}", load.script);
        self.rate.push(number("answers") / number("microseconds") * 1e6);
        self.p50.push(number("p50") / 1e3);
        self.p99.push(number("p99") / 1e3);
        self.cpu.push(used.as_secs_f64() * 1e6 / number("answers"));
        self.memory = megabytes(peak_memory(system.pid()));
    }

    fn row(&self, place: &str, agents: &str) -> [String; 8] {
        [
            place.to_owned(),
            agents.to_owned(),
            self.rate.show(),
            self.p50.show(),
            self.p99.show(),
            figure(self.p99.over(&self.p50).median()),
            self.cpu.show(),
            figure(self.memory),
        ]
    }
}

/// The write that the heartbeat function sends for this key, as JSON: taken down by an endpoint that answers nothing.
async fn write_of_a_heartbeat(binaries: &Binaries, key: &str) -> Bytes {
    let (seen, mut writes) = mpsc::unbounded_channel();
    let endpoint = LoopbackServer::start(move |request: Request| {
        if request.headers()["x-amz-target"] == "DynamoDB_20120810.UpdateItem" {
            // The first one is enough.
            seen.send(request.into_body()).ok();
        }
        ready(Err(Broken))
    })
    .await;
    let environment = environment(&format!("http://{}", endpoint.address()));
    let function = LambdaProcess::start(binaries.path("heartbeat"), environment).await;
    function.invoke(calls::heartbeat_of(key).event()).await;
    writes.recv().await.expect("the heartbeat's write")
}
