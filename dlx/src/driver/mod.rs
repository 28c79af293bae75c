//! Carries out the effects of the state: probes endpoints, writes records, wakes resources, reports Events; and follows
//! what the plugins list.

mod follow;
mod followed;
mod probe;
mod scale;
mod wake;

use std::sync::{Arc, atomic::AtomicU32};

use daemon::wakes::Wakes;
pub(crate) use followed::{FollowedPlugins, PluginsNotReady, UNKNOWN_HOST_DELAY};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    metrics::DlxMetrics,
    state::{ColdStartPhase, Effect, ResourceHandle},
};

/// Concurrent probes, of all resources.
const MAX_PROBES: usize = 256;

/// Carries out effects.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The runtime for wakes, probes and watches: not the threads that forward.
    handle: Handle,
    /// The limit on concurrent wakes.
    wakes: Wakes,
    /// The limit on concurrent probes.
    probes: Semaphore,
    /// How many endpoints that requests wait for are between two probes.
    awaited: AtomicU32,
    metrics: Arc<DlxMetrics>,
}

// === impl Driver ===

impl Driver {
    /// Nothing is running yet. Its tasks run on `handle`.
    pub(crate) fn new(handle: Handle, wakes: Wakes, metrics: Arc<DlxMetrics>) -> Arc<Self> {
        let (probes, awaited) = (Semaphore::new(MAX_PROBES), AtomicU32::new(0));
        Arc::new(Self { handle, wakes, probes, awaited, metrics })
    }

    /// The limit on concurrent wakes.
    #[cfg(test)]
    pub(crate) fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// Carries out an effect; what takes time becomes a task.
    pub(crate) fn carry_out(self: &Arc<Self>, resource: &Arc<ResourceHandle>, effect: Effect) {
        match effect {
            Effect::Probe(target) => probe::start(self.clone(), resource.clone(), target),
            Effect::Write(order) => wake::perform(self.clone(), resource.clone(), order),
            Effect::Drive => wake::drive(self.clone(), resource.clone()),
            Effect::Report { source, reason, message } => {
                source.reports.report(&resource.key.id, reason, message);
            }
            Effect::Woken(took, phases) => self.metrics.woken(&resource.key, took, &phases),
            Effect::FirstByte(took) => self.metrics.phase(&resource.key, ColdStartPhase::FirstByte, took),
            // `Stages` closes connections.
            Effect::CloseIdle(_) => {}
        }
    }
}
