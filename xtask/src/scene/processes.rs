//! The processes that were started from a scene, found and stopped whatever became of their parents.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Everything started from a scene inherits this variable, whose value is the scene's folder: so it is found again.
pub(super) const MARK: &str = "SCALER_SCENE";

/// How long what was asked to stop may take before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// What runs of a scene.
#[derive(Default)]
struct Running {
    /// In this process's own session, as the autoscaler: the resources have sessions of their own.
    dlx: Vec<Pid>,
    autoscaler: Vec<Pid>,
    resources: Vec<Pid>,
}

/// Stops the scene in `folder`: the DLX, which ends at once where an autoscaler still asks for its last counts; the
/// autoscaler; the resources they left running; whatever is still there.
pub(super) fn stop_all(folder: &Path) {
    let ends = Instant::now() + STOP;
    let mut sessions = HashSet::new();
    let mut asked = Vec::new();
    loop {
        let Running { dlx, autoscaler, resources } = find(folder, &mut sessions);
        let Some(next) = [dlx, autoscaler, resources].into_iter().find(|pids| !pids.is_empty()) else {
            return;
        };
        for pid in next {
            if Instant::now() > ends {
                signal(pid, Signal::KILL);
            } else if !asked.contains(&pid) {
                signal(pid, Signal::TERM);
                asked.push(pid);
            }
        }
        moment();
    }
}

/// Every process that carries the scene's mark, and those of the sessions that began with one: nginx, for one, writes
/// its title over its environment. The sessions are remembered for when their first process is gone.
fn find(folder: &Path, sessions: &mut HashSet<u32>) -> Running {
    let mark = format!("{MARK}={}", folder.display());
    let ours = session(Path::new("/proc/self"));
    let mut running = Running::default();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        let Some(pid) = pid else { continue };
        // A zombie has no command line left, and nothing to be stopped.
        if !fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty()) {
            continue;
        }
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let session = session(&entry.path());
        if !environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            others.push((pid, session));
        } else if session == ours {
            let name = fs::read(entry.path().join("comm")).unwrap_or_default();
            if name == b"dlx\n" { &mut running.dlx } else { &mut running.autoscaler }.push(pid);
        } else {
            sessions.extend(session);
            running.resources.push(pid);
        }
    }
    let belongs = |session: Option<u32>| session.is_some_and(|session| sessions.contains(&session));
    running.resources.extend(others.into_iter().filter(|(_, session)| belongs(*session)).map(|(pid, _)| pid));
    running
}

/// Whether this process, and not another, listens on an IPv4 port.
pub(super) fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let (table, port) = (fs::read_to_string("/proc/net/tcp").unwrap_or_default(), format!(":{port:04X}"));
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Local address, remote address, state, ..., and as the tenth the socket's inode.
    let sockets = fields.filter_map(|fields| match fields[..] {
        [_, local, _, LISTEN, _, _, _, _, _, inode, ..] if local.ends_with(&port) => {
            Some(format!("socket:[{inode}]"))
        }
        _ => None,
    });
    let sockets: HashSet<_> = sockets.collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok()?.into_os_string().into_string().ok())
        .any(|file| sockets.contains(&file))
}

/// The session of a process, by its folder in /proc. The kernel's own have none.
fn session(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name may hold blanks and brackets: what follows the last bracket starts with field 3, the session is field 6.
    let session = stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()?;
    (session != 0).then_some(session)
}

/// A process that is gone already is no error.
fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

#[expect(
    clippy::disallowed_methods,
    reason = "processes that are not our children end without an event we could wait for"
)]
fn moment() {
    std::thread::sleep(Duration::from_millis(10));
}
