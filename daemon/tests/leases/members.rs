//! Who is a member, and what proves that one is none any more.

use std::{net::SocketAddr, sync::Mutex};

use daemon::{coordination::Coordinator, members::Member};
use devcluster::{Filter, Refusal, User};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Pod},
    serde_json::json,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use tokio::task::JoinSet;

use crate::{HOME, Site, soon, until};

const EVERYWHERE: &str = "[::]:8091";

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 8090);

fn everywhere() -> SocketAddr {
    EVERYWHERE.parse().unwrap()
}

async fn names(autoscaler: &Coordinator) -> Vec<String> {
    autoscaler.members().await.unwrap().into_iter().map(|member| member.name).collect()
}

async fn register(site: &Site, pod: &str) -> daemon::members::leases::MemberLease {
    let process = site.process("dlx", Some(pod)).await;
    soon(process.register(everywhere(), LISTEN, |why| panic!("{why}"))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_one_from_its_registration_to_its_leaving() {
    let site = Site::start().await;
    let autoscaler = site.autoscaler().await;
    assert!(names(&autoscaler).await.is_empty());
    let pod = site.pod("dlx-0", "10.244.0.5").await;
    let member = register(&site, "dlx-0").await;
    let admin = "10.244.0.5:8091".parse().unwrap();
    let known = Member { name: member.name().to_owned(), admin };
    assert_eq!(autoscaler.members().await.unwrap(), [known]);
    let lease = site.lease("dlx-0").await.unwrap().metadata;
    assert_eq!(lease.owner_references.unwrap()[0].uid, pod.metadata.uid.unwrap());
    let format = &lease.annotations.unwrap()["scaler.dev/record-format"];
    assert_eq!(*format, scaler_types::Record::FORMAT.to_string());

    // What others put on it keeps it from nothing.
    let note = Patch::Merge(json!({"metadata": {"annotations": {"seen-by": "somebody"}}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &note).await.unwrap();
    soon(member.leave()).await;
    assert!(site.lease("dlx-0").await.is_none());
    assert!(names(&autoscaler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_container_proves_the_former_one_dead() {
    let site = Site::start().await;
    site.pod("dlx-0", "10.244.0.5").await;
    let former = register(&site, "dlx-0").await;
    let next = register(&site, "dlx-0").await;
    assert_eq!(names(&site.autoscaler().await).await, [next.name()]);
    // A former one that still could speak takes nothing away.
    soon(former.leave()).await;
    assert_eq!(names(&site.autoscaler().await).await, [next.name()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_pods_end_is_a_members() {
    let site = Site::start().await;
    let autoscaler = site.autoscaler().await;
    site.pod("dlx-0", "10.244.0.5").await;
    let member = register(&site, "dlx-0").await;

    // Being stopped, not ready, of unknown state: it may hold requests all the same.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["test/hold"]}}));
    site.api::<Pod>().patch("dlx-0", &PatchParams::default(), &hold).await.unwrap();
    site.api::<Pod>().delete("dlx-0", &DeleteParams::default()).await.unwrap();
    for phase in ["Running", "Unknown", "Pending"] {
        site.status("dlx-0", json!({"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}))
            .await;
        assert_eq!(names(&autoscaler).await, [member.name()], "{phase}");
    }
    for phase in ["Failed", "Succeeded"] {
        site.pod(phase.to_lowercase().as_str(), "10.244.0.6").await;
        register(&site, phase.to_lowercase().as_str()).await;
        assert_eq!(names(&autoscaler).await.len(), 2);
        site.status(phase.to_lowercase().as_str(), json!({"phase": phase})).await;
        assert_eq!(names(&autoscaler).await, [member.name()], "{phase}");
        // Whoever found it dead removed it.
        assert!(site.lease(phase.to_lowercase().as_str()).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_gone_or_another_proves_its_member_dead() {
    let site = Site::start().await;
    let autoscaler = site.autoscaler().await;
    site.pod("dlx-0", "10.244.0.5").await;
    register(&site, "dlx-0").await;
    // Nobody collects what is held, so that only the reader's own look can tell.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["test/hold"]}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &hold).await.unwrap();
    site.api::<Pod>().delete("dlx-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(names(&autoscaler).await.is_empty());
    site.pod("dlx-0", "10.244.0.6").await;
    assert!(names(&autoscaler).await.is_empty());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &free).await.unwrap();
    // The pod that has the name now has a Lease of its own.
    let next = register(&site, "dlx-0").await;
    assert_eq!(names(&autoscaler).await, [next.name()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_a_pod_a_member_stays_until_it_leaves() {
    let site = Site::start().await;
    let autoscaler = site.autoscaler().await;
    let process = site.process("dlx", None).await;
    let error = process.register(everywhere(), LISTEN, |why| panic!("{why}")).await.err().unwrap();
    assert!(error.to_string().contains("--admin-address"), "{error}");
    let members = [process, site.process("dlx", None).await].map(|process| async move {
        process.register("127.0.0.1:8091".parse().unwrap(), LISTEN, |why| panic!("{why}")).await.unwrap()
    });
    for (number, member) in members.into_iter().enumerate() {
        let member = soon(member).await;
        // Two on one host do not replace each other.
        assert!(names(&autoscaler).await.contains(&member.name().to_owned()));
        assert_eq!(names(&autoscaler).await.len(), 1);
        assert!(number < 2);
        soon(member.leave()).await;
    }
    assert!(names(&autoscaler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_an_error_and_says_what_to_do() {
    let site = Site::start().await;
    let autoscaler = site.autoscaler().await;
    site.pod("dlx-0", "10.244.0.5").await;
    let member = register(&site, "dlx-0").await;
    for resource in ["leases", "pods"] {
        let fault = site.cluster.faults().refuse(Filter::any().resource(resource), 1, Refusal::InternalError);
        let error = autoscaler.members().await.unwrap_err().to_string();
        assert!(error.contains(resource) && error.contains("500"), "{error}");
        fault.end();
        assert_eq!(names(&autoscaler).await, [member.name()]);
    }
    // A Lease that nobody understands might be a member's.
    let lost = Patch::Merge(json!({"metadata": {"annotations": {"scaler.dev/admin-address": "somewhere"}}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &lost).await.unwrap();
    let error = autoscaler.members().await.unwrap_err().to_string();
    assert!(error.contains("dlx-0") && error.contains("remove it"), "{error}");

    for (verb, resource) in [("get", "pods"), ("list", "leases")] {
        let user = User::service_account(HOME, "nobody");
        let rules = match verb {
            "list" => json!([]),
            _ => json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list"]}]),
        };
        site.allow("nobody", &rules).await;
        let fine =
            Patch::Merge(json!({"metadata": {"annotations": {"scaler.dev/admin-address": "10.0.0.1:1"}}}));
        site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &fine).await.unwrap();
        let nobody = Coordinator::Leases(site.process("nobody", Some("autoscaler-0")).await);
        let error = nobody.members().await.unwrap_err().to_string();
        let told = format!("needs the verb {verb} on {resource}");
        assert!(error.contains(&told) && error.contains(&user.to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_is_tried_until_the_api_is_there() {
    let site = Site::start().await;
    let told = Mutex::new(Vec::new());
    let process = site.process("dlx", Some("dlx-0")).await;
    let outage = site.cluster.faults().outage();
    let registering = process.register(everywhere(), LISTEN, |why| told.lock().unwrap().push(why));
    let order = async {
        until(|| told.lock().unwrap().len() > 1).await;
        outage.end();
        until(|| told.lock().unwrap().last().is_some_and(|why| why.contains("there is no pod dlx-0"))).await;
        site.pod("dlx-0", "10.244.0.5").await;
    };
    let (member, ()) = soon(async { tokio::join!(registering, order) }).await;
    assert_eq!(names(&site.autoscaler().await).await, [member.unwrap().name()]);
    let first = &told.lock().unwrap()[0];
    assert!(
        first.starts_with("this DLX is not registered yet: cannot get pods in namespace scaler"),
        "{first}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_survives_conflicts_and_refuses_what_is_not_its_own() {
    let site = Site::start().await;
    site.pod("dlx-0", "10.244.0.5").await;
    let former = register(&site, "dlx-0").await;
    let _fault =
        site.cluster.faults().refuse(Filter::any().verb("update").resource("leases"), 3, Refusal::Conflict);
    let next = register(&site, "dlx-0").await;
    assert_ne!(former.name(), next.name());

    let other = Patch::Merge(json!({"metadata": {"labels": {"scaler.dev/member": null}}}));
    site.api::<Lease>().patch("dlx-0", &PatchParams::default(), &other).await.unwrap();
    let process = site.process("dlx", Some("dlx-0")).await;
    let told = Mutex::new(String::new());
    let registering = process.register(everywhere(), LISTEN, |why| *told.lock().unwrap() = why);
    tokio::select! {
        _ = registering => panic!("it is somebody else's"),
        () = until(|| told.lock().unwrap().contains("not a DLX's")) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_readers_share_a_read() {
    let site = Site::start().await;
    site.pod("dlx-0", "10.244.0.5").await;
    register(&site, "dlx-0").await;
    let autoscaler = site.autoscaler().await;
    site.cluster.requests().reset();
    let latency =
        site.cluster.faults().latency(Filter::any().verb("list"), std::time::Duration::from_millis(50));
    let mut asking = JoinSet::new();
    for _ in 0..64 {
        let autoscaler = autoscaler.clone();
        asking.spawn(async move { autoscaler.members().await.unwrap().len() });
    }
    assert!(soon(asking.join_all()).await.into_iter().all(|members| members == 1));
    latency.end();
    let lists = site.cluster.requests().of(&Filter::any().verb("list").resource("leases"));
    assert!(lists <= 3, "{lists}");
    // Who asks later gets what is then.
    let pods: Api<Pod> = site.api();
    pods.delete("dlx-0", &DeleteParams::default()).await.unwrap();
    assert!(names(&autoscaler).await.is_empty());
}
