//! The cost of a cycle: `cargo test --release -p autoscaler --lib -- --ignored --nocapture ten_thousand`.

use std::{fs, thread};

use super::*;
use crate::testing::{Dlx, LONG, Store, members, serving_dlxs};

/// CPU time of this process's threads but those called `but`, in nanoseconds.
fn cpu(but: &str) -> u64 {
    let of = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
        (name.trim() != but).then(|| spent.split(' ').next()?.parse::<u64>().ok()).flatten()
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(|task| of(task.unwrap())).sum()
}

/// 10,000 resources, 3 DLXs, nothing to be scaled to zero; the DLXs' own CPU time is not counted, the plugin's copying of
/// 10,000 resources is.
#[tokio::test]
#[ignore = "a measurement"]
async fn ten_thousand_resources() {
    const RESOURCES: usize = 10_000;
    const CYCLES: u32 = 20;
    let state = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..RESOURCES).map(|number| format!("resource-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // As a busy place looks: idle by the window, but a moment ago scaled from zero.
    let store = Store::with(names.iter().copied());
    for resource in store.inner().resources.values_mut() {
        resource.last_scale_event = Some(scaler_types::ScaleEvent::ScaleFromZeroCompleted);
        resource.last_scale_event_time = Some("2026-01-01T00:00:00Z".to_owned());
        resource.hosts = vec![format!("{}.example.org", resource.id.name)];
        resource.endpoints = vec![scaler_types::Endpoint::new("10.0.0.1:8080", "1")];
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let (folder, owned): (_, Vec<String>) =
        (state.path().to_owned(), names.iter().map(ToString::to_string).collect());
    thread::Builder::new()
        .name("dlx".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let names: Vec<_> = owned.iter().map(String::as_str).collect();
                let dlxs: Vec<_> = (0..3).map(|_| Dlx::quiet(&folder, &names)).collect();
                sender.send(dlxs.iter().map(|dlx| dlx.requests.clone()).collect::<Vec<_>>()).unwrap();
                std::future::pending::<()>().await;
            });
        })
        .unwrap();
    let requests = receiver.recv().unwrap();
    let context = CycleContext {
        members: members(state.path(), LONG),
        metrics: AutoscalerMetrics::new(&mut prometheus_client::registry::Registry::default()),
        cluster: ClusterClient::default(),
        dropped: Dropped::default(),
        dlxs: serving_dlxs(&["a"]).1,
        rules: Rules::default(),
        stop: CancellationToken::new(),
    };
    let (_set_active, active) = watch::channel(ActivePlugin {
        plugin: Arc::new(store.clone()),
        settings: Arc::new(Settings::default()),
    });
    let cycle = Cycle::new(
        active,
        "demo",
        context,
        Arc::default(),
        InterceptionTable::default(),
        ScalingTable::default(),
        mpsc::channel(1).1,
    );
    // The first one makes what the others find.
    cycle.run_once().await;
    let before = cpu("dlx");
    for _ in 0..CYCLES {
        let work = cycle.run_once().await;
        assert_eq!(work.decisions[&("keep", "recent_event")], RESOURCES as u64);
    }
    let spent = Duration::from_nanos((cpu("dlx") - before) / u64::from(CYCLES));
    let questions: usize = requests.iter().map(|of_one| of_one.lock().unwrap().len()).sum();
    let wall = cycle.states().cycles.took;
    println!(
        "{RESOURCES} resources, 3 DLXs: {spent:.1?} CPU per cycle ({wall:.1?} the last one in all), {} questions per cycle",
        questions / (CYCLES as usize + 1)
    );
}

/// 10,000 resources, a Prometheus that is asked twice (values, scrapes), and 3 DLXs for what is in flight. A third more than
/// the DLXs alone: 414 and 309 ms in the same run of a debug build.
#[tokio::test]
#[ignore = "a measurement"]
async fn ten_thousand_resources_of_a_prometheus() {
    const RESOURCES: usize = 10_000;
    const CYCLES: u32 = 20;
    let state = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..RESOURCES).map(|number| format!("resource-{number}")).collect();
    let store = Store::with(names.iter().map(String::as_str));
    let (sender, receiver) = std::sync::mpsc::channel();
    let (folder, owned) = (state.path().to_owned(), names.clone());
    let queries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = queries.clone();
    thread::Builder::new()
        .name("dlx".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let names: Vec<_> = owned.iter().map(String::as_str).collect();
                let dlxs: Vec<_> = (0..3).map(|_| Dlx::quiet(&folder, &names)).collect();
                // A value above the threshold, so that nothing goes to zero; as a count of scrapes it covers the window.
                let elements: Vec<_> = names
                    .iter()
                    .map(|name| format!(r#"{{"metric":{{"name":"{name}","namespace":"demo"}},"value":[1700000000.123,"42"]}}"#))
                    .collect();
                let answer: serde_json::Value = serde_json::from_str(&format!(
                    r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#,
                    elements.join(",")
                ))
                .unwrap();
                // Only its server is used: it is no member.
                let mut prometheus = Dlx::start(&folder.join("prometheus"), move |_, _| {
                    counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    crate::testing::Reply::Json(http::StatusCode::OK, answer.clone())
                });
                prometheus.leave();
                sender.send(prometheus.address).unwrap();
                let _alive = (dlxs, prometheus);
                std::future::pending::<()>().await;
            });
        })
        .unwrap();
    let address = receiver.recv().unwrap();
    let text = format!(
        "namespace: demo\nmetrics:\n  source: prometheus\n  url: http://{address}\n  scrapeInterval: 15s\n  queries:\n    \
         requests: {{query: 'sum by (name, namespace) (increase(requests_total[$window]))',\n      \
         sampleCountQuery: 'min by (name, namespace) (count_over_time(requests_total[$window]) * (resets(requests_total[$window]) == bool 0))'}}\n"
    );
    let file = daemon::namespace_file::NamespaceFile::parse("demo.yaml", text.as_bytes()).unwrap();
    let settings = Settings::merge(&file.settings, &Default::default(), &Default::default());
    let context = CycleContext {
        members: members(state.path(), LONG),
        metrics: AutoscalerMetrics::new(&mut prometheus_client::registry::Registry::default()),
        cluster: ClusterClient::default(),
        dropped: Dropped::default(),
        dlxs: serving_dlxs(&["a"]).1,
        rules: Rules::default(),
        stop: CancellationToken::new(),
    };
    let (_set_active, active) =
        watch::channel(ActivePlugin { plugin: Arc::new(store.clone()), settings: Arc::new(settings) });
    let cycle = Cycle::new(
        active,
        "demo",
        context,
        Arc::default(),
        InterceptionTable::default(),
        ScalingTable::default(),
        mpsc::channel(1).1,
    );
    // The first one makes what the others find.
    cycle.run_once().await;
    let before = cpu("dlx");
    for _ in 0..CYCLES {
        let work = cycle.run_once().await;
        assert_eq!(work.decisions[&("keep", "above_threshold")], RESOURCES as u64);
    }
    let spent = Duration::from_nanos((cpu("dlx") - before) / u64::from(CYCLES));
    let requests = queries.load(std::sync::atomic::Ordering::Relaxed) / (CYCLES as usize + 1);
    println!(
        "{RESOURCES} resources of a Prometheus, 3 DLXs: {spent:.1?} CPU per cycle, {requests} queries per cycle"
    );
}
