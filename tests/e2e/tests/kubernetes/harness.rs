//! The harness of the interception tests, without any daemon: Services on nodes that lag, their endpoints, and how those are seen.

use std::{sync::atomic::Ordering, time::Duration};

use e2e::{
    journal::Verdict,
    kubernetes::{
        Setting, Shop, Snapshot, Workload, WorkloadView, needs_devcluster,
        protocols::{Database, postgres, psql, redis},
        run,
        shop::Part,
    },
    load::{self, Lines, Lost, Outcome, WebSocket, get},
    random::{self, Random},
    traffic::{Clients, Shared},
};
use scaler_types::{Backend, Phase};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::Instant};

/// A cluster without daemons, whose nodes follow at once.
async fn bare() -> Shop {
    let setting = Setting { autoscalers: 0, dlxs: 0, ..Setting::intercepting() };
    let shop = Shop::open_with(setting).await;
    shop.nodes_hear_at_once();
    shop
}

/// Creates an unmanaged workload, and waits until every node sends to so many endpoints of it.
async fn start(shop: &Shop, workload: &Workload, port: u16, endpoints: usize) {
    shop.create(&workload.service()).await;
    shop.create(&workload.object()).await;
    shop.until_port_sends(workload, port, |known| known.len() == endpoints).await;
}

fn dlx_slice(endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-scaler-ipv4", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "scaler.dev"},
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 20_000}],
    })
}

#[test]
fn load_by_services_finds_what_is_lost_and_nothing_else() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = bare().await;
        let web = Workload::new(&shop, "web").unmanaged().replicas(2).lines();
        start(&shop, &web, 80, 2).await;
        start_lines(&shop, &web).await;
        let lines = shop.service(&web, 81).await;
        let way = shop.way(&web).await.lines(lines).pool(4);
        let shared = Shared::new(random::seed());
        let (mut clients, mut random) = (Clients::new(shared.clone(), way), Random::new(1, 1));
        clients.burst(Instant::now() + Duration::from_secs(1), &mut random).await;
        let verdict = || Verdict::of(&shared.ledger, [web.read()]);
        let whole = verdict();
        println!("{whole}");
        whole.assert_nothing_lost();
        assert!(whole.answered > 20, "{whole}");
        // Both pods, and both nodes.
        let by = |outcome: Outcome| if let Outcome::Answered { by } = outcome { by } else { String::new() };
        let all: std::collections::BTreeSet<_> = shared.ledger.all().into_values().map(by).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        let counts = shop.proxy().counts("shop", "web");
        assert!(counts.forwarded > 10 && counts.refused == 0, "{counts:?}");

        // Nodes that do not follow go on sending to endpoints that are gone.
        (0..shop.proxy().nodes()).for_each(|node| shop.proxy().freeze(node));
        shop.patch(&web, json!({"spec": {"replicas": 0}})).await;
        e2e::until("no pod to be left", || async {
            let left = shop.pods_of(&web).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        clients.burst(Instant::now() + Duration::from_millis(300), &mut random).await;
        shared.stop.store(true, Ordering::Relaxed);
        let verdict = verdict();
        println!("{verdict}");
        assert!(!verdict.lost.is_empty() && verdict.exact(), "{verdict}");
        assert!(shop.proxy().counts("shop", "web").refused > 0);
    });
}

async fn start_lines(shop: &Shop, web: &Workload) {
    shop.until_port_sends(web, 81, |known| known.len() == 2).await;
}

