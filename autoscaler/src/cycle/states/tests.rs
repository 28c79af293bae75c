//! What depends on time, by a clock that the test moves.

use plugin_host::UnreadableResource;
use proptest::prelude::*;
use scaler_types::{Rollout, RolloutPhase, Version};

use std::sync::Arc;

use daemon::members::registered::Registered;

use super::*;
use crate::{
    decide::Reason,
    testing::{SERVED, Store, id},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(600);

struct Scene {
    now: Instant,
    states: ResourceStates,
    settings: Settings,
    hello: Resource,
    members: Vec<Arc<str>>,
    unknown: Option<ActivityUnknown>,
    reported: Vec<Arc<str>>,
    registered: Registered,
}

impl Scene {
    fn new() -> Self {
        scaler_types::backoff::seed_jitter(0);
        Self {
            now: Instant::now(),
            states: ResourceStates::with_complete_reports(Instant::now()),
            // Defaults: none within 10 minutes, 5 minutes for a wake.
            settings: Settings::default(),
            hello: Store::with(["hello"]).get("hello"),
            members: vec!["a".into(), "b".into()],
            unknown: None,
            reported: Vec::new(),
            registered: Registered::default(),
        }
    }

    /// A cycle, so much later.
    fn cycle(&mut self, later: Duration) -> PlannedWork {
        self.now += later;
        let sample = |member: &Arc<str>| Sample {
            member: member.clone(),
            requests: 0,
            in_flight: 0,
            held: 0,
            idle: None,
            counted_for: 10 * WINDOW,
            counted_since_start: false,
            counts: Vec::new(),
        };
        let samples = vec![self.members.iter().map(sample).collect()];
        let source = DlxReports {
            members: self.members.clone(),
            unknown: self.unknown.clone(),
            reported: self.reported.clone(),
            registered: self.registered.clone(),
        };
        let activity = Activity { source, samples, readings: None };
        self.states.observe(self.now, vec![self.hello.clone()].into(), activity, SERVED, &self.settings)
    }

    fn code(&self) -> &'static str {
        self.states.resources[&id("hello")].decision.code()
    }

    fn record(&mut self, state: Phase, replicas: u32) {
        self.hello.record = Record { phase: state, nonce: Nonce::fresh(), ..Record::default() };
        self.hello.version = Version(self.hello.record.nonce.to_string());
        self.hello.replicas = replicas;
    }
}

#[test]
fn an_event_counts_from_when_it_was_seen_whatever_its_own_clock_says() {
    let mut scene = Scene::new();
    scene.hello.last_scale_event = Some(ScaleEvent::ResourceUpdated);
    scene.hello.last_scale_event_time = Some("1999-01-01T00:00:00Z".to_owned());
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "recent_event");
    scene.cycle(WINDOW - SECOND);
    assert_eq!(scene.code(), "recent_event");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
    // The same event again is another one if its time is.
    scene.hello.last_scale_event_time = Some("1999-01-01T00:00:01Z".to_owned());
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "recent_event");
}

#[test]
fn what_came_up_is_left_alone_for_a_window_also_without_events() {
    for (state, replicas) in [(Phase::Asleep, 0), (Phase::Waking, 0), (Phase::Waking, 1), (Phase::Active, 0)]
    {
        let mut scene = Scene::new();
        scene.record(state, replicas);
        scene.cycle(SECOND);
        scene.record(Phase::Active, 1);
        scene.cycle(SECOND);
        assert_eq!(scene.code(), "recent_event", "after {state}");
        scene.cycle(WINDOW);
        assert_eq!(scene.code(), "quiet");
    }
}

#[test]
fn a_reverted_attempt_delays_nothing() {
    let mut scene = Scene::new();
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    scene.record(Phase::Draining, 1);
    scene.cycle(SECOND);
    scene.record(Phase::Active, 1);
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
}

