//! Which DLXs take requests, as the leading autoscaler follows it.

use std::sync::{Arc, Mutex};

use daemon::{
    coordination::Coordinator,
    members::serving::{ReadyDlxs, Serving},
};
use devcluster::{Filter, Refusal};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    serde_json::{from_value, json},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use scaler_types::Dlx;
use tokio::sync::watch;

use crate::{Site, soon, until};

struct Watched {
    _serving: Serving,
    known: watch::Receiver<ReadyDlxs>,
}

impl Watched {
    async fn start(site: &Site, account: &str) -> Self {
        let process = Coordinator::Leases(site.process(account, Some("autoscaler-0")).await);
        let serving = process.serving();
        let known = serving.known();
        Self { _serving: serving, known }
    }

    /// Waits until they are these.
    async fn are(&mut self, wanted: &[&str]) -> Arc<[Dlx]> {
        let these = |known: &ReadyDlxs| {
            known.as_ref().is_some_and(|dlxs| dlxs.iter().map(|dlx| &*dlx.name).eq(wanted.iter().copied()))
        };
        let known = soon(self.known.wait_for(these)).await.unwrap().clone();
        known.unwrap()
    }
}

impl Site {
    async fn ready(&self, pod: &str, ready: &str) {
        self.status(pod, json!({"conditions": [{"type": "Ready", "status": ready}]})).await;
    }

    /// A pod of a DLX that has registered and takes requests; its name as a member.
    async fn dlx(&self, pod: &str, ip: &str) -> String {
        self.dlx_at(pod, ip, "[::]:8090").await
    }

    /// The same; where it listens.
    async fn dlx_at(&self, pod: &str, ip: &str, listen: &str) -> String {
        self.pod(pod, ip).await;
        self.status(pod, json!({"podIPs": [{"ip": ip}, {"ip": "fd00::7"}]})).await;
        let process = self.process("dlx", Some(pod)).await;
        let registration = soon(process.register(
            "[::]:8091".parse().unwrap(),
            listen.parse().unwrap(),
            |why| panic!("{why}"),
        ))
        .await
        .unwrap();
        self.ready(pod, "True").await;
        registration.name().to_owned()
    }

