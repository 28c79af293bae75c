//! The options of a workload, from its annotations, its namespace's and the namespace file.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use scaler_types::{
    ScaleResource, Scaling, ScalingMetric, duration,
    scaling_options::{self, ScalingOptions},
    yaml,
};
use serde::Deserialize;

use crate::{
    config::{InterceptMode, OptIn, PluginConfig, requests_in},
    index::State,
    objects::{
        PortRef, Workload,
        annotations::{
            BUSY_PROBE, EARLY_ACK, HOLD_TIMEOUT, HOSTS, IGNORE_CHECKS, IN_FLIGHT_PER_REPLICA, INTERCEPT,
            KEEP_AWAKE, MAX_DISRUPTION, MAX_REPLICAS, MESSAGES_PER_REPLICA, METRICS, MIN_AWAKE, MIN_REPLICAS,
            PAUSED, PORT, QUEUE, READINESS_TIMEOUT, REQUESTS_PER_REPLICA, SCALE_DOWN_DELAY, SCALE_TO_ZERO,
            SECONDS_PER_MESSAGE,
        },
        host_name::{self, InvalidHostName},
    },
};

/// The options of a workload.
#[derive(Debug, Default)]
pub(crate) struct WorkloadOptions {
    /// It is to be managed.
    pub(crate) opted_in: bool,
    /// It may be scaled to zero; else only between its limits.
    pub(crate) scales_to_zero: bool,
    /// How many replicas it gets; none: others decide that, or it cannot be read.
    pub(crate) scaling: Option<Scaling>,
    /// Each option of that, as it was set.
    pub(crate) scaling_options: ScalingOptions,
    /// What is probably not meant in that.
    pub(crate) scaling_mistake: Option<String>,
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
    /// One that cannot be used without another, which is missing.
    pub(crate) invalid_combination: Option<String>,
    /// Its users want a queue or metric to wake it, even if the annotation is invalid.
    pub(crate) goes_by_metrics: bool,
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
    #[error("the targetPerReplica {0} is not valid, expected a number above 0")]
    TargetPerReplica(f64),
    #[error("{0}")]
    Scaling(String),
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
    #[serde(default)]
    target_per_replica: Option<f64>,
}

/// Annotations by name.
type Annotations = BTreeMap<String, String>;

// === impl WorkloadOptions ===

impl WorkloadOptions {
    /// From a workload's annotations, its namespace's, and what the operator sets of its replicas. A value that cannot be used counts
    /// as absent.
    pub(crate) fn read(
        own: &Annotations,
        namespace: Option<&Annotations>,
        operators: Option<&ScalingOptions>,
        config: &PluginConfig,
    ) -> Self {
        let mut options = Self {
            intercept_despite_network_policies: config.intercept_despite_network_policies,
            scaling_options: operators.cloned().unwrap_or_default(),
            ..Self::default()
        };
        let mut read = Reader { own, namespace, invalid: &mut options.invalid };
        if let Some((metrics, targets)) = read.value(METRICS, metrics) {
            (options.metrics, options.scaling_options.metrics) = (metrics, targets);
        }
        read.scaling(&mut options.scaling_options);
        let readable = read.invalid.is_empty();
        options.scales_to_zero = read.is_set(SCALE_TO_ZERO) || config.opt_in == OptIn::All;
        match read.inherited(SCALE_TO_ZERO, scale_to_zero) {
            Some(ScaleToZero::Never) => options.scales_to_zero = false,
            Some(ScaleToZero::After(window)) if options.metrics.is_empty() => {
                options.metrics = requests_in(window);
            }
            // Also with a value that is not valid: the workload is shown, and kept awake.
            Some(ScaleToZero::AsConfigured | ScaleToZero::After(_)) | None => {}
        }
        options.intercept_is_set = read.is_set(INTERCEPT) || config.intercept.is_some();
        options.intercept = match read.inherited(INTERCEPT, intercept_mode) {
            Some(mode) => mode,
            None if read.is_set(INTERCEPT) => InterceptMode::Manual,
            None => config.intercept.unwrap_or_default(),
        };
        options.ignored_checks = read.value(IGNORE_CHECKS, ignored_checks).unwrap_or_default();
        options.hosts = read.value(HOSTS, hosts).unwrap_or_default();
        options.port = read.value(PORT, port);
        options.hold_timeout = read.value(HOLD_TIMEOUT, interval);
        options.readiness_timeout = read.value(READINESS_TIMEOUT, interval);
        options.min_awake = read.value(MIN_AWAKE, interval);
        options.keep_awake_until = read.value(KEEP_AWAKE, until);
        options.paused = read.value(PAUSED, flag).unwrap_or(false);
        let is_scaled = options.scaling_options.has_target() || !options.scaling_options.queues.is_empty();
        options.opted_in =
            options.scales_to_zero || is_scaled || SCALED_BY.iter().any(|name| own.contains_key(*name));
        let names_target = |metrics: &String| metrics.contains("targetPerReplica");
        options.goes_by_metrics = options.scaling_options.wakes_by_metric()
            || own.contains_key(QUEUE)
            || own.get(METRICS).is_some_and(names_target);
        options.scaling_mistake = options.scaling_options.mistake(annotation_name);
        match options.scaling_options.scaling(annotation_name) {
            Ok(scaling) => options.scaling = scaling.filter(|_| readable),
            // What is missing may be what cannot be read.
            Err(problem) => options.invalid_combination = Some(problem).filter(|_| readable),
        }
        options
    }

