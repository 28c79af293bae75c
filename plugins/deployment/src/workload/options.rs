//! The options of a workload, from its annotations, its namespace's and the namespace file.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use scaler_types::{ScaleResource, duration, yaml};
use serde::Deserialize;

use crate::{
    config::{InterceptMode, OptIn, PluginConfig, requests_in},
    index::State,
    objects::{
        PortRef, Workload,
        annotations::{
            HOLD_TIMEOUT, HOSTS, IGNORE_CHECKS, INTERCEPT, KEEP_AWAKE, METRICS, MIN_AWAKE, PAUSED, PORT,
            READINESS_TIMEOUT, SCALE_TO_ZERO,
        },
        host_name::{self, InvalidHostName},
    },
};

/// The options of a workload.
#[derive(Debug, Default)]
pub(crate) struct WorkloadOptions {
    /// It is to be managed.
    pub(crate) opted_in: bool,
    /// The metrics that decide; empty: as the namespace file says.
    pub(crate) metrics: Vec<ScaleResource>,
    /// The requested host names.
    pub(crate) hosts: Vec<String>,
    /// The requested port.
    pub(crate) port: Option<PortRef>,
    /// How long a request is held.
    pub(crate) hold_timeout: Option<Duration>,
    /// How long a wake may take.
    pub(crate) readiness_timeout: Option<Duration>,
    /// For how long it stays awake at least after a wake.
    pub(crate) min_awake: Option<Duration>,
    /// It does not sleep before then.
    pub(crate) keep_awake_until: Option<Timestamp>,
    /// It does not sleep.
    pub(crate) paused: bool,
    /// When its Services are intercepted.
    pub(crate) intercept: InterceptMode,
    /// That is set, on the workload, on its namespace or in the namespace file.
    pub(crate) intercept_is_set: bool,
    /// Checks that do not refuse its interception.
    pub(crate) ignored_checks: BTreeSet<IgnoredCheck>,
    /// NetworkPolicies do not refuse its interception: the operator's decision.
    pub(crate) intercept_despite_network_policies: bool,
    /// Annotations that cannot be used.
    pub(crate) invalid: Vec<InvalidAnnotation>,
}

/// An annotation that cannot be used: it counts as absent.
#[derive(Debug, thiserror::Error)]
#[error("{name}{}: {value}", if *.on_namespace { " of its namespace" } else { "" })]
pub(crate) struct InvalidAnnotation {
    name: &'static str,
    /// It stands on the workload's namespace.
    on_namespace: bool,
    #[source]
    value: InvalidValue,
}

/// Why a value cannot be used, and what was expected.
#[derive(Debug, thiserror::Error)]
enum InvalidValue {
    #[error("{0}")]
    Duration(String),
    #[error("{0}, or true, or false")]
    ScaleToZero(String),
    #[error(
        "{}, expected a list as in a namespace file: [{{metricName: requests, windowSize: 10m}}]",
        yaml::explain("line", .0)
    )]
    Metrics(#[source] serde_yaml::Error),
    #[error("an empty list, expected at least one metric")]
    NoMetric,
    #[error("a metricName is empty, expected a metric's name")]
    NoMetricName,
    #[error("the threshold {0} is not valid, expected 0 or more")]
    Threshold(f64),
    #[error(transparent)]
    Host(#[from] InvalidHostName),
    #[error("{0:?} is not a port, expected 1 to 65535, or a port's name")]
    Port(String),
    #[error("{0:?} is not valid, expected a point in time such as until=2026-12-24T18:00:00Z")]
    Time(String),
    #[error("{0:?} is not valid, expected always, when-asleep or manual")]
    InterceptMode(String),
    #[error(
        "network-policies is the operator's to ignore: interceptDespiteNetworkPolicies: true in the namespace file"
    )]
    NetworkPolicies,
    #[error("{0:?} is not a check that can be ignored, expected session-affinity")]
    Check(String),
    #[error("{0:?} is neither true nor false")]
    Flag(String),
}

/// A check that its users may have ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IgnoredCheck {
    /// Through a DLX, a client's connections go to any of the pods.
    SessionAffinity,
}

/// A metric as a namespace file has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metric {
    metric_name: String,
    window_size: String,
    #[serde(default)]
    threshold: f64,
}

/// Annotations by name.
type Annotations = BTreeMap<String, String>;

// === impl WorkloadOptions ===

