//! The chart's script for where Scaler is gone, with the real kubectl.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use devcluster::{Cluster, Filter, Options, Refusal, User};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Site {
    cluster: Cluster,
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Site {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let cluster = Cluster::start(Options::default()).unwrap();
        let kubeconfig = cluster.kubeconfig(folder.path(), &User::Admin).unwrap();
        // Flags are not split at spaces.
        let spaced = folder.path().join("the admin's kubeconfig");
        std::fs::rename(kubeconfig, &spaced).unwrap();
        Self { cluster, folder, kubeconfig: spaced }
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

    fn script(&self, workloads: &str) -> Output {
        self.script_command(workloads).output().unwrap()
    }

    fn script_command(&self, workloads: &str) -> Command {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/scaler/restore-without-scaler.sh");
        let mut command = self.command(Path::new("sh"));
        command.env("WORKLOADS", workloads).arg(script).arg("--kubeconfig").arg(&self.kubeconfig);
        command
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
        annotations["scaler.dev/state"] = record.into();
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

fn slice(service: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-scaler"), "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "scaler.dev",
        }},
        "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"port": 20000}],
    })
}

/// A record in that state; with what it had before, if it says.
fn record(phase: &str, replicas: Option<u32>) -> String {
    // What is written in a reason is no number of replicas and no state.
    let reason = r#"idle, \"replicas\":9, {\"replicas\":8, \"state\":\"asleep\", {\"phase\":\"asleep\""#;
    let replicas = replicas.map(|count| format!(r#","replicas":{count}"#)).unwrap_or_default();
    format!(r#"{{"phase":"{phase}","nonce":"1","reason":"{reason}","sleeps":1{replicas}}}"#)
}

const OURS: [&str; 5] = [
    "get",
    "endpointslices",
    "--selector",
    "endpointslice.kubernetes.io/managed-by=scaler.dev",
    "--output=name",
];

/// As a backup has them: asleep, and intercepted by DLXs that are in no cluster any more.
#[test]
fn what_carries_the_marks_is_restored_and_nothing_else_is_touched() {
    let site = Site::start();
    let record = |state, replicas| Some(record(state, replicas));
    // Each with its replicas before, and after.
    let all = [
        ("Deployment", "web", 0, record("asleep", Some(3)), 3),
        ("Deployment", "old", 0, record("asleep", None), 1),
        ("Deployment", "waking", 0, record("waking", Some(3)), 3),
        ("Deployment", "failed", 0, record("failed", Some(3)), 3),
        ("Deployment", "awake", 2, record("active", None), 2),
        ("Deployment", "draining", 2, record("draining", None), 2),
        // Their user stopped them.
        ("Deployment", "stopped", 0, record("active", None), 0),
        ("Deployment", "stopped-late", 0, record("draining", None), 0),
        ("Deployment", "plain", 0, None, 0),
        ("StatefulSet", "db", 0, record("asleep", Some(3)), 3),
    ];
    for (kind, name, replicas, record, _) in &all {
        site.create(&[workload(kind, name, *replicas, record.as_deref())]);
    }
    site.create(&[
        service("web", Some(json!({"app": "web", "scaler.dev/intercepted": "1"}))),
        service("plain", Some(json!({"app": "plain"}))),
        service("bare", None),
        slice("web"),
        // The Lease of a DLX that was in the cluster of the backup.
        lease("scaler-dlx-1", Some("dlx"), "scaler-dlx-1-00c0ffee00c0ffee"),
    ]);
    // It can be run again.
    for stopped in [&["stopped", "stopped-late"][..], &[]] {
        let ended = site.script("");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let said = String::from_utf8(ended.stdout).unwrap();
        let left: Vec<_> = said.lines().filter_map(|line| line.split_once(": left at 0: ")).collect();
        let expected: Vec<_> =
            stopped.iter().map(|name| format!("deployments.apps default/{name}")).collect();
        assert_eq!(left.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected, "{said}");
        assert!(left.iter().all(|(_, why)| why.contains("something else stopped it")), "{said}");
    }
    for (kind, name, _, _, replicas) in &all {
        let object = site.object(kind, name);
        assert_eq!(object["spec"]["replicas"], *replicas, "{name}");
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(
            (annotations["scaler.dev/state"].as_str(), annotations["team"].as_str()),
            (None, Some("shop"))
        );
    }
    assert_eq!(site.object("service", "web")["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(site.object("service", "plain")["spec"]["selector"], json!({"app": "plain"}));
    assert_eq!(site.kubectl(&OURS, ""), "");
}

/// While the policy is in force, it puts back a key that another writer removed. It is deleted first, whether Scaler's namespace is there or not.
#[test]
fn the_policy_of_the_selector_key_goes_before_the_key() {
    for namespace_deleted in [true, false] {
        let site = Site::start();
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/selector-key.yaml");
        let policy =
            std::fs::read_to_string(policy).unwrap().replace("values: [\"shop\"]", "values: [default]");
        site.kubectl(&["create", "--filename", "-"], &policy);
        let other = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "other"}, "spec": {},
        });
        let scaler = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        let ports = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"intercepted": "1"},
            "metadata": {"name": "scaler-service-ports", "namespace": "shop"},
        });
        let keyed = json!({"app": "web", "scaler.dev/intercepted": "1"});
        site.create(&[other, scaler, ports, service("web", Some(keyed.clone())), slice("web")]);
        let remove = json!({"spec": {"selector": {"scaler.dev/intercepted": null}}}).to_string();
        site.kubectl(&["patch", "service", "web", "--type=merge", "--patch", &remove], "");
        assert_eq!(site.object("service", "web")["spec"]["selector"], keyed, "the policy is in force");
        if namespace_deleted {
            site.kubectl(&["delete", "namespace", "shop"], "");
        }
        let ended = site.script("");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(site.object("service", "web")["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(site.kubectl(&OURS, ""), "");
        let left = site.kubectl(
            &["get", "mutatingadmissionpolicies,mutatingadmissionpolicybindings", "--output=name"],
            "",
        );
        assert_eq!(left.trim(), "mutatingadmissionpolicy.admissionregistration.k8s.io/other");
    }
}

/// Who runs it may have no right to delete policies. It removes the key as one whom the policy lets do it.
#[test]
fn services_are_restored_where_the_policy_cannot_be_deleted() {
    let site = Site::start();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/selector-key.yaml");
    let policy = std::fs::read_to_string(policy).unwrap().replace("values: [\"shop\"]", "values: [default]");
    site.kubectl(&["create", "--filename", "-"], &policy);
    let ports = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"intercepted": "1"},
        "metadata": {"name": "scaler-service-ports", "namespace": "shop"},
    });
    let scaler = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let keyed = json!({"app": "web", "scaler.dev/intercepted": "1"});
    site.create(&[scaler, ports, service("web", Some(keyed)), slice("web")]);
    let kinds = ["mutatingadmissionpolicybindings", "mutatingadmissionpolicies"];
    let _refused = kinds.map(|kind| {
        let deletions = Filter::any().verb("delete,deletecollection").resource(kind);
        site.cluster.faults().refuse(deletions, u32::MAX, Refusal::InternalError)
    });
    let ended = site.script("");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    for kind in kinds {
        assert!(said.contains(&format!("run: kubectl delete {kind}.admissionregistration.k8s.io")), "{said}");
    }
    assert_eq!(site.object("service", "web")["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(site.kubectl(&OURS, ""), "");
}

/// Each patch of a Service is preceded by someone else's deletion of it, or of its key.
#[test]
fn what_others_restored_or_deleted_since_it_was_listed_is_no_failure() {
    let site = Site::start();
    let keyed = || Some(json!({"app": "web", "scaler.dev/intercepted": "1"}));
    site.create(&["deleted", "restored", "kept"].map(|name| service(name, keyed())));
    let others = r#"#!/bin/sh
        PATH=${PATH#*:}
        remove='[{"op": "remove", "path": "/spec/selector/scaler.dev~1intercepted"}]'
        case "$*" in
        *" patch service deleted "*) kubectl "$1" "$2" delete service deleted ;;
        *" patch service restored "*) kubectl "$1" "$2" patch service restored --type json --patch "$remove" ;;
        *" patch service kept "*) exit 1 ;;
        esac >&2
        exec kubectl "$@"
    "#;
    let kubectl = site.folder.path().join("kubectl");
    std::fs::write(&kubectl, others).unwrap();
    std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", site.folder.path().display(), std::env::var("PATH").unwrap());
    let ended = site.script_command("").env("PATH", path).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stdout);
    for name in ["deleted", "restored"] {
        assert!(said.contains(&format!("service/{name} in default: restored")), "{said}");
    }
    let failures = String::from_utf8_lossy(&ended.stderr);
    let left: Vec<_> = failures.lines().filter(|line| line.contains("is still in its selector")).collect();
    assert_eq!(left, ["service/kept in default: the key scaler.dev/intercepted is still in its selector"]);
}

