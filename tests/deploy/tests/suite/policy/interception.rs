//! Services, EndpointSlices and ConfigMaps: the writes that intercept a Service.

use serde_json::{Value, json};

use super::{policy, with};

const SELECTOR_KEY: &str = "/spec/selector/scaler.dev~1intercepted";
const MANAGED_BY: &str = "/metadata/labels/endpointslice.kubernetes.io~1managed-by";

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "7",
            "labels": {"app": "web"}, "annotations": {"example.com/owner": "shop"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.7", "selector": {"app": "web", "tier": "front"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-scaler-ipv4", "namespace": "shop",
            "labels": {
                "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "scaler.dev",
            },
            "annotations": {"scaler.dev/format": "1", "scaler.dev/dlxs": "scaler-dlx-a,scaler-dlx-b"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "1"}],
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.3"], "nodeName": "one", "zone": "a", "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 20000, "protocol": "TCP"}],
    })
}

fn config_map(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": {}})
}

#[test]
fn a_key_is_added_to_a_selector_and_removed() {
    let policy = policy("autoscaler-services");
    assert!(policy.is_asked("UPDATE", "", "services"));
    let intercepted = with(service(), SELECTOR_KEY, json!("1"));
    let intercepted = with(intercepted, "/metadata/managedFields", json!([{"manager": "scaler"}]));
    let intercepted =
        with(with(intercepted, "/metadata/resourceVersion", json!("8")), "/metadata/generation", json!(2));
    assert_eq!(policy.refuses(&service(), &intercepted), None, "intercepted");
    assert_eq!(policy.refuses(&intercepted, &service()), None, "restored");
    assert_eq!(policy.refuses(&intercepted, &intercepted), None, "as it is");
    let anew = with(intercepted.clone(), SELECTOR_KEY, json!("00c0ffee00c0ffee"));
    assert_eq!(policy.refuses(&intercepted, &anew), None, "a new value by a drain attempt");
    assert_eq!(policy.refuses(&anew, &service()), None, "restored after it");
    // Its user removed their own keys meanwhile.
    let ours_alone = with(service(), "/spec/selector", json!({"scaler.dev/intercepted": "1"}));
    for none in [json!(null), json!({})] {
        let bare = with(service(), "/spec/selector", none);
        assert_eq!(policy.refuses(&ours_alone, &bare), None, "restored without any key");
        let why = policy.refuses(&bare, &ours_alone);
        assert!(why.is_some_and(|why| why.contains("beside other keys")), "no selector of its own: {why:?}");
    }
}

#[test]
fn nothing_else_of_a_service_can_be_changed() {
    let policy = policy("autoscaler-services");
    let intercepted = with(service(), SELECTOR_KEY, json!("1"));
    for (pointer, value, message) in [
        ("/spec/selector/app", json!("other"), "no key"),
        ("/spec/selector/app", json!(null), "no key"),
        ("/spec/selector/version", json!("2"), "no key"),
        ("/spec/selector", json!(null), "no key"),
        (SELECTOR_KEY, json!("mine"), "16 hexadecimal digits"),
        ("/spec/ports/0/targetPort", json!(22), "but its selector"),
        ("/spec/ports", json!([]), "but its selector"),
        ("/spec/type", json!("LoadBalancer"), "but its selector"),
        ("/spec/externalIPs", json!(["192.0.2.1"]), "but its selector"),
        ("/spec/externalName", json!("evil.example.com"), "but its selector"),
        ("/spec/clusterIP", json!(null), "but its selector"),
        ("/metadata/labels/app", json!("other"), "metadata"),
        ("/metadata/annotations/example.com~1owner", json!("evil"), "metadata"),
        ("/metadata/annotations", json!(null), "metadata"),
        ("/metadata/finalizers", json!(["keep"]), "metadata"),
        ("/metadata/ownerReferences", json!([{"uid": "2"}]), "metadata"),
        ("/status/loadBalancer", json!({"ingress": [{"ip": "192.0.2.1"}]}), "beside its spec"),
    ] {
        for old in [service(), intercepted.clone()] {
            let refused = policy.refuses(&old, &with(old.clone(), pointer, value.clone()));
            assert!(refused.is_some_and(|why| why.contains(message)), "{pointer}: {refused:?}");
        }
    }
}