#[test]
fn a_dlx_that_left_takes_its_counts_along() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    scene.members.pop();
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "dlx_left");
    scene.cycle(WINDOW - SECOND);
    assert_eq!(scene.code(), "dlx_left");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
    // While they cannot be read, none has left.
    let members = std::mem::take(&mut scene.members);
    scene.unknown = Some(ActivityUnknown::SourceFailed("no".into()));
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "source_failed");
    (scene.members, scene.unknown) = (members, None);
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
}

#[test]
fn a_dlx_that_sent_a_last_report_leaves_no_gap() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    // A rolling restart, one by one.
    for new in ["c", "d"] {
        let old = scene.members.remove(0);
        scene.members.push(new.into());
        scene.registered.names.push(new.into());
        scene.reported.push(old);
        scene.cycle(SECOND);
        assert_eq!(scene.code(), "quiet");
    }
    // One that was never queried.
    scene.members.remove(0);
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "dlx_left");
}

#[test]
fn a_dlx_that_came_and_went_between_two_cycles_leaves_a_gap() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    scene.registered.names.push("brief".into());
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "dlx_left");
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "quiet");
    // With its last report, none.
    scene.registered.names.push("polite".into());
    scene.reported.push("polite".into());
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
    // Registrations that could not be read are one.
    scene.registered.lost += 1;
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "dlxs_unnoticed");
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "quiet");
    // So it is for as long as they cannot be read.
    scene.registered.unknown = true;
    for _ in 0..3 {
        scene.cycle(WINDOW);
        assert_eq!(scene.code(), "dlxs_unnoticed");
    }
    scene.registered.unknown = false;
    scene.cycle(WINDOW - SECOND);
    assert_eq!(scene.code(), "dlxs_unnoticed");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
}

/// A new leader's window begins when it follows the registrations, and not before.
#[test]
fn a_new_leader_that_cannot_follow_the_dlxs_lets_nothing_sleep() {
    let mut scene = Scene { states: ResourceStates::default(), ..Scene::new() };
    scene.registered.unknown = true;
    for _ in 0..3 {
        scene.cycle(WINDOW);
        assert_eq!(scene.code(), "new_leader");
    }
    scene.registered.unknown = false;
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "new_leader");
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "quiet");
}

#[test]
fn a_new_leader_waits_for_a_window() {
    let mut scene = Scene { states: ResourceStates::default(), ..Scene::new() };
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "new_leader");
    scene.cycle(WINDOW - SECOND);
    assert_eq!(scene.code(), "new_leader");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "quiet");
}

#[test]
fn one_attempt_at_a_time() {
    let mut scene = Scene::new();
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    let (resource, reason) = scene.states.begin_attempt(&id("hello")).unwrap();
    assert_eq!((resource.id, &*reason), (id("hello"), "idle for 1h40m"));
    assert!(scene.states.begin_attempt(&id("hello")).is_none());
    assert!(scene.cycle(SECOND).idle.is_empty());
    scene.states.end_attempt(&id("hello"), scene.now, &DrainOutcome::Committed, MINUTE);
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    // What was decided otherwise since is not begun, nor what is gone.
    scene.record(Phase::Waking, 1);
    scene.cycle(SECOND);
    assert!(scene.states.begin_attempt(&id("hello")).is_none());
    assert!(scene.states.begin_attempt(&id("nobody")).is_none());
}

#[test]
fn a_scale_that_fails_is_tried_again_after_a_growing_pause() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    let failed = DrainOutcome::Failed("no route".into());
    let now = scene.now;
    let mut pause = |end: &DrainOutcome| {
        let failure = scene.states.end_attempt(&id("hello"), now, end, MINUTE);
        failure.map(|failure| failure.until.duration_since(now).as_secs() / 60)
    };
    assert_eq!([pause(&failed), pause(&failed), pause(&failed)], [Some(1), Some(2), Some(4)]);
    // A revert does not tell whether a scale would work now.
    assert_eq!(pause(&DrainOutcome::Reverted(crate::drain::RevertReason::Changed)), Some(4));
    assert_eq!([pause(&failed), pause(&failed), pause(&failed)], [Some(8), Some(10), Some(10)]);
    scene.cycle(10 * MINUTE - SECOND);
    assert_eq!(scene.code(), "scale_failed");
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    // Once it is asleep the failures are over, however it came there.
    scene.record(Phase::Asleep, 0);
    scene.cycle(SECOND);
    assert!(scene.states.resources[&id("hello")].failure.is_none());
}

