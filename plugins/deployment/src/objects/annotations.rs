//! The annotations of workloads and namespaces that this plugin reads. `cargo xtask reference` makes
//! docs/reference/annotations.md of these texts: the first paragraph is the meaning, `Default:` begins what holds without it.

/// `10m` opts the workload in: it is scaled to zero after ten minutes without a request. `"true"` opts it in with the namespace
/// file's `defaults.scaleResources`. `"false"` opts it out, also if its namespace opts in. On a Namespace: for every workload in
/// it without the annotation.
///
/// Default: not opted in.
pub(crate) const SCALE_TO_ZERO: &str = "scaler.dev/scale-to-zero";
/// When its Services are intercepted: `always`; `when-asleep`, only while it is asleep; `manual`, never, and then you point its
/// requests at the DLX. On a Namespace: for every workload in it without the annotation.
///
/// Default: the namespace file's `plugins.deployment.intercept`, which is `always`.
pub(crate) const INTERCEPT: &str = "scaler.dev/intercept";
/// The metrics that decide, a list as `scaleResources` in the namespace file: `[{metricName: requests, windowSize: 10m,
/// threshold: 0}]`. The workload is idle if all of them are at or below their threshold.
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
/// `"true"`: it is not scaled to zero. It is still woken.
///
/// Default: `"false"`.
pub(crate) const PAUSED: &str = "scaler.dev/paused";
/// Any value: it is scaled to zero as soon as nothing is in flight, without waiting for its window. Once for each value:
/// `kubectl annotate --overwrite deployment web scaler.dev/sleep-now="$(date +%s)"`.
///
/// Default: none.
pub(crate) const SLEEP_NOW: &str = "scaler.dev/sleep-now";
/// Checks that would refuse the interception of its Services and are ignored, separated by commas: `session-affinity`.
///
/// Default: none.
pub(crate) const IGNORE_CHECKS: &str = "scaler.dev/ignore-checks";
