//! Metrics of resources and of the DLX, read when they are scraped.

use std::{fmt, sync::Weak};

use daemon::telemetry::ResourceMetrics;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use crate::{
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

/// The values of one resource with their labels.
type Values = Vec<(u64, Vec<(&'static str, String)>)>;

/// A metric of each resource: name, help, type and values.
type ResourceFamily<'a> = (&'static str, &'static str, MetricType, &'a dyn Fn(&ResourceHandle) -> Values);

// === impl MetricsCollector ===

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(dlx) = self.dlx.upgrade() else { return Ok(()) };
        self.encode_resources(&dlx, &mut encoder)?;

        let totals = &dlx.shared.totals;
        let help = "Bytes reserved for held requests";
        let gauge = encoder.encode_descriptor("dlx_held", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(totals.bytes() as i64).encode(gauge)?;
        let table = dlx.resources.table();
        let is_host = |conflict: &&Conflict| matches!(conflict.claim, Claim::Host(_));
        let hosts = table.conflicts.iter().filter(is_host).count();
        let help = "Hosts that more than one resource claims";
        let gauge = encoder.encode_descriptor("dlx_host_conflicts", help, None, MetricType::Gauge)?;
        ConstGauge::new(hosts as i64).encode(gauge)?;
        let help = "Ports that more than one resource claims";
        let gauge = encoder.encode_descriptor("dlx_port_conflicts", help, None, MetricType::Gauge)?;
        ConstGauge::new((table.conflicts.len() - hosts) as i64).encode(gauge)?;
        let metrics = &dlx.metrics;
        for (name, help, count) in [
            ("dlx_set_scale_calls", "Calls of a plugin's set_scale", &metrics.set_scales),
            ("dlx_failed_wakes", "Wakes that did not succeed", &metrics.failed_wakes),
            (
                "dlx_unassigned_connections",
                "Connections that were reset: no resource has their port",
                &metrics.unassigned,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.get()).encode(counter)?;
        }
        let help = "Bytes of answers that clients of HTTP/2 have not taken";
        let gauge = encoder.encode_descriptor("dlx_unread", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(dlx.server.slots.unread() as i64).encode(gauge)?;
        let help = "Clients' connections that were closed: the longest idle to make room, or those with the most unread";
        let mut family =
            encoder.encode_descriptor("dlx_closed_connections", help, None, MetricType::Counter)?;
        for (reason, count) in
            [("idle", dlx.server.slots.closed_for_others()), ("unread", dlx.server.slots.closed_for_unread())]
        {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let help = "Requests sent a second time: a reused connection had closed before an answer, or the stream was refused";
        let counter = encoder.encode_descriptor("dlx_resent_requests", help, None, MetricType::Counter)?;
        ConstCounter::new(dlx.server.pools.resent()).encode(counter)?;
        let help = "From the wake's begin until an endpoint answers";
        let histogram =
            encoder.encode_descriptor("dlx_wake", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metrics.cold.encode(histogram)?;
        let help = "What the cold starts of this DLX's own wakes went into, one phase after the other";
        let phases = encoder.encode_descriptor(
            "dlx_cold_start_phase",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        metrics.phases.encode(phases)
    }
}

impl MetricsCollector {
    /// Encodes the metrics of the resources.
    fn encode_resources(&self, dlx: &Stages, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.resources == ResourceMetrics::None {
            return Ok(());
        }
        let entries = dlx.resources.all();
        // A name, its help, and for each resource the values with their labels.
        let families: [ResourceFamily<'_>; 7] = [
            ("dlx_responses", "Answers by class of status", MetricType::Counter, &|resource| {
                let classes = resource.counts.classes().into_iter().enumerate();
                classes.map(|(class, count)| (count, vec![("class", format!("{}xx", class + 1))])).collect()
            }),
            ("dlx_requests", "Requests that arrived", MetricType::Counter, &|resource| {
                vec![(resource.counts.total(), Vec::new())]
            }),
            (
                "dlx_requests_during_drain",
                "Requests that came during a drain attempt",
                MetricType::Counter,
                &|resource| vec![(resource.counts.during_drain(), Vec::new())],
            ),
            ("dlx_in_flight", "Requests and connections in flight", MetricType::Gauge, &|resource| {
                vec![(resource.counts.in_flight(), Vec::new())]
            }),
            ("dlx_held", "Requests held", MetricType::Gauge, &|resource| {
                vec![(resource.queue.len() as u64, Vec::new())]
            }),
            (
                "dlx_hold_rejections",
                "Held requests that were not forwarded",
                MetricType::Counter,
                &|resource| {
                    let rejections = resource.queue.rejections().into_iter();
                    rejections.map(|(reason, count)| (count, vec![("reason", reason.to_owned())])).collect()
                },
            ),
            (
                "dlx_wakes",
                "Wakes of this DLX that ended, by outcome and reason",
                MetricType::Counter,
                &|resource| {
                    let wakes = resource.counts.wakes().into_iter();
                    let labels = |outcome: &str, reason: &str| {
                        vec![("outcome", outcome.to_owned()), ("reason", reason.to_owned())]
                    };
                    wakes.map(|(outcome, reason, count)| (count, labels(outcome, reason))).collect()
                },
            ),
        ];
        for (name, help, kind, values) in families {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for resource in &entries {
                for (value, mut more) in values(resource) {
                    if !self.resources.show(value) {
                        continue;
                    }
                    let id = &resource.key.id;
                    let mut labels = vec![
                        ("namespace", id.namespace.clone()),
                        ("name", id.name.clone()),
                        ("kind", resource.key.kind.to_string()),
                    ];
                    labels.append(&mut more);
                    match kind {
                        MetricType::Gauge => {
                            ConstGauge::new(value as i64).encode(family.encode_family(&labels)?)?;
                        }
                        _ => ConstCounter::new(value).encode(family.encode_family(&labels)?)?,
                    }
                }
            }
        }
        Ok(())
    }
}
