//! What all resources have in common: what they hold together, and who carries out what follows from their changes.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use scaler_types::{
    Severity,
    protocol::{GateOrder, Rules},
};

use super::{ColdStartPhases, EndpointTarget, HeldTotals, HoldLimits, ResourceHandle};
use crate::{answer::ErrorResponse, plugin::PluginSource};

/// What all resources have in common.
pub(crate) struct SharedState {
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// What is held in all.
    pub(crate) totals: Arc<HeldTotals>,
    /// Set when this process ends: nothing is held any more.
    pub(crate) refuse_held: OnceLock<ErrorResponse>,
    carry_out: Box<CarryOut>,
}

type CarryOut = dyn Fn(&Arc<ResourceHandle>, Effect) + Send + Sync;

/// What is to be done because a resource changed. Nothing of it is done by the state itself.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Find out when the endpoint answers.
    Probe(Arc<EndpointTarget>),
    /// Write its record.
    Write(GateOrder),
    /// Get it up, or say why it cannot be, for as long as requests wait for it.
    Drive,
    /// Report an Event.
    Report {
        /// Its plugin.
        source: Arc<PluginSource>,
        /// How bad it is.
        severity: Severity,
        /// What happened, in one word.
        reason: &'static str,
        /// The same, for people.
        message: String,
    },
    /// Count a wake of this DLX's own that ended well: how long it took, and what with.
    Woken(Duration, ColdStartPhases),
    /// Count how long the first answer after such a wake took.
    FirstByte(Duration),
    /// Close idle connections to endpoints that are listed no more: one that ends may wait for it.
    CloseIdle(Vec<u64>),
}

// === impl SharedState ===

impl SharedState {
    /// Nothing held. `carry_out` may be called under the resource's lock: it must neither wait nor take that.
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
