//! Workers of a queue: from none to many, to fewer, and to none again, by what waits in a real broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use devcluster::{Filter, netns};
use e2e::{
    kubernetes::{
        Setting, Shop, Workload,
        broker::{self, ALLOWED},
        needs_devcluster, run,
        shop::Part,
    },
    load::{get, once},
    until,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::leaders::holds;

const TUBE: &str = "mails";
/// Where the example's Redis is reached, which listens on all addresses.
const REDIS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 255, 2));
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The delay of the patch of a step down, so that the leader can be killed before it arrives.
const STEP_TAKES: Duration = Duration::from_secs(2);

/// A pod that is ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worker {
    name: String,
    address: SocketAddr,
    marked: bool,
}

/// With the right to mark pods.
fn setting() -> Setting {
    let values = "autoscaler: {podDeletionCost: true}\n".to_owned();
    let setting = Setting { values, ..Setting::default() };
    setting.with(ALLOWED)
}

/// As docs/queue-workers.md annotates it, but for the times.
fn mailer(shop: &Shop) -> Workload {
    Workload::new(shop, "mailer")
        .unmanaged()
        .annotation("scale-to-zero", "1s")
        .annotation("queue", &broker::queue(TUBE))
        .annotation("messages-per-replica", "20")
        .annotation("max-replicas", "30")
        .annotation("scale-down-delay", "1s")
        .annotation("busy-probe", "http://:8080/busy")
}

/// The workers that are ready, once there are so many and no others are left.
async fn workers(shop: &Shop, mailer: &Workload, count: usize) -> BTreeSet<Worker> {
    let pods: Api<Pod> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    let of = ListParams::default().labels(&format!("app={}", mailer.name));
    until(&format!("{count} workers of {}", mailer.id()), || async {
        let all = pods.list(&of).await.map_err(|error| error.to_string())?.items;
        let ready: BTreeSet<_> = all.iter().filter_map(Worker::new).collect();
        if ready.len() == count && all.len() == count {
            return Ok(ready);
        }
        let (replicas, events) =
            (shop.object(mailer).await.data["spec"]["replicas"].clone(), shop.events(mailer).await);
        Err(format!("{} pods, {} ready, {replicas} replicas; {events:#?}", all.len(), ready.len()))
    })
    .await
}

/// Has a worker say from now on that it has work, or that it has none.
async fn say(worker: &Worker, busy: bool) {
    let path = if busy { "/busy/on" } else { "/busy/off" };
    let answer = once(worker.address, &get("worker", path, "busy")).await.expect("an answer");
    assert_eq!(answer.status, 200);
}

fn names(workers: &BTreeSet<Worker>) -> Vec<&str> {
    workers.iter().map(|worker| worker.name.as_str()).collect()
}

/// The leader's process is killed, and another autoscaler is the leader at once.
async fn change_leader(shop: &Shop) {
    let leader = shop.leader_pod().await;
    shop.kill(&leader);
    holds(shop, "").await;
    println!("{leader} was killed");
}

// === impl Worker ===

impl Worker {
    fn new(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let is_ready =
            status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
        let address = SocketAddr::new(status.pod_ip.as_ref()?.parse().ok()?, 8080);
        let marked = pod.annotations().contains_key(COST);
        (is_ready && pod.metadata.deletion_timestamp.is_none()).then(|| Self {
            name: pod.name_any(),
            address,
            marked,
        })
    }
}

