//! Members and the leader by Lease, against an API that checks rights, versions and preconditions, and fails as it is told to.

mod leader;
mod members;
mod serving;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use clap::Parser;
use daemon::{
    cluster, cluster::OwnNamespace, coordination::Coordinator, flags::CommonFlags, members::leases::Leases,
};
use devcluster::{Cluster, Options, User};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Pod},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    serde_json::{Value, from_value, json},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

/// The daemons' own namespace.
const HOME: &str = "scaler";

/// What the daemons' accounts may do: as docs/reference/rights.md lists it, and no more.
static RULES: LazyLock<[(&str, Value); 2]> = LazyLock::new(|| {
    [
        (
            "dlx",
            json!([
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update", "delete"]},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            ]),
        ),
        (
            "autoscaler",
            json!([
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "list", "watch", "delete"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["scaler-autoscaler"],
                    "verbs": ["get", "watch", "update"]},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            ]),
        ),
    ]
});

/// An API with the namespace and the accounts of the daemons.
struct Site {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

impl Site {
    async fn start() -> Self {
        let site = Self {
            cluster: Cluster::start(Options::default()).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        let namespace: Namespace = from_value(json!({"metadata": {"name": HOME}})).unwrap();
        Api::all(site.cluster.client().unwrap()).create(&PostParams::default(), &namespace).await.unwrap();
        for (account, rules) in RULES.iter() {
            site.allow(account, rules).await;
        }
        site.allow_nodes("autoscaler").await;
        site
    }

    /// Gives an account what the autoscaler needs cluster-wide.
    async fn allow_nodes(&self, account: &str) {
        let client = self.cluster.client().unwrap();
        let role: ClusterRole = from_value(json!({
            "metadata": {"name": account}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
        }))
        .unwrap();
        let binding: ClusterRoleBinding = from_value(json!({
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": HOME}],
        }))
        .unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &role).await.unwrap();
        Api::all(client).create(&PostParams::default(), &binding).await.unwrap();
    }

    /// Gives an account these rights and no others.
    async fn allow(&self, account: &str, rules: &Value) {
        let role: Role = from_value(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": account}, "rules": rules,
        }))
        .unwrap();
        let binding: RoleBinding = from_value(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": HOME}],
        }))
        .unwrap();
        let (apply, put) = (PatchParams::default(), PostParams::default());
        let roles: Api<Role> = self.api();
        if roles.get_opt(account).await.unwrap().is_some() {
            roles.patch(account, &apply, &Patch::Merge(&role)).await.unwrap();
        } else {
            roles.create(&put, &role).await.unwrap();
            self.api::<RoleBinding>().create(&put, &binding).await.unwrap();
        }
    }

    /// As who may do everything.
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client().unwrap(), HOME)
    }

    /// A pod that runs, as a node would have written it.
    async fn pod(&self, name: &str, ip: &str) -> Pod {
        let pod =
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "dlx", "image": "dlx"}]}});
        let pods: Api<Pod> = self.api();
        pods.create(&PostParams::default(), &from_value(pod).unwrap()).await.unwrap();
        self.status(name, json!({"phase": "Running", "podIP": ip})).await
    }

    async fn status(&self, pod: &str, status: Value) -> Pod {
        let status = Patch::Merge(json!({ "status": status }));
        self.api::<Pod>().patch_status(pod, &PatchParams::default(), &status).await.unwrap()
    }

    /// A daemon's process in that pod; in none, outside the cluster.
    async fn process(&self, account: &str, pod: Option<&str>) -> Arc<Leases> {
        let user = User::service_account(HOME, account);
        let kubeconfig = self.cluster.kubeconfig(self.folder.path(), &user).unwrap();
        let flags = ["daemon", "--kubeconfig-path", kubeconfig.to_str().unwrap()];
        let client = cluster::client(Flags::parse_from(flags).common.kubeconfig(), scaler_types::Role::Dlx)
            .await
            .unwrap();
        let mut environment = HashMap::from([("POD_NAMESPACE", HOME.to_owned())]);
        if let Some(pod) = pod {
            environment.insert("POD_NAME", pod.to_owned());
        }
        let own = OwnNamespace::new(client, |name| environment.get(name).cloned()).unwrap();
        Arc::new(Leases::new(own))
    }

    async fn autoscaler(&self) -> Coordinator {
        Coordinator::Leases(self.process("autoscaler", Some("autoscaler-0")).await)
    }

    async fn lease(&self, name: &str) -> Option<Lease> {
        self.api::<Lease>().get_opt(name).await.unwrap()
    }
}

async fn until(mut fulfilled: impl FnMut() -> bool) {
    while !fulfilled() {
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing tells when a reason was told, or a fault met somebody"
        )]
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A test that waits longer than that has failed.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it never came to that")
}
