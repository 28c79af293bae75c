//! What `deploy/manifests` ships, or the chart renders to with a test's values, with no more changed than a test needs.

use std::{fs, path::PathBuf};

use deploy::Release;
use serde_json::{Value, json};

use super::{Names, Setting};

/// The namespace that the manifests are rendered for, which no other word in them contains.
pub const NAMESPACE: &str = "shop";
/// The files, in the order in which they are applied.
const FILES: [&str; 2] = ["cluster.yaml", "scaler.yaml"];

/// Every object, ready to be created, by these names.
///
/// # Panics
///
/// The manifests cannot be read, or are not as they were when this was written.
pub fn objects(setting: &Setting, names: &Names) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "scaler-admin-token", "namespace": names.namespace},
        "stringData": {"token": "a-token-of-the-tests"},
    })];
    objects.extend(if setting.values.is_empty() { shipped(names) } else { rendered(setting, names) });
    for object in &mut objects {
        adapt(object, setting, names);
    }
    if setting.second_dlx {
        add_second_dlx(&mut objects);
    }
    objects
}

fn folder() -> PathBuf {
    deploy::root().join("deploy/manifests")
}

/// The files as they are.
fn shipped(names: &Names) -> Vec<Value> {
    let mut objects = Vec::new();
    for file in FILES {
        let path = folder().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = text.replace(NAMESPACE, &names.namespace);
        for document in text.split("\n---\n").filter(|document| document.contains("kind:")) {
            let object: Value = serde_yaml::from_str(document)
                .unwrap_or_else(|error| panic!("{}: {error}\n{document}", path.display()));
            objects.push(object);
        }
    }
    objects
}

/// What the chart renders to with the values of the files and the setting's.
fn rendered(setting: &Setting, names: &Names) -> Vec<Value> {
    let values = fs::read_to_string(folder().join("values.yaml")).expect("reading the manifests' values");
    let values = values.replace(NAMESPACE, &names.namespace) + &setting.values;
    let release = Release { name: "scaler", namespace: &names.namespace, values: &values };
    let objects = release.render().into_iter();
    let objects = objects.map(|object| serde_json::to_value(object).expect("an object is JSON"));
    // What the files leave out, too: the hook of an uninstall, and the policy that keeps the key in selectors.
    let is_shipped = |object: &Value| {
        object["metadata"]["annotations"]["helm.sh/hook"].is_null()
            && !object["kind"].as_str().is_some_and(|kind| kind.starts_with("Mutating"))
    };
    objects.filter(is_shipped).collect()
}

/// One more DLX with a service account of its own, and the rights of the others.
fn add_second_dlx(objects: &mut Vec<Value>) {
    const NAME: &str = "scaler-second-dlx";
    let mut more = Vec::new();
    for object in objects.iter_mut() {
        match (object["kind"].as_str(), object["metadata"]["name"].as_str()) {
            (Some("ServiceAccount"), Some("scaler-dlx")) => {
                let mut account = object.clone();
                account["metadata"]["name"] = json!(NAME);
                more.push(account);
            }
            (Some("Deployment"), Some("scaler-dlx")) => {
                let mut dlx = object.clone();
                dlx["metadata"]["name"] = json!(NAME);
                dlx["spec"]["replicas"] = json!(1);
                dlx["spec"]["selector"]["matchLabels"]["dlx"] = json!(NAME);
                dlx["spec"]["template"]["metadata"]["labels"]["dlx"] = json!(NAME);
                dlx["spec"]["template"]["spec"]["serviceAccountName"] = json!(NAME);
                more.push(dlx);
            }
            (Some("RoleBinding" | "ClusterRoleBinding"), Some(name)) if name.contains("scaler-dlx") => {
                let subjects = object["subjects"].as_array_mut().expect("a binding's subjects");
                subjects.push(json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}));
            }
            _ => {}
        }
    }
    objects.extend(more);
}

fn adapt(object: &mut Value, setting: &Setting, names: &Names) {
    match (object["kind"].as_str(), object["metadata"]["name"].as_str()) {
        (Some("ConfigMap"), Some("scaler-namespaces")) => {
            let ours = format!("namespace: {}\n", names.namespace);
            let file = setting.file.replacen(&format!("namespace: {NAMESPACE}\n"), &ours, 1);
            object["data"] = json!({"shop.yaml": file});
        }
        (Some("Deployment"), Some("scaler-autoscaler")) => {
            object["spec"]["replicas"] = json!(setting.autoscalers);
            let flags = [&setting.flags[..], &setting.autoscaler_flags].concat();
            daemon(object, &names.autoscaler, &flags, false);
        }
        (Some("Deployment"), Some("scaler-dlx")) => {
            object["spec"]["replicas"] = json!(setting.dlxs);
            daemon(object, &names.dlx, &setting.flags, setting.everywhere);
        }
        _ => {}
    }
}

fn daemon(object: &mut Value, image: &str, flags: &[String], everywhere: bool) {
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(image);
    let arguments = container["args"].as_array_mut().expect("a daemon's arguments");
    let name = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
    for flag in flags {
        arguments.retain(|known| known.as_str().is_none_or(|known| name(known) != name(flag)));
        arguments.push(json!(flag));
    }
    // On devcluster all pods share one network: each listens on its own address instead of on all, if it is not alone.
    for argument in arguments {
        let text = argument.as_str().expect("an argument is a text");
        if let Some((flag, port)) = text.split_once("-address=:").filter(|_| !everywhere) {
            *argument = json!(format!("{flag}-address=$(POD_IP):{port}"));
        }
    }
    if let Some(seconds) = container.pointer_mut("/lifecycle/preStop/sleep/seconds") {
        // The clients here know within milliseconds that a pod is going.
        *seconds = json!(1);
    }
    let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    container["env"]
        .as_array_mut()
        .expect("a daemon's environment")
        .extend([json!({"name": "RUST_LOG", "value": log}), json!({"name": "RUST_BACKTRACE", "value": "1"})]);
}
