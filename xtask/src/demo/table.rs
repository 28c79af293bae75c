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
    lines: usize,
    last: BTreeMap<String, View>,
}

const HEADS: [&str; 7] = ["RESOURCE", "STATE", "REQUESTS", "IN FLIGHT", "HELD", "COLD START", "WHY"];
const WIDTHS: [usize; 6] = [8, 8, 8, 9, 4, 10];

// === impl Table ===

impl Table {
    /// Nothing shown yet.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            terminal: io::stdout().is_terminal(),
            lines: 0,
            last: BTreeMap::new(),
        }
    }

    /// Shows the resources as they are now.
    pub fn show(&mut self, views: &[View]) -> io::Result<()> {
        if self.terminal { self.redraw(views) } else { self.changes(views) }
    }

    fn redraw(&mut self, views: &[View]) -> io::Result<()> {
        let width = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not say how wide it is says 0.
        let width = if width < 60 { 110 } else { width };
        let mut frame = String::new();
        if self.lines > 0 {
            frame.push_str(&format!("\x1b[{}A", self.lines));
        }
        frame.push_str(&format!(
            "\x1b[2K  \x1b[1m{}\x1b[0m\n",
            crop(&row(HEADS.map(str::to_owned)), width - 2)
        ));
        for view in views {
            let line = crop(&row(cells(view)), width - 2);
            frame.push_str(&format!(
                "\x1b[2K  {}\n",
                line.replacen(
                    &view.state,
                    &format!("{}{}\x1b[0m", color(&view.state), view.state),
                    usize::from(!view.state.is_empty())
                )
            ));
        }
        self.lines = views.len() + 1;
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

fn cells(view: &View) -> [String; 7] {
    let View { name, state, why, requests, in_flight, held, cold_start } = view.clone();
    [
        name,
        state,
        requests.to_string(),
        in_flight.to_string(),
        held.to_string(),
        dash(&cold_start).to_owned(),
        why,
    ]
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn row(cells: [String; 7]) -> String {
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate() {
        match WIDTHS.get(at) {
            // Numbers to the right.
            Some(width) if (2..6).contains(&at) => line.push_str(&format!("{cell:>width$}  ")),
            Some(width) => line.push_str(&format!("{cell:<width$}  ")),
            None => line.push_str(cell),
        }
    }
    line
}

fn crop(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

fn color(state: &str) -> &'static str {
    match state {
        "active" => "\x1b[32m",
        "asleep" => "\x1b[34m",
        "failed" => "\x1b[31m",
        _ => "\x1b[33m",
    }
}
