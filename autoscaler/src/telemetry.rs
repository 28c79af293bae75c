//! The values of the autoscaler's metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use scaler_types::{Backend, ScaleError};

use crate::metrics;

/// Which namespace file's cycle, and of which plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CycleLabels {
    /// The plugin's kind.
    pub(crate) kind: String,
    /// The file's namespace.
    pub(crate) namespace: String,
}

/// The decision, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DecisionLabels {
    /// `keep` or `scale_to_zero`.
    pub(crate) decision: &'static str,
    /// The reason in one word.
    pub(crate) reason: &'static str,
}

/// How a drain attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DrainLabels {
    /// `committed`, `reverted` or `failed`.
    pub(crate) outcome: &'static str,
    /// Why it was reverted or failed, in one word.
    pub(crate) reason: &'static str,
}

/// A DLX.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DlxLabels {
    /// Its name.
    pub(crate) dlx: String,
}

/// Interceptions of a namespace file and a plugin, by backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BackendLabels {
    /// The plugin's kind.
    pub(crate) kind: String,
    /// The file's namespace.
    pub(crate) namespace: String,
    /// Where the Services point: `workload`, `both` or `dlx`.
    pub(crate) backend: &'static str,
}

/// Calls of a plugin that set a backend, by outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InterceptionCallLabels {
    /// The plugin's kind.
    pub(crate) kind: String,
    /// The file's namespace.
    pub(crate) namespace: String,
    /// `ok`, `conflict`, `retry`, `terminal` or `unsupported`.
    pub(crate) outcome: &'static str,
}

/// Changes of a number of replicas, by direction and outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReplicaChangeLabels {
    /// `up`, `down` or `wake`.
    pub(crate) way: &'static str,
    /// `ok`, `conflict`, `retry`, `terminal` or `unsupported`.
    pub(crate) outcome: &'static str,
}

/// All of them. Cheap to clone; clones share their values.
#[derive(Clone)]
pub(crate) struct AutoscalerMetrics {
    /// 1 while this process is the leader.
    pub(crate) leader: Gauge,
    /// Cycles so far.
    pub(crate) cycles: Family<CycleLabels, Counter>,
    /// Cycles that could not read all resources and their activity.
    pub(crate) failed_cycles: Family<CycleLabels, Counter>,
    /// How long cycles took.
    pub(crate) cycle_seconds: Family<CycleLabels, Histogram>,
    /// When the last cycle succeeded.
    pub(crate) last_success: Family<CycleLabels, Gauge<f64, AtomicU64>>,
    /// What was decided.
    pub(crate) decisions: Family<DecisionLabels, Counter>,
    /// Drain attempts that ended.
    pub(crate) drain_attempts: Family<DrainLabels, Counter>,
    /// Drain attempts and repairs in progress.
    pub(crate) attempts_in_progress: Gauge,
    /// Scales to zero that failed.
    pub(crate) scale_failures: Family<CycleLabels, Counter>,
    /// Stale records that were repaired.
    pub(crate) records_repaired: Counter,
    /// Registered DLXs that do not answer.
    pub(crate) dlx_unreachable: Family<DlxLabels, Gauge>,
    /// Intercepted resources, by backend.
    pub(crate) interceptions: Family<BackendLabels, Gauge>,
    /// Calls that set the backend of one resource, by outcome.
    pub(crate) interception_calls: Family<InterceptionCallLabels, Counter>,
    /// Failed updates of the DLX addresses of all intercepted Services.
    pub(crate) dlx_sync_failures: Family<CycleLabels, Counter>,
    /// Changes of a number of replicas.
    pub(crate) replica_changes: Family<ReplicaChangeLabels, Counter>,
}

// === impl AutoscalerMetrics ===