    /// Why its annotations do not say how many replicas it gets, if one is invalid.
    pub(crate) fn why_unreadable(&self) -> Option<String> {
        let invalid = self.invalid.first().map(ToString::to_string);
        invalid.or_else(|| self.invalid_combination.clone()).map(|why| format!("invalid annotation: {why}"))
    }

    /// Its requests have to reach it through the DLXs: while it is asleep they wake it, or its replicas go by them. A worker without
    /// any Service, which its queue wakes, has none.
    pub(crate) fn needs_dlxs(&self, state: &State, workload: &Workload) -> bool {
        let counts_requests = self.scaling_options.counts_requests();
        let is_worker = self.scaling_options.wakes_by_metric() && state.services_of(workload).is_empty();
        self.opted_in && (counts_requests || self.scales_to_zero && !is_worker)
    }

    /// Its Services are to be intercepted.
    pub(crate) fn wants_interception(&self, state: &State, workload: &Workload) -> bool {
        self.needs_dlxs(state, workload) && self.intercept != InterceptMode::Manual
    }
}

/// The options of a workload. Scaler's own daemons are never opted in.
pub(crate) fn workload_options(state: &State, workload: &Workload) -> WorkloadOptions {
    let namespace = state.namespace(&workload.meta.namespace).map(|namespace| &namespace.annotations);
    let id = workload.id();
    let operators = state.config.operators_scaling(&id.namespace, &id.name);
    let mut options = WorkloadOptions::read(&workload.annotations, namespace, operators, &state.config);
    options.opted_in &= !workload.is_scaler();
    options
}

/// Annotations of a workload that opt it in to be scaled, though not to zero.
const SCALED_BY: [&str; 4] = [QUEUE, MESSAGES_PER_REPLICA, IN_FLIGHT_PER_REPLICA, REQUESTS_PER_REPLICA];

/// An option of how many replicas it gets, as an annotation.
fn annotation_name(option: &str) -> String {
    format!("scaler.dev/{option}")
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

    /// Replaces what the workload's annotations say of how many replicas it gets.
    fn scaling(&mut self, options: &mut ScalingOptions) {
        let target =
            |text: &str| scaling_options::parse_target(text).map(Some).map_err(InvalidValue::Scaling);
        let replicas =
            |text: &str| scaling_options::parse_replicas(text).map(Some).map_err(InvalidValue::Scaling);
        self.replace(QUEUE, &mut options.queues, |text| {
            scaling_options::parse_queues(text).map_err(InvalidValue::Scaling)
        });
        self.replace(MESSAGES_PER_REPLICA, &mut options.messages_per_replica, target);
        self.replace(SECONDS_PER_MESSAGE, &mut options.seconds_per_message, target);
        self.replace(IN_FLIGHT_PER_REPLICA, &mut options.in_flight_per_replica, target);
        self.replace(REQUESTS_PER_REPLICA, &mut options.requests_per_replica, target);
        self.replace(MIN_REPLICAS, &mut options.min_replicas, replicas);
        self.replace(MAX_REPLICAS, &mut options.max_replicas, replicas);
        self.replace(MAX_DISRUPTION, &mut options.max_disruption, |text| {
            text.parse().map(Some).map_err(InvalidValue::Scaling)
        });
        self.replace(SCALE_DOWN_DELAY, &mut options.scale_down_delay, |text| {
            duration::parse(text).map(Some).map_err(|error| InvalidValue::Duration(error.to_string()))
        });
        self.replace(BUSY_PROBE, &mut options.busy_probe, |text| {
            text.parse().map(Some).map_err(InvalidValue::Scaling)
        });
        self.replace(EARLY_ACK, &mut options.early_ack, |text| {
            scaling_options::parse_accepted(text).map_err(InvalidValue::Scaling)
        });
    }

    fn replace<T>(&mut self, name: &'static str, option: &mut T, parse: fn(&str) -> Result<T, InvalidValue>) {
        if let Some(value) = self.value(name, parse) {
            *option = value;
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

/// The metrics, and those of them that have a target per replica.
fn metrics(text: &str) -> Result<(Vec<ScaleResource>, Vec<ScalingMetric>), InvalidValue> {
    let list: Vec<Metric> =
        serde_yaml::from_str_with_options(text, yaml::options()).map_err(InvalidValue::Metrics)?;
    if list.is_empty() {
        return Err(InvalidValue::NoMetric);
    }
    let mut targets = Vec::new();
    let metrics = list.into_iter().map(|metric| {
        if metric.metric_name.is_empty() {
            return Err(InvalidValue::NoMetricName);
        }
        let window_size = interval(metric.window_size.trim())?;
        if let Some(target_per_replica) = metric.target_per_replica {
            if !target_per_replica.is_finite() || target_per_replica <= 0.0 {
                return Err(InvalidValue::TargetPerReplica(target_per_replica));
            }
            let metric_name = metric.metric_name.clone();
            targets.push(ScalingMetric { metric_name, window_size, target_per_replica });
        }
        if !metric.threshold.is_finite() || metric.threshold < 0.0 {
            return Err(InvalidValue::Threshold(metric.threshold));
        }
        Ok(ScaleResource { metric_name: metric.metric_name, window_size, threshold: metric.threshold })
    });
    Ok((metrics.collect::<Result<_, _>>()?, targets))
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
mod tests;
