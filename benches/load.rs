//! The local system under load: how many heartbeats it takes over HTTP, and how long they take.

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

use crate::binaries::Binaries;
use crate::dynamodb::DynamoDb;
use crate::figures::{Sample, figure, thousands};
use crate::goals::Goals;
use crate::process::{cpu, megabytes, peak_memory};
use crate::report::{self, Table, in_repository};
use crate::system::{AGENTS_TABLE, System};

const FLEETS: [usize; 3] = [1, 100, 10_000];
const CONNECTIONS: usize = 16;
const SECONDS: usize = 5;
const ROUNDS: usize = 3;

pub async fn measure(binaries: &Binaries, goals: &mut Goals) {
    let header =
        ["data", "agents", "heartbeats/s", "p50, ms", "p99, ms", "p99 / p50", "CPU, µs", "peak RSS, MB"];
    let mut table = Table::new(header);
    let agents = Agents::register(binaries).await;
    for place in ["memory", "disk"] {
        for count in FLEETS {
            let system = System::of(binaries, place);
            DynamoDb::at(&system.dynamodb).put(AGENTS_TABLE, &agents.rows[..count]).await;
            let file = binaries.folder().join("keys");
            std::fs::write(&file, agents.keys[..count].join("\n")).expect("a folder to write to");
            let run = Run::of(&system, "heartbeats.lua", &system.heartbeat_url(), &file.to_string_lossy());
            let count_shown = thousands(u32::try_from(count).map(f64::from).unwrap_or_default());
            table.row(run.row(place, &count_shown));
            if (place, count) == ("memory", 1) {
                let agent_id = agents.rows[0]["agent_id"]["S"].as_str().expect("an id");
                let run = Run::of(&system, "engine.lua", &system.dynamodb, agent_id);
                table.row(run.row("memory", "the engine alone, its write straight to its port"));
            }
            if (place, count) == ("memory", 10_000) {
                let (rate, tail) = (run.rate.median(), run.p99.over(&run.p50).median());
                let figures = "local system in memory, 10,000 agents";
                goals.add(figures, "≥ 5,000 heartbeats/s", thousands(rate), rate >= 5_000.0);
                goals.add(figures, "p99 ≤ 10 × p50", format!("{} ×", figure(tail)), tail <= 10.0);
            }
        }
    }
    report::write("load", &table);
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
        let agents = system.agents(FLEETS[2]).await;
        let rows = DynamoDb::at(&system.dynamodb).scan(AGENTS_TABLE).await;
        let id = |row: &Value| row["agent_id"]["S"].as_str().expect("an id").to_owned();
        let mut rows: HashMap<String, Value> = rows.into_iter().map(|row| (id(&row), row)).collect();
        let (keys, rows) =
            agents.into_iter().map(|agent| (agent.key, rows.remove(&agent.id).expect("its row"))).unzip();
        Self { keys, rows }
    }
}

/// The figures of one fleet: per round, and the system's memory in MB.
struct Run {
    rate: Sample,
    p50: Sample,
    p99: Sample,
    cpu: Sample,
    memory: f64,
}

impl Run {
    fn of(system: &System, script: &str, url: &str, argument: &str) -> Self {
        let [mut rate, mut p50, mut p99, mut processor] = <[Sample; 4]>::default();
        for _ in 0..ROUNDS {
            let before = cpu(system.pid());
            let result = load(script, url, argument);
            let used = cpu(system.pid()) - before;
            let number = |name: &str| result[name].as_f64().expect("a number");
            assert!(number("failures") < 1.0, "{script}: {result}");
            rate.push(number("answers") / number("microseconds") * 1e6);
            p50.push(number("p50") / 1e3);
            p99.push(number("p99") / 1e3);
            processor.push(used.as_secs_f64() * 1e6 / number("answers"));
        }
        Self { rate, p50, p99, cpu: processor, memory: megabytes(peak_memory(system.pid())) }
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

/// Five seconds of wrk with one of the scripts and its argument.
fn load(script: &str, url: &str, argument: &str) -> Value {
    let mut wrk = Command::new("wrk");
    wrk.current_dir(in_repository("benches/wrk"));
    wrk.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
    wrk.args(["--duration", &format!("{SECONDS}s"), "--script", script, url, argument]);
    let output = wrk.output().expect("wrk");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("wrk: {text}"))).expect("JSON")
}
