//! What all resources of this process share.

use std::sync::{Arc, OnceLock, atomic::AtomicU32};

use scaler_types::protocol::Rules;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    answer::Refusal,
    hold::{Limits, Totals},
    metrics::Metrics,
};

/// Probes of endpoints under way at once, of all resources.
const PROBES: usize = 256;

/// What all resources share.
#[derive(Debug)]
pub struct Shared {
    /// The protocol's rules.
    pub rules: Rules,
    /// Where wakes, probes and watches run: not on the threads that proxy.
    pub handle: Handle,
    /// What is held in all.
    pub totals: Arc<Totals>,
    /// The budget for probes.
    pub probes: Semaphore,
    /// Endpoints that requests wait for and that are about to be asked again.
    pub awaited: AtomicU32,
    /// Counts that belong to no resource.
    pub metrics: Metrics,
    /// Set when this process ends: nothing is held any more.
    pub refuse_held: OnceLock<Refusal>,
}

// === impl Shared ===

impl Shared {
    /// Nothing held, nothing counted.
    pub fn new(rules: Rules, handle: Handle, held: Limits) -> Arc<Self> {
        Arc::new(Self {
            rules,
            handle,
            totals: Arc::new(Totals::new(held)),
            probes: Semaphore::new(PROBES),
            awaited: AtomicU32::new(0),
            metrics: Metrics::default(),
            refuse_held: OnceLock::new(),
        })
    }
}
