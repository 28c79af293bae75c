//! The autoscaler's metrics. Names are given without the registry's prefix `scaler`.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use scaler_types::{Backend, ScaleError};

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
        };
        registry.register("leader", "1 while this autoscaler is the leader, else 0", metrics.leader.clone());
        registry.register("cycles", "Cycles so far", metrics.cycles.clone());
        registry.register(
            "cycles_failed",
            "Cycles that could not read all resources and their activity",
            metrics.failed_cycles.clone(),
        );
        registry.register_with_unit(
            "cycle",
            "How long cycles took",
            Unit::Seconds,
            metrics.cycle_seconds.clone(),
        );
        registry.register_with_unit(
            "cycle_last_success_timestamp",
            "When the last cycle succeeded, by this host's clock",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register("decisions", "Decisions so far, by decision and reason", metrics.decisions.clone());
        registry.register(
            "drain_attempts",
            "Attempts to scale a resource to zero that ended, by outcome and reason",
            metrics.drain_attempts.clone(),
        );
        registry.register(
            "drain_attempts_in_progress",
            "Drain attempts and record repairs in progress",
            metrics.attempts_in_progress.clone(),
        );
        registry.register("scale_failures", "Scales to zero that failed", metrics.scale_failures.clone());
        registry.register(
            "records_repaired",
            "Stale records that were repaired",
            metrics.records_repaired.clone(),
        );
        registry.register(
            "dlx_unreachable",
            "1 for each registered DLX that does not answer: while there is one, everything is kept awake",
            metrics.dlx_unreachable.clone(),
        );
        registry.register(
            "interceptions",
            "Intercepted resources, by backend: workload, both or dlx",
            metrics.interceptions.clone(),
        );
        registry.register(
            "interception_calls",
            "Calls of plugins that point the Services of one resource at a backend, by outcome",
            metrics.interception_calls.clone(),
        );
        registry.register(
            "dlx_sync_failures",
            "Failed updates of the DLX addresses of all intercepted Services",
            metrics.dlx_sync_failures.clone(),
        );
        metrics
    }

    /// Counts a call that sets a backend.
    pub(crate) fn count_interception_call(&self, labels: &CycleLabels, result: &Result<(), ScaleError>) {
        let outcome = match result {
            Ok(()) => "ok",
            Err(ScaleError::Conflict) => "conflict",
            Err(ScaleError::Retry { .. }) => "retry",
            Err(ScaleError::Terminal { .. }) => "terminal",
            Err(ScaleError::Unsupported) => "unsupported",
        };
        let CycleLabels { kind, namespace } = labels.clone();
        self.interception_calls.get_or_create(&InterceptionCallLabels { kind, namespace, outcome }).inc();
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
