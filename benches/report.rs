//! The tables: printed, and put into docs/performance.md.

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// A table of Markdown.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { header: header.map(str::to_owned).into(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rule = vec!["---".to_owned(); self.header.len()];
        for row in [&self.header, &rule].into_iter().chain(&self.rows) {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

const PAGE: &str = "docs/performance.md";

/// What one run measures: tables, and goals.
pub struct Report {
    rewrites_page: bool,
    goals: Vec<Goal>,
}

struct Goal {
    figure: String,
    bound: String,
    measured: String,
    reached: bool,
    /// Whether a run fails that misses it.
    binding: bool,
}

impl Report {
    /// A run of everything rewrites the page, so that all of its tables come from one run; another one only prints.
    pub const fn new(rewrites_page: bool) -> Self {
        Self { rewrites_page, goals: Vec::new() }
    }

    /// Prints what was measured, and puts it between the marks `<!-- name -->` and `<!-- end -->` of the page.
    pub fn table(&self, name: &str, content: &impl ToString) {
        let content = content.to_string();
        println!("## {name}\n\n{content}");
        if self.rewrites_page {
            let page = fs::read_to_string(in_repository(PAGE)).expect(PAGE);
            fs::write(in_repository(PAGE), with_part(&page, name, &content)).expect(PAGE);
        }
    }

    /// A run that misses this one fails.
    pub fn goal(&mut self, figure: &str, bound: &str, measured: String, reached: bool) {
        self.add(figure, bound, measured, reached, true);
    }

    /// Not reached so far; the page says what stands in the way. A run that misses it does not fail.
    pub fn open_goal(&mut self, figure: &str, bound: &str, measured: String, reached: bool) {
        self.add(figure, bound, measured, reached, false);
    }

    fn add(&mut self, figure: &str, bound: &str, measured: String, reached: bool, binding: bool) {
        let (figure, bound) = (figure.to_owned(), bound.to_owned());
        self.goals.push(Goal { figure, bound, measured, reached, binding });
    }

    /// Ends the run. It fails if a goal was missed that is not an open one.
    pub fn conclude(self) -> ExitCode {
        let mut table = Table::new(["figure", "goal", "measured", "reached"]);
        for Goal { figure, bound, measured, reached, .. } in &self.goals {
            let reached = if *reached { "yes" } else { "**no**" };
            table.row([figure.clone(), bound.clone(), measured.clone(), reached.to_owned()]);
        }
        self.table("goals", &table);
        let missed: Vec<&Goal> = self.goals.iter().filter(|goal| !goal.reached).collect();
        let failed = missed.iter().any(|goal| goal.binding);
        println!("{} goals, {} missed", self.goals.len(), missed.len());
        if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// The page with another content between the marks of this name.
fn with_part(page: &str, name: &str, content: &str) -> String {
    let begin = format!("<!-- {name} -->\n");
    let place = page.find(&begin).unwrap_or_else(|| panic!("no mark {begin:?} in {PAGE}")) + begin.len();
    let (before, rest) = page.split_at(place);
    let length = rest.find("<!-- end -->").unwrap_or_else(|| panic!("{name} has no end"));
    format!("{before}{content}{}", &rest[length..])
}

/// A path in the repository.
pub fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// What a program prints about itself, its first line.
pub fn version(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not found").to_owned()
}

/// What the figures were taken on.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    format!(
        "{} × {}; {}; {}; Node {}; {}.\n",
        std::thread::available_parallelism().map_or(0, NonZero::get),
        model.unwrap_or("a processor without a name"),
        version("rustc", "--version"),
        version("valgrind", "--version"),
        version("node", "--version"),
        version("python3", "--version"),
    )
}
