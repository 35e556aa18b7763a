//! The tables: printed, and put into docs/performance.md.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

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

/// Prints what was measured, and puts it between the marks `<!-- name -->` and `<!-- end -->` of the page.
pub fn write(name: &str, content: &impl ToString) {
    let content = content.to_string();
    println!("## {name}\n\n{content}");
    let page = page();
    let (before, _, after) = parts(&page, name);
    fs::write(in_repository(PAGE), format!("{before}{content}{after}")).expect(PAGE);
}

/// What stands between the marks of this name.
pub fn read(name: &str) -> String {
    parts(&page(), name).1.to_owned()
}

fn page() -> String {
    fs::read_to_string(in_repository(PAGE)).expect(PAGE)
}

/// The page up to the content of these marks, the content, and the rest.
fn parts<'a>(page: &'a str, name: &str) -> (&'a str, &'a str, &'a str) {
    let begin = format!("<!-- {name} -->\n");
    let place = page.find(&begin).unwrap_or_else(|| panic!("no mark {begin:?} in {PAGE}")) + begin.len();
    let (before, rest) = page.split_at(place);
    let length = rest.find("<!-- end -->").unwrap_or_else(|| panic!("{name} has no end"));
    let (content, after) = rest.split_at(length);
    (before, content, after)
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
    let models: Vec<&str> =
        cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).collect();
    format!(
        "{} × {}; {}; {}; Node {}; {}.\n",
        models.len(),
        models.first().unwrap_or(&"unknown processor"),
        version("rustc", "--version"),
        version("valgrind", "--version"),
        version("node", "--version"),
        version("python3", "--version"),
    )
}
