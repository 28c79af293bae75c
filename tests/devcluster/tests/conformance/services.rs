//! Services, EndpointSlices and NetworkPolicies.

use http::Method;
use serde_json::{Value, json};

use crate::{setup::run, validation::causes, watches::Events};

#[test]
fn a_service_gets_an_address_and_keeps_it() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        let created = api.create(&path, &service).await;
        let address = created["spec"]["clusterIP"].as_str().unwrap();
        assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address}");
        assert_eq!(created["spec"]["ports"][0]["targetPort"], 80);
        assert_eq!(created["spec"]["type"], "ClusterIP");
        let one = format!("{path}/web");
        let (status, replaced) = api.put(&one, &service).await;
        assert_eq!((status, &replaced["spec"]["clusterIP"]), (200, &json!(address)), "{replaced}");
        let (status, refused) = api
            .patch(
                &one,
                "merge",
                &json!({"spec": {"clusterIP": "10.96.77.77", "clusterIPs": ["10.96.77.77"]}}),
            )
            .await;
        assert_eq!(status, 422, "{refused}");
        let headless = json!({"metadata": {"name": "none"}, "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
        assert_eq!(api.create(&path, &headless).await["spec"]["clusterIP"], "None");
        let wrong = json!({"metadata": {"name": "wrong"}, "spec": {"ports": [{"port": 0}]}});
        let fields = ["spec.ports[0].port", "spec.ports[0].targetPort"];
        assert_eq!(causes(&api, &path, &wrong).await, fields);
        for target in [json!(0), json!("Web"), json!("80"), json!("a-name-that-is-too-long")] {
            let wrong = json!({"metadata": {"name": "wrong"}, "spec": {"ports": [{"port": 80, "targetPort": target}]}});
            assert_eq!(causes(&api, &path, &wrong).await, ["spec.ports[0].targetPort"], "{target}");
        }
        let wrong =
            json!({"metadata": {"name": "wrong"}, "spec": {"ports": [{"port": 80, "appProtocol": "a/b/c"}]}});
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.ports[0].appProtocol"]);
        assert_eq!(
            causes(&api, &path, &json!({"metadata": {"name": "wrong"}, "spec": {}})).await,
            ["spec.ports"]
        );
    });
}

#[test]
fn an_endpoint_slice_takes_no_local_address() {
    run(|api| async move {
        let path = api.path("discovery.k8s.io/v1", "endpointslices");
        let slice = |address: &str| {
            json!({
                "metadata": {"name": "web"},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address]}],
                "ports": [{"port": 80}],
            })
        };
        for wrong in ["127.0.0.1", "127.1.2.3", "169.254.1.1", "0.0.0.0", "224.0.0.1", "nothing"] {
            let fields = causes(&api, &path, &slice(wrong)).await;
            assert!(fields.contains(&"endpoints[0].addresses[0]".to_owned()), "{wrong}: {fields:?}");
        }
        let created = api.create(&path, &slice("10.244.0.7")).await;
        assert_eq!(created["ports"][0]["protocol"], "TCP");
    });
}

#[test]
fn an_address_is_one_services_own() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let service = |name: &str, address: &Value| json!({"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
        let one = api.create(&path, &service("one", &Value::Null)).await;
        let address = &one["spec"]["clusterIP"];
        assert_eq!(one["spec"]["clusterIPs"], json!([address]));
        assert_eq!(causes(&api, &path, &service("two", address)).await, ["spec.clusterIPs"]);
        assert_eq!(causes(&api, &path, &service("two", &json!("192.0.2.1"))).await, ["spec.clusterIPs"]);
        assert_eq!(causes(&api, &path, &service("two", &json!("nothing"))).await, ["spec.clusterIPs[0]"]);
        let two = api.create(&path, &service("two", &Value::Null)).await;
        assert_ne!(&two["spec"]["clusterIP"], address);
        // Once released, it can be used again.
        assert_eq!(api.delete(&format!("{path}/one"), &Value::Null).await.0, 200);
        let again = api.create(&path, &service("three", address)).await;
        assert_eq!(&again["spec"]["clusterIP"], address);
        // A headless one has none and gets none.
        api.create(&path, &service("none", &json!("None"))).await;
        let (status, refused) =
            api.patch(&format!("{path}/none"), "merge", &json!({"spec": {"clusterIP": address}})).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        // Another type gives it back.
        let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        let (status, external) = api.patch(&format!("{path}/two"), "merge", &external).await;
        assert_eq!((status, external["spec"].get("clusterIP")), (200, None), "{external}");
    });
}

