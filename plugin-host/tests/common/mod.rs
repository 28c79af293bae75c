//! What the tests of this crate share: the fixture plugins, built, and folders to load them from.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use plugin_host::{CallError, Interface, LOAD_TIMEOUT, RunningMetricSource, RunningPlugin, Scan, load_dir};
use scaler_types::{
    MetricSourceContext, PluginContext, Record, ResourceId, Role, ScaleRequest, Target, Version,
};
use tokio::sync::watch;

/// The library that cargo builds of `package`; its file name is `lib<name>.so`, in `folder` of the target directory.
///
/// `cargo xtask` has built the whole workspace and says where in `SCALER_E2E_BIN`. (A build of one package wants other
/// features of what it depends on: it builds all of that again, and the slower the machine, the longer a test waits.)
pub fn built(arguments: &[&str], file: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("SCALER_E2E_BIN").filter(|folder| !folder.is_empty()) {
        let library = Path::new(&folder).join(file);
        assert!(library.is_file(), "SCALER_E2E_BIN names a folder without {file}: {}", library.display());
        return library;
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--profile", if cfg!(debug_assertions) { "dev" } else { "release" }])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build {arguments:?}: {status}");
    // target/debug/deps/this-test, or target/release/deps/this-benchmark
    let test = std::env::current_exe().expect("a test has a path");
    let library = test.ancestors().nth(2).expect("a test lies in target/debug/deps").join(file);
    assert!(library.is_file(), "{} was not built by {arguments:?}", library.display());
    library
}

/// The fixture plugin `misbehaving`, as a file.
pub fn misbehaving() -> PathBuf {
    built(&["--package", "misbehaving"], "libmisbehaving.so")
}

/// A folder that holds `library` alone, as `name`.
pub fn folder(library: &Path, name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::copy(library, dir.path().join(name)).expect("the library is copied");
    dir
}

/// Loads a folder and insists that all in it is in order.
pub fn load(dir: &Path) -> Scan {
    let scan =
        load_dir(dir, Interface::ResourceScaler, LOAD_TIMEOUT, |_| {}).expect("the folder can be read");
    let rejected: Vec<String> = scan.rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.is_empty(), "{rejected:#?}");
    scan
}

/// The fixture metric source `misbehaving-source`, as a file.
pub fn misbehaving_source() -> PathBuf {
    built(&["--package", "misbehaving-source"], "libmisbehaving_source.so")
}

/// An instance of the metric source in `library`, started with this section.
pub async fn metric_source(library: &Path, section: &str) -> Result<Arc<dyn RunningMetricSource>, CallError> {
    Log::start();
    let dir = folder(library, "source.so");
    let scan =
        load_dir(dir.path(), Interface::MetricSource, LOAD_TIMEOUT, |_| {}).expect("the folder can be read");
    let rejected: Vec<String> = scan.rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.is_empty(), "{rejected:#?}");
    let kind = scan.plugins[0].kind();
    let context = MetricSourceContext {
        namespace: "demo".to_owned(),
        namespace_file: "demo.yaml".to_owned(),
        namespace_file_text: Arc::from(format!("namespace: demo\nmetricSources:\n  {kind}: {section}\n")),
        ..MetricSourceContext::default()
    };
    scan.plugins[0].start_metric_source(context).await
}

/// What a daemon hands to a plugin; `section` is YAML in flow form, `{get_resources: panic}`.
pub fn context(kind: &str, section: &str, state_dir: &Path) -> PluginContext {
    PluginContext {
        namespace: "demo".to_owned(),
        role: Role::Dlx,
        state_dir: state_dir.to_owned(),
        plugin_dir: PathBuf::new(),
        kubeconfig: None,
        coordination: scaler_types::Coordination::Files,
        daemon_namespace: None,
        service_ports: None,
        daemon_pod: None,
        dlx_service: "scaler-dlx".to_owned(),
        metrics_urls: Vec::new(),
        kind: kind.to_owned(),
        namespace_file: "demo.yaml".to_owned(),
        namespace_file_text: Arc::from(format!("namespace: demo\nplugins:\n  {kind}: {section}\n")),
    }
}

/// This process's log, as text that grows.
pub struct Log(watch::Sender<String>);

impl Log {
    /// Begins to write it. A plugin asks for the level when its library's first instance is made: call this before.
    pub fn start() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let mut first = false;
        let log = LOG.get_or_init(|| {
            first = true;
            Log(watch::Sender::new(String::new()))
        });
        if first {
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || log).init();
        }
        log
    }

    /// Waits for a line that has all of `parts`, and gives it.
    pub async fn line(&self, parts: &[&str]) -> String {
        let find = |text: &str| {
            text.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        };
        let mut text = self.0.subscribe();
        let waited =
            tokio::time::timeout(Duration::from_secs(60), text.wait_for(|text| find(text).is_some()));
        let found = waited.await.map(|text| find(&text.expect("the log is never closed")));
        found.ok().flatten().unwrap_or_else(|| panic!("no line with {parts:?} in:\n{}", *self.0.borrow()))
    }
}

impl std::io::Write for &Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.send_modify(|text| text.push_str(&String::from_utf8_lossy(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An instance of `misbehaving` that behaves as `section` says. Its library stays loaded after the folder is gone.
pub async fn instance(section: &str) -> Arc<dyn RunningPlugin> {
    Log::start();
    let dir = folder(&misbehaving(), "misbehaving.so");
    let scan = load(dir.path());
    scan.plugins[0].start(context("misbehaving", section, dir.path())).await.expect("it starts")
}

/// A wake of the fixture's one resource, as it is at first.
pub fn wake(deadline: Duration) -> ScaleRequest {
    ScaleRequest {
        id: ResourceId::new("demo", "bad"),
        target: Target::AtLeast(1),
        version: Version("0".to_owned()),
        record: Record::default(),
        deadline,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    }
}
