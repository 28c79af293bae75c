//! Another process that loads a library first, and shows whether that can be survived.

use std::{
    env, io,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal},
};

use crate::{Interface, LoadError, Plugin};

/// Tells a process which library it is to try out.
const LIBRARY: &str = "SCALER_PROBE_PLUGIN";

/// How a probe ends that came back from loading it: no status that a library's own `exit` would choose.
const LOADED: u8 = 186;

/// This program answers when it is started as a probe.
static ANSWERS: AtomicBool = AtomicBool::new(false);

/// A process that loads a library. Killed when this is dropped.
pub(crate) struct ProbeProcess(Option<Child>);

/// To be called first in `main`. Where this process is a probe, it loads its library and ends. Else it lets
/// [`load_dir`](crate::load_dir) start such processes: of a program that does not call this (a test) nothing is probed.
pub fn answer_probe() {
    let Some(library) = env::var_os(LIBRARY) else {
        ANSWERS.store(true, Ordering::Relaxed);
        return;
    };
    // The parent that waits for this process may be killed.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // A rejection is reported by the process that loads it for good; here its interface does not matter.
    drop(Plugin::load(Path::new(&library), Interface::ResourceScaler));
    crate::exit(LOADED)
}

// === impl ProbeProcess ===

impl ProbeProcess {
    /// Starts one.
    pub(crate) fn start(library: &Path) -> Result<Self, LoadError> {
        if !ANSWERS.load(Ordering::Relaxed) {
            return Ok(Self(None));
        }
        let mut command = Command::new("/proc/self/exe");
        command.env(LIBRARY, library).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(Some(command.spawn().map_err(LoadError::NoProbe)?)))
    }

    /// Waits for its end, until `deadline`, which is `timeout` after the start.
    pub(crate) fn wait(mut self, timeout: Duration, deadline: Option<Instant>) -> Result<(), LoadError> {
        let Some(child) = &mut self.0 else { return Ok(()) };
        if !ends(child, deadline).map_err(LoadError::NoProbe)? {
            return Err(LoadError::Hangs(timeout));
        }
        let status = child.wait().map_err(LoadError::NoProbe)?;
        if status.code() == Some(i32::from(LOADED)) { Ok(()) } else { Err(LoadError::Crashes(status)) }
    }
}

/// Whether it ends before `deadline`.
fn ends(child: &Child, deadline: Option<Instant>) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}

impl Drop for ProbeProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // An error: it has ended, and was waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
