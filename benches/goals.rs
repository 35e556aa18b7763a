//! What the figures should be, and whether they are.

use std::process::ExitCode;

use crate::report::{self, Table};

/// The goals that were measured in this run.
#[derive(Default)]
pub struct Goals(Vec<Goal>);

struct Goal {
    figure: String,
    bound: String,
    measured: String,
    reached: bool,
}

impl Goals {
    /// A figure with its goal, as text, and whether it is reached.
    pub fn add(&mut self, figure: &str, bound: &str, measured: impl ToString, reached: bool) {
        let (figure, bound, measured) = (figure.to_owned(), bound.to_owned(), measured.to_string());
        self.0.push(Goal { figure, bound, measured, reached });
    }

    /// Puts the goals that were measured in this run among those of the page. Fails if one of them was missed.
    pub fn conclude(self) -> ExitCode {
        let page = report::read("goals");
        let mut rows: Vec<Vec<String>> = page.lines().skip(2).map(cells).collect();
        for Goal { figure, bound, measured, reached } in &self.0 {
            let reached = if *reached { "yes" } else { "**no**" };
            let row = vec![figure.clone(), bound.clone(), measured.clone(), reached.to_owned()];
            match rows.iter_mut().find(|known| known[..2] == row[..2]) {
                Some(known) => *known = row,
                None => rows.push(row),
            }
        }
        let mut table = Table::new(["figure", "goal", "measured", "reached"]);
        for row in rows {
            table.row(row);
        }
        report::write("goals", &table);
        let missed = self.0.iter().filter(|goal| !goal.reached).count();
        println!("{} goals measured, {missed} missed", self.0.len());
        if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    row.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect()
}
