//! A table of every rule, and that nothing unknown ever sleeps.

mod interception;
mod rollout;
mod work;

use proptest::prelude::*;
use scaler_types::{Nonce, ResourceId};

use super::*;

const WINDOW: Duration = Duration::from_secs(600);

/// A resource that may go to zero, in every respect; the cases spoil one thing each.
#[derive(Clone)]
struct Case {
    now: Instant,
    resource: Resource,
    metrics: Vec<ScaleResource>,
    source: DlxReports,
    samples: Vec<Sample>,
    /// Of another source, which is asked then.
    readings: Option<Vec<MetricReading>>,
    conditions: InterceptionConditions,
    history: ScaleHistory,
    work: Option<Work>,
}

impl Case {
    fn idle() -> Self {
        let mut resource = Resource::new(ResourceId::new("demo", "hello"));
        resource.replicas = 1;
        Self {
            // Far from the clock's beginning, so that the past has room.
            now: Instant::now() + 100 * WINDOW,
            resource,
            metrics: vec![metric(WINDOW, 0.0)],
            source: DlxReports { members: vec!["a".into(), "b".into()], ..DlxReports::default() },
            samples: vec![sample("a"), sample("b")],
            readings: None,
            conditions: InterceptionConditions { dlx_available: true, propagation_delay: PROPAGATION_DELAY },
            history: ScaleHistory { listed: Some(Instant::now()), ..ScaleHistory::default() },
            work: None,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::idle();
        change(&mut case);
        case
    }

    /// The same by the readings of another source: `requests` is 0, and known for the whole window.
    fn with_reading(change: impl FnOnce(&mut Self, &mut MetricReading)) -> Self {
        let mut reading = reading(0.0, SampleCount::Count(41.0));
        Self::with(|case| {
            // The DLXs count nothing that decides.
            case.samples.iter_mut().for_each(|sample| {
                (sample.idle, sample.counted_for) = (Some(Duration::ZERO), Duration::ZERO);
            });
            change(case, &mut reading);
            case.readings = Some(vec![reading]);
        })
    }

    /// The same with a threshold above zero.
    fn counted(threshold: f64, change: impl FnOnce(&mut Self)) -> Self {
        Self::with(|case| {
            case.metrics[0].threshold = threshold;
            change(case);
        })
    }

    fn decide(&self) -> Decision {
        let measure = self.readings.as_deref().map_or(Measurements::Samples, Measurements::Readings);
        let evidence = Evidence {
            source: &self.source,
            samples: &self.samples,
            measure,
            conditions: self.conditions,
            work: self.work.as_ref(),
        };
        decide(self.now, &self.resource, &self.metrics, evidence, &self.history)
    }
}

fn metric(window_size: Duration, threshold: f64) -> ScaleResource {
    ScaleResource { metric_name: REQUESTS.to_owned(), window_size, threshold }
}

fn reading(value: f64, seen: SampleCount) -> MetricReading {
    MetricReading {
        metric: "requests_per_10m".into(),
        value: MetricValue::Number(value),
        coverage: Completeness::Scrapes { seen, needed: 41, most: 44 },
    }
}

fn scrapes(seen: SampleCount) -> Completeness {
    Completeness::Scrapes { seen, needed: 41, most: 44 }
}

fn sample(member: &str) -> Sample {
    Sample {
        member: member.into(),
        requests: 7,
        in_flight: 0,
        held: 0,
        idle: Some(WINDOW),
        counted_for: WINDOW,
        counted_since_start: false,
        counts: vec![(WINDOW, 0)],
    }
}

fn left(at: Instant) -> Option<(Instant, Gap)> {
    Some((at, Gap::Left("gone".into())))
}

fn failure(until: Instant) -> ScaleFailure {
    ScaleFailure { attempts: 2, reason: "no".into(), until }
}

const PROPAGATION_DELAY: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_rule() {
    let keep: Vec<(&str, Case)> = vec![
        ("newer_record", Case::with(|case| case.resource.record.format = Record::FORMAT + 1)),
        ("not_active", Case::with(|case| case.resource.record.phase = Phase::Draining)),
        ("not_active", Case::with(|case| case.resource.record.phase = Phase::Asleep)),
        ("not_active", Case::with(|case| case.resource.record.phase = Phase::Waking)),
        (
            "not_active",
            Case::with(|case| {
                case.resource.record.phase = Phase::Failed;
                case.resource.replicas = 0;
            }),
        ),
        ("no_replicas", Case::with(|case| case.resource.replicas = 0)),
        ("no_metrics", Case::with(|case| case.metrics.clear())),
        // Of two metrics the one that is known does not speak for the other.
        (
            "unknown_metric",
            Case::with(|case| {
                case.metrics.push(ScaleResource { metric_name: "cpu".to_owned(), ..metric(WINDOW, 0.0) });
            }),
        ),
        ("scale_failed", Case::with(|case| case.history.failure = Some(failure(case.now + SECOND)))),
        (
            "source_failed",
            Case::with(|case| case.source.unknown = Some(ActivityUnknown::SourceFailed("no".into()))),
        ),
        ("no_dlx", Case::with(|case| case.source.unknown = Some(ActivityUnknown::NoDlx))),
        (
            "no_dlx",
            Case::with(|case| {
                case.source.members.clear();
                case.samples.clear();
            }),
        ),
        (
            "dlx_unreachable",
            Case::with(|case| {
                case.source.unknown = Some(ActivityUnknown::Unreachable(["b".to_owned()].into()))
            }),
        ),
        ("no_sample", Case::with(|case| case.samples.clear())),
        ("no_sample", Case::with(|case| drop(case.samples.remove(0)))),
        ("duplicate_sample", Case::with(|case| case.samples.push(sample("a")))),
        ("in_flight", Case::with(|case| case.samples[1].in_flight = 1)),
        ("in_flight", Case::with(|case| case.samples[1].held = 1)),
        ("incomplete_window", Case::with(|case| case.samples[0].counted_for = WINDOW - SECOND)),
        // Never asked for anything, and has not counted for long enough to say so.
        (
            "incomplete_window",
            Case::with(|case| (case.samples[1].idle, case.samples[1].counted_for) = (None, WINDOW - SECOND)),
        ),
        ("active", Case::with(|case| case.samples[1].idle = Some(WINDOW - SECOND))),
        // Each metric has its own window: the longer one is not over.
        (
            "active",
            Case::with(|case| {
                case.metrics = vec![metric(WINDOW, 0.0), metric(2 * WINDOW, 0.0)];
                case.samples.iter_mut().for_each(|sample| sample.counted_for = 3 * WINDOW);
            }),
        ),
        (
            "incomplete_window",
            Case::with(|case| {
                case.metrics = vec![metric(WINDOW, 0.0), metric(2 * WINDOW, 0.0)];
                case.samples.iter_mut().for_each(|sample| sample.idle = None);
            }),
        ),
        // Known to be busy, however little of the window is known.
        (
            "active",
            Case::with(|case| {
                case.metrics = vec![metric(WINDOW, 0.0), metric(2 * WINDOW, 0.0)];
            }),
        ),
        // With a threshold: the sum of all members, in requests.
        (
            "above_threshold",
            Case::counted(5.0, |case| {
                case.samples.iter_mut().for_each(|sample| sample.counts = vec![(WINDOW, 3)])
            }),
        ),
        ("above_threshold", Case::counted(5.0, |case| case.samples[0].counts = vec![(WINDOW, 6)])),
        ("above_threshold", Case::counted(f64::NAN, |_| {})),
        ("above_threshold", Case::counted(-1.0, |_| {})),
        (
            "above_threshold",
            Case::counted(5.0, |case| {
                case.samples.iter_mut().for_each(|sample| sample.counts = vec![(WINDOW, u64::MAX)]);
            }),
        ),
        ("no_value", Case::counted(5.0, |case| case.samples[1].counts = vec![(SECOND, 0)])),
        ("incomplete_window", Case::counted(5.0, |case| case.samples[1].counted_for = WINDOW - SECOND)),
        ("in_flight", Case::counted(5.0, |case| case.samples[1].in_flight = 1)),
        ("recent_event", Case::with(|case| case.event(ScaleEvent::ResourceUpdated, WINDOW - SECOND))),
        ("recent_event", Case::with(|case| case.event(ScaleEvent::ScaleFromZeroStarted, WINDOW - SECOND))),
        ("recent_event", Case::with(|case| case.event(ScaleEvent::ScaleFromZeroCompleted, WINDOW - SECOND))),
        // The largest window counts, not the metric that is idle for longest.
        (
            "recent_event",
            Case::with(|case| {
                case.metrics = vec![metric(2 * WINDOW, 0.0), metric(WINDOW, 0.0)];
                for sample in &mut case.samples {
                    (sample.idle, sample.counted_for) = (None, 3 * WINDOW);
                }
                case.event(ScaleEvent::ResourceUpdated, WINDOW);
            }),
        ),
        ("min_awake", Case::woken(WINDOW - SECOND)),
        ("traffic_mode_external", Case::with(|case| case.resource.traffic_mode = TrafficMode::External)),
        ("traffic_mode_unknown", Case::with(|case| case.resource.traffic_mode = TrafficMode::Unknown)),
        ("dlx_left", Case::with(|case| case.history.gap = left(case.now - WINDOW + SECOND))),
        ("kept_awake", Case::with(|case| case.resource.keep_awake = "paused".to_owned())),
        // Before anything else, also before another user's request.
        (
            "kept_awake",
            Case::with(|case| {
                case.resource.keep_awake = "paused".to_owned();
                case.resource.sleep_now = true;
                case.resource.record.phase = Phase::Draining;
            }),
        ),
        // No windows, thresholds and events; all else as ever.
        ("in_flight", Case::requested(|case| case.samples[0].in_flight = 1)),
        ("no_sample", Case::requested(|case| drop(case.samples.remove(0)))),
        ("no_dlx", Case::requested(|case| case.source.unknown = Some(ActivityUnknown::NoDlx))),
        (
            "dlx_unreachable",
            Case::requested(|case| {
                case.source.unknown = Some(ActivityUnknown::Unreachable(["b".to_owned()].into()))
            }),
        ),
        ("no_replicas", Case::requested(|case| case.resource.replicas = 0)),
        ("not_active", Case::requested(|case| case.resource.record.phase = Phase::Waking)),
        ("newer_record", Case::requested(|case| case.resource.record.format = Record::FORMAT + 1)),
        ("scale_failed", Case::requested(|case| case.history.failure = Some(failure(case.now + SECOND)))),
    ];
    for (place, (code, case)) in keep.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("keep", *code), "case {place}: {decision}");
    }

    let to_zero: Vec<(&str, Case)> = vec![
        ("quiet", Case::idle()),
        // A crash loop.
        ("quiet", Case::with(|case| case.resource.record.phase = Phase::Failed)),
        ("requested", Case::requested(|_| {})),
        ("quiet", Case::woken(WINDOW)),
        ("requested", Case::requested(|case| case.event(ScaleEvent::ScaleFromZeroCompleted, Duration::ZERO))),
        ("requested", Case::requested(|case| case.history.gap = left(case.now))),
        ("requested", Case::requested(|case| case.metrics.clear())),
        ("requested", Case::requested(|case| case.metrics[0].metric_name = "cpu".to_owned())),
        (
            "requested",
            Case::requested(|case| {
                case.samples.iter_mut().for_each(|sample| {
                    (sample.idle, sample.counted_for) = (Some(Duration::ZERO), Duration::ZERO);
                });
            }),
        ),
        // The DLXs see nothing of it, and its controller promises what is promised.
        (
            "requested",
            Case::requested(|case| {
                case.resource.traffic_mode = TrafficMode::External;
                case.samples.clear();
                case.source = DlxReports { unknown: Some(ActivityUnknown::NoDlx), ..DlxReports::default() };
            }),
        ),
        // Never asked for anything, for as long as it must be known.
        ("quiet", Case::with(|case| case.samples.iter_mut().for_each(|sample| sample.idle = None))),
        ("quiet", Case::with(|case| case.metrics[0].threshold = -0.0)),
        // With threshold zero the last activity decides, not the count.
        ("quiet", Case::with(|case| case.samples.iter_mut().for_each(|sample| sample.counts.clear()))),
        ("quiet", Case::with(|case| case.history.failure = Some(failure(case.now)))),
        ("quiet", Case::with(|case| case.history.gap = left(case.now - WINDOW))),
        // One that began within the window knows all that it did.
        (
            "quiet",
            Case::with(|case| {
                (case.samples[0].counted_for, case.samples[0].idle) = (SECOND, None);
                case.samples[0].counted_since_start = true;
            }),
        ),
        ("quiet", Case::with(|case| case.event(ScaleEvent::ScaleFromZeroCompleted, WINDOW))),
        ("quiet", Case::with(|case| case.event(ScaleEvent::ScaleToZeroCompleted, Duration::ZERO))),
        // Not above: the threshold itself is idle. A recent request is no obstacle.
        (
            "below_threshold",
            Case::counted(6.0, |case| {
                for sample in &mut case.samples {
                    (sample.idle, sample.counts) = (Some(SECOND), vec![(WINDOW, 3)]);
                }
            }),
        ),
    ];
    for (place, (code, case)) in to_zero.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("scale_to_zero", *code), "case {place}: {decision}");
    }
}

