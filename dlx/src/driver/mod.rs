//! What the state asks for is done here: endpoints are probed, records written, resources woken, Events reported; and what
//! the plugins tell comes in here.

mod follow;
mod plugins;
mod probe;
mod scale;
mod wake;

use std::sync::{Arc, atomic::AtomicU32};

use daemon::wakes::Wakes;
pub use plugins::{MISS_PAUSE, Plugins};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    metrics::Metrics,
    state::{ColdStartPhase, Effect, Entry},
};

/// Probes of endpoints under way at once, of all resources.
const PROBES: usize = 256;

/// Does what the state asks for.
#[derive(Debug)]
pub struct Driver {
    /// Where wakes, probes and watches run: not on the threads that proxy.
    handle: Handle,
    /// The budget for wakes.
    wakes: Wakes,
    /// The budget for probes.
    probes: Semaphore,
    /// Endpoints that requests wait for and that are about to be asked again.
    awaited: AtomicU32,
    metrics: Arc<Metrics>,
}

// === impl Driver ===

impl Driver {
    /// Nothing is under way. What it does runs on `handle`.
    pub fn new(handle: Handle, wakes: Wakes, metrics: Arc<Metrics>) -> Arc<Self> {
        let (probes, awaited) = (Semaphore::new(PROBES), AtomicU32::new(0));
        Arc::new(Self { handle, wakes, probes, awaited, metrics })
    }

    /// The budget for wakes.
    pub fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// Does it, or begins to: what takes time is a task of its own.
    pub fn carry_out(self: &Arc<Self>, entry: &Arc<Entry>, effect: Effect) {
        match effect {
            Effect::Probe(target) => probe::start(self.clone(), entry.clone(), target),
            Effect::Write(order) => wake::perform(self.clone(), entry.clone(), order),
            Effect::Drive => wake::drive(self.clone(), entry.clone()),
            Effect::Report { source, severity, reason, message } => {
                source.reports.report(&entry.key.id, severity, reason, message);
            }
            Effect::Woken(took, phases) => self.metrics.woken(&entry.key, took, &phases),
            Effect::FirstByte(took) => self.metrics.phase(&entry.key, ColdStartPhase::FirstByte, took),
            // The connections are the proxy's.
            Effect::CloseIdle(_) => {}
        }
    }
}
