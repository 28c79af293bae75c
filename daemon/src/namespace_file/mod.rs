//! One YAML file holds one namespace: its settings, and a section for each plugin.

mod fingerprint;
mod metrics;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;

use scaler_types::{ScaleResource, yaml};
use serde::{Deserialize, Deserializer};
use serde_yaml::Spanned;

pub(crate) use fingerprint::Fingerprint;
use metrics::Metrics;
pub use values::parse_bytes;
pub(crate) use values::parse_namespace;
use values::{Bytes, Count, Header, Interval, Namespace, Span, Status, TargetPort, Text, Threshold, UrlPath};

use crate::settings::{
    FileSettings, ForwardedHeaders, MetricsSource, MultiTargetStrategy, StaticResponse, StaticResponseWhen,
};

/// What a namespace file says, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceFile {
    /// The namespace; `*` is all.
    pub namespace: String,
    /// What it sets.
    pub settings: FileSettings,
    /// The plugins' sections, by kind: where each begins and what it says.
    pub(crate) sections: BTreeMap<String, Section>,
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
    metrics: Option<Metrics>,
    #[serde(default, deserialize_with = "present")]
    defaults: Option<Defaults>,
    #[serde(default, deserialize_with = "present")]
    dlx: Option<Dlx>,
    #[serde(default, deserialize_with = "present")]
    plugins: Option<BTreeMap<String, Spanned<Fingerprint>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Defaults {
    #[serde(default, deserialize_with = "present")]
    scale_resources: Option<Vec<Metric>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metric {
    metric_name: Spanned<Text>,
    window_size: Interval,
    #[serde(default)]
    threshold: Threshold,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dlx {
    #[serde(default, deserialize_with = "present")]
    target_port: Option<TargetPort>,
    #[serde(default, deserialize_with = "present")]
    target_name_header: Option<Header>,
    #[serde(default, deserialize_with = "present")]
    target_path_header: Option<Header>,
    #[serde(default, deserialize_with = "present")]
    resource_readiness_timeout: Option<Span>,
    #[serde(default, deserialize_with = "present")]
    hold_timeout: Option<Span>,
    #[serde(default, deserialize_with = "present")]
    max_held_requests: Option<Count>,
    #[serde(default, deserialize_with = "present")]
    max_held_bytes: Option<Bytes>,
    #[serde(default, deserialize_with = "present")]
    slow_start_requests_per_endpoint: Option<Count>,
    #[serde(default, deserialize_with = "present")]
    static_responses: Option<Vec<Spanned<Static>>>,
    #[serde(default, deserialize_with = "present")]
    multi_target_strategy: Option<Strategy>,
    #[serde(default, deserialize_with = "present")]
    forwarded_headers: Option<ForwardedHeaders>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Static {
    #[serde(default, deserialize_with = "present")]
    user_agent: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    path: Option<UrlPath>,
    status: Status,
    #[serde(default)]
    when: StaticResponseWhen,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    Random,
    Primary,
    Canary,
}

// === impl NamespaceFile ===

impl NamespaceFile {
    /// Reads a file's contents. `name` is the file's, for messages.
    ///
    /// # Errors
    ///
    /// One line: `name:line:column: what is wrong, expected what`.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let text = text(name, bytes)?;
        let root: Root = serde_yaml::from_str_with_options(text, yaml::options())
            .map_err(|error| yaml::explain(name, &error))?;
        root.check().map_err(|(at, why)| format!("{name}:{}:{}: {why}", at.line(), at.column()))
    }

    /// A namespace of which no file says anything.
    pub(crate) fn implicit(namespace: String) -> Self {
        Self { namespace, settings: FileSettings::default(), sections: BTreeMap::new() }
    }
}

/// The file's text, if it can be one.
fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, String> {
    let at = |end: usize| {
        let before = &bytes[..end];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    };
    if bytes.len() > MAX_SIZE {
        let most = MAX_SIZE >> 20;
        return Err(format!(
            "{name}:1:1: the file is too large, expected {most} MiB at most: one file for each namespace"
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = at(error.valid_up_to());
        format!(
            "{name}:{line}:{column}: the byte {:#04x} is no UTF-8, expected a text in UTF-8",
            bytes[error.valid_up_to()]
        )
    })?;
    let says_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(says_nothing) {
        return Err(format!("{name}:1:1: the file is empty, expected a map with the key \"namespace\""));
    }
    Ok(text)
}

/// Where in the file, and what is wrong there.
type Wrong = (serde_yaml::Location, String);

// === impl Root ===

impl Root {
    /// What one value alone does not show.
    fn check(self) -> Result<NamespaceFile, Wrong> {
        let metrics = self.metrics.map(|metrics| metrics.check(&self.namespace.0)).transpose()?;
        let dlx = self.dlx.unwrap_or_default();
        let scale_resources = match self.defaults.and_then(|defaults| defaults.scale_resources) {
            Some(listed) => {
                let source = metrics.as_ref().unwrap_or(&MetricsSource::Dlx);
                let listed = listed.into_iter().map(|metric| metric.check(source));
                Some(listed.collect::<Result<Vec<_>, _>>()?)
            }
            None => None,
        };
        let static_responses = match dlx.static_responses {
            Some(rules) => Some(rules.into_iter().map(Static::check).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let section = |(kind, says): (String, Spanned<Fingerprint>)| {
            (kind, Section { line: says.referenced.line(), says: says.value })
        };
        Ok(NamespaceFile {
            namespace: self.namespace.0,
            settings: FileSettings {
                scale_interval: self.scale_interval.map(|Interval(interval)| interval),
                max_concurrent_wakes: self.max_concurrent_wakes.map(|Count(count)| count),
                metrics,
                scale_resources,
                target_port: dlx.target_port.map(|TargetPort(port)| port),
                target_name_header: dlx.target_name_header.map(|Header(name)| name),
                target_path_header: dlx.target_path_header.map(|Header(name)| name),
                resource_readiness_timeout: dlx.resource_readiness_timeout.map(|Span(span)| span),
                hold_timeout: dlx.hold_timeout.map(|Span(span)| span),
                max_held_requests: dlx.max_held_requests.map(|Count(count)| count),
                max_held_bytes: dlx.max_held_bytes.map(|Bytes(bytes)| bytes),
                slow_start_requests_per_endpoint: dlx
                    .slow_start_requests_per_endpoint
                    .map(|Count(count)| count),
                static_responses,
                multi_target_strategy: dlx.multi_target_strategy.map(|strategy| match strategy {
                    Strategy::Random => MultiTargetStrategy::Random,
                    Strategy::Primary => MultiTargetStrategy::Primary,
                    Strategy::Canary => MultiTargetStrategy::Canary,
                }),
                forwarded_headers: dlx.forwarded_headers,
            },
            sections: self.plugins.unwrap_or_default().into_iter().map(section).collect(),
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

// === impl Static ===

impl Static {
    fn check(rule: Spanned<Self>) -> Result<StaticResponse, Wrong> {
        let Self { user_agent, path, status, when } = rule.value;
        if user_agent.is_none() && path.is_none() {
            let why = "this would answer every request, expected userAgent or path or both".to_owned();
            return Err((rule.referenced, why));
        }
        Ok(StaticResponse {
            user_agent: user_agent.map(|Text(name)| name),
            path: path.map(|UrlPath(path)| path),
            status: status.0,
            when,
        })
    }
}

/// A key that is there has a value.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