/// With another source than the DLXs.
#[test]
fn every_rule_of_a_source_beside_the_dlxs() {
    let keep: Vec<(&str, Case)> = vec![
        ("above_threshold", Case::with_reading(|_, reading| reading.value = MetricValue::Number(0.5))),
        // Known to be busy, whatever else is not known.
        ("above_threshold", Case::with_reading(|_, slot| *slot = reading(3.0, SampleCount::Nothing))),
        ("not_a_number", Case::with_reading(|_, reading| reading.value = MetricValue::Number(f64::NAN))),
        ("not_a_number", Case::with_reading(|_, reading| reading.value = MetricValue::Number(f64::INFINITY))),
        (
            "not_a_number",
            Case::with_reading(|_, reading| reading.value = MetricValue::Number(f64::NEG_INFINITY)),
        ),
        // A counter that was reset, where a query takes a plain difference.
        ("not_a_number", Case::with_reading(|_, reading| reading.value = MetricValue::Number(-3.0))),
        ("no_value", Case::with_reading(|_, reading| reading.value = MetricValue::Absent { idle: false })),
        ("duplicate_sample", Case::with_reading(|_, reading| reading.value = MetricValue::Several)),
        (
            "unknown_metric",
            Case::with_reading(|_, reading| reading.value = MetricValue::Unknown("no".into())),
        ),
        ("source_failed", Case::with_reading(|_, reading| reading.value = MetricValue::Failed("no".into()))),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Count(40.0))),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Count(0.0))),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Count(f64::NAN))),
        ),
        // More than there can be: the interval is another, and so is what is needed.
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Count(45.0))),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Nothing)),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Several)),
        ),
        (
            "source_failed",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Failed("no".into()))),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| reading.coverage = Completeness::Only(WINDOW - SECOND)),
        ),
        // Nothing was reported, and nothing was read all the while.
        (
            "incomplete_window",
            Case::with_reading(|_, reading| {
                (reading.value, reading.coverage) =
                    (MetricValue::Absent { idle: true }, scrapes(SampleCount::Count(40.0)));
            }),
        ),
        (
            "incomplete_window",
            Case::with_reading(|_, reading| {
                (reading.value, reading.coverage) =
                    (MetricValue::Absent { idle: true }, scrapes(SampleCount::Nothing));
            }),
        ),
        // Of two metrics one speaks not for the other.
        ("no_value", Case::with_reading(|case, _| case.metrics.push(metric(2 * WINDOW, 0.0)))),
        ("no_metrics", Case::with_reading(|case, _| case.metrics.clear())),
        // What is in flight the DLXs know, and without them nothing can be drained.
        ("in_flight", Case::with_reading(|case, _| case.samples[1].in_flight = 1)),
        ("in_flight", Case::with_reading(|case, _| case.samples[0].held = 1)),
        ("no_sample", Case::with_reading(|case, _| case.samples.clear())),
        ("no_dlx", Case::with_reading(|case, _| case.source.unknown = Some(ActivityUnknown::NoDlx))),
        (
            "dlx_unreachable",
            Case::with_reading(|case, _| {
                case.source.unknown = Some(ActivityUnknown::Unreachable(["b".to_owned()].into()))
            }),
        ),
        (
            "recent_event",
            Case::with_reading(|case, _| case.event(ScaleEvent::ScaleFromZeroCompleted, WINDOW - SECOND)),
        ),
        ("kept_awake", Case::with_reading(|case, _| case.resource.keep_awake = "paused".to_owned())),
        (
            "incomplete_window",
            Case::with_reading(|case, reading| {
                case.external();
                reading.coverage = scrapes(SampleCount::Count(40.0));
            }),
        ),
    ];
    for (place, (code, case)) in keep.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("keep", *code), "case {place}: {decision}");
    }
    let to_zero: Vec<(&str, Case)> = vec![
        ("below_threshold", Case::with_reading(|_, _| {})),
        ("below_threshold", Case::with_reading(|_, reading| reading.coverage = Completeness::Guaranteed)),
        ("below_threshold", Case::with_reading(|_, reading| reading.coverage = Completeness::Only(WINDOW))),
        (
            "below_threshold",
            Case::with_reading(|_, reading| reading.coverage = scrapes(SampleCount::Count(44.0))),
        ),
        ("absent", Case::with_reading(|_, reading| reading.value = MetricValue::Absent { idle: true })),
        (
            "below_threshold",
            Case::with_reading(|case, reading| {
                case.metrics = vec![ScaleResource { metric_name: "cpu".to_owned(), ..metric(WINDOW, 2.5) }];
                reading.metric = "cpu_per_10m".into();
                reading.value = MetricValue::Number(2.5);
            }),
        ),
        // What a DLX had counted decides nothing.
        ("below_threshold", Case::with_reading(|case, _| case.history.gap = left(case.now))),
        ("below_threshold", Case::with_reading(|case, _| case.external())),
    ];
    for (place, (code, case)) in to_zero.iter().enumerate() {
        let decision = case.decide();
        assert_eq!((decision.name(), decision.code()), ("scale_to_zero", *code), "case {place}: {decision}");
    }
}