/// What is between closes first and resets a little later.
#[test]
fn a_close_that_crosses_a_request_through_a_service_is_not_taken_for_a_loss() {
    if needs_devcluster("is an endpoint itself") {
        return;
    }
    run(async {
        let shop = bare().await;
        let web = Workload::new(&shop, "web");
        shop.create(&web.service()).await;
        let listener = TcpListener::bind("10.244.200.1:20000").await.unwrap();
        shop.create(&dlx_slice(&json!([{"addresses": ["10.244.200.1"]}]))).await;
        shop.reached(&web).await;
        let address = shop.service(&web, 80).await[0];
        // So often that the reset is not always there as soon as it is looked for.
        let crossed = std::iter::repeat_n(false, 100);
        for received in crossed.chain([true]) {
            let (lines, accepted) = tokio::join!(Lines::open(address), listener.accept());
            let (mut lines, (mut endpoint, _)) = (lines.unwrap(), accepted.unwrap());
            let outcome = if received {
                let read = async {
                    let _ = endpoint.read(&mut [0; 16]).await;
                    drop(endpoint);
                };
                tokio::join!(lines.send_blind("1"), read).0
            } else {
                drop(endpoint);
                e2e::until("the close to arrive", || async {
                    if lines.usable() { Err("it is open".to_owned()) } else { Ok(()) }
                })
                .await;
                lines.send_blind("1").await
            };
            assert_eq!(matches!(outcome, Outcome::Lost(Lost::NoAnswer(_))), received, "{outcome:?}");
            assert_eq!(outcome == Outcome::Crossed, !received, "{outcome:?}");
        }
    });
}

#[test]
fn an_application_that_drains_loses_nothing_where_one_that_exits_does() {
    run(async {
        let shop = bare().await;
        let exits = Workload::new(&shop, "exits").unmanaged();
        let drains = Workload::new(&shop, "drains").unmanaged().drains(Duration::from_millis(200));
        for workload in [&exits, &drains] {
            start(&shop, workload, 80, 1).await;
        }
        let mut outcomes = Vec::new();
        for workload in [&exits, &drains] {
            let address = shop.service(workload, 80).await[1];
            let request = get(&workload.host(), "/slow/2000", "in flight");
            let in_flight = tokio::spawn(async move { load::once(address, &request).await });
            e2e::until("the request to arrive", || async {
                let there = workload.read().requests.contains_key("in flight");
                if there { Ok(()) } else { Err(String::new()) }
            })
            .await;
            shop.patch(workload, json!({"spec": {"replicas": 0}})).await;
            outcomes.push(in_flight.await.expect("a client's task").map(|answer| answer.status));
        }
        assert!(outcomes[0].is_err(), "{outcomes:?}");
        assert_eq!(outcomes[1], Ok(200));
    });
}

#[test]
fn grpc_and_websockets_pass_through_services() {
    run(async {
        let shop = bare().await;
        let web = Workload::new(&shop, "web").unmanaged();
        start(&shop, &web, 80, 1).await;
        for (node, address) in shop.service(&web, 80).await.into_iter().enumerate() {
            let outcome = load::call(address, &web.host(), &format!("call-{node}")).await;
            assert!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
            let mut socket = WebSocket::open(address, &web.host(), &format!("socket-{node}")).await.unwrap();
            socket.echo("hello").await.unwrap();
            socket.ping().await.unwrap();
            socket.echo(&"long ".repeat(5_000)).await.unwrap();
            socket.close().await.unwrap();
        }
        let requests = web.read().requests;
        assert!(["call-0", "call-1", "socket-0", "socket-1"].iter().all(|id| requests.contains_key(*id)));
    });
}

#[test]
fn redis_is_a_pod_that_keeps_its_data() {
    if needs_devcluster("runs programs of this machine as pods") {
        return;
    }
    run(async {
        let shop = bare().await;
        let database = Database::redis(&shop, "cache").with(Workload::unmanaged);
        start(&shop, &database.workload, 6379, 1).await;
        let addresses = shop.service(&database.workload, 6379).await;
        assert_eq!(redis(addresses[0], &["SET", "colour", "blue"]).await.as_deref(), Ok("OK"));
        again(&shop, &database, 6379).await;
        assert_eq!(redis(addresses[1], &["GET", "colour"]).await.as_deref(), Ok("blue"));
        redis(addresses[1], &["NONSENSE"]).await.unwrap_err();
    });
}