#[test]
fn stale_records_are_repaired() {
    let mut scene = Scene::new();
    let repaired =
        |work: &PlannedWork| work.repairs.iter().map(|repair| repair.record.phase).collect::<Vec<_>>();
    // A drain attempt of a process that is gone.
    scene.record(Phase::Draining, 1);
    let work = scene.cycle(SECOND);
    assert_eq!(repaired(&work), [Phase::Active]);
    assert_eq!(work.repairs[0].expected, scene.hello.version);
    // Scaled up by hand.
    scene.record(Phase::Asleep, 1);
    assert_eq!(repaired(&scene.cycle(SECOND)), [Phase::Active]);
    scene.record(Phase::Asleep, 0);
    assert!(scene.cycle(SECOND).repairs.is_empty());
    // A wake takes its time, counted from when this process saw it.
    for (replicas, end) in [(0, Phase::Failed), (1, Phase::Active)] {
        scene.record(Phase::Waking, replicas);
        assert!(scene.cycle(WINDOW).repairs.is_empty());
        assert!(scene.cycle(5 * MINUTE).repairs.is_empty());
        assert_eq!(repaired(&scene.cycle(SECOND)), [end]);
        // Another wake has another nonce.
        scene.record(Phase::Waking, replicas);
        assert!(scene.cycle(SECOND).repairs.is_empty());
    }
    // Another controller's records are not ours.
    scene.hello.traffic_mode = TrafficMode::External;
    scene.record(Phase::Draining, 1);
    assert!(scene.cycle(SECOND).repairs.is_empty());
}

#[test]
fn what_is_to_be_repaired_is_written_again_as_it_is() {
    let mut scene = Scene::new();
    scene.record(Phase::Asleep, 0);
    scene.hello.needs_repair = true;
    let work = scene.cycle(SECOND);
    assert_eq!((&work.repairs[0].record, work.repairs[0].scaled_manually), (&scene.hello.record, false));
    assert_eq!(work.repairs[0].expected, scene.hello.version);
    // What is to go to zero is written for that.
    scene.record(Phase::Active, 1);
    assert_eq!(scene.cycle(SECOND).repairs.len(), 1, "it was used until now");
    let work = scene.cycle(WINDOW);
    assert_eq!((work.repairs.len(), work.idle), (0, vec![id("hello")]));
}

/// An attempt in traffic mode `when-asleep` whose process died: the record is reverted, and the interception follows from that.
#[test]
fn a_stale_switchover_is_reverted() {
    let mut scene = Scene::new();
    scene.hello.traffic_mode = TrafficMode::WhenAsleep;
    let backend = scaler_types::Backend::Dlx;
    scene.hello.interception = Some(scaler_types::Interception {
        requested: true,
        backend,
        in_sync: true,
        ..scaler_types::Interception::default()
    });
    scene.record(Phase::Draining, 1);
    let work = scene.cycle(SECOND);
    assert_eq!((work.repairs.len(), work.repairs[0].record.phase), (1, Phase::Active));
    // And no new attempt is made until its Service is restored.
    scene.record(Phase::Active, 1);
    assert!(scene.cycle(2 * WINDOW).idle.is_empty());
    assert_eq!(scene.code(), "not_restored");
}

#[test]
fn an_attempt_of_this_process_is_not_stale() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    assert!(scene.states.begin_attempt(&id("hello")).is_some());
    scene.record(Phase::Draining, 1);
    assert!(scene.cycle(SECOND).repairs.is_empty());
    scene.states.end_attempt(&id("hello"), scene.now, &DrainOutcome::Failed("no route".into()), MINUTE);
    assert_eq!(scene.cycle(SECOND).repairs.len(), 1);
}