impl Case {
    /// The same with a user's request to scale it to zero.
    fn requested(change: impl FnOnce(&mut Self)) -> Self {
        Self::with(|case| {
            case.resource.sleep_now = true;
            change(case);
        })
    }

    /// Another controller switches its traffic, and no DLX was queried.
    fn external(&mut self) {
        self.resource.traffic_mode = TrafficMode::External;
        self.samples.clear();
        self.source = DlxReports::default();
    }

    /// Woken so long ago, and to be awake for as long as the window is.
    fn woken(ago: Duration) -> Self {
        Self::with(|case| {
            case.resource.min_awake = Some(WINDOW);
            case.history.woken = Some(case.now - ago);
        })
    }

    fn event(&mut self, event: ScaleEvent, ago: Duration) {
        self.history.event = Some((event, self.now - ago));
    }
}

/// What a person reads at 3 a.m.
#[test]
fn reasons_say_what_is_known() {
    let reason = |case: Case| case.decide().to_string();
    assert_eq!(reason(Case::idle()), "idle for 10m");
    assert_eq!(
        reason(Case::with(|case| case.metrics[0].metric_name = "cpu".to_owned())),
        "the metric source dlx has no metric \"cpu\": it counts \"requests\" only"
    );
    assert_eq!(
        reason(Case::with(|case| case.samples[1].counted_for = 10 * SECOND)),
        "DLX b has counted its requests for only 10s, the window is 10m"
    );
    assert_eq!(
        reason(Case::with(
            |case| case.source.unknown = Some(ActivityUnknown::Unreachable(["b".to_owned()].into()))
        )),
        "no answer from DLX b"
    );
    assert_eq!(
        reason(Case::counted(5.0, |case| case.samples[0].counts = vec![(WINDOW, 6)])),
        "requests_per_10m is 6, the threshold is 5"
    );
    assert_eq!(
        reason(Case::with(|case| case.event(ScaleEvent::ResourceUpdated, 90 * SECOND))),
        "resourceUpdated 1m30s ago, the largest window is 10m"
    );
}

