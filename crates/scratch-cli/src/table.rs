//! Tables that fit the terminal: the last column gives way, or goes on below. What is piped is never cut.

use std::io::{IsTerminal, Write};

use crate::line;

/// Rows of cells below a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    overflow: Overflow,
}

/// What becomes of a last cell that is too long.
#[derive(Debug, Clone, Copy)]
enum Overflow {
    /// Its end is left, which tells paths apart.
    Cut,
    /// It goes on in the next line.
    Wrap,
}

/// A table whose rows come one by one: the columns' widths are given, and the last one goes on below.
#[derive(Debug)]
pub(crate) struct Rows<const COLUMNS: usize> {
    columns: [(&'static str, usize); COLUMNS],
}

impl<const COLUMNS: usize> Rows<COLUMNS> {
    pub(crate) fn new(columns: &[(&'static str, usize); COLUMNS]) -> Self {
        Self { columns: *columns }
    }

    pub(crate) fn head(&self) -> std::io::Result<()> {
        self.row(&self.columns.map(|(head, _)| head.to_owned()))
    }

    pub(crate) fn row(&self, cells: &[String; COLUMNS]) -> std::io::Result<()> {
        line::print(&self.layout(cells, terminal_width()))
    }

    fn layout(&self, cells: &[String; COLUMNS], width: Option<usize>) -> String {
        let mut text = String::new();
        let mut before_last = 0;
        for (number, (cell, (_, column))) in cells.iter().zip(self.columns).enumerate() {
            let cell = clean(cell);
            if number + 1 < COLUMNS {
                text.push_str(&format!("{cell:<column$}  "));
                before_last += column + 2;
            } else {
                let last = width.map_or(usize::MAX, |width| width.saturating_sub(before_last).max(12));
                text.push_str(&wrap(&cell, last, before_last));
            }
        }
        text
    }
}

/// Of the terminal, if there is one.
fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    let size = if out.is_terminal() { rustix::termios::tcgetwinsize(&out).ok() } else { None };
    size.map(|size| size.ws_col).filter(|width| *width > 0).map(usize::from)
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), overflow: Overflow::Cut }
    }

    /// Whose last column has sentences.
    pub(crate) fn wrapping(head: &[&'static str]) -> Self {
        Self { overflow: Overflow::Wrap, ..Self::new(head) }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    pub(crate) fn print(&self) -> std::io::Result<()> {
        std::io::stdout().lock().write_all(self.layout(terminal_width()).as_bytes())
    }

    fn layout(&self, width: Option<usize>) -> String {
        let length = |cell: &str| cell.chars().count();
        let columns: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| length(&row[column]));
                cells.chain([self.head[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let before_last: usize = columns[..columns.len() - 1].iter().map(|column| column + 2).sum();
        let last = width.map_or(usize::MAX, |width| width.saturating_sub(before_last).max(12));
        let mut text = String::new();
        let head: Vec<String> = self.head.iter().map(|cell| (*cell).to_owned()).collect();
        for row in [&head].into_iter().chain(&self.rows) {
            let (end, rest) = row.split_last().expect("a table has columns");
            for (cell, width) in rest.iter().zip(&columns) {
                text.push_str(cell);
                text.push_str(&" ".repeat(width + 2 - length(cell)));
            }
            match self.overflow {
                Overflow::Cut => text.push_str(&shorten(end, last)),
                Overflow::Wrap => text.push_str(&wrap(end, last, before_last)),
            }
            text.push('\n');
        }
        text
    }
}

/// Control characters in names would move the reader's cursor: they are shown as `?`.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks at blanks; what follows is set in by `indent`. A longer word stays whole.
fn wrap(cell: &str, width: usize, indent: usize) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in cell.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text
}

fn shorten(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        cell.to_owned()
    } else {
        format!("…{}", cell.chars().skip(length - width + 1).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_gives_way_and_control_characters_do_not_get_through() {
        let mut table = Table::new(&["ID", "PATH"]);
        table.row(vec!["a".into(), "/a/rather/long/path\x1b".into()]);
        assert_eq!(table.layout(None), "ID  PATH\na   /a/rather/long/path?\n");
        assert_eq!(table.layout(Some(16)), "ID  PATH\na   …/long/path?\n");
        assert!(table.layout(Some(1)).lines().all(|line| line.chars().count() <= 16));
    }

    #[test]
    fn rows_come_one_by_one() {
        let rows = Rows::new(&[("ID", 4), ("TEXT", 0)]);
        assert_eq!(rows.layout(&["a".into(), "one\x1b two".into()], None), "a     one? two");
        assert_eq!(rows.layout(&["longer".into(), "one two three".into()], Some(20)), "longer  one two three");
        assert_eq!(rows.layout(&["a".into(), "one two three".into()], Some(18)), "a     one two\n      three");
    }

    #[test]
    fn sentences_go_on_below() {
        let mut table = Table::wrapping(&["ID", "TEXT"]);
        table.row(vec!["a".into(), "one two three averyverylongword".into()]);
        assert_eq!(table.layout(None), "ID  TEXT\na   one two three averyverylongword\n");
        let wrapped = "ID  TEXT\na   one two\n    three\n    averyverylongword\n";
        assert_eq!(table.layout(Some(16)), wrapped);
    }
}
