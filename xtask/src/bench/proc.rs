//! What the kernel says of a process: CPU, memory, context switches.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc/PID/stat`: 100 on every Linux this runs on (`USER_HZ` is part of the ABI).
const TICKS: u64 = 100;

/// CPU time in microseconds that a process and its children in the same session have used so far, in user and kernel mode.
///
/// The session distinguishes a proxy's own workers from the resources it had started: each of those has a session of its own.
///
/// # Errors
///
/// There is no such process.
pub fn cpu(pid: u32) -> Result<u64> {
    let (ticks, session) = stat(pid).with_context(|| format!("reading /proc/{pid}/stat"))?;
    let of_children: u64 = children(pid).into_iter().filter_map(|child| tree(child, session)).sum();
    Ok((ticks + of_children) * 1_000_000 / TICKS)
}

/// Resident memory in KiB.
///
/// # Errors
///
/// There is no such process.
pub fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, "VmRSS:").context("no VmRSS")
}

/// How often the process's threads went to sleep and were woken, so far.
///
/// # Errors
///
/// There is no such process.
pub fn wakeups(pid: u32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let statuses = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    Ok(statuses.filter_map(|status| field(&status, "voluntary_ctxt_switches:")).sum())
}

/// How many threads it has.
///
/// # Errors
///
/// There is no such process.
pub fn threads(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, "Threads:").context("no Threads")
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// utime + stime, and the session.
fn stat(pid: u32) -> Option<(u64, i64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and brackets: what follows the last bracket starts with field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some((ticks, fields.get(3)?.parse().ok()?))
}

fn tree(pid: u32, session: i64) -> Option<u64> {
    let (ticks, its) = stat(pid)?;
    let of_children: u64 = children(pid).into_iter().filter_map(|child| tree(child, session)).sum();
    (its == session).then_some(ticks + of_children)
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}
