use std::collections::BTreeMap;

use scaler_types::{QueueReading, Rollout, ScalingMetric};

use super::*;
use crate::{decide::desired_replicas::Limit, observe::Completeness, testing::id};

mod restarts;

const QUEUE: &str = "test://mails";
const WALL: u64 = 1_800_000_000;

/// Workers of one queue, by a clock that the test moves.
struct Workers {
    scaled: ScaledResource,
    queues: HashMap<String, QueueHistory>,
    now: Instant,
    wall: u64,
    source: MetricsSource,
    compatibility: Option<Compatibility>,
}

impl Workers {
    fn new(phase: Phase, replicas: u32) -> Self {
        let mut resource = Resource::new(id("mailer"));
        (resource.record.phase, resource.replicas) = (phase, replicas);
        resource.version = Version("1".to_owned());
        resource.scaling = Some(Scaling {
            queues: vec![QUEUE.to_owned()],
            messages_per_replica: Some(20.0),
            last_scaled: Some(WALL - 3600),
            ..Scaling::up_to(30)
        });
        let scaled = ScaledResource::new(resource);
        let (queues, now, source) = (HashMap::new(), Instant::now(), MetricsSource::Dlx);
        Self { scaled, queues, now, wall: WALL, source, compatibility: None }
    }

    fn scaling(&mut self) -> &mut Scaling {
        self.scaled.resource.scaling.as_mut().unwrap()
    }

    /// Its queue was read now.
    fn read(&mut self, waiting: u64, in_flight: Option<u64>) {
        let reading = QueueReading { waiting: Some(waiting), in_flight, ..QueueReading::default() };
        self.queues.entry(QUEUE.to_owned()).or_default().observe(self.now, Ok(reading));
        self.scaled.note_reading();
    }

    /// The metrics that it has now were read now, with these values.
    fn read_metrics(&mut self, values: impl IntoIterator<Item = MetricReading>) {
        let metrics = source_metrics(&self.scaled.resource, None);
        self.scaled.readings = Some((self.now, metrics.into_iter().zip(values).collect()));
        self.scaled.note_reading();
    }

    /// A call was refused, which a pause follows.
    fn refuse(&mut self, lowered: bool) {
        self.end_call(lowered, &Err(ScaleError::Terminal { reason: "a policy refuses it".to_owned() }));
    }

    /// A step down to one has ended, or a wake.
    fn end_call(&mut self, lowered: bool, result: &Result<(), ScaleError>) -> bool {
        let version = self.scaled.resource.version.clone();
        let action = match lowered {
            true => ScaleAction::Resize { to: 1, reason: "few messages".to_owned() },
            false => ScaleAction::Wake { replicas: 1, reason: String::new(), wake_for: WakeFor::Request },
        };
        self.scaled.record_call(self.now, &version, (&action, 9), result)
    }

    /// The plugin lists it with so many replicas, and another version.
    fn list(&mut self, replicas: u32) {
        let mut listed = self.scaled.resource.clone();
        (listed.replicas, listed.version) = (replicas, Version(format!("{}+", listed.version.0)));
        self.scaled.update(listed);
    }

    fn evaluate(&mut self) -> Option<ScaleAction> {
        let context = RuleContext {
            now: self.now,
            wall: self.wall,
            compatibility: self.compatibility,
            source: &self.source,
            queues: &self.queues,
        };
        self.scaled.evaluate(context)
    }

    /// To how many replicas, and whether by a wake.
    fn due(&mut self) -> Option<(u32, bool)> {
        self.evaluate().map(|action| match action {
            ScaleAction::Resize { to, .. } => (to, false),
            ScaleAction::Wake { replicas, .. } => (replicas, true),
        })
    }

    fn work(&self) -> Option<Work> {
        let context = RuleContext {
            now: self.now,
            wall: self.wall,
            compatibility: self.compatibility,
            source: &self.source,
            queues: &self.queues,
        };
        self.scaled.work(context)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.wall += seconds;
    }
}

fn minute_metric(name: &str) -> ScalingMetric {
    let window_size = Duration::from_secs(60);
    ScalingMetric { metric_name: name.to_owned(), window_size, target_per_replica: 5.0 }
}

