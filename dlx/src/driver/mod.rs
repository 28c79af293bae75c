//! What the state asks for is done here: endpoints are probed, records written, resources woken, Events reported; and what
//! the plugins tell comes in here.

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

/// Probes of endpoints under way at once, of all resources.
const MAX_PROBES: usize = 256;

/// Does what the state asks for.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Where wakes, probes and watches run: not on the threads that proxy.
    handle: Handle,
    /// The budget for wakes.
    wakes: Wakes,
    /// The budget for probes.
    probes: Semaphore,
    /// Endpoints that requests wait for and that are about to be asked again.
    awaited: AtomicU32,
    metrics: Arc<DlxMetrics>,
}

// === impl Driver ===

impl Driver {
    /// Nothing is under way. What it does runs on `handle`.
    pub(crate) fn new(handle: Handle, wakes: Wakes, metrics: Arc<DlxMetrics>) -> Arc<Self> {
        let (probes, awaited) = (Semaphore::new(MAX_PROBES), AtomicU32::new(0));
        Arc::new(Self { handle, wakes, probes, awaited, metrics })
    }

    /// The budget for wakes.
    #[cfg(test)]
    pub(crate) fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// Does it, or begins to: what takes time is a task of its own.
    pub(crate) fn carry_out(self: &Arc<Self>, resource: &Arc<ResourceHandle>, effect: Effect) {
        match effect {
            Effect::Probe(target) => probe::start(self.clone(), resource.clone(), target),
            Effect::Write(order) => wake::perform(self.clone(), resource.clone(), order),
            Effect::Drive => wake::drive(self.clone(), resource.clone()),
            Effect::Report { source, severity, reason, message } => {
                source.reports.report(&resource.key.id, severity, reason, message);
            }
            Effect::Woken(took, phases) => self.metrics.woken(&resource.key, took, &phases),
            Effect::FirstByte(took) => self.metrics.phase(&resource.key, ColdStartPhase::FirstByte, took),
            // The connections are the proxy's.
            Effect::CloseIdle(_) => {}
        }
    }
}
