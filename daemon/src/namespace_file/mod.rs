//! One YAML file holds one namespace: its settings, and a section for each plugin.

mod fingerprint;
mod metrics;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use plugin_host::Interface;
use scaler_types::{ScaleResource, yaml};
use serde::Deserialize;
use serde_yaml::Spanned;

pub(crate) use fingerprint::Fingerprint;
use metrics::{GroupKind, Metrics, Query};

pub(crate) use crate::settings::values::parse_namespace;
use crate::settings::{
    AutoscalerOptions, Compatibility, DlxOptions, Expected, FileKey, MetricsSource, SettingsLayer,
    StaticResponse, keys, present,
    values::{Count, Interval, Namespace, Text, Threshold},
};

/// A namespace file's checked content.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceFile {
    /// The namespace; `*` is all.
    pub namespace: String,
    /// What it sets.
    pub settings: SettingsLayer,
    /// The plugins' sections, by kind: where each begins and what it says.
    sections: BTreeMap<String, Section>,
    /// Those of the metric sources.
    metric_sources: BTreeMap<String, Section>,
}

/// Why a namespace file cannot be used. Each message is one line that names the file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NamespaceFileError {
    /// It cannot be read.
    #[error("{name}: {source}, expected {expected}")]
    Unreadable {
        /// The file's.
        name: String,
        /// Why.
        source: Arc<io::Error>,
        /// The expected value.
        expected: &'static str,
    },
    /// It is not YAML, or has other keys and values than a namespace file.
    #[error("{0}")]
    Yaml(String),
    /// The YAML says what cannot be meant.
    #[error("{name}:{line}:{column}: {problem}")]
    Invalid {
        /// The file's.
        name: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// The problem there, and the expected value.
        problem: String,
    },
    /// Its namespace has another file.
    #[error(
        "{name}: namespace {namespace:?} is already that of {holder}, expected one file for one namespace"
    )]
    Taken {
        /// The file's.
        name: String,
        /// The one both want.
        namespace: String,
        /// The other file.
        holder: String,
    },
}

/// A plugin's section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Section {
    pub(crate) line: u64,
    pub(crate) says: Fingerprint,
}

/// The largest file that is read: above 10,000 resources, and read within seconds.
pub(crate) const MAX_SIZE: usize = 8 << 20;

// What follows is the file's own form. `present` everywhere: a key without a value is a mistake, not an absence.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Root {
    namespace: Namespace,
    #[serde(default, deserialize_with = "present")]
    scale_interval: Option<Interval>,
    #[serde(default, deserialize_with = "present")]
    max_concurrent_wakes: Option<Count>,
    #[serde(default, deserialize_with = "present")]
    compatibility: Option<Compatibility>,
    #[serde(default, deserialize_with = "present")]
    metrics: Option<Metrics>,
    #[serde(default, deserialize_with = "present")]
    defaults: Option<Defaults>,
    #[serde(default, deserialize_with = "present")]
    dlx: Option<DlxOptions>,
    #[serde(default, deserialize_with = "present")]
    metric_sources: Option<BTreeMap<String, Spanned<Fingerprint>>>,
    #[serde(default, deserialize_with = "present")]
    plugins: Option<BTreeMap<String, Spanned<Fingerprint>>>,
}

keys! {
    #[derive(Default)]
    struct Defaults in "defaults" {
        /// The metrics of resources that have none of their own; a resource is idle if all of its metrics are.
        #[serde(default, deserialize_with = "present")]
        scale_resources: Option<Vec<Metric>>, "`requests`, `10m`, 0";
    }
}

keys! {
    struct Metric in "defaults.scaleResources[]" {
        /// `requests`; with `prometheus` a name of `metrics.queries`, with `kubernetes` any.
        metric_name: Spanned<Text>, "required";
        /// The time over which the metric is evaluated; at least `100ms`.
        window_size: Interval, "required";
        /// Idle at this value or less; at 0, requests in flight or held keep the resource awake, too.
        #[serde(default)]
        threshold: Threshold, "0";
    }
}

// === impl NamespaceFile ===

