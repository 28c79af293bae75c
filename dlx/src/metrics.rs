//! Counts that belong to no resource.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use daemon::reports::Dropped;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
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
    pub(crate) set_scales: AtomicU64,
    pub(crate) failed_wakes: AtomicU64,
    pub(crate) unassigned: AtomicU64,
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
            set_scales: AtomicU64::new(0),
            failed_wakes: AtomicU64::new(0),
            unassigned: AtomicU64::new(0),
            cold: Histogram::new(COLD_START_BUCKETS),
            phases: Family::new_with_constructor(|| Histogram::new(PHASE_BUCKETS)),
            reports_dropped: Dropped::default(),
        }
    }
}

impl DlxMetrics {
    /// Counts a call of `set_scale`.
    pub(crate) fn set_scale(&self) {
        self.set_scales.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed wake.
    pub(crate) fn wake_failed(&self) {
        self.failed_wakes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was reset because no resource has its port.
    pub(crate) fn unassigned(&self) {
        self.unassigned.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were reset so.
    pub(crate) fn unassigned_so_far(&self) -> u64 {
        self.unassigned.load(Ordering::Relaxed)
    }

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
