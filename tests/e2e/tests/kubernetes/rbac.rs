//! The daemons work with the RBAC rights that the chart gives them, and ask for no others.

use e2e::kubernetes::{Shop, Workload, needs_devcluster, run, shop::Part};

/// Kinds that a cluster need not have: without them the daemons may not list them, nor need the rights.
const OPTIONAL: [&str; 2] = ["httproutes", "scaledobjects"];

#[test]
fn nothing_is_asked_for_that_the_manifests_do_not_allow() {
    if needs_devcluster("reads what the API answered to each user") {
        return;
    }
    run(async {
        let shop = Shop::open().await;
        let (web, db) = (Workload::new(&shop, "web"), Workload::new(&shop, "db").stateful());
        for workload in [&web, &db] {
            shop.deploy(workload).await;
            shop.asleep(workload).await;
            shop.served(workload, "one").await;
            shop.event(workload, "Woken").await;
        }
        // Another autoscaler becomes the leader, and another DLX registers and finds out that its predecessor is dead.
        let leader = shop.leader().await.expect("a leader");
        let pods = shop.pods(Part::Autoscaler).await;
        let names: Vec<String> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let pod = names.iter().find(|name| leader.starts_with(name.as_str())).expect("the leader's pod");
        shop.delete_pod(pod).await;
        let dlxs = shop.pods(Part::Dlx).await;
        shop.delete_pod(dlxs[0].metadata.name.as_deref().unwrap_or_default()).await;
        for (part, count) in [(Part::Autoscaler, 2), (Part::Dlx, 2)] {
            shop.ready(part, count).await;
        }
        for workload in [&web, &db] {
            shop.asleep(workload).await;
            shop.served(workload, "two").await;
        }
        let forbidden = shop.cluster().requests().forbidden();
        let of_daemons = forbidden.iter().filter(|(asked, _)| asked.user.contains("scaler-"));
        let surprising: Vec<_> =
            of_daemons.filter(|(asked, _)| !OPTIONAL.contains(&asked.resource.as_str())).collect();
        assert!(surprising.is_empty(), "answered 403: {surprising:#?}");
        assert!(shop.cluster().requests().all().keys().any(|asked| asked.user == Part::Dlx.user()));
    });
}
