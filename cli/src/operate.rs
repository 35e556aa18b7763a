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
use crate::text::{escaped, visible};

/// The exit code of who writes where nobody reads, as a shell says it: 128 and the number of SIGPIPE.
const BROKEN_PIPE: i32 = 141;

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
            say(&failure);
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
            print(&escaped(&serde_json::to_string_pretty(value).unwrap_or_default()));
        }
        self.json
    }
}

/// Prints a line for people.
fn line(text: &str) {
    print(&visible(text, usize::MAX));
}

/// Prints JSON as a line of its own.
fn json_line(value: &Value) {
    print(&escaped(&value.to_string()));
}

/// Prints a line as it is. Where nobody reads any more, this program ends as others do, without a word; where it cannot be
/// written, a script must not take it for done.
pub fn print(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE);
        }
        writeln!(io::stderr(), "rollcall: standard output: {error}").ok();
        std::process::exit(1);
    }
}

/// Says what is wrong, to whoever reads standard error.
fn say(failure: &Failure) {
    writeln!(io::stderr(), "rollcall: {}", visible(&failure.to_string(), 2000)).ok();
}

/// A text of an answer, or a dash.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), str::to_owned)
}
