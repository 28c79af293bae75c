use std::{sync::Arc, time::Instant};

use kube::core::{ApiResource, GroupVersionKind};
use scaler_types::{Role, ServicePorts};
use serde_json::{Value, json};

use super::*;
use crate::{
    caches::{Change, Store, Teller},
    config::{Config, tests::context},
    facts::{DLXS, FORMAT, Kind, MANAGED_BY, SERVICE},
    routes::wishes,
};

/// What a cluster has, and how it is looked at.
struct Scene {
    store: Store,
    kind: Arc<Kind>,
    revision: std::cell::Cell<u64>,
}

impl Scene {
    fn with(ports: Option<ServicePorts>) -> Self {
        let mut context = context("namespace: shop\n");
        (context.role, context.service_ports) = (Role::Autoscaler, ports);
        let api = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let kind = Arc::new(Kind { index: 0, api, replicas_path: "/spec/replicas".to_owned() });
        let config = Arc::new(Config::read(&context).unwrap());
        let store = Store::new(config, vec![Arc::clone(&kind)], Arc::new(Instant::now));
        Self { store, kind, revision: std::cell::Cell::new(1) }
    }

    /// A workload `web` with one container port, `http`.
    fn new() -> Self {
        let scene = Self::with(Some(ServicePorts { first: 20000, last: 20001 }));
        scene.workload("web", "web", json!({}));
        scene
    }

    fn metadata(&self, name: &str, more: Value) -> Value {
        self.revision.set(self.revision.get() + 1);
        let mut metadata = json!({
            "name": name, "namespace": "shop", "uid": name, "resourceVersion": self.revision.get().to_string(),
        });
        for (key, value) in more.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        metadata
    }

