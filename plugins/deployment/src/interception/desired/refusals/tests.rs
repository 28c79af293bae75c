use serde_json::json;

use super::*;
use crate::{
    events::reasons::{INTERCEPTED_BY_DEFAULT, INTERCEPTION_REFUSED},
    interception::scene::Scene,
};

/// Refused, in words that name each of these.
#[track_caller]
fn refused(scene: &Scene, words: &[&str]) {
    let text = scene.refusal().expect("it cannot be led");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn an_ordinary_service_is_intercepted_and_a_headless_one_beside_it_is_accepted() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    assert_eq!(scene.refusal(), None);
    scene.service("peers", json!({"clusterIP": "None"}));
    assert_eq!(scene.refusal(), None);
    scene.service("number", json!({"ports": [{"port": 80, "targetPort": 9999}]}));
    assert_eq!(scene.refusal(), None, "one workload behind several");
}

#[test]
fn services_that_cannot_be_intercepted_are_named_with_what_to_do() {
    let udp = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let many: Vec<_> =
        (0..101).map(|port| json!({"name": format!("p{port}"), "port": port + 1, "targetPort": 1})).collect();
    for (more, words) in [
        (json!({"ports": udp}), ["53/UDP", "only TCP"]),
        (json!({"ports": [{"port": 80, "protocol": "SCTP"}]}), ["80/SCTP", "only TCP"]),
        (json!({"ports": many}), ["101 ports", "1 to 100"]),
        (json!({"internalTrafficPolicy": "Local"}), ["internalTrafficPolicy", "set it to Cluster"]),
        (json!({"externalTrafficPolicy": "Local"}), ["externalTrafficPolicy", "set it to Cluster"]),
        (json!({"sessionAffinity": "ClientIP"}), ["ClientIP", "scaler.dev/ignore-checks: session-affinity"]),
        (json!({"ports": [{"port": 80, "targetPort": "web"}]}), ["targetPort \"web\"", "use the number"]),
    ] {
        let scene = Scene::new();
        scene.service("front", more);
        refused(&scene, &["the Service front", words[0], words[1]]);
    }
}

fn dlx(name: &str, addresses: &[&str]) -> Dlx {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Dlx { name: name.to_owned(), addresses, node: None, zone: None }
}

#[test]
fn a_family_that_no_dlx_has_is_named_as_soon_as_it_is_known_who_they_are() {
    let scene = Scene::new();
    scene.service("front", json!({"ipFamilies": ["IPv4", "IPv6"]}));
    assert_eq!(scene.refusal(), None, "nobody knows");
    let refused_by = |scene: &Scene| scene.listed("web").unwrap().interception.unwrap().refusal;
    assert_eq!(refused_by(&scene), "");
    scene.store.with(|state| state.set_dlxs(&[dlx("a", &["10.0.0.1"]), dlx("b", &["10.0.0.2"])]));
    refused(&scene, &["the Service front", "IPv6", "--listen-address", "ipFamilies"]);
    // The daemons are warnings, though nothing of it has changed.
    assert_eq!(Some(refused_by(&scene)), scene.refusal());
    // One is enough.
    scene.store.with(|state| state.set_dlxs(&[dlx("a", &["10.0.0.1"]), dlx("b", &["10.0.0.2", "fd00::2"])]));
    assert_eq!((scene.refusal(), refused_by(&scene)), (None, String::new()));
    scene.store.with(|state| state.set_dlxs(&[dlx("b", &["fd00::2"])]));
    refused(&scene, &["has an address of IPv4"]);
    scene.service("front", json!({"ipFamilies": ["IPv6"]}));
    assert_eq!(scene.refusal(), None);
    scene.service("front", json!({"ipFamilies": []}));
    refused(&scene, &["the Service front", "no known ipFamilies"]);
}

