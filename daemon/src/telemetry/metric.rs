//! What each metric is called, and what it means: declared once, for `/metrics` and for docs/reference/metrics.md.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType::{self, Counter, Gauge, Info},
    registry::{self, Registry, Unit},
};

/// A metric as a daemon declares it.
#[derive(Debug)]
pub struct MetricDeclaration {
    kind: MetricType,
    name: &'static str,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    meaning: &'static str,
}

/// Which build this is.
pub(crate) static BUILD: MetricDeclaration =
    MetricDeclaration::new(Info, "build", None, &["daemon", "version"], "Which build this is");

/// Lines left out of the log.
pub(crate) static LOG_LINES_LEFT_OUT: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "log_lines_left_out",
    None,
    &[],
    "Lines left out of the log: a client caused too many of them, or standard error was not read",
);

/// Whether a plugin was loaded.
pub(crate) static PLUGIN_LOADED: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "plugin_loaded",
    None,
    &["file", "kind"],
    "Whether the plugin's file was loaded (1) or skipped (0)",
);

/// Panics of plugins.
pub(crate) static PLUGIN_PANICS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "plugin_panics",
    None,
    &["kind"],
    "Panics in plugins, in their calls and in tasks of their own",
);

/// Errors in namespace files.
pub(crate) static CONFIG_ERRORS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "config_errors",
    None,
    &["file"],
    "Errors in the namespace file as it is now, while the last good one is kept",
);

/// Events that were dropped.
pub(crate) static REPORTS_DROPPED: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "reports_dropped",
    None,
    &[],
    "Events of resources that were dropped because their plugin was slow to publish them",
);

/// Whether the daemon is ready.
pub(crate) static READY: MetricDeclaration =
    MetricDeclaration::new(Gauge, "ready", None, &["daemon"], "1 while `/readyz` answers 200, else 0");

/// The metrics that both daemons have.
pub static METRICS: [&MetricDeclaration; 7] =
    [&BUILD, &LOG_LINES_LEFT_OUT, &PLUGIN_LOADED, &PLUGIN_PANICS, &CONFIG_ERRORS, &REPORTS_DROPPED, &READY];

// === impl MetricDeclaration ===

impl MetricDeclaration {
    /// A metric. `name` is without the prefix `scaler_`, the unit and a counter's `_total`.
    pub const fn new(
        kind: MetricType,
        name: &'static str,
        unit: Option<Unit>,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        Self { kind, name, unit, labels, meaning }
    }

    /// Its name on `/metrics`: `scaler_cycles_total`.
    pub fn name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            Counter => "_total",
            Info => "_info",
            _ => "",
        };
        format!("scaler_{}{unit}{suffix}", self.name)
    }

    /// Its type: `counter`, `gauge`, ...
    pub fn kind(&self) -> &str {
        self.kind.as_str()
    }

    /// The names of its labels.
    pub fn labels(&self) -> &'static [&'static str] {
        self.labels
    }

    /// Its help text.
    pub fn meaning(&self) -> &'static str {
        self.meaning
    }

    /// Adds it to a registry of [`super::registry`].
    pub fn register(&self, registry: &mut Registry, metric: impl registry::Metric) {
        match self.unit.clone() {
            Some(unit) => registry.register_with_unit(self.name, self.meaning, unit, metric),
            None => registry.register(self.name, self.meaning, metric),
        }
    }

    /// Begins it in a collector.
    ///
    /// # Errors
    ///
    /// The page cannot be written.
    pub fn encode<'s>(
        &'s self,
        encoder: &'s mut DescriptorEncoder<'_>,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        encoder.encode_descriptor(self.name, self.meaning, self.unit.as_ref(), self.kind)
    }

    /// Its labels with these values, in the order of their names.
    pub fn labelled(&self, values: impl IntoIterator<Item = String>) -> Vec<(&'static str, String)> {
        self.labels.iter().copied().zip(values).collect()
    }
}

/// For the tests of a daemon: how a page of `/metrics` differs from the declarations. Every declared metric must have a series
/// on the page, and every series the labels of its metric.
pub fn differences(page: &str, declared: &[&MetricDeclaration]) -> Vec<String> {
    let mut differences = Vec::new();
    for family in page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()) {
        if !declared.iter().any(|metric| family_of(&metric.name()) == family) {
            differences.push(format!("{family} is not declared"));
        }
    }
    let series: Vec<(&str, Vec<&str>)> =
        page.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket")).map(parse).collect();
    for metric in declared {
        let name = metric.name();
        let family = family_of(&name);
        let mut found = series.iter().filter(|(name, _)| family_of(name) == family).peekable();
        if found.peek().is_none() {
            differences.push(format!("{family} has no series"));
        }
        for (_, labels) in found.filter(|(_, labels)| labels != metric.labels) {
            differences.push(format!("{family} has the labels {labels:?} and declares {:?}", metric.labels));
        }
    }
    differences
}

/// What the names of a metric's series have in common.
fn family_of(name: &str) -> &str {
    ["_total", "_info", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// The name of a series and those of its labels.
fn parse(line: &str) -> (&str, Vec<&str>) {
    let (name, labels) = line.split_once(['{', ' ']).unwrap_or((line, ""));
    let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
    (name, labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect())
}
