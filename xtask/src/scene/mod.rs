//! Both daemons on this machine, with a namespace file and a state folder of their own, and nothing of it left at the end.

mod cleanup;
mod processes;

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{Built, METRIC_SOURCES},
    http,
    steps::pause,
};
pub use cleanup::CleanUp;
use cleanup::SceneFolder;

/// How long a daemon may take until `/readyz` answers 200.
const READY: Duration = Duration::from_secs(15);

/// Where the daemons' ports begin, and where instead if another program takes one meanwhile: `autoscaler run` looks for free
/// ones from 8090 on, too.
const FIRST_PORTS: [u16; 4] = [8090, 8190, 8290, 8390];

/// The plugins that need no cluster, with their programs: what a scene installs.
pub const PLUGINS: [&str; 3] = ["command.so", "process.so", "process-shim"];

/// Stands for the scene's folder in a namespace file.
pub const FOLDER: &str = "{folder}";

/// What the two daemons are started with.
pub struct Script {
    /// The namespace file. [`FOLDER`] stands for the scene's folder.
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

/// The running daemons. All of it is stopped, the resources included, when this is dropped and when this process ends in
/// any other way.
pub struct Scene {
    folder: SceneFolder,
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

/// The `resources` of the process plugin's section, as YAML that goes under `plugins:`. Without a path of the readiness probe
/// a service is ready when it accepts connections.
pub fn process_section(services: &[Service], ready_path: Option<&str>) -> String {
    let mut yaml = "plugins:\n  process:\n    resources:\n".to_owned();
    for Service { name, command, port } in services {
        // JSON is YAML: no quoting of our own.
        let command = serde_json::to_string(command).unwrap_or_default();
        let _ = write!(
            yaml,
            "      - name: {name}\n        command: {command}\n        port: {port}\n        hosts: [{name}.localhost]\n        stopGracePeriod: 2s\n"
        );
        if let Some(path) = ready_path {
            let _ = writeln!(yaml, "        readyPath: {path}");
        }
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
        let [first, others @ ..] = FIRST_PORTS;
        let mut started = Self::start_from(built, script, first).await;
        for first in others {
            match &started {
                // Another program took a port after it was found free.
                Err(error) if format!("{error:#}").contains("Address already in use") => {
                    started = Self::start_from(built, script, first).await;
                }
                _ => break,
            }
        }
        started
    }

    async fn start_from(built: &Built, script: &Script, first_port: u16) -> Result<Self> {
        let folder = SceneFolder::create()?;
        let entry = free_port(first_port)?;
        let dlx = free_port(entry + 1)?;
        let autoscaler = free_port(dlx + 1)?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses = Addresses { entry: local(entry), dlx: local(dlx), autoscaler: local(autoscaler) };
        let namespace_file = script.namespace_file.replace(FOLDER, &folder.path().to_string_lossy());
        fs::write(folder.path().join("namespace.yaml"), namespace_file)
            .context("writing the namespace file")?;
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins).context("making the plugins' folder")?;
        for file in PLUGINS {
            symlink(built.plugins.join(file), plugins.join(file)).context("installing the plugins")?;
        }
        let sources = built.plugins.join(METRIC_SOURCES);
        if sources.is_dir() {
            symlink(sources, plugins.join(METRIC_SOURCES)).context("installing the metric sources")?;
        }

        let mut scene = Self { folder, daemons: Vec::new(), addresses };
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
        self.folder.path()
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
        self.folder.keep();
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
            .env(processes::MARK, self.folder())
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
            let pid = self.pid(name).unwrap_or_default();
            // Another program may answer on that port.
            if processes::listens(pid, admin.port())
                && let Ok(answer) = http::get(admin, "localhost", "/readyz", Duration::from_secs(1)).await
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
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.folder.stop_all();
        for (_, child) in &mut self.daemons {
            let _ = child.wait();
        }
    }
}
