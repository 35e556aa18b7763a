//! `rollcall`: wraps any program in heartbeats.

mod environment;
mod http;
mod run;
mod text;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Rollcall knows which of your AI agents are alive.
#[derive(Parser)]
#[command(
    name = "rollcall",
    version,
    after_help = "Where Rollcall is and the secrets come from the environment: ROLLCALL_URL (by default \
                  http://127.0.0.1:3000), ROLLCALL_KEY, ROLLCALL_ENROLLMENT_TOKEN, each also as …_FILE."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Arguments),
}

/// Flags of the program that had this name before.
const LOCAL_FLAGS: [&str; 5] = ["--memory", "--port", "--data", "--registration", "--sweep-every"];

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1).unwrap_or_default();
    if first == run::SHIM {
        return run::shim(std::env::args_os().skip(2));
    }
    if LOCAL_FLAGS.iter().any(|flag| first == *flag) {
        eprintln!(
            "rollcall: the program that serves Rollcall on this machine is rollcall-local now: cargo run"
        );
        return ExitCode::from(2);
    }
    match Arguments::parse().verb {
        Verb::Run(arguments) => run::run(arguments),
    }
}
