//! The chart's script for where Scaler is gone, with the real kubectl.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use devcluster::{Cluster, Options, User};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Site {
    _cluster: Cluster,
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Site {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let cluster = Cluster::start(Options::default()).unwrap();
        let kubeconfig = cluster.kubeconfig(folder.path(), &User::Admin).unwrap();
        Self { _cluster: cluster, folder, kubeconfig }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // kubectl keeps what it discovered in its home.
        command.env("HOME", self.folder.path()).env_remove("KUBECONFIG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(Path::new("kubectl"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        let mut child =
            command.spawn().expect("kubectl cannot be run; on Debian: apt-get install kubernetes-client");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn script(&self) -> Output {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/scaler/restore-without-scaler.sh");
        let mut command = self.command(Path::new("sh"));
        command.arg(script).arg("--kubeconfig").arg(&self.kubeconfig).output().unwrap()
    }

    fn object(&self, resource: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", resource, name, "--output", "json"], "")).unwrap()
    }

    fn create(&self, objects: &[Value]) {
        for object in objects {
            self.kubectl(&["create", "--filename", "-"], &object.to_string());
        }
    }
}

fn workload(kind: &str, name: &str, replicas: u32, record: Option<&str>) -> Value {
    let mut annotations = json!({"team": "shop"});
    if let Some(record) = record {
        annotations["scaler.dev/row"] = record.into();
    }
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "serviceName": (kind == "StatefulSet").then_some(name),
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": "devcluster/hello"}]},
            },
        },
    })
}

fn service(name: &str, selector: Option<Value>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// As a backup has them: asleep, and led to DLXs that are in no cluster any more.
#[test]
fn what_carries_the_marks_is_given_back_and_nothing_else_is_touched() {
    let site = Site::start();
    // What is written in a reason is no number of replicas.
    let asleep = r#"{"state":"asleep","nonce":"1","reason":"idle, \"replicas\":9, {\"replicas\":8}","sleeps":1,"replicas":3}"#;
    let old = r#"{"state":"asleep","nonce":"1","reason":"idle for 10m","sleeps":1}"#;
    let awake = r#"{"state":"active","nonce":"2","reason":"woken by a request","sleeps":1}"#;
    site.create(&[
        workload("Deployment", "web", 0, Some(asleep)),
        workload("Deployment", "old", 0, Some(old)),
        workload("Deployment", "awake", 2, Some(awake)),
        workload("Deployment", "plain", 0, None),
        workload("StatefulSet", "db", 0, Some(asleep)),
        service("web", Some(json!({"app": "web", "scaler.dev/fenced": "1"}))),
        service("plain", Some(json!({"app": "plain"}))),
        service("bare", None),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-scaler", "labels": {
                "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "scaler.dev",
            }},
            "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"port": 20000}],
        }),
    ]);
    // It can be run again.
    for _ in 0..2 {
        let ended = site.script();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    for (resource, name, replicas) in [
        ("deployment", "web", 3),
        ("deployment", "old", 1),
        ("deployment", "awake", 2),
        ("deployment", "plain", 0),
        ("statefulset", "db", 3),
    ] {
        let object = site.object(resource, name);
        assert_eq!(object["spec"]["replicas"], replicas, "{name}");
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(
            (annotations["scaler.dev/row"].as_str(), annotations["team"].as_str()),
            (None, Some("shop"))
        );
    }
    assert_eq!(site.object("service", "web")["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(site.object("service", "plain")["spec"]["selector"], json!({"app": "plain"}));
    let ours = [
        "get",
        "endpointslices",
        "--selector",
        "endpointslice.kubernetes.io/managed-by=scaler.dev",
        "--output=name",
    ];
    assert_eq!(site.kubectl(&ours, ""), "");
}

#[test]
fn it_does_nothing_against_a_scaler_that_runs_and_says_when_it_cannot_ask() {
    let site = Site::start();
    site.create(&[
        workload(
            "Deployment",
            "web",
            0,
            Some(r#"{"state":"asleep","nonce":"1","reason":"","sleeps":1,"replicas":3}"#),
        ),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "scaler-dlx", "labels": {"scaler.dev/component": "dlx"}},
            "spec": {"containers": [{"name": "dlx", "image": "devcluster/dlx"}]},
        }),
    ]);
    let ended = site.script();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("Scaler runs in this cluster"));
    assert_eq!(site.object("deployment", "web")["spec"]["replicas"], 0);
    // A cluster that does not answer is none where there is nothing to do.
    std::fs::write(&site.kubeconfig, "").unwrap();
    assert!(!site.script().status.success());
}
