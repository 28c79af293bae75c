//! The table of the demo: redrawn in place on a terminal, a line for each change elsewhere.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Instant,
};

use crate::view::View;

/// Where the table stands, and what was shown last.
pub struct Table {
    started: Instant,
    terminal: bool,
    /// How wide the terminal was, and how many lines the table had.
    drawn: (usize, usize),
    last: BTreeMap<String, View>,
}

const HEADS: [&str; 6] = ["NAME", "STATE", "REQUESTS", "HELD", "COLD START", "WHY"];

/// Where the terminal is narrower, each change is a line.
const NARROWEST: usize = 70;

/// How many lines one reason may have.
const REASON_LINES: usize = 3;

/// One line of the table: what stands before the state, the state, and what follows.
#[derive(Debug, PartialEq, Eq)]
struct Line([String; 3]);

// === impl Table ===

impl Table {
    /// Nothing shown yet.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            terminal: io::stdout().is_terminal(),
            drawn: (0, 0),
            last: BTreeMap::new(),
        }
    }

    /// Shows the resources as they are now.
    pub fn show(&mut self, views: &[View]) -> io::Result<()> {
        let width = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not say how wide it is says 0.
        let width = if width == 0 { 80 } else { width };
        if self.terminal && width >= NARROWEST { self.redraw(views, width) } else { self.changes(views) }
    }

    fn redraw(&mut self, views: &[View], width: usize) -> io::Result<()> {
        let mut frame = String::new();
        // A terminal of another width has broken the lines anew: the next table stands below.
        if let (drawn, lines @ 1..) = self.drawn
            && drawn == width
        {
            frame.push_str(&format!("\x1b[{lines}A"));
        }
        let lines = lines(views, width);
        for (at, Line([before, state, after])) in lines.iter().enumerate() {
            let style = if at == 0 { "\x1b[1m" } else { color(state) };
            let style_of_all = if at == 0 { style } else { "" };
            frame.push_str(&format!(
                "\x1b[2K{style_of_all}{before}{style}{state}\x1b[0m{style_of_all}{after}\x1b[0m\n"
            ));
        }
        // The table before may have been longer.
        frame.push_str("\x1b[J");
        self.drawn = (width, lines.len());
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }

    fn changes(&mut self, views: &[View]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for view in views {
            let before = self.last.get(&view.name);
            if before.is_none_or(|before| {
                (&before.state, before.requests, before.held) != (&view.state, view.requests, view.held)
            }) {
                let View { name, state, why, requests, in_flight, held, cold_start } = view;
                let time = self.started.elapsed().as_secs_f64();
                writeln!(
                    out,
                    "{time:7.1} s  {name}: {state} ({why}); requests {requests}, in flight {in_flight}, held {held}, last cold start {}",
                    dash(cold_start)
                )?;
                self.last.insert(name.clone(), view.clone());
            }
        }
        out.flush()
    }
}

/// The head and the resources, in lines of at most `width` characters. A reason that is too long goes on below itself.
fn lines(views: &[View], width: usize) -> Vec<Line> {
    let longest = views.iter().map(|view| view.name.chars().count()).max().unwrap_or_default();
    let name_width = longest.clamp(HEADS[0].len(), 12);
    let mut lines = Vec::new();
    let mut add = |[name, state, requests, held, cold_start, why]: [&str; 6]| {
        let name = wrap(name, name_width, 1).concat();
        let before = format!("  {name:<name_width$}  ");
        let padding = " ".repeat(8_usize.saturating_sub(state.len()));
        let numbers = format!("{padding}  {requests:>8}  {held:>4}  {cold_start:>10}  ");
        let indent = 2 + name_width + 2 + state.len() + numbers.len();
        let mut reason = wrap(why, width.saturating_sub(indent), REASON_LINES).into_iter();
        let first = reason.next().unwrap_or_default();
        lines.push(Line([before, state.to_owned(), numbers + &first]));
        lines.extend(reason.map(|more| Line([" ".repeat(indent), String::new(), more])));
    };
    add(HEADS);
    for view in views {
        let View { name, state, why, requests, held, cold_start, .. } = view;
        add([name, state, &requests.to_string(), &held.to_string(), dash(cold_start), why]);
    }
    lines
}

