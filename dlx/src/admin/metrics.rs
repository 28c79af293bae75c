//! Metrics of resources and of the DLX, read when they are scraped.

use std::{fmt, sync::Weak};

use daemon::telemetry::{MetricDeclaration, ResourceMetrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    metrics::declared,
    stages::Stages,
    state::{Claim, Conflict, ResourceHandle},
};

/// Reads all counts when Prometheus scrapes.
#[derive(Debug)]
pub(crate) struct MetricsCollector {
    /// The DLX.
    pub(crate) dlx: Weak<Stages>,
    /// Which metrics each resource has.
    pub(crate) resources: ResourceMetrics,
}

/// The values of one resource, each with those of its further labels.
type Values = Vec<(u64, Vec<String>)>;

/// A metric of each resource, and how its values are read.
type ResourceFamily<'a> = (&'static MetricDeclaration, &'a dyn Fn(&ResourceHandle) -> Values);

// === impl MetricsCollector ===

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(dlx) = self.dlx.upgrade() else { return Ok(()) };
        self.encode_resources(&dlx, &mut encoder)?;

        let table = dlx.resources.table();
        let is_host = |conflict: &&Conflict| matches!(conflict.claim, Claim::Host(_));
        let hosts = table.conflicts.iter().filter(is_host).count();
        for (metric, value) in [
            (&declared::HELD_BYTES, dlx.shared.totals.bytes() as i64),
            (&declared::HOST_CONFLICTS, hosts as i64),
            (&declared::PORT_CONFLICTS, (table.conflicts.len() - hosts) as i64),
            (&declared::UNREAD_BYTES, dlx.server.slots.unread() as i64),
        ] {
            ConstGauge::new(value).encode(metric.encode(&mut encoder)?)?;
        }
        let metrics = &dlx.metrics;
        for (metric, count) in [
            (&declared::SET_SCALE_CALLS, metrics.set_scales.get()),
            (&declared::FAILED_WAKES, metrics.failed_wakes.get()),
            (&declared::UNASSIGNED_CONNECTIONS, metrics.unassigned.get()),
            (&declared::RESENT_REQUESTS, dlx.server.pools.resent()),
        ] {
            ConstCounter::new(count).encode(metric.encode(&mut encoder)?)?;
        }
        let metric = &declared::CLOSED_CONNECTIONS;
        let mut family = metric.encode(&mut encoder)?;
        for (reason, count) in
            [("idle", dlx.server.slots.closed_for_others()), ("unread", dlx.server.slots.closed_for_unread())]
        {
            let labels = metric.labelled([reason.to_owned()]);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        metrics.cold.encode(declared::WAKE_SECONDS.encode(&mut encoder)?)?;
        metrics.phases.encode(declared::COLD_START_PHASE_SECONDS.encode(&mut encoder)?)
    }
}

impl MetricsCollector {
    /// Encodes the metrics of the resources.
    fn encode_resources(&self, dlx: &Stages, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.resources == ResourceMetrics::None {
            return Ok(());
        }
        let entries = dlx.resources.all();
        let families: [ResourceFamily<'_>; 7] = [
            (&declared::RESPONSES, &|resource| {
                let classes = resource.counts.classes().into_iter().enumerate();
                classes.map(|(class, count)| (count, vec![format!("{}xx", class + 1)])).collect()
            }),
            (&declared::REQUESTS, &|resource| vec![(resource.counts.total(), Vec::new())]),
            (&declared::REQUESTS_DURING_DRAIN, &|resource| {
                vec![(resource.counts.during_drain(), Vec::new())]
            }),
            (&declared::IN_FLIGHT, &|resource| vec![(resource.counts.in_flight(), Vec::new())]),
            (&declared::HELD, &|resource| vec![(resource.queue.len() as u64, Vec::new())]),
            (&declared::HOLD_REJECTIONS, &|resource| {
                let rejections = resource.queue.rejections().into_iter();
                rejections.map(|(reason, count)| (count, vec![reason.to_owned()])).collect()
            }),
            (&declared::WAKES, &|resource| {
                let wakes = resource.counts.wakes().into_iter();
                let labels = |outcome: &str, reason: &str| vec![outcome.to_owned(), reason.to_owned()];
                wakes.map(|(outcome, reason, count)| (count, labels(outcome, reason))).collect()
            }),
        ];
        for (metric, values) in families {
            let mut family = metric.encode(encoder)?;
            for resource in &entries {
                for (value, more) in values(resource) {
                    if !self.resources.show(value) {
                        continue;
                    }
                    let id = &resource.key.id;
                    let labels = [id.namespace.clone(), id.name.clone(), resource.key.kind.to_string()];
                    let labels = metric.labelled(labels.into_iter().chain(more));
                    let series = family.encode_family(&labels)?;
                    match metric.kind() {
                        "gauge" => ConstGauge::new(value as i64).encode(series)?,
                        _ => ConstCounter::new(value).encode(series)?,
                    }
                }
            }
        }
        Ok(())
    }
}
