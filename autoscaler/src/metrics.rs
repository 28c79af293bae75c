//! The autoscaler's metrics, declared.

use daemon::telemetry::MetricDeclaration;
use prometheus_client::{
    metrics::MetricType::{Counter, Gauge, Histogram},
    registry::Unit,
};

/// Labels of what belongs to one namespace file and one plugin.
const CYCLE: &[&str] = &["kind", "namespace"];

pub(crate) static LEADER: MetricDeclaration =
    MetricDeclaration::new(Gauge, "leader", None, &[], "1 while this autoscaler is the leader, else 0");
pub(crate) static CYCLES: MetricDeclaration =
    MetricDeclaration::new(Counter, "cycles", None, CYCLE, "Cycles so far");
pub(crate) static CYCLES_FAILED: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "cycles_failed",
    None,
    CYCLE,
    "Cycles that could not read all resources and their activity",
);
pub(crate) static CYCLE_SECONDS: MetricDeclaration =
    MetricDeclaration::new(Histogram, "cycle", Some(Unit::Seconds), CYCLE, "How long cycles took");
pub(crate) static CYCLE_LAST_SUCCESS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "cycle_last_success_timestamp",
    Some(Unit::Seconds),
    CYCLE,
    "When the last cycle succeeded, by this host's clock",
);
pub(crate) static DECISIONS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "decisions",
    None,
    &["decision", "reason"],
    "Decisions so far: keep or scale_to_zero",
);
pub(crate) static DRAIN_ATTEMPTS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "drain_attempts",
    None,
    &["outcome", "reason"],
    "Attempts to scale a resource to zero that ended: committed, reverted or failed",
);
pub(crate) static DRAIN_ATTEMPTS_IN_PROGRESS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "drain_attempts_in_progress",
    None,
    &[],
    "Drain attempts and record repairs in progress",
);
pub(crate) static SCALE_FAILURES: MetricDeclaration =
    MetricDeclaration::new(Counter, "scale_failures", None, CYCLE, "Scales to zero that failed");
pub(crate) static RECORDS_REPAIRED: MetricDeclaration =
    MetricDeclaration::new(Counter, "records_repaired", None, &[], "Stale records that were repaired");
pub(crate) static DLX_UNREACHABLE: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "dlx_unreachable",
    None,
    &["dlx"],
    "1 for each registered DLX that does not answer: while there is one, everything is kept awake",
);
pub(crate) static INTERCEPTIONS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "interceptions",
    None,
    &["kind", "namespace", "backend"],
    "Intercepted resources, by backend: workload, both or dlx",
);
pub(crate) static INTERCEPTION_CALLS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "interception_calls",
    None,
    &["kind", "namespace", "outcome"],
    "Calls of plugins that point the Services of one resource at a backend: ok, conflict, retry, terminal or unsupported",
);
pub(crate) static DLX_SYNC_FAILURES: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "dlx_sync_failures",
    None,
    CYCLE,
    "Failed updates of the DLX addresses of all intercepted Services",
);
pub(crate) static FAILED_DRAINS: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "failed_drains",
    None,
    &["namespace", "name", "kind", "outcome", "reason"],
    "Drain attempts of this resource that did not scale it to zero: reverted or failed",
);
pub(crate) static FREQUENT_WAKES: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "autoscaler_frequent_wakes",
    None,
    &["namespace", "name", "kind"],
    "Wakes in the last hour of a resource that had more than three",
);
pub(crate) static REFUSED: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "refused",
    None,
    &["namespace", "name", "kind", "what"],
    "1 while the resource's configuration prevents scale_to_zero or interception (label what); autoscaler explain shows why",
);

pub(crate) static REPLICA_CHANGES: MetricDeclaration = MetricDeclaration::new(
    Counter,
    "replica_changes",
    None,
    &["way", "outcome"],
    "Changes of a number of replicas that were attempted: up, down or wake",
);
pub(crate) static DESIRED_REPLICAS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "desired_replicas",
    None,
    &["namespace", "name", "kind"],
    "Replicas that a resource with a target per replica should have",
);
pub(crate) static CURRENT_REPLICAS: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "current_replicas",
    None,
    &["namespace", "name", "kind"],
    "Replicas that a resource with a target per replica has, those that start included",
);
pub(crate) static QUEUE_MESSAGES: MetricDeclaration = MetricDeclaration::new(
    Gauge,
    "queue_messages",
    None,
    &["namespace", "name", "kind", "queue", "state"],
    "Messages in a queue of a resource: waiting, in_flight or delayed; none while they are not known",
);

/// All of them, beside those that both daemons have.
pub static METRICS: [&MetricDeclaration; 21] = [
    &LEADER,
    &CYCLES,
    &CYCLES_FAILED,
    &CYCLE_SECONDS,
    &CYCLE_LAST_SUCCESS,
    &DECISIONS,
    &DRAIN_ATTEMPTS,
    &DRAIN_ATTEMPTS_IN_PROGRESS,
    &SCALE_FAILURES,
    &RECORDS_REPAIRED,
    &DLX_UNREACHABLE,
    &INTERCEPTIONS,
    &INTERCEPTION_CALLS,
    &DLX_SYNC_FAILURES,
    &FAILED_DRAINS,
    &FREQUENT_WAKES,
    &REFUSED,
    &REPLICA_CHANGES,
    &DESIRED_REPLICAS,
    &CURRENT_REPLICAS,
    &QUEUE_MESSAGES,
];
