//! The commands' output and its formats.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
};

use daemon::exit;
use serde::Serialize;
use serde_json::Value;

/// How a command's result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Prints to standard output, control characters escaped: a service's output must not change the terminal. A closed pipe is not an
/// error; any other ends the program with status 1.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(printable(text).as_bytes()).and_then(|()| out.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        drop(writeln!(io::stderr(), "error: writing to standard output: {error}"));
        exit::end_with(1);
    }
}

fn printable(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_control) {
        return text.into();
    }
    text.chars().flat_map(|c| if is_control(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Prints indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"));
    Ok(())
}

/// Prints a warning on standard error.
pub(crate) fn warn(text: &str) {
    // A closed standard error is not an error.
    drop(writeln!(io::stderr(), "warning: {text}"));
}

/// The width of standard output, if that is a terminal.
pub(crate) fn terminal_width() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stdout().lock())?;
    Some(usize::from(size.0.0))
}

/// A text of at most `width` characters; where it is longer, an ellipsis ends it.
pub(crate) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Prints progress on standard error, if that is a terminal.
pub(crate) fn progress(text: &str) {
    let mut error = io::stderr().lock();
    if error.is_terminal() {
        drop(writeln!(error, "{text}"));
    }
}

/// Lines of columns, as wide as they must be; the last one as it is.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (column, cell) in row.iter().enumerate() {
            line += cell;
            if column + 1 < row.len() {
                line += &" ".repeat(widths[column] - cell.chars().count() + 2);
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A value as text: a string without quotes, `-` for null.
pub(crate) fn display_value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["a".to_owned(), "b".into(), "c".into()], vec!["ää".into(), String::new(), "d e".into()]];
        assert_eq!(table(&rows), "  a   b  c\n  ää     d e\n");
        assert_eq!(table(&[]), "");
    }
}
