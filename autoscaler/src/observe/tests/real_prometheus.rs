//! A real Prometheus that scrapes for real, each second: what is idle is found to be so, and nothing else ever is.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::exporter::{Exporter, Serves};
use crate::{
    decide::{Decision, Evidence, ScaleHistory, decide},
    interception::InterceptionConditions,
    observe::{
        ActivitySource, Measurements,
        kubernetes::ClusterClient,
        members::{MemberTimeouts, Members},
    },
    telemetry::AutoscalerMetrics,
};
use daemon::{
    coordination::Coordinator,
    namespace_file::NamespaceFile,
    settings::{Settings, SettingsLayer},
};
use prometheus_client::registry::Registry;
use scaler_types::{Resource, ResourceId, ResourceScalerConfig, ScaleResource, TrafficMode as Way};
use tempfile::TempDir;
use tokio::time::Instant;

/// The window of every metric, in scrapes: so many and one more must be known.
const WINDOW: u64 = 6;

/// A running Prometheus. Killed when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

/// Resources, and the source that is asked about them.
struct Site {
    settings: Settings,
    source: ActivitySource,
    members: Members,
    resources: Vec<Resource>,
    _state: TempDir,
}

impl Prometheus {
    /// One that scrapes these targets each second, each under its name.
    fn start(exporter: SocketAddr, targets: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut config = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
        for name in targets {
            config += &format!(
                "  - {{job_name: {name}, metrics_path: /{name}, static_configs: [{{targets: ['{exporter}'], \
                 labels: {{name: {name}, namespace: demo}}}}]}}\n"
            );
        }
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("setpriv")
            // It dies with this test, also when the test is killed.
            .args(["--pdeathsig", "KILL", "prometheus"])
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starting prometheus: apt-get install prometheus (cargo xtask test does)");
        Self { child, address, _folder: folder }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Site {
    /// `resources`: names, each with the metric it is decided by.
    fn new(prometheus: SocketAddr, interval: &str, resources: &[(&str, &str)]) -> Self {
        let text = format!(
            "namespace: demo
metrics:
  source: prometheus
  url: http://{prometheus}
  scrapeInterval: {interval}
  queries:
    requests:
      query: sum by (name) (increase(requests_total{{namespace=\"$namespace\"}}[$window]))
      sampleCountQuery: min by (name, namespace) (count_over_time(requests_total{{namespace=\"$namespace\"}}[$window]) * (resets(requests_total{{namespace=\"$namespace\"}}[$window]) == bool 0))
    rare:
      query: sum by (name) (increase(requests_total{{namespace=\"$namespace\"}}[$window]))
      sampleCountQuery: min by (name) (sum_over_time(up{{namespace=\"$namespace\"}}[$window]))
      absent: idle
    load:
      query: max by (name) (avg_over_time(load{{namespace=\"$namespace\"}}[$window]))
      sampleCountQuery: min by (name, namespace) (count_over_time(load{{namespace=\"$namespace\"}}[$window]))
    wrong:
      query: sum by (name) (increase(requests_total[$window])) + on () group_left () requests_total
      sampleCountQuery: min by (name) (count_over_time(requests_total[$window]))
"
        );
        let file = NamespaceFile::parse("demo.yaml", text.as_bytes()).unwrap();
        let settings =
            Settings::merge(&file.settings, &SettingsLayer::default(), &ResourceScalerConfig::default());
        let resource = |(name, metric): &(&str, &str)| {
            let mut resource = Resource::new(ResourceId::new("demo", *name));
            // No DLX is asked.
            (resource.traffic_mode, resource.replicas) = (Way::External, 1);
            let window_size = Duration::from_secs(WINDOW);
            let metric = ScaleResource { metric_name: (*metric).to_owned(), window_size, threshold: 0.5 };
            resource.scale_resources = vec![metric];
            resource
        };
        let state = tempfile::tempdir().unwrap();
        let coordination = Coordinator::Files(state.path().to_owned());
        let metrics = AutoscalerMetrics::new(&mut Registry::default());
        Self {
            source: ActivitySource::new(&settings.metrics, &ClusterClient::default()),
            settings,
            members: Members::new(coordination, None, MemberTimeouts::default(), metrics),
            resources: resources.iter().map(resource).collect(),
            _state: state,
        }
    }

    /// What is decided now, by resource.
    async fn decide(&self) -> BTreeMap<String, Decision> {
        let activity =
            self.source.query(&self.members, "memory", "demo", &self.resources, &self.settings).await;
        let readings = activity.readings.expect("another source than the DLXs");
        let all = self.resources.iter().zip(readings).map(|(resource, readings)| {
            let conditions =
                InterceptionConditions { dlx_available: true, propagation_delay: Duration::ZERO };
            let evidence = Evidence {
                source: &activity.source,
                samples: &[],
                measure: Measurements::Readings(&readings),
                conditions,
                work: None,
            };
            let metrics = &resource.scale_resources;
            (
                resource.id.name.clone(),
                decide(Instant::now(), resource, metrics, evidence, &ScaleHistory::default()),
            )
        });
        all.collect()
    }

    /// Waits until the resources are decided on so; `always` is held against every decision on the way.
    async fn until(&self, wanted: &[(&str, &str)], always: impl Fn(&BTreeMap<String, Decision>)) {
        let mut last = BTreeMap::new();
        let wait = async {
            loop {
                last = self.decide().await;
                always(&last);
                if wanted.iter().all(|(name, code)| last[*name].code() == *code) {
                    return;
                }
                #[expect(clippy::disallowed_methods, reason = "a Prometheus tells no event: it is asked")]
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(90), wait).await;
        let text =
            last.iter().map(|(name, decision)| format!("\n  {name}: {} ({decision})", decision.code()));
        assert!(waited.is_ok(), "never came to {wanted:?}:{}", text.collect::<String>());
    }
}

/// Nothing goes to zero before its target was scraped, with what it is decided by, for more than a window.
fn never_too_early<'a>(
    exporter: &'a Exporter,
    names: &'a [&str],
) -> impl Fn(&BTreeMap<String, Decision>) + 'a {
    move |decided| {
        // Counted after the answer: those that it rests on are among them.
        let now = exporter.scrapes();
        for name in names {
            let scrapes = now.get(*name).copied().unwrap_or(0);
            if matches!(decided[*name], Decision::ScaleToZero(_)) {
                assert!(scrapes > WINDOW, "{name} goes to zero after {scrapes} scrapes: {}", decided[*name]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idleness_is_proved_by_scrapes() {
    let exporter = Exporter::start().await;
    let targets =
        ["quiet", "busy", "young", "never", "kept", "down", "reset", "gone", "nan", "fails", "queue"];
    for name in ["quiet", "reset", "gone"] {
        exporter.serve(name, Serves::Counter(5.0));
    }
    exporter.serve("busy", Serves::Growing(5.0));
    for name in ["young", "never", "kept"] {
        exporter.serve(name, Serves::Nothing);
    }
    exporter.serve("down", Serves::Broken);
    exporter.serve("nan", Serves::Gauge(f64::NAN));
    exporter.serve("queue", Serves::Gauge(0.25));
    exporter.serve("fails", Serves::Counter(0.0));
    let prometheus = Prometheus::start(exporter.address, &targets);
    let resources = [
        ("quiet", "requests"),
        ("busy", "requests"),
        ("young", "requests"),
        ("reset", "requests"),
        ("gone", "requests"),
        // Counters that were never scraped.
        ("never", "rare"),
        ("kept", "requests"),
        ("down", "rare"),
        // Not scraped at all, while all others in the namespace are.
        ("stranger", "rare"),
        ("nan", "load"),
        ("queue", "load"),
        ("fails", "wrong"),
    ];
    let site = Site::new(prometheus.address, "1s", &resources);
    let settled = [
        ("quiet", "below_threshold"),
        ("reset", "below_threshold"),
        ("gone", "below_threshold"),
        ("queue", "below_threshold"),
        ("never", "absent"),
        ("busy", "above_threshold"),
        ("young", "no_value"),
        ("kept", "no_value"),
        ("down", "incomplete_window"),
        ("stranger", "incomplete_window"),
        ("nan", "not_a_number"),
        ("fails", "source_failed"),
    ];
    let early = never_too_early(&exporter, &["quiet", "reset", "gone", "queue", "never"]);
    site.until(&settled, early).await;

    // Five requests came before the first scrape that saw the series: its increase is 0.
    exporter.serve("young", Serves::Counter(5.0));
    // A restart: what it had counted since the scrape before is lost, and its increase is 0, too.
    exporter.serve("reset", Serves::Counter(0.0));
    exporter.serve("gone", Serves::Broken);
    let early = never_too_early(&exporter, &["young"]);
    let later = [
        ("young", "incomplete_window"),
        ("reset", "incomplete_window"),
        ("gone", "incomplete_window"),
        ("quiet", "below_threshold"),
    ];
    site.until(&later, early).await;
    // A window later what came and what was reset is known for all of it; what is gone has no value any more.
    let early = never_too_early(&exporter, &["young"]);
    let settled = [
        ("young", "below_threshold"),
        ("reset", "below_threshold"),
        ("gone", "no_value"),
        ("never", "absent"),
    ];
    site.until(&settled, early).await;

    // With an interval that is not the real one half the scrapes would do: there are too many of them.
    let wrong = Site::new(prometheus.address, "2s", &[("quiet", "requests")]);
    let text = wrong.decide().await["quiet"].to_string();
    assert!(text.contains("possible with this scrapeInterval"), "{text}");

    // And without it nothing is known.
    drop(prometheus);
    site.until(&[("quiet", "source_failed"), ("never", "source_failed")], |_| {}).await;
}
