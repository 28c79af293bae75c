//! The daemons as processes of `run`.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead as _, BufReader, PipeReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use daemon::exit::Misconfigured;
use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::{process::Child, sync::oneshot, time::timeout};

/// A running daemon. Killed when this is dropped.
pub(super) struct DaemonProcess {
    name: &'static str,
    child: Child,
    /// Ends when its whole log has been printed.
    log: Option<oneshot::Receiver<()>>,
}

/// The sockets that a daemon takes over, and the flags that name their addresses.
pub(super) struct DaemonSockets {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) flags: Vec<OsString>,
}

/// The exit status of a daemon whose configuration cannot be used.
const BAD_CONFIGURATION: i32 = 78;
/// How long the rest of a log may take: what a plugin started can keep it open.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// The DLX's program: beside this one, else on the path.
pub(super) fn dlx_program() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("finding the path of this program")?;
    let beside = own.with_file_name("dlx");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("dlx"));
    std::iter::once(beside.clone()).chain(on_path).find(|file| file.is_file()).ok_or_else(|| {
        let why = format!(
            "the program dlx is neither at {} nor on PATH: install both daemons in one folder",
            beside.display()
        );
        Misconfigured(why).into()
    })
}

// === impl DaemonProcess ===

impl DaemonProcess {
    /// Starts one. Its log goes to standard error, each line with its name.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        sockets: DaemonSockets,
        common: &[OsString],
    ) -> anyhow::Result<Self> {
        let (log, writer) = io::pipe().context("making a pipe")?;
        let mut command = Command::new(program);
        command
            .args(common)
            .args(&sockets.flags)
            .arg(format!("--stop-with-parent={}", getpid().as_raw_nonzero()))
            .env("LISTEN_FDS", sockets.listeners.len().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mappings = sockets.listeners.into_iter().zip(3..);
        let mappings = mappings.map(|(socket, child_fd)| FdMapping { parent_fd: socket.into(), child_fd });
        command.fd_mappings(mappings.collect()).context("handing over sockets")?;
        let mut command = tokio::process::Command::from(command);
        // Ctrl-C is for this process, which stops them in order.
        let child = command.process_group(0).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("starting {}", program.display()))?;
        let (printed, log_end) = oneshot::channel();
        // A thread of its own: a terminal that takes no output must not keep a signal from being noticed.
        thread::Builder::new().name(format!("log of {name}")).spawn(move || {
            print_log(name, log);
            // An error: it is not waited for.
            let _ = printed.send(());
        })?;
        Ok(Self { name, child, log: Some(log_end) })
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        // An error: it has ended meanwhile.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    }

    /// Sends SIGTERM, or kills it.
    pub(super) fn end(&mut self, kill: bool) {
        if kill {
            // An error: it has ended meanwhile.
            let _ = self.child.start_kill();
        } else {
            self.terminate();
        }
    }

    /// Waits until it ends by itself, and returns what to say of it.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let status = self.wait().await;
        let text =
            format!("{} ended by itself ({}); the other daemon is stopped, too", self.name, show(&status));
        match status {
            Ok(status) if status.code() == Some(BAD_CONFIGURATION) => Misconfigured(text).into(),
            _ => anyhow::Error::msg(text),
        }
    }

    /// Waits until it has stopped as it was asked to; one that ended before is no error here.
    pub(super) async fn stopped(&mut self) -> anyhow::Result<()> {
        let before = self.child.id().is_none();
        let status = self.wait().await;
        let fine = status.as_ref().is_ok_and(ExitStatus::success);
        anyhow::ensure!(before || fine, "{} did not stop well ({})", self.name, show(&status));
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        if let Some(log) = &mut self.log {
            // An error: something else still has it open.
            drop(timeout(LOG_TIMEOUT, log).await);
            self.log = None;
        }
        status
    }
}

fn show(status: &io::Result<ExitStatus>) -> String {
    status.as_ref().map_or_else(ToString::to_string, ToString::to_string)
}

fn print_log(name: &str, log: PipeReader) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend(format!("{name:10} | ").as_bytes());
        let start = line.len();
        if log.read_until(b'\n', &mut line).is_err() || line.len() == start {
            return;
        }
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        // A closed standard error is not an error: the daemons run on without it.
        drop(io::stderr().lock().write_all(&line));
    }
}
