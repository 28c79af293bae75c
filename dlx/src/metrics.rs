//! Metrics: what the resources count, and what belongs to none of them, told when asked for.

use std::{
    fmt,
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use daemon::{reports::Dropped, telemetry::ResourceMetrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Unit,
};

use crate::{
    dlx::Dlx,
    resource::{Entry, Key, Phase, Phases},
    route::{Claim, Conflict},
};

/// Upper bounds of the buckets of a cold start's duration, in seconds.
const COLD: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The same of one of its phases: some take less than a millisecond.
const PHASE: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

/// Counts that belong to no resource.
#[derive(Debug)]
pub struct Metrics {
    set_scales: AtomicU64,
    failed_wakes: AtomicU64,
    unassigned: AtomicU64,
    cold: Histogram,
    /// By kind and namespace, not by resource: they may be many.
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    /// Reports that plugins had no time for.
    pub reports_dropped: Dropped,
}

/// Whose cold starts, and which of their phases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    namespace: String,
    kind: String,
    phase: &'static str,
}

/// Reads all counts when Prometheus asks.
pub struct Exported {
    /// Whose.
    pub dlx: Weak<Dlx>,
    /// Which of those that each resource has.
    pub resources: ResourceMetrics,
}

/// Values of one resource, each with the labels that tell it from the others.
type Values = Vec<(u64, Vec<(&'static str, String)>)>;

/// A metric that each resource has: its name, its help, what it is, and its values.
type ResourceFamily<'a> = (&'static str, &'static str, MetricType, &'a dyn Fn(&Entry) -> Values);

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            set_scales: AtomicU64::new(0),
            failed_wakes: AtomicU64::new(0),
            unassigned: AtomicU64::new(0),
            cold: Histogram::new(COLD),
            phases: Family::new_with_constructor(|| Histogram::new(PHASE)),
            reports_dropped: Dropped::default(),
        }
    }
}

impl Metrics {
    /// A plugin was asked to scale.
    pub fn set_scale(&self) {
        self.set_scales.fetch_add(1, Ordering::Relaxed);
    }

    /// A wake failed.
    pub fn wake_failed(&self) {
        self.failed_wakes.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was reset: no resource has its port.
    pub fn unassigned(&self) {
        self.unassigned.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were of them.
    pub fn unassigned_so_far(&self) -> u64 {
        self.unassigned.load(Ordering::Relaxed)
    }

    /// A wake ended well.
    pub fn woken(&self, key: &Key, took: Duration, phases: &Phases) {
        self.cold.observe(took.as_secs_f64());
        for phase in Phase::ALL {
            if let Some(took) = phases.of(phase) {
                self.phase(key, phase, took);
            }
        }
    }

    /// A phase of a cold start took so long.
    pub fn phase(&self, key: &Key, phase: Phase, took: Duration) {
        let (namespace, kind) = (key.id.namespace.clone(), key.kind.to_string());
        let labels = PhaseLabels { namespace, kind, phase: phase.name() };
        self.phases.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

// === impl Exported ===

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(dlx) = self.dlx.upgrade() else { return Ok(()) };
        self.encode_resources(&dlx, &mut encoder)?;

        let totals = &dlx.shared.totals;
        let help = "Bytes reserved for held requests";
        let gauge = encoder.encode_descriptor("dlx_held", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(totals.bytes() as i64).encode(gauge)?;
        let table = dlx.table.load();
        let is_host = |conflict: &&Conflict| matches!(conflict.claim, Claim::Host(_));
        let hosts = table.conflicts.iter().filter(is_host).count();
        let help = "Hosts that more than one resource claims";
        let gauge = encoder.encode_descriptor("dlx_host_conflicts", help, None, MetricType::Gauge)?;
        ConstGauge::new(hosts as i64).encode(gauge)?;
        let help = "Ports that more than one resource claims";
        let gauge = encoder.encode_descriptor("dlx_port_conflicts", help, None, MetricType::Gauge)?;
        ConstGauge::new((table.conflicts.len() - hosts) as i64).encode(gauge)?;
        let metrics = &dlx.shared.metrics;
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
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(counter)?;
        }
        let help = "Bytes of answers that clients of HTTP/2 have not taken";
        let gauge = encoder.encode_descriptor("dlx_unread", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(dlx.places.unread() as i64).encode(gauge)?;
        let help = "Clients' connections that were closed: the longest idle to make room, or those with the most unread";
        let mut family =
            encoder.encode_descriptor("dlx_closed_connections", help, None, MetricType::Counter)?;
        for (reason, count) in
            [("idle", dlx.places.closed_for_others()), ("unread", dlx.places.closed_for_unread())]
        {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let help = "Requests sent a second time: a reused connection had closed before an answer, or the stream was refused";
        let counter = encoder.encode_descriptor("dlx_resent_requests", help, None, MetricType::Counter)?;
        ConstCounter::new(dlx.shared.resent()).encode(counter)?;
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

impl Exported {
    /// What each resource counts.
    fn encode_resources(&self, dlx: &Dlx, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.resources == ResourceMetrics::None {
            return Ok(());
        }
        let entries = dlx.registry.all();
        // A name, its help, and for each resource the values with the labels that tell them apart.
        let families: [ResourceFamily<'_>; 7] = [
            ("dlx_responses", "Answers by class of status", MetricType::Counter, &|entry| {
                let classes = entry.counts.classes().into_iter().enumerate();
                classes.map(|(class, count)| (count, vec![("class", format!("{}xx", class + 1))])).collect()
            }),
            ("dlx_requests", "Requests that arrived", MetricType::Counter, &|entry| {
                vec![(entry.counts.total(), Vec::new())]
            }),
            (
                "dlx_fenced_requests",
                "Requests that came while a fence was seen",
                MetricType::Counter,
                &|entry| vec![(entry.counts.fenced(), Vec::new())],
            ),
            ("dlx_in_flight", "Requests and connections in flight", MetricType::Gauge, &|entry| {
                vec![(entry.counts.in_flight(), Vec::new())]
            }),
            ("dlx_held", "Requests held", MetricType::Gauge, &|entry| {
                vec![(entry.queue.len() as u64, Vec::new())]
            }),
            ("dlx_hold_rejections", "Held requests that were not forwarded", MetricType::Counter, &|entry| {
                let rejections = entry.queue.rejections().into_iter();
                rejections.map(|(reason, count)| (count, vec![("reason", reason.to_owned())])).collect()
            }),
            (
                "dlx_wakes",
                "Wakes of this DLX that ended, by outcome and reason",
                MetricType::Counter,
                &|entry| {
                    let wakes = entry.counts.wakes().into_iter();
                    let labels = |outcome: &str, reason: &str| {
                        vec![("outcome", outcome.to_owned()), ("reason", reason.to_owned())]
                    };
                    wakes.map(|(outcome, reason, count)| (count, labels(outcome, reason))).collect()
                },
            ),
        ];
        for (name, help, kind, values) in families {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for entry in &entries {
                for (value, mut more) in values(entry) {
                    if !self.resources.show(value) {
                        continue;
                    }
                    let id = &entry.key.id;
                    let mut labels = vec![
                        ("namespace", id.namespace.clone()),
                        ("name", id.name.clone()),
                        ("kind", entry.key.kind.to_string()),
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
