//! What one heartbeat takes of a warm function: processor time, instructions, memory.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::calls;
use crate::figures::{Sample, figure, thousands};
use crate::process::{cpu, megabytes, nix_pid, peak_memory};
use crate::report::{Report, Table};
use crate::stack::Stack;
use crate::support::runtime_api::LambdaProcess;

const ROUNDS: usize = 20;
const BEATS_PER_ROUND: u32 = 500;
/// What a function needs to come to rest: connections, caches, lazily made values.
const WARM_UP: u32 = 500;

/// Instructions are counted over the difference of two runs, so that the start does not count.
const COUNTED_RUNS: [u32; 2] = [50, 250];

const FUNCTIONS: [&str; 3] = ["empty", "bare-update", "heartbeat"];

pub async fn measure(binaries: &Binaries, report: &mut Report) {
    let stack = Stack::start(binaries).await;
    let event = calls::heartbeat(&stack.fleet).event();
    let cpu = processor_time(binaries, &stack, &event, report).await;
    let mut instructions = [0.0; FUNCTIONS.len()];
    for (function, counted) in FUNCTIONS.iter().zip(&mut instructions) {
        *counted = instructions_per_heartbeat(binaries, &stack, function, &event).await;
    }

    let [empty, bare, _] = &cpu;
    let mut table =
        Table::new(["per invocation", "CPU, µs", "× bare `UpdateItem`", "instructions", "× bare"]);
    for ((function, sample), counted) in FUNCTIONS.iter().zip(&cpu).zip(instructions) {
        let [ratio, counts] = [sample.over(bare).show(), figure(counted / instructions[1])];
        table.row([(*function).to_owned(), sample.show(), ratio, thousands(counted), counts]);
    }
    let own = cpu[2].less(empty).over(&bare.less(empty));
    let [empty_count, bare_count, beat_count] = instructions;
    table.row([
        "heartbeat, without what the empty function takes".to_owned(),
        cpu[2].less(empty).show(),
        own.show(),
        thousands(beat_count - empty_count),
        figure((beat_count - empty_count) / (bare_count - empty_count)),
    ]);
    report.table("warm", &table);

    let figures = "CPU per warm heartbeat, against a function with a bare SDK `UpdateItem`";
    let ratio = cpu[2].over(bare).median();
    report.open_goal(figures, "≤ 1.2 ×", format!("{} ×", figure(ratio)), ratio <= 1.2);
    let ratio = beat_count / bare_count;
    report.goal("the same, instructions", "≤ 1.4 ×", format!("{} ×", figure(ratio)), ratio <= 1.4);
}

/// Microseconds per invocation, round by round in turn.
async fn processor_time(
    binaries: &Binaries,
    stack: &Stack,
    event: &Value,
    report: &mut Report,
) -> [Sample; FUNCTIONS.len()] {
    let mut functions = Vec::new();
    for name in FUNCTIONS {
        let environment = stack.environment();
        let function = LambdaProcess::start(binaries.path(name), &environment).await;
        invoke(&function, event, WARM_UP).await;
        functions.push(function);
    }
    let mut samples = <[Sample; FUNCTIONS.len()]>::default();
    for _ in 0..ROUNDS {
        for (function, sample) in functions.iter().zip(&mut samples) {
            let before = cpu(function.pid());
            invoke(function, event, BEATS_PER_ROUND).await;
            let used: Duration = cpu(function.pid()).saturating_sub(before);
            sample.push(used.as_secs_f64() * 1e6 / f64::from(BEATS_PER_ROUND));
        }
    }
    let memory = megabytes(peak_memory(functions[2].pid()));
    report.goal(
        "peak RSS of the heartbeat under load",
        "≤ 16 MB",
        format!("{} MB", figure(memory)),
        memory <= 16.0,
    );
    samples
}

async fn invoke(function: &LambdaProcess, event: &Value, times: u32) {
    for _ in 0..times {
        let answer = function.invoke(event.clone()).await.answer();
        assert_eq!(answer["statusCode"], 200, "{answer}: {:?}", function.logs());
    }
    function.ready().await;
}

async fn instructions_per_heartbeat(binaries: &Binaries, stack: &Stack, name: &str, event: &Value) -> f64 {
    let mut counts = [0.0; 2];
    for (heartbeats, count) in COUNTED_RUNS.iter().zip(&mut counts) {
        *count = instructions(binaries, stack, name, event, *heartbeats).await;
    }
    (counts[1] - counts[0]) / f64::from(COUNTED_RUNS[1] - COUNTED_RUNS[0])
}

/// Instructions from the start of a function to its end after so many heartbeats, as callgrind counts them.
async fn instructions(binaries: &Binaries, stack: &Stack, name: &str, event: &Value, heartbeats: u32) -> f64 {
    let output = binaries.folder().join(format!("{name}-{heartbeats}.callgrind"));
    let mut command = Command::new(binaries.program("valgrind"));
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", output.display()));
    command.arg(binaries.path(name));
    let environment = stack.environment();
    let function = LambdaProcess::spawn_command(name.to_owned(), command, &environment).await;
    invoke(&function, event, heartbeats).await;
    // Callgrind writes its counts when the program is asked to end.
    kill(nix_pid(function.pid()), Signal::SIGTERM).expect("a running process");
    function.ended().await;
    let counts = std::fs::read_to_string(&output).expect("callgrind's output");
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: ")).expect("callgrind's total");
    total.trim().parse().expect("a count")
}