#[test]
fn services_without_pods_are_refused_each_with_its_reason() {
    let scene = Scene::new();
    refused(&scene, &["no Service selects its pods", "create one"]);
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
fn without_ports_nothing_is_intercepted() {
    let scene = Scene::with(scaler_types::Role::Autoscaler, None);
    scene.workload("web", "web", json!({}));
    scene.service("web", json!({}));
    refused(&scene, &["--service-ports", "every autoscaler and dlx"]);
}

#[test]
fn a_service_of_several_workloads_is_refused() {
    let scene = Scene::new();
    scene.service("front", json!({"selector": {"tier": "front"}}));
    assert_eq!(scene.refusal(), None);
    scene.workload("api", "api", json!({}));
    refused(&scene, &["the Service front", "(api, web)", "a Service of its own"]);
    scene.intercepted_service("front");
    assert_eq!(scene.refusal(), None);
}

#[test]
fn what_its_owners_accept_is_no_refusal() {
    let scene = Scene::new();
    scene.service("web", json!({"sessionAffinity": "ClientIP"}));
    scene.policy("deny", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    scene.workload("web", "web", json!({IGNORE_CHECKS: "session-affinity"}));
    refused(&scene, &["the NetworkPolicy deny", "interceptDespiteNetworkPolicies: true"]);
    let file = "namespace: shop\nplugins: {deployment: {interceptDespiteNetworkPolicies: true}}\n";
    let scene = Scene::by_file(
        file,
        scaler_types::Role::Autoscaler,
        Some(scaler_types::ServicePorts { first: 20000, last: 20001 }),
    );
    scene.workload("web", "web", json!({}));
    scene.service("web", json!({"sessionAffinity": "ClientIP"}));
    scene.policy("deny", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    refused(&scene, &["sessionAffinity"]);
    scene.workload("web", "web", json!({IGNORE_CHECKS: "session-affinity"}));
    assert_eq!(scene.refusal(), None);
}

#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    scene.our_slice("web", "2", "a", &[20000]);
    refused(&scene, &["the Service web", "newer version"]);
    scene.our_slice("web", "1", "a", &[20000]);
    assert_eq!(scene.refusal(), None);
}

#[test]
fn a_key_removed_three_times_is_not_written_again() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    for _ in 0..MAX_LOSSES {
        assert_eq!(scene.refusal(), None);
        scene.store.with(|state| state.interception.selector_conflicts.set_expected("web", true));
        scene.intercepted_service("web");
        scene.service("web", json!({}));
    }
    refused(&scene, &["the Service web", "to another writer", "scaler.dev/intercepted"]);
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

/// `web`, whose owners say this of its route.
fn says(route: &str) -> Scene {
    let scene = Scene::new();
    scene.workload(
        "web",
        "web",
        json!({"scaler.dev/intercept": route, "scaler.dev/hosts": "shop.example.com"}),
    );
    scene.service("web", json!({}));
    scene
}

/// What keeps it awake, as the daemons are warnings.
#[track_caller]
fn kept(scene: &Scene) -> String {
    let web = scene.listed("web").unwrap();
    let refused = web.interception.map(|route| route.refusal).unwrap_or_default();
    assert_eq!(web.keep_awake, refused);
    refused
}

#[test]
fn none_is_refused_where_no_request_could_wake_it() {
    let scene = says("manual");
    let unreached = [
        "no request could wake it",
        "Ingress",
        "scaler-dlx",
        "plugins.deployment.hosts",
        "scaler.dev/intercept: always",
    ];
    refused(&scene, &unreached);
    assert_eq!(scene.refusal().unwrap(), kept(&scene));
    let look = scene.status().interception.unwrap();
    assert!(
        look.requested && look.backend == scaler_types::Backend::Workload,
        "who sleeps is woken: {look:?}"
    );
    assert!(scene.store.warnings().iter().any(|(_, one)| one.reason == INTERCEPTION_REFUSED));
    // Its own Service selects its pods.
    scene.ingress("web", "shop.example.com", "web");
    refused(&scene, &unreached);
    // Another name for the DLXs' Service, as the chart makes one; before it is there, nobody is behind it.
    scene.ingress("web", "shop.example.com", "scaler-dlx");
    assert!(!kept(&scene).is_empty());
    let to = |name: &str| json!({"type": "ExternalName", "externalName": name, "clusterIP": null});
    scene.service("scaler-dlx", to("scaler-dlx.scaler.svc.cluster.local"));
    assert_eq!(kept(&scene), "");
    for other in
        ["scaler-dlx.elsewhere.svc.cluster.local", "scaler-dlx-admin.scaler.svc", "scaler-dlx.scaler.svcs"]
    {
        scene.service("scaler-dlx", to(other));
        assert!(!kept(&scene).is_empty(), "{other}");
    }
    scene.service("scaler-dlx", to("Scaler-DLX.scaler.svc"));
    assert_eq!(kept(&scene), "");
    scene.no_service("scaler-dlx");
    assert!(!kept(&scene).is_empty());
}

#[test]
fn an_ingress_wakes_those_whose_hosts_it_leads_to_a_dlx() {
    let scene = says("manual");
    scene.service("scaler-dlx", json!({"type": "ExternalName", "externalName": "scaler-dlx.scaler.svc"}));
    for (host, reaches) in [
        ("shop.example.com", true),
        ("other.example.com", false),
        // The workload's annotation counts by it.
        ("*.example.com", true),
        ("web.shop.svc", true),
        ("web", true),
        ("*.shop.svc", true),
        ("api.shop.svc", false),
    ] {
        scene.ingress("a", host, "scaler-dlx");
        assert_eq!(kept(&scene).is_empty(), reaches, "{host}");
    }
    // The host annotation counts where an Ingress has the host; another may lead it.
    scene.ingress("b", "shop.example.com", "web");
    scene.ingress("a", "*.example.com", "scaler-dlx");
    assert_eq!(kept(&scene), "");
    scene.no_ingress("a");
    assert!(!kept(&scene).is_empty());
}

#[test]
fn a_service_that_selects_the_dlxs_leads_to_them() {
    let scene = says("manual");
    scene.ingress("web", "shop.example.com", "front-door");
    scene.service("front-door", json!({"selector": {"app": "dlx"}}));
    assert!(!kept(&scene).is_empty());
    scene.dlx("dlx");
    assert_eq!(kept(&scene), "");
}

#[test]
fn the_operators_hosts_are_enough() {
    let section =
        "namespace: shop\nplugins: {deployment: {intercept: manual, hosts: {web: [web.example.com]}}}\n";
    let scene = Scene::by_file(section, scaler_types::Role::Autoscaler, None);
    for name in ["web", "api"] {
        scene.workload(name, name, json!({"scaler.dev/intercept": null}));
    }
    assert_eq!(scene.listed("web").unwrap().keep_awake, "");
    assert!(scene.listed("api").unwrap().keep_awake.contains("no request could wake it"));
}

#[test]
fn a_workload_that_opts_in_is_intercepted_and_a_route_to_a_dlx_is_reported() {
    let scene = Scene::new();
    scene.workload("web", "web", json!({"scaler.dev/intercept": null}));
    scene.service("web", json!({}));
    let web = scene.listed("web").unwrap();
    assert_eq!((web.traffic_mode, web.keep_awake.as_str()), (scaler_types::TrafficMode::Always, ""));
    assert!(web.interception.is_some_and(|route| route.requested && route.refusal.is_empty()));
    assert_eq!(scene.store.warnings(), []);
    scene.ingress("web", "web.shop.svc", "scaler-dlx");
    scene.service("scaler-dlx", json!({"type": "ExternalName", "externalName": "scaler-dlx.scaler.svc"}));
    let warnings = scene.store.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].1.reason, INTERCEPTED_BY_DEFAULT);
    for word in
        ["the Ingress web", "web.shop.svc", "scaler.dev/intercept: manual", "scaler.dev/intercept: always"]
    {
        assert!(warnings[0].1.message.contains(word), "{word}: {warnings:?}");
    }
    // Who has said what he wants is warnings nothing.
    scene.workload("web", "web", json!({"scaler.dev/intercept": "always"}));
    assert_eq!(scene.store.warnings(), []);
}