#[test]
fn a_services_ports_are_distinguished() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let service = |ports: Value| json!({"metadata": {"name": "web"}, "spec": {"ports": ports}});
        let wrong = service(json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.ports[1].name"]);
        let wrong = service(json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.ports[1]"]);
        let wrong = service(json!([{"name": "A", "port": 80}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["spec.ports[0].name"]);
        api.create(
            &path,
            &service(json!([{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}])),
        )
        .await;
    });
}

#[test]
fn a_key_is_added_to_a_selector_and_taken_away_by_patches() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        let created = api.create(&path, &service).await;
        let one = format!("{path}/web");
        let version = &created["metadata"]["resourceVersion"];
        let add = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/spec/selector/scaler.dev~1intercepted", "value": "1"},
        ]);
        let (status, fenced) = api.patch(&one, "json", &add).await;
        let both = json!({"app": "web", "scaler.dev/intercepted": "1"});
        assert_eq!((status, &fenced["spec"]["selector"]), (200, &both), "{fenced}");
        let (status, refused) = api.patch(&one, "json", &add).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        let remove = json!([{"op": "remove", "path": "/spec/selector/scaler.dev~1intercepted"}]);
        let (status, back) = api.patch(&one, "json", &remove).await;
        assert_eq!((status, &back["spec"]), (200, &created["spec"]), "{back}");
        let (status, refused) = api.patch(&one, "json", &remove).await;
        assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        // So does a merge patch.
        let (_, fenced) =
            api.patch(&one, "merge", &json!({"spec": {"selector": {"scaler.dev/intercepted": "1"}}})).await;
        assert_eq!(fenced["spec"]["selector"], both);
        let (_, back) =
            api.patch(&one, "merge", &json!({"spec": {"selector": {"scaler.dev/intercepted": null}}})).await;
        assert_eq!(back["spec"], created["spec"]);
        // What cannot be a label cannot be selected by.
        let (status, refused) =
            api.patch(&one, "merge", &json!({"spec": {"selector": {"app": "not a value"}}})).await;
        assert_eq!(
            (status, &refused["details"]["causes"][0]["field"]),
            (422, &json!("spec.selector")),
            "{refused}"
        );
    });
}

