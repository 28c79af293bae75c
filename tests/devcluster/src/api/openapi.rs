//! As much OpenAPI as kubectl asks for: which resources can be patched with `fieldValidation` and `dryRun`, so that it leaves validation to the server.
//! There are no schemas.

use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};

use crate::{
    http::{
        answer::{self, Answer},
        failure::{Failure, Result},
    },
    registry::{Kind, Kinds},
};

/// `/openapi/v2`, for a kubectl older than 1.27: a protobuf message without anything in it, so that it finds nothing to validate by.
pub(super) fn empty() -> Answer {
    let mut answer = answer::json_text(Bytes::new());
    let format = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    answer.headers_mut().insert(header::CONTENT_TYPE, format);
    answer
}

/// `/openapi/v3` and the documents that it links to.
pub(super) fn answer(parts: &[&str], kinds: &Kinds) -> Result<Value> {
    match parts {
        ["openapi", "v3"] => Ok(index(kinds)),
        ["openapi", "v3", "api", version] => document(kinds, "", version),
        ["openapi", "v3", "apis", group, version] => document(kinds, group, version),
        _ => Err(Failure::no_such_path()),
    }
}

fn root(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", kind.api_version())
}

fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for kind in &kinds.all {
        let root = root(kind);
        let url = json!({"serverRelativeURL": format!("/openapi/v3/{root}")});
        paths.insert(root, url);
    }
    json!({"paths": paths})
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Result<Value> {
    let mut paths = Map::new();
    for kind in kinds.all.iter().filter(|kind| kind.group == group && kind.version == version) {
        let namespace = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        paths.insert(
            format!("/{}/{namespace}{}/{{name}}", root(kind), kind.plural),
            json!({"patch": {
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind.kind},
                "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")],
                "responses": {},
            }}),
        );
    }
    if paths.is_empty() {
        return Err(Failure::no_such_path());
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": {}},
    }))
}
