//! The sets of values that the other tests render.

use deploy::{Release, chart, helm, root};
use kube::core::DynamicObject;
use serde_json::Value;

/// What examples/kubernetes shows.
pub const EXAMPLE: &str = include_str!("../../../../examples/kubernetes/values.yaml");

/// What the chart offers for production.
pub const PRODUCTION: &str = include_str!("../../../../deploy/helm/scaler/values-production.yaml");

/// Every set: a name, and the values.
pub const SETS: [(&str, &str); 6] = [
    ("defaults", ""),
    ("production", PRODUCTION),
    ("all namespaces", r#"namespaces: {"*": {scaleInterval: 30s}}"#),
    ("the example's", EXAMPLE),
    ("everything off", include_str!("../../values/off.yaml")),
    ("everything on", include_str!("../../values/on.yaml")),
];

/// The files of `deploy/manifests`, and how many objects each has at least.
pub const MANIFESTS: [(&str, usize); 4] = [
    ("deploy/manifests/scaler.yaml", 8),
    ("deploy/manifests/cluster.yaml", 8),
    ("deploy/manifests/selector-key.yaml", 2),
    ("deploy/manifests/restore.yaml", 3),
];

/// A set's objects, as release `scaler` in namespace `scaler`.
pub fn rendered(values: &str) -> Vec<DynamicObject> {
    Release { name: "scaler", namespace: "scaler", values }.render()
}

/// The objects of one kind.
pub fn of_kind<'a>(objects: &'a [DynamicObject], kind: &str) -> Vec<&'a DynamicObject> {
    objects.iter().filter(|object| object.types.as_ref().is_some_and(|types| types.kind == kind)).collect()
}

/// Whether helm creates it only while it uninstalls.
pub fn is_hook(object: &DynamicObject) -> bool {
    object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("helm.sh/hook"))
}

#[test]
fn helm_lint_says_nothing_against_the_chart() {
    let lint =
        helm().args(["lint", "--strict", "--quiet"]).arg(chart()).output().expect("starting helm lint");
    let said = String::from_utf8_lossy(&lint.stdout).into_owned() + &String::from_utf8_lossy(&lint.stderr);
    assert!(lint.status.success(), "{said}");
}

#[test]
fn unknown_and_invalid_values_are_refused() {
    for (values, expected) in [
        ("replicas: 3", "additional properties 'replicas' not allowed"),
        ("dlx: {replicas: 0}", "/dlx/replicas"),
        ("dlx: {listenAdress: x}", "additional properties 'listenAdress' not allowed"),
        ("namespaces: {shop: {namespace: shop}}", "additional properties 'namespace' not allowed"),
        ("namespaces: {Shop: {}}", "'Shop' does not match"),
        (r#"namespaces: {"*": {}, shop: {}}"#, "stands alone"),
        ("autoscaler: {scaleInterval: often}", "/autoscaler/scaleInterval"),
        ("dlx: {maxHeldBytes: 1GB}", "/dlx/maxHeldBytes"),
        ("servicePorts: {first: 80, last: 20000}", "/servicePorts/first"),
        ("servicePorts: 20000-21999", "/servicePorts"),
        ("servicePorts: {first: 21999, last: 20000}", "the first, 21999, is above the last, 20000"),
        ("servicePorts: {first: 8000, last: 9000}", "8090 and 8091 are the DLX's own"),
        ("endpointPropagationDelaySeconds: 30s", "/endpointPropagationDelaySeconds"),
        ("autoscaler: {dlxUnavailableSeconds: 0}", "/autoscaler/dlxUnavailableSeconds"),
        ("uninstall: {timeoutSeconds: 0}", "/uninstall/timeoutSeconds"),
    ] {
        let refused = Release { name: "scaler", namespace: "scaler", values }.try_render();
        let said = refused.expect_err(values);
        assert!(said.contains(expected), "{values}: {said}");
    }
}

#[test]
fn every_object_has_the_common_labels_and_annotations() {
    for object in rendered(include_str!("../../values/on.yaml")) {
        let what = (&object.types, &object.metadata.name);
        let labels = object.metadata.labels.as_ref().expect("labels");
        assert_eq!(labels.get("team").map(String::as_str), Some("platform"), "{what:?}");
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations.get("example.com/owner").map(String::as_str), Some("platform"), "{what:?}");
    }
}

#[test]
fn no_name_is_taken_twice() {
    for (name, values) in SETS {
        let mut seen = std::collections::BTreeSet::new();
        for object in rendered(values) {
            let types = object.types.as_ref().expect("apiVersion and kind");
            let key = (
                types.kind.clone(),
                object.metadata.namespace.clone(),
                object.metadata.name.clone().expect("a name"),
            );
            assert!(seen.insert(key.clone()), "{name}: {key:?} twice");
        }
    }
}

/// values.yaml is where a person looks: it has every key that the schema takes, with its default.
#[test]
fn every_value_has_a_default_that_is_shown() {
    fn compare(schema: &Value, values: &Value, path: &str) {
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            // Helm's own.
            if path.is_empty() && key == "global" {
                continue;
            }
            let path = format!("{path}.{key}");
            let value = values.get(key).unwrap_or_else(|| panic!("values.yaml has no {path}"));
            compare(inner, value, &path);
        }
    }
    let read = |name: &str| std::fs::read_to_string(chart().join(name)).expect("a file of the chart");
    let schema = serde_json::from_str(&read("values.schema.json")).expect("a schema");
    let values = serde_yaml::from_str(&read("values.yaml")).expect("values");
    compare(&schema, &values, "");
}

/// Whatever a namespace file can say, the chart's values can.
#[test]
fn the_chart_takes_every_key_of_a_namespace_file() {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("a file");
    let schema: Value = serde_json::from_str(&read(chart().join("values.schema.json"))).expect("a schema");
    let taken = &schema["properties"]["namespaces"]["additionalProperties"]["properties"];
    let all = read(root().join("examples/config/every-key.yaml"));
    let keys = all.lines().filter_map(|line| Some(line.trim_start_matches("# ").split_once(':')?.0));
    let keys: Vec<_> = keys.filter(|key| key.chars().all(|letter| letter.is_ascii_alphabetic())).collect();
    assert!(keys.contains(&"namespace") && keys.contains(&"compatibility"), "{keys:?}");
    for key in keys.into_iter().filter(|key| *key != "namespace") {
        assert!(taken[key].is_object(), "values.schema.json does not take namespaces.NAME.{key}");
    }
}