fn minute_reading(name: &str, value: MetricValue) -> MetricReading {
    let coverage = Completeness::Guaranteed;
    MetricReading { metric: format!("{name}_per_1m").into(), value, coverage }
}

#[test]
fn what_is_due_depends_on_the_phase() {
    for (phase, replicas, waiting, expected) in [
        (Phase::Asleep, 0, 0, None),
        (Phase::Asleep, 0, 1, Some((1, true))),
        (Phase::Asleep, 0, 90, Some((5, true))),
        (Phase::Failed, 0, 90, Some((5, true))),
        // Scaled to zero by others, or never written.
        (Phase::Active, 0, 90, Some((5, true))),
        (Phase::Active, 2, 90, Some((5, false))),
        (Phase::Active, 9, 90, Some((5, false))),
        // Zero is for a drain to decide.
        (Phase::Active, 9, 0, Some((1, false))),
        (Phase::Active, 1, 0, None),
        (Phase::Active, 5, 95, None),
        // Others work on its wake: it is only raised.
        (Phase::Waking, 2, 90, Some((5, false))),
        (Phase::Waking, 9, 90, None),
        (Phase::Waking, 0, 90, None),
        (Phase::Draining, 2, 90, None),
        // Its wake failed, and it came up since, as far as is known.
        (Phase::Failed, 2, 90, Some((5, true))),
        (Phase::Failed, 9, 90, Some((5, true))),
        (Phase::Failed, 9, 0, None),
        (Phase::Active, 40, 900, Some((30, false))),
    ] {
        let mut workers = Workers::new(phase, replicas);
        workers.read(waiting, Some(0));
        assert_eq!(workers.due(), expected, "{phase} with {replicas} and {waiting} messages");
    }
    let mut later = Workers::new(Phase::Asleep, 0);
    later.scaled.resource.record.format = Record::FORMAT + 1;
    later.read(90, Some(0));
    assert_eq!(later.due(), None, "written by a later version");
}

#[test]
fn the_last_replica_stays_where_the_rule_asks_for_none() {
    let like_worker_pod_autoscaler = |workers: &mut Workers| {
        workers.compatibility = Some(Compatibility::WorkerPodAutoscaler);
    };
    let never = |workers: &mut Workers| workers.scaling().max_replicas = 0;
    for (change, waiting) in [(&like_worker_pod_autoscaler as &dyn Fn(&mut Workers), 0), (&never, 90)] {
        for (phase, replicas, expected) in [
            (Phase::Active, 9, Some((1, false))),
            (Phase::Active, 1, None),
            (Phase::Active, 0, None),
            (Phase::Asleep, 0, None),
            (Phase::Waking, 9, None),
        ] {
            let mut workers = Workers::new(phase, replicas);
            change(&mut workers);
            assert_eq!(workers.due(), if waiting == 0 { None } else { expected }, "not read yet");
            workers.read(waiting, Some(0));
            assert_eq!(workers.due(), expected, "{phase} with {replicas} and {waiting} messages");
            let desired = workers.scaled.desired.as_ref().unwrap();
            assert_eq!(desired.replicas, 0);
        }
    }
}

#[test]
fn a_wake_has_a_reason_and_the_fewest_replicas() {
    let mut workers = Workers::new(Phase::Asleep, 0);
    workers.scaling().min_replicas = 3;
    workers.read(1, Some(0));
    let Some(ScaleAction::Wake { replicas: 3, reason, wake_for: WakeFor::Failover }) = workers.evaluate()
    else {
        panic!("no wake");
    };
    assert_eq!(reason, "woken: 1 message, 20 per replica: 1 replica wanted; raised to 3 by min-replicas");
    // A user's wish needs no metric, and no target.
    workers.queues.clear();
    assert_eq!(workers.due(), None);
    workers.scaled.resource.wake_now = "scaler.dev/wake-now".to_owned();
    assert_eq!(workers.due(), Some((3, true)));
    workers.scaled.resource.scaling = None;
    assert_eq!(workers.due(), Some((1, true)));
    let mut never = Workers::new(Phase::Asleep, 0);
    never.scaling().max_replicas = 0;
    never.read(500, Some(0));
    assert_eq!(never.due(), None, "the most are none");
    let mut any = Workers::new(Phase::Asleep, 0);
    any.scaling().messages_per_replica = None;
    any.read(500, Some(0));
    assert_eq!(any.due(), Some((1, true)), "without a target one replica is for all messages");
}