/// One way of not knowing.
#[derive(Clone, Debug)]
enum Doubt {
    NoSample(usize),
    Twice(usize),
    Counting(usize, u64),
    NoCount(usize),
    Threshold(f64),
    Metric(String),
    Source(u8),
    Stranger,
    Event(u64),
    Left(u64),
    InFlight(usize, u64),
}

fn doubt() -> impl Strategy<Value = Doubt> {
    let short = || 0..WINDOW.as_secs();
    prop_oneof![
        (0..4_usize).prop_map(Doubt::NoSample),
        (0..4_usize).prop_map(Doubt::Twice),
        (0..4_usize, short()).prop_map(|(member, counting)| Doubt::Counting(member, counting)),
        (0..4_usize).prop_map(Doubt::NoCount),
        prop_oneof![Just(f64::NAN), Just(f64::NEG_INFINITY), -1e9..-1e-9].prop_map(Doubt::Threshold),
        "[a-z]{0,7}".prop_filter("another one", |name| name != REQUESTS).prop_map(Doubt::Metric),
        (0..3_u8).prop_map(Doubt::Source),
        Just(Doubt::Stranger),
        short().prop_map(Doubt::Event),
        short().prop_map(Doubt::Left),
        (0..4_usize, 1..u64::MAX).prop_map(|(member, count)| Doubt::InFlight(member, count)),
    ]
}

