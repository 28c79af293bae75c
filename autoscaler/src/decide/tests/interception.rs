//! Tables of the rules of interceptions.

use scaler_types::{Backend, Interception};

use super::*;

impl Case {
    /// In traffic mode `always`, intercepted for as long as a window.
    fn intercepted(change: impl FnOnce(&mut Self, &mut Interception)) -> Self {
        Self::with(|case| {
            let mut interception = Interception {
                requested: true,
                backend: Backend::Dlx,
                in_sync: true,
                intercepted_for: WINDOW,
                ..Interception::default()
            };
            change(case, &mut interception);
            case.resource.interception = Some(interception);
        })
    }

    /// In traffic mode `when-asleep`, not intercepted, and idle by another source.
    fn direct(change: impl FnOnce(&mut Self, &mut MetricReading, &mut Interception)) -> Self {
        Self::with_reading(|case, reading| {
            let mut interception = Interception { requested: true, ..Interception::default() };
            case.resource.traffic_mode = TrafficMode::WhenAsleep;
            change(case, reading, &mut interception);
            case.resource.interception.get_or_insert(interception);
        })
    }
}

/// Of resources whose interception is requested.
#[test]
fn every_rule_of_an_interception() {
    let keep: Vec<(&str, Case)> = vec![
        ("not_intercepted", Case::intercepted(|_, interception| interception.backend = Backend::Workload)),
        ("not_intercepted", Case::intercepted(|_, interception| interception.backend = Backend::Both)),
        ("not_intercepted", Case::intercepted(|_, interception| interception.in_sync = false)),
        (
            "recently_intercepted",
            Case::intercepted(|_, interception| interception.intercepted_for = WINDOW - SECOND),
        ),
        (
            "recently_intercepted",
            Case::intercepted(|_, interception| interception.intercepted_for = Duration::ZERO),
        ),
        // The largest window, and the propagation delay where that is longer.
        (
            "recently_intercepted",
            Case::intercepted(|case, _| case.metrics = vec![metric(SECOND, 0.0), metric(2 * WINDOW, 0.0)]),
        ),
        (
            "recently_intercepted",
            Case::intercepted(|case, interception| {
                (case.metrics, interception.intercepted_for) =
                    (vec![metric(SECOND, 0.0)], PROPAGATION_DELAY - SECOND);
            }),
        ),
        ("service_restoring", Case::intercepted(|_, interception| interception.requested = false)),
        ("no_dlx_ready", Case::intercepted(|case, _| case.conditions.dlx_available = false)),
        ("in_flight", Case::intercepted(|case, _| case.samples[0].in_flight = 1)),
        ("active", Case::intercepted(|case, _| case.samples[0].idle = Some(SECOND))),
        // What was counted before it was intercepted says nothing of that time; what was not counted since, neither.
        ("incomplete_window", Case::intercepted(|case, _| case.samples[0].counted_for = WINDOW - SECOND)),
        ("kept_awake", Case::intercepted(|case, _| case.resource.keep_awake = "no port is free".to_owned())),
        // A user's request needs no window, but the propagation delay must be over.
        (
            "not_intercepted",
            Case::intercepted(|case, interception| {
                (case.resource.sleep_now, interception.backend) = (true, Backend::Both)
            }),
        ),
        (
            "not_intercepted",
            Case::intercepted(|case, interception| {
                (case.resource.sleep_now, interception.in_sync) = (true, false)
            }),
        ),
        (
            "recently_intercepted",
            Case::intercepted(|case, interception| {
                (case.resource.sleep_now, interception.intercepted_for) = (true, PROPAGATION_DELAY - SECOND)
            }),
        ),
        (
            "no_dlx_ready",
            Case::intercepted(|case, _| {
                (case.resource.sleep_now, case.conditions.dlx_available) = (true, false)
            }),
        ),
        // Another source knows the window, and the DLXs what is in flight: once everybody has followed.
        (
            "recently_intercepted",
            Case::with_reading(|case, _| {
                case.resource.interception = Case::intercepted(|_, interception| {
                    interception.intercepted_for = PROPAGATION_DELAY - SECOND
                })
                .resource
                .interception;
            }),
        ),
        // Path direct.
        ("when_asleep_unsupported", Case::with(|case| case.resource.traffic_mode = TrafficMode::WhenAsleep)),
        (
            "when_asleep_unsupported",
            Case::with_reading(|case, _| case.resource.traffic_mode = TrafficMode::WhenAsleep),
        ),
        ("when_asleep_unsupported", Case::direct(|_, _, _| {}).without_route()),
        // By the DLXs alone.
        ("when_asleep_unsupported", Case::direct(|_, _, _| {}).by_the_dlxs()),
        ("when_asleep_unsupported", Case::direct(|case, _, _| case.resource.sleep_now = true).by_the_dlxs()),
        // By one that cannot prove when its window began.
        (
            "when_asleep_unsupported",
            Case::direct(|_, reading, _| reading.coverage = Completeness::Guaranteed),
        ),
        (
            "when_asleep_unsupported",
            Case::direct(|_, reading, _| reading.coverage = Completeness::Only(WINDOW)),
        ),
        (
            "when_asleep_unsupported",
            Case::direct(|case, reading, _| {
                (case.resource.sleep_now, reading.coverage) = (true, Completeness::Guaranteed);
            }),
        ),
        ("not_restored", Case::direct(|_, _, interception| interception.backend = Backend::Both)),
        ("not_restored", Case::direct(|_, _, interception| interception.backend = Backend::Dlx)),
        ("service_restoring", Case::direct(|_, _, interception| interception.requested = false)),
        ("no_dlx_ready", Case::direct(|case, _, _| case.conditions.dlx_available = false)),
        ("no_dlx", Case::direct(|case, _, _| case.source.unknown = Some(ActivityUnknown::NoDlx))),
        ("in_flight", Case::direct(|case, _, _| case.samples[0].in_flight = 1)),
        ("in_flight", Case::direct(|case, _, _| case.samples[1].held = 1)),
        ("no_sample", Case::direct(|case, _, _| case.samples.clear())),
        ("above_threshold", Case::direct(|_, reading, _| reading.value = MetricValue::Number(1.0))),
        (
            "incomplete_window",
            Case::direct(|_, reading, _| reading.coverage = scrapes(SampleCount::Count(40.0))),
        ),
        ("no_metrics", Case::direct(|case, _, _| case.metrics.clear())),
        ("no_metrics", Case::direct(|case, _, _| case.metrics.clear()).by_the_dlxs()),
        (
            "no_metrics",
            Case::direct(|case, _, _| {
                case.metrics.clear();
                case.resource.sleep_now = true;
            }),
        ),
        ("in_flight", Case::direct(|case, _, _| (case.resource.sleep_now, case.samples[0].held) = (true, 1))),
        ("recent_event", Case::direct(|case, _, _| case.event(ScaleEvent::ScaleFromZeroCompleted, SECOND))),
    ];
    for (place, (code, case)) in keep.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("keep", *code), "case {place}: {decision}");
    }
    let to_zero: Vec<(&str, Case)> = vec![
        ("quiet", Case::intercepted(|_, _| {})),
        (
            "requested",
            Case::intercepted(|case, interception| {
                (case.resource.sleep_now, interception.intercepted_for) = (true, PROPAGATION_DELAY)
            }),
        ),
        (
            "below_threshold",
            Case::with_reading(|case, _| {
                case.resource.interception =
                    Case::intercepted(|_, interception| interception.intercepted_for = PROPAGATION_DELAY)
                        .resource
                        .interception;
            }),
        ),
        ("below_threshold", Case::direct(|_, _, _| {})),
        ("absent", Case::direct(|_, reading, _| reading.value = MetricValue::Absent { idle: true })),
        // The windows do not count; the sample after the switch does.
        (
            "requested",
            Case::direct(|case, reading, _| {
                (case.resource.sleep_now, reading.value) = (true, MetricValue::Number(7.0));
            }),
        ),
    ];
    for (place, (code, case)) in to_zero.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("scale_to_zero", *code), "case {place}: {decision}");
    }
    let short = Case::intercepted(|_, interception| interception.intercepted_for = Duration::from_secs(120));
    assert_eq!(short.decide().to_string(), "its Service has been intercepted for 2m, 10m are needed");
}