#[test]
fn a_workload_that_cannot_be_intercepted_stays_awake_also_by_default() {
    let scene = Scene::new();
    scene.workload("web", "web", json!({"scaler.dev/intercept": null}));
    assert!(kept(&scene).contains("no Service selects its pods"));
    scene.service("web", json!({"sessionAffinity": "ClientIP"}));
    assert!(kept(&scene).contains("sessionAffinity"));
    scene.service("web", json!({}));
    scene.policy("deny", json!({"podSelector": {}}));
    assert!(kept(&scene).contains("NetworkPolicy deny"));
    let scene = Scene::with(scaler_types::Role::Autoscaler, None);
    scene.workload("web", "web", json!({"scaler.dev/intercept": null}));
    scene.service("web", json!({}));
    assert!(kept(&scene).contains("--service-ports"));
}

#[test]
fn services_that_differ_in_whether_pods_must_be_ready_are_refused() {
    let scene = Scene::new();
    scene.service("web", json!({"publishNotReadyAddresses": true}));
    assert_eq!(scene.refusal(), None);
    scene.service("peers", json!({"clusterIP": "None"}));
    assert_eq!(scene.refusal(), None, "nobody comes by a headless one");
    scene.service("front", json!({}));
    refused(&scene, &["the Service web", "publishNotReadyAddresses", "front", "set it alike in both"]);
}

/// What is done with a field of a Service.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    /// What is written there is done.
    Honoured,
    /// A workload with that stays awake, and is warnings these words.
    Refused(&'static str),
    /// It changes nothing.
    Irrelevant,
}

