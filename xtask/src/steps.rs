//! Progress: each step with its number and the time. On a terminal cargo shows its own progress within a step; elsewhere a
//! step is one line, and cargo prints only warnings and errors.

use std::{
    io::{self, IsTerminal as _},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The steps of one command, for the summary at its end.
pub struct Steps {
    started: Instant,
    total: usize,
    done: Vec<(String, Duration)>,
}

/// Waits; for terminals that are redrawn and for asking a process that just starts whether it is up yet.
#[expect(
    clippy::disallowed_methods,
    reason = "time is the event: the next frame, the next question to a starting process"
)]
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Whether somebody watches: cargo writes its progress to the standard error output.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Has cargo show its progress where somebody watches, and be quiet elsewhere. Comes before what is after `--`.
pub fn show_progress(cargo: &mut Command) -> &mut Command {
    if is_watched() { cargo } else { cargo.arg("--quiet") }
}

/// Runs a command to its end; its output goes to ours.
///
/// # Errors
///
/// It cannot be started, or ends with another status than 0: the message has the whole command line.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    if let Some(name) = line.rsplit('/').next() {
        line = name.to_owned();
    }
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

// === impl Steps ===

impl Steps {
    /// So many steps, none of them done yet.
    pub fn new(total: usize) -> Self {
        Self { started: Instant::now(), total, done: Vec::new() }
    }

    /// Does one step, and says so.
    ///
    /// # Errors
    ///
    /// The step's own, with its name.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let so_far = (!is_watched()).then(|| self.started.elapsed());
        println!("{}", heading(self.done.len() + 1, self.total, name, so_far));
        let started = Instant::now();
        let result = work().with_context(|| name.to_owned())?;
        let took = started.elapsed();
        if is_watched() {
            println!("    done in {}", seconds(took));
        }
        self.done.push((name.to_owned(), took));
        Ok(result)
    }

    /// Every step with its time.
    pub fn summary(&self) {
        debug_assert_eq!(self.done.len(), self.total, "the number of steps");
        println!();
        for (name, took) in &self.done {
            println!("  {:>8}  {name}", seconds(*took));
        }
        println!("  {:>8}  in all", seconds(self.started.elapsed()));
    }
}

/// The line of a step that starts, with the time of all steps before it where its own end gets no line.
fn heading(number: usize, total: usize, name: &str, so_far: Option<Duration>) -> String {
    let so_far = so_far.map(|so_far| format!(" (after {})", seconds(so_far))).unwrap_or_default();
    format!("==> [{number}/{total}] {name}{so_far}")
}

/// `0.4 s`, `12.3 s`, `4 min 05 s`.
pub fn seconds(time: Duration) -> String {
    let all = time.as_secs();
    if all >= 60 {
        format!("{} min {:02} s", all / 60, all % 60)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_with_its_number_and_the_time() {
        assert_eq!(heading(2, 12, "cargo clippy", None), "==> [2/12] cargo clippy");
        let so_far = Some(Duration::from_millis(65_300));
        assert_eq!(heading(12, 12, "doctests", so_far), "==> [12/12] doctests (after 1 min 05 s)");
    }

    #[test]
    fn a_failed_step_says_its_name() {
        let failed = Steps::new(1).step("tests", || run(&mut Command::new("false"))).unwrap_err();
        assert_eq!(format!("{failed:#}"), "tests: `false` ended with exit status: 1");
    }
}
