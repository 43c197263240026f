//! What goes to standard output: tables for people, JSON for programs.
//!
//! A reader that has seen enough closes the pipe; that is no failure of ours, so writing reports it
//! as [`Exit::quiet`].

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::exit::Exit;

/// `-o`
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    // For people.
    Table,
    // For programs; the keys are stable. One document.
    Json,
    // The same, lists as one object per line.
    Jsonl,
}

/// Whether a program reads how the command ends, not a person.
static FOR_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// To be told before anything else, by the arguments: also of those that make no sense it is known
/// who gave them.
pub(crate) fn prepare(args: impl IntoIterator<Item = String>) {
    FOR_PROGRAMS.store(asks_for_json(args), Ordering::Relaxed);
}

/// Whether failures are told as JSON.
pub(crate) fn is_for_programs() -> bool {
    FOR_PROGRAMS.load(Ordering::Relaxed)
}

/// Whether there is `-o json` or `-o jsonl`, in any of its forms, before a command of one's own.
fn asks_for_json(args: impl IntoIterator<Item = String>) -> bool {
    let mut args = args.into_iter().take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix("--output").or_else(|| arg.strip_prefix("-o")) {
            Some("") => args.next().unwrap_or_default(),
            Some(value) => value.trim_start_matches('=').to_owned(),
            None => continue,
        };
        if value == "json" || value == "jsonl" {
            return true;
        }
    }
    false
}

/// Whether a JSON document is owed to standard output.
static OWED: AtomicBool = AtomicBool::new(false);

/// A command begins that answers in this format.
pub(crate) fn begin(format: Format) {
    OWED.store(format == Format::Json, Ordering::Relaxed);
}

/// The command has ended, with an answer or a negative one. With `-o json` there is always a
/// document: where nothing was to be said, it is `null`.
pub(crate) fn end() -> Result<(), Exit> {
    if OWED.load(Ordering::Relaxed) { line("null") } else { Ok(()) }
}

/// A list for programs: one document, or one object per line. Nothing where a table was asked for.
pub(crate) struct Array {
    format: Format,
    is_empty: bool,
}

impl Array {
    pub(crate) fn begin(format: Format) -> Array {
        Array { format, is_empty: true }
    }

    pub(crate) fn add(&mut self, item: &Value) -> Result<(), Exit> {
        match (self.format, std::mem::replace(&mut self.is_empty, false)) {
            (Format::Table, _) => Ok(()),
            (Format::Jsonl, _) => json(item),
            (Format::Json, true) => raw(format!("[{item}").as_bytes()),
            (Format::Json, false) => raw(format!(",\n {item}").as_bytes()),
        }
    }

    pub(crate) fn end(self) -> Result<(), Exit> {
        match (self.format, self.is_empty) {
            (Format::Json, true) => line("[]"),
            (Format::Json, false) => line("]"),
            _ => Ok(()),
        }
    }
}

/// Writes `text` and a line end.
pub(crate) fn line(text: &str) -> Result<(), Exit> {
    bytes(text.as_bytes())
}

/// Writes bytes as they are, and a line end.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Exit> {
    OWED.store(false, Ordering::Relaxed);
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())?;
    Ok(())
}

/// Writes text of many lines as it is.
pub(crate) fn text_block(bytes: &[u8]) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())?;
    Ok(())
}

fn raw(bytes: &[u8]) -> Result<(), Exit> {
    OWED.store(false, Ordering::Relaxed);
    io::stdout().lock().write_all(bytes)?;
    Ok(())
}

/// Writes to standard error, as it is. Where nobody reads that, nobody misses it: unlike
/// `eprintln!`, which panics, this goes on to what must be done.
pub(crate) fn aside(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes one JSON value, in one line.
pub(crate) fn json(value: &Value) -> Result<(), Exit> {
    line(&value.to_string())
}

/// Bytes as JSON has them: text where they are UTF-8, else an object, `{"base64": "…"}`. So nothing
/// is lost, and nobody takes the one for the other.
pub(crate) fn to_json(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": base64(bytes) }),
    }
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let is_there = digit <= three.len();
            text.push(if is_there { DIGITS[value as usize].into() } else { '=' });
        }
    }
    text
}

/// Bytes as a table shows them: as text, in which control characters cannot move the cursor.
pub(crate) fn cell(bytes: &[u8]) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    String::from_utf8_lossy(bytes).chars().map(shown).collect()
}

/// Whether progress may be drawn.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Longer cells stand out of their column: one of them must not push all others to the right.
const WIDTH_MAX: usize = 60;

/// Columns of text. Columns whose cells are all numbers are aligned at their ends.
pub(crate) struct Table {
    is_headed: bool,
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&'static str]) -> Table {
        Table { is_headed: true, heads: heads.to_vec(), rows: Vec::new() }
    }

    /// The same without its first line: it goes on where another ended.
    pub(crate) fn without_heads(self) -> Table {
        Table { is_headed: false, ..self }
    }

    /// Adds a row; one cell per head.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells);
    }

    /// Writes it.
    pub(crate) fn print(&self) -> Result<(), Exit> {
        line(self.to_string().trim_end())
    }

    fn is_number(&self, column: usize) -> bool {
        let number = |c: char| c.is_ascii_digit() || ".,%-x".contains(c);
        self.rows.iter().all(|row| row[column].chars().all(number))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let heads: Vec<String> = self.heads.iter().map(|head| head.to_string()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&heads]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).min(WIDTH_MAX)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        for row in [&heads].into_iter().filter(|_| self.is_headed).chain(&self.rows) {
            let mut text = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let (before, after) =
                    if self.is_number(column) { (&*gap, "") } else { ("", &*gap) };
                text.extend([before, cell, after, "  "]);
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_json_is_told_by_the_arguments() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(str::to_owned));
        for form in ["-o json", "-ojson", "-o=jsonl", "--output jsonl", "--output=json"] {
            assert!(asks(&format!("value get x {form}")), "{form}");
        }
        for line in ["value get x", "value get x -o table", "lock run x -- curl -o json", "get -o"]
        {
            assert!(!asks(line), "{line}");
        }
    }

    #[test]
    fn numbers_end_and_words_begin_at_one_column() {
        let mut table = Table::new(&["GROUP", "LEADER", "COMMIT"]);
        table.row(vec!["0".into(), "n1".into(), "4,112".into()]);
        table.row(vec!["10".into(), "node-é".into(), "7".into()]);
        let lines = table.to_string();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[0], "GROUP  LEADER  COMMIT");
        assert_eq!(lines[1], "    0  n1       4,112");
        assert_eq!(lines[2], "   10  node-é       7");
    }

    #[test]
    fn a_huge_cell_does_not_move_the_others() {
        let mut table = Table::new(&["KEY", "VALUE", "VERSION"]);
        table.row(vec!["a".into(), "x".repeat(100_000), "v1".into()]);
        table.row(vec!["b".into(), "y".into(), "v2".into()]);
        let text = table.to_string();
        assert_eq!(text.lines().last().map(str::len), Some("KEY  ".len() + 60 + "  v2".len()));
    }

    #[test]
    fn bytes_that_are_no_text_are_an_object() {
        assert_eq!(to_json("é\n".as_bytes()), json!("é\n"));
        assert_eq!(to_json(b""), json!(""));
        assert_eq!(to_json(&[0xff]), json!({ "base64": "/w==" }));
        // The vectors of RFC 4648.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        assert_eq!(cell(b"a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