#[test]
fn what_is_not_known_changes_nothing() {
    let mut workers = Workers::new(Phase::Active, 9);
    assert_eq!(workers.due(), None, "not read yet");
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, false)));
    let error = || Err("connection refused".into());
    workers.pass(5);
    workers.queues.get_mut(QUEUE).unwrap().observe(workers.now, error());
    assert_eq!(workers.due(), Some((1, false)), "the last reading is young enough");
    workers.pass(6);
    assert_eq!(workers.due(), None);
    let desired = workers.scaled.desired.as_ref().unwrap();
    assert_eq!(desired.limit, Limit::Unknown("cannot read test://mails: connection refused".into()));
    // Of two queues the one that is known scales up, and does not scale down.
    workers.scaling().queues.push("test://more".to_owned());
    let more =
        |waiting| Ok(QueueReading { waiting: Some(waiting), in_flight: Some(0), ..QueueReading::default() });
    let now = workers.now;
    workers.queues.entry("test://more".to_owned()).or_default().observe(now, more(20));
    assert_eq!(workers.due(), None);
    workers.queues.entry("test://more".to_owned()).or_default().observe(now, more(400));
    assert_eq!(workers.due(), Some((20, false)));
}

#[test]
fn a_broker_that_does_not_show_work_in_progress_needs_a_probe() {
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(0, None);
    workers.pass(400);
    workers.read(0, None);
    assert_eq!(workers.due(), None);
    assert_eq!(workers.work(), Some(Work::NotIdle(WorkNotIdle::InFlightNotShown { queue: QUEUE.into() })));
    let reason = workers.scaled.desired.clone().unwrap().to_string();
    assert!(reason.contains("scaler.dev/busy-probe"), "{reason}");
    workers.read(400, None);
    assert_eq!(workers.due(), Some((20, false)), "up it goes");
    for accept in [
        |scaling: &mut Scaling| scaling.has_busy_probe = true,
        |scaling: &mut Scaling| scaling.early_ack = true,
    ] {
        let mut workers = Workers::new(Phase::Active, 9);
        accept(workers.scaling());
        workers.read(0, None);
        assert_eq!(workers.due(), Some((1, false)));
        assert_eq!(workers.work(), Some(Work::IdleFor(Duration::ZERO)));
    }
}

#[test]
fn it_is_idle_once_every_queue_has_been_empty_for_the_window() {
    let mut workers = Workers::new(Phase::Active, 1);
    assert_eq!(workers.work(), Some(Work::NotIdle(WorkNotIdle::NotRead)));
    for _ in 0..60 {
        workers.read(0, Some(0));
        workers.pass(5);
    }
    assert_eq!(workers.work(), Some(Work::IdleFor(Duration::from_secs(300))));
    workers.read(0, Some(1));
    let busy = WorkNotIdle::Messages { queue: QUEUE.into(), messages: [0, 1, 0] };
    assert_eq!(workers.work(), Some(Work::NotIdle(busy)));
    workers.scaled.resource.scaling = Some(Scaling::up_to(3));
    assert_eq!(workers.work(), None, "it has no queues");
    // A metric of another source keeps it awake, too.
    let scaling = workers.scaling();
    scaling.metrics = vec![minute_metric("lag")];
    assert!(matches!(workers.work(), Some(Work::NotIdle(WorkNotIdle::MetricUnknown { .. }))));
    let lag = |value| minute_reading("lag", value);
    workers.read_metrics([lag(MetricValue::Number(2.0))]);
    assert!(matches!(workers.work(), Some(Work::NotIdle(WorkNotIdle::Metric { value: 2.0, .. }))));
    workers.read_metrics([lag(MetricValue::Number(0.0))]);
    assert_eq!(workers.work(), Some(Work::IdleFor(Duration::MAX)));
    let incomplete = MetricReading {
        coverage: Completeness::Only(Duration::from_secs(59)),
        ..lag(MetricValue::Number(0.0))
    };
    workers.read_metrics([incomplete]);
    assert!(matches!(workers.work(), Some(Work::NotIdle(WorkNotIdle::MetricUnknown { .. }))));
    workers.scaled.resource.record.phase = Phase::Asleep;
    workers.scaled.resource.replicas = 0;
    workers.read_metrics([lag(MetricValue::Number(11.0))]);
    assert_eq!(workers.due(), Some((3, true)), "and wakes it");
}