impl WorkloadOptions {
    /// From a workload's annotations and its namespace's. A value that cannot be used counts as absent.
    pub(crate) fn read(own: &Annotations, namespace: Option<&Annotations>, config: &PluginConfig) -> Self {
        let mut options = Self {
            intercept_despite_network_policies: config.intercept_despite_network_policies,
            ..Self::default()
        };
        let mut read = Reader { own, namespace, invalid: &mut options.invalid };
        options.opted_in = read.is_set(SCALE_TO_ZERO) || config.opt_in == OptIn::All;
        match read.inherited(SCALE_TO_ZERO, scale_to_zero) {
            Some(ScaleToZero::Never) => options.opted_in = false,
            Some(ScaleToZero::After(window)) => options.metrics = requests_in(window),
            // Also with a value that is not valid: the workload is shown, and kept awake.
            Some(ScaleToZero::AsConfigured) | None => {}
        }
        options.intercept_is_set = read.is_set(INTERCEPT) || config.intercept.is_some();
        options.intercept = match read.inherited(INTERCEPT, intercept_mode) {
            Some(mode) => mode,
            None if read.is_set(INTERCEPT) => InterceptMode::Manual,
            None => config.intercept.unwrap_or_default(),
        };
        options.ignored_checks = read.value(IGNORE_CHECKS, ignored_checks).unwrap_or_default();
        if let Some(metrics) = read.value(METRICS, metrics) {
            options.metrics = metrics;
        }
        options.hosts = read.value(HOSTS, hosts).unwrap_or_default();
        options.port = read.value(PORT, port);
        options.hold_timeout = read.value(HOLD_TIMEOUT, interval);
        options.readiness_timeout = read.value(READINESS_TIMEOUT, interval);
        options.min_awake = read.value(MIN_AWAKE, interval);
        options.keep_awake_until = read.value(KEEP_AWAKE, until);
        options.paused = read.value(PAUSED, flag).unwrap_or(false);
        options
    }
}

/// The options of a workload. Scaler's own daemons are never opted in.
pub(crate) fn workload_options(state: &State, workload: &Workload) -> WorkloadOptions {
    let namespace = state.namespace(&workload.meta.namespace).map(|namespace| &namespace.annotations);
    let mut options = WorkloadOptions::read(&workload.annotations, namespace, &state.config);
    options.opted_in &= !workload.is_scaler();
    options
}

/// The value of `scaler.dev/scale-to-zero`.
enum ScaleToZero {
    Never,
    /// With the metrics that the namespace file names.
    AsConfigured,
    /// After so long without a request.
    After(Duration),
}

struct Reader<'a> {
    own: &'a Annotations,
    namespace: Option<&'a Annotations>,
    invalid: &'a mut Vec<InvalidAnnotation>,
}

// === impl Reader ===

impl Reader<'_> {
    /// Whether the workload or its namespace has the annotation.
    fn is_set(&self, name: &str) -> bool {
        self.own.contains_key(name) || self.namespace.is_some_and(|all| all.contains_key(name))
    }

    /// The workload's value, else its namespace's.
    fn inherited<T>(&mut self, name: &'static str, parse: fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
        match (self.own.get(name), self.namespace.and_then(|all| all.get(name))) {
            (Some(text), _) => self.parse(name, false, text, parse),
            (None, Some(text)) => self.parse(name, true, text, parse),
            (None, None) => None,
        }
    }

    fn value<T>(&mut self, name: &'static str, parse: fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
        self.parse(name, false, self.own.get(name)?.trim(), parse)
    }

    fn parse<T>(
        &mut self,
        name: &'static str,
        on_namespace: bool,
        text: &str,
        parse: fn(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(value) => {
                self.invalid.push(InvalidAnnotation { name, on_namespace, value });
                None
            }
        }
    }
}

fn scale_to_zero(text: &str) -> Result<ScaleToZero, InvalidValue> {
    match text {
        "false" => Ok(ScaleToZero::Never),
        "true" => Ok(ScaleToZero::AsConfigured),
        _ => duration::parse_interval(text.trim()).map(ScaleToZero::After).map_err(InvalidValue::ScaleToZero),
    }
}

fn interval(text: &str) -> Result<Duration, InvalidValue> {
    duration::parse_interval(text).map_err(InvalidValue::Duration)
}

fn metrics(text: &str) -> Result<Vec<ScaleResource>, InvalidValue> {
    let list: Vec<Metric> =
        serde_yaml::from_str_with_options(text, yaml::options()).map_err(InvalidValue::Metrics)?;
    if list.is_empty() {
        return Err(InvalidValue::NoMetric);
    }
    let metrics = list.into_iter().map(|metric| {
        if metric.metric_name.is_empty() {
            return Err(InvalidValue::NoMetricName);
        }
        if !metric.threshold.is_finite() || metric.threshold < 0.0 {
            return Err(InvalidValue::Threshold(metric.threshold));
        }
        Ok(ScaleResource {
            metric_name: metric.metric_name,
            window_size: interval(metric.window_size.trim())?,
            threshold: metric.threshold,
        })
    });
    metrics.collect()
}

fn hosts(text: &str) -> Result<Vec<String>, InvalidValue> {
    Ok(host_name::parse_list(text)?)
}

