//! The metrics of single resources: which series there are.

use std::sync::Arc;

use daemon::telemetry::{ResourceMetrics, registry};
use scaler_types::ScaleError;

use crate::{
    admin::MetricsCollector,
    testing::{Site, SiteOptions, plugin::Plugin, status, until, upstream},
};

/// What Prometheus reads.
fn page(site: &Site, resources: ResourceMetrics) -> String {
    let mut registry = registry("dlx");
    registry.register_collector(Box::new(MetricsCollector { dlx: Arc::downgrade(&site.dlx), resources }));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    page
}

/// The series of single resources.
fn series(site: &Site, resources: ResourceMetrics) -> Vec<String> {
    page(site, resources).lines().filter(|line| line.contains("name=\"")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_has_the_series_that_are_not_zero() {
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::waking(move |request| match request.id.name.as_str() {
        "broken" => Err(ScaleError::Terminal { reason: "its image cannot be pulled".to_owned() }),
        _ => Ok(vec![crate::testing::plugin::endpoint(address)]),
    });
    let site =
        Site::start(plugin.asleep("shop").asleep("idle").asleep("broken"), SiteOptions::default()).await;
    assert_eq!(series(&site, ResourceMetrics::Active), Vec::<String>::new());

    assert_eq!(status(&site.get("shop.test", "/").await), 200);
    assert_eq!(status(&site.get("broken.test", "/").await), 503);
    // Counted after its requests are refused.
    until("the failed wake is counted", || site.resource("broken").counts.wakes()[2].2 == 1).await;
    let active = series(&site, ResourceMetrics::Active);
    let labels = |name: &str| format!("namespace=\"demo\",name=\"{name}\",kind=\"test\"");
    for (metric, name, more, count) in [
        ("requests_total", "shop", "", 1),
        ("responses_total", "shop", ",class=\"2xx\"", 1),
        ("wakes_total", "shop", ",outcome=\"awake\",reason=\"\"", 1),
        ("wakes_total", "broken", ",outcome=\"failed\",reason=\"refused_by_plugin\"", 1),
        ("hold_rejections_total", "broken", ",reason=\"wake_failed\"", 1),
    ] {
        let line = format!("scaler_dlx_{metric}{{{}{more}}} {count}", labels(name));
        assert!(active.contains(&line), "{line} in {active:#?}");
    }
    assert!(active.iter().all(|line| !line.ends_with(" 0") && !line.contains("\"idle\"")), "{active:#?}");

    let all = series(&site, ResourceMetrics::All);
    assert!(all.contains(&format!("scaler_dlx_held{{{}}} 0", labels("idle"))), "{all:#?}");
    assert!(all.len() > 3 * active.len() && active.iter().all(|line| all.contains(line)), "{all:#?}");
    assert_eq!(series(&site, ResourceMetrics::None), Vec::<String>::new());
    let page = page(&site, ResourceMetrics::All);
    let declared: Vec<_> =
        crate::METRICS.into_iter().chain(daemon::telemetry::METRICS.into_iter().take(2)).collect();
    assert_eq!(daemon::telemetry::differences(&page, &declared), Vec::<String>::new());
}
