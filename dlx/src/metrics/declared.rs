//! The DLX's metrics, declared.

use daemon::telemetry::MetricDeclaration;
use prometheus_client::{
    metrics::MetricType::{Counter, Gauge, Histogram},
    registry::Unit,
};

/// Labels of a resource.
const RESOURCE: &[&str] = &["namespace", "name", "kind"];

pub(crate) static RESPONSES: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_responses",
    None,
    &["namespace", "name", "kind", "class"],
    "Answers by class of status: 2xx, 5xx and so on",
);
pub(crate) static REQUESTS: MetricDeclaration =
    MetricDeclaration::new(Counter, "dlx_requests", None, RESOURCE, "Requests that arrived");
pub(crate) static REQUESTS_DURING_DRAIN: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_requests_during_drain",
    None,
    RESOURCE,
    "Requests that came during a drain attempt",
);
pub(crate) static IN_FLIGHT: MetricDeclaration =
    MetricDeclaration::new(Gauge, "dlx_in_flight", None, RESOURCE, "Requests and connections in flight");
pub(crate) static HELD: MetricDeclaration =
    MetricDeclaration::new(Gauge, "dlx_held", None, RESOURCE, "Requests held");
pub(crate) static HOLD_REJECTIONS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_hold_rejections",
    None,
    &["namespace", "name", "kind", "reason"],
    "Held requests that were not forwarded: too_many_held, held_too_long, wake_failed or shutting_down",
);
pub(crate) static WAKES: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_wakes",
    None,
    &["namespace", "name", "kind", "outcome", "reason"],
    "Wakes of this DLX that ended: awake, or failed with the reason timed_out or refused_by_plugin",
);
pub(crate) static HELD_BYTES: MetricDeclaration =
    MetricDeclaration::new(Gauge, "dlx_held", Some(Unit::Bytes), &[], "Bytes reserved for held requests");
pub(crate) static HOST_CONFLICTS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "dlx_host_conflicts",
    None,
    &[],
    "Hosts that more than one resource claims",
);
pub(crate) static PORT_CONFLICTS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "dlx_port_conflicts",
    None,
    &[],
    "Ports that more than one resource claims",
);
pub(crate) static SET_SCALE_CALLS: MetricDeclaration =
    MetricDeclaration::new(Counter, "dlx_set_scale_calls", None, &[], "Calls of a plugin's set_scale");
pub(crate) static FAILED_WAKES: MetricDeclaration =
    MetricDeclaration::new(Counter, "dlx_failed_wakes", None, &[], "Wakes that did not succeed");
pub(crate) static UNASSIGNED_CONNECTIONS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_unassigned_connections",
    None,
    &[],
    "Connections that were reset: no resource has their port",
);
pub(crate) static UNREAD_BYTES: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "dlx_unread",
    Some(Unit::Bytes),
    &[],
    "Bytes of answers that clients of HTTP/2 have not taken",
);
pub(crate) static CLOSED_CONNECTIONS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_closed_connections",
    None,
    &["reason"],
    "Clients' connections that were closed: the longest idle to make room (idle), or those with the most unread (unread)",
);
pub(crate) static RESENT_REQUESTS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_resent_requests",
    None,
    &[],
    "Requests sent a second time: a reused connection had closed before an answer, or the stream was refused",
);
pub(crate) static WAKE_SECONDS: MetricDeclaration = MetricDeclaration::new(
    Histogram,
    "dlx_wake",
    Some(Unit::Seconds),
    &[],
    "From the wake's begin until an endpoint answers",
);
pub(crate) static COLD_START_PHASE_SECONDS: MetricDeclaration = MetricDeclaration::new(
    Histogram,
    "dlx_cold_start_phase",
    Some(Unit::Seconds),
    &["namespace", "kind", "phase"],
    "What the cold starts of this DLX's own wakes went into: decide, patch, scheduled, started, ready, first_byte",
);

/// All of them, beside those that both daemons have.
pub static METRICS: [&MetricDeclaration; 18] = [
    &RESPONSES,
    &REQUESTS,
    &REQUESTS_DURING_DRAIN,
    &IN_FLIGHT,
    &HELD,
    &HOLD_REJECTIONS,
    &WAKES,
    &HELD_BYTES,
    &HOST_CONFLICTS,
    &PORT_CONFLICTS,
    &SET_SCALE_CALLS,
    &FAILED_WAKES,
    &UNASSIGNED_CONNECTIONS,
    &UNREAD_BYTES,
    &CLOSED_CONNECTIONS,
    &RESENT_REQUESTS,
    &WAKE_SECONDS,
    &COLD_START_PHASE_SECONDS,
];
