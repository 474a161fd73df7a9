//! Table: columns as wide as they need to be, the last one cut to the terminal.

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
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| super::printable(cell).replace('\n', " ")).collect());
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
        let widths: Vec<usize> = (0..columns)
            .map(|n| self.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0).min(CELL_MAX))
            .collect();
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
    fn columns_line_up_and_hostile_text_stays_in_its_cell() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(["1".into(), "x\u{1b}[31m\r\ny".into(), "end".into()]);
        table.row(["22".into(), "z".into(), "a long last cell".into()]);
        expect_test::expect![[r#"
            A   B                   C
            1   x\u{1b}[31m\u{d} y  end
            22  z                   a long las…"#]]
        .assert_eq(&table.lines(Some(35)).join("\n"));
    }
}