#[test]
fn what_is_gone_is_forgotten_and_twice_is_once() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    let source = DlxReports { members: scene.members.clone(), ..DlxReports::default() };
    let activity = Activity { source, samples: vec![Vec::new(); 2], readings: None };
    let mut twice = scene.hello.clone();
    twice.replicas = 7;
    scene.states.observe(
        scene.now,
        vec![scene.hello.clone(), twice].into(),
        activity.clone(),
        SERVED,
        &scene.settings,
    );
    assert_eq!(scene.states.resources[&id("hello")].resource.replicas, 1);
    scene.states.observe(scene.now, Vec::new().into(), activity, SERVED, &scene.settings);
    assert!(scene.states.resources.is_empty());
}

#[test]
fn an_unreadable_resource_keeps_its_last_state_and_is_not_acted_on() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    assert_eq!(scene.cycle(WINDOW).idle, [id("hello")]);
    let other = Resource { id: id("other"), ..scene.hello.clone() };
    let source = DlxReports { members: scene.members.clone(), ..DlxReports::default() };
    let activity = Activity { source, samples: vec![Vec::new()], readings: None };
    for unreadable in [Some(id("hello")), None] {
        // Known from now on, even by its name alone; without one it may be any that is not listed.
        let unreadable = vec![UnreadableResource { id: unreadable, error: "field replicas".to_owned() }];
        let listed = Listed { readable: vec![other.clone()], unreadable };
        let work = scene.states.observe(scene.now, listed, activity.clone(), SERVED, &scene.settings);
        assert_eq!((work.idle.len(), work.repairs.len(), scene.code()), (0, 0, "unreadable"));
        assert_eq!(scene.states.resources[&id("hello")].resource, scene.hello);
        assert!(scene.states.resources[&id("hello")].decision.to_string().contains("field replicas"));
        assert!(scene.states.begin_attempt(&id("hello")).is_none(), "one that was queued before");
        assert_ne!(scene.states.resources[&id("other")].decision.code(), "unreadable");
    }
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    let unreadable = vec![UnreadableResource { id: Some(id("new")), error: "field hosts".to_owned() }];
    let listed = Listed { readable: Vec::new(), unreadable };
    scene.states.observe(scene.now, listed, activity.clone(), SERVED, &scene.settings);
    let known: Vec<_> =
        scene.states.resources.iter().map(|(id, state)| (&*id.name, state.decision.code())).collect();
    assert_eq!(known, [("new", "unreadable")]);
    // That it is awake when it is first read is no wake, and no event.
    let new = Resource { id: id("new"), replicas: 2, ..scene.hello.clone() };
    scene.states.observe(scene.now, vec![new].into(), activity, SERVED, &scene.settings);
    let state = &scene.states.resources[&id("new")];
    assert_eq!(state.event, None);
}

#[test]
fn how_long_a_decision_stands() {
    let mut scene = Scene::new();
    scene.cycle(SECOND);
    let since = scene.states.resources[&id("hello")].since;
    scene.cycle(MINUTE);
    assert_eq!(scene.states.resources[&id("hello")].since, since);
    scene.record(Phase::Waking, 0);
    scene.cycle(MINUTE);
    assert_eq!(scene.states.resources[&id("hello")].since, scene.now);
    assert_eq!(
        scene.states.resources[&id("hello")].decision,
        Decision::Keep(Reason::NotActive(Phase::Waking))
    );
}

proptest! {
    #[test]
    fn a_pause_is_never_zero_nor_longer_than_ten_minutes(millis in 1..10_000_000_u64, attempts in 1..u32::MAX) {
        let pause = retry_pause(Duration::from_millis(millis), attempts);
        prop_assert!(pause > Duration::ZERO && pause <= MAX_RETRY_PAUSE);
    }
}

