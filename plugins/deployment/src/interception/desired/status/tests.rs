use std::time::Duration;

use scaler_types::{Role, ServicePorts};
use serde_json::json;

use super::*;
use crate::{events::reasons::INTERCEPTION_REFUSED, index::State, interception::scene::Scene};

const SECOND: Duration = Duration::from_secs(1);

/// `web` is intercepted, as it should be, by one DLX.
fn intercepted() -> Scene {
    let scene = Scene::new();
    scene.registry(&[(20000, "web")]);
    scene.our_slice("web", "1", "a", &[20000]);
    scene.own_slice("web", json!([]));
    scene.intercepted_service("web");
    scene
}

fn intercepted_for(scene: &Scene) -> Duration {
    scene.listed("web").unwrap().interception.unwrap().intercepted_for
}

#[track_caller]
fn route(scene: &Scene) -> Interception {
    scene.status().interception.unwrap()
}

#[test]
fn where_it_leads_follows_from_the_key_and_the_slices() {
    let scene = Scene::new();
    scene.service("web", json!({}));
    scene.own_slice("web", json!([{"addresses": ["10.0.1.1"]}]));
    assert_eq!(
        (route(&scene).backend, route(&scene).in_sync, route(&scene).workload_ready),
        (Backend::Workload, true, true)
    );
    scene.registry(&[(20000, "web")]);
    scene.our_slice("web", "1", "b,a", &[20000]);
    let both = route(&scene);
    assert_eq!(
        (both.backend, both.in_sync, both.dlxs),
        (Backend::Both, true, vec!["a".to_owned(), "b".to_owned()])
    );
    scene.intercepted_service("web");
    assert_eq!((route(&scene).backend, route(&scene).in_sync), (Backend::Dlx, true));
    scene.no_slice("web-scaler-ipv4");
    assert_eq!(
        (route(&scene).backend, route(&scene).in_sync),
        (Backend::Dlx, false),
        "the key alone selects nothing"
    );
}

#[test]
fn it_is_complete_only_as_it_would_be_written_again() {
    let scene = intercepted();
    assert!(route(&scene).in_sync);
    scene.registry(&[(20001, "web")]);
    assert!(!route(&scene).in_sync, "the port is another by now");
    scene.registry(&[(20000, "other")]);
    assert!(!route(&scene).in_sync, "it is somebody else's");
    scene.registry(&[(20000, "web")]);
    assert!(route(&scene).in_sync);
    scene.our_slice("web", "1", "a,b", &[20000]);
    assert!(route(&scene).in_sync);
    scene.our_slice("web", "1", "a", &[20000, 20001]);
    assert!(!route(&scene).in_sync, "a port too many");
    let dlx = |name: &str, last: u8| scaler_types::Dlx {
        name: name.to_owned(),
        addresses: vec![[10, 0, 0, last].into()],
        node: None,
        zone: None,
    };
    scene.our_slice("web", "1", "a", &[20000]);
    scene.store.with(|state| state.set_dlxs(&[dlx("a", 1)]));
    assert!(route(&scene).in_sync);
    scene.store.with(|state| state.set_dlxs(&[dlx("a", 2)]));
    assert!(!route(&scene).in_sync, "it is at another address");
    scene.store.with(|state| state.set_dlxs(&[dlx("b", 2)]));
    assert!(route(&scene).in_sync, "that it is no more is for who tends the routes");
}

#[test]
fn a_further_service_makes_it_incomplete_and_a_headless_one_does_not() {
    let scene = intercepted();
    scene.service("peers", json!({"clusterIP": "None"}));
    assert!(route(&scene).in_sync);
    scene.service("front", json!({}));
    assert_eq!((route(&scene).backend, route(&scene).in_sync), (Backend::Dlx, false));
}

#[test]
fn intercepted_for_counts_from_when_all_services_were_seen_intercepted() {
    let scene = intercepted();
    scene.pass(SECOND);
    assert_eq!(intercepted_for(&scene), SECOND);
    // An endpoint of its own, ready or not: it takes what comes.
    scene.own_slice("web", json!([{"addresses": ["10.0.1.1"], "conditions": {"ready": false}}]));
    assert_eq!(intercepted_for(&scene), Duration::ZERO);
    scene.own_slice("web", json!([]));
    scene.pass(SECOND);
    assert_eq!(intercepted_for(&scene), SECOND);
    // A Service that comes, and is led in its turn.
    scene.service("front", json!({}));
    scene.pass(SECOND);
    assert_eq!(intercepted_for(&scene), Duration::ZERO);
    scene.our_slice("front", "1", "a", &[20001]);
    scene.intercepted_service("front");
    scene.pass(SECOND);
    assert_eq!(intercepted_for(&scene), SECOND);
}

#[test]
fn an_interception_broken_between_two_reads_starts_anew() {
    let scene = intercepted();
    scene.pass(SECOND);
    scene.service("web", json!({}));
    scene.intercepted_service("web");
    assert_eq!(intercepted_for(&scene), Duration::ZERO);
}

#[test]
fn after_a_gap_in_the_watch_intercepted_for_starts_anew() {
    let scene = intercepted();
    scene.pass(SECOND);
    scene.store.with(State::reset_intercepted_since);
    assert_eq!(intercepted_for(&scene), Duration::ZERO);
    scene.pass(SECOND);
    assert_eq!(intercepted_for(&scene), SECOND);
}

