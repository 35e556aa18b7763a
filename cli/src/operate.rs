//! The operators' verbs: who is there, what happened, and what should happen.

pub mod api;
mod change;
mod look;
mod manage;
mod table;
mod when;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use self::api::{Api, Failure};

/// What every verb takes.
#[derive(clap::Args)]
pub struct Common {
    /// Print JSON, as the API answers it
    #[arg(long)]
    json: bool,
    /// Send secrets over http to other machines
    #[arg(long, hide_short_help = true)]
    insecure_http: bool,
}

#[derive(Subcommand)]
pub enum Verb {
    #[command(flatten)]
    Look(look::Verb),
    #[command(flatten)]
    Change(change::Verb),
    #[command(flatten)]
    Manage(manage::Verb),
}

/// Does it; the exit code says what came of it.
pub fn operate(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Look(verb) => verb.run(),
        Verb::Change(verb) => verb.run(),
        Verb::Manage(verb) => verb.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            writeln!(io::stderr(), "rollcall: {failure}").ok();
            ExitCode::from(failure.code())
        }
    }
}

impl Common {
    fn api(&self) -> Result<Api, Failure> {
        Api::from_environment(self.insecure_http)
    }

    /// Prints JSON if it is asked for; whether it was.
    fn json(&self, value: &Value) -> bool {
        if self.json {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            line(&text);
        }
        self.json
    }
}

/// Prints a line to whoever still reads.
fn line(text: &str) {
    writeln!(io::stdout(), "{text}").ok();
}

/// A text of an answer, or a dash.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), str::to_owned)
}
