//! Tables and lists of facts.

use std::fmt::Write;
use std::io::IsTerminal;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};

use super::harmless::{harmless, push_harmless};
use crate::env;

/// The last column is never narrower, whatever the terminal.
const LAST: u16 = 20;

/// Blanks between two columns.
const GAP: usize = 2;

/// A table under construction: the text of all cells in one piece, for there may be ten thousand rows.
#[derive(Debug)]
pub(crate) struct Columns {
    across: usize,
    cells: String,
    /// Where each cell ends, the headings first.
    ends: Vec<usize>,
}

impl Columns {
    /// With these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Self { across: headings.len(), cells: String::new(), ends: Vec::new() };
        for heading in headings {
            table.cell(heading);
        }
        table
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[String]) {
        for cell in cells {
            self.cell(cell);
        }
    }

    /// Adds the next cell of a row.
    pub(crate) fn cell(&mut self, text: &str) {
        push_harmless(&mut self.cells, text);
        self.ends.push(self.cells.len());
    }

    /// With the rows of another table of the same headings after its own.
    pub(crate) fn join(mut self, other: &Self) -> Self {
        for cell in other.rows().skip(1).flatten() {
            self.cells.push_str(cell);
            self.ends.push(self.cells.len());
        }
        self
    }

    /// The cells row by row, the headings first.
    fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = &str>> {
        (0..self.ends.len()).step_by(self.across.max(1)).map(move |first| {
            (first..self.ends.len().min(first + self.across)).map(move |i| {
                let begin = i.checked_sub(1).map_or(0, |before| self.ends[before]);
                &self.cells[begin..self.ends[i]]
            })
        })
    }

    /// The whole, with its last line ended and no blanks before line ends.
    pub(crate) fn text(&self) -> String {
        self.text_for(width())
    }

    fn text_for(&self, terminal: Option<u16>) -> String {
        // What a terminal shows of other characters may be none, one or two wide.
        if !self.cells.is_ascii() {
            return self.arranged(terminal);
        }
        let mut widths = vec![0; self.across];
        for row in self.rows() {
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.len()));
        }
        let whole = widths.iter().sum::<usize>() + GAP * self.across.saturating_sub(1);
        // One blank more is what the arrangement leaves at the end of a line.
        if terminal.is_some_and(|terminal| whole >= usize::from(terminal)) {
            return self.arranged(terminal);
        }
        let mut text = String::with_capacity((whole + 1) * (self.ends.len() / self.across.max(1)));
        for row in self.rows() {
            let begin = text.len();
            for (cell, width) in row.zip(&widths) {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width - cell.len() + GAP));
            }
            text.truncate(begin + text[begin..].trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The same for what is wider than its terminal, or has other than plain characters.
    fn arranged(&self, terminal: Option<u16>) -> String {
        let mut table = Table::new();
        let mut rows = self.rows();
        table.load_style(comfy_table::presets::NOTHING);
        if let Some(headings) = rows.next() {
            table.set_header(headings);
        }
        // A pipe gets every row on one line: programs cut by line.
        table.set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            // Only the last column gives way: a broken id is no id.
            let mut constraints = vec![ColumnConstraint::ContentWidth; self.across.saturating_sub(1)];
            constraints.push(ColumnConstraint::LowerBoundary(Width::Fixed(LAST)));
            table.set_constraints(constraints);
        }
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        for row in rows {
            table.add_row(row);
        }
        table.lines().fold(String::new(), |mut text, line| {
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
    fn both_ways_to_write_a_table_say_the_same() {
        let mut table = Columns::new(&["ID", "STATE", "LABELS"]);
        for (id, labels) in [("vm-a", ""), ("a-longer-name", "a=b"), ("b", "team=x,purpose=a rather long one of several words")] {
            table.row(&[id.to_owned(), "running".to_owned(), labels.to_owned()]);
        }
        let longest = table.text_for(None).lines().map(str::len).max().unwrap();
        for width in [None, Some(200)].into_iter().chain((30..90).map(Some)) {
            assert_eq!(table.text_for(width), table.arranged(width), "{width:?}");
        }
        assert!(longest > 30 && longest < 90 && table.text_for(Some(60)).lines().count() > 4, "nothing was narrow");
        let joined = Columns::new(&["ID", "STATE", "LABELS"]).join(&table);
        assert_eq!(joined.text_for(None).lines().count(), 4);
        let mut other = Columns::new(&["ID", "STATE"]);
        other.row(&["späte".to_owned(), "日本".to_owned()]);
        assert_eq!(other.text_for(None), "ID     STATE\nspäte  日本\n");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(pairs(&[("id", "a".to_owned()), ("state", "b".to_owned())]), "id:    a\nstate: b\n");
    }
}
