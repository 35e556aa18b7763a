//! Tables for people: aligned columns, coloured where a terminal is.

use std::io::{self, IsTerminal as _};

use unicode_width::UnicodeWidthStr as _;

use super::print;
use crate::environment;
use crate::text::visible;

/// The longest text of a cell that is not the last of its row: an operator's id has 45.
const CELL_MOST: usize = 48;

/// The longest text of a row's last cell.
const LAST_MOST: usize = 300;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Green,
    Yellow,
    Red,
    Dim,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
            Self::Dim => "\x1b[2m",
        }
    }

    /// That of an agent's status.
    pub fn of_status(status: &str) -> Option<Self> {
        match status {
            "healthy" | "online" => Some(Self::Green),
            "degraded" | "pending" | "provisioning" => Some(Self::Yellow),
            "error" | "offline" | "revoked" => Some(Self::Red),
            _ => None,
        }
    }
}

/// One text of others, or our own.
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

impl Cell {
    pub fn coloured(text: impl Into<String>, colour: Option<Colour>) -> Self {
        Self { text: text.into(), colour }
    }
}

/// Rows under a head.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(head: impl IntoIterator<Item = &'static str>) -> Self {
        Self { head: head.into_iter().collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut cells = cells.into_iter().collect::<Vec<_>>();
        let last = cells.len().saturating_sub(1);
        for (at, cell) in cells.iter_mut().enumerate() {
            cell.text = cut(&cell.text, if at == last { LAST_MOST } else { CELL_MOST });
        }
        self.rows.push(cells);
    }

    /// Prints it; only the head's absence says that it is empty.
    pub fn print(self) {
        if self.rows.is_empty() {
            return;
        }
        let colours = colours();
        let head = self.head.iter().map(|text| Cell::coloured(*text, Some(Colour::Dim))).collect::<Vec<_>>();
        let rows = std::iter::once(head).filter(|head| !head.is_empty()).chain(self.rows).collect::<Vec<_>>();
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let widths = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
            widths.max().unwrap_or_default()
        };
        let widths = (0..columns).map(width).collect::<Vec<_>>();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let gap = " ".repeat(width - cell.text.width() + 2);
                match cell.colour.filter(|_| colours) {
                    Some(colour) => line.extend([colour.code(), &cell.text, "\x1b[0m", &gap]),
                    None => line.extend([cell.text.as_str(), &gap]),
                }
            }
            print(line.trim_end());
        }
    }
}

/// The text as it may be shown, and a sign where its end is not.
fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() { visible(text, most) } else { visible(text, most - 1) + "…" }
}

/// Whether standard output is a terminal that is to be coloured.
fn colours() -> bool {
    let is_dumb = environment::raw("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb && environment::raw("NO_COLOR").is_none()
}