#[test]
fn a_slices_ports_have_names_of_their_own_and_its_family_stays() {
    run(|api| async move {
        let path = api.path("discovery.k8s.io/v1", "endpointslices");
        let slice = |family: &str, address: &str, ports: Value| {
            json!({
                "metadata": {"name": "web-scaler-ipv4", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": family, "ports": ports, "endpoints": [{"addresses": [address]}],
            })
        };
        let one = || json!([{"name": "web", "port": 80}]);
        let wrong =
            slice("IPv4", "10.0.0.1", json!([{"name": "web", "port": 80}, {"name": "web", "port": 81}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["ports[1].name"]);
        let wrong = slice("IPv4", "10.0.0.1", json!([{"port": 80}, {"port": 81}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["ports[1].name"]);
        let wrong = slice("IPv4", "10.0.0.1", json!([{"name": "No", "port": 80}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["ports[0].name"]);
        let wrong = slice("IPv4", "10.0.0.1", json!([{"name": "web", "port": 80, "protocol": "HTTP"}]));
        assert_eq!(causes(&api, &path, &wrong).await, ["ports[0].protocol"]);
        let wrong = slice("IPv4", "fd00::1", one());
        assert_eq!(causes(&api, &path, &wrong).await, ["endpoints[0].addresses"]);
        let wrong = slice("IPv6", "fe80::1", one());
        assert_eq!(causes(&api, &path, &wrong).await, ["endpoints[0].addresses[0]"]);
        assert_eq!(causes(&api, &path, &slice("IPv5", "10.0.0.1", one())).await, ["addressType"]);
        let mut wrong = slice("IPv4", "10.0.0.1", one());
        wrong["endpoints"] = json!([{"addresses": []}]);
        assert_eq!(causes(&api, &path, &wrong).await, ["endpoints[0].addresses"]);
        wrong["metadata"]["name"] = json!("Web");
        wrong["endpoints"] = json!([]);
        assert_eq!(causes(&api, &path, &wrong).await, ["metadata.name"]);
        // Ports of its own numbers, and as many names as a Service has.
        let both =
            json!([{"name": "web", "port": 20_001, "appProtocol": "http"}, {"name": "", "port": 20_002}]);
        let created = api.create(&path, &slice("IPv4", "10.0.0.1", both)).await;
        assert_eq!(
            created["ports"][0],
            json!({"name": "web", "port": 20_001, "protocol": "TCP", "appProtocol": "http"})
        );
        let (status, refused) =
            api.put(&format!("{path}/web-scaler-ipv4"), &slice("IPv6", "fd00::1", one())).await;
        assert_eq!(status, 422, "{refused}");
        let fields = refused["details"]["causes"].as_array().unwrap();
        assert!(fields.iter().any(|cause| cause["field"] == "addressType"), "{refused}");
    });
}

#[test]
fn a_slice_goes_with_the_service_that_owns_it() {
    run(|api| async move {
        let services = api.path("v1", "services");
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
        let service = api.create(&services, &service).await;
        let path = api.path("discovery.k8s.io/v1", "endpointslices");
        let owner =
            json!({"apiVersion": "v1", "kind": "Service", "name": "web", "uid": service["metadata"]["uid"]});
        let slice = |owners: Value| {
            json!({
                "metadata": {
                    "name": "web-scaler-ipv4", "ownerReferences": owners,
                    "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "scaler.dev"},
                },
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "", "port": 80}],
            })
        };
        let mut wrong = owner.clone();
        wrong["uid"] = json!("");
        assert_eq!(causes(&api, &path, &slice(json!([wrong]))).await, ["metadata.ownerReferences.uid"]);
        let mut two = [owner.clone(), owner.clone()];
        for (owner, uid) in two.iter_mut().zip(["one", "two"]) {
            owner["controller"] = json!(true);
            owner["uid"] = json!(uid);
        }
        assert_eq!(causes(&api, &path, &slice(json!(two))).await, ["metadata.ownerReferences"]);
        let created = api.create(&path, &slice(json!([owner]))).await;
        let version = created["metadata"]["resourceVersion"].as_str().unwrap();
        let query = format!("fieldSelector=metadata.name%3Dweb-scaler-ipv4&resourceVersion={version}");
        let mut events = Events::of(&api.client, &path, &query).await;
        assert_eq!(api.delete(&format!("{services}/web"), &Value::Null).await.0, 200);
        while events.next().await.expect("the slice stayed")["type"] != "DELETED" {}
    });
}

#[test]
fn network_policies_are_objects_that_select_pods() {
    run(|api| async move {
        let path = api.path("networking.k8s.io/v1", "networkpolicies");
        let policy =
            json!({"metadata": {"name": "closed"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}}}});
        let created = api.create(&path, &policy).await;
        assert_eq!(created["spec"]["podSelector"], policy["spec"]["podSelector"]);
        assert_eq!(created["spec"]["policyTypes"], json!(["Ingress"]));
        let mut outward = policy.clone();
        outward["metadata"]["name"] = json!("outward");
        outward["spec"]["egress"] = json!([{"to": [{"podSelector": {}}]}]);
        assert_eq!(api.create(&path, &outward).await["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        let (status, list) = api.send(Method::GET, &path, "", &Value::Null).await;
        assert_eq!((status, list["items"].as_array().unwrap().len()), (200, 2), "{list}");
        let wrong = json!({"metadata": {"name": "wrong"}, "spec": {"podSelector": "web"}});
        let (status, refused) = api.post(&path, &wrong).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")), "{refused}");
    });
}

#[test]
fn a_service_says_how_it_is_reached_from_outside() {
    run(|api| async move {
        let path = api.path("v1", "services");
        let service = |name: &str, spec: Value| {
            let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            json!({"metadata": {"name": name}, "spec": all})
        };
        let plain = api.create(&path, &service("plain", json!({}))).await;
        assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
        assert_eq!(plain["spec"].get("sessionAffinityConfig"), None);
        let sticky = api.create(&path, &service("sticky", json!({"sessionAffinity": "ClientIP"}))).await;
        assert_eq!(sticky["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
        for (name, kind) in [("node", "NodePort"), ("balanced", "LoadBalancer")] {
            let created = api.create(&path, &service(name, json!({"type": kind}))).await;
            let spec = &created["spec"];
            assert_eq!(spec["externalTrafficPolicy"], "Cluster", "{spec}");
            assert_eq!(spec.get("allocateLoadBalancerNodePorts").is_some(), kind == "LoadBalancer");
            let port = spec["ports"][0]["nodePort"].as_i64().unwrap();
            assert!((30_000..=32_767).contains(&port), "{port}");
            // A request that omits it keeps it.
            let (status, put) =
                api.put(&format!("{path}/{name}"), &service(name, json!({"type": kind}))).await;
            assert_eq!((status, &put["spec"]["ports"][0]["nodePort"]), (200, &json!(port)), "{put}");
        }
        for (spec, field) in [
            (json!({"type": "Cluster"}), "spec.type"),
            (json!({"sessionAffinity": "Cookie"}), "spec.sessionAffinity"),
            (json!({"externalTrafficPolicy": "Local"}), "spec.externalTrafficPolicy"),
            (json!({"internalTrafficPolicy": "Node"}), "spec.internalTrafficPolicy"),
            (json!({"allocateLoadBalancerNodePorts": true}), "spec.allocateLoadBalancerNodePorts"),
            (json!({"ports": [{"port": 80, "nodePort": 30_000}]}), "spec.ports[0].nodePort"),
        ] {
            let fields = causes(&api, &path, &service("wrong", spec)).await;
            assert!(fields.contains(&field.to_owned()), "{field}: {fields:?}");
        }
    });
}

#[test]
fn a_service_that_changes_its_type_gives_back_what_it_was_given() {
    run(|api| async move {
        let path = api.path("v1", "services");
        for kind in ["NodePort", "LoadBalancer"] {
            let name = kind.to_lowercase();
            let spec = json!({"type": kind, "ports": [{"port": 80}]});
            let created = api.create(&path, &json!({"metadata": {"name": name}, "spec": spec})).await;
            let number = created["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
            let one = format!("{path}/{name}");
            // What the update changes stays, and is refused.
            let other = json!([{"port": 80, "nodePort": if number == 32_767 { 32_766 } else { number + 1 }}]);
            for (changed, field) in [
                (json!({"externalTrafficPolicy": "Local"}), "spec.externalTrafficPolicy"),
                (json!({"ports": other}), "spec.ports[0].nodePort"),
            ] {
                let mut spec = changed;
                spec["type"] = "ClusterIP".into();
                let (status, refused) = api.patch(&one, "merge", &json!({"spec": spec})).await;
                let fields = refused["details"]["causes"].as_array().into_iter().flatten();
                let fields: Vec<_> = fields.map(|cause| &cause["field"]).collect();
                assert_eq!((status, fields), (422, vec![&json!(field)]), "{refused}");
            }
            let (status, plain) = api.patch(&one, "merge", &json!({"spec": {"type": "ClusterIP"}})).await;
            assert_eq!(status, 200, "{plain}");
            assert_eq!(plain["spec"]["clusterIP"], created["spec"]["clusterIP"]);
            for given in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
                assert_eq!(plain["spec"].get(given), None, "{plain}");
            }
            assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None, "{plain}");
        }
    });
}

#[test]
fn a_slice_has_no_more_than_a_thousand_endpoints_and_names_nodes_as_nodes_are() {
    run(|api| async move {
        let path = api.path("discovery.k8s.io/v1", "endpointslices");
        let slice = |endpoints: Value| json!({"metadata": {"name": "web"}, "addressType": "IPv4", "endpoints": endpoints});
        let many = |count: usize| json!(vec![json!({"addresses": ["10.0.0.1"]}); count]);
        assert_eq!(causes(&api, &path, &slice(many(1001))).await, ["endpoints"]);
        for (field, value) in [("nodeName", "Node_1"), ("hostname", "a.b")] {
            let wrong = slice(json!([{"addresses": ["10.0.0.1"], field: value}]));
            assert_eq!(causes(&api, &path, &wrong).await, [format!("endpoints[0].{field}")]);
        }
        let created = api.create(&path, &slice(many(1000))).await;
        assert_eq!(created["metadata"]["generation"], 1);
        let one = format!("{path}/web");
        for (change, generation) in [
            (json!({"metadata": {"annotations": {"a": "b"}}}), 1),
            (json!({"metadata": {"labels": {"a": "b"}}}), 2),
            (json!({"endpoints": []}), 3),
        ] {
            let (_, patched) = api.patch(&one, "merge", &change).await;
            assert_eq!(patched["metadata"]["generation"], generation, "{change}");
        }
    });
}
