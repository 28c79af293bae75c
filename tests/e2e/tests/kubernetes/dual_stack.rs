//! Dual-stack Services, and Services of IPv6 alone: intercepted, scaled to zero, woken by either family, and restored.

use std::net::{IpAddr, SocketAddr};

use e2e::{
    kubernetes::{
        Setting, Shop, Workload, needs_devcluster, run,
        shop::{Part, is_dlx},
    },
    load::{Lines, Outcome},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use scaler_types::Backend;
use serde_json::json;

use crate::restore::{as_before, intercept_patch};

/// The Service's port that is HTTP, and the other.
const HTTP: u16 = 80;
const LINES: u16 = 81;

/// Where a port is reached on the last node, by IPv4 and by IPv6.
async fn both(shop: &Shop, web: &Workload, port: u16) -> [SocketAddr; 2] {
    let mut addresses = shop.addresses(web, port).await.pop().expect("a node");
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let [four, six] = addresses[..] else { panic!("{addresses:?}") };
    assert!(four.is_ipv4() && six.is_ipv6(), "{four} {six}");
    [four, six]
}

async fn says(address: SocketAddr, id: &str) {
    let outcome = Lines::open(address).await.expect("connecting").send_blind(id).await;
    assert!(matches!(outcome, Outcome::Answered { .. }), "{id}: {outcome:?}");
}

/// Opted in; each family has a slice of ours with the DLX's address of it, and both of the Service's ports.
async fn intercepted(shop: &Shop, web: &Workload) {
    shop.patch(web, intercept_patch(Some("always"))).await;
    shop.until_intercepted(web).await;
    // Key and slices are of different watches.
    let seen = shop.until_seen(web, "a slice of each family", |seen| seen.ours().count() == 2).await;
    shop.until_port_sends(web, LINES, |known| !known.is_empty() && known.iter().all(is_dlx)).await;
    let pod = shop.pods(Part::Dlx).await.remove(0);
    let addresses = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
    let mut slices: Vec<_> = seen.ours().collect();
    slices.sort_by_key(|slice| slice["addressType"].as_str());
    assert_eq!((slices.len(), addresses.len()), (2, 2), "{slices:#?}");
    for (slice, family) in slices.into_iter().zip(["IPv4", "IPv6"]) {
        assert_eq!(slice["addressType"], family);
        assert_eq!(slice["metadata"]["name"], format!("web-scaler-{}", family.to_lowercase()));
        let of = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
        let address = addresses.iter().find(|one| of(&one.ip)).expect("one of the family");
        assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(1), "{slice:#}");
        assert_eq!(slice["endpoints"][0]["addresses"], json!([address.ip]));
        let mut names: Vec<_> =
            slice["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
        names.sort_by_key(|name| name.as_str());
        assert_eq!(names, ["http", "lines"]);
    }
}

#[test]
fn a_dual_stack_service_is_woken_by_each_family_on_each_port_and_restored() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { autoscalers: 1, ..Setting::dual_stack() }).await;
        let web = Workload::new(&shop, "web").unmanaged().lines().families(&["IPv6", "IPv4"]);
        shop.create(&web.service()).await;
        shop.create(&web.object()).await;
        let (http, lines) = (both(&shop, &web, HTTP).await, both(&shop, &web, LINES).await);
        for port in [HTTP, LINES] {
            shop.until_port_sends(&web, port, |known| !known.is_empty()).await;
        }
        let before = shop.snapshot().await;
        for (address, id) in http.into_iter().zip(["own-4", "own-6"]) {
            shop.served_at(address, &web, id).await;
        }
        intercepted(&shop, &web).await;
        shop.asleep(&web).await;
        shop.served_at(http[1], &web, "http-6").await;
        shop.asleep(&web).await;
        says(lines[0], "lines-4").await;
        shop.asleep(&web).await;
        says(lines[1], "lines-6").await;
        shop.asleep(&web).await;
        shop.served_at(http[0], &web, "http-4").await;
        let journal = web.read();
        assert_eq!(journal.requests.values().copied().collect::<Vec<_>>(), [1; 6], "{journal:?}");
        assert_eq!(journal.starts.len(), 5, "{journal:?}");

        // Opted out while it sleeps: a client by IPv6 wakes it, and it is restored.
        shop.asleep(&web).await;
        shop.patch(&web, intercept_patch(None)).await;
        shop.served_at(http[1], &web, "out").await;
        shop.until_restored(&web).await;
        for (address, id) in http.into_iter().zip(["back-4", "back-6"]) {
            shop.served_at(address, &web, id).await;
        }
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/state": null}}})).await;
        as_before(&shop, &web, &before).await;

        // And by `autoscaler restore`.
        intercepted(&shop, &web).await;
        shop.asleep(&web).await;
        shop.scale(Part::Autoscaler, 0).await;
        shop.restore(&[]).await;
        as_before(&shop, &web, &before).await;
        shop.until_restored(&web).await;
        for (address, id) in http.into_iter().zip(["restored-4", "restored-6"]) {
            shop.served_at(address, &web, id).await;
        }
    });
}

