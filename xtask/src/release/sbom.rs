//! The bill of materials of the programs: every crate that is built into them, as CycloneDX.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::workspace::{cargo, root};

/// Its name in the archive.
pub const NAME: &str = "sbom.cdx.json";

/// The packages whose programs and libraries are shipped.
const SHIPPED: [&str; 4] = ["autoscaler", "dlx", "resource-scaler-deployment", "resource-scaler-process"];

/// Makes the bill of materials from cargo's resolution and Cargo.lock.
///
/// # Errors
///
/// cargo's.
pub fn make() -> Result<Value> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let output = metadata.output().context("starting cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("reading Cargo.lock")?;
    Ok(bill(&metadata, &checksums(&lock)))
}

fn bill(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let shipped = packages.iter().filter(|(_, package)| SHIPPED.iter().any(|name| package["name"] == *name));
    let mut left: Vec<_> = shipped.map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = left.pop() {
        if seen.insert(id) {
            left.extend(built_in(nodes[id]));
        }
    }
    let components: Vec<_> = seen.iter().map(|id| component(packages[id], checksums)).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "name": "scaler",
            "version": env!("CARGO_PKG_VERSION"),
        } },
        "components": components,
    })
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|item| Some((item["id"].as_str()?, item))).collect()
}

/// The dependencies of a package that its builds contain; not those of its tests and build scripts.
fn built_in(node: &Value) -> impl Iterator<Item = &str> {
    let all = node["deps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let normal = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    all.iter().filter(normal).filter_map(|dependency| dependency["pkg"].as_str())
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
    });
    if let Some(licence) = package["license"].as_str() {
        // Cargo's old form of `A OR B`.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(sum) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

/// Of Cargo.lock: the SHA-256 of each package that was downloaded, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    let entries = packages.filter_map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this workspace.
    #[test]
    fn every_crate_of_the_programs_is_listed_and_none_of_the_tests() {
        let bill = make().unwrap();
        let components = bill["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        for name in SHIPPED.into_iter().chain(["tokio", "kube", "abi_stable", "scaler-types"]) {
            assert!(find(name).is_some(), "{name} is missing");
        }
        for name in ["devcluster", "e2e", "cel", "xtask", "hello", "worker"] {
            assert!(find(name).is_none(), "{name} is not shipped");
        }
        let tokio = find("tokio").unwrap();
        assert_eq!(tokio["licenses"][0]["expression"], "MIT");
        assert_eq!(tokio["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert!(tokio["purl"].as_str().unwrap().starts_with("pkg:cargo/tokio@1."));
        for component in components {
            assert!(component["licenses"].is_array(), "{component}");
        }
    }
}
