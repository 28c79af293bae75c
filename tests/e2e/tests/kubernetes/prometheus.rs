//! A real Prometheus says how busy a workload is.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{
    kubernetes::{Setting, Shop, Workload, needs_devcluster, run, workload::PORT},
    load::{get, once},
    wait::pause,
};
use serde_json::json;

/// Where it listens, in the test's own network.
const ADDRESS: &str = "127.0.0.1:9090";
/// Two windows of the metric and more.
const BUSY: usize = 40;

/// Killed when the test is over, well or not.
struct Prometheus(Child);

impl Prometheus {
    /// Scrapes every second what `targets` names, a file that it watches.
    fn start(folder: &Path, targets: &Path) -> Option<Self> {
        let config = folder.join("prometheus.yaml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: pods\n    file_sd_configs: [{{files: [{targets:?}], \
             refresh_interval: 1s}}]\n"
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        child.ok().map(Self)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests that pass no DLX keep it awake, because Prometheus has seen them; when they end it sleeps.
#[test]
fn what_prometheus_has_seen_keeps_it_awake() {
    if needs_devcluster("the Prometheus beside the test cannot be reached by pods") {
        return;
    }
    run(async {
        let metrics = format!(
            "metrics:\n  source: prometheus\n  url: http://{ADDRESS}\n  scrapeInterval: 1s\n  queries:\n    busy:\n      \
             query: sum by (name) (increase(service_requests_total{{namespace=\"$namespace\"}}[$window]))\n"
        );
        let shop = Shop::open_with(Setting::default().with(&metrics)).await;
        let web = Workload::new(&shop, "web")
            .annotation("metrics", "[{metricName: busy, windowSize: 3s, threshold: 0}]");
        let targets = shop.folder().join("targets.json");
        fs::write(&targets, "[]").unwrap();
        let Some(_prometheus) = Prometheus::start(shop.folder(), &targets) else {
            println!(
                "not proved: there is no program `prometheus` on this machine (apt-get install prometheus)"
            );
            return;
        };
        shop.deploy(&web).await;
        shop.served(&web, "one").await;
        let pod = shop.address(&web).await;
        let labels = json!({"namespace": "shop", "name": "web"});
        let list = json!([{"targets": [format!("{pod}:{PORT}")], "labels": labels}]);
        fs::write(&targets, list.to_string()).unwrap();

        for number in 0..BUSY {
            let answer = once((pod, PORT).into(), &get("web", "/", &format!("past-{number}"))).await;
            assert_eq!(answer.expect("an answer").status, 200);
            pause(Duration::from_millis(200)).await;
        }
        assert_eq!(
            shop.object(&web).await.data["spec"]["replicas"],
            1,
            "it was put to sleep while it was busy"
        );
        assert_eq!(web.read().starts.len(), 1, "it was put to sleep while it was busy");
        shop.asleep(&web).await;
        shop.served(&web, "two").await;
    });
}