impl NamespaceFile {
    /// Reads a file's contents. `name` is the file's, for messages.
    ///
    /// # Errors
    ///
    /// What is wrong, with its place: one line.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, NamespaceFileError> {
        let text = text(name, bytes)?;
        let root: Root = serde_yaml::from_str_with_options(text, yaml::options())
            .map_err(|error| NamespaceFileError::Yaml(yaml::explain(name, &error)))?;
        root.check()
            .map_err(|(at, problem)| NamespaceFileError::invalid(name, at.line(), at.column(), problem))
    }

    /// Every key there is.
    pub fn keys() -> Vec<FileKey> {
        let key =
            |field, expected, default, meaning| FileKey { section: "", field, expected, default, meaning };
        let namespace = "The namespace's name; `*` is all of them.";
        let plugin = "The configuration of the plugin of that kind, passed to it unchanged.";
        let source = "The configuration of the metric source of that kind, passed to it unchanged. Only the autoscaler reads it.";
        [
            &[key("namespace", Namespace::EXPECTED, "required", namespace)],
            AutoscalerOptions::KEYS,
            Metrics::KEYS,
            Query::KEYS,
            GroupKind::KEYS,
            Defaults::KEYS,
            Metric::KEYS,
            DlxOptions::KEYS,
            StaticResponse::KEYS,
            &[
                key("metricSources.KIND", "a map", "none", source),
                key("plugins.KIND", "a map", "none", plugin),
            ],
        ]
        .concat()
    }

    /// A namespace of which no file says anything.
    pub(crate) fn implicit(namespace: String) -> Self {
        let (settings, sections, metric_sources) = Default::default();
        Self { namespace, settings, sections, metric_sources }
    }

    /// The sections of the plugins of this interface, by kind.
    pub(crate) fn sections_of(&self, interface: Interface) -> &BTreeMap<String, Section> {
        match interface {
            Interface::ResourceScaler => &self.sections,
            Interface::MetricSource => &self.metric_sources,
        }
    }
}

/// The file's text, if it can be one.
fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, NamespaceFileError> {
    if bytes.len() > MAX_SIZE {
        let problem = format!(
            "the file is too large, expected {} MiB at most: one file for each namespace",
            MAX_SIZE >> 20
        );
        return Err(NamespaceFileError::invalid(name, 1, 1, problem));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let end = error.valid_up_to();
        let line_start =
            bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = bytes[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&bytes[line_start..end]).chars().count() + 1;
        let problem = format!("the byte {:#04x} is no UTF-8, expected a text in UTF-8", bytes[end]);
        NamespaceFileError::invalid(name, line as u64, column as u64, problem)
    })?;
    let says_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(says_nothing) {
        let problem = "the file is empty, expected a map with the key \"namespace\"".to_owned();
        return Err(NamespaceFileError::invalid(name, 1, 1, problem));
    }
    Ok(text)
}

// === impl NamespaceFileError ===

impl NamespaceFileError {
    pub(crate) fn unreadable(path: &Path, error: io::Error, expected: &'static str) -> Self {
        Self::Unreadable { name: path.display().to_string(), source: Arc::new(error), expected }
    }

    fn invalid(name: &str, line: u64, column: u64, problem: String) -> Self {
        Self::Invalid { name: name.to_owned(), line, column, problem }
    }
}

/// Where in the file, and what is wrong there.
type Wrong = (serde_yaml::Location, String);

// === impl Root ===

impl Root {
    /// Checks that need more than one value.
    fn check(self) -> Result<NamespaceFile, Wrong> {
        let metrics = self.metrics.map(|metrics| metrics.check(&self.namespace.0)).transpose()?;
        let defaults = self.defaults.unwrap_or_default();
        let scale_resources = defaults.scale_resources.map(|listed| {
            let source = metrics.as_ref().unwrap_or(&MetricsSource::Dlx);
            listed.into_iter().map(|metric| metric.check(source)).collect::<Result<Vec<_>, _>>()
        });
        let mut settings = SettingsLayer {
            scale_resources: scale_resources.transpose()?,
            metrics,
            ..SettingsLayer::default()
        };
        let (scale_interval, max_concurrent_wakes) = (self.scale_interval, self.max_concurrent_wakes);
        let compatibility = self.compatibility;
        AutoscalerOptions { scale_interval, max_concurrent_wakes, compatibility }.apply(&mut settings);
        self.dlx.unwrap_or_default().apply(&mut settings);
        let section = |(kind, says): (String, Spanned<Fingerprint>)| {
            (kind, Section { line: says.referenced.line(), says: says.value })
        };
        Ok(NamespaceFile {
            namespace: self.namespace.0,
            settings,
            sections: self.plugins.unwrap_or_default().into_iter().map(section).collect(),
            metric_sources: self.metric_sources.unwrap_or_default().into_iter().map(section).collect(),
        })
    }
}

// === impl Metric ===

impl Metric {
    /// Whether `source` has it.
    fn check(self, source: &MetricsSource) -> Result<ScaleResource, Wrong> {
        let Text(metric_name) = self.metric_name.value;
        let why = match source {
            MetricsSource::Dlx if metric_name != "requests" => Some(format!(
                "unknown metric {metric_name:?}, expected requests: the only one that source dlx has"
            )),
            MetricsSource::Prometheus(source) if !source.queries.contains_key(&metric_name) => {
                let known: Vec<_> = source.queries.keys().map(String::as_str).collect();
                Some(format!("no query for {metric_name:?}, expected one of {}", known.join(", ")))
            }
            _ => None,
        };
        match why {
            Some(why) => Err((self.metric_name.referenced, why)),
            None => Ok(ScaleResource {
                metric_name,
                window_size: self.window_size.0,
                threshold: self.threshold.0,
            }),
        }
    }
}
