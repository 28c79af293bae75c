//! What the admin port shows of interceptions.

use std::time::Duration;

use bytes::Bytes;
use daemon::{reports::Dropped, telemetry::ResourceMetrics};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use scaler_types::{Backend, Interception, Resource, protocol::Rules};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    cycle::{Cycle, CycleContext},
    interception::{self, Interceptor},
    observe::kubernetes::ClusterClient,
    plugin::ActivePlugin,
    telemetry::AutoscalerMetrics,
    testing::{KIND, LONG, Store, id, members, serving_dlxs},
};

async fn get(handler: &Handler) -> Value {
    let answer = handler(Request::new(Bytes::new())).await;
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_backend_of_an_interception_and_the_next_one() {
    let store = Store::with(["plain"]);
    let mut web = Resource::new(id("web"));
    web.replicas = 1;
    let dlxs = vec!["a".to_owned()];
    web.interception = Some(Interception {
        backend: Backend::Both,
        in_sync: true,
        workload_ready: true,
        dlxs,
        ..Interception::default()
    });
    store.put(web);
    let mut shy = Resource::new(id("shy"));
    shy.replicas = 1;
    shy.interception = Some(Interception {
        requested: true,
        refusal: "no port is free".to_owned(),
        ..Interception::default()
    });
    store.put(shy);
    let state = tempfile::tempdir().unwrap();
    let (_dlxs, dlxs) = serving_dlxs(&["a"]);
    let context = CycleContext {
        members: members(state.path(), LONG),
        metrics: AutoscalerMetrics::new(&mut Registry::default()),
        cluster: ClusterClient::default(),
        dropped: Dropped::default(),
        dlxs: dlxs.clone(),
        rules: Rules::default(),
        stop: CancellationToken::new(),
    };
    let (_set_active, active) =
        watch::channel(ActivePlugin { plugin: Arc::new(store.clone()), settings: Arc::default() });
    let (states, interceptions, view) =
        (Arc::<Mutex<ResourceStates>>::default(), InterceptionTable::default(), AdminView::default());
    let state = states.clone();
    let (request_sleep, sleep_requests) = mpsc::channel(1);
    let shown = CycleView {
        states: states.clone(),
        interceptions: interceptions.clone(),
        scaling: ScalingTable::default(),
        dlxs,
        request_sleep,
        active: active.clone(),
    };
    view.set_cycle((KIND.to_owned(), "demo".to_owned()), Some(shown));
    let interceptor = interception::InterceptorContext {
        metrics: context.metrics.clone(),
        dropped: Dropped::default(),
        dlxs: context.dlxs.clone(),
        wakes: daemon::wakes::Wakes::new(daemon::wakes::DEFAULT),
        stop: context.stop.clone(),
    };
    tokio::spawn(Interceptor::new(active.clone(), "demo", interceptor, interceptions.clone()).run());
    tokio::spawn(
        Cycle::new(
            active,
            "demo",
            context.clone(),
            states,
            interceptions,
            ScalingTable::default(),
            sleep_requests,
        )
        .run(),
    );
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock moves when everybody waits: this is what moves it"
    )]
    tokio::time::sleep(Duration::from_secs(10)).await;
    {
        let mut state = state.lock().unwrap();
        let web = state.resources.get_mut(&id("web")).unwrap();
        // Two attempts that a DLX did not answer.
        web.failed_drains.insert(("reverted", "unreachable"), 2);
        // Four wakes.
        let mut resource = web.resource.clone();
        for replicas in [0, 1].repeat(4) {
            resource.replicas = replicas;
            web.wakes.observe(Instant::now(), &resource, Duration::ZERO);
        }
    }

    let answer = get(&view.resources()).await;
    assert_eq!(answer["resources"][0]["interception"], Value::Null);
    assert_eq!(
        answer["resources"][2]["interception"],
        json!({
            "backend": "both", "since": "10s", "requested": false, "refusal": "", "in_sync": true, "intercepted_for": "0s",
            "dlxs": ["a"], "next_backend": "workload", "waiting_for": "the endpoint propagation delay, 20s left",
        })
    );
    let status = |is_leader| move || Status { is_leader, ..Status::default() };
    let leader = get(&view.leader(status(true), context.members.clone())).await;
    assert_eq!(leader["ready_dlxs"], json!([{"name": "a", "addresses": ["127.0.0.1"]}]));
    let other = get(&view.leader(status(false), context.members.clone())).await;
    assert_eq!(other["ready_dlxs"], Value::Null);
    let series = |resources| {
        let mut registry = daemon::telemetry::registry("autoscaler");
        registry.register_collector(Box::new(ResourceSeries { view: view.clone(), resources }));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page.lines().filter(|line| line.contains("name=\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let labels = |name: &str| format!("namespace=\"demo\",name=\"{name}\",kind=\"{KIND}\"");
    let refused = format!("scaler_refused{{{},what=\"interception\"}} 1", labels("shy"));
    let failed = format!(
        "scaler_failed_drains_total{{{},outcome=\"reverted\",reason=\"unreachable\"}} 2",
        labels("web")
    );
    let frequent = format!("scaler_autoscaler_frequent_wakes{{{}}} 4", labels("web"));
    let active = series(ResourceMetrics::Active);
    for line in [&refused, &failed, &frequent] {
        assert!(active.contains(line), "{line} in {active:#?}");
    }
    assert!(active.iter().all(|line| !line.ends_with(" 0")), "{active:#?}");
    let all = series(ResourceMetrics::All);
    let zero = format!("scaler_refused{{{},what=\"interception\"}} 0", labels("web"));
    assert!(all.contains(&refused) && all.contains(&zero), "{all:#?}");
    assert_eq!(series(ResourceMetrics::None), Vec::<String>::new());
    // A process that lost leadership knows nothing of it.
    context.stop.cancel();
    tokio::task::yield_now().await;
    let answer = get(&view.resources()).await;
    assert_eq!(answer["resources"][2]["interception"], Value::Null);
}
