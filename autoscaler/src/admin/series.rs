//! The autoscaler's metrics of single resources.

use std::fmt;

use daemon::telemetry::{MetricDeclaration, ResourceMetrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use scaler_types::ResourceId;
use tokio::time::Instant;

use super::AdminView;
use crate::{
    cycle::states::ResourceStates,
    metrics::{CURRENT_REPLICAS, DESIRED_REPLICAS, FAILED_DRAINS, FREQUENT_WAKES, QUEUE_MESSAGES, REFUSED},
    scaling::ScalingStatus,
};

/// Reads what is known of each resource when Prometheus asks.
pub(crate) struct ResourceSeries {
    /// What is known.
    pub(crate) view: AdminView,
    /// Which of it is wanted.
    pub(crate) resources: ResourceMetrics,
}

/// A resource's labels, and a value.
type Sample = (Vec<(&'static str, String)>, u64);

/// Adds a value of a resource, with the values of its labels beside the resource's own.
type AddSample<'a> = dyn FnMut(&ResourceId, &[&str], u64) + 'a;

// === impl ResourceSeries ===

impl ResourceSeries {
    /// Of each resource with a target per replica.
    fn scaling_samples(
        &self,
        metric: &MetricDeclaration,
        read: impl Fn(&ScalingStatus, u32, &mut dyn FnMut(&[&str], u64)),
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.view.for_each_scaled(|kind, id, replicas, status| {
            read(status, replicas, &mut |more, value| {
                if self.resources.show(value) {
                    let resource: [&str; 3] = [&id.namespace, &id.name, kind];
                    let labels = resource.iter().chain(more).map(|label| (*label).to_owned());
                    samples.push((metric.labelled(labels), value));
                }
            });
        });
        samples
    }

    fn samples(
        &self,
        metric: &MetricDeclaration,
        read: impl Fn(&ResourceStates, &mut AddSample<'_>),
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.view.for_each_cycle(|(kind, _), states| {
            read(states, &mut |id, more, value| {
                if self.resources.show(value) {
                    let resource: [&str; 3] = [&id.namespace, &id.name, kind];
                    let labels = resource.iter().chain(more).map(|label| (*label).to_owned());
                    samples.push((metric.labelled(labels), value));
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
        let drains = self.samples(&FAILED_DRAINS, |states, add| {
            for (id, known) in &states.resources {
                for ((outcome, reason), count) in &known.failed_drains {
                    add(id, &[outcome, reason], *count);
                }
            }
        });
        let mut family = FAILED_DRAINS.encode(&mut encoder)?;
        for (labels, count) in drains {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let now = Instant::now();
        let frequent = self.samples(&FREQUENT_WAKES, |states, add| {
            for (id, known) in &states.resources {
                let wakes = known.wakes.frequent(now).map_or(0, |frequent| frequent.wakes as u64);
                add(id, &[], wakes);
            }
        });
        let mut family = FREQUENT_WAKES.encode(&mut encoder)?;
        for (labels, value) in frequent {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        let refused = self.samples(&REFUSED, |states, add| {
            for (id, known) in &states.resources {
                let intercepted =
                    known.resource.interception.as_ref().map(|interception| !interception.refusal.is_empty());
                for (what, refused) in
                    [("scale_to_zero", Some(known.reported_refusal.is_some())), ("interception", intercepted)]
                {
                    if let Some(refused) = refused {
                        add(id, &[what], u64::from(refused));
                    }
                }
            }
        });
        let mut family = REFUSED.encode(&mut encoder)?;
        for (labels, value) in refused {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        let desired = self.scaling_samples(&DESIRED_REPLICAS, |status, _, add| {
            if let Some(desired) = status.desired {
                add(&[], u64::from(desired));
            }
        });
        let current =
            self.scaling_samples(&CURRENT_REPLICAS, |_, replicas, add| add(&[], u64::from(replicas)));
        let messages = self.scaling_samples(&QUEUE_MESSAGES, |status, _, add| {
            for queue in &status.queues {
                for (state, count) in
                    [("waiting", queue.waiting), ("in_flight", queue.in_flight), ("delayed", queue.delayed)]
                {
                    if let Some(count) = count {
                        add(&[&queue.queue, state], count);
                    }
                }
            }
        });
        for (metric, samples) in
            [(&DESIRED_REPLICAS, desired), (&CURRENT_REPLICAS, current), (&QUEUE_MESSAGES, messages)]
        {
            let mut family = metric.encode(&mut encoder)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
