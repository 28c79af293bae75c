//! Replicas that end by themselves.

use scaler_types::{Nonce, backoff::seed_jitter};

use super::*;

/// Workers that are awake, with so many replicas and as many messages as are for these.
fn busy(replicas: u32) -> Workers {
    seed_jitter(0);
    let mut workers = Workers::new(Phase::Active, replicas);
    workers.read(u64::from(replicas) * 20, Some(0));
    assert_eq!(workers.due(), None);
    workers
}

impl Workers {
    /// The plugin lists `left` replicas; one ended as `how` says.
    fn end(&mut self, left: u32, how: &str) {
        let mut listed = self.scaled.resource.clone();
        (listed.replicas, listed.status) = (left, how.to_owned());
        listed.version = Version(format!("{}+", listed.version.0));
        self.scaled.update(listed);
    }

    /// A step or a wake was written, and is listed.
    fn step(&mut self, replicas: u32) {
        let mut listed = self.scaled.resource.clone();
        listed.record = Record { phase: Phase::Active, nonce: Nonce::fresh(), ..listed.record };
        (listed.replicas, listed.status) = (replicas, String::new());
        listed.version = Version(format!("{}+", listed.version.0));
        listed.scaling.as_mut().unwrap().last_scaled = Some(self.wall);
        self.scaled.update(listed);
    }

    /// What is due with so many messages.
    fn due_with(&mut self, messages: u64) -> Option<(u32, bool)> {
        self.read(messages, Some(0));
        self.due()
    }

    /// After how many seconds something is due with so many messages, and what.
    fn due_after(&mut self, messages: u64) -> (u64, Option<(u32, bool)>) {
        for second in 0..400 {
            if let due @ Some(_) = self.due_with(messages) {
                return (second, due);
            }
            assert!(self.scaled.again().is_some_and(|again| again > self.now), "it is evaluated again");
            self.pass(1);
        }
        (400, None)
    }
}

#[test]
fn replicas_that_end_are_started_again_after_growing_pauses() {
    for (left, is_wake) in [(1, false), (0, true)] {
        let mut workers = busy(3);
        let pauses = (0..11).map(|_| {
            workers.end(left, "");
            let (pause, due) = workers.due_after(60);
            assert_eq!(due, Some((3, is_wake)));
            workers.step(3);
            pause
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}

#[test]
fn the_others_that_end_during_a_pause_do_not_make_it_longer() {
    let mut workers = busy(3);
    workers.end(2, "");
    assert_eq!(workers.due_with(60), None);
    workers.end(1, "");
    assert_eq!(workers.due_after(60), (1, Some((3, false))));
    workers.step(3);
    workers.end(2, "");
    assert_eq!(workers.due_after(60).0, 2);
}

#[test]
fn replicas_that_stayed_up_end_for_the_first_time_again() {
    let mut workers = busy(3);
    let pause = |workers: &mut Workers| {
        workers.end(2, "");
        let (pause, _) = workers.due_after(60);
        workers.step(3);
        pause
    };
    assert_eq!([pause(&mut workers), pause(&mut workers)], [1, 2]);
    workers.pass(599);
    assert_eq!(pause(&mut workers), 4);
    workers.pass(600);
    assert_eq!(pause(&mut workers), 1);
    // A user changes what may be the cause.
    assert_eq!(pause(&mut workers), 2);
    workers.end(2, "");
    let mut changed = workers.scaled.resource.clone();
    changed.scaling.as_mut().unwrap().max_replicas = 9;
    workers.scaled.update(changed);
    assert_eq!(workers.due_with(60), Some((3, false)));
    workers.step(3);
    workers.end(2, "");
    assert_eq!(workers.due_with(60), None);
    workers.scaled.forget_failures();
    assert_eq!(workers.due_with(60), Some((3, false)), "its plugin has another configuration");
}

#[test]
fn a_load_that_grows_is_followed_at_once() {
    let mut workers = busy(3);
    workers.end(2, "");
    assert_eq!((workers.due_with(60), workers.due_with(200)), (None, Some((10, false))));
    // No delay: a step lowered the number, or a user set another.
    let mut lowered = busy(9);
    lowered.end(8, "");
    assert_eq!(lowered.due_with(180), None);
    lowered.step(2);
    assert_eq!(lowered.due_with(100), Some((5, false)), "not as many as there were, and none ended since");
    // A user's wish.
    let mut asked = busy(3);
    asked.end(0, "");
    assert_eq!(asked.due_with(60), None);
    let mut changed = asked.scaled.resource.clone();
    changed.wake_now = "scaler.dev/wake-now: 1".to_owned();
    asked.scaled.update(changed);
    assert_eq!(asked.due_with(60), Some((1, true)));
}

/// As a GitOps tool does that has the number in its manifest.
#[test]
fn replicas_that_another_writer_lowers_are_raised_after_growing_pauses() {
    let mut workers = busy(9);
    workers.scaled.resource.rollout = Some(Rollout {
        revision: "1".to_owned(),
        phase: RolloutPhase::Complete,
        status: String::new(),
        deadline: None,
    });
    for (pause, reported) in [(1, None), (2, Some("Another writer lowers its replicas")), (4, None)] {
        workers.end(1, "");
        assert_eq!(workers.due_with(180), None);
        assert_eq!(workers.scaled.take_ended().as_deref(), reported);
        assert_eq!(workers.due_after(180), (pause, Some((9, false))));
        workers.step(9);
    }
}

#[test]
fn that_they_end_again_is_reported_once_and_shown_while_they_are_not_started() {
    let mut workers = busy(3);
    let mut reports = Vec::new();
    for how in ["", "exited with status 1", "exited with status 1", "was ended by signal 9"] {
        workers.end(2, how);
        workers.due_with(60);
        let shown = workers.scaled.restart_pause(workers.now).unwrap();
        assert!(shown.starts_with("Replicas end by themselves"), "{shown}");
        reports.push(workers.scaled.take_ended().map(|why| why.to_string()));
        assert_eq!(workers.scaled.take_ended(), None);
        workers.due_after(60);
        assert_eq!(workers.scaled.restart_pause(workers.now), None);
        workers.step(3);
    }
    let said = |how: &str| Some(format!("Replicas end by themselves: {how}"));
    assert_eq!(reports, [None, said("exited with status 1"), None, said("was ended by signal 9")]);
    workers.end(2, "exited with status 1");
    workers.due_with(60);
    let shown = "Replicas end by themselves: exited with status 1; to be started again in 16s";
    assert_eq!(workers.scaled.restart_pause(workers.now).as_deref(), Some(shown));
}
