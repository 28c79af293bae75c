//! Services of one family of addresses, and of two.

use std::net::IpAddr;

use devcluster::Options;
use serde_json::{Value, json};

use crate::{
    setup::{Setup, run, run_with},
    validation::causes,
};

/// A Service, with more said of it.
fn service(name: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

/// The families it says, and those of its addresses; the first of these is reported twice.
fn families(service: &Value) -> Vec<&str> {
    let spec = &service["spec"];
    assert_eq!(spec["clusterIP"], spec["clusterIPs"][0], "{service}");
    let said: Vec<_> =
        spec["ipFamilies"].as_array().unwrap().iter().map(|family| family.as_str().unwrap()).collect();
    let of = |address: &Value| match address.as_str().unwrap().parse().unwrap() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let has: Vec<_> = spec["clusterIPs"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(said, has, "{service}");
    said
}

/// Whether the cluster has two families.
async fn has_two(api: &Setup, path: &str) -> bool {
    let both = service("asks", json!({"ipFamilyPolicy": "RequireDualStack"}));
    let (status, answer) = api.post(path, &both).await;
    if status == 201 {
        return true;
    }
    let cause = &answer["details"]["causes"][0];
    assert_eq!((status, &cause["field"]), (422, &json!("spec.ipFamilyPolicy")), "{answer}");
    let message = cause["message"].as_str().unwrap();
    assert!(message.contains("this cluster is not configured for dual-stack services"), "{answer}");
    false
}

#[test]
fn a_service_has_one_family_where_it_does_not_ask_for_two() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let two = has_two(&api, &path).await;
        let one = api.create(&path, &service("one", json!({}))).await;
        assert_eq!(one["spec"]["ipFamilyPolicy"], "SingleStack");
        let first = families(&one);
        assert_eq!(first.len(), 1);
        let preferred = service("preferred", json!({"ipFamilyPolicy": "PreferDualStack"}));
        let preferred = api.create(&path, &preferred).await;
        assert_eq!(families(&preferred).len(), if two { 2 } else { 1 });
        assert_eq!(preferred["spec"]["ipFamilyPolicy"], "PreferDualStack");
        let wrong = |more| service("wrong", more);
        let fields = causes(&api, &path, &wrong(json!({"ipFamilyPolicy": "Both"}))).await;
        assert_eq!(fields, ["spec.ipFamilyPolicy"]);
        let fields = causes(&api, &path, &wrong(json!({"ipFamilies": ["IPv5"]}))).await;
        assert!(fields.contains(&"spec.ipFamilies[0]".to_owned()), "{fields:?}");
        let twice = json!({"ipFamilies": [first[0], first[0]], "ipFamilyPolicy": "PreferDualStack"});
        let fields = causes(&api, &path, &wrong(twice)).await;
        assert!(fields.contains(&"spec.ipFamilies[1]".to_owned()), "{fields:?}");
        let fields = causes(&api, &path, &wrong(json!({"ipFamilies": ["IPv4", "IPv6"]}))).await;
        assert_eq!(fields, ["spec.ipFamilyPolicy"], "one family is what is meant where nothing is said");
        if !two {
            let other = if first[0] == "IPv4" { "IPv6" } else { "IPv4" };
            let fields = causes(&api, &path, &wrong(json!({"ipFamilies": [other]}))).await;
            assert_eq!(fields, ["spec.ipFamilies[0]"]);
        }
        // A headless one without a selector has no addresses that are assigned.
        let bare = json!({"clusterIP": "None", "selector": null});
        let bare = api.create(&path, &service("bare", bare)).await;
        let said =
            [&bare["spec"]["ipFamilyPolicy"], &json!(bare["spec"]["ipFamilies"].as_array().unwrap().len())];
        assert_eq!(said, [&json!("RequireDualStack"), &json!(2)]);
    });
}

#[test]
fn a_service_of_two_families_has_an_address_of_each() {
    run_with(Options { dual_stack: true, ..Options::default() }, |api| async move {
        let path = api.path("v1", "services");
        if !has_two(&api, &path).await {
            println!("not proved: the cluster has one family of addresses");
            return;
        }
        let wanted = service("web", json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}));
        let web = api.create(&path, &wanted).await;
        assert_eq!(families(&web), ["IPv6", "IPv4"]);
        let second = &web["spec"]["clusterIPs"][1];
        // A request that omits what was filled in keeps it.
        let one = format!("{path}/web");
        let (status, again) = api.put(&one, &service("web", json!({}))).await;
        assert_eq!((status, &again["spec"]), (200, &web["spec"]), "{again}");
        // The second address is its own as well.
        let fields = causes(&api, &path, &service("two", json!({"clusterIP": second}))).await;
        assert_eq!(fields, ["spec.clusterIPs"]);
        let other = json!({"spec": {"clusterIPs": [web["spec"]["clusterIP"], "10.96.200.200"]}});
        let (status, refused) = api.patch(&one, "merge", &other).await;
        let field = &refused["details"]["causes"][0]["field"];
        assert_eq!((status, field), (422, &json!("spec.clusterIPs[1]")), "{refused}");
        // It is released where the request says so, not where it omits it.
        let forgotten = json!({"spec": {"clusterIPs": [web["spec"]["clusterIP"]], "ipFamilies": ["IPv6"]}});
        let (status, refused) = api.patch(&one, "merge", &forgotten).await;
        let field = &refused["details"]["causes"][0]["field"];
        assert_eq!((status, field), (422, &json!("spec.ipFamilyPolicy")), "{refused}");
        let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
        let (status, single) = api.patch(&one, "merge", &single).await;
        assert_eq!((status, families(&single)), (200, vec!["IPv6"]), "{single}");
        assert_eq!(single["spec"]["clusterIP"], web["spec"]["clusterIP"]);
        let had = api.create(&path, &service("two", json!({"clusterIP": second}))).await;
        assert_eq!((families(&had), &had["spec"]["clusterIP"]), (vec!["IPv4"], second));
        let (status, both) =
            api.patch(&one, "merge", &json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}})).await;
        assert_eq!((status, families(&both)), (200, vec!["IPv6", "IPv4"]), "{both}");
        // Another name for something else has none.
        let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        let (status, external) = api.patch(&one, "merge", &external).await;
        assert_eq!(status, 200, "{external}");
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            assert_eq!(external["spec"].get(field), None, "{external}");
        }
    });
}

#[test]
fn a_pods_first_address_is_reported_twice() {
    run(|api| async move {
        let pods = api.path("v1", "pods");
        let pod = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "c", "image": "none"}],
            // No node takes it, and nothing else writes its status.
            "schedulerName": "nobody"}});
        api.create(&pods, &pod).await;
        let status = format!("{pods}/one/status");
        let both = json!([{"ip": "10.244.0.9"}, {"ip": "fd00::9"}]);
        for (given, first, all) in [
            (json!({"podIP": "10.244.0.9"}), "10.244.0.9", json!([{"ip": "10.244.0.9"}])),
            (json!({"podIP": "10.244.0.9", "podIPs": both}), "10.244.0.9", both.clone()),
            (json!({"podIP": "10.244.0.8", "podIPs": both}), "10.244.0.8", json!([{"ip": "10.244.0.8"}])),
        ] {
            let (code, patched) = api.patch(&status, "merge", &json!({"status": given})).await;
            assert_eq!(code, 200, "{patched}");
            assert_eq!((&patched["status"]["podIP"], &patched["status"]["podIPs"]), (&json!(first), &all));
        }
    });
}