#[test]
fn postgresql_is_a_pod_that_keeps_its_data() {
    if needs_devcluster("runs programs of this machine as pods") {
        return;
    }
    run(async {
        if let Err(why) = postgres() {
            println!("not proved: {why}");
            return;
        }
        let shop = bare().await;
        let database = Database::postgres(&shop, "db").with(Workload::unmanaged);
        start(&shop, &database.workload, 5432, 1).await;
        let addresses = shop.service(&database.workload, 5432).await;
        let made =
            psql(addresses[0], "CREATE TABLE colours (name text); INSERT INTO colours VALUES ('blue')").await;
        assert_eq!(made.as_deref(), Ok(""));
        again(&shop, &database, 5432).await;
        assert_eq!(psql(addresses[1], "SELECT name FROM colours").await.as_deref(), Ok("blue"));
        psql(addresses[1], "SELECT nothing").await.unwrap_err();
        // Killed, it is started again in its pod, and nothing of it was left in the way.
        let pod = shop.pods_of(&database.workload).await.remove(0);
        shop.kill(&pod);
        e2e::until("it to answer again", || psql(addresses[0], "SELECT name FROM colours")).await;
        assert_eq!(shop.pods_of(&database.workload).await, [pod]);
    });
}

/// To zero and back.
async fn again(shop: &Shop, database: &Database, port: u16) {
    for replicas in [0, 1] {
        shop.patch(&database.workload, json!({"spec": {"replicas": replicas}})).await;
        shop.until_port_sends(&database.workload, port, |known| known.len() == replicas).await;
    }
}

#[test]
fn an_interception_is_seen_and_undone_it_is_as_before() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let shop = bare().await;
        let web = Workload::new(&shop, "web").unmanaged();
        start(&shop, &web, 80, 1).await;
        let before = shop.snapshot().await;
        let own = shop.until_restored(&web).await;
        assert_eq!((own.backend(), own.state(), own.replicas()), (Backend::Workload, None, 1));
        // Manually, as the leader does it.
        shop.create(&dlx_slice(&json!([{"addresses": ["10.244.9.9"]}]))).await;
        let both = shop.until_seen(&web, "both", |seen| seen.backend() == Backend::Both).await;
        assert_eq!((both.has_selector_key(), both.ours().count(), both.state()), (false, 1, None));
        shop.merge(&web.service(), json!({"spec": {"selector": {"scaler.dev/intercepted": "1"}}})).await;
        let record = json!({"phase":"asleep"}).to_string();
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/state": record}}})).await;
        let asleep = shop.until_seen(&web, "a record", |seen| seen.state() == Some(Phase::Asleep)).await;
        assert!(asleep.has_selector_key());
        shop.until_intercepted(&web).await;
        let differences = before.differences(&shop.snapshot().await);
        let parts = [
            "Deployment web /metadata /annotations",
            "EndpointSlice web-scaler-ipv4",
            "Service web /spec /selector",
        ];
        assert_eq!(differences.len(), 3, "{differences:?}");
        assert!(
            differences.iter().zip(parts).all(|(difference, part)| difference.starts_with(part)),
            "{differences:?}"
        );

        shop.merge(&web.service(), json!({"spec": {"selector": {"scaler.dev/intercepted": null}}})).await;
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/state": null}}})).await;
        shop.remove(&dlx_slice(&Value::Null)).await;
        shop.until_restored(&web).await;
        let after: Snapshot = shop.snapshot().await;
        before.assert_equal(&after);
    });
}

#[test]
fn a_daemon_is_killed_at_the_moment_its_record_says_something() {
    if needs_devcluster("kills a process") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { autoscalers: 1, ..Setting::default() }).await;
        let web = Workload::new(&shop, "web");
        let draining = |seen: &WorkloadView| seen.state() == Some(Phase::Draining);
        let ((), (leader, seen)) =
            tokio::join!(shop.deploy(&web), shop.kill_leader_at(&web, "a drain attempt", draining));
        assert_eq!(seen.replicas(), 1);
        e2e::until("it to be started again in its pod", || async {
            let pods = shop.pods(Part::Autoscaler).await;
            let pod =
                pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&leader)).ok_or("no such pod")?;
            let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
            match status.map(|status| status.restart_count) {
                Some(1..) => Ok(()),
                other => Err(format!("{other:?} restarts")),
            }
        })
        .await;
        // The next leader continues from the record.
        shop.asleep(&web).await;
    });
}