#[test]
fn a_reading_counts_for_the_metric_that_it_was_made_for() {
    let mut workers = Workers::new(Phase::Active, 2);
    let both = vec![minute_metric("lag"), minute_metric("jobs")];
    *workers.scaling() = Scaling { metrics: both, last_scaled: Some(WALL - 3600), ..Scaling::up_to(30) };
    let reading = |name: &str, value| minute_reading(name, MetricValue::Number(value));
    workers.read_metrics([reading("lag", 0.0), reading("jobs", 9.0)]);
    let busy =
        |metric: &str, value| Some(Work::NotIdle(WorkNotIdle::Metric { metric: metric.into(), value }));
    assert_eq!(workers.work(), busy("jobs in 1m", 9.0));
    // Its user removes the first: the second does not take its place.
    workers.scaling().metrics.remove(0);
    assert_eq!(workers.work(), busy("jobs in 1m", 9.0));
    assert_eq!(workers.due(), None, "two replicas are for 9 jobs");
    // Another window is another metric, and so is one that was never read.
    workers.scaling().metrics[0].window_size = Duration::from_secs(300);
    let unread = |metric: &str| {
        let why = format!("{metric} has not been read lately").into();
        Some(Work::NotIdle(WorkNotIdle::MetricUnknown { why }))
    };
    assert_eq!(workers.work(), unread("jobs"));
    workers.scaling().metrics = vec![minute_metric("errors")];
    assert_eq!(workers.work(), unread("errors"));
    assert_eq!(workers.due(), None);
}

#[test]
fn a_step_down_waits_for_the_delay_also_where_the_last_scale_is_not_known() {
    let mut workers = Workers::new(Phase::Active, 9);
    workers.scaling().scale_down_delay = Duration::from_secs(60);
    for last in [None, Some(WALL + 1000)] {
        workers.scaling().last_scaled = last;
        workers.scaled.unstamped = None;
        (workers.wall, workers.queues) = (WALL, HashMap::new());
        workers.read(0, Some(0));
        assert_eq!(workers.due(), None, "{last:?} counts as now");
        workers.pass(59);
        workers.read(0, Some(0));
        assert_eq!(workers.due(), None, "{last:?}");
        workers.pass(2);
        workers.read(0, Some(0));
        assert_eq!(workers.due(), Some((1, false)), "{last:?}");
    }
    workers.scaling().last_scaled = Some(workers.wall - 30);
    assert_eq!(workers.due(), None);
}

#[test]
fn after_a_conflict_nothing_is_lowered_before_the_next_reading() {
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, false)));
    workers.scaled.calling = true;
    assert_eq!(workers.due(), None, "a call is under way");
    assert!(!workers.end_call(true, &Err(ScaleError::Conflict)));
    assert_eq!(workers.due(), None, "this version is known to be old");
    workers.scaled.resource.version = Version("2".to_owned());
    assert_eq!(workers.due(), None);
    workers.read(200, Some(0));
    workers.scaled.only_raises = true;
    assert_eq!(workers.due(), Some((10, false)), "it is raised all the same");
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, false)));
}

#[test]
fn a_call_that_fails_is_made_again_after_growing_pauses() {
    let mut workers = Workers::new(Phase::Asleep, 0);
    workers.read(20, Some(0));
    let terminal = Err(ScaleError::Terminal { reason: "no such image".to_owned() });
    assert!(workers.end_call(false, &terminal), "a new error is reported");
    assert!(!workers.end_call(false, &terminal), "and the same not again");
    let mut pauses = BTreeMap::new();
    for second in 0..70 {
        workers.read(20, Some(0));
        pauses.insert(second, workers.due().is_some());
        workers.pass(1);
    }
    let first = pauses.iter().find(|(_, due)| **due).map(|(second, _)| *second);
    assert!(first.is_some_and(|second| (47..=60).contains(&second)), "{first:?}");
    // A user who changes what is asked for may have corrected it.
    let failed = Err(ScaleError::Retry { after: Duration::from_secs(50), reason: "no answer".to_owned() });
    workers.end_call(false, &failed);
    assert_eq!(workers.due(), None);
    let mut changed = workers.scaled.resource.clone();
    changed.scaling.as_mut().unwrap().max_replicas = 5;
    workers.scaled.update(changed);
    assert_eq!(workers.due(), Some((1, true)));
    workers.end_call(false, &Ok(()));
    assert_eq!(workers.due(), None, "what was written is not listed yet");
    workers.pass(10);
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, true)), "it never was");
}

