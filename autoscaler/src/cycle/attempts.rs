//! What a cycle does beside looking: tries and mends, a bounded number at a time, and what comes of them.

use scaler_types::{ResourceId, ScaleError, Severity, State, duration};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{Answered, Context, Cycle, Done, Job, Place, SWITCHES_AT_ONCE, TRIES_AT_ONCE, states::Mend};
use crate::{
    decide::Failure,
    drain::{End, Try},
    interception::Switch,
    plugin::{Given, Plugin},
    telemetry::{FenceLabels, rounded},
};

impl<P: Plugin> Cycle<P> {
    /// Begins what waits, as far as there are places.
    pub(super) fn start(&mut self) {
        while self.running.len() - self.switching < TRIES_AT_ONCE {
            match self.queue.pop_front() {
                Some(Job::Mend(mend)) => self.mend(mend),
                Some(Job::Sleep(id)) => self.sleep(&id, false),
                None => break,
            }
        }
        while self.switching < SWITCHES_AT_ONCE {
            let Some(id) = self.switches.pop_front() else { break };
            self.sleep(&id, true);
        }
        self.context.metrics.under_way.set(i64::try_from(self.running.len()).unwrap_or(i64::MAX));
    }

    fn mend(&mut self, mend: Mend) {
        self.memory().mending(&mend.id, true);
        let (id, plugin) = (mend.id.clone(), self.given.borrow().plugin.clone());
        let task = self.running.spawn(async move {
            let written = plugin.compare_and_set(&mend.id, &mend.expected, &mend.row).await;
            Done::Mended(mend, written.map(drop))
        });
        self.whose.insert(task.id(), Place { id, switches: false });
    }

    fn sleep(&mut self, id: &ResourceId, switches: bool) {
        let begun = self.memory().begin(id);
        let Some((resource, reason)) = begun else {
            let now = self.memory().resources.get(id).map(|known| known.decision.to_string());
            let why = now.unwrap_or_else(|| "it is gone".to_owned());
            self.answer(id, &Answered::Kept(why));
            return;
        };
        let Given { plugin, settings } = self.given.borrow().clone();
        let Context { members, rules, stop, leading, .. } = self.context.clone();
        // A scale may take as long down as up.
        let deadline = settings.resource_readiness_timeout;
        let (routes, source) = (self.routes.clone(), self.source(&settings));
        let switch = Switch { routes, leading, source, settings, namespace: self.labels.namespace.clone() };
        let task = self.running.spawn(async move {
            tracing::debug!(resource = %resource.id, reason, "trying to put it to zero");
            let one = Try { plugin, members, rules, deadline, switch, stop };
            Done::Tried(one.run(&resource, &reason).await, reason)
        });
        self.switching += usize::from(switches);
        self.whose.insert(task.id(), Place { id: id.clone(), switches });
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (task, done) = match ended {
            Ok((task, done)) => (task, done),
            Err(error) => (
                error.id(),
                Done::Tried(End::Failed(format!("the try ended early: {error}").into()), String::new()),
            ),
        };
        let Some(Place { id, switches }) = self.whose.remove(&task) else { return };
        self.switching -= usize::from(switches);
        match done {
            Done::Tried(end, reason) => {
                self.tried(&id, &end, &reason);
                self.answer(&id, &Answered::Tried(end));
            }
            Done::Mended(mend, written) => {
                self.memory().mending(&id, false);
                self.answer(&id, &Answered::Kept("its row was being mended; ask again".to_owned()));
                let Mend { row, .. } = &mend;
                match written {
                    Ok(()) => {
                        self.context.metrics.mended.inc();
                        tracing::info!(resource = %id, row = %row.state, reason = row.reason, "mended its row");
                        if row.state == State::Failed {
                            let message = row.failed_wake.clone();
                            return self.reporter.report(&id, Severity::Warning, "WakeFailed", message);
                        }
                        let told = if mend.by_hand { "WokenByHand" } else { "Mended" };
                        let message = format!("Its row says {} now: {}", row.state, row.reason);
                        self.reporter.report(&id, Severity::Normal, told, message);
                    }
                    Err(ScaleError::Conflict | ScaleError::Unsupported) => {}
                    Err(error) => {
                        tracing::warn!(resource = %id, row = %row.state, %error, "its row cannot be mended; to be tried in the next cycle");
                    }
                }
            }
        }
    }

    fn tried(&self, id: &ResourceId, end: &End, idle: &str) {
        let metrics = &self.context.metrics;
        metrics.fences.get_or_create(&FenceLabels { outcome: end.name(), reason: end.code() }).inc();
        let now = Instant::now();
        let interval = self.interval();
        let mut memory = self.memory();
        let failure = memory.ended(id, now, end, interval);
        match (end, failure) {
            (End::Failed(reason), failure) => {
                metrics.scale_failures.get_or_create(&self.labels).inc();
                let (tries, pause) = failure.map_or((1, interval), |Failure { tries, until, .. }| {
                    (*tries, until.duration_since(now))
                });
                tracing::warn!(resource = %id, %reason, tries, pause = %duration::short(rounded(pause)), "cannot put it to zero");
                let message = format!("Scaling to zero failed {tries} times in a row: {reason}");
                self.reporter.report(id, Severity::Warning, "ScaleToZeroFailed", message);
            }
            (End::Committed, _) => {
                tracing::info!(resource = %id, reason = idle, "at zero");
                self.reporter.report(id, Severity::Normal, "ScaledToZero", format!("Scaled to zero: {idle}"));
            }
            (End::Reverted(_), _) => tracing::info!(resource = %id, reason = %end, "stays awake"),
        }
    }
}
