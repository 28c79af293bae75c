//! Drain attempts and repairs of a cycle, a bounded number at a time, and their outcomes.

use daemon::events;
use scaler_types::{Phase, ResourceId, ScaleError, duration};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{
    Cycle, CycleContext, Job, MAX_CONCURRENT_ATTEMPTS, MAX_CONCURRENT_SWITCHOVERS, RunningTask, SleepOutcome,
    TaskResult, states::Repair,
};
use crate::{
    decide::ScaleFailure,
    drain::{DrainAttempt, DrainOutcome},
    interception::Switchover,
    plugin::ActivePlugin,
    telemetry::{DrainLabels, rounded},
};

impl Cycle {
    /// Begins what waits, as far as there are places.
    pub(super) fn start_queued(&mut self) {
        while self.running.len() - self.switching < MAX_CONCURRENT_ATTEMPTS {
            match self.queue.pop_front() {
                Some(Job::Repair(repair)) => self.start_repair(repair),
                Some(Job::Drain(id)) => self.start_attempt(&id, false),
                None => break,
            }
        }
        while self.switching < MAX_CONCURRENT_SWITCHOVERS {
            let Some(id) = self.switches.pop_front() else { break };
            self.start_attempt(&id, true);
        }
        self.context.metrics.attempts_in_progress.set(i64::try_from(self.running.len()).unwrap_or(i64::MAX));
    }

    fn start_repair(&mut self, repair: Repair) {
        self.states().set_in_progress(&repair.id, true);
        let (id, plugin) = (repair.id.clone(), self.active.borrow().plugin.clone());
        let task = self.running.spawn(async move {
            let written = plugin.compare_and_set(&repair.id, &repair.expected, &repair.record).await;
            TaskResult::Repaired(repair, written.map(drop))
        });
        self.tasks.insert(task.id(), RunningTask { id, switches: false });
    }

    fn start_attempt(&mut self, id: &ResourceId, switches: bool) {
        let begun = self.states().begin_attempt(id);
        let Some((resource, reason)) = begun else {
            let now = self.states().resources.get(id).map(|state| state.decision.to_string());
            let why = now.unwrap_or_else(|| "it no longer exists".to_owned());
            self.answer_waiting(id, &SleepOutcome::KeptAwake(why));
            return;
        };
        let ActivePlugin { plugin, settings } = self.active.borrow().clone();
        let CycleContext { members, rules, stop, dlxs, .. } = self.context.clone();
        // A scale may take as long down as up.
        let deadline = settings.resource_readiness_timeout;
        let (interceptions, source) = (self.interceptions.clone(), self.source(&settings));
        let scaling = self.scaling.clone();
        let switchover =
            Switchover { interceptions, dlxs, source, settings, namespace: self.labels.namespace.clone() };
        let task = self.running.spawn(async move {
            tracing::debug!(resource = %resource.id, reason, "trying to scale to zero");
            let one = DrainAttempt { plugin, members, rules, deadline, switchover, scaling, stop };
            TaskResult::Drained(one.run(&resource, &reason).await, reason)
        });
        self.switching += usize::from(switches);
        self.tasks.insert(task.id(), RunningTask { id: id.clone(), switches });
    }

    pub(super) fn handle_finished(&mut self, ended: Result<(Id, TaskResult), JoinError>) {
        let (task, done) = match ended {
            Ok((task, done)) => (task, done),
            Err(error) => (
                error.id(),
                TaskResult::Drained(
                    DrainOutcome::Failed(format!("the attempt ended early: {error}").into()),
                    String::new(),
                ),
            ),
        };
        let Some(RunningTask { id, switches }) = self.tasks.remove(&task) else { return };
        self.switching -= usize::from(switches);
        match done {
            TaskResult::Drained(end, reason) => {
                self.record_outcome(&id, &end, &reason);
                self.answer_waiting(&id, &SleepOutcome::Attempted(end));
            }
            TaskResult::Repaired(repair, written) => {
                self.states().set_in_progress(&id, false);
                self.answer_waiting(
                    &id,
                    &SleepOutcome::KeptAwake("its record was being repaired; try again".to_owned()),
                );
                let Repair { record, .. } = &repair;
                match written {
                    Ok(()) => {
                        self.context.metrics.records_repaired.inc();
                        tracing::info!(resource = %id, phase = %record.phase, reason = record.reason, "repaired its record");
                        if record.phase == Phase::Failed {
                            let message = record.failed_wake.clone();
                            return self.reporter.report(&id, events::WAKE_FAILED, message);
                        }
                        let event = if repair.scaled_manually {
                            events::SCALED_UP_MANUALLY
                        } else {
                            events::RECORD_REPAIRED
                        };
                        let message = format!("Its phase is {} now: {}", record.phase, record.reason);
                        self.reporter.report(&id, event, message);
                    }
                    Err(ScaleError::Conflict | ScaleError::Unsupported) => {}
                    Err(error) => {
                        tracing::warn!(resource = %id, phase = %record.phase, %error, "failed to repair its record; retried in the next cycle");
                    }
                }
            }
        }
    }

    fn record_outcome(&self, id: &ResourceId, end: &DrainOutcome, idle: &str) {
        let metrics = &self.context.metrics;
        metrics.drain_attempts.get_or_create(&DrainLabels { outcome: end.name(), reason: end.code() }).inc();
        let now = Instant::now();
        let interval = self.interval();
        let mut states = self.states();
        let failure = states.end_attempt(id, now, end, interval);
        match (end, failure) {
            (DrainOutcome::Failed(reason), failure) => {
                metrics.scale_failures.get_or_create(&self.labels).inc();
                let (attempts, pause) = failure
                    .map_or((1, interval), |ScaleFailure { attempts, until, .. }| {
                        (*attempts, until.duration_since(now))
                    });
                tracing::warn!(resource = %id, %reason, attempts, pause = %duration::short(rounded(pause)), "failed to scale to zero");
                let message = format!("Scaling to zero failed (consecutive failures: {attempts}): {reason}");
                self.reporter.report(id, events::SCALE_TO_ZERO_FAILED, message);
            }
            (DrainOutcome::Committed, _) => {
                tracing::info!(resource = %id, reason = idle, "scaled to zero");
                self.reporter.report(id, events::SCALED_TO_ZERO, format!("Scaled to zero: {idle}"));
            }
            (DrainOutcome::Reverted(_), _) => {
                tracing::info!(resource = %id, reason = %end, "not scaled to zero")
            }
        }
    }
}
