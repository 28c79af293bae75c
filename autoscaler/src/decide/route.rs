//! What a route that is led, or could be, adds to the rules.

use std::time::Duration;

use scaler_types::{Leads, Resource, ScaleResource};

use super::{Evidence, Measure, Reason, RouteFacts, nothing_in_flight, read};
use crate::metrics::{Coverage, Value};

/// Whether every request passes the DLXs, and has for as long as it takes to know: what they counted before is not all there
/// was. One that tells no route is led to them by its owners.
pub(super) fn led(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measure<'_>,
    routes: RouteFacts,
) -> Result<(), Reason> {
    let Some(route) = &resource.route else { return Ok(()) };
    match route.leads {
        _ if !route.asked => return Err(Reason::GivenBack),
        Leads::Dlx if !route.complete => return Err(Reason::NotLed(Leads::Both)),
        Leads::Dlx => {}
        leads => return Err(Reason::NotLed(leads)),
    }
    served(routes)?;
    let windows = metrics.iter().map(|metric| metric.window_size);
    let counted = match measure {
        Measure::Samples if !resource.sleep_now => windows.max().unwrap_or_default(),
        // What is in flight the DLXs know once everybody has followed.
        _ => Duration::ZERO,
    };
    let needed = counted.max(routes.grace);
    match route.led_for < needed {
        true => Err(Reason::LedShort { led_for: route.led_for, needed }),
        false => Ok(()),
    }
}

/// Whether a resource can be tried whose requests pass no DLX while it is awake: its route can be switched, and a source tells
/// how busy it is after that.
pub(super) fn direct(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measure<'_>,
    routes: RouteFacts,
) -> Result<(), Reason> {
    match &resource.route {
        None => return Err(Reason::PathDirect("its plugin tells no route of it that could be switched")),
        Some(route) if !route.asked => return Err(Reason::GivenBack),
        // A wake's route is on its way back, or another try's.
        Some(route) if route.leads != Leads::Own => return Err(Reason::NotBack(route.leads)),
        Some(_) => {}
    }
    served(routes)?;
    if metrics.is_empty() {
        return Err(Reason::NoMetrics);
    }
    match measure {
        Measure::Samples => Err(Reason::PathDirect(
            "the DLXs see its requests only while it sleeps, so the metric source dlx cannot tell whether it is idle: set \
             metrics.source to prometheus",
        )),
        // Only a number of scrapes proves that a window began after the switch.
        Measure::Readings(readings)
            if readings.iter().any(|reading| {
                matches!(reading.coverage, Coverage::Vouched | Coverage::Only(_))
                    && matches!(reading.value, Value::Number(_) | Value::Absent { .. })
            }) =>
        {
            Err(Reason::PathDirect(
                "the metric source kubernetes answers for its own window only, so nothing tells whether it is idle once its \
                 route is switched: set metrics.source to prometheus",
            ))
        }
        Measure::Readings(_) => Ok(()),
    }
}

fn served(routes: RouteFacts) -> Result<(), Reason> {
    if routes.served { Ok(()) } else { Err(Reason::NotServed) }
}

/// Whether a resource on path direct is idle once its route is switched: what was seen of it since then, by metrics of a window
/// of that time.
///
/// # Errors
///
/// It is not, or that is not known.
pub fn still_idle(metrics: &[ScaleResource], evidence: Evidence<'_>) -> Result<(), Reason> {
    nothing_in_flight(evidence.source, evidence.samples)?;
    let Measure::Readings(readings) = evidence.measure else { return Err(Reason::NoMetrics) };
    if metrics.is_empty() {
        return Err(Reason::NoMetrics);
    }
    metrics.iter().enumerate().try_for_each(|(place, metric)| read(metric, readings.get(place)).map(drop))
}
