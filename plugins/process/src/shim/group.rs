//! The process and its descendants: signalled and reaped so that no signal ever goes to a process that is not ours.

use std::{
    fs::{self, File},
    io::Read as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process,
        kill_process_group, wait, waitid,
    },
};

use crate::wire::STOP;

/// The process, its group, and what of it was adopted by this shim.
///
/// A number stands for a process only until that was reaped. So everything that signals or reaps does it under the one
/// lock.
#[derive(Clone)]
pub struct Group(Arc<Mutex<Inner>>);

struct Inner {
    leader: Pid,
    /// How the leader ended, once it was reaped.
    ended: Option<WaitStatus>,
    asked: bool,
    /// Nothing of it may live on.
    killing: bool,
    /// Something of it was left when the grace period had passed.
    overdue: bool,
    /// The processes that left the group, were adopted, and have been asked to end.
    told: Vec<Pid>,
}

// === impl Group ===

impl Group {
    pub fn new(leader: Pid) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            leader,
            ended: None,
            asked: false,
            killing: false,
            overdue: false,
            told: Vec::new(),
        })))
    }

    /// Waits until nothing of it is left. Says how the leader ended, whether it was asked to, and whether that took too long.
    pub fn wait(&self) -> (Option<WaitStatus>, bool, bool) {
        // Until there is no child left. The first look takes nobody away: that is done under the lock.
        while !matches!(
            waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT),
            Err(rustix::io::Errno::CHILD)
        ) {
            self.lock().reap();
        }
        let inner = self.lock();
        (inner.ended, inner.asked, inner.overdue)
    }

    /// Does what comes through the FIFO, for ever.
    pub fn obey(&self, mut commands: File) {
        let mut deadline: Option<Instant> = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                deadline = None;
                let mut inner = self.lock();
                inner.overdue = true;
                inner.kill();
                continue;
            }
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut ready = [PollFd::new(&commands, PollFlags::IN)];
            if !matches!(poll(&mut ready, timeout.as_ref()), Ok(1..)) {
                continue;
            }
            let mut text = [0; 512];
            let Ok(length @ 1..) = commands.read(&mut text) else { continue };
            for line in String::from_utf8_lossy(&text[..length]).lines() {
                let Some(grace) = line.strip_prefix(STOP).and_then(|rest| rest.trim().parse().ok()) else {
                    continue;
                };
                let wanted = Instant::now() + Duration::from_millis(grace);
                // Asked again: the earlier end counts.
                deadline = Some(deadline.map_or(wanted, |deadline| deadline.min(wanted)));
                self.lock().terminate();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn terminate(&mut self) {
        if !self.asked && self.ended.is_none() {
            self.asked = true;
            // The leader, running or not yet reaped, keeps the group's number.
            let _ = kill_process_group(self.leader, Signal::TERM);
        }
    }

    /// Kills all that is left, now and whatever is adopted from now on.
    fn kill(&mut self) {
        self.killing = true;
        if self.ended.is_none() {
            self.asked = true;
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
        // Only this shim can reap these children, and only under this lock.
        for (child, _) in children() {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((child, status))) = wait(WaitOptions::NOHANG) {
            if child == self.leader {
                self.ended = Some(status);
            }
        }
        // It ended by itself: what it leaves behind would be in the next one's way.
        if self.killing || self.ended.is_some() && !self.asked {
            self.kill();
        } else if self.ended.is_some() {
            // The group was asked; twice may mean "at once".
            for (child, group) in children() {
                if group != Some(self.leader) && !self.told.contains(&child) {
                    self.told.push(child);
                    let _ = kill_process(child, Signal::TERM);
                }
            }
        }
    }
}

/// This process's children, the adopted included, and the group each is in.
fn children() -> impl Iterator<Item = (Pid, Option<Pid>)> {
    let me = getpid();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let (parent, group) = parent_and_group(pid)?;
        (parent == me).then_some((pid, group))
    })
}

/// From `/proc/<pid>/stat`: `pid (name) state parent group ...`, where the name may hold anything.
fn parent_and_group(pid: Pid) -> Option<(Pid, Option<Pid>)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let mut number = || words.next().and_then(|word| word.parse().ok()).and_then(Pid::from_raw);
    Some((number()?, number()))
}