impl Scene {
    fn rollout(&mut self, revision: &str, phase: RolloutPhase, status: &str) {
        self.hello.rollout = Some(Rollout {
            revision: revision.to_owned(),
            phase,
            status: status.to_owned(),
            deadline: Some(10 * MINUTE),
        });
    }
}

#[test]
fn the_windows_begin_at_the_first_readiness_of_what_runs_now() {
    use RolloutPhase::{Complete, Progressing};
    let mut scene = Scene::new();
    scene.rollout("a", Progressing, "0 of 1 ready");
    // Progress gives it another deadline, standing still does not.
    scene.cycle(SECOND);
    scene.cycle(10 * MINUTE - SECOND);
    assert_eq!(scene.code(), "rolling_out");
    scene.rollout("a", Progressing, "1 of 1 scheduled");
    scene.cycle(SECOND);
    scene.cycle(10 * MINUTE - SECOND);
    assert_eq!(scene.code(), "rolling_out");
    scene.rollout("a", Complete, "");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "recently_ready");
    // A pod that is not ready for a while, and is again, is no rollout.
    scene.rollout("a", Progressing, "0 of 1 ready");
    scene.cycle(WINDOW - SECOND);
    scene.rollout("a", Complete, "");
    assert_eq!(scene.cycle(SECOND).idle, [id("hello")]);
    // Another template is.
    scene.rollout("b", Progressing, "0 of 1 ready");
    scene.cycle(SECOND);
    assert_eq!(scene.code(), "rolling_out");
    scene.cycle(10 * MINUTE);
    assert_eq!(scene.code(), "quiet", "its deadline has passed");
}

#[test]
fn a_wake_is_ready_anew() {
    use RolloutPhase::{Complete, Progressing};
    let mut scene = Scene::new();
    scene.rollout("a", Complete, "");
    scene.cycle(SECOND);
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "quiet");
    // Between two looks it slept and is being woken.
    scene.record(Phase::Waking, 1);
    scene.rollout("a", Progressing, "0 of 1 ready");
    scene.cycle(SECOND);
    scene.record(Phase::Failed, 1);
    scene.cycle(10 * MINUTE - SECOND);
    assert_eq!(scene.code(), "rolling_out", "of before the wake nothing counts");
    scene.record(Phase::Active, 1);
    scene.rollout("a", Complete, "");
    scene.cycle(2 * WINDOW);
    assert_eq!(scene.code(), "recent_event");
    scene.cycle(WINDOW);
    assert_eq!(scene.code(), "quiet");
}

#[test]
fn a_wake_has_its_own_timeout_or_its_rollouts_deadline_whichever_is_longer() {
    use RolloutPhase::Progressing;
    for (own, deadline, expected) in
        [(None, false, 5), (None, true, 10), (Some(20 * MINUTE), true, 20), (Some(MINUTE), false, 1)]
    {
        let mut scene = Scene::new();
        scene.rollout("a", Progressing, "loads its model");
        scene.hello.rollout.as_mut().unwrap().deadline = deadline.then_some(10 * MINUTE);
        scene.hello.resource_readiness_timeout = own;
        scene.record(Phase::Waking, 1);
        assert!(scene.cycle(SECOND).repairs.is_empty());
        assert!(scene.cycle(expected * MINUTE).repairs.is_empty(), "{own:?} {deadline}");
        let record = scene.cycle(SECOND).repairs.remove(0).record;
        let why = format!("not ready within {expected}m: loads its model");
        assert_eq!((record.phase, &record.reason, &record.failed_wake), (Phase::Failed, &why, &why));
    }
}

#[test]
fn a_stale_wake_is_up_where_its_pods_are_ready() {
    let mut scene = Scene::new();
    scene.rollout("a", RolloutPhase::Complete, "");
    scene.record(Phase::Waking, 1);
    scene.hello.record.failed_wake = "no such image".to_owned();
    scene.cycle(SECOND);
    let record = scene.cycle(10 * MINUTE + SECOND).repairs.remove(0).record;
    assert_eq!((record.phase, record.failed_wake.as_str()), (Phase::Active, ""));
}
