//! The calls a scaler makes, a bounded number at a time, and their results.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use daemon::{
    events,
    wakes::{WAKE_SLOT_TIMEOUT, WakeFor, WakeSlot},
};
use plugin_host::RunningPlugin;
use scaler_types::{
    Nonce, Resource, ResourceId, ScaleError, ScaleRequest, Target, Version,
    protocol::{self, transition},
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{
    ReplicaScaler,
    resource::{FinishedStep, ScaleAction, Step, is_counted_by_dlxs},
    table::{Inner, context},
};
use crate::{
    decide::desired_replicas::count_replicas,
    observe::{
        load::{LoadHistory, query_load},
        members::Members,
    },
    plugin::{ActivePlugin, protocol_seen, wake_by_leader},
};

/// How many resources are being resized at once: each is one or two API calls.
const MAX_CONCURRENT_RESIZES: usize = 16;
/// How long a step down waits with an unknown number of requests in flight.
const BUSY_UNKNOWN_PAUSE: Duration = Duration::from_secs(5);

/// A call under way.
pub(super) struct RunningCall {
    id: ResourceId,
    /// None: it waits for a place among the wakes.
    call: Option<(ScaleAction, Version, u32)>,
}

/// The result of a task.
pub(super) enum CallResult {
    Called(Result<(), ScaleError>),
    Placed(WakeSlot),
}

impl ReplicaScaler {
    /// Evaluates the resources that have changed, and begins what is due.
    pub(super) fn start_due(&mut self) {
        let table = self.table.clone();
        let now = Instant::now();
        let active = self.active.borrow().clone();
        let (mut due, mut finished, mut not_shown, mut ended) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        {
            let mut inner = table.inner();
            let Inner { resources, queues } = &mut *inner;
            let context = context(queues, now, &active.settings);
            for id in std::mem::take(&mut self.dirty) {
                let Some(scaled) = resources.get_mut(&id) else { continue };
                let action = scaled.evaluate(context);
                finished.extend(scaled.take_finished().map(|step| (id.clone(), step)));
                not_shown.extend(scaled.take_not_shown().map(|why| (id.clone(), why)));
                ended.extend(scaled.take_ended().map(|why| (id.clone(), why)));
                due.extend(action.map(|action| (id, action)));
            }
        }
        for (id, step) in finished {
            self.report_step(&id, step);
        }
        for (id, why) in not_shown {
            self.reporter.report(&id, events::NOT_SCALED, format!("Not scaled down: {why}"));
        }
        for (id, why) in ended {
            tracing::warn!(resource = %id, reason = %why, "replicas are started again after growing pauses: correct the cause in the reason");
            let message = format!("{why}. They are started again after growing pauses; correct the cause.");
            self.reporter.report(&id, events::NOT_SCALED, message);
        }
        for (id, action) in due {
            match action {
                ScaleAction::Resize { .. } if self.resizing >= MAX_CONCURRENT_RESIZES => {
                    self.dirty.insert(id);
                }
                ScaleAction::Resize { .. } => self.call(&active, id, action, None),
                ScaleAction::Wake { wake_for, .. } => self.wait_for_place(&active, id, wake_for),
            }
        }
    }

    fn wait_for_place(&mut self, active: &ActivePlugin, id: ResourceId, wake_for: WakeFor) {
        if let Some(scaled) = self.table.inner().resources.get_mut(&id) {
            scaled.calling = true;
        }
        let limit = active.settings.max_concurrent_wakes;
        let (wakes, namespace) = (self.context.wakes.clone(), self.labels.namespace.clone());
        let place = async move { CallResult::Placed(wakes.slot(&namespace, limit, wake_for).await) };
        let task = self.running.spawn(place);
        self.calls.insert(task.id(), RunningCall { id, call: None });
    }

    /// The wake of a resource has a place: it is decided on once more.
    fn wake(&mut self, id: ResourceId, slot: WakeSlot) {
        let active = self.active.borrow().clone();
        let action = {
            let mut inner = self.table.inner();
            let Inner { resources, queues } = &mut *inner;
            let context = context(queues, Instant::now(), &active.settings);
            let Some(scaled) = resources.get_mut(&id) else { return };
            scaled.calling = false;
            scaled.evaluate(context)
        };
        if let Some(action @ ScaleAction::Wake { .. }) = action {
            self.call(&active, id, action, Some(slot));
        }
    }

    fn call(&mut self, active: &ActivePlugin, id: ResourceId, action: ScaleAction, slot: Option<WakeSlot>) {
        let table = self.table.clone();
        let mut inner = table.inner();
        let Some(scaled) = inner.resources.get_mut(&id) else { return };
        let resource = scaled.resource.clone();
        let timeout = resource.wake_timeout(active.settings.resource_readiness_timeout);
        scaled.calling = true;
        if let Some(slot) = slot {
            scaled.begin_wake(slot, Instant::now() + timeout.min(WAKE_SLOT_TIMEOUT));
        }
        let (version, before) = (resource.version.clone(), resource.replicas);
        let (plugin, members, kind) =
            (active.plugin.clone(), self.context.members.clone(), self.labels.kind.clone());
        let begun = action.clone();
        self.resizing += usize::from(matches!(action, ScaleAction::Resize { .. }));
        let task = self.running.spawn(async move {
            CallResult::Called(match begun {
                ScaleAction::Resize { to, reason } => {
                    let members = Some(&members).filter(|_| to < before && is_counted_by_dlxs(&resource));
                    resize(&*plugin, members, &kind, resource, to, &reason, timeout).await
                }
                ScaleAction::Wake { replicas, reason, .. } => {
                    let seen = protocol_seen(&resource);
                    wake_by_leader(&*plugin, &resource.id, &seen, replicas, &reason, timeout).await
                }
            })
        });
        self.calls.insert(task.id(), RunningCall { id, call: Some((action, version, before)) });
    }

    pub(super) fn handle_finished(&mut self, ended: Result<(Id, CallResult), JoinError>) {
        let (task, done) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let reason = format!("the call ended early: {error}");
                (error.id(), CallResult::Called(Err(ScaleError::Retry { after: Duration::ZERO, reason })))
            }
        };
        let Some(RunningCall { id, call }) = self.calls.remove(&task) else { return };
        self.dirty.insert(id.clone());
        let (result, action, version, before) = match (done, call) {
            (CallResult::Placed(slot), _) => return self.wake(id, slot),
            (CallResult::Called(result), Some((action, version, before))) => {
                (result, action, version, before)
            }
            // It waited for a place, which is given to another.
            (CallResult::Called(_), None) => {
                if let Some(scaled) = self.table.inner().resources.get_mut(&id) {
                    scaled.calling = false;
                }
                return;
            }
        };
        self.resizing -= usize::from(matches!(action, ScaleAction::Resize { .. }));
        let table = self.table.clone();
        let mut inner = table.inner();
        let scaled = inner.resources.get_mut(&id);
        let is_new = scaled
            .is_some_and(|scaled| scaled.record_call(Instant::now(), &version, (&action, before), &result));
        self.context.metrics.count_replica_change(action_name(&action, before), &result);
        match result {
            Ok(()) => self.report_wake(&id, &action),
            Err(ScaleError::Conflict) => {}
            Err(ScaleError::Busy { reason, .. }) if is_new => {
                tracing::info!(resource = %id, reason, "not scaled down yet: its replicas have work");
                let message = format!("Not scaled down from {before} yet: {reason}");
                self.reporter.report(&id, events::SCALE_DOWN_WAITS, message);
            }
            Err(error) if is_new => {
                tracing::warn!(resource = %id, %error, "failed to change its replicas; retrying");
                let (event, what) = match (&action, &error) {
                    (ScaleAction::Wake { .. }, ScaleError::Terminal { .. }) => {
                        (events::WAKE_FAILED, "Waking")
                    }
                    (ScaleAction::Wake { .. }, _) => (events::NOT_SCALED, "Waking"),
                    (ScaleAction::Resize { .. }, _) => (events::NOT_SCALED, "Scaling"),
                };
                self.reporter.report(&id, event, format!("{what} failed: {error}"));
            }
            Err(_) => {}
        }
    }

    /// Reports a wake. A change of the number of replicas is reported when it is listed: it may be smaller than requested.
    fn report_wake(&self, id: &ResourceId, action: &ScaleAction) {
        if let ScaleAction::Wake { replicas, reason, .. } = action {
            let reason = reason.trim_start_matches("woken: ");
            tracing::info!(resource = %id, replicas, reason, "woke the resource");
            let message = format!("Woken with {}: {reason}", count_replicas(*replicas));
            self.reporter.report(id, events::WOKEN, message);
        }
    }

    fn report_step(&self, id: &ResourceId, FinishedStep { step, replicas }: FinishedStep) {
        let Step { before, to, reason } = step;
        // Another writer may have changed it since.
        let left = replicas.checked_sub(to).filter(|left| *left > 0 && replicas < before);
        let (replicas, busy) = match left {
            Some(1) => (replicas, "; 1 more replica has work and stays for now".to_owned()),
            Some(left) => (replicas, format!("; {left} more replicas have work and stay for now")),
            None => (to, String::new()),
        };
        tracing::info!(resource = %id, replicas, before, reason, "scaled");
        let (event, way) = match to > before {
            true => (events::SCALED_UP, "up"),
            false => (events::SCALED_DOWN, "down"),
        };
        self.reporter.report(id, event, format!("Scaled {way} from {before} to {replicas}: {reason}{busy}"));
    }
}