#[test]
fn workers_go_from_none_to_many_to_fewer_and_to_none_while_leaders_are_killed() {
    if needs_devcluster("starts a broker in its network, and kills processes") {
        return;
    }
    run(async {
        let shop = Shop::open_with(setting()).await;
        let (_broker, mailer) = (broker::start(shop.folder()).await, mailer(&shop));
        shop.create(&mailer.object()).await;
        shop.asleep(&mailer).await;
        broker::put(TUBE, 100).await;
        workers(&shop, &mailer, 5).await;
        shop.event(&mailer, "Woken: Woken with ").await;
        change_leader(&shop).await;
        broker::put(TUBE, 20).await;
        let all = workers(&shop, &mailer, 6).await;
        shop.event(&mailer, "ScaledUp: Scaled up from 5 to 6").await;

        // The leader is killed after it marked pods, and before its step down arrives.
        let busy: BTreeSet<_> = all.iter().step_by(3).cloned().collect();
        for worker in &busy {
            say(worker, true).await;
        }
        let patches = Filter::any().user(Part::Autoscaler.user()).verb("patch").resource("deployments");
        let late = shop.cluster().faults().latency(patches, STEP_TAKES);
        broker::take(TUBE, 95).await;
        until("idle workers to be marked", || async {
            let pods: Api<Pod> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
            let pods = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let marked = pods.items.iter().filter_map(Worker::new).filter(|worker| worker.marked).count();
            if marked > 0 { Ok(()) } else { Err(shop.logs("autoscaler", 10)) }
        })
        .await;
        change_leader(&shop).await;
        late.end();
        let left = workers(&shop, &mailer, 2).await;
        assert_eq!(names(&left), names(&busy), "those that have work stay");
        shop.event(&mailer, "ScaledDown: ").await;

        // The queue is empty, but the workers are busy: none is removed.
        broker::take(TUBE, 100).await;
        shop.event(&mailer, "its 2 pods may have work").await;
        assert_eq!(names(&workers(&shop, &mailer, 2).await), names(&busy));
        for worker in &left {
            say(worker, false).await;
        }
        shop.asleep(&mailer).await;
        shop.event(&mailer, "ScaledToZero: ").await;
    });
}

#[test]
fn without_any_dlx_a_stateful_worker_wakes_loses_only_idle_last_ones_and_sleeps() {
    if needs_devcluster("starts a broker in its network") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { autoscalers: 1, dlxs: 0, ..setting() }).await;
        let _broker = broker::start(shop.folder()).await;
        let mailer =
            mailer(&shop).stateful().annotation("messages-per-replica", "1").annotation("max-replicas", "3");
        shop.create(&mailer.object()).await;
        shop.asleep(&mailer).await;
        broker::put(TUBE, 7).await;
        let all: Vec<_> = workers(&shop, &mailer, 3).await.into_iter().collect();
        say(&all[1], true).await;
        broker::take(TUBE, 6).await;
        let left = workers(&shop, &mailer, 2).await;
        assert_eq!(names(&left), ["mailer-0", "mailer-1"], "the last one that has no work");
        shop.event(&mailer, "1 of its 2 pods may have work (mailer-1: its busy probe answers 200)").await;
        say(&all[1], false).await;
        broker::take(TUBE, 1).await;
        shop.asleep(&mailer).await;
    });
}

/// examples/kubernetes/workers.yaml with its namespace file, but a shorter window and fewer messages per replica.
#[test]
fn the_example_of_workers_works_its_queue_off_and_sleeps() {
    if needs_devcluster("names a broker in its network") {
        return;
    }
    run(async {
        let values = fs::read_to_string(deploy::root().join("examples/kubernetes/values.yaml"))
            .expect("reading the values");
        let values: Value = serde_yaml::from_str(&values).expect("the values are YAML");
        let sources = format!("metricSources: {}\n", values["namespaces"]["shop"]["metricSources"]);
        let mut setting = Setting { autoscalers: 1, dlxs: 1, ..Setting::default() }.with(&sources);
        setting.images = BTreeMap::from([("redis:8".to_owned(), "redis-server".to_owned())]);
        let shop = Shop::open_with(setting).await;
        netns::set_host_names(&shop.folder().join("hosts"), &[(REDIS, "redis.shop")]);
        for object in deploy::file("examples/kubernetes/workers.yaml") {
            shop.create(&serde_json::to_value(object).expect("an object is JSON")).await;
        }
        let mailer = Workload::new(&shop, "mailer");
        let annotations = json!({"scaler.dev/scale-to-zero": "1s", "scaler.dev/messages-per-replica": "4"});
        shop.patch(&mailer, json!({"metadata": {"annotations": annotations}})).await;
        shop.asleep(&mailer).await;
        // All at once: the first alone would wake one.
        let messages = "for _ = 1, 6 do redis.call('XADD', 'mails', '*', 'to', 'someone@example.com') end";
        redis(&["EVAL", messages, "0"]);
        shop.event(&mailer, "Woken: Woken with 2 replicas").await;
        shop.asleep(&mailer).await;
        let group = redis(&["XINFO", "GROUPS", "mails"]);
        for (field, value) in [("pending", "0"), ("entries-read", "6"), ("lag", "0")] {
            let is = group.lines().skip_while(|line| *line != field).nth(1);
            assert_eq!(is, Some(value), "{field}: {group}");
        }
    });
}

/// What `redis-cli` says of the example's Redis.
fn redis(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-h", "redis.shop"]).args(arguments).output();
    let output = output.expect("starting redis-cli: apt-get install redis-tools");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
