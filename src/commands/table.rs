//! Table: columns as wide as they need to be, cut to the terminal, but for the first: other
//! commands take what it holds.

/// Rows of text under a heading.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with a heading.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Control characters are escaped: cells may hold text from outside.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(
            cells.into_iter().map(|cell| super::printable(&cell).replace('\n', " ")).collect(),
        );
    }

    /// Takes a column away.
    pub(super) fn without(&mut self, heading: &str) {
        if let Some(at) =
            self.rows.first().and_then(|row| row.iter().position(|name| name == heading))
        {
            for row in &mut self.rows {
                row.remove(at);
            }
        }
    }

    /// Takes a column away that says nothing in any row.
    pub(super) fn without_empty(&mut self, heading: &str) {
        let at = self.rows.first().and_then(|row| row.iter().position(|name| name == heading));
        if at.is_some_and(|at| self.rows.iter().skip(1).all(|row| row[at].is_empty())) {
            self.without(heading);
        }
    }

    /// Prints it to stdout, cut to the terminal's width where stdout is one.
    pub(super) fn print(&self) {
        let width = super::terminal_width();
        for line in self.lines(width) {
            println!("{line}");
        }
    }

    fn lines(&self, width: Option<usize>) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let mut widths: Vec<usize> = (0..columns)
            .map(|n| {
                self.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0).min(CELL_MAX)
            })
            .collect();
        if let Some(width) = width {
            narrow(&mut widths, width);
        }
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (n, cell) in row.iter().enumerate() {
                let last = n + 1 == columns;
                let cell: String = if last { cell.clone() } else { shorten(cell, widths[n]) };
                line.push_str(&cell);
                if !last {
                    line.push_str(&" ".repeat(widths[n] + 2 - cell.chars().count()));
                }
            }
            let line = line.trim_end();
            width.map_or_else(|| line.to_owned(), |width| shorten(line, width))
        };
        self.rows.iter().map(line).collect()
    }
}

/// The widest cell that is not the last: an id of 256 bytes must not push the rest off the screen.
const CELL_MAX: usize = 40;

/// To which width a column may be cut so that the last one has which width: first what most error
/// classes need, then, where that is not enough, what is still told apart.
const CUTS: [(usize, usize); 2] = [(16, 28), (8, 16)];

/// Takes from the widest columns but the first until the last one can be read within `width`.
fn narrow(widths: &mut [usize], width: usize) {
    for (cell_min, last_min) in CUTS {
        let Some((last, others)) = widths.split_last_mut() else { return };
        while others.iter().map(|width| width + 2).sum::<usize>() + last_min.min(*last) > width {
            let widest = others.iter_mut().skip(1).max().filter(|widest| **widest > cell_min);
            let Some(widest) = widest else { break };
            *widest -= 1;
        }
    }
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_columns_give_way_to_the_last_and_empty_ones_go() {
        let mut table = Table::new(&["A", "EMPTY", "ID", "ERROR"]);
        table.row(
            ["1", "", "0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff", "no answer within five seconds"]
                .map(String::from),
        );
        table.without_empty("EMPTY");
        table.without_empty("ERROR");
        expect_test::expect![[r#"
            A  ID                 ERROR
            1  0199a3f2-77aa-7b…  no answer within five secon…"#]]
        .assert_eq(&table.lines(Some(50)).join("\n"));
        let mut table = Table::new(&["JOB", "CLASS", "ERROR"]);
        table.row(
            ["r-20261121-124326-2sps", "ValidationError", "no answer within five seconds"]
                .map(String::from),
        );
        expect_test::expect![[r#"
            JOB                     CLASS            ERROR
            r-20261121-124326-2sps  ValidationError  no answer within f…"#]]
        .assert_eq(&table.lines(Some(60)).join("\n"));
    }

    #[test]
    fn columns_line_up_and_hostile_text_stays_in_its_cell() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(["1".into(), "x\u{1b}[31m\r\ny".into(), "end".into()]);
        table.row(["22".into(), "z".into(), "a long last cell".into()]);
        expect_test::expect![[r#"
            A   B              C
            1   x\u{1b}[31m\…  end
            22  z              a long last cell"#]]
        .assert_eq(&table.lines(Some(35)).join("\n"));
    }
}