/// A text in at most `most` lines of at most `width` characters, broken between words. `...` says that it goes on. Only a word
/// that is longer than a line is cut.
fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().map(|word| cut(word, width)) {
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(&word) <= width => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        let mut last = lines.pop().unwrap_or_default();
        while length(&last) + 4 > width
            && let Some(space) = last.rfind(' ')
        {
            last.truncate(space);
        }
        lines.push(cut(&last, width.saturating_sub(4)) + " ...");
    }
    lines
}

/// A word, cut where it is longer than `width`.
fn cut(word: &str, width: usize) -> String {
    if word.chars().count() <= width {
        return word.to_owned();
    }
    word.chars().take(width.saturating_sub(3)).collect::<String>() + "..."
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn color(state: &str) -> &'static str {
    match state {
        "active" => "\x1b[32m",
        "asleep" => "\x1b[34m",
        "failed" => "\x1b[31m",
        _ => "\x1b[33m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the daemons say of a resource at its longest.
    const LONG: &str = "kept awake: reverted: the drain was not confirmed: DLX 10.244.17.3: requests are in flight (2), and \
        its Service was intercepted at https://shop.example.com/a/path/that/is/longer/than/any/column by another autoscaler";

    fn view(name: &str, state: &str, why: &str) -> View {
        let (name, state, why) = (name.to_owned(), state.to_owned(), why.to_owned());
        View {
            name,
            state,
            why,
            requests: 12_345_678,
            in_flight: 3,
            held: 9_999,
            cold_start: "123456 ms".to_owned(),
        }
    }

    fn drawn(views: &[View], width: usize) -> Vec<String> {
        lines(views, width).into_iter().map(|Line(parts)| parts.concat()).collect()
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_whatever_the_daemons_say() {
        for width in NARROWEST..140 {
            for state in ["active", "draining", "asleep", "waking", "failed", "gone", ""] {
                let views = [view("visited", state, LONG), view("a-name-of-many-letters", state, "")];
                for line in drawn(&views, width) {
                    assert!(line.chars().count() <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_reason_is_broken_between_words() {
        let drawn = drawn(&[view("slow", "active", LONG)], 80);
        let reason: Vec<_> =
            drawn[1..].iter().map(|line| line.chars().skip(46).collect::<String>()).collect();
        assert_eq!(
            reason,
            ["kept awake: reverted: the drain", "was not confirmed: DLX", "10.244.17.3: requests are in ..."]
        );
        assert_eq!(wrap("see https://shop.example.com/a/path now", 12, 3), ["see", "https://s...", "now"]);
        assert_eq!(wrap("one two three four", 9, 2), ["one two", "three ..."]);
        assert_eq!(wrap("", 9, 2), [""; 0]);
    }

    #[test]
    fn what_the_demo_says_most_of_the_time_needs_one_line() {
        let whys = [
            "active 7s ago, the window is 8s",
            "woken by a request",
            "a request came",
            "idle for 8s",
            "not started yet",
            "5 replicas, 20 messages",
        ];
        let views = whys.map(|why| view("visited", "active", why));
        assert_eq!(drawn(&views, 80).len(), 1 + views.len());
    }

    #[test]
    fn the_columns_stand_below_their_heads() {
        let mut slow = view("slow", "waking", "a request came");
        (slow.requests, slow.held, slow.cold_start) = (1, 1, String::new());
        assert_eq!(
            drawn(&[slow], 80),
            [
                "  NAME  STATE     REQUESTS  HELD  COLD START  WHY",
                "  slow  waking           1     1           -  a request came",
            ]
        );
    }
}
