//! What a route that is led, or could be, adds to the rules.

use std::{fmt, time::Duration};

use scaler_types::{Leads, Path, Resource, ScaleResource, duration::short};

use crate::{
    observe::{Coverage, Measure, Value},
    telemetry::rounded,
};

/// What holds for all routes now.
#[derive(Clone, Copy, Debug)]
pub struct RouteFacts {
    /// At least one DLX takes requests.
    pub served: bool,
    /// How long whoever connects may take to follow a change of a route.
    pub grace: Duration,
}

/// Why a resource cannot be put to zero, as far as its route goes.
#[derive(Clone, Debug, PartialEq)]
pub enum NotReady {
    /// With path direct something is missing, and what.
    PathDirect(&'static str),
    /// Nobody asks for its route to be led any more, and it is being given back.
    GivenBack,
    /// It is to be led to the DLXs, and is not, or not all of it: requests pass them by.
    NotLed(Leads),
    /// Its route is to lead to itself while it is awake, and leads there yet.
    NotBack(Leads),
    /// It has not led to the DLXs for long enough: of the time before, they have not counted everything.
    LedShort {
        /// For how long it has.
        led_for: Duration,
        /// For how long it must have.
        needed: Duration,
    },
    /// No DLX takes requests now.
    NotServed,
}

/// Whether a resource can be put to zero, as far as its route goes.
///
/// # Errors
///
/// It cannot, and why.
pub fn check_ready(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measure<'_>,
    routes: RouteFacts,
) -> Result<(), NotReady> {
    match resource.path {
        Path::Always => led(resource, metrics, measure, routes),
        Path::Direct => direct(resource, measure, routes),
        Path::External => Ok(()),
    }
}

/// Whether every request passes the DLXs, and has for as long as it takes to know: what they counted before is not all there
/// was. One that tells no route is led to them by its owners.
fn led(
    resource: &Resource,
    metrics: &[ScaleResource],
    measure: Measure<'_>,
    routes: RouteFacts,
) -> Result<(), NotReady> {
    let Some(route) = &resource.route else { return Ok(()) };
    match route.leads {
        _ if !route.asked => return Err(NotReady::GivenBack),
        Leads::Dlx if !route.complete => return Err(NotReady::NotLed(Leads::Both)),
        Leads::Dlx => {}
        leads => return Err(NotReady::NotLed(leads)),
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
        true => Err(NotReady::LedShort { led_for: route.led_for, needed }),
        false => Ok(()),
    }
}

/// Whether a resource can be tried whose requests pass no DLX while it is awake: its route can be switched, and a source tells
/// how busy it is after that.
fn direct(resource: &Resource, measure: Measure<'_>, routes: RouteFacts) -> Result<(), NotReady> {
    match &resource.route {
        None => return Err(NotReady::PathDirect("its plugin tells no route of it that could be switched")),
        Some(route) if !route.asked => return Err(NotReady::GivenBack),
        // A wake's route is on its way back, or another try's.
        Some(route) if route.leads != Leads::Own => return Err(NotReady::NotBack(route.leads)),
        Some(_) => {}
    }
    served(routes)?;
    match measure {
        Measure::Samples => Err(NotReady::PathDirect(
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
            Err(NotReady::PathDirect(
                "the metric source kubernetes answers for its own window only, so nothing tells whether it is idle once its \
                 route is switched: set metrics.source to prometheus",
            ))
        }
        Measure::Readings(_) => Ok(()),
    }
}

fn served(routes: RouteFacts) -> Result<(), NotReady> {
    if routes.served { Ok(()) } else { Err(NotReady::NotServed) }
}

// === impl NotReady ===

impl NotReady {
    /// It does not pass by itself.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::PathDirect(_))
    }

    /// In one word, for metrics; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::PathDirect(_) => "path_direct",
            Self::GivenBack => "route_given_back",
            Self::NotLed(_) => "not_led",
            Self::NotBack(_) => "not_back",
            Self::LedShort { .. } => "led_short",
            Self::NotServed => "no_dlx_serves",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathDirect(missing) => f.write_str(missing),
            Self::GivenBack => f.write_str("its Service is being given back"),
            Self::NotLed(Leads::Own) => f.write_str("its Service does not lead to the DLXs yet"),
            Self::NotLed(_) => f.write_str("its Service does not lead all requests to the DLXs yet"),
            Self::NotBack(_) => f.write_str("its Service does not lead back to itself alone yet"),
            Self::LedShort { led_for, needed } => {
                let led_for = short(rounded(*led_for));
                write!(f, "its Service leads to the DLXs for {led_for} of {}", short(*needed))
            }
            Self::NotServed => f.write_str("no DLX takes requests now"),
        }
    }
}
