//! Progress: one line when a step starts, one when it ended, with the time it took.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The steps of one command, for the summary at its end.
pub struct Steps {
    started: Instant,
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
    /// Nothing done yet.
    pub fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Does one step, and says so.
    ///
    /// # Errors
    ///
    /// The step's own, with its name.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("==> {name}");
        let started = Instant::now();
        let result = work().with_context(|| name.to_owned())?;
        let took = started.elapsed();
        println!("    {name}: done in {}", seconds(took));
        self.done.push((name.to_owned(), took));
        Ok(result)
    }

    /// Every step with its time.
    pub fn summary(&self) {
        println!();
        for (name, took) in &self.done {
            println!("  {:>8}  {name}", seconds(*took));
        }
        println!("  {:>8}  in all", seconds(self.started.elapsed()));
    }
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
