//! Services of two families of addresses, and DLXs that have one of them.

mod common;

use common::*;
use scaler_types::{Backend, Dlx, ResourceScaler as _, Role, ScaleError};
use serde_json::json;

/// A DLX at these addresses.
fn dlx(name: &str, addresses: &[&str]) -> Dlx {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Dlx { name: name.to_owned(), addresses, node: None, zone: None }
}

/// `web` with a Service of these families, that asks to be led and has a pod.
async fn web(families: &[&str]) -> Scene {
    let scene = Scene::with_web().await;
    scene.delete("Service", "web").await;
    let mut web = service("web", "web");
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    web["spec"]["ipFamilies"] = json!(families);
    web["spec"]["ipFamilyPolicy"] = json!(policy);
    scene.create("Service", web).await;
    scene.annotate("web", "scaler.dev/intercept", "always").await;
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    scene
}

/// Our slices: name, family, addresses.
async fn slices(scene: &Scene) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for slice in scene.our_slices().await {
        let addresses = slice.data["endpoints"].as_array().unwrap().iter();
        let addresses = addresses.map(|one| text(&one["addresses"][0])).collect();
        all.push((slice.metadata.name.unwrap(), text(&slice.data["addressType"]), addresses));
    }
    all.sort();
    all
}

fn slice(family: &str, addresses: &[&str]) -> (String, String, Vec<String>) {
    let name = format!("web-scaler-{}", family.to_ascii_lowercase());
    (name, family.to_owned(), addresses.iter().map(|&address| address.to_owned()).collect())
}

/// Led to a DLX of both families, and asleep.
async fn asleep(scene: &Scene, leader: &deployment::DeploymentScaler) {
    let both = vec![dlx("a", &["10.244.9.1", "fd00::1"])];
    soon(leader.set_backend(&to("web", Backend::Dlx, both))).await.unwrap();
    scene.own_endpoints("web", &[]).await;
    until(leader, "web", |web| {
        web.interception.as_ref().is_some_and(|route| !route.intercepted_for.is_zero())
    })
    .await;
    sleep(leader, "web").await.unwrap();
    assert_eq!(scene.replicas("web").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_family_has_a_slice_and_all_are_restored() {
    let scene = web(&["IPv6", "IPv4"]).await;
    let leader = scene.leader().await;
    let before = scene.get("Service", "web").await;
    let dlxs = vec![dlx("a", &["10.244.9.1", "fd00::1"]), dlx("b", &["10.244.9.2"])];
    soon(leader.set_backend(&to("web", Backend::Dlx, dlxs.clone()))).await.unwrap();
    assert!(scene.is_fenced("web").await);
    let wanted = [slice("IPv4", &["10.244.9.1", "10.244.9.2"]), slice("IPv6", &["fd00::1"])];
    assert_eq!(slices(&scene).await, wanted);
    // One family without its slice is not led, whether it is known who the DLXs are or not.
    for _ in 0..2 {
        assert!(one(&leader, "web").await.interception.unwrap().in_sync);
        scene.delete("EndpointSlice", "web-scaler-ipv6").await;
        until(&leader, "web", |web| !web.interception.as_ref().unwrap().in_sync).await;
        soon(leader.set_backend(&to("web", Backend::Dlx, dlxs.clone()))).await.unwrap();
        assert_eq!(slices(&scene).await, wanted);
        soon(leader.sync_dlxs(&dlxs)).await.unwrap();
    }
    soon(leader.set_backend(&to("web", Backend::Both, dlxs))).await.unwrap();
    soon(leader.set_backend(&to("web", Backend::Workload, Vec::new()))).await.unwrap();
    assert_eq!((slices(&scene).await.len(), scene.get("Service", "web").await.data), (0, before.data));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dlx_of_a_family_nothing_is_touched() {
    for families in [&["IPv4", "IPv6"][..], &["IPv6"]] {
        let scene = web(families).await;
        let leader = scene.leader().await;
        let request = to("web", Backend::Dlx, dlxs(&["a", "b"]));
        let Err(ScaleError::Terminal { reason }) = leader.set_backend(&request).await else { panic!() };
        assert!(reason.contains("the Service web has an address of IPv6, and no DLX"), "{reason}");
        assert!(!scene.is_fenced("web").await);
        assert_eq!((slices(&scene).await.len(), scene.registry().await.len()), (0, 0));
        // The daemons are told why.
        soon(leader.sync_dlxs(&request.dlxs)).await.unwrap();
        assert_eq!(one(&leader, "web").await.interception.unwrap().refusal, reason);
    }
}

/// The DLXs are replaced by others that have IPv4 alone. Who comes by IPv6 would wake nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_behind_an_address_family_without_dlxs_is_woken_and_restored() {
    for families in [&["IPv4", "IPv6"][..], &["IPv6"]] {
        let scene = web(families).await;
        let leader = scene.leader().await;
        asleep(&scene, &leader).await;
        let (others, old) = (dlxs(&["b"]), slice("IPv6", &["fd00::1"]));
        soon(leader.sync_dlxs(&others)).await.unwrap();
        // The one that goes is named until somebody else takes what comes: it serves as long as it is.
        assert!(slices(&scene).await.contains(&old));
        let route = one(&leader, "web").await.interception.unwrap();
        assert!(route.refusal.contains("IPv6"), "{route:?}");
        assert!(!route.in_sync, "who comes by IPv6 wakes nobody: {route:?}");
        soon(leader.set_backend(&to("web", Backend::Both, others.clone()))).await.unwrap();
        assert!(!scene.is_fenced("web").await);
        assert_eq!(scene.replicas("web").await, 3, "{families:?}");
        assert!(slices(&scene).await.contains(&old));
        scene.own_endpoints("web", &["10.244.0.1"]).await;
        until(&leader, "web", |web| web.interception.as_ref().unwrap().workload_ready).await;
        soon(leader.sync_dlxs(&others)).await.unwrap();
        assert!(!slices(&scene).await.contains(&old));
    }
}

/// Its leader ends at each of the writes for that.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_recovers_from_a_crash_of_an_interception() {
    for writes in 0.. {
        let scene = web(&["IPv4", "IPv6"]).await;
        let leader = scene.leading_as(Role::Autoscaler).await;
        asleep(&scene, &leader).await;
        let request = to("web", Backend::Both, dlxs(&["b"]));
        let crash = scene.crash_after(writes);
        let ended = soon(leader.set_backend(&request)).await;
        drop((crash, leader));
        // By IPv6 nobody wakes it any more: the key is gone only when it is awake.
        assert!(scene.is_fenced("web").await || scene.replicas("web").await > 0, "{writes} writes");
        let next = scene.leading_as(Role::Autoscaler).await;
        soon(next.set_backend(&request)).await.unwrap();
        assert_eq!((scene.is_fenced("web").await, scene.replicas("web").await), (false, 3));
        if ended.is_ok() {
            assert!(writes > 2, "there was something to be crashed in");
            return;
        }
    }
}
