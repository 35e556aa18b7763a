//! `rollcall`: wraps any program in heartbeats, and is an operator's hand.

mod environment;
mod http;
mod mcp;
mod operate;
mod run;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

/// Rollcall knows which of your AI agents are alive.
#[derive(Parser)]
#[command(name = "rollcall", version, help_template = HELP)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// A screen, and no more: each verb's own help says the rest.
const HELP: &str = "\
{name} {version}: which of your AI agents are alive, and what they should do

Usage: rollcall VERB …          rollcall VERB --help says more, with an example

  run -- CMD         run any program, and send its heartbeats

  agents, agent      who is there                 fleet       at a glance
  events             what happened to an agent    alerts      what was told
  open               the page's address

  approve, revoke, restore        let agents in, shut them out, take them back
  rotate, set, remove             new keys, other settings, off the list
  pause, resume, drain, stop      say what they should do

  tokens, channels, silence, silences             manage these
  mcp                                             for a model
  completions, man                                for your shell

Agents are meant by id or name; --board ID or --all means many. --json is for
programs. Exit codes: 1 refused, 2 usage, 3 not found, 4 no answer.

From the environment, each also as …_FILE: ROLLCALL_URL (http://127.0.0.1:3000),
ROLLCALL_OPERATOR_TOKEN; for run: ROLLCALL_KEY, ROLLCALL_ENROLLMENT_TOKEN.
";

#[derive(Subcommand)]
enum Verb {
    Run(run::Arguments),
    #[command(flatten)]
    Operate(operate::Verb),
    Mcp(mcp::Arguments),
    /// Print completions for a shell
    #[command(
        after_help = "Example: rollcall completions bash > ~/.local/share/bash-completion/completions/rollcall"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write man pages, one for each verb
    #[command(after_help = "Example: rollcall man ~/.local/share/man/man1")]
    Man {
        /// The folder for them
        folder: PathBuf,
    },
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
        Verb::Operate(verb) => operate::operate(verb),
        Verb::Mcp(arguments) => mcp::serve(&arguments),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "rollcall", &mut text);
            operate::print(String::from_utf8_lossy(&text).trim_end());
            ExitCode::SUCCESS
        }
        Verb::Man { folder } => match clap_mangen::generate_to(Arguments::command(), &folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("rollcall: {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        },
    }
}
