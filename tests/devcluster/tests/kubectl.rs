//! The real kubectl against devcluster: what people and scripts type. Tried with 1.20 (Debian's) and 1.32.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use devcluster::{Cluster, Options, User};
use serde_json::Value;
use tempfile::TempDir;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: devcluster/hello, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

struct Kubectl {
    _cluster: Cluster,
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let cluster = Cluster::start(Options::default()).unwrap();
        let kubeconfig = cluster.kubeconfig(folder.path(), &User::Admin).unwrap();
        Self { _cluster: cluster, folder, kubeconfig }
    }

    fn run(&self, line: &str, input: &str) -> Output {
        let mut child = Command::new("kubectl")
            .args(line.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            // Its cache of discovery is kept there.
            .env("HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl cannot be run; on Debian: apt-get install kubernetes-client");
        // A command that reads no input may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What it prints, where it must do.
    fn does(&self, line: &str) -> String {
        self.takes(line, "")
    }

    /// [`Kubectl::does`] with a file on its standard input.
    fn takes(&self, line: &str, input: &str) -> String {
        let output = self.run(line, input);
        assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains, where it must fail.
    fn fails(&self, line: &str) -> String {
        let output = self.run(line, "");
        assert!(
            !output.status.success(),
            "kubectl {line} went well: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.does(&format!("{line} -o json"))).unwrap()
    }
}

#[test]
fn objects_are_created_read_replaced_and_deleted() {
    let kubectl = Kubectl::new();
    let created = kubectl.takes("create -f -", WEB);
    assert_eq!(created, "deployment.apps/web created\nservice/web created\n");
    assert_eq!(kubectl.does("get deployments -o name"), "deployment.apps/web\n");
    assert!(kubectl.does("get deploy,svc").contains("service/web"));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let shown = kubectl.does("get deploy -o wide");
    let rows: Vec<_> = shown.lines().map(words).collect();
    assert_eq!(rows[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "IMAGES", "SELECTOR"]);
    assert_eq!(rows[1][..4], ["web", "0/2", "0", "0"]);
    assert_eq!(rows[1][5..], ["devcluster/hello", "app=web"]);
    assert!(kubectl.does("get pods -A -o wide").is_empty());
    assert!(kubectl.does("get deploy web -o yaml").contains("  replicas: 2\n"));
    assert_eq!(kubectl.json("get deploy web")["spec"]["replicas"], 2);
    assert_eq!(kubectl.does("get svc web -o jsonpath={.spec.ports[0].targetPort}"), "8080");
    let replaced = kubectl.takes("replace -f -", &WEB.replace("replicas: 2", "replicas: 3"));
    assert_eq!(replaced, "deployment.apps/web replaced\nservice/web replaced\n");
    assert_eq!(kubectl.json("get deploy web")["spec"]["replicas"], 3);
    assert!(kubectl.takes("apply -f -", WEB).starts_with("deployment.apps/web configured\n"));
    assert_eq!(kubectl.takes("apply -f -", WEB), "deployment.apps/web unchanged\nservice/web unchanged\n");
    // A newer one says from which namespace.
    let deleted = kubectl.does("delete deployment/web service/web").replace(" from default namespace", "");
    assert_eq!(deleted, "deployment.apps \"web\" deleted\nservice \"web\" deleted\n");
    assert_eq!(
        kubectl.fails("get deploy web"),
        "Error from server (NotFound): deployments.apps \"web\" not found\n"
    );
}

#[test]
fn a_workload_is_scaled_annotated_patched_and_waited_for() {
    let kubectl = Kubectl::new();
    kubectl.takes("create -f -", WEB);
    assert_eq!(kubectl.does("scale deployment/web --replicas=0"), "deployment.apps/web scaled\n");
    assert_eq!(kubectl.json("get deploy web")["spec"]["replicas"], 0);
    let refused = kubectl.fails("scale deployment/web --current-replicas=5 --replicas=1");
    assert!(refused.contains("Expected replicas to be 5, was 0"), "{refused}");
    kubectl.does("annotate deployment web scaler.dev/scale-to-zero=10m");
    assert_eq!(kubectl.json("get deploy web")["metadata"]["annotations"]["scaler.dev/scale-to-zero"], "10m");
    kubectl.does("annotate deployment web scaler.dev/scale-to-zero=5m --overwrite");
    kubectl.does("annotate deployment web scaler.dev/scale-to-zero-");
    assert!(kubectl.json("get deploy web")["metadata"]["annotations"].is_null());
    kubectl.does("label deployment web more=1");
    assert_eq!(kubectl.does("get deploy -l more=1,app!=db -o name"), "deployment.apps/web\n");
    kubectl.does(r#"patch deploy web -p {"spec":{"replicas":4}}"#);
    kubectl.does(r#"patch deploy web --type=merge -p {"metadata":{"labels":{"more":null}}}"#);
    kubectl.does(r#"patch deploy web --type=json -p [{"op":"test","path":"/spec/replicas","value":4},{"op":"replace","path":"/spec/replicas","value":5}]"#);
    let refused =
        kubectl.fails(r#"patch deploy web --type=json -p [{"op":"test","path":"/spec/replicas","value":4}]"#);
    assert!(refused.contains("The request is invalid"), "{refused}");
    kubectl.does("set image deployment/web web=devcluster/other");
    kubectl.does("rollout restart deployment/web");
    let template = kubectl.json("get deploy web")["spec"]["template"].clone();
    assert_eq!(template["spec"]["containers"][0]["image"], "devcluster/other");
    assert!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string());
    kubectl.does("delete deploy --all --wait=true --timeout=20s");
}

/// Since 1.32 these send protobuf.
#[test]
fn objects_are_made_from_flags() {
    let kubectl = Kubectl::new();
    kubectl.does("create namespace shop");
    kubectl.does("create deployment web --image=devcluster/hello --replicas=0 -n shop");
    let spec = kubectl.json("get deploy web -n shop")["spec"].clone();
    assert_eq!(spec["replicas"], 0);
    assert_eq!(spec["template"]["spec"]["containers"][0]["image"], "devcluster/hello");
    assert_eq!(
        spec["selector"],
        spec["template"]["metadata"]
            .get("labels")
            .map(|labels| serde_json::json!({"matchLabels": labels}))
            .unwrap()
    );
    kubectl.does("expose deployment web --port=80 --target-port=8080 -n shop");
    assert_eq!(kubectl.json("get svc web -n shop")["spec"]["ports"][0]["targetPort"], 8080);
    kubectl.does("create configmap one --from-literal=a=b -n shop");
    assert_eq!(kubectl.json("get cm one -n shop")["data"]["a"], "b");
    kubectl.does("create secret generic one --from-literal=a=b -n shop");
    assert_eq!(kubectl.json("get secret one -n shop")["data"]["a"], "Yg==");
    kubectl.does("create serviceaccount bob -n shop");
    kubectl.does("create role reader --verb=get,list --resource=deployments.apps -n shop");
    kubectl.does("create rolebinding reader --role=reader --serviceaccount=shop:bob -n shop");
    let bob = "--as=system:serviceaccount:shop:bob -n shop";
    assert_eq!(kubectl.does(&format!("auth can-i list deployments {bob}")), "yes\n");
    assert_eq!(kubectl.does(&format!("get deploy -o name {bob}")), "deployment.apps/web\n");
    let refused = kubectl.fails(&format!("get secrets {bob}"));
    assert!(
        refused.contains("cannot list resource \"secrets\" in API group \"\" in the namespace \"shop\""),
        "{refused}"
    );
    kubectl.does("delete namespace shop --timeout=20s");
    kubectl.fails("get namespace shop");
}

#[test]
fn invalid_objects_are_refused_in_the_real_servers_words() {
    let kubectl = Kubectl::new();
    let output = kubectl.run("create -f -", &WEB.replace("image: devcluster/hello, ", ""));
    let given = String::from_utf8(output.stderr).unwrap();
    let wanted = "The Deployment \"web\" is invalid: spec.template.spec.containers[0].image: Required value";
    assert!(given.contains(wanted), "{given}");
}

#[test]
fn custom_resources_are_served_by_short_name_and_scaled() {
    let kubectl = Kubectl::new();
    kubectl.takes(
        "create -f -",
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: workers.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: workers, kind: Worker, shortNames: [wk]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
",
    );
    kubectl.does("wait --for=condition=Established crd/workers.example.com --timeout=20s");
    kubectl.takes(
        "create -f -",
        "apiVersion: example.com/v1\nkind: Worker\nmetadata: {name: one}\nspec: {replicas: 1}\n",
    );
    assert_eq!(kubectl.does("scale worker one --replicas=4"), "worker.example.com/one scaled\n");
    assert_eq!(kubectl.does("get wk one -o jsonpath={.spec.replicas}"), "4");
    kubectl.does("delete wk --all");
    kubectl.does("delete crd workers.example.com");
    kubectl.fails("get wk");
}