fn port(text: &str) -> Result<PortRef, InvalidValue> {
    let is_name = text.len() <= 63 && text.contains(|letter: char| letter.is_ascii_lowercase());
    match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(PortRef::Number(number)),
        Err(_) if is_name => Ok(PortRef::Name(text.to_owned())),
        _ => Err(InvalidValue::Port(text.to_owned())),
    }
}

fn until(text: &str) -> Result<Timestamp, InvalidValue> {
    let moment = text.strip_prefix("until=").and_then(|moment| moment.trim().parse().ok());
    moment.ok_or_else(|| InvalidValue::Time(text.to_owned()))
}

fn intercept_mode(text: &str) -> Result<InterceptMode, InvalidValue> {
    match text.trim() {
        "manual" => Ok(InterceptMode::Manual),
        "always" => Ok(InterceptMode::Always),
        "when-asleep" => Ok(InterceptMode::WhenAsleep),
        text => Err(InvalidValue::InterceptMode(text.to_owned())),
    }
}

fn ignored_checks(text: &str) -> Result<BTreeSet<IgnoredCheck>, InvalidValue> {
    let all = text.split(',').map(str::trim).filter(|check| !check.is_empty());
    all.map(|check| match check {
        "session-affinity" => Ok(IgnoredCheck::SessionAffinity),
        "network-policies" => Err(InvalidValue::NetworkPolicies),
        _ => Err(InvalidValue::Check(check.to_owned())),
    })
    .collect()
}