#[test]
fn a_slice_of_ours_is_written_and_deleted() {
    let policy = policy("autoscaler-endpointslices");
    for operation in ["CREATE", "UPDATE", "DELETE"] {
        assert!(policy.is_asked(operation, "discovery.k8s.io", "endpointslices"), "{operation}");
    }
    let six = with(with(slice(), "/metadata/name", json!("web-scaler-ipv6")), "/addressType", json!("IPv6"));
    for created in [slice(), six.clone()] {
        assert_eq!(policy.refuses(&json!(null), &created), None, "created");
        assert_eq!(policy.refuses(&created, &json!(null)), None, "deleted");
    }
    let last = json!([{"name": "http", "port": 21999}, {"name": "grpc", "port": 20001, "protocol": "TCP"}]);
    for (pointer, value) in [
        ("/endpoints", json!([])),
        ("/metadata/annotations/scaler.dev~1dlxs", json!("scaler-dlx-c")),
        ("/ports", last),
    ] {
        assert_eq!(policy.refuses(&slice(), &with(slice(), pointer, value)), None, "{pointer}");
    }
}

#[test]
fn a_slice_of_another_controller_is_left_alone() {
    let policy = policy("autoscaler-endpointslices");
    for manager in [json!("endpointslice-controller.k8s.io"), json!(null)] {
        let other = with(slice(), MANAGED_BY, manager);
        let bare = with(slice(), "/metadata/labels", json!(null));
        for other in [other, bare] {
            for (old, new, what) in [
                (json!(null), other.clone(), "created"),
                (other.clone(), slice(), "taken over"),
                (slice(), other.clone(), "given away"),
                (other.clone(), other.clone(), "changed"),
                (other.clone(), json!(null), "deleted"),
            ] {
                let refused = policy.refuses(&old, &new);
                assert!(refused.is_some_and(|why| why.contains("but its own")), "{what}: {refused:?}");
            }
        }
    }
}

#[test]
fn a_slice_of_ours_has_ports_of_a_dlx() {
    let policy = policy("autoscaler-endpointslices");
    let owner =
        |kind: &str, name: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "1"}]);
    for (pointer, value, message) in [
        ("/metadata/name", json!("web"), "called after"),
        ("/metadata/name", json!("api-scaler-ipv4"), "called after"),
        ("/metadata/labels/kubernetes.io~1service-name", json!("api"), "called after"),
        ("/metadata/labels/kubernetes.io~1service-name", json!(null), "called after"),
        ("/addressType", json!("IPv6"), "called after"),
        ("/addressType", json!("FQDN"), "called after"),
        ("/metadata/ownerReferences", json!(null), "belongs to"),
        ("/metadata/ownerReferences", json!([]), "belongs to"),
        ("/metadata/ownerReferences", owner("Service", "api"), "belongs to"),
        ("/metadata/ownerReferences", owner("Pod", "web"), "belongs to"),
        ("/ports/0/port", json!(19999), "20000-21999"),
        ("/ports/0/port", json!(22000), "20000-21999"),
        ("/ports/0/port", json!(null), "20000-21999"),
        ("/ports/0/protocol", json!("UDP"), "20000-21999"),
    ] {
        let wrong = with(slice(), pointer, value);
        for old in [json!(null), slice()] {
            let refused = policy.refuses(&old, &wrong);
            assert!(refused.is_some_and(|why| why.contains(message)), "{pointer}: {refused:?}");
        }
    }
}

#[test]
fn one_config_map_is_written() {
    let policy = policy("autoscaler-configmaps");
    assert!(policy.is_asked("CREATE", "", "configmaps") && policy.is_asked("UPDATE", "", "configmaps"));
    let ours = config_map("scaler", "scaler-service-ports");
    for old in [json!(null), ours.clone()] {
        assert_eq!(policy.refuses(&old, &ours), None);
    }
    for other in [config_map("scaler", "scaler-namespaces"), config_map("shop", "scaler-service-ports")] {
        for old in [json!(null), other.clone()] {
            let refused = policy.refuses(&old, &other);
            assert!(refused.is_some_and(|why| why.contains("scaler-service-ports")), "{other}");
        }
    }
}

/// Without ports for Services nothing of this is allowed by a role, and there is nothing to limit.
#[test]
fn without_service_ports_there_are_no_such_policies() {
    let objects = crate::values::rendered("servicePorts: null");
    assert_eq!(crate::values::of_kind(&objects, "ValidatingAdmissionPolicy").len(), 2);
    assert_eq!(crate::values::of_kind(&crate::values::rendered(""), "ValidatingAdmissionPolicy").len(), 6);
}
