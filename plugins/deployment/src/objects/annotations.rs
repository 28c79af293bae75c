//! The annotations of workloads and namespaces that this plugin reads. `cargo xtask reference` makes
//! docs/reference/annotations.md of these texts: the first paragraph is the meaning, `Default:` begins what holds without it.

/// `10m` opts the workload in: it is scaled to zero after ten minutes without a request. `"true"` opts it in with the namespace
/// file's `defaults.scaleResources`. `"false"` opts it out, also if its namespace opts in; with a target per replica it is still
/// scaled, but never to zero. On a Namespace: for every workload in it without the annotation.
///
/// Default: not opted in; with a target per replica or a queue scaled, but never to zero.
pub(crate) const SCALE_TO_ZERO: &str = "scaler.dev/scale-to-zero";
/// When its Services are intercepted: `always`; `when-asleep`, only while it is asleep; `manual`, never, and then you point its
/// requests at the DLX. On a Namespace: for every workload in it without the annotation.
///
/// Default: the namespace file's `plugins.deployment.intercept`, which is `always`.
pub(crate) const INTERCEPT: &str = "scaler.dev/intercept";
/// The metrics that decide, a list as `scaleResources` in the namespace file: `[{metricName: requests, windowSize: 10m,
/// threshold: 0}]`. The workload is idle if all of them are at or below their threshold. An entry with `targetPerReplica: 50` also
/// decides how many replicas there are, and wakes it.
///
/// Default: `requests` over the window of `scaler.dev/scale-to-zero`.
pub(crate) const METRICS: &str = "scaler.dev/metrics";
/// Further host names of its requests, separated by commas or blanks. A name counts only if an Ingress or HTTPRoute of the same
/// namespace has it, or the namespace file's `plugins.deployment.hosts`.
///
/// Default: the names of its Services.
pub(crate) const HOSTS: &str = "scaler.dev/hosts";
/// The port of its pods: a number, or a name that its Service or container gives one.
///
/// Default: the Service's port named `http`, else its first, else the container's first.
pub(crate) const PORT: &str = "scaler.dev/port";
/// How long one request is held during a wake. Then it is answered 503 with `Retry-After`.
///
/// Default: the namespace file's `dlx.holdTimeout`, else `50s`.
pub(crate) const HOLD_TIMEOUT: &str = "scaler.dev/hold-timeout";
/// How long a wake may take. It continues after its clients have disconnected. A longer `progressDeadlineSeconds` of a Deployment
/// takes precedence.
///
/// Default: the namespace file's `dlx.resourceReadinessTimeout`, else `5m`.
pub(crate) const READINESS_TIMEOUT: &str = "scaler.dev/readiness-timeout";
/// How long it stays awake at least after a wake: `1h` for a workload that is called every few minutes.
///
/// Default: none.
pub(crate) const MIN_AWAKE: &str = "scaler.dev/min-awake";
/// `until=2026-12-24T18:00:00Z` (RFC 3339): it is not scaled to zero before then.
///
/// Default: none.
pub(crate) const KEEP_AWAKE: &str = "scaler.dev/keep-awake";
/// `"true"`: it is not scaled to zero, and its number of replicas stays. It is still woken.
///
/// Default: `"false"`.
pub(crate) const PAUSED: &str = "scaler.dev/paused";
/// Any value: it is scaled to zero as soon as nothing is in flight, without waiting for its window. Once for each value:
/// `kubectl annotate --overwrite deployment web scaler.dev/sleep-now="$(date +%s)"`.
///
/// Default: none.
pub(crate) const SLEEP_NOW: &str = "scaler.dev/sleep-now";
/// Any value: it is woken now, without a request. Once for each value, and not if it is awake already:
/// `kubectl annotate --overwrite deployment web scaler.dev/wake-now="$(date +%s)"`.
///
/// Default: none.
pub(crate) const WAKE_NOW: &str = "scaler.dev/wake-now";
/// The queues that its workers read, separated by commas: `beanstalkd://broker:11300/mails`. Their messages are added up. Needs
/// `scaler.dev/messages-per-replica`. The operator allows the hosts (`metricSources.queues.allowedHosts` of the namespace file)
/// and gives the credentials.
///
/// Default: none.
pub(crate) const QUEUE: &str = "scaler.dev/queue";
/// How many messages, waiting and in flight, one replica is for: `20`. A target per replica: the replicas are the value divided
/// by the target, rounded up; of several targets the one that gives the most replicas counts. Needs `scaler.dev/max-replicas`.
///
/// Default: none.
pub(crate) const MESSAGES_PER_REPLICA: &str = "scaler.dev/messages-per-replica";
/// How many seconds one replica takes for a message: `0.5`. There are at least as many replicas as keep up with the messages that
/// arrive, where the queue tells how many do.
///
/// Default: none.
pub(crate) const SECONDS_PER_MESSAGE: &str = "scaler.dev/seconds-per-message";
/// How many HTTP requests in flight one replica is for, on average over the window: `8`. A target per replica.
///
/// Default: none.
pub(crate) const IN_FLIGHT_PER_REPLICA: &str = "scaler.dev/in-flight-per-replica";
/// How many HTTP requests per second one replica is for: `100`. A target per replica.
///
/// Default: none.
pub(crate) const REQUESTS_PER_REPLICA: &str = "scaler.dev/requests-per-replica";
/// The fewest replicas while it is awake, with a target per replica. `scaler.dev/scale-to-zero` scales to zero all the same.
///
/// Default: 1.
pub(crate) const MIN_REPLICAS: &str = "scaler.dev/min-replicas";
/// The most replicas, with a target per replica. Takes precedence over `scaler.dev/min-replicas`.
///
/// Default: none, required with a target per replica.
pub(crate) const MAX_REPLICAS: &str = "scaler.dev/max-replicas";
/// How many replicas one step down may remove: a count, `2`, or a percentage of those that there are, rounded up, `25%`.
///
/// Default: `100%`.
pub(crate) const MAX_DISRUPTION: &str = "scaler.dev/max-disruption";
/// How long after the last change of its replicas, up or down, a step down may follow.
///
/// Default: `5m`.
pub(crate) const SCALE_DOWN_DELAY: &str = "scaler.dev/scale-down-delay";
/// Where each pod says whether it is busy: `http://:9000/busy` on its own address. 2xx is busy, 204 or 404 idle, anything else
/// unknown, which counts as busy. Asked just before replicas are removed: an idle pod goes before a busy one, and none is scaled to
/// zero while one is busy.
///
/// Default: none.
pub(crate) const BUSY_PROBE: &str = "scaler.dev/busy-probe";
/// `accepted`: the queue does not show the work in progress (a Redis list), and you accept that it is cut off after the grace
/// period. Without it, or `scaler.dev/busy-probe`, the workers of such a queue are never scaled down.
///
/// Default: none.
pub(crate) const EARLY_ACK: &str = "scaler.dev/early-ack";
/// Checks that would refuse the interception of its Services and are ignored, separated by commas: `session-affinity`.
///
/// Default: none.
pub(crate) const IGNORE_CHECKS: &str = "scaler.dev/ignore-checks";