fn flag(text: &str) -> Result<bool, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::Flag(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::context;

    fn config(section: &str) -> PluginConfig {
        PluginConfig::read(&context(&format!("namespace: shop\nplugins: {{deployment: {section}}}\n")))
            .unwrap()
    }

    fn annotations(all: &[(&str, &str)]) -> Annotations {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn read(own: &[(&str, &str)]) -> WorkloadOptions {
        WorkloadOptions::read(&annotations(own), None, &config("{}"))
    }

    #[test]
    fn the_managed_workloads() {
        let all = config("{optIn: all}");
        let one = config("{}");
        for (own, namespace, config, expected) in [
            (None, None, &one, false),
            (None, None, &all, true),
            (Some("10m"), None, &one, true),
            (Some("true"), None, &one, true),
            (Some("false"), None, &all, false),
            (None, Some("10m"), &one, true),
            (Some("false"), Some("10m"), &one, false),
            (Some("5m"), Some("false"), &one, true),
            (None, Some("false"), &all, false),
            (Some("soon"), None, &one, true),
        ] {
            let of = |value: Option<&str>| value.map(|value| annotations(&[(SCALE_TO_ZERO, value)]));
            let options = WorkloadOptions::read(&of(own).unwrap_or_default(), of(namespace).as_ref(), config);
            assert_eq!(options.opted_in, expected, "{own:?} {namespace:?}");
        }
    }

    #[test]
    fn the_workload_says_where_its_services_lead_else_its_namespace_else_the_file() {
        let (bare, none, direct) =
            (config("{}"), config("{intercept: manual}"), config("{intercept: when-asleep}"));
        for (own, namespace, config, expected) in [
            (None, None, &bare, InterceptMode::Always),
            (None, None, &none, InterceptMode::Manual),
            (None, None, &direct, InterceptMode::WhenAsleep),
            (None, Some("always"), &direct, InterceptMode::Always),
            (Some("manual"), Some("always"), &direct, InterceptMode::Manual),
            (Some(" always "), None, &none, InterceptMode::Always),
        ] {
            let of = |value: Option<&str>| value.map(|value| annotations(&[(INTERCEPT, value)]));
            let options = WorkloadOptions::read(&of(own).unwrap_or_default(), of(namespace).as_ref(), config);
            assert_eq!((options.intercept, options.invalid.len()), (expected, 0), "{own:?} {namespace:?}");
            let written = own.or(namespace).is_some() || config.intercept.is_some();
            assert_eq!(options.intercept_is_set, written, "{own:?} {namespace:?}");
        }
        let options =
            WorkloadOptions::read(&annotations(&[]), Some(&annotations(&[(INTERCEPT, "yes")])), &direct);
        assert_eq!(options.intercept, InterceptMode::Manual);
        assert!(
            options.invalid[0].to_string().starts_with("scaler.dev/intercept of its namespace: \"yes\""),
            "{:?}",
            options.invalid
        );
    }

    #[test]
    fn every_annotation_is_read() {
        let options = read(&[
            (SCALE_TO_ZERO, "10m"),
            (METRICS, "[{metricName: gpu, windowSize: 1h, threshold: 0.5}]"),
            (HOSTS, "a.example, B.example\n c.example"),
            (PORT, "8080"),
            (HOLD_TIMEOUT, "20s"),
            (READINESS_TIMEOUT, "2m"),
            (MIN_AWAKE, "1h"),
            (KEEP_AWAKE, "until=2026-12-24T18:00:00+01:00"),
            (PAUSED, "true"),
            (INTERCEPT, "when-asleep"),
            (IGNORE_CHECKS, "session-affinity, session-affinity"),
        ]);
        assert!(options.invalid.is_empty(), "{:?}", options.invalid);
        assert_eq!(options.metrics[0].wire_name(), "gpu_per_1h");
        assert_eq!(options.hosts, ["a.example", "b.example", "c.example"]);
        assert_eq!(options.port, Some(PortRef::Number(8080)));
        assert_eq!(
            (options.hold_timeout, options.readiness_timeout, options.min_awake),
            (Some(Duration::from_secs(20)), Some(Duration::from_secs(120)), Some(Duration::from_secs(3600)))
        );
        assert_eq!(options.keep_awake_until.unwrap().to_string(), "2026-12-24T17:00:00Z");
        assert!(options.paused);
        assert_eq!((options.intercept, options.ignored_checks.len()), (InterceptMode::WhenAsleep, 1));
        assert_eq!(read(&[(SCALE_TO_ZERO, "5m")]).metrics[0].wire_name(), "requests_per_5m");
        assert_eq!(read(&[(SCALE_TO_ZERO, "true")]).metrics, []);
        assert_eq!(read(&[(PORT, "web")]).port, Some(PortRef::Name("web".to_owned())));
    }

    #[test]
    fn each_bad_value_is_named_with_what_was_expected_and_the_others_hold() {
        for (name, value, expected) in [
            (SCALE_TO_ZERO, "10", "\"10\" is not a duration"),
            (SCALE_TO_ZERO, "0s", "\"0s\" is too short: expected 100ms or more"),
            (SCALE_TO_ZERO, "1ns", "\"1ns\" is too short"),
            (METRICS, "[{metricName: a, windowSize: 1ms}]", "\"1ms\" is too short"),
            (METRICS, "requests", "expected a list"),
            (METRICS, "[]", "at least one metric"),
            (METRICS, "[{metricName: a, windowSize: 1m, thresold: 1}]", "unknown key \"thresold\""),
            (METRICS, "[{metricName: a, windowSize: never}]", "not a duration"),
            (METRICS, "[{metricName: a, windowSize: 1m, threshold: -1}]", "expected 0 or more"),
            (METRICS, "[{metricName: a, windowSize: 1m, threshold: .nan}]", "expected 0 or more"),
            (HOSTS, "*.example.com", "*.example.com"),
            (HOSTS, "a.example:80", "a.example:80"),
            (PORT, "0", "1 to 65535"),
            (PORT, "65536", "1 to 65535"),
            (PORT, "-1", "1 to 65535"),
            (HOLD_TIMEOUT, "", "is not a duration"),
            (READINESS_TIMEOUT, "5 minutes", "is not a duration"),
            (MIN_AWAKE, "0s", "is too short"),
            (KEEP_AWAKE, "until=tomorrow", "until=2026-12-24T18:00:00Z"),
            (KEEP_AWAKE, "2026-12-24T18:00:00Z", "until=2026-12-24T18:00:00Z"),
            (KEEP_AWAKE, "Mon-Fri 08:00-18:00", "until=2026-12-24T18:00:00Z"),
            (PAUSED, "yes", "neither true nor false"),
            (INTERCEPT, "service", "expected always, when-asleep or manual"),
            (IGNORE_CHECKS, "session-affinity, all", "\"all\" is not a check that can be ignored"),
            (IGNORE_CHECKS, "network-policies", "interceptDespiteNetworkPolicies: true"),
        ] {
            let mut own = annotations(&[(SCALE_TO_ZERO, "10m"), (PORT, "8080")]);
            own.insert(name.to_owned(), value.to_owned());
            let options = WorkloadOptions::read(&own, None, &config("{}"));
            assert_eq!(options.invalid.len(), 1, "{name} {value}: {:?}", options.invalid);
            assert!(
                options.invalid[0].to_string().starts_with(name)
                    && options.invalid[0].to_string().contains(expected),
                "{}",
                options.invalid[0]
            );
            assert!(options.opted_in);
            assert_eq!(options.port.is_some(), name != PORT);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value: String) {
            let names = [SCALE_TO_ZERO, METRICS, HOSTS, PORT, HOLD_TIMEOUT, READINESS_TIMEOUT, MIN_AWAKE, KEEP_AWAKE, PAUSED, INTERCEPT, IGNORE_CHECKS];
            let own: Vec<_> = names.iter().map(|name| (*name, value.as_str())).collect();
            read(&own);
        }
    }
}
