//! One host's worth of Scaler in a temporary folder: plugins, state, namespace files, daemons.

use std::{
    ffi::OsString,
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;

use crate::{
    Daemon, Namespace, binaries,
    daemon::Launch,
    ports,
    processes::{self, Process},
    until,
};

/// A temporary folder in which daemons run.
#[derive(Debug)]
pub struct Site {
    folder: tempfile::TempDir,
    /// The DLX's listening socket. This process keeps it: it outlives every DLX, so a restart refuses no client.
    front: TcpListener,
    /// Ports of the DLX that belong to one resource each.
    ports: Vec<TcpListener>,
    count: AtomicU32,
}

// === impl Site ===

impl Site {
    /// A site with the process plugin installed and no namespace file yet.
    ///
    /// # Panics
    ///
    /// It cannot be made, or the daemons cannot be built.
    pub fn new(name: &str) -> Self {
        raise_descriptors();
        let built = binaries::folder();
        let scratch = binaries::scratch();
        let prefix = format!("{name}{}-", std::process::id());
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir_in(scratch).expect("creating the site's folder");
        for part in ["plugins", "state", "config"] {
            fs::create_dir(folder.path().join(part)).expect("creating a folder of the site");
        }
        let site = Self { folder, front: listener(), ports: Vec::new(), count: AtomicU32::new(0) };
        site.install(&built.join("libprocess.so"), "process.so");
        site.install(&built.join("process-shim"), "process-shim");
        site
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Copies a file into the plugins' folder.
    ///
    /// # Panics
    ///
    /// It cannot be copied.
    pub fn install(&self, from: &Path, name: &str) {
        let to = self.folder().join("plugins").join(name);
        fs::copy(from, &to)
            .unwrap_or_else(|error| panic!("copying {} to {}: {error}", from.display(), to.display()));
    }

    /// Installs the metric source `queues`.
    ///
    /// # Panics
    ///
    /// It cannot be copied.
    pub fn install_queues(&self) {
        let folder = self.folder().join("plugins/metric-sources");
        fs::create_dir_all(folder).expect("creating the folder of the metric sources");
        self.install(&binaries::folder().join("libqueues.so"), "metric-sources/queues.so");
    }

    /// A port that no other test is given.
    pub fn port(&self) -> u16 {
        ports::claim(&binaries::scratch().join("port"))
    }

    /// A number that grows.
    pub fn count(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a port of the DLX that is handed over to every DLX started from then on.
    pub fn add_port(&mut self) -> SocketAddr {
        let port = listener();
        let address = port.local_addr().expect("the port's address");
        self.ports.push(port);
        address
    }

    /// Where clients find the DLX, whichever incarnation it is.
    pub fn front(&self) -> SocketAddr {
        self.front.local_addr().expect("the listening socket's address")
    }

    /// Writes a namespace file, whole in one step.
    ///
    /// # Panics
    ///
    /// It cannot be written.
    pub fn configure(&self, namespace: &Namespace) {
        self.configure_raw(&format!("{}.yaml", namespace.name()), namespace.text().as_bytes());
    }

    /// Writes a namespace file with this content, whole in one step.
    ///
    /// # Panics
    ///
    /// It cannot be written.
    pub fn configure_raw(&self, file: &str, content: &[u8]) {
        let folder = self.folder().join("config");
        let draft = folder.join(format!(".{file}.draft"));
        fs::write(&draft, content).expect("writing a namespace file");
        fs::rename(&draft, folder.join(file)).expect("renaming a namespace file");
    }

    /// Starts an autoscaler and waits until it is ready.
    pub async fn autoscaler(&self) -> Daemon {
        self.launch_autoscaler(binaries::folder().join("autoscaler"), &[]).start().ready().await
    }

    /// Starts a DLX on the site's sockets and waits until it is ready.
    pub async fn dlx(&self) -> Daemon {
        self.launch_dlx(binaries::folder().join("dlx"), &[]).start().ready().await
    }

    /// As [`Site::dlx`], on a listening socket of its own.
    pub async fn dlx_beside(&self) -> (Daemon, SocketAddr) {
        let (launch, address) = self.launch_dlx_beside(binaries::folder().join("dlx"));
        (launch.start().ready().await, address)
    }

    /// An autoscaler to be started from another program, or with more arguments.
    pub fn launch_autoscaler(&self, program: PathBuf, arguments: &[&str]) -> Launch {
        self.launch("autoscaler", program, arguments)
    }

    /// A DLX to be started from another program, or with more arguments, on the site's sockets.
    pub fn launch_dlx(&self, program: PathBuf, arguments: &[&str]) -> Launch {
        self.launch_dlx_at(&self.front, program, arguments)
    }

    /// As [`Site::launch_dlx`], on a listening socket of its own; the ports of the resources are shared.
    pub fn launch_dlx_beside(&self, program: PathBuf) -> (Launch, SocketAddr) {
        let front = listener();
        let address = front.local_addr().expect("the listening socket's address");
        (self.launch_dlx_at(&front, program, &[]), address)
    }

    fn launch_dlx_at(&self, front: &TcpListener, program: PathBuf, arguments: &[&str]) -> Launch {
        let mut launch = self.launch("dlx", program, arguments);
        let address = front.local_addr().expect("the listening socket's address");
        launch.arguments.push(format!("--listen-address={address}").into());
        let sockets = std::iter::once(front).chain(&self.ports);
        launch
            .sockets
            .extend(sockets.map(|socket| OwnedFd::from(socket.try_clone().expect("a socket twice"))));
        launch
    }

    fn launch(&self, name: &str, program: PathBuf, arguments: &[&str]) -> Launch {
        let mut all: Vec<OsString> = Vec::new();
        for (flag, part) in [("plugins-dir", "plugins"), ("state-dir", "state"), ("config", "config")] {
            all.push(format!("--{flag}={}", self.folder().join(part).display()).into());
        }
        all.extend(arguments.iter().map(OsString::from));
        let environment =
            vec![("RUST_LOG".to_owned(), std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))];
        Launch {
            name: format!("{name}-{}", self.count()),
            program,
            arguments: all,
            environment,
            sockets: Vec::new(),
            folder: self.folder().to_owned(),
        }
    }

    /// What is written on a resource, read from the state folder: null if nothing is.
    pub fn record(&self, namespace: &str, name: &str) -> Value {
        fs::read(self.record_file(namespace, name))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// When a resource's record was written last.
    ///
    /// # Panics
    ///
    /// It has none.
    pub fn written(&self, namespace: &str, name: &str) -> SystemTime {
        let written = fs::metadata(self.record_file(namespace, name)).and_then(|file| file.modified());
        written.unwrap_or_else(|error| panic!("the record of {namespace}/{name}: {error}"))
    }

    fn record_file(&self, namespace: &str, name: &str) -> PathBuf {
        self.folder().join("state/records/process").join(namespace).join(format!("{name}.json"))
    }

    /// The state written on a resource: `active`, `draining`, ...; empty if nothing is.
    pub fn state(&self, namespace: &str, name: &str) -> String {
        let record = self.record(namespace, name);
        let state = record["record"]["phase"].as_str();
        state.unwrap_or_default().to_owned()
    }

    /// How many replicas a resource's record has.
    pub fn replicas(&self, namespace: &str, name: &str) -> usize {
        let running = &self.record(namespace, name)["running"];
        let several = running["replicas"].as_array().map(Vec::len);
        several.unwrap_or_else(|| usize::from(running["id"].is_string()))
    }

    /// Waits until a resource's record has so many replicas.
    pub async fn replicas_are(&self, namespace: &str, name: &str, replicas: usize) {
        until(&format!("{namespace}/{name} to have {replicas} replicas"), || async {
            let found = self.record(namespace, name);
            let are = self.replicas(namespace, name) == replicas;
            if are { Ok(()) } else { Err(format!("its record is {found}")) }
        })
        .await;
    }

    /// Waits until a resource's record says this.
    pub async fn state_is(&self, namespace: &str, name: &str, state: &str) {
        until(&format!("{namespace}/{name} to be {state}"), || async {
            let found = self.record(namespace, name);
            if self.state(namespace, name) == state { Ok(()) } else { Err(format!("its record is {found}")) }
        })
        .await;
    }

    /// What a daemon or shim that died in the middle of a write, or of a start, would leave below the state folder.
    pub fn half_written(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder().join("state")];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                let unfinished = ["tmp", "run", "unfinished"]
                    .iter()
                    .any(|end| path.extension().is_some_and(|e| e == *end));
                if path.is_dir() {
                    folders.push(path);
                } else if unfinished {
                    found.push(path);
                }
            }
        }
        found
    }

    /// The processes that belong to this site.
    pub fn processes(&self) -> Vec<Process> {
        processes::of_site(self.folder())
    }

    /// The entries of a folder below the state folder, e.g. `members`.
    pub fn state_entries(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder().join("state").join(part)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Waits until no process of this site is left: the daemons were stopped and every resource sleeps.
    ///
    /// # Panics
    ///
    /// Some stay.
    pub async fn nothing_runs(&self) {
        until("no process to be left", || async {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A shim may be about to start another process: until a look finds none.
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for process in left {
                processes::signal(process.pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("the site is kept: {}", self.folder().display());
            self.folder.disable_cleanup(true);
        }
    }
}

/// A listening socket on a free port, with room for a burst of ten thousand (the kernel caps it at somaxconn).
fn listener() -> TcpListener {
    let socket = TcpListener::bind("127.0.0.1:0").expect("binding a listening socket");
    rustix::net::listen(&socket, 16_384).expect("making room for a burst");
    socket
}

/// As many descriptors as this process and its children may have: ten thousand connections need them.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
