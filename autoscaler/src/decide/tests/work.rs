//! Resources with queues, or metrics with a target.

use scaler_types::{Scaling, ScalingMetric};

use super::*;

const QUEUE: &str = "beanstalkd://broker:11300/mails";

impl Case {
    /// With another metric's reading before the others, if it has one.
    fn with_first_reading(mut self, name: &str, value: Option<f64>) -> Self {
        let readings = self.readings.get_or_insert_default();
        let first = value.map(|value| reading(value, SampleCount::Count(41.0)));
        readings.splice(..0, first.map(|reading| MetricReading { metric: name.into(), ..reading }));
        self
    }
}

/// Workers of a queue that no request can reach, in an installation without any DLX; idle for the window.
fn workers(change: impl FnOnce(&mut Case)) -> Case {
    Case::with(|case| {
        case.resource.scaling = Some(Scaling { queues: vec![QUEUE.to_owned()], ..Scaling::up_to(30) });
        case.source = DlxReports { unknown: Some(ActivityUnknown::NoDlx), ..DlxReports::default() };
        case.samples = Vec::new();
        case.work = Some(Work::IdleFor(WINDOW));
        change(case);
    })
}

fn messages() -> Work {
    Work::NotIdle(WorkNotIdle::Messages { queue: QUEUE.into(), messages: [3, 1, 0] })
}

#[test]
fn without_requests_the_queues_alone_decide() {
    assert_eq!(workers(|_| {}).decide(), Decision::ScaleToZero(Idle::NoWork { idle: WINDOW }));
    // Whatever a metric source says of requests.
    let readings = |case: &mut Case| {
        case.readings = Some(vec![MetricReading {
            metric: "requests_per_10m".into(),
            value: MetricValue::Absent { idle: false },
            coverage: Completeness::Guaranteed,
        }]);
    };
    assert_eq!(workers(readings).decide().name(), "scale_to_zero");
    for (code, case) in [
        ("recent_work", workers(|case| case.work = Some(Work::IdleFor(WINDOW - Duration::from_millis(1))))),
        ("messages", workers(|case| case.work = Some(messages()))),
        ("queue_not_read", workers(|case| case.work = None)),
        ("no_metrics", workers(|case| case.metrics.clear())),
        ("no_replicas", workers(|case| case.resource.replicas = 0)),
        ("kept_awake", workers(|case| case.resource.keep_awake = "paused".to_owned())),
        ("not_active", workers(|case| case.resource.record.phase = Phase::Draining)),
        // A request may arrive: without a DLX it would be lost.
        ("no_dlx", workers(|case| case.resource.hosts = vec!["mails.test".to_owned()])),
        ("no_dlx", workers(|case| case.resource.scaling = None)),
        (
            "min_awake",
            workers(|case| {
                case.resource.min_awake = Some(2 * WINDOW);
                case.history.woken = Some(case.now - WINDOW);
            }),
        ),
        (
            "recent_event",
            workers(|case| {
                let seen = case.now - WINDOW + Duration::from_secs(1);
                case.history.event = Some((ScaleEvent::ScaleFromZeroCompleted, seen));
            }),
        ),
    ] {
        assert_eq!((case.decide().name(), case.decide().code()), ("keep", code));
    }
}

/// Workers of a queue that also have a metric of another source, without a target: `jobs_running`, which says this.
fn with_jobs_running(value: MetricValue) -> Case {
    workers(|case| {
        case.metrics.push(ScaleResource { metric_name: "jobs_running".to_owned(), ..metric(WINDOW, 0.0) });
        let reading = |metric: &str, value| MetricReading {
            metric: metric.into(),
            value,
            coverage: Completeness::Guaranteed,
        };
        let requests = reading("requests_per_10m", MetricValue::Absent { idle: false });
        case.readings = Some(vec![requests, reading("jobs_running_per_10m", value)]);
    })
}

#[test]
fn a_metric_beside_the_queues_keeps_them_awake() {
    let jobs = |value| with_jobs_running(value).decide();
    assert_eq!(jobs(MetricValue::Number(0.0)), Decision::ScaleToZero(Idle::NoWork { idle: WINDOW }));
    assert_eq!(jobs(MetricValue::Number(3.0)).code(), "above_threshold");
    assert_eq!(jobs(MetricValue::Absent { idle: false }).code(), "no_value");
    assert_eq!(jobs(MetricValue::Failed("connection refused".into())).name(), "keep");
    let mut dlx = with_jobs_running(MetricValue::Number(0.0));
    dlx.readings = None;
    assert_eq!(dlx.decide().code(), "unknown_metric", "the DLXs count requests only");
}

