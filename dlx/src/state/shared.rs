//! The state that all resources share: limits of the held requests, and the function that carries out effects.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use scaler_types::{
    EventReason,
    protocol::{GateOrder, Rules},
};

use super::{ColdStartPhases, EndpointTarget, HeldTotals, HoldLimits, ResourceHandle};
use crate::{answer::ErrorResponse, plugin::PluginSource};

/// The state that all resources share.
pub(crate) struct SharedState {
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// The held requests of all resources together.
    pub(crate) totals: Arc<HeldTotals>,
    /// Set when the DLX shuts down: nothing is held any more.
    pub(crate) refuse_held: OnceLock<ErrorResponse>,
    carry_out: Box<CarryOut>,
}

type CarryOut = dyn Fn(&Arc<ResourceHandle>, Effect) + Send + Sync;

/// An effect of a change of a resource. The state itself does none of them.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Probe the endpoint until it answers.
    Probe(Arc<EndpointTarget>),
    /// Write its record.
    Write(GateOrder),
    /// Wake the resource, or fail, as long as requests are held.
    Drive,
    /// Report an Event.
    Report {
        /// Its plugin.
        source: Arc<PluginSource>,
        /// Its reason.
        reason: EventReason,
        /// Its message.
        message: String,
    },
    /// Count a wake of this DLX that succeeded: its duration and its phases.
    Woken(Duration, ColdStartPhases),
    /// Count the time to the first byte after such a wake.
    FirstByte(Duration),
    /// Close idle connections to endpoints that are not listed any more: a pod that ends may wait for that.
    CloseIdle(Vec<u64>),
}

// === impl SharedState ===

impl SharedState {
    /// Nothing is held yet. `carry_out` may be called under the resource's lock: it must neither block nor take that
    /// lock.
    pub(crate) fn new(
        rules: Rules,
        held: HoldLimits,
        carry_out: impl Fn(&Arc<ResourceHandle>, Effect) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (totals, refuse_held) = (Arc::new(HeldTotals::new(held)), OnceLock::new());
        Arc::new(Self { rules, totals, refuse_held, carry_out: Box::new(carry_out) })
    }

    pub(super) fn carry_out(&self, resource: &Arc<ResourceHandle>, effect: Effect) {
        (self.carry_out)(resource, effect);
    }
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedState").field("totals", &self.totals).finish_non_exhaustive()
    }
}