#[test]
fn every_field_of_a_service_is_honoured_refused_or_irrelevant() {
    use Field::{Honoured, Irrelevant, Refused};

    let cases = [
        ("allocateLoadBalancerNodePorts", json!(false), Irrelevant),
        ("clusterIP", json!("None"), Refused("headless")),
        ("clusterIPs", json!(["10.96.0.7"]), Irrelevant),
        ("externalIPs", json!(["192.0.2.1"]), Irrelevant),
        ("externalName", json!("elsewhere.example.com"), Irrelevant),
        ("externalTrafficPolicy", json!("Local"), Refused("externalTrafficPolicy: Local")),
        ("healthCheckNodePort", json!(30_000), Irrelevant),
        ("internalTrafficPolicy", json!("Local"), Refused("internalTrafficPolicy: Local")),
        ("ipFamilies", json!(["IPv6"]), Refused("no DLX takes requests by IPv6")),
        ("ipFamilyPolicy", json!("PreferDualStack"), Irrelevant),
        ("loadBalancerClass", json!("example.com/lb"), Irrelevant),
        ("loadBalancerIP", json!("192.0.2.1"), Irrelevant),
        ("loadBalancerSourceRanges", json!(["192.0.2.0/24"]), Irrelevant),
        ("ports", json!([{"port": 53, "protocol": "UDP"}]), Refused("only TCP")),
        ("ports", json!([{"name": "tcp", "port": 80, "targetPort": 9}]), Honoured),
        ("publishNotReadyAddresses", json!(true), Honoured),
        ("selector", json!({}), Refused("no selector")),
        ("selector", json!({"tier": "front"}), Honoured),
        ("sessionAffinity", json!("ClientIP"), Refused("sessionAffinity: ClientIP")),
        ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10}}), Irrelevant),
        ("trafficDistribution", json!("PreferClose"), Irrelevant),
        ("type", json!("ExternalName"), Refused("ExternalName")),
        ("type", json!("NodePort"), Irrelevant),
        ("type", json!("LoadBalancer"), Irrelevant),
    ];
    let known = fields();
    let tried: std::collections::BTreeSet<_> = cases.iter().map(|(field, ..)| (*field).to_owned()).collect();
    assert_eq!(tried, known, "each field is tried, and no other");
    let page = include_str!("../../../../../../docs/intercept.md");
    let (_, table) = page.split_once("### Each field of a Service").expect("the table's heading");
    let records: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).take(known.len()).collect();
    for (field, value, expected) in cases {
        let scene = Scene::new();
        scene.store.with(|state| state.set_dlxs(&[dlx("a", &["10.0.0.1"])]));
        scene.registry(&[(20000, "web")]);
        scene.service("web", json!({}));
        let (before, service) = (scene.status(), scene.fact("web"));
        scene.service("web", json!({field: value}));
        let (look, now) = (scene.status(), scene.fact("web"));
        let word = match expected {
            Refused(words) => {
                refused(&scene, &[words]);
                assert!(look.is_requested() && look.refusal().is_some(), "{field}: it stays awake");
                "refused"
            }
            Irrelevant => {
                assert_eq!((scene.refusal(), &look), (None, &before), "{field}: it changes something");
                "irrelevant"
            }
            Honoured => {
                assert_eq!(scene.refusal(), None, "{field}");
                assert!(!now.has_same_spec(&service), "{field}: it is not even read");
                "honoured"
            }
        };
        let record = records.iter().find(|record| record.starts_with(&format!("| `{field}` |")));
        assert!(
            record.is_some_and(|record| record.contains(word)),
            "{field}: the page does not say {word}: {record:?}"
        );
    }
}

/// The fields of a Service's specification, as the API has them: one that is new does not compile here.
fn fields() -> std::collections::BTreeSet<String> {
    let text = || Some("a".to_owned());
    let spec = k8s_openapi::api::core::v1::ServiceSpec {
        allocate_load_balancer_node_ports: Some(true),
        cluster_ip: text(),
        cluster_ips: Some(Vec::new()),
        external_ips: Some(Vec::new()),
        external_name: text(),
        external_traffic_policy: text(),
        health_check_node_port: Some(1),
        internal_traffic_policy: text(),
        ip_families: Some(Vec::new()),
        ip_family_policy: text(),
        load_balancer_class: text(),
        load_balancer_ip: text(),
        load_balancer_source_ranges: Some(Vec::new()),
        ports: Some(Vec::new()),
        publish_not_ready_addresses: Some(true),
        selector: Some(std::collections::BTreeMap::new()),
        session_affinity: text(),
        session_affinity_config: Some(Default::default()),
        traffic_distribution: text(),
        type_: text(),
    };
    let spec = serde_json::to_value(spec).unwrap();
    spec.as_object().unwrap().keys().cloned().collect()
}
