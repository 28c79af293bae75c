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
use scaler_types::{Leads, ScaleError};

/// Which namespace file's cycle, and of which plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CycleLabels {
    /// The plugin's kind.
    pub kind: String,
    /// The file's namespace.
    pub namespace: String,
}

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabels {
    /// `keep` or `to_zero`.
    pub decision: &'static str,
    /// The reason in one word.
    pub reason: &'static str,
}

/// How a try to put a resource to zero ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FenceLabels {
    /// `committed`, `reverted` or `failed`.
    pub outcome: &'static str,
    /// Why it was reverted or failed, in one word.
    pub reason: &'static str,
}

/// A DLX.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MemberLabels {
    /// Its name.
    pub member: String,
}

/// Where routes of a namespace file and a plugin lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeadsLabels {
    /// The plugin's kind.
    pub kind: String,
    /// The file's namespace.
    pub namespace: String,
    /// `own`, `both` or `dlx`.
    pub leads: &'static str,
}

/// What came of calls of a plugin that write routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The plugin's kind.
    pub kind: String,
    /// The file's namespace.
    pub namespace: String,
    /// `ok`, `conflict`, `retry`, `terminal` or `unsupported`.
    pub outcome: &'static str,
}

/// All of them. Cheap to clone; clones share their values.
#[derive(Clone)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leader: Gauge,
    /// Cycles so far.
    pub cycles: Family<CycleLabels, Counter>,
    /// Cycles whose resources or activity could not be told.
    pub failed_cycles: Family<CycleLabels, Counter>,
    /// How long cycles took.
    pub cycle_seconds: Family<CycleLabels, Histogram>,
    /// When the last cycle ended well.
    pub last_success: Family<CycleLabels, Gauge<f64, AtomicU64>>,
    /// What was decided.
    pub decisions: Family<DecisionLabels, Counter>,
    /// How tries to put a resource to zero ended.
    pub fences: Family<FenceLabels, Counter>,
    /// Tries under way.
    pub under_way: Gauge,
    /// Scales to zero that failed.
    pub scale_failures: Family<CycleLabels, Counter>,
    /// Rows that were left behind and mended.
    pub mended: Counter,
    /// Live DLXs that do not answer.
    pub member_silent: Family<MemberLabels, Gauge>,
    /// Routes, by where they lead.
    pub routes: Family<LeadsLabels, Gauge>,
    /// Writes of single routes, by outcome.
    pub route_calls: Family<RouteLabels, Counter>,
    /// Calls that name the DLXs anew in all routes and failed.
    pub tend_failures: Family<CycleLabels, Counter>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
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
            fences: Family::default(),
            under_way: Gauge::default(),
            scale_failures: Family::default(),
            mended: Counter::default(),
            member_silent: Family::default(),
            routes: Family::default(),
            route_calls: Family::default(),
            tend_failures: Family::default(),
        };
        registry.register("leader", "1 while this autoscaler leads, else 0", metrics.leader.clone());
        registry.register("cycles", "Cycles so far", metrics.cycles.clone());
        registry.register(
            "cycles_failed",
            "Cycles whose resources or activity could not be told",
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
            "When the last cycle ended well, by this host's clock",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register("decisions", "Decisions so far, by decision and reason", metrics.decisions.clone());
        registry.register(
            "fences",
            "Tries to put a resource to zero that ended, by how",
            metrics.fences.clone(),
        );
        registry.register("fences_under_way", "Tries under way", metrics.under_way.clone());
        registry.register("scale_failures", "Scales to zero that failed", metrics.scale_failures.clone());
        registry.register("rows_mended", "Rows that were left behind and mended", metrics.mended.clone());
        registry.register(
            "member_silent",
            "1 for each live DLX that does not answer: while there is one, everything is kept awake",
            metrics.member_silent.clone(),
        );
        registry.register("routes", "Routes, by where they lead: own, both, dlx", metrics.routes.clone());
        registry.register("route_calls", "Writes of routes, by outcome", metrics.route_calls.clone());
        registry.register(
            "route_tend_failures",
            "Calls that bring the DLXs named in all routes up to date, and failed",
            metrics.tend_failures.clone(),
        );
        metrics
    }

    /// A route was written, or not.
    pub fn route_called(&self, labels: &CycleLabels, result: &Result<(), ScaleError>) {
        let outcome = match result {
            Ok(()) => "ok",
            Err(ScaleError::Conflict) => "conflict",
            Err(ScaleError::Retry { .. }) => "retry",
            Err(ScaleError::Terminal { .. }) => "terminal",
            Err(ScaleError::Unsupported) => "unsupported",
        };
        let CycleLabels { kind, namespace } = labels.clone();
        self.route_calls.get_or_create(&RouteLabels { kind, namespace, outcome }).inc();
    }
}

// === impl LeadsLabels ===

impl LeadsLabels {
    /// Those of a namespace file and plugin that lead there.
    pub fn new(labels: &CycleLabels, leads: Leads) -> Self {
        let CycleLabels { kind, namespace } = labels.clone();
        let leads = match leads {
            Leads::Own => "own",
            Leads::Both => "both",
            Leads::Dlx => "dlx",
        };
        Self { kind, namespace, leads }
    }
}

/// For people: to the millisecond, from a minute on to the second.
pub fn rounded(duration: Duration) -> Duration {
    match duration.as_secs() {
        0..60 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}