#[test]
fn a_step_down_that_failed_delays_neither_a_step_up_nor_a_wake() {
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, false)));
    workers.refuse(true);
    assert_eq!(workers.due(), None, "it is made again after a pause");
    assert!(workers.scaled.again().is_some());
    workers.read(300, Some(0));
    assert_eq!(workers.due(), Some((15, false)), "up it goes at once");
    let mut zero = workers.scaled.resource.clone();
    (zero.record.phase, zero.replicas) = (Phase::Asleep, 0);
    workers.scaled.resource = zero;
    assert_eq!(workers.due(), Some((15, true)), "and is woken at once");
    // Another writer changed it: what was refused may not be any more.
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(20, Some(0));
    workers.refuse(true);
    let mut changed = workers.scaled.resource.clone();
    workers.scaled.update(changed.clone());
    assert_eq!(workers.due(), None, "nothing changed");
    changed.version = Version("2".to_owned());
    workers.scaled.update(changed);
    assert_eq!(workers.due(), Some((1, false)));
}

#[test]
fn a_wake_that_failed_delays_every_call_but_one_that_a_user_asks_for() {
    let mut workers = Workers::new(Phase::Asleep, 0);
    workers.read(20, Some(0));
    workers.refuse(false);
    let mut changed = workers.scaled.resource.clone();
    (changed.record.phase, changed.version) = (Phase::Failed, Version("2".to_owned()));
    workers.scaled.update(changed.clone());
    assert_eq!(workers.due(), None, "the version that the wake wrote itself says nothing new");
    changed.wake_now = "scaler.dev/wake-now: 1".to_owned();
    workers.scaled.update(changed.clone());
    assert_eq!(workers.due(), Some((1, true)));
    workers.refuse(false);
    workers.scaled.update(changed.clone());
    assert_eq!(workers.due(), None, "the same wish is no new one");
    changed.wake_now = "scaler.dev/wake-now: 2".to_owned();
    workers.scaled.update(changed);
    assert_eq!(workers.due(), Some((1, true)));
}

#[test]
fn the_start_that_failed_is_no_change_by_a_user() {
    let mut workers = Workers::new(Phase::Asleep, 0);
    workers.read(20, Some(0));
    workers.refuse(false);
    assert_eq!(workers.due(), None);
    // What was started and has ended was written with the time.
    let mut written = workers.scaled.resource.clone();
    (written.record.phase, written.version) = (Phase::Failed, Version("2".to_owned()));
    written.scaling.as_mut().unwrap().last_scaled = Some(workers.wall);
    workers.scaled.update(written);
    assert_eq!(workers.due(), None);
}

#[test]
fn one_that_comes_up_after_its_wake_failed_goes_on_by_the_rule() {
    let rollout =
        |phase| Some(Rollout { revision: "1".to_owned(), phase, status: String::new(), deadline: None });
    let mut workers = Workers::new(Phase::Failed, 9);
    for phase in [RolloutPhase::Progressing, RolloutPhase::Overdue] {
        workers.scaled.resource.rollout = rollout(phase);
        workers.read(500, Some(0));
        assert_eq!(workers.due(), None, "it is not ready");
    }
    workers.scaled.resource.rollout = rollout(RolloutPhase::Complete);
    let Some(ScaleAction::Wake { replicas: 25, reason, .. }) = workers.evaluate() else {
        panic!("it is ready, and has messages")
    };
    assert!(reason.starts_with("it came up after its last wake had failed: 500 messages"), "{reason}");
    // Also without a message: else it would keep nine.
    workers.read(0, Some(0));
    assert_eq!(workers.due(), Some((1, true)));
    workers.refuse(false);
    assert_eq!(workers.due(), None, "a wake that fails is made again after a pause");
}

