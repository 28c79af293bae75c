//! The annotations of workloads and namespaces that this plugin reads.

/// On a workload or its namespace: the window after which what is idle sleeps; `true`: as the namespace file says;
/// `false`: never.
pub(crate) const SCALE_TO_ZERO: &str = "scaler.dev/scale-to-zero";
/// The metrics that decide, as a namespace file lists them.
pub(crate) const METRICS: &str = "scaler.dev/metrics";
/// Host names under which requests for it come, with commas or blanks between them.
pub(crate) const HOSTS: &str = "scaler.dev/hosts";
/// The port requests go to: a number, or a name that its Service or container gives one.
pub(crate) const PORT: &str = "scaler.dev/port";
/// How long a request is held.
pub(crate) const HOLD_TIMEOUT: &str = "scaler.dev/hold-timeout";
/// How long a wake may take.
pub(crate) const READINESS_TIMEOUT: &str = "scaler.dev/readiness-timeout";
/// For how long it stays awake at least after a wake.
pub(crate) const MIN_AWAKE: &str = "scaler.dev/min-awake";
/// When it stays awake: `until=` and a point in time.
pub(crate) const KEEP_AWAKE: &str = "scaler.dev/keep-awake";
/// `true`: it does not sleep.
pub(crate) const PAUSED: &str = "scaler.dev/paused";
/// It is to sleep now; once for each value.
pub(crate) const SLEEP_NOW: &str = "scaler.dev/sleep-now";

/// On a workload or its namespace: when its Services are intercepted: `always`, `when-asleep` or `manual`.
pub(crate) const INTERCEPT: &str = "scaler.dev/intercept";
/// Checks that would refuse the interception of its Services and are to be ignored; with commas between them.
pub(crate) const IGNORE_CHECKS: &str = "scaler.dev/ignore-checks";
