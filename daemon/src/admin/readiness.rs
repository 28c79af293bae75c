//! `/readyz` as a metric.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};

use super::Ready;
use crate::telemetry;

/// `scaler_ready`.
pub(super) struct Readiness {
    pub(super) daemon: &'static str,
    pub(super) ready: Ready,
}

// === impl Readiness ===

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("daemon", &self.daemon).finish_non_exhaustive()
    }
}

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = telemetry::READY.encode(&mut encoder)?;
        let ready = ConstGauge::new(i64::from((self.ready)().is_ok()));
        ready.encode(family.encode_family(&[("daemon", self.daemon)])?)
    }
}
