//! The events that the daemons publish for a resource's users. `cargo xtask reference` makes docs/reference/events.md of these
//! texts: the first paragraph is the meaning, `To do:` begins what the user does.

use scaler_types::EventReason;

/// A wake began. The message names the host and the client of the request that caused it, and how many
/// requests are held.
///
/// To do: nothing.
pub const WAKE_STARTED: EventReason = EventReason::normal("WakeStarted");

/// The resource is awake. The message has the time that the wake took and its phases; or says that the autoscaler woke the
/// resource because its Services are not intercepted, so no request could; or the metric, or the wish, for which the autoscaler woke it.
///
/// To do: nothing. If the autoscaler woke it, correct what the Event `InterceptionRefused` names.
pub const WOKEN: EventReason = EventReason::normal("Woken");

/// The last wake failed; the message has the cause. Held requests are answered 503 with the same cause.
///
/// To do: correct the cause: a broken image, a crash loop, quota, a missing right. The next request tries again. The Event is
/// repeated every half hour until a wake succeeds.
pub const WAKE_FAILED: EventReason = EventReason::warning("WakeFailed");

/// Requests are answered 503, because a limit on held requests is reached; the message names the limit.
///
/// To do: make the start faster, or raise `dlx.maxHeldRequests` or `dlx.maxHeldBytes`: the namespace file's keys for one resource, the
/// chart's values for all.
pub const TOO_MANY_HELD: EventReason = EventReason::warning("TooManyHeld");

/// The resource was scaled to zero. The message says why it counted as idle.
///
/// To do: nothing.
pub const SCALED_TO_ZERO: EventReason = EventReason::normal("ScaledToZero");

/// The resource is kept awake by a fault: a DLX is unreachable, or a metric source fails or does not have the metric.
///
/// To do: correct the fault. It is published once per change; if one cause keeps many resources awake, on twenty of them.
pub const NOT_SCALED_TO_ZERO: EventReason = EventReason::warning("NotScaledToZero");

/// The plugin failed to scale the resource to zero. The message has the reason and the number of consecutive failures.
///
/// To do: correct the reason: usually a missing right or an admission policy. The autoscaler tries again after growing pauses.
pub const SCALE_TO_ZERO_FAILED: EventReason = EventReason::warning("ScaleToZeroFailed");

/// Somebody scaled the resource up while it was asleep. Its record says so now.
///
/// To do: nothing.
pub const SCALED_UP_MANUALLY: EventReason = EventReason::normal("ScaledUpManually");

/// The record was stale, because a daemon had ended or `kubectl rollout undo` had restored an old one, and was repaired.
///
/// To do: nothing.
pub const RECORD_REPAIRED: EventReason = EventReason::normal("RecordRepaired");

/// The resource was woken more than three times in an hour. The message names the window that would have avoided that.
/// Published once a day.
///
/// To do: set a longer window in `scaler.dev/scale-to-zero`, or set `scaler.dev/min-awake`.
pub const FREQUENT_WAKES: EventReason = EventReason::warning("FrequentWakes");

/// The Services of the workload are intercepted: requests go to the DLXs that the message names.
///
/// To do: nothing.
pub const SERVICE_INTERCEPTED: EventReason = EventReason::normal("ServiceIntercepted");

/// The Services of the workload are restored: requests go to its own pods.
///
/// To do: nothing.
pub const INTERCEPTION_REMOVED: EventReason = EventReason::normal("InterceptionRemoved");

/// A write to intercept or restore a Service failed, with the reason.
///
/// To do: correct the reason: a missing right, an admission policy, or somebody else's EndpointSlice with a name that Scaler uses.
/// The autoscaler tries again after growing pauses.
pub const INTERCEPTION_FAILED: EventReason = EventReason::warning("InterceptionFailed");

/// No DLX was ready for `--dlx-unavailable-timeout`, so the autoscaler woke the workload, whose Services are restored.
///
/// To do: find out why no DLX is ready: `kubectl get pods`, and `/readyz` of each DLX.
pub const DLX_UNAVAILABLE: EventReason = EventReason::warning("DLXUnavailable");

/// The autoscaler gave the resource more replicas. The message has both numbers, the metric that asked for them, and what limits
/// them.
///
/// To do: nothing.
pub const SCALED_UP: EventReason = EventReason::normal("ScaledUp");

/// The autoscaler took replicas from the resource. The message has both numbers, the metric that asked for no more, and what
/// limits the step.
///
/// To do: nothing.
pub const SCALED_DOWN: EventReason = EventReason::normal("ScaledDown");

/// Replicas are not removed yet, because those that could be removed have work; the message names them. Published once, until some are
/// removed or none has to be.
///
/// To do: nothing. If it lasts, correct a busy probe that does not answer.
pub const SCALE_DOWN_WAITS: EventReason = EventReason::normal("ScaleDownWaits");

/// A queue cannot be read; or changing the number of replicas, or waking the resource for a metric, failed; or workers are never
/// scaled down, because their queue does not show the work in progress; or replicas end by themselves, or are removed by another
/// writer, again and again. The message has the reason.
///
/// To do: correct the reason: a broker that does not answer, wrong credentials, a missing right, an admission policy, a command
/// that ends, a manifest with `replicas`; or set what the message names. The autoscaler tries again after growing pauses. A queue
/// that fails for many workloads is published on twenty of them.
pub const NOT_SCALED: EventReason = EventReason::warning("NotScaled");
