//! What Rollcall costs, measured beside what users would pick instead. `docs/performance.md` says what each table
//! means; this program fills them in.
//!
//! Everything that is compared runs in turn in one run, because the speed of machines drifts.

mod binaries;
mod calls;
mod cold_start;
mod cost;
mod dynamodb;
mod figures;
mod load;
mod process;
mod report;
mod size;
mod stack;
mod support;
mod sweep;
mod system;
mod warm;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::binaries::Binaries;
use crate::report::Report;

/// Measures Rollcall and prints tables; a run of everything writes them to docs/performance.md, too. Ends with 1 when a
/// goal is missed, unless it is an open one.
#[derive(Parser)]
struct Arguments {
    /// What to measure: all of it, unless said otherwise
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Of the cold starts and sizes only this function's; may be given again
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// What Cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    ColdStart,
    Warm,
    Cost,
    Sweep,
    Load,
    Size,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sections = match arguments.sections.as_slice() {
        [] => Section::value_variants(),
        chosen => chosen,
    };
    let binaries = match Binaries::build(sections, &arguments.functions) {
        Ok(binaries) => binaries,
        Err(missing) => {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
    };
    let everything = arguments.sections.is_empty() && arguments.functions.is_empty();
    let mut report = Report::new(everything);
    report.table("machine", &report::machine());
    for section in sections {
        match section {
            Section::ColdStart => cold_start::measure(&binaries, &mut report).await,
            Section::Warm => warm::measure(&binaries, &mut report).await,
            Section::Cost => cost::measure(&binaries, &mut report).await,
            Section::Sweep => sweep::measure(&binaries, &mut report).await,
            Section::Load => load::measure(&binaries, &mut report).await,
            Section::Size => size::measure(&binaries, &mut report),
        }
    }
    report.conclude()
}
