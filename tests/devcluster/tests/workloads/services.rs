//! EndpointSlices.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::site::{Site, deployment, dev_only, everywhere, everywhere_with, get, is_ready, lives};

const OF_WEB: &str = "kubernetes.io/service-name=web";

type Slices = BTreeMap<String, EndpointSlice>;

fn service() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "other", "port": 81, "targetPort": 9000}],
        },
    })
}

fn endpoints(slices: &Slices) -> Vec<&Endpoint> {
    slices.values().flat_map(|slice| &slice.endpoints).collect()
}

/// Ready, serving, terminating.
fn conditions(endpoint: &Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let value = |value: Option<bool>| value.unwrap_or_default();
    (value(conditions.ready), value(conditions.serving), value(conditions.terminating))
}

async fn until(site: &Site, what: &str, wanted: (bool, bool, bool)) -> Slices {
    site.until_all(
        what,
        OF_WEB,
        |slices: &Slices| matches!(endpoints(slices).as_slice(), [one] if conditions(one) == wanted),
    )
    .await
}

#[test]
fn slices_follow_pods_from_their_address_to_their_end() {
    everywhere(|site| async move {
        site.create::<Service>(service()).await;
        let empty = site.until_all("an empty slice", OF_WEB, |slices: &Slices| slices.len() == 1).await;
        assert!(endpoints(&empty).is_empty());
        let mut web = deployment(&site, "web", 1, &[]);
        let container = &mut web["spec"]["template"]["spec"]["containers"][0];
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 3}}});
        site.create::<Deployment>(web).await;
        let slices = until(&site, "a ready endpoint", (true, true, false)).await;
        let pod = site.pod("the pod", "app=web", is_ready).await;
        let slice = slices.values().next().unwrap();
        assert!(slice.name_any().starts_with("web-"));
        assert_eq!(
            slice.labels()["endpointslice.kubernetes.io/managed-by"],
            "endpointslice-controller.k8s.io"
        );
        assert_eq!(slice.owner_references()[0].kind, "Service");
        let ports = slice.ports.clone().unwrap_or_default();
        let mut ports: Vec<_> =
            ports.iter().map(|port| (port.name.as_deref().unwrap(), port.port.unwrap())).collect();
        ports.sort_unstable();
        assert_eq!(ports, [("other", 9000), ("web", 8080)]);
        let endpoint = endpoints(&slices)[0].clone();
        assert_eq!(Some(&endpoint.addresses[0]), pod.status.as_ref().unwrap().pod_ip.as_ref());
        assert_eq!(endpoint.target_ref.unwrap().uid, pod.uid());
        // While it ends it still serves, but it is no longer ready for more.
        site.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
        until(&site, "an endpoint that ends", (false, true, true)).await;
        site.until_all("no endpoint", OF_WEB, |slices: &Slices| {
            slices.len() == 1 && endpoints(slices).is_empty()
        })
        .await;
    });
}

#[test]
fn a_service_of_two_families_has_slices_of_each() {
    everywhere_with(
        |options| options.dual_stack = true,
        |site| async move {
            let mut service = service();
            service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
            let service = site.create::<Service>(service).await;
            let families = service.spec.unwrap().ip_families.unwrap_or_default();
            let mut web = deployment(&site, "web", 1, &[]);
            let environment = &mut web["spec"]["template"]["spec"]["containers"][0]["env"];
            let all = json!({"name": "ALL", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}});
            environment.as_array_mut().unwrap().push(all);
            site.create::<Deployment>(web).await;
            let pod = site.pod("the pod", "app=web", is_ready).await;
            let status = pod.status.clone().unwrap();
            let addresses: Vec<_> =
                status.pod_ips.unwrap_or_default().into_iter().map(|one| one.ip).collect();
            if families.len() < 2 || addresses.len() < 2 {
                println!("not proved: the cluster has one family of addresses");
                return;
            }
            assert_eq!(Some(&addresses[0]), status.pod_ip.as_ref());
            if site.is_dev() {
                assert_eq!(get(&pod, "/env/ALL").await, addresses.join(","));
            }
            let is_of = |address: &str, family: &str| address.contains(':') == (family == "IPv6");
            let slices = site.until_all("a ready endpoint in each slice", OF_WEB, |slices: &Slices| {
                let ready = |slice: &EndpointSlice| {
                    matches!(slice.endpoints.as_slice(), [one] if conditions(one) == (true, true, false))
                };
                slices.len() == 2 && slices.values().all(ready)
            });
            let slices = slices.await;
            let mut found: Vec<_> = slices.values().map(|slice| slice.address_type.clone()).collect();
            found.sort_unstable();
            assert_eq!(found, ["IPv4", "IPv6"]);
            for slice in slices.values() {
                let address = &slice.endpoints[0].addresses[0];
                assert!(addresses.contains(address) && is_of(address, &slice.address_type), "{slice:?}");
            }
            // One that is made again, and so comes last, is not taken for the other.
            let first = slices.values().find(|slice| slice.address_type == families[0]).unwrap();
            site.delete::<EndpointSlice>(&first.name_any()).await;
            site.patch::<Deployment>("web", json!({"spec": {"replicas": 2}})).await;
            site.until_all("two endpoints in each slice", OF_WEB, |slices: &Slices| {
                slices.len() == 2 && slices.values().all(|slice| slice.endpoints.len() == 2)
            })
            .await;
            // One family less is one slice less.
            site.patch::<Service>("web", json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
            let left = site.until_all("one slice", OF_WEB, |slices: &Slices| slices.len() == 1).await;
            assert_eq!(left.into_values().next().unwrap().address_type, families[0]);
        },
    );
}

#[test]
fn readiness_drives_them() {
    dev_only(
        |options| drop(options.labels.insert("topology.kubernetes.io/zone".into(), "a".into())),
        |site| async move {
            site.create::<Service>(service()).await;
            site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
            let slices = until(&site, "a ready endpoint", (true, true, false)).await;
            let one = endpoints(&slices)[0];
            assert_eq!((one.node_name.as_deref(), one.zone.as_deref()), (Some("node-1"), Some("a")));
            let pod = site.pod("the pod", "app=web", is_ready).await;
            get(&pod, "/ready/no").await;
            until(&site, "an endpoint that is not ready", (false, false, false)).await;
            let pod = site.pod("the pod", "app=web", |pod| !is_ready(pod)).await;
            let conditions = pod.status.unwrap().conditions.unwrap();
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
            assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
            assert_eq!(ready.message.as_deref(), Some("containers with unready status: [app]"));
            let pod = site.pod("the pod", "app=web", lives).await;
            get(&pod, "/ready/yes").await;
            until(&site, "a ready endpoint again", (true, true, false)).await;
            // Two Services, one pod: the labels decide, and a pod that leaves the selector leaves the slice.
            site.patch::<Pod>(&pod.name_any(), json!({"metadata": {"labels": {"app": "other"}}})).await;
            site.until_all("another pod in its place", OF_WEB, |slices: &Slices| {
                let all = endpoints(slices);
                all.iter().all(|endpoint| endpoint.target_ref.as_ref().unwrap().uid != pod.uid())
            })
            .await;
        },
    );
}