    fn workload(&self, name: &str, app: &str, acknowledged: Value) {
        let mut annotations = json!({"scaler.dev/scale-to-zero": "10m", "scaler.dev/route": "service"});
        if acknowledged.is_string() {
            annotations[ACKNOWLEDGE] = acknowledged;
        }
        let container = json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
        let object = json!({
            "metadata": self.metadata(name, json!({"annotations": annotations})),
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": app}},
                "template": {"metadata": {"labels": {"app": app, "tier": "front"}}, "spec": {"containers": [container]}},
            },
        });
        let workload = Workload::new(&self.kind, serde_json::from_value(object).unwrap());
        self.tell(Change::Workload(Box::new(workload)));
    }

    /// A Service of that name, with more said of it.
    fn service(&self, name: &str, more: Value) {
        let mut spec = json!({
            "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.1",
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({"metadata": self.metadata(name, json!({})), "spec": spec});
        let service = serde_json::from_value::<k8s_openapi::api::core::v1::Service>(object).unwrap();
        self.tell(Change::Service(service.into()));
    }

    fn tell(&self, change: Change) {
        self.store.with(|state| state.apply(change, Teller::Watch));
    }

    fn refusal(&self) -> Option<String> {
        self.store.with(|state| {
            let workload = state.workload(&scaler_types::ResourceId::new("shop", "web")).unwrap();
            refusal(state, workload, &wishes(state, workload)).map(Refusal::text)
        })
    }
}

/// Refused, in words that name each of these.
#[track_caller]
fn refused(scene: &Scene, words: &[&str]) {
    let text = scene.refusal().expect("it cannot be led");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn an_ordinary_service_is_led_and_a_headless_one_beside_it_is_fine() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    assert_eq!(scene.refusal(), None);
    scene.service("peers", json!({"clusterIP": "None"}));
    assert_eq!(scene.refusal(), None);
    scene.service("number", json!({"ports": [{"port": 80, "targetPort": 9999}]}));
    assert_eq!(scene.refusal(), None, "one workload behind several");
}

#[test]
fn shapes_that_cannot_be_led_are_named_with_what_to_do() {
    let udp = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let many: Vec<_> =
        (0..101).map(|port| json!({"name": format!("p{port}"), "port": port + 1, "targetPort": 1})).collect();
    for (more, words) in [
        (json!({"ports": udp}), ["53/UDP", "only TCP"]),
        (json!({"ports": [{"port": 80, "protocol": "SCTP"}]}), ["80/SCTP", "only TCP"]),
        (json!({"ports": many}), ["101 ports", "1 to 100"]),
        (json!({"internalTrafficPolicy": "Local"}), ["internalTrafficPolicy", "set it to Cluster"]),
        (json!({"externalTrafficPolicy": "Local"}), ["externalTrafficPolicy", "set it to Cluster"]),
        (json!({"sessionAffinity": "ClientIP"}), ["ClientIP", "scaler.dev/acknowledge: session-affinity"]),
        (json!({"ports": [{"port": 80, "targetPort": "web"}]}), ["targetPort \"web\"", "use the number"]),
    ] {
        let scene = Scene::new();
        scene.service("front", more);
        refused(&scene, &["the Service front", words[0], words[1]]);
    }
}

#[test]
fn what_leads_to_no_pods_is_told_apart() {
    let scene = Scene::new();
    refused(&scene, &["no Service leads to its pods", "make one"]);
    scene.service("web", json!({"type": "ExternalName"}));
    refused(&scene, &["the Service web is an ExternalName"]);
    scene.service("web", json!({"selector": {}}));
    refused(&scene, &["the Service web has no selector"]);
    scene.service("peers", json!({"clusterIP": "None"}));
    refused(&scene, &["the Service peers is headless"]);
    scene.service("front", json!({}));
    assert_eq!(scene.refusal(), None);
}

#[test]
fn without_ports_nothing_is_led() {
    let scene = Scene::with(None);
    scene.workload("web", "web", json!({}));
    scene.service("web", json!({}));
    refused(&scene, &["--service-ports", "every autoscaler and dlx"]);
}

#[test]
fn a_service_over_several_workloads_is_refused_as_long_as_it_is() {
    let scene = Scene::new();
    scene.service("front", json!({"selector": {"tier": "front"}}));
    assert_eq!(scene.refusal(), None);
    scene.workload("api", "api", json!({}));
    refused(&scene, &["the Service front", "(api, web)", "a Service of its own"]);
    let fenced = json!({"selector": {"app": "web", "scaler.dev/fenced": "1"}});
    scene.service("front", fenced);
    assert_eq!(scene.refusal(), None);
}

#[test]
fn what_its_owners_accept_is_no_refusal() {
    let scene = Scene::new();
    scene.service("web", json!({"sessionAffinity": "ClientIP"}));
    let policy = json!({"metadata": scene.metadata("deny", json!({})), "spec": {"podSelector": {"matchLabels": {"app": "web"}}}});
    let policy = serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy).unwrap();
    scene.tell(Change::Policy(policy.into()));
    scene.workload("web", "web", json!("session-affinity"));
    refused(&scene, &["the NetworkPolicy deny", "scaler.dev/acknowledge: network-policies"]);
    scene.workload("web", "web", json!("network-policies"));
    refused(&scene, &["sessionAffinity"]);
    scene.workload("web", "web", json!("network-policies, session-affinity"));
    assert_eq!(scene.refusal(), None);
}

#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    let slice = |format: &str| {
        let labels = json!({SERVICE: "web", MANAGED_BY.0: MANAGED_BY.1});
        let more = json!({"labels": labels, "annotations": {FORMAT: format, DLXS: "a"}});
        let object = json!({"metadata": scene.metadata("web-scaler-ipv4", more), "addressType": "IPv4", "endpoints": []});
        let slice = serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(object).unwrap();
        scene.tell(Change::Slice(Box::new(slice.into())));
    };
    slice("2");
    refused(&scene, &["the Service web", "newer version"]);
    slice("1");
    assert_eq!(scene.refusal(), None);
}

#[test]
fn who_takes_the_key_away_three_times_has_his_way() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    for _ in 0..OFTEN {
        assert_eq!(scene.refusal(), None);
        scene.store.with(|state| state.routing.taken.wants("web", true));
        scene.service("web", json!({"selector": {"app": "web", "scaler.dev/fenced": "1"}}));
        scene.service("web", json!({}));
    }
    refused(&scene, &["the Service web", "took it away", "scaler.dev/fenced"]);
}

#[test]
fn one_port_too_many_is_refused() {
    let scene = Scene::new();
    let ports = |count: u16| {
        let all: Vec<_> = (0..count)
            .map(|port| json!({"name": format!("p{port}"), "port": port + 1, "targetPort": 1}))
            .collect();
        scene.service("web", json!({"ports": all}));
    };
    ports(2);
    assert_eq!(scene.refusal(), None);
    ports(3);
    refused(&scene, &["20000-20001", "--service-ports"]);
}
