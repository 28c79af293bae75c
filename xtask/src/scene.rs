//! Both daemons on this machine, with a namespace file and a state folder of their own, and nothing of it left at the end.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{build::Built, http, steps::pause};

/// Everything started from a scene inherits this variable, whose value is the scene's folder: so it is found again,
/// whatever became of its parent.
const MARK: &str = "SCALER_SCENE";

/// How long a daemon may take until `/readyz` answers 200.
const READY: Duration = Duration::from_secs(15);

/// How long what was asked to stop may take before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// What the two daemons are started with.
pub struct Script {
    /// The namespace file, as it stands.
    pub namespace_file: String,
    /// Further arguments of the DLX; `None`: there is none, and no process listens for requests.
    pub dlx: Option<Vec<String>>,
    /// Without it nothing goes to sleep.
    pub autoscaler: bool,
}

/// Where a scene's daemons listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The DLX, for requests.
    pub entry: SocketAddr,
    /// The DLX's admin port.
    pub dlx: SocketAddr,
    /// The autoscaler's admin port.
    pub autoscaler: SocketAddr,
}

/// The running daemons. Dropped: all of it is stopped, the resources included.
pub struct Scene {
    folder: Option<TempDir>,
    daemons: Vec<(&'static str, Child)>,
    /// Where they listen.
    pub addresses: Addresses,
}

/// A service of the namespace file: an HTTP server that the `process` plugin starts.
pub struct Service {
    /// Its name; its host is `NAME.localhost`.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it listens.
    pub port: u16,
}

/// A free port, `wanted` if that is free. Below the ephemeral range, so that no outgoing connection takes it.
///
/// # Errors
///
/// None of the next thousand is free.
pub fn free_port(wanted: u16) -> Result<u16> {
    let mut ports = wanted..wanted.saturating_add(1000);
    ports
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .with_context(|| format!("no free port from {wanted} on"))
}

/// The `resources` of the process plugin's section, as YAML that goes under `plugins:`.
pub fn process_section(services: &[Service]) -> String {
    let mut yaml = "plugins:\n  process:\n    resources:\n".to_owned();
    for Service { name, command, port } in services {
        // JSON is YAML: no quoting of our own.
        let command = serde_json::to_string(command).unwrap_or_default();
        let _ = write!(
            yaml,
            "      - name: {name}\n        command: {command}\n        port: {port}\n        hosts: [{name}.localhost]\n        readyPath: /\n        stopGracePeriod: 2s\n"
        );
    }
    yaml
}

// === impl Scene ===

impl Scene {
    /// Starts the daemons and waits until both are ready.
    ///
    /// # Errors
    ///
    /// One does not come up: the message has the end of its log.
    pub async fn start(built: &Built, script: &Script) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("scaler-").tempdir().context("making a temporary folder")?;
        let entry = free_port(8090)?;
        let dlx = free_port(entry + 1)?;
        let autoscaler = free_port(dlx + 1)?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses = Addresses { entry: local(entry), dlx: local(dlx), autoscaler: local(autoscaler) };
        fs::write(folder.path().join("namespace.yaml"), &script.namespace_file)
            .context("writing the namespace file")?;
        // Those that need no cluster.
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins).context("making the plugins' folder")?;
        for file in ["command.so", "process.so", "process-shim"] {
            symlink(built.plugins.join(file), plugins.join(file)).context("installing the plugins")?;
        }

