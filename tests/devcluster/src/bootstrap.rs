//! What is there from the start.

use serde_json::{Value, json};

use crate::{
    identity,
    server::Server,
    store::{TableId, Tables},
};

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes them, and the role and binding of those who may do everything.
pub fn namespaces(server: &Server) {
    let mut tables = server.store.lock();
    for name in NAMESPACES {
        let mut namespace = json!({
            "metadata": metadata("", name),
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        namespace["metadata"]["labels"] = json!({"kubernetes.io/metadata.name": name});
        tables.put(&TableId::new("", "namespaces"), namespace);
        service_account(&mut tables, name);
    }
    let group = "rbac.authorization.k8s.io";
    let all = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let role = json!({"metadata": metadata("", "cluster-admin"), "rules": all});
    tables.put(&TableId::new(group, "clusterroles"), role);
    let binding = json!({
        "metadata": metadata("", "cluster-admin"),
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:masters"}],
    });
    tables.put(&TableId::new(group, "clusterrolebindings"), binding);
}

/// The account that a namespace's pods have unless they say another. A controller makes it on the real server; here it is there at once.
pub fn service_account(tables: &mut Tables, namespace: &str) {
    tables.put(&TableId::new("", "serviceaccounts"), json!({"metadata": metadata(namespace, "default")}));
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({"name": name, "uid": identity::uid(), "creationTimestamp": identity::now()});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}