/// `up`, `down` or `wake`.
fn action_name(action: &ScaleAction, before: u32) -> &'static str {
    match action {
        ScaleAction::Resize { to, .. } if *to > before => "up",
        ScaleAction::Resize { .. } => "down",
        ScaleAction::Wake { .. } => "wake",
    }
}

/// Changes the number of replicas. `members`: those that say at which of them requests are in flight, which is asked at the last
/// moment.
async fn resize(
    plugin: &dyn RunningPlugin,
    members: Option<&Members>,
    kind: &str,
    resource: Resource,
    to: u32,
    reason: &str,
    deadline: Duration,
) -> Result<(), ScaleError> {
    let record = transition(&protocol_seen(&resource), protocol::Step::Resize, Nonce::fresh(), reason);
    let (Some(record), Some(to)) = (record, NonZeroU32::new(to)) else { return Err(ScaleError::Conflict) };
    let busy = match members {
        None => Vec::new(),
        Some(members) => {
            let reports = query_load(members, kind, vec![resource.id.clone()]).await;
            let mut history = LoadHistory::default();
            reports.add_to(&resource.id, &mut history);
            history.busy().map_err(|why: Arc<str>| ScaleError::Retry {
                after: BUSY_UNKNOWN_PAUSE,
                reason: format!("not scaled down: it is not known which of its replicas are busy: {why}"),
            })?
        }
    };
    let request = ScaleRequest {
        id: resource.id,
        target: Target::Exactly(to),
        version: resource.version,
        record,
        deadline,
        intercepted_for: Duration::ZERO,
        busy,
    };
    plugin.set_scale(&request).await
}
