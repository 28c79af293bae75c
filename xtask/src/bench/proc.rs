//! What the kernel says of a process: CPU, memory, context switches.

use std::{fs, ops};

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc/PID/stat`: 100 on every Linux this runs on (`USER_HZ` is part of the ABI).
const TICKS: u64 = 100;

/// CPU time in microseconds. The sum is exact to a tick; the kernel splits it by samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// CPU time that a process and its children in the same session have used so far.
///
/// The session distinguishes a proxy's own workers from the resources it had started: each of those has a session of its own.
///
/// # Errors
///
/// There is no such process.
pub fn cpu(pid: u32) -> Result<Cpu> {
    let Stat { cpu, session } = stat(pid).with_context(|| format!("reading /proc/{pid}/stat"))?;
    Ok(children(pid).into_iter().filter_map(|child| tree(child, session)).fold(cpu, ops::Add::add))
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

/// What is read of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu: Cpu,
    session: i64,
}

fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn tree(pid: u32, session: i64) -> Option<Cpu> {
    let Stat { cpu, session: its } = stat(pid)?;
    let all = children(pid).into_iter().filter_map(|child| tree(child, session)).fold(cpu, ops::Add::add);
    (its == session).then_some(all)
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

// === impl Cpu ===

impl Cpu {
    /// Both kinds together.
    pub fn total(self) -> u64 {
        self.user + self.system
    }
}

impl ops::Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl ops::Sub for Cpu {
    type Output = Self;

    /// What was used since `before`. (The kernel may move a little from one kind to the other.)
    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

// === impl Stat ===

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The name may hold blanks and brackets: what follows the last bracket starts with field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let microseconds = |field: usize| Some(fields.get(field)?.parse::<u64>().ok()? * 1_000_000 / TICKS);
        let cpu = Cpu { user: microseconds(11)?, system: microseconds(12)? };
        Some(Self { cpu, session: fields.get(3)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_time_system_time_and_session_are_fields_14_15_and_6() {
        let line = "21 (a (name) of it) S 1 20 19 0 -1 4194560 9 8 7 6 123 45 67 89 20 0 3 0 431 1000 200 18446744073709551615";
        let cpu = Cpu { user: 1_230_000, system: 450_000 };
        assert_eq!(Stat::parse(line), Some(Stat { cpu, session: 19 }));
        assert_eq!(cpu.total(), 1_680_000);
    }

    #[test]
    fn the_cpu_of_this_process_is_counted() {
        let before = cpu(std::process::id()).unwrap();
        while cpu(std::process::id()).unwrap() == before {}
    }
}
