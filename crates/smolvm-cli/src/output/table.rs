//! Tables and lists of facts.

use std::fmt::Write;
use std::io::IsTerminal;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};

use super::harmless;
use crate::env;

/// The last column is never narrower, whatever the terminal.
const LAST: u16 = 20;

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Columns(Table);

impl Columns {
    /// With these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
        // A pipe gets every row on one line: programs cut by line.
        table.set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = width() {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            // Only the last column gives way: a broken id is no id.
            let mut constraints = vec![ColumnConstraint::ContentWidth; headings.len().saturating_sub(1)];
            constraints.push(ColumnConstraint::LowerBoundary(Width::Fixed(LAST)));
            table.set_constraints(constraints);
        }
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[String]) {
        self.0.add_row(cells.iter().map(|cell| harmless(cell)));
    }

    /// The whole, with its last line ended and no blanks before line ends.
    pub(crate) fn text(&self) -> String {
        self.0.lines().fold(String::new(), |mut text, line| {
            text.push_str(line.trim_end());
            text.push('\n');
            text
        })
    }
}

/// The width of the terminal that shows stdout.
fn width() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col).filter(|width| *width > 0).or_else(env::columns)
}

/// `name: value` lines, the values one below the other.
pub(crate) fn pairs(facts: &[(&str, String)]) -> String {
    let widest = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().fold(String::new(), |mut text, (name, value)| {
        let gap = widest - name.len();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name}:{:gap$} {}", "", harmless(value));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_below_each_other_without_trailing_blanks() {
        let mut table = Columns::new(&["ID", "STATE"]);
        table.row(&["vm-a".to_owned(), "running".to_owned()]);
        table.row(&["a-longer-name".to_owned(), "\u{1b}[2J".to_owned()]);
        assert_eq!(table.text(), "ID             STATE\nvm-a           running\na-longer-name  \\u{1b}[2J\n");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(pairs(&[("id", "a".to_owned()), ("state", "b".to_owned())]), "id:    a\nstate: b\n");
    }
}
