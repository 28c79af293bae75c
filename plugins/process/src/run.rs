//! One run of a process, as the daemons see it: its shim, its lock, its folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use scaler_types::{
    Result, ScaleError,
    records::{encode_name, register},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::Spec,
    wire::{self, Exit, GO, MARK, READY, STOP},
};

/// How much of a log file there may be before a start begins a new one and keeps the old as `log.1`.
const LONGEST_LOG: u64 = 10 << 20;

/// After what a wake is tried again that failed for no fault of the command's.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The bytes of a log that go into a reason.
const LAST_WORDS: u64 = 1 << 10;

/// One run of a process; kept in its record as what is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Drawn at random.
    pub id: String,
    /// The shim's process id: valid only while the run's lock is held.
    pub shim_pid: i32,
    /// The port it was started for; the configuration may say another by now. None: it takes no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Which of the replicas it is, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub replica: u32,
    /// Ready when GET of this answers 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_path: Option<String>,
    /// Where in the log it begins.
    pub log_offset: u64,
}

fn is_first(replica: &u32) -> bool {
    *replica == 0
}

/// Where one resource's runs have their files: `<state-dir>/process/<namespace>/<name>/`, and `replicas/1/` below it for the second
/// replica.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// A shim that holds its lock and waits for the word to start. Dropped, it starts nothing.
pub struct PreparedRun {
    pub run: Run,
    words: ChildStdin,
}

// === impl Folder ===

impl Folder {
    /// The folder of one resource, which may not exist yet.
    pub fn new(state_dir: &Path, namespace: &str, name: &str) -> Result<Self> {
        Ok(Self(
            std::path::absolute(state_dir)?
                .join("process")
                .join(encode_name(namespace)?)
                .join(encode_name(name)?),
        ))
    }

    /// Where one replica has its files.
    fn of_replica(&self, replica: u32) -> PathBuf {
        match replica {
            0 => self.0.clone(),
            _ => self.0.join("replicas").join(replica.to_string()),
        }
    }

