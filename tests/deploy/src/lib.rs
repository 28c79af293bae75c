//! What `deploy/` and `examples/kubernetes` hold, as objects: the chart rendered with given values, and files of objects.
//!
//! helm is the one that `cargo xtask manifests` and `cargo xtask test` install into `target/tools/bin`, else the machine's own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kube::{
    Api, Client, Error,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;

/// A release of the chart.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// Its name; what the objects are called begins with it.
    pub name: &'a str,
    /// The daemons' namespace.
    pub namespace: &'a str,
    /// The values, as YAML (or JSON, which is YAML); empty: all defaults.
    pub values: &'a str,
}

/// The kind that clusters have from Kubernetes 1.36.
const MUTATING_POLICIES: &str = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy";

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    root().join("deploy/helm/scaler")
}

/// `helm`, for whatever arguments.
pub fn helm() -> Command {
    Command::new(tool("helm"))
}

/// A program that `cargo xtask manifests` installs.
fn tool(name: &str) -> PathBuf {
    let target = std::env::current_exe().expect("the test program's path");
    let ours =
        target.ancestors().map(|folder| folder.join("tools/bin").join(name)).find(|file| file.is_file());
    ours.unwrap_or_else(|| name.into())
}

/// Objects of YAML text with one or several documents.
///
/// # Panics
///
/// A document is no object of Kubernetes.
pub fn objects(what: &str, yaml: &str) -> Vec<DynamicObject> {
    let documents = yaml.split("\n---").map(|document| document.trim_start_matches("---"));
    let says_something =
        |document: &&str| document.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
    documents
        .filter(says_something)
        .map(|document| {
            let value: Value = serde_yaml::from_str(document)
                .unwrap_or_else(|error| panic!("{what}: no YAML: {error}\n{document}"));
            serde_json::from_value(value)
                .unwrap_or_else(|error| panic!("{what}: no object: {error}\n{document}"))
        })
        .collect()
}

/// The objects of a file, named from the workspace's folder.
///
/// # Panics
///
/// It cannot be read, or holds something else.
pub fn file(path: &str) -> Vec<DynamicObject> {
    let text =
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"));
    objects(path, &text)
}

/// Creates objects, in their order.
///
/// # Errors
///
/// The API server's answer to the first that it does not take, with that object's kind and name.
///
/// # Panics
///
/// An object does not say its kind.
pub async fn create(client: &Client, objects: &[DynamicObject]) -> Result<(), (String, Error)> {
    for object in objects {
        let types = object.types.as_ref().expect("apiVersion and kind");
        let kind = GroupVersionKind::try_from(types).expect("apiVersion and kind");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let created = api.create(&PostParams::default(), object).await;
        created.map_err(|error| (format!("{} {name}", types.kind), error))?;
    }
    Ok(())
}

// === impl Release ===

impl Release<'_> {
    /// What the chart renders to.
    ///
    /// # Panics
    ///
    /// The chart does not take the values, or there is no helm; the message says what to do.
    pub fn render(&self) -> Vec<DynamicObject> {
        let rendered = self.try_render().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        objects("the rendered chart", &rendered)
    }

    /// What the chart renders to, as text.
    ///
    /// # Errors
    ///
    /// What helm says against the values.
    ///
    /// # Panics
    ///
    /// There is no helm.
    pub fn try_render(&self) -> Result<String, String> {
        self.try_render_on(&[MUTATING_POLICIES])
    }

    /// The same in a cluster whose API has these kinds beside those that helm itself knows.
    ///
    /// # Errors
    ///
    /// As [`try_render`](Self::try_render).
    ///
    /// # Panics
    ///
    /// There is no helm.
    pub fn try_render_on(&self, kinds: &[&str]) -> Result<String, String> {
        let mut helm = helm();
        helm.arg("template").arg(self.name).arg(chart()).args([
            "--namespace",
            self.namespace,
            "--values",
            "-",
        ]);
        for kind in kinds {
            helm.args(["--api-versions", kind]);
        }
        let mut child = helm
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting helm: `cargo xtask manifests` installs it");
        let mut stdin = child.stdin.take().expect("helm's standard input");
        stdin.write_all(self.values.as_bytes()).expect("writing the values");
        drop(stdin);
        let output = child.wait_with_output().expect("waiting for helm");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("helm writes UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}
