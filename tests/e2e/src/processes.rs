//! Which processes belong to a site: all of them carry its folder in their environment or on their command line.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

/// Every process started from a site carries this variable: the site's folder. Its children inherit it.
pub const SITE: &str = "SCALER_E2E_SITE";
/// And this one: the pid of the test process that made the site.
pub const OWNER: &str = "SCALER_E2E_OWNER";

/// A process that belongs to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its command line, arguments separated by blanks.
    pub command: String,
}

/// The processes that belong to the site at `folder`, without zombies.
pub fn of_site(folder: &Path) -> Vec<Process> {
    let folder = folder.to_string_lossy();
    let mine = std::process::id() as i32;
    all()
        .filter(|(process, environment)| {
            process.pid != mine && (environment.contains(&*folder) || process.command.contains(&*folder))
        })
        .map(|(process, _)| process)
        .collect()
}

/// Ends what sites left whose own test process is gone (killed by the test runner, say).
pub fn end_orphans() {
    for (process, environment) in all() {
        let owner = environment
            .split('\0')
            .find_map(|entry| entry.strip_prefix(OWNER)?.strip_prefix('=')?.parse::<i32>().ok());
        if owner.is_some_and(|owner| owner != process.pid && !Path::new(&format!("/proc/{owner}")).exists()) {
            signal(process.pid, Signal::KILL);
        }
    }
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// The peak of a process's resident memory, in bytes (`VmHWM`).
///
/// # Panics
///
/// There is no such process.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("reading /proc/PID/status");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM in /proc/PID/status");
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("VmHWM is a number of kB");
    kib * 1024
}

/// The processor time of all threads that a process has now.
///
/// # Panics
///
/// There is no such process.
pub fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("reading /proc/PID/task");
    let nanoseconds = tasks.flatten().filter_map(|task| {
        // A thread that has ended meanwhile has none.
        let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
        spent.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn all() -> impl Iterator<Item = (Process, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        // A zombie has no command line left.
        if command.is_empty() {
            return None;
        }
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some((Process { pid, command }, String::from_utf8_lossy(&environment).into_owned()))
    })
}