    /// Starts the shim of a replica and waits until it has its lock. The caller has the resource's turn.
    pub fn prepare(&self, shim: &Path, spec: &Spec, replica: u32) -> Result<PreparedRun> {
        let folder = &self.of_replica(replica);
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        sweep(folder);
        let log_path = folder.join("log");
        if fs::metadata(&log_path).is_ok_and(|log| log.len() > LONGEST_LOG) {
            fs::rename(&log_path, folder.join("log.1")).context("putting the old log away")?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("opening the log {}", log_path.display()))?;
        let log_begin = log.metadata()?.len();
        let id = fresh_id()?;
        let mut command = Command::new(shim);
        command.arg("run").arg(folder).arg(&id).arg("--").args(spec.words()).envs(&spec.env);
        // Inherited sockets and the daemon's readiness notification do not concern the process.
        for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
            if !spec.env.contains_key(variable) {
                command.env_remove(variable);
            }
        }
        if let Some(directory) = &spec.working_directory {
            command.current_dir(&directory.value);
        }
        let mut child = command
            .arg0("process-shim")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!("starting the shim {} (it is installed beside the plugin)", shim.display())
            })?;
        let (words, answers) = (child.stdin.take(), child.stdout.take());
        let shim_pid = Pid::from_child(&child).as_raw_nonzero().get();
        bury(child)?;
        let (Some(words), Some(answers)) = (words, answers) else { anyhow::bail!("the shim has no pipes") };
        let mut answer = String::new();
        BufReader::new(answers).read_line(&mut answer).context("waiting for the shim")?;
        anyhow::ensure!(
            answer.trim_end() == READY,
            "the shim {} did not start: {}",
            shim.display(),
            answer.trim_end()
        );
        let (port, ready_path) = (spec.port, spec.ready_path.clone());
        let run = Run { id, shim_pid, port, replica, ready_path, log_offset: log_begin };
        Ok(PreparedRun { run, words })
    }

    /// Whether a run's shim lives.
    ///
    /// # Errors
    ///
    /// The lock cannot be read (no descriptor left, for one): a run that may live never counts as dead.
    pub fn alive(&self, run: &Run) -> Result<bool> {
        let Some(fifo) = self.open(run, OFlags::RDONLY)? else { return Ok(false) };
        // Shared: two who look at the same time do not take each other for the shim.
        match rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("looking at the lock of run {}", run.id)),
        }
    }

    /// Waits until a run's shim has ended.
    pub async fn gone(&self, run: &Run) -> Result<()> {
        match self.shim(run)? {
            Some(shim) => ended(shim).await,
            None => Ok(()),
        }
    }

    /// Ends a run: SIGTERM to its whole group, SIGKILL after `grace`. Returns when nothing of it is left.
    pub async fn stop(&self, run: &Run, grace: Duration) -> Result<()> {
        if let Some(shim) = self.shim(run)? {
            // Without its FIFO it is about to end anyway.
            if let Some(fifo) = self.open(run, OFlags::WRONLY)? {
                let word = format!("{STOP} {}\n", grace.as_millis());
                File::from(fifo)
                    .write_all(word.as_bytes())
                    .with_context(|| format!("telling run {} to stop", run.id))?;
            }
            ended(shim).await?;
        }
        self.clean(run).await
    }

    /// Kills the processes that a killed shim did not stop: those that carry the run's mark in their environment.
    pub async fn clean(&self, run: &Run) -> Result<()> {
        if self.ended(run.replica).is_some_and(|ended| ended.run == run.id) {
            return Ok(());
        }
        let mark = format!("{MARK}={}", run.id);
        loop {
            let mut found = Vec::new();
            for entry in
                fs::read_dir("/proc").context("looking for the processes of a killed shim")?.flatten()
            {
                let Some(pid) =
                    entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
                else {
                    continue;
                };
                // The descriptor first: what is then read is that process's, or nothing.
                let Ok(process) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { continue };
                let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
                if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
                    && pidfd_send_signal(&process, Signal::KILL).is_ok()
                {
                    tracing::warn!(
                        pid = pid.as_raw_nonzero().get(),
                        run = run.id,
                        "killed what was left without its shim"
                    );
                    found.push(process);
                }
            }
            if found.is_empty() {
                let _ = fs::remove_file(wire::fifo(&self.of_replica(run.replica), &run.id));
                return Ok(());
            }
            for process in found {
                ended(process).await?;
            }
        }
    }

    /// How the last run of a replica ended.
    pub fn ended(&self, replica: u32) -> Option<Exit> {
        serde_json::from_slice(&fs::read(Exit::path(&self.of_replica(replica))).ok()?).ok()
    }

    /// The value of `wakeNow` that was obeyed last.
    pub fn obeyed_wish(&self) -> Option<String> {
        fs::read_to_string(self.0.join("wake-now")).ok()
    }

    /// Records that this value of `wakeNow` was obeyed.
    pub fn obey(&self, wish: &str) -> Result<()> {
        if wish.is_empty() || self.obeyed_wish().is_some_and(|obeyed| obeyed == wish) {
            return Ok(());
        }
        let path = self.0.join("wake-now");
        fs::create_dir_all(&self.0)
            .and_then(|()| fs::write(&path, wish))
            .with_context(|| format!("writing that wakeNow was obeyed to {}", path.display()))
    }

    /// How a run ended, for those who waited for it to become ready.
    pub fn obituary(&self, run: &Run) -> ScaleError {
        match self.ended(run.replica).filter(|ended| ended.run == run.id) {
            Some(ended) if ended.stop_requested => ScaleError::Conflict,
            Some(Exit { reason, .. }) => ScaleError::Terminal {
                reason: match last_words(&self.of_replica(run.replica), run.log_offset) {
                    Ok(words) if !words.is_empty() => format!("{reason}; it last said: {words}"),
                    _ => reason,
                },
            },
            // Killed, or the plugin died before it sent [`GO`]: the command itself may be fine.
            None => ScaleError::Retry {
                after: AT_ONCE,
                reason: "its shim was gone before it was ready".to_owned(),
            },
        }
    }

    /// The shim of a run, if it lives.
    fn shim(&self, run: &Run) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(run.shim_pid).context("a run without a shim")?;
        let shim = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(shim) => shim,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("looking for the shim of run {}", run.id));
            }
        };
        // Its number was its own while the lock was held: so the descriptor opened before is it.
        Ok(self.alive(run)?.then_some(shim))
    }

    /// A run's FIFO; `None` where it, or for writing its shim, is gone.
    fn open(&self, run: &Run, how: OFlags) -> Result<Option<OwnedFd>> {
        let path = wire::fifo(&self.of_replica(run.replica), &run.id);
        match rustix::fs::open(&path, how | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fifo) => Ok(Some(fifo)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }
}

// === impl PreparedRun ===

impl PreparedRun {
    /// The run is written down: start it.
    pub fn go(mut self) -> Result<Run> {
        writeln!(self.words, "{GO}").context("telling the shim to start")?;
        Ok(self.run)
    }
}

/// The end of a log, from where a run began.
fn last_words(folder: &Path, from: u64) -> io::Result<String> {
    let mut log = File::open(folder.join("log"))?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(from.min(length).max(length.saturating_sub(LAST_WORDS))))?;
    let mut bytes = Vec::new();
    log.take(LAST_WORDS).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(5)..].join(" | "))
}

/// Removes the FIFOs of shims that were killed.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "run")
            && let Ok(fifo) =
                rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            && rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockShared).is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Waits until a process has ended.
async fn ended(process: OwnedFd) -> Result<()> {
    let process = register(process).context("waiting for a process")?;
    process.readable().await.context("waiting for a process")?.retain_ready();
    Ok(())
}

/// Reaps the shim when it ends, if this daemon is still there then.
fn bury(mut child: Child) -> Result<()> {
    // Not reaped yet, so the number is its own.
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::NONBLOCK).context("watching the shim")?;
    tokio::spawn(async move {
        if let Err(error) = ended(process).await {
            tracing::warn!(error = format!("{error:#}"), "a shim's end will not be seen");
        } else {
            // Returns at once.
            let _ = child.wait();
        }
    });
    Ok(())
}

fn fresh_id() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("drawing a run's id")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