        let mut scene = Self { folder: Some(folder), daemons: Vec::new(), addresses };
        if let Some(more) = &script.dlx {
            let mut arguments = vec!["--listen-address".to_owned(), addresses.entry.to_string()];
            arguments.extend(more.iter().cloned());
            scene.daemon(built, "dlx", addresses.dlx, &arguments).await?;
        }
        if script.autoscaler {
            scene.daemon(built, "autoscaler", addresses.autoscaler, &[]).await?;
        }
        Ok(scene)
    }

    /// The scene's folder: `namespace.yaml`, `plugins/`, `state/`, `dlx.log`, `autoscaler.log`.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new("/"), TempDir::path)
    }

    /// The process id of a daemon.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.daemons.iter().find(|(daemon, _)| *daemon == name).map(|(_, child)| child.id())
    }

    /// The first daemon that ended by itself, with the end of its log.
    ///
    /// # Errors
    ///
    /// That one did.
    pub fn alive(&mut self) -> Result<()> {
        for at in 0..self.daemons.len() {
            let (name, child) = &mut self.daemons[at];
            if let Some(status) = child.try_wait()? {
                let name = *name;
                bail!("{name} ended with {status}; its log ends with:\n{}", self.log_tail(name));
            }
        }
        Ok(())
    }

    /// The last lines of a daemon's log.
    pub fn log_tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.folder().join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Keeps the folder when the scene ends, to be looked at. Returns it.
    pub fn keep(&mut self) -> PathBuf {
        if let Some(folder) = &mut self.folder {
            folder.disable_cleanup(true);
        }
        self.folder().to_owned()
    }

    async fn daemon(
        &mut self,
        built: &Built,
        name: &'static str,
        admin: SocketAddr,
        arguments: &[String],
    ) -> Result<()> {
        let program = built.program(name);
        let log = File::create(self.folder().join(format!("{name}.log"))).context("making a log file")?;
        let child = Command::new(&program)
            .args(["--admin-address", &admin.to_string()])
            .arg("--plugins-dir")
            .arg(self.folder().join("plugins"))
            .arg("--config")
            .arg(self.folder().join("namespace.yaml"))
            .arg("--state-dir")
            .arg(self.folder().join("state"))
            .args(arguments)
            .env(MARK, self.folder())
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for us: we stop the daemons, and then what they started.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.daemons.push((name, child));

        let started = Instant::now();
        loop {
            self.alive()?;
            if let Ok(answer) = http::get(admin, "localhost", "/readyz", Duration::from_secs(1)).await
                && answer.status == 200
            {
                return Ok(());
            }
            if started.elapsed() > READY {
                bail!(
                    "{name} is not ready after {READY:?} (http://{admin}/readyz); its log ends with:\n{}",
                    self.log_tail(name)
                );
            }
            pause(Duration::from_millis(20)).await;
        }
    }

    /// Every process that carries this scene's mark, and those of the sessions that began with one: nginx, for one, writes
    /// its title over its environment. The sessions are remembered for when their first process is gone.
    fn processes(&self, sessions: &mut HashSet<u32>) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.folder().display());
        let ours = session(Path::new("/proc/self"));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all: Vec<_> = entries
            .filter_map(|entry| {
                let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
                // A zombie has no command line left, and nothing to be stopped.
                let alive = fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
                let session = session(&entry.path());
                if marked && session != ours {
                    sessions.extend(session);
                }
                alive.then_some((pid, marked, session))
            })
            .collect();
        let belongs = |session: Option<u32>| session.is_some_and(|session| sessions.contains(&session));
        all.into_iter()
            .filter(|(_, marked, session)| *marked || belongs(*session))
            .map(|(pid, ..)| pid)
            .collect()
    }

    /// Stops the daemons, then the resources they left running, then whatever is still there.
    fn stop(&mut self) {
        let ends = Instant::now() + STOP;
        let mut sessions = HashSet::new();
        self.processes(&mut sessions);
        for (_, child) in &self.daemons {
            signal(Pid::from_child(child), Signal::TERM);
        }
        while Instant::now() < ends
            && self.daemons.iter_mut().any(|(_, child)| matches!(child.try_wait(), Ok(None)))
        {
            moment();
        }
        let mut asked = Vec::new();
        loop {
            for (_, child) in &mut self.daemons {
                let _ = child.try_wait();
            }
            let left = self.processes(&mut sessions);
            if left.is_empty() {
                break;
            }
            for pid in left {
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
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
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