/// What stopped it is unknown: a person decides, and all else is restored.
#[test]
fn what_its_record_does_not_say_is_left_alone_and_reported() {
    let site = Site::start();
    for (name, record) in [("newer", record("dozing", Some(3))), ("edited", "mine".to_owned())] {
        site.create(&[workload("Deployment", name, 0, Some(&record))]);
    }
    site.create(&[service("web", Some(json!({"app": "web", "scaler.dev/intercepted": "1"}))), slice("web")]);
    let ended = site.script("");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    for name in ["newer", "edited"] {
        assert!(
            said.contains(&format!("deployments.apps default/{name}: its record does not say")),
            "{said}"
        );
        let object = site.object("deployment", name);
        assert_eq!(object["spec"]["replicas"], 0, "{name}");
        assert!(object["metadata"]["annotations"]["scaler.dev/state"].is_string(), "{name}");
    }
    assert_eq!(site.object("service", "web")["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(site.kubectl(&OURS, ""), "");
}

#[test]
fn other_kinds_are_restored_where_they_are_named() {
    let site = Site::start();
    site.create(&[json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "workers.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Worker", "plural": "workers", "singular": "worker", "listKind": "WorkerList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })]);
    let worker = json!({
        "apiVersion": "example.org/v1", "kind": "Worker",
        "metadata": {"name": "mail", "annotations": {"scaler.dev/state": record("asleep", Some(4))}},
        "spec": {"replicas": 0},
    });
    site.create(&[worker]);
    for (workloads, replicas) in [("", 0), ("workers.example.org", 4)] {
        let ended = site.script(workloads);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(site.object("workers.example.org", "mail")["spec"]["replicas"], replicas, "{workloads}");
    }
}

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "dlx", "image": "devcluster/dlx"}]},
    })
}