#[test]
fn a_service_of_ipv6_alone_is_intercepted_and_woken() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::dual_stack()).await;
        let web = Workload::new(&shop, "web").annotation("intercept", "always").families(&["IPv6"]);
        shop.deploy(&web).await;
        let seen = shop.until_intercepted(&web).await;
        let families: Vec<_> = seen.ours().map(|slice| &slice["addressType"]).collect();
        assert_eq!(families, ["IPv6"]);
        for address in shop.service(&web, HTTP).await {
            assert!(address.is_ipv6(), "{address}");
            shop.asleep(&web).await;
            shop.served_at(address, &web, &address.to_string()).await;
        }
        shop.asleep(&web).await;
        shop.patch(&web, intercept_patch(None)).await;
        let first = shop.service(&web, HTTP).await[0];
        shop.served_at(first, &web, "out").await;
        shop.until_restored(&web).await;
        shop.served_at(first, &web, "back").await;
    });
}

/// Two DLXs that listen on IPv4 alone.
#[test]
fn a_family_that_no_dlx_has_is_refused_and_its_clients_find_the_pods() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { dlxs: 2, everywhere: false, ..Setting::dual_stack() }).await;
        let web = Workload::new(&shop, "web").annotation("intercept", "always").families(&["IPv4", "IPv6"]);
        let old = Workload::new(&shop, "old").annotation("intercept", "always").families(&["IPv4"]);
        for workload in [&web, &old] {
            shop.deploy(workload).await;
        }
        shop.event(&web, "InterceptionRefused: the Service web has an address of IPv6, and no DLX").await;
        shop.until_intercepted(&old).await;
        shop.asleep(&old).await;
        let seen = shop.until_restored(&web).await;
        assert_eq!((seen.backend(), seen.has_selector_key(), seen.replicas()), (Backend::Workload, false, 1));
        assert_eq!(shop.state("web"), "", "nothing is drained that cannot be intercepted");
        shop.reached(&web).await;
        for (address, id) in both(&shop, &web, HTTP).await.into_iter().zip(["four", "six"]) {
            shop.served_at(address, &web, id).await;
        }
        // One family less, and it is intercepted as any other.
        shop.merge(&web.service(), json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;
        shop.served_at(shop.service(&web, HTTP).await[0], &web, "single").await;
    });
}

/// By hand, as if the DLX had been started anew with another `--listen-address`.
#[test]
fn a_sleeping_workload_is_woken_when_no_dlx_has_its_family_any_more() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::dual_stack()).await;
        let web = Workload::new(&shop, "web").annotation("intercept", "always").families(&["IPv4", "IPv6"]);
        shop.deploy(&web).await;
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;
        let leases: Api<Lease> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let dlx = shop.pods(Part::Dlx).await.remove(0).metadata.name.expect("a pod's name");
        let listens = async |address: &str| {
            let patch = json!({"metadata": {"annotations": {"scaler.dev/listen-address": address}}});
            leases
                .patch(&dlx, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .expect("patching a Lease");
        };
        listens("0.0.0.0:8090").await;
        shop.event(&web, "InterceptionRefused").await;
        shop.until_restored(&web).await;
        shop.reached(&web).await;
        let [four, six] = both(&shop, &web, HTTP).await;
        shop.served_at(six, &web, "six").await;
        shop.served_at(four, &web, "four").await;
        assert_eq!(web.read().starts.len(), 2, "it was woken without a request");
        listens("[::]:8090").await;
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;
        shop.served_at(six, &web, "again").await;
    });
}