impl AutoscalerMetrics {
    /// Registers all of them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            leader: Gauge::default(),
            cycles: Family::default(),
            failed_cycles: Family::default(),
            // From a millisecond to about 16 s.
            cycle_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 15))
            }),
            last_success: Family::default(),
            decisions: Family::default(),
            drain_attempts: Family::default(),
            attempts_in_progress: Gauge::default(),
            scale_failures: Family::default(),
            records_repaired: Counter::default(),
            dlx_unreachable: Family::default(),
            interceptions: Family::default(),
            interception_calls: Family::default(),
            dlx_sync_failures: Family::default(),
            replica_changes: Family::default(),
        };
        metrics::LEADER.register(registry, metrics.leader.clone());
        metrics::CYCLES.register(registry, metrics.cycles.clone());
        metrics::CYCLES_FAILED.register(registry, metrics.failed_cycles.clone());
        metrics::CYCLE_SECONDS.register(registry, metrics.cycle_seconds.clone());
        metrics::CYCLE_LAST_SUCCESS.register(registry, metrics.last_success.clone());
        metrics::DECISIONS.register(registry, metrics.decisions.clone());
        metrics::DRAIN_ATTEMPTS.register(registry, metrics.drain_attempts.clone());
        metrics::DRAIN_ATTEMPTS_IN_PROGRESS.register(registry, metrics.attempts_in_progress.clone());
        metrics::SCALE_FAILURES.register(registry, metrics.scale_failures.clone());
        metrics::RECORDS_REPAIRED.register(registry, metrics.records_repaired.clone());
        metrics::DLX_UNREACHABLE.register(registry, metrics.dlx_unreachable.clone());
        metrics::INTERCEPTIONS.register(registry, metrics.interceptions.clone());
        metrics::INTERCEPTION_CALLS.register(registry, metrics.interception_calls.clone());
        metrics::DLX_SYNC_FAILURES.register(registry, metrics.dlx_sync_failures.clone());
        metrics::REPLICA_CHANGES.register(registry, metrics.replica_changes.clone());
        metrics
    }

    /// Counts a call that sets a backend.
    pub(crate) fn count_interception_call(&self, labels: &CycleLabels, result: &Result<(), ScaleError>) {
        let outcome = outcome(result);
        let CycleLabels { kind, namespace } = labels.clone();
        self.interception_calls.get_or_create(&InterceptionCallLabels { kind, namespace, outcome }).inc();
    }

    /// Counts a change of a number of replicas: `up`, `down` or `wake`.
    pub(crate) fn count_replica_change(&self, way: &'static str, result: &Result<(), ScaleError>) {
        self.replica_changes.get_or_create(&ReplicaChangeLabels { way, outcome: outcome(result) }).inc();
    }
}

fn outcome(result: &Result<(), ScaleError>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(ScaleError::Conflict) => "conflict",
        Err(ScaleError::Retry { .. }) => "retry",
        Err(ScaleError::Busy { .. }) => "busy",
        Err(ScaleError::Terminal { .. }) => "terminal",
        Err(ScaleError::Unsupported) => "unsupported",
    }
}

// === impl BackendLabels ===

impl BackendLabels {
    /// The labels of one backend.
    pub(crate) fn new(labels: &CycleLabels, backend: Backend) -> Self {
        let CycleLabels { kind, namespace } = labels.clone();
        let backend = match backend {
            Backend::Workload => "workload",
            Backend::Both => "both",
            Backend::Dlx => "dlx",
            Backend::Unknown => "unknown",
        };
        Self { kind, namespace, backend }
    }
}

/// A duration as logs and answers show it: to the millisecond, from a minute on to the second.
pub(crate) fn rounded(duration: Duration) -> Duration {
    match duration.as_secs() {
        0..60 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}

#[cfg(test)]
mod tests {
    use daemon::telemetry::{self, differences};

    use super::*;

    #[test]
    fn every_metric_has_its_declared_labels() {
        let mut registry = telemetry::registry("autoscaler");
        let metrics = AutoscalerMetrics::new(&mut registry);
        let cycle = CycleLabels { kind: "test".to_owned(), namespace: "demo".to_owned() };
        for counters in
            [&metrics.cycles, &metrics.failed_cycles, &metrics.scale_failures, &metrics.dlx_sync_failures]
        {
            drop(counters.get_or_create(&cycle));
        }
        drop(metrics.cycle_seconds.get_or_create(&cycle));
        drop(metrics.last_success.get_or_create(&cycle));
        drop(metrics.decisions.get_or_create(&DecisionLabels { decision: "keep", reason: "busy" }));
        drop(metrics.drain_attempts.get_or_create(&DrainLabels { outcome: "failed", reason: "call_failed" }));
        drop(metrics.dlx_unreachable.get_or_create(&DlxLabels { dlx: "a".to_owned() }));
        drop(metrics.interceptions.get_or_create(&BackendLabels::new(&cycle, Backend::Dlx)));
        metrics.count_interception_call(&cycle, &Ok(()));
        metrics.count_replica_change("up", &Ok(()));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        let of_a_resource = [
            &metrics::FAILED_DRAINS,
            &metrics::FREQUENT_WAKES,
            &metrics::REFUSED,
            &metrics::DESIRED_REPLICAS,
            &metrics::CURRENT_REPLICAS,
            &metrics::QUEUE_MESSAGES,
        ];
        let declared: Vec<_> = metrics::METRICS
            .into_iter()
            .filter(|metric| !of_a_resource.iter().any(|other| other.name() == metric.name()))
            .chain(telemetry::METRICS.into_iter().take(2))
            .collect();
        assert_eq!(differences(&page, &declared), Vec::<String>::new());
    }
}
