//! The autoscaler's metrics of single resources.

use std::fmt;

use daemon::telemetry::ResourceMetrics;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use scaler_types::ResourceId;
use tokio::time::Instant;

use super::AdminView;
use crate::cycle::states::ResourceStates;

/// Reads what is known of each resource when Prometheus asks.
pub(crate) struct ResourceSeries {
    /// What is known.
    pub(crate) view: AdminView,
    /// Which of it is wanted.
    pub(crate) resources: ResourceMetrics,
}

/// A resource's labels, and a value.
type Sample = (Vec<(&'static str, String)>, u64);

/// Adds a value of a resource, with its labels beside the resource's own.
type AddSample<'a> = dyn FnMut(&ResourceId, &[(&'static str, &str)], u64) + 'a;

// === impl ResourceSeries ===

impl ResourceSeries {
    fn samples(&self, read: impl Fn(&ResourceStates, &mut AddSample<'_>)) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.view.for_each_cycle(|(kind, _), states| {
            read(states, &mut |id, more, value| {
                if self.resources.show(value) {
                    let its: [(_, &str); 3] =
                        [("namespace", &id.namespace), ("name", &id.name), ("kind", kind)];
                    let labels = its.iter().chain(more).map(|(label, text)| (*label, (*text).to_owned()));
                    samples.push((labels.collect(), value));
                }
            });
        });
        samples
    }
}

impl fmt::Debug for ResourceSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceSeries").field("resources", &self.resources).finish_non_exhaustive()
    }
}

impl Collector for ResourceSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.resources == ResourceMetrics::None {
            return Ok(());
        }
        let drains = self.samples(|states, add| {
            for (id, known) in &states.resources {
                for ((outcome, reason), count) in &known.failed_drains {
                    add(id, &[("outcome", outcome), ("reason", reason)], *count);
                }
            }
        });
        let help = "Drain attempts of this resource that did not scale it to zero";
        let mut family = encoder.encode_descriptor("failed_drains", help, None, MetricType::Counter)?;
        for (labels, count) in drains {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let now = Instant::now();
        let frequent = self.samples(|states, add| {
            for (id, known) in &states.resources {
                let wakes = known.wakes.frequent(now).map_or(0, |frequent| frequent.wakes as u64);
                add(id, &[], wakes);
            }
        });
        let help = "Wakes in the last hour of a resource that had more than three";
        let mut family =
            encoder.encode_descriptor("autoscaler_frequent_wakes", help, None, MetricType::Gauge)?;
        for (labels, value) in frequent {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        let refused = self.samples(|states, add| {
            for (id, known) in &states.resources {
                let intercepted =
                    known.resource.interception.as_ref().map(|interception| !interception.refusal.is_empty());
                for (what, refused) in
                    [("scale_to_zero", Some(known.reported_refusal.is_some())), ("interception", intercepted)]
                {
                    if let Some(refused) = refused {
                        add(id, &[("what", what)], u64::from(refused));
                    }
                }
            }
        });
        let help = "1 while the resource's configuration prevents scaling to zero or interception (label what); autoscaler explain shows why";
        let mut family = encoder.encode_descriptor("refused", help, None, MetricType::Gauge)?;
        for (labels, value) in refused {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
