//! What the tests share: an instance of the plugin over a folder, real shims, real processes.
#![allow(dead_code, missing_docs, reason = "each test binary uses a part")]

use std::{
    collections::BTreeSet,
    net::TcpListener,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use process::ProcessScaler;
use scaler_types::{
    Nonce, Phase, PluginContext, Record, Resource, ResourceId, ResourceScaler as _, Role, ScaleError,
    ScaleRequest, Target, Version,
};
use tokio::time::timeout;

/// Longer than anything here takes: what is waited for does not come.
pub const NEVER: Duration = Duration::from_secs(60);

pub fn plugin_dir() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_process-shim")).parent().unwrap().to_owned()
}

pub fn context(state_dir: &Path, namespace: &str, resources: &str) -> PluginContext {
    PluginContext {
        namespace: namespace.to_owned(),
        role: Role::Dlx,
        state_dir: state_dir.to_owned(),
        plugin_dir: plugin_dir(),
        kubeconfig: None,
        coordination: scaler_types::Coordination::Files,
        daemon_namespace: None,
        service_ports: None,
        daemon_pod: None,
        dlx_service: "scaler-dlx".to_owned(),
        metrics_urls: Vec::new(),
        kind: "process".to_owned(),
        namespace_file: "demo.yaml".to_owned(),
        namespace_file_text: format!(
            "namespace: {namespace}\nplugins:\n  process:\n    resources:\n{resources}"
        )
        .into(),
    }
}

/// A port nobody listens on.
pub fn free_port() -> u16 {
    // The kernel may offer a port again that nothing listens on yet.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A service that listens on `port` and answers everything; `extra` are further lines of its configuration.
pub fn service(name: &str, port: u16, extra: &str) -> String {
    command(name, port, &format!("exec python3 -m http.server {port} --bind 127.0.0.1"), extra)
}

/// A shell script as a process.
pub fn command(name: &str, port: u16, script: &str, extra: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("      - name: {name}\n        command: [sh, -c, {script}]\n        port: {port}\n{extra}")
}

/// A worker of a queue: a shell script without a port.
pub fn worker(name: &str, script: &str, extra: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "      - name: {name}\n        command: [sh, -c, {script}]\n        queue: file:///spool\n        messagesPerReplica: 1\n        maxReplicas: 9\n{extra}"
    )
}

pub async fn scaler(state_dir: &Path, resources: &str) -> ProcessScaler {
    ProcessScaler::new(context(state_dir, "demo", resources)).await.unwrap()
}

pub fn id(name: &str) -> ResourceId {
    ResourceId::new("demo", name)
}

pub async fn resource(scaler: &ProcessScaler, name: &str) -> Resource {
    let resources = scaler.get_resources().await.unwrap();
    resources.into_iter().find(|resource| resource.id.name == name).unwrap()
}

pub fn record(state: Phase) -> Record {
    Record { phase: state, nonce: Nonce::fresh(), reason: "a test".to_owned(), ..Record::default() }
}

pub fn request(name: &str, version: &Version, state: Phase) -> ScaleRequest {
    let target = if state == Phase::Asleep { Target::Zero } else { Target::AtLeast(1) };
    ScaleRequest {
        id: id(name),
        target,
        version: version.clone(),
        record: record(state),
        deadline: NEVER,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    }
}

/// Scales on what is listed now.
pub async fn scale(scaler: &ProcessScaler, name: &str, state: Phase) -> Result<(), ScaleError> {
    let version = resource(scaler, name).await.version;
    timeout(NEVER, scaler.set_scale(&request(name, &version, state))).await.expect("the scale does not end")
}

/// Scales one that is awake to so many replicas, on what is listed now.
pub async fn resize(scaler: &ProcessScaler, name: &str, count: u32) -> Result<(), ScaleError> {
    let version = resource(scaler, name).await.version;
    let target = Target::Exactly(NonZeroU32::new(count).unwrap());
    let resize = ScaleRequest { target, ..request(name, &version, Phase::Active) };
    timeout(NEVER, scaler.set_scale(&resize)).await.expect("the scale does not end")
}

/// Follows the changes until a resource is as wanted.
pub async fn until(scaler: &ProcessScaler, name: &str, wanted: impl Fn(&Resource) -> bool) -> Resource {
    let wait = async {
        let mut cursor = 0;
        loop {
            let changes = scaler.changes(cursor).await.unwrap();
            cursor = changes.cursor;
            if let Some(found) =
                changes.resources.into_iter().find(|found| found.id.name == name && wanted(found))
            {
                return found;
            }
        }
    };
    timeout(NEVER, wait).await.expect("it never becomes as wanted")
}

/// The processes whose environment carries the mark of a run below `state_dir`, or whose arguments name the folder.
pub fn processes_of(state_dir: &Path) -> Vec<String> {
    let needle = state_dir.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| {
            String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default())
                .replace('\0', " ")
        };
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let own = entry.file_name().to_str() == Some(&std::process::id().to_string());
        if !own && (arguments.contains(needle) || environment.contains(needle)) {
            found.push(format!("{} {arguments}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Waits until nothing of `state_dir` runs.
pub async fn until_none_is_left(state_dir: &Path) {
    let wait = async {
        while !processes_of(state_dir).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(NEVER, wait).await.unwrap_or_else(|_| panic!("left behind: {:?}", processes_of(state_dir)));
}