#[test]
fn a_paused_resource_is_woken_and_not_resized() {
    for (phase, replicas, waiting, expected) in [
        (Phase::Active, 3, 500, None),
        (Phase::Active, 3, 0, None),
        (Phase::Active, 40, 900, None),
        (Phase::Waking, 1, 500, None),
        (Phase::Asleep, 0, 90, Some((5, true))),
    ] {
        let mut workers = Workers::new(phase, replicas);
        workers.scaling().paused = true;
        workers.read(waiting, Some(0));
        assert_eq!(workers.due(), expected, "{phase} with {replicas} and {waiting} messages");
    }
}

#[test]
fn replicas_that_have_work_are_reported_once_and_are_no_failure() {
    let busy = |names: &str| {
        let after = Duration::from_secs(5);
        Err(ScaleError::Busy { after, reason: format!("2 of its 9 pods may have work ({names})") })
    };
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(20, Some(0));
    assert_eq!(workers.due(), Some((1, false)));
    assert!(workers.end_call(true, &busy("a, b")), "the first is reported");
    assert_eq!(workers.due(), None, "it is asked again after a pause");
    assert!(!workers.end_call(true, &busy("a, c")), "others, or fewer, are not");
    assert_eq!((workers.scaled.failed.clone(), workers.scaled.busy.is_some()), (None, true));
    workers.read(300, Some(0));
    assert_eq!(workers.due(), Some((15, false)));
    assert_eq!(workers.scaled.busy, None, "nothing waits for them any more");
    workers.read(20, Some(0));
    assert!(workers.end_call(true, &busy("a, b")), "it is reported again");
    workers.end_call(true, &Ok(()));
    assert_eq!(workers.scaled.busy, None);
}

#[test]
fn a_step_is_reported_as_it_is_listed() {
    let step = |replicas| {
        let step = Step { before: 9, to: 1, reason: "few messages".to_owned() };
        Some(FinishedStep { step, replicas })
    };
    // Four have work, and the plugin removed the others. It lists that before or after the call ends.
    let mut workers = Workers::new(Phase::Active, 9);
    workers.end_call(true, &Ok(()));
    assert_eq!((workers.due(), workers.scaled.take_finished()), (None, None), "it is not listed yet");
    workers.list(4);
    workers.evaluate();
    assert_eq!(workers.scaled.take_finished(), step(4));
    assert_eq!(workers.scaled.take_finished(), None, "once");
    // One that is never listed counts as made.
    let mut workers = Workers::new(Phase::Active, 9);
    workers.end_call(true, &Ok(()));
    workers.pass(10);
    workers.evaluate();
    assert_eq!(workers.scaled.take_finished(), step(1));
    workers.end_call(false, &Ok(()));
    workers.list(5);
    workers.evaluate();
    assert_eq!(workers.scaled.take_finished(), None, "a wake is none");
}

#[test]
fn what_a_user_has_to_change_is_reported_once() {
    let mut workers = Workers::new(Phase::Active, 9);
    workers.read(400, None);
    workers.evaluate();
    assert_eq!(workers.scaled.take_not_shown(), None, "nothing is to be removed");
    workers.read(0, None);
    workers.evaluate();
    let why = workers.scaled.take_not_shown().unwrap();
    assert!(why.starts_with(QUEUE) && why.contains("set scaler.dev/busy-probe"), "{why}");
    workers.read(0, None);
    workers.evaluate();
    assert_eq!(workers.scaled.take_not_shown(), None);
}

#[test]
fn a_reading_of_a_metric_counts_for_three_quarters_of_a_minute() {
    let mut workers = Workers::new(Phase::Active, 2);
    let metrics = vec![minute_metric("lag")];
    *workers.scaling() = Scaling { metrics, last_scaled: Some(WALL - 3600), ..Scaling::up_to(30) };
    workers.read_metrics([minute_reading("lag", MetricValue::Number(0.0))]);
    workers.pass(45);
    assert_eq!(workers.due(), Some((1, false)));
    workers.pass(1);
    assert_eq!(workers.due(), None);
    assert!(matches!(workers.work(), Some(Work::NotIdle(WorkNotIdle::MetricUnknown { .. }))));
}