fn lease(name: &str, member: Option<&str>, holder: &str) -> Value {
    let labels = member.map(|member| json!({"scaler.dev/member": member}));
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "labels": labels},
        "spec": {"holderIdentity": holder},
    })
}

#[test]
fn it_does_nothing_against_a_scaler_that_runs_and_says_when_it_cannot_ask() {
    let holder = |pod: &str| format!("{pod}-00c0ffee00c0ffee");
    for (pod_name, objects) in [
        ("scaler-dlx-1", vec![pod("scaler-dlx-1", json!({"scaler.dev/component": "dlx"}))]),
        // Of manifests without that label.
        ("dlx-1", vec![pod("dlx-1", json!({})), lease("dlx-1", Some("dlx"), &holder("dlx-1"))]),
        (
            "brain-7d9-x2",
            vec![pod("brain-7d9-x2", json!({})), lease("scaler-autoscaler", None, &holder("brain-7d9-x2"))],
        ),
    ] {
        let site = Site::start();
        site.create(&[workload("Deployment", "web", 0, Some(&record("asleep", Some(3))))]);
        site.create(&objects);
        let ended = site.script("");
        assert!(!ended.status.success());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains(&format!("Scaler runs in this cluster (pods default/{pod_name} )")), "{said}");
        assert_eq!(site.object("deployment", "web")["spec"]["replicas"], 0, "{pod_name}");
        // One that has ended runs no more.
        let ended = json!({"status": {"phase": "Failed"}}).to_string();
        site.kubectl(
            &["patch", "pod", pod_name, "--subresource=status", "--type=merge", "--patch", &ended],
            "",
        );
        assert!(site.script("").status.success());
        assert_eq!(site.object("deployment", "web")["spec"]["replicas"], 3, "{pod_name}");
        // A cluster that does not answer is none where there is nothing to do.
        std::fs::write(&site.kubeconfig, "").unwrap();
        assert!(!site.script("").status.success());
    }
}
