//! The metrics.

use std::fmt::Write as _;

use daemon::telemetry::{self, MetricDeclaration};

use super::{cell, page};

const HEADER: &str = "# Metrics

<!-- Written by `cargo xtask reference` from what the daemons declare. -->

Both daemons serve `/metrics` on their admin port, in Prometheus' text format. Read the autoscaler's values on the
leader, where `scaler_leader` is 1. Metrics of single resources have the labels `namespace`, `name` and `kind`, and by default a series only while it is
not zero (`--resource-metrics`). A histogram has the series `_bucket`, `_sum` and `_count`.
";

fn table(text: &mut String, title: &str, metrics: &[&MetricDeclaration]) {
    write!(text, "\n## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
        .expect("a text");
    let mut metrics = metrics.to_vec();
    metrics.sort_by_key(|metric| metric.name());
    for metric in metrics {
        let labels = metric.labels().iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, kind, meaning) = (metric.name(), metric.kind(), cell(metric.meaning()));
        writeln!(text, "| `{name}` | {kind} | {labels} | {meaning} |").expect("a text");
    }
}

#[test]
fn the_page_of_metrics_is_fresh() {
    let mut text = HEADER.to_owned();
    table(&mut text, "Of the autoscaler", &autoscaler::METRICS);
    table(&mut text, "Of the DLX", &dlx::METRICS);
    table(&mut text, "Of both", &telemetry::METRICS);
    page("metrics.md", &text);
}
