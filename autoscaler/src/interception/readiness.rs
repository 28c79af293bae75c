//! Whether interception allows a resource to be scaled down: the one question that `decide` asks.

use std::{fmt, time::Duration};

use scaler_types::{Backend, Resource, ScaleResource, TrafficMode, duration::short};

use crate::{
    observe::{Completeness, Measurements, MetricValue},
    telemetry::rounded,
};

/// Conditions that hold for all interceptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterceptionConditions {
    /// At least one DLX takes requests.
    pub(crate) dlx_available: bool,
    /// How long clients may take to follow a change of a Service.
    pub(crate) propagation_delay: Duration,
}

/// Why interception does not allow a resource to be scaled to zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum InterceptionNotReady {
    /// With path direct something is missing, and what.
    WhenAsleepUnsupported(&'static str),
    /// Interception is no longer requested, and its Service is being restored.
    Restoring,
    /// It is not intercepted yet, or only partly: requests bypass the DLXs.
    NotIntercepted(Backend),
    /// Its Service should point to its own pods while it is awake, and does not yet.
    NotRestored(Backend),
    /// It has not been intercepted for long enough: earlier counts are incomplete.
    RecentlyIntercepted {
        /// For how long it has.
        intercepted_for: Duration,
        /// For how long it must have.
        needed: Duration,
    },
    /// No DLX takes requests now.
    NoDlxReady,
}

/// Whether interception allows a resource to be scaled to zero.
///
/// # Errors
///
/// It cannot, and why.
pub(crate) fn check_ready(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measurements<'_>,
    conditions: InterceptionConditions,
) -> Result<(), InterceptionNotReady> {
    match resource.traffic_mode {
        TrafficMode::Always => check_always(resource, metrics, measure, conditions),
        TrafficMode::WhenAsleep => check_when_asleep(resource, metrics, measure, conditions),
        // An unknown mode never gets here.
        TrafficMode::External | TrafficMode::Unknown => Ok(()),
    }
}

/// Whether every request passes the DLXs, and has for as long as it takes to know: what they counted before is not all there
/// was. Without an interception its users point its traffic at the DLXs.
fn check_always(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measurements<'_>,
    conditions: InterceptionConditions,
) -> Result<(), InterceptionNotReady> {
    let Some(interception) = &resource.interception else { return Ok(()) };
    match interception.backend {
        _ if !interception.requested => return Err(InterceptionNotReady::Restoring),
        Backend::Dlx if !interception.in_sync => {
            return Err(InterceptionNotReady::NotIntercepted(Backend::Both));
        }
        Backend::Dlx => {}
        backend => return Err(InterceptionNotReady::NotIntercepted(backend)),
    }
    served(conditions)?;
    let windows = metrics.iter().map(|metric| metric.window_size);
    let counted = match measure {
        Measurements::Samples if !resource.sleep_now => windows.max().unwrap_or_default(),
        // The DLXs know every request in flight once all nodes have followed.
        _ => Duration::ZERO,
    };
    let needed = counted.max(conditions.propagation_delay);
    match interception.intercepted_for < needed {
        true => Err(InterceptionNotReady::RecentlyIntercepted {
            intercepted_for: interception.intercepted_for,
            needed,
        }),
        false => Ok(()),
    }
}

/// Whether an attempt is possible on a resource whose requests bypass the DLXs while it is awake: its Service can be switched, and a source measures
/// how busy it is after that.
fn check_when_asleep(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measurements<'_>,
    conditions: InterceptionConditions,
) -> Result<(), InterceptionNotReady> {
    match &resource.interception {
        None => {
            return Err(InterceptionNotReady::WhenAsleepUnsupported(
                "its plugin cannot intercept it (no Service to switch to the DLXs)",
            ));
        }
        Some(interception) if !interception.requested => return Err(InterceptionNotReady::Restoring),
        // A wake or another attempt is still restoring its Service.
        Some(interception) if interception.backend != Backend::Workload => {
            return Err(InterceptionNotReady::NotRestored(interception.backend));
        }
        Some(_) => {}
    }
    served(conditions)?;
    match measure {
        // Without a metric the source does not matter: `decide` says that there is none.
        _ if metrics.is_empty() => Ok(()),
        Measurements::Samples => Err(InterceptionNotReady::WhenAsleepUnsupported(
            "the DLXs see its requests only while it is asleep, so the metric source dlx cannot measure its activity: set \
             metrics.source to prometheus",
        )),
        // Only a number of scrapes proves that a window began after the switch.
        Measurements::Readings(readings)
            if readings.iter().any(|reading| {
                matches!(reading.coverage, Completeness::Guaranteed | Completeness::Only(_))
                    && matches!(reading.value, MetricValue::Number(_) | MetricValue::Absent { .. })
            }) =>
        {
            Err(InterceptionNotReady::WhenAsleepUnsupported(
                "the metric source kubernetes has windows of its own, so idleness cannot be verified after its \
                 Service is switched: set metrics.source to prometheus",
            ))
        }
        Measurements::Readings(_) => Ok(()),
    }
}

fn served(conditions: InterceptionConditions) -> Result<(), InterceptionNotReady> {
    if conditions.dlx_available { Ok(()) } else { Err(InterceptionNotReady::NoDlxReady) }
}

// === impl InterceptionNotReady ===

impl InterceptionNotReady {
    /// It does not pass by itself.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::WhenAsleepUnsupported(_))
    }

    /// In one word, for metrics; stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::WhenAsleepUnsupported(_) => "when_asleep_unsupported",
            Self::Restoring => "service_restoring",
            Self::NotIntercepted(_) => "not_intercepted",
            Self::NotRestored(_) => "not_restored",
            Self::RecentlyIntercepted { .. } => "recently_intercepted",
            Self::NoDlxReady => "no_dlx_ready",
        }
    }
}

impl fmt::Display for InterceptionNotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WhenAsleepUnsupported(missing) => f.write_str(missing),
            Self::Restoring => f.write_str("its Service is being restored"),
            Self::NotIntercepted(Backend::Workload) => f.write_str("its Service is not intercepted yet"),
            Self::NotIntercepted(_) => {
                f.write_str("its Service is only partly intercepted yet: some requests bypass the DLXs")
            }
            Self::NotRestored(_) => f.write_str("its Service is not fully restored yet"),
            Self::RecentlyIntercepted { intercepted_for, needed } => {
                let intercepted_for = short(rounded(*intercepted_for));
                write!(
                    f,
                    "its Service has been intercepted for {intercepted_for}, {} are needed",
                    short(*needed)
                )
            }
            Self::NoDlxReady => f.write_str("no DLX is ready to take requests"),
        }
    }
}
