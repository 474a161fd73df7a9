//! Table: columns as wide as they need to be, numbers to the right, cut to the terminal; the first
//! gives way last, since its cells are arguments of other commands.

use super::width::{columns, pad, pad_left, shorten};

/// Rows of text under a heading.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    heading: String,
    is_right: bool,
}

/// Spaces between two columns.
const GAP: usize = 2;

/// Widest cell between the first and the last: an id of 256 bytes must not push the rest off the
/// screen.
const CELL_MAX: usize = 40;

/// Widths to which columns may be cut, with the width that the last one needs: first those of most
/// error classes, then, where that is not enough, those that can still be told apart.
const CUTS: [(usize, usize); 2] = [(16, 28), (8, LAST_MIN)];

/// Width at which a last column of text can be read.
const LAST_MIN: usize = 16;

/// Width to which the first column may be cut, so that the numbers are on the screen: the id of a
/// job that a person made fits it.
const FIRST_MIN: usize = 24;

impl Table {
    /// Empty table with a heading; what is below it is aligned left.
    pub(super) fn new(heading: &[impl AsRef<str>]) -> Self {
        let column = |name: &str| Column { heading: printable(name), is_right: false };
        let columns = heading.iter().map(|name| column(name.as_ref())).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Aligns these columns right: they are numbers, and are not cut to make room.
    pub(super) fn right(mut self, headings: &[impl AsRef<str>]) -> Self {
        for name in headings {
            let named = |column: &&mut Column| column.heading == printable(name.as_ref());
            self.columns.iter_mut().filter(named).for_each(|column| column.is_right = true);
        }
        self
    }

    /// Adds a row, its control characters escaped: cells may hold text from outside.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Removes a column.
    pub(super) fn without(&mut self, heading: &str) {
        if let Some(at) = self.at(heading) {
            self.columns.remove(at);
            for row in &mut self.rows {
                row.remove(at);
            }
        }
    }

    /// Removes a column that is empty in every row.
    pub(super) fn without_empty(&mut self, heading: &str) {
        if self.at(heading).is_some_and(|at| self.rows.iter().all(|row| row[at].is_empty())) {
            self.without(heading);
        }
    }

    /// Removes these columns, one after the other, while the last one cannot be read within
    /// `width`.
    pub(super) fn spare(&mut self, width: Option<usize>, headings: &[&str]) {
        let Some(width) = width else { return };
        for heading in headings {
            let widths = self.widths(Some(width));
            if needed(&widths, self.last_min(LAST_MIN)) <= width {
                break;
            }
            self.without(heading);
        }
    }

    fn at(&self, heading: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.heading == heading)
    }

    /// Prints the table to stdout, cut to `width` columns if there is one.
    pub(super) fn print(&self, width: Option<usize>) {
        for line in self.lines(width) {
            println!("{line}");
        }
    }

    /// Lines of the table, none wider than `width` columns if there is one.
    pub(super) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widths = self.widths(width);
        let heading: Vec<String> =
            self.columns.iter().map(|column| column.heading.clone()).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (n, ((cell, column), wide)) in
                row.iter().zip(&self.columns).zip(&widths).enumerate()
            {
                let is_last = n + 1 == self.columns.len();
                if n > 0 {
                    line.push_str(&" ".repeat(GAP));
                }
                match (column.is_right, is_last) {
                    (true, _) => line.push_str(&pad_left(&shorten(cell, *wide), *wide)),
                    (false, false) => line.push_str(&pad(&shorten(cell, *wide), *wide)),
                    // The line is cut as a whole.
                    (false, true) => line.push_str(cell),
                }
            }
            let line = line.trim_end();
            width.map_or_else(|| line.to_owned(), |width| shorten(line, width))
        };
        std::iter::once(&heading).chain(&self.rows).map(line).collect()
    }

    /// Widths of the columns, those between the first and the last bounded, and narrowed to
    /// `width` if there is one.
    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let last = self.columns.len().saturating_sub(1);
        let widest = |(n, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| columns(&row[n])).max().unwrap_or(0);
            let widest = cells.max(columns(&column.heading));
            if (1..last).contains(&n) { widest.min(CELL_MAX) } else { widest }
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(widest).collect();
        if let Some(width) = width {
            self.narrow(&mut widths, width);
        }
        widths
    }

    /// Narrows the widest columns of text but the first until the last one can be read within
    /// `width`; then the first, until all that is not text in the last column fits.
    fn narrow(&self, widths: &mut [usize], width: usize) {
        for (cell_min, of_text) in CUTS {
            while needed(widths, self.last_min(of_text)) > width {
                let end = widths.len() - 1;
                let others = widths[..end].iter_mut().zip(&self.columns).skip(1);
                let text = others.filter(|(wide, column)| !column.is_right && **wide > cell_min);
                let Some(widest) = text.map(|(wide, _)| wide).max() else { break };
                *widest -= 1;
            }
        }
        let last_min = self.last_min(0);
        while widths.len() > 1 && widths[0] > FIRST_MIN && needed(widths, last_min) > width {
            widths[0] -= 1;
        }
    }

    /// Width that the last column needs: `of_text`, or all of it, if those are numbers.
    fn last_min(&self, of_text: usize) -> usize {
        if self.columns.last().is_some_and(|last| last.is_right) { usize::MAX } else { of_text }
    }
}

/// Width of a line of which the last column has at most `last_max`.
fn needed(widths: &[usize], last_max: usize) -> usize {
    let Some((last, others)) = widths.split_last() else { return 0 };
    others.iter().map(|wide| wide + GAP).sum::<usize>() + last_max.min(*last)
}

/// Text fit for a cell: that for a terminal, in one line.
fn printable(text: &str) -> String {
    super::printable(text).replace('\n', " ")
}

/// Lines of a table on terminals of 80, 120 and 200 columns, for snapshots: none may be wider.
#[cfg(test)]
pub(super) fn on_terminals(table: impl Fn(Option<usize>) -> Table) -> String {
    let mut out = String::new();
    for width in [80, 120, 200] {
        out.push_str(&format!("{width} columns\n"));
        for line in table(Some(width)).lines(Some(width)) {
            assert!(columns(&line) <= width, "wider than {width}: {line}");
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests;