    async fn delete(&self, pod: &str) {
        self.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

/// However short a time they were there: whoever only reads the members now and then would not know of them.
#[tokio::test(flavor = "multi_thread")]
async fn who_registered_is_known_after_it_left() {
    let site = Site::start().await;
    let process = Coordinator::Leases(site.process("autoscaler", Some("autoscaler-0")).await);
    let serving = process.serving();
    let mut registered = serving.registered();
    let mut names = Vec::new();
    for (pod, ip) in [("dlx-0", "10.244.0.5"), ("dlx-1", "10.244.0.6")] {
        names.push(site.dlx(pod, ip).await);
        site.delete(pod).await;
        site.api::<Lease>().delete(pod, &DeleteParams::default()).await.ok();
    }
    let all = |known: &daemon::members::registered::Registered| {
        names.iter().all(|name| known.names.iter().any(|known| **known == **name))
    };
    soon(registered.wait_for(all)).await.unwrap();
    assert_eq!(registered.borrow().lost, 0);
}

/// Whoever comes and goes before the first list, or while the watch cannot be begun, nobody sees.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_registrations_are_reported() {
    let site = Site::start().await;
    let faults = site.cluster.faults();
    let of = |verb: &str| Filter::any().resource("leases").verb(verb);
    let lists = faults.refuse(of("list"), u32::MAX, Refusal::InternalError);
    let process = Coordinator::Leases(site.process("autoscaler", Some("autoscaler-0")).await);
    let serving = process.serving();
    let mut registered = serving.registered();
    soon(until(|| faults.refusals_left() < u32::MAX)).await;
    assert!(registered.borrow().unknown);
    lists.end();
    soon(registered.wait_for(|known| !known.unknown)).await.unwrap();
    assert_eq!(registered.borrow().lost, 0);
    let watches = faults.refuse(of("watch"), 1, Refusal::InternalError);
    faults.drop_watches(Filter::any().resource("leases"));
    soon(registered.wait_for(|known| known.lost == 1)).await.unwrap();
    watches.end();
}

/// A watch that cannot go on where it stood lists anew, which may take its time.
#[tokio::test(flavor = "multi_thread")]
async fn who_registered_is_not_known_until_they_are_listed_anew() {
    let site = Site::start().await;
    let process = Coordinator::Leases(site.process("autoscaler", Some("autoscaler-0")).await);
    let serving = process.serving();
    let mut registered = serving.registered();
    soon(registered.wait_for(|known| !known.unknown)).await.unwrap();
    let faults = site.cluster.faults();
    let noise: Node = from_value(json!({"metadata": {"name": "noise"}})).unwrap();
    Api::all(site.cluster.client().unwrap()).create(&PostParams::default(), &noise).await.unwrap();
    let leases = || Filter::any().resource("leases");
    let lists = faults.refuse(leases().verb("list"), u32::MAX, Refusal::InternalError);
    site.cluster.compact();
    faults.drop_watches(leases());
    soon(registered.wait_for(|known| known.unknown)).await.unwrap();
    assert!(registered.borrow().lost > 0);
    lists.end();
    soon(registered.wait_for(|known| !known.unknown)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_takes_requests_from_its_readiness_to_its_end() {
    let site = Site::start().await;
    let mut watched = Watched::start(&site, "autoscaler").await;
    watched.are(&[]).await;
    let first = site.dlx("dlx-0", "10.244.0.5").await;
    let dlxs = watched.are(&[&first]).await;
    assert_eq!(
        dlxs[0].addresses,
        ["10.244.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::7".parse().unwrap()]
    );
    // Registered and not Ready: not yet, or no more.
    site.ready("dlx-0", "False").await;
    watched.are(&[]).await;
    site.ready("dlx-0", "True").await;
    let second = site.dlx("dlx-1", "10.244.0.6").await;
    let mut both = [&*first, &*second];
    both.sort_unstable();
    watched.are(&both).await;
    // Being deleted, however long that takes.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["test/hold"]}}));
    site.api::<Pod>().patch("dlx-1", &PatchParams::default(), &hold).await.unwrap();
    site.api::<Pod>().delete("dlx-1", &DeleteParams::default()).await.unwrap();
    watched.are(&[&first]).await;
    // Gone at once, though its Lease is still there.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["test/hold"]}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &hold).await.unwrap();
    site.delete("dlx-0").await;
    watched.are(&[]).await;
    // Another pod of that name is not the one that registered, until it does.
    site.pod("dlx-0", "10.244.0.8").await;
    site.ready("dlx-0", "True").await;
    let third = site.dlx("dlx-2", "10.244.0.7").await;
    watched.are(&[&third]).await;
    site.delete("dlx-2").await;
    watched.are(&[]).await;
    site.delete("dlx-0").await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &free).await.unwrap();
    let again = site.dlx("dlx-0", "10.244.0.9").await;
    let dlxs = watched.are(&[&again]).await;
    assert_eq!(dlxs[0].addresses[0].to_string(), "10.244.0.9");
}

/// What listens on some of its pod's addresses is named by those alone: whoever was led to another would be refused.
#[tokio::test(flavor = "multi_thread")]
async fn one_is_named_by_the_addresses_that_it_listens_on() {
    let site = Site::start().await;
    let mut watched = Watched::start(&site, "autoscaler").await;
    let (four, six) = ("10.244.0.5", "fd00::7");
    for (number, (listen, reached)) in [
        ("[::]:8090", vec![four, six]),
        ("0.0.0.0:8090", vec![four]),
        ("10.244.0.5:8090", vec![four]),
        ("[::ffff:10.244.0.5]:8090", vec![four]),
        ("[fd00::7]:8090", vec![six]),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = format!("dlx-{number}");
        let name = site.dlx_at(&pod, four, listen).await;
        let dlxs = watched.are(&[&name]).await;
        let addresses: Vec<_> = dlxs[0].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, reached, "{listen}");
        site.delete(&pod).await;
        watched.are(&[]).await;
    }
    // Reached by nobody, it is none that could be led to.
    site.dlx_at("dlx-lo", four, "127.0.0.1:8090").await;
    let other = site.dlx("dlx-other", "10.244.0.6").await;
    watched.are(&[&other]).await;
    // An earlier version does not say where.
    let silent = Patch::Merge(json!({"metadata": {"annotations": {"scaler.dev/listen-address": null}}}));
    site.api::<Lease>().patch("dlx-lo", &PatchParams::default(), &silent).await.unwrap();
    let named = |known: &ReadyDlxs| known.as_ref().is_some_and(|dlxs| dlxs.len() == 2);
    let known = soon(watched.known.wait_for(named)).await.unwrap().clone().unwrap();
    assert!(known.iter().all(|dlx| dlx.addresses.len() == 2), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_is_the_pods_or_its_nodes_or_none() {
    let site = Site::start().await;
    let node: Node =
        from_value(json!({"metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}}}))
            .unwrap();
    let nodes: Api<Node> = Api::all(site.cluster.client().unwrap());
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let place = async |pod: &str, labels: k8s_openapi::serde_json::Value, node: &str| {
        let all: Api<Pod> = site.api();
        let pod = json!({"metadata": {"name": pod, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "dlx", "image": "dlx"}]}});
        all.create(&PostParams::default(), &from_value(pod).unwrap()).await.unwrap();
    };
    place("dlx-0", json!({}), "node-a").await;
    place("dlx-1", json!({"topology.kubernetes.io/zone": "z2"}), "node-a").await;
    place("dlx-2", json!({}), "node-b").await;
    let mut names = Vec::new();
    for (number, pod) in ["dlx-0", "dlx-1", "dlx-2"].into_iter().enumerate() {
        let ip = format!("10.244.0.{}", number + 5);
        site.status(pod, json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]})).await;
        let process = site.process("dlx", Some(pod)).await;
        let member = soon(process.register(
            "[::]:8091".parse().unwrap(),
            "[::]:8090".parse().unwrap(),
            |why| panic!("{why}"),
        ))
        .await
        .unwrap();
        names.push(member.name().to_owned());
        site.ready(pod, "True").await;
    }
    let of = |dlxs: &[Dlx]| -> Vec<_> {
        dlxs.iter().map(|dlx| (dlx.node.clone().unwrap(), dlx.zone.clone())).collect()
    };
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let zone = |zone: &str| Some(zone.to_owned());
    let mut watched = Watched::start(&site, "autoscaler").await;
    let told = of(&watched.are(&names).await);
    assert_eq!(
        told,
        [("node-a".to_owned(), zone("z1")), ("node-a".to_owned(), zone("z2")), ("node-b".to_owned(), None)]
    );
    // Each node is asked for once.
    assert_eq!(site.cluster.requests().of(&Filter::any().verb("get").resource("nodes")), 2);

    // Without the right they are named all the same.
    site.allow("blind", &crate::RULES[1].1).await;
    let mut blind = Watched::start(&site, "blind").await;
    let told = of(&blind.are(&names).await);
    assert_eq!(told[0], ("node-a".to_owned(), None));
    assert_eq!(told[1], ("node-a".to_owned(), zone("z2")));
}

/// All that was told while the API failed in one way after the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_not_forgotten() {
    let site = Site::start().await;
    let first = site.dlx("dlx-0", "10.244.0.5").await;
    let second = site.dlx("dlx-1", "10.244.0.6").await;
    let mut both = [&*first, &*second];
    both.sort_unstable();
    let mut watched = Watched::start(&site, "autoscaler").await;
    watched.are(&both).await;
    let all = Arc::new(Mutex::new(Vec::new()));
    let (mut known, seen) = (watched.known.clone(), all.clone());
    known.mark_unchanged();
    let recorder = tokio::spawn(async move {
        while known.changed().await.is_ok() {
            let dlxs = known.borrow_and_update().clone().unwrap();
            seen.lock().unwrap().push(dlxs.len());
        }
    });
    let faults = site.cluster.faults();
    for resource in ["pods", "leases"] {
        let of = || Filter::any().resource(resource);
        // Its watch ends, from where it stood it cannot go on, and to list it anew fails.
        let noise: Node =
            from_value(json!({"metadata": {"name": format!("other-than-{resource}")}})).unwrap();
        Api::all(site.cluster.client().unwrap()).create(&PostParams::default(), &noise).await.unwrap();
        let lists = faults.refuse(of().verb("list"), 2, Refusal::InternalError);
        site.cluster.compact();
        faults.drop_watches(of());
        soon(until(|| faults.refusals_left() == 0)).await;
        lists.end();
    }
    // A watch that stalls tells nothing of what happens meanwhile.
    let stall = faults.stall_watches(Filter::any().resource("pods"));
    site.ready("dlx-1", "False").await;
    let outage = faults.outage();
    outage.end();
    stall.end();
    watched.are(&[&first]).await;
    site.ready("dlx-1", "True").await;
    watched.are(&both).await;
    drop(watched);
    soon(recorder).await.unwrap();
    assert_eq!(*all.lock().unwrap(), [1, 2]);
}