fn spoil(case: &mut Case, doubt: &Doubt) {
    let members = case.samples.len();
    match doubt {
        Doubt::NoSample(member) => drop(case.samples.remove(member % members)),
        Doubt::Twice(member) => case.samples.push(case.samples[member % members].clone()),
        Doubt::Counting(member, counting) => {
            case.samples[member % members].counted_for = Duration::from_secs(*counting);
        }
        Doubt::NoCount(member) => {
            case.metrics[0].threshold = 1e9;
            case.samples[member % members].counts.clear();
        }
        Doubt::Threshold(threshold) => case.metrics[0].threshold = *threshold,
        Doubt::Metric(name) => case.metrics[0].metric_name.clone_from(name),
        Doubt::Source(which) => {
            case.source.unknown = Some(match which {
                0 => ActivityUnknown::SourceFailed("no".into()),
                1 => ActivityUnknown::NoDlx,
                _ => ActivityUnknown::Unreachable(["a".to_owned()].into()),
            });
        }
        // One of the members is not the one that reported.
        Doubt::Stranger => case.samples[0].member = "stranger".into(),
        Doubt::Event(ago) => case.event(ScaleEvent::ResourceUpdated, Duration::from_secs(*ago)),
        Doubt::Left(ago) => case.history.gap = left(case.now - Duration::from_secs(*ago)),
        Doubt::InFlight(member, count) => case.samples[member % members].in_flight = *count,
    }
}

proptest! {
    /// Whatever else holds: with one thing unknown it is kept; with none it goes to zero.
    #[test]
    fn nothing_unknown_sleeps(
        names in prop::collection::btree_set("[a-z]{1,3}", 1..4),
        idle in prop::option::of(WINDOW.as_secs()..10_000),
        threshold in prop_oneof![Just(0.0), 1.0..1e9],
        nonce: u64,
        doubt in doubt(),
    ) {
        let mut case = Case::idle();
        case.resource.record.nonce = Nonce(nonce);
        case.metrics[0].threshold = threshold;
        case.source.members = names.iter().map(|name| name.as_str().into()).collect();
        case.samples = names
            .iter()
            .map(|name| Sample { idle: idle.map(Duration::from_secs), counted_for: 100 * WINDOW, ..sample(name) })
            .collect();
        prop_assert!(matches!(case.decide(), Decision::ScaleToZero(_)), "{}", case.decide());
        spoil(&mut case, &doubt);
        prop_assert!(matches!(case.decide(), Decision::Keep(_)), "{doubt:?}: {}", case.decide());
    }
}
