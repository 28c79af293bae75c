//! Services that are intercepted: by which process, and what is on the objects.

use std::{collections::BTreeMap, sync::Arc};

use deployment::DeploymentScaler;
use devcluster::{Fault, Filter, Refusal, User};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use scaler_types::{
    Backend, Dlx, InterceptionRequest, Phase, ResourceScaler as _, Role, ServicePorts, TrafficMode,
};
use serde_json::{Value, json};

use super::{HOME, NAMESPACE, SOON, Scene, api_resource, id, one, record, soon};

/// The leader's service account.
pub const AUTOSCALER: &str = "autoscaler";
pub const PORTS: ServicePorts = ServicePorts { first: 20000, last: 20099 };

impl Scene {
    /// A daemon that intercepts Services, or serves those that are intercepted.
    pub async fn leading(&self, role: Role, ports: ServicePorts) -> Arc<DeploymentScaler> {
        let mut context = self.context(role, &User::Admin, "{}");
        context.service_ports = Some(ports);
        context.daemon_namespace = Some(HOME.to_owned());
        Arc::new(soon(DeploymentScaler::new(context)).await.unwrap())
    }

    pub async fn leader(&self) -> Arc<DeploymentScaler> {
        self.leading(Role::Autoscaler, PORTS).await
    }

    /// The same with the rights that the README names for its role, and no others.
    pub async fn leading_as(&self, role: Role) -> Arc<DeploymentScaler> {
        let account = match role {
            Role::Autoscaler => AUTOSCALER,
            Role::Dlx => "dlx",
        };
        let rule = |groups: &str, resources: Value, verbs: Value| json!({"apiGroups": [groups], "resources": resources, "verbs": verbs});
        let watch = json!(["list", "watch"]);
        let mut rules = vec![
            rule("apps", json!(["deployments", "statefulsets"]), json!(["get", "list", "watch", "patch"])),
            rule("events.k8s.io", json!(["events"]), json!(["create", "patch"])),
            rule("networking.k8s.io", json!(["ingresses"]), watch.clone()),
        ];
        let registry = |verbs: Value| json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["scaler-service-ports"], "verbs": verbs});
        let shared = match role {
            Role::Autoscaler => {
                let slices = json!(["get", "list", "watch", "create", "update", "delete"]);
                rules.extend([
                    rule("", json!(["services"]), json!(["get", "list", "watch", "patch"])),
                    rule("discovery.k8s.io", json!(["endpointslices"]), slices),
                    rule("networking.k8s.io", json!(["networkpolicies"]), watch.clone()),
                    rule("autoscaling", json!(["horizontalpodautoscalers"]), watch),
                ]);
                json!([
                    registry(json!(["get", "list", "watch", "patch"])),
                    rule("", json!(["configmaps"]), json!(["create"]))
                ])
            }
            Role::Dlx => {
                rules.extend([
                    rule("", json!(["services"]), watch.clone()),
                    rule("", json!(["pods"]), json!(["get", "list", "watch"])),
                    rule("discovery.k8s.io", json!(["endpointslices"]), watch.clone()),
                ]);
                json!([registry(watch)])
            }
        };
        if self.api("Role").get_opt(account).await.unwrap().is_none() {
            self.grant(account, rules.into()).await;
            self.grant_in(HOME, account, shared).await;
        }
        let mut context = self.context(role, &User::service_account(NAMESPACE, account), "{}");
        (context.service_ports, context.daemon_namespace) = (Some(PORTS), Some(HOME.to_owned()));
        Arc::new(soon(DeploymentScaler::new(context)).await.unwrap())
    }

    /// What the leader of [`leading_as`](Self::leading_as) writes is refused after so many writes: it has crashed there.
    pub fn crash_after(&self, writes: u32) -> Fault {
        let filter = Filter::any()
            .user(User::service_account(NAMESPACE, AUTOSCALER))
            .verb("create,update,patch,delete");
        self.cluster.faults().refuse_after(filter, writes, Refusal::Unavailable)
    }

    /// The slice of a Service's own endpoints, as the cluster's controller writes it.
    pub async fn own_endpoints(&self, service: &str, addresses: &[&str]) {
        let name = format!("{service}-own");
        let endpoints: Vec<_> =
            addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        if self.api("EndpointSlice").get_opt(&name).await.unwrap().is_some() {
            return self.merge("EndpointSlice", &name, json!({"endpoints": endpoints})).await;
        }
        let labels = json!({
            "kubernetes.io/service-name": service,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        });
        let slice = json!({
            "metadata": {"name": name, "labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        self.create("EndpointSlice", slice).await;
    }

    /// Whether our key is in a Service's selector.
    pub async fn is_fenced(&self, service: &str) -> bool {
        self.get("Service", service).await.data["spec"]["selector"].get("scaler.dev/intercepted").is_some()
    }

    /// Our slices, by name.
    pub async fn our_slices(&self) -> Vec<DynamicObject> {
        let ours = ListParams::default().labels("endpointslice.kubernetes.io/managed-by=scaler.dev");
        self.api("EndpointSlice").list(&ours).await.unwrap().items
    }

    pub fn home(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), HOME, &api_resource("ConfigMap"))
    }

    /// The registry: what each port is assigned to, and whether it was freed.
    pub async fn registry(&self) -> BTreeMap<String, Value> {
        let entry = |text: Value| serde_json::from_str(text.as_str().unwrap()).unwrap();
        let ports = self.registry_data().await.into_iter().filter(|(key, _)| key != "intercepted");
        ports.map(|(port, text)| (port, entry(text))).collect()
    }

    /// How many Services it says are intercepted.
    pub async fn intercepted(&self) -> Option<String> {
        let data = self.registry_data().await;
        data.get("intercepted").map(|text| text.as_str().expect("a text").to_owned())
    }

    async fn registry_data(&self) -> serde_json::Map<String, Value> {
        let map = self.home().get_opt("scaler-service-ports").await.unwrap();
        map.and_then(|map| map.data["data"].as_object().cloned()).unwrap_or_default()
    }
}

/// DLXs, each with an address of IPv4.
pub fn dlxs(names: &[&str]) -> Vec<Dlx> {
    let one = |(number, name): (usize, &&str)| Dlx {
        name: (*name).to_owned(),
        addresses: vec![format!("10.244.9.{}", number + 1).parse().unwrap()],
        node: Some("node".to_owned()),
        zone: Some("zone".to_owned()),
    };
    names.iter().enumerate().map(one).collect()
}

pub fn to(name: &str, to: Backend, dlxs: Vec<Dlx>) -> InterceptionRequest {
    InterceptionRequest { id: id(name), backend: to, dlxs, deadline: SOON }
}

/// Has it intercepted by the DLX `a`; in traffic mode `when-asleep` during a drain.
pub async fn intercept(plugin: &DeploymentScaler, name: &str) {
    let seen = one(plugin, name).await;
    if seen.traffic_mode == TrafficMode::WhenAsleep && seen.record.phase == Phase::Active && seen.replicas > 0
    {
        let drain = record(Phase::Draining, 1);
        plugin.compare_and_set(&seen.id, &seen.version, &drain).await.unwrap();
    }
    soon(plugin.set_backend(&to(name, Backend::Dlx, dlxs(&["a"])))).await.unwrap();
}