/// What an attempt in traffic mode `when-asleep` has to see once its Service is switched.
#[test]
fn idle_after_the_switch_is_known_or_it_is_not() {
    let seen = |case: Case| {
        let readings = case.readings.unwrap_or_default();
        let evidence = Evidence {
            source: &case.source,
            samples: &case.samples,
            measure: Measurements::Readings(&readings),
            conditions: case.conditions,
            work: None,
        };
        check_still_idle(&case.metrics, evidence).map_err(|reason| reason.code())
    };
    assert_eq!(seen(Case::direct(|_, _, _| {})), Ok(()));
    for (code, case) in [
        ("above_threshold", Case::direct(|_, reading, _| reading.value = MetricValue::Number(0.1))),
        ("no_value", Case::direct(|_, reading, _| reading.value = MetricValue::Absent { idle: false })),
        (
            "incomplete_window",
            Case::direct(|_, reading, _| reading.coverage = scrapes(SampleCount::Count(40.0))),
        ),
        ("source_failed", Case::direct(|_, reading, _| reading.value = MetricValue::Failed("no".into()))),
        ("in_flight", Case::direct(|case, _, _| case.samples[0].in_flight = 1)),
        ("in_flight", Case::direct(|case, _, _| case.samples[0].held = 1)),
        ("no_dlx", Case::direct(|case, _, _| case.source.unknown = Some(ActivityUnknown::NoDlx))),
        ("no_sample", Case::direct(|case, _, _| drop(case.samples.remove(0)))),
        ("no_value", Case::direct(|case, _, _| case.metrics.push(metric(SECOND, 0.0)))),
        ("no_metrics", Case::direct(|case, _, _| case.metrics.clear())),
        ("no_metrics", Case::direct(|case, _, _| case.metrics.clear()).by_the_dlxs()),
    ] {
        assert_eq!(seen(case), Err(code));
    }
}

impl Case {
    fn by_the_dlxs(mut self) -> Self {
        self.readings = None;
        self.samples = vec![sample("a"), sample("b")];
        self
    }

    fn without_route(mut self) -> Self {
        self.resource.interception = None;
        self
    }
}