#[test]
fn a_reading_counts_for_its_metric_wherever_it_is() {
    let case = |requests: f64, jobs: Option<f64>| {
        Case::with_reading(|case, reading| {
            case.metrics[0].threshold = 5.0;
            case.metrics.push(ScaleResource { metric_name: "jobs".to_owned(), ..metric(WINDOW, 0.0) });
            reading.value = MetricValue::Number(requests);
        })
        .with_first_reading("jobs_per_10m", jobs)
    };
    assert_eq!(case(5.0, Some(0.0)).decide().name(), "scale_to_zero");
    assert_eq!(case(0.0, Some(5.0)).decide().code(), "above_threshold");
    assert_eq!(case(0.0, None).decide().code(), "no_value", "another metric's reading is none of it");
}

#[test]
fn workers_that_go_by_a_metric_alone_need_no_dlx() {
    let by_metric = |value: f64, change: fn(&mut Case)| {
        let mut case = with_jobs_running(MetricValue::Number(value));
        // Without the requests, of which nothing is known.
        case.metrics.remove(0);
        case.readings.as_mut().unwrap().remove(0);
        let metrics = vec![ScalingMetric {
            metric_name: "jobs_running".to_owned(),
            window_size: WINDOW,
            target_per_replica: 5.0,
        }];
        case.resource.scaling = Some(Scaling { metrics, ..Scaling::up_to(30) });
        change(&mut case);
        case.decide()
    };
    assert_eq!(by_metric(0.0, |_| {}).name(), "scale_to_zero");
    for (value, code, change) in [
        (3.0, "above_threshold", (|_| {}) as fn(&mut Case)),
        (0.0, "no_value", |case| case.readings = Some(Vec::new())),
        (0.0, "queue_not_read", |case| case.work = None),
        // A request may arrive: without a DLX it would be lost.
        (0.0, "no_dlx", |case| case.resource.hosts = vec!["jobs.test".to_owned()]),
    ] {
        let decision = by_metric(value, change);
        assert_eq!((decision.name(), decision.code()), ("keep", code));
    }
}

#[test]
fn what_a_user_has_to_correct_is_published_with_what_to_do() {
    let kept = |why| workers(|case| case.work = Some(Work::NotIdle(why))).decide();
    let queue = || Arc::from(QUEUE);
    let hidden = kept(WorkNotIdle::InFlightNotShown { queue: queue() });
    assert_eq!(hidden.refusal().as_deref(), Some("in_flight_not_shown"));
    assert!(
        hidden.to_string().contains("set scaler.dev/busy-probe, or scaler.dev/early-ack: accepted"),
        "{hidden}"
    );
    let away = kept(WorkNotIdle::QueueUnknown { queue: queue(), why: "connection refused".into() });
    assert_eq!((away.code(), away.refusal()), ("queue_unknown", None), "it is published when it happens");
    assert_eq!(away.to_string(), format!("cannot read {QUEUE}: connection refused"));
    assert_eq!(kept(WorkNotIdle::NotRead).refusal(), None);
    let busy = workers(|case| case.work = Some(messages())).decide();
    assert_eq!(busy.refusal(), None);
    assert_eq!(busy.to_string(), format!("{QUEUE} has 3 messages waiting, 1 in flight, 0 delayed"));
}

#[test]
fn with_requests_both_must_be_idle() {
    let both = |change: fn(&mut Case)| {
        Case::with(|case| {
            case.resource.hosts = vec!["mails.test".to_owned()];
            case.resource.scaling = Some(Scaling { queues: vec![QUEUE.to_owned()], ..Scaling::up_to(30) });
            case.work = Some(Work::IdleFor(WINDOW));
            change(case);
        })
    };
    assert_eq!(both(|_| {}).decide().name(), "scale_to_zero");
    assert_eq!(both(|case| case.work = Some(messages())).decide().code(), "messages");
    assert_eq!(both(|case| case.samples[0].in_flight = 1).decide().code(), "in_flight");
    assert_eq!(both(|case| case.samples[0].idle = Some(WINDOW / 2)).decide().code(), "active");
    // A user wants it asleep: its window does not count, what it has to do does.
    let now = |work: Work| {
        let mut case = both(|case| case.resource.sleep_now = true);
        case.work = Some(work);
        case.decide()
    };
    assert_eq!(now(Work::IdleFor(Duration::ZERO)), Decision::ScaleToZero(Idle::Requested));
    assert_eq!(now(messages()).code(), "messages");
}
