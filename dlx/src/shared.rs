//! What all resources of this process share.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicU32};

use daemon::wakes::Wakes;
use scaler_types::protocol::Rules;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    answer::Refusal,
    hold::{Limits, Totals},
    metrics::Metrics,
    proxy::Pool,
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
    /// The budget for wakes.
    pub wakes: Wakes,
    /// The budget for probes.
    pub probes: Semaphore,
    /// Endpoints that requests wait for and that are about to be asked again.
    pub awaited: AtomicU32,
    /// The threads' connections to resources.
    pools: Mutex<Vec<Arc<Pool>>>,
    /// Counts that belong to no resource.
    pub metrics: Metrics,
    /// Set when this process ends: nothing is held any more.
    pub refuse_held: OnceLock<Refusal>,
}

// === impl Shared ===

impl Shared {
    /// Nothing held, nothing counted.
    pub fn new(rules: Rules, handle: Handle, held: Limits, wakes: Wakes) -> Arc<Self> {
        Arc::new(Self {
            rules,
            handle,
            totals: Arc::new(Totals::new(held)),
            wakes,
            probes: Semaphore::new(PROBES),
            awaited: AtomicU32::new(0),
            pools: Mutex::default(),
            metrics: Metrics::default(),
            refuse_held: OnceLock::new(),
        })
    }

    /// One more thread keeps connections.
    pub fn add_pool(&self, pool: Arc<Pool>) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
    }

    /// Requests that were sent again.
    pub fn resent(&self) -> u64 {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|pool| pool.resent()).sum()
    }

    /// Closes what is kept for endpoints that are listed no more: one that ends may wait for it.
    pub fn close_idle(&self, unlisted: &[u64]) {
        for pool in self.pools.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            pool.close_idle(unlisted);
        }
    }
}
