//! The Events that this plugin publishes of its own accord. `cargo xtask reference` makes docs/reference/events.md of these
//! texts: the first paragraph is the meaning, `To do:` begins what the user does.

use scaler_types::EventReason;

/// An annotation has a value that cannot be read, or needs another that is missing; the message names both. On the workload, also for
/// an annotation of its namespace. The workload is kept awake, and its replicas are not changed. If it is asleep and a queue or metric
/// would wake it, it is woken.
///
/// To do: correct the annotation.
pub(crate) const INVALID_ANNOTATION: EventReason = EventReason::warning("InvalidAnnotation");

/// A host in `scaler.dev/hosts` is ignored; the message names the reason.
///
/// To do: add an Ingress or HTTPRoute with that host in the same namespace, or have the operator add it to
/// `plugins.deployment.hosts` of the namespace file.
pub(crate) const HOST_REFUSED: EventReason = EventReason::warning("HostRefused");

/// Another autoscaler (an HPA with `minReplicas: 0`, an unpaused ScaledObject) also scales the workload to zero, which is kept awake;
/// or one (any HPA) decides how many replicas it has, and its targets per replica are ignored.
///
/// To do: choose one: opt the workload out of Scaler or remove its targets, or raise the minimum of the other to 1, or delete it.
pub(crate) const CONFLICTING_AUTOSCALER: EventReason = EventReason::warning("ConflictingAutoscaler");

/// The Services of the workload cannot be intercepted, or are not and no request could wake it. The message names the object
/// and what to do. The workload is kept awake.
///
/// To do: what the message says.
pub(crate) const INTERCEPTION_REFUSED: EventReason = EventReason::warning("InterceptionRefused");

/// The Services of the workload are intercepted because that is the default, and an Ingress or HTTPRoute already routes its
/// requests to the DLX.
///
/// To do: set `scaler.dev/intercept: manual` to leave the Services as they are, or `always` to have both.
pub(crate) const INTERCEPTED_BY_DEFAULT: EventReason = EventReason::warning("InterceptedByDefault");

/// An annotation opts in one of Scaler's own daemons, which are never scaled to zero.
///
/// To do: remove the annotation.
pub(crate) const OPT_IN_REFUSED: EventReason = EventReason::warning("OptInRefused");

/// How the DLX forwards each port of the workload's Services (HTTP or TCP), and whether that is declared or guessed.
///
/// To do: nothing, or set `appProtocol` on a port that is guessed wrongly.
pub(crate) const PORTS_FORWARDED: EventReason = EventReason::normal("PortsForwarded");
