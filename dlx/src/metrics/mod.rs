//! Counts that belong to no resource; and the declarations of all metrics.

pub(crate) mod declared;

use std::time::Duration;

use daemon::reports::Dropped;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::state::{ColdStartPhase, ColdStartPhases, ResourceKey};

/// Upper bounds of the buckets of a cold start's duration, in seconds.
const COLD_START_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The same for one of its phases: some take less than a millisecond.
const PHASE_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

/// Counts that belong to no resource.
#[derive(Debug)]
pub(crate) struct DlxMetrics {
    pub(crate) set_scales: Counter,
    pub(crate) failed_wakes: Counter,
    pub(crate) unassigned: Counter,
    pub(crate) cold: Histogram,
    /// By kind and namespace, not by resource: there may be many.
    pub(crate) phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    /// Events that were dropped because a plugin was too slow.
    pub(crate) reports_dropped: Dropped,
}

/// The kind and namespace of cold starts, and the phase.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PhaseLabels {
    namespace: String,
    kind: String,
    phase: &'static str,
}

// === impl DlxMetrics ===

impl Default for DlxMetrics {
    fn default() -> Self {
        Self {
            set_scales: Counter::default(),
            failed_wakes: Counter::default(),
            unassigned: Counter::default(),
            cold: Histogram::new(COLD_START_BUCKETS),
            phases: Family::new_with_constructor(|| Histogram::new(PHASE_BUCKETS)),
            reports_dropped: Dropped::default(),
        }
    }
}

impl DlxMetrics {
    /// Counts a successful wake.
    pub(crate) fn woken(&self, key: &ResourceKey, took: Duration, phases: &ColdStartPhases) {
        self.cold.observe(took.as_secs_f64());
        for phase in ColdStartPhase::ALL {
            if let Some(took) = phases.duration_of(phase) {
                self.phase(key, phase, took);
            }
        }
    }

    /// Counts the duration of a phase of a cold start.
    pub(crate) fn phase(&self, key: &ResourceKey, phase: ColdStartPhase, took: Duration) {
        let (namespace, kind) = (key.id.namespace.clone(), key.kind.to_string());
        let labels = PhaseLabels { namespace, kind, phase: phase.name() };
        self.phases.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