#[test]
fn a_dlx_does_not_say_since_when() {
    let scene = Scene::with(Role::Dlx, Some(ServicePorts { first: 20000, last: 20001 }));
    scene.workload("web", "web", json!({}));
    scene.registry(&[(20000, "web")]);
    scene.our_slice("web", "1", "a", &[20000]);
    scene.intercepted_service("web");
    scene.pass(SECOND);
    assert_eq!(
        (route(&scene).backend, intercepted_for(&scene)),
        (Backend::Dlx, Duration::ZERO),
        "it does not see it all"
    );
}

#[test]
fn what_opted_out_is_listed_until_nothing_of_ours_is_left() {
    let scene = intercepted();
    scene.workload("web", "web", json!({"scaler.dev/scale-to-zero": "false"}));
    let web = scene.listed("web").unwrap();
    let route = web.interception.unwrap();
    assert_eq!((route.requested, route.backend), (false, Backend::Dlx));
    assert!(web.keep_awake.contains("opted out"), "{}", web.keep_awake);
    scene.service("web", json!({}));
    assert!(scene.listed("web").is_some());
    scene.no_slice("web-scaler-ipv4");
    assert!(scene.listed("web").is_none());
}

#[test]
fn a_refused_workload_is_kept_awake_and_reported() {
    let scene = intercepted();
    scene.service("web", json!({"internalTrafficPolicy": "Local"}));
    let web = scene.listed("web").unwrap();
    let refused = web.interception.unwrap().refusal;
    assert!(refused.contains("internalTrafficPolicy"), "{refused}");
    assert!(web.keep_awake.contains(&refused), "{}", web.keep_awake);
    let warnings = scene.store.warnings();
    assert!(
        warnings.iter().any(|(_, one)| one.reason == INTERCEPTION_REFUSED && one.message == refused),
        "{warnings:?}"
    );
    scene.workload("web", "web", json!({"scaler.dev/intercept": "manual"}));
    assert!(scene.listed("web").unwrap().keep_awake.contains("no request could wake it"));
    scene.service("scaler-dlx", json!({"type": "ExternalName", "externalName": "scaler-dlx.scaler.svc"}));
    scene.ingress("web", "web.shop.svc", "scaler-dlx");
    assert_eq!(scene.listed("web").unwrap().keep_awake, "");
}

#[test]
fn a_refusal_is_decided_anew_when_what_it_depends_on_changes() {
    let scene = intercepted();
    let refused = |scene: &Scene| scene.listed("web").unwrap().interception.unwrap().refusal;
    assert_eq!(refused(&scene), "");
    scene.service("web", json!({"selector": {"tier": "front"}}));
    scene.workload("api", "api", json!({}));
    assert!(refused(&scene).contains("several workloads"), "{}", refused(&scene));
    scene.no_workload("api");
    assert_eq!(refused(&scene), "");
    scene.policy("deny", json!({"podSelector": {}}));
    assert!(refused(&scene).contains("deny"), "{}", refused(&scene));
    scene.policy("deny", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    scene.registry(&[(20000, "a"), (20001, "b")]);
    assert!(refused(&scene).contains("--service-ports"), "{}", refused(&scene));
    scene.registry(&[(20000, "a")]);
    assert_eq!(refused(&scene), "");
}

#[test]
fn an_hour_after_the_key_was_removed_it_is_intercepted_again() {
    let scene = intercepted();
    let refused = |scene: &Scene| scene.listed("web").unwrap().interception.unwrap().refusal;
    for _ in 0..3 {
        scene.store.with(|state| state.interception.selector_conflicts.set_expected("web", true));
        scene.intercepted_service("web");
        scene.service("web", json!({}));
    }
    assert!(refused(&scene).contains("to another writer"), "{}", refused(&scene));
    scene.pass(Duration::from_secs(3600));
    scene.store.with(State::resume_suspended);
    assert_eq!(refused(&scene), "");
}

#[test]
fn ports_are_listed_as_long_as_the_registry_has_them() {
    for role in [Role::Autoscaler, Role::Dlx] {
        let scene = Scene::with(role, Some(ServicePorts { first: 20000, last: 20001 }));
        scene.workload("web", "web", json!({}));
        scene.service("web", json!({}));
        scene.registry(&[(20000, "web"), (20001, "other")]);
        let http = Port { listen: 20000, target: Some(8080), protocol: Protocol::Http, guessed: true };
        assert_eq!(scene.listed("web").unwrap().ports, std::slice::from_ref(&http), "{role:?}");
        // Another range by now.
        scene.registry(&[(19000, "web"), (20000, "web")]);
        let old = Port { listen: 19000, ..http.clone() };
        assert_eq!(scene.listed("web").unwrap().ports, [old, http.clone()]);
        // Its name is another by now: whoever comes by it finds the port its pods are asked at.
        scene.service("web", json!({"ports": [{"name": "tcp", "port": 80, "targetPort": "http"}]}));
        let nameless = Port { target: None, protocol: Protocol::Tcp, guessed: false, ..http.clone() };
        assert!(scene.listed("web").unwrap().ports.contains(&nameless));
        scene.service("web", json!({}));
        // The registry is lost, and the slice still names it.
        scene.registry(&[]);
        assert_eq!(scene.listed("web").unwrap().ports, []);
        scene.our_slice("web", "1", "a", &[20000]);
        assert_eq!(scene.listed("web").unwrap().ports, std::slice::from_ref(&http));
        scene.registry(&[(20000, "other")]);
        assert_eq!(scene.listed("web").unwrap().ports, [], "it is another's by now");
    }
}