/// The folder cannot be had, and is removed later.
#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_watched_is_tried_again() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("members");
    std::fs::write(&folder, "in its place").unwrap();
    let serving = Coordinator::Files(state.path().to_owned()).serving();
    let mut registered = serving.registered();
    assert!(registered.borrow().unknown);
    soon(registered.wait_for(|known| known.lost > 0)).await.unwrap();
    assert!(registered.borrow().unknown);
    std::fs::remove_file(&folder).unwrap();
    soon(registered.wait_for(|known| !known.unknown)).await.unwrap();
    std::fs::remove_dir(&folder).unwrap();
    soon(registered.wait_for(|known| known.unknown)).await.unwrap();
    soon(registered.wait_for(|known| !known.unknown)).await.unwrap();
    let member = daemon::members::files::register(state.path(), "127.0.0.1:8091".parse().unwrap()).unwrap();
    soon(registered.wait_for(|known| known.names.iter().any(|name| **name == *member.name()))).await.unwrap();
}

/// On one host nothing is led.
#[tokio::test]
async fn by_files_it_is_never_known() {
    let serving = Coordinator::Files("nowhere".into()).serving();
    let mut known = serving.known();
    assert!(known.borrow_and_update().is_none());
    assert!(!known.has_changed().unwrap());
}
