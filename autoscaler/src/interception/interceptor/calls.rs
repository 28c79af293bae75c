//! The calls an interceptor makes, a bounded number at a time, and their results.

use std::{cmp::Reverse, time::Duration};

use daemon::{
    events,
    wakes::{WAKE_SLOT_TIMEOUT, WakeFor, WakeSlot, jitter},
};

use scaler_types::{
    Backend, InterceptionRequest, Record, ResourceId, ScaleError, duration::short, protocol::Dlxs,
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::Interceptor;
use crate::{
    interception::resource::DueActions,
    plugin::{ActivePlugin, wake_by_leader},
};

/// The kinds of calls.
pub(super) const SET_BACKEND: usize = 0;
pub(super) const WAKES: usize = 1;
/// Concurrent writes of backends: each is a handful of API calls.
const MAX_CONCURRENT_WRITES: usize = 16;
/// How many wakes wait for their place at once.
const MAX_QUEUED_WAKES: usize = 64;
/// How long one write may take, if the propagation delay is longer: an abandoned write has landed, or never will, before anything
/// is decided on what came of it.
const MAX_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one write may take at least: the propagation delay may be shorter than any call.
const MIN_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The purpose of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallKind {
    SetBackend(Backend),
    /// A permit for a wake; the resource is chosen when it is granted.
    WakePermit,
    Wake,
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum CallResult {
    Called(Result<(), ScaleError>),
    Placed(WakeSlot),
}

impl Interceptor {
    /// Begins what waits, as far as there are places.
    pub(super) fn start_calls(&mut self) {
        while self.writes_in_progress < MAX_CONCURRENT_WRITES {
            let Some(id) = self.queues[SET_BACKEND].pop_front() else { break };
            self.begin_call(SET_BACKEND, id, None);
        }
        while self.queued_wakes < self.queues[WAKES].len().min(MAX_QUEUED_WAKES) {
            let limit = self.active.borrow().settings.max_concurrent_wakes;
            let (wakes, namespace) = (self.context.wakes.clone(), self.labels.namespace.clone());
            let place = async move {
                let place = wakes.slot(&namespace, limit, WakeFor::Failover).await;
                jitter().await;
                CallResult::Placed(place)
            };
            let task = self.running.spawn(place);
            self.calls.insert(task.id(), (None, CallKind::WakePermit));
            self.queued_wakes += 1;
        }
    }

    /// Wakes the most recently used of the waiting resources; those with a failed wake come last.
    fn wake_next(&mut self, place: WakeSlot) {
        let mut place = Some(place);
        while place.is_some() {
            let last = {
                let inner = self.table.inner();
                let first = |id: &ResourceId| {
                    inner
                        .resources
                        .get(id)
                        .map(|intercepted| (!intercepted.has_failed_wake(), intercepted.used))
                };
                let waiting = self.queues[WAKES].iter().enumerate();
                // Of those that are alike the one that has waited longest.
                waiting.max_by_key(|(at, id)| (first(id), Reverse(*at))).map(|(at, _)| at)
            };
            let Some(id) = last.and_then(|last| self.queues[WAKES].remove(last)) else { return };
            place = self.begin_call(WAKES, id, place);
        }
    }

    /// Begins a call, if it is still due; gives the place for a wake back if not.
    fn begin_call(&mut self, kind: usize, id: ResourceId, place: Option<WakeSlot>) -> Option<WakeSlot> {
        let table = self.table.clone();
        let mut inner = table.inner();
        let at = inner.step_context(Instant::now(), self.serving());
        let dlxs = inner.dlxs.named();
        let (Some(intercepted), waiting) = inner.resource_and_attempt(&id) else { return place };
        intercepted.queued[kind] = false;
        // How it is now, not how it was when it began to wait.
        let due = intercepted.due_actions(at, waiting);
        let ActivePlugin { plugin, settings } = self.active.borrow().clone();
        let (task, what) = match (kind, due) {
            (SET_BACKEND, DueActions { call: Some(to), .. }) => {
                intercepted.calling = Some(to);
                let dlxs = if to == Backend::Workload { Vec::new() } else { dlxs };
                let deadline = MAX_WRITE_TIMEOUT.min(self.serving().propagation_delay).max(MIN_WRITE_TIMEOUT);
                let request = InterceptionRequest { id: id.clone(), backend: to, dlxs, deadline };
                let call = async move { CallResult::Called(plugin.set_backend(&request).await) };
                self.writes_in_progress += 1;
                (self.running.spawn(call), CallKind::SetBackend(to))
            }
            (WAKES, DueActions { wake: true, .. }) => {
                let why = if at.dlxs == Dlxs::Dead {
                    "no DLX is ready to take requests"
                } else {
                    "it is not intercepted, so no request could wake it"
                };
                if intercepted.seen.record.format > Record::FORMAT {
                    // Left to the version that wrote it.
                    return place;
                }
                let timeout = intercepted.readiness.unwrap_or(settings.resource_readiness_timeout);
                intercepted.begin_wake(place?, timeout.min(WAKE_SLOT_TIMEOUT));
                let woken = id.clone();
                let (seen, replicas) = (intercepted.seen.clone(), intercepted.wake_replicas);
                let call = async move {
                    CallResult::Called(wake_by_leader(&*plugin, &woken, &seen, replicas, why, timeout).await)
                };
                (self.running.spawn(call), CallKind::Wake)
            }
            _ => return place,
        };
        self.calls.insert(task.id(), (Some(id), what));
        None
    }

    pub(super) fn handle_finished(&mut self, ended: Result<(Id, CallResult), JoinError>) {
        let (task, done) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let reason = format!("the call ended early: {error}");
                (error.id(), CallResult::Called(Err(ScaleError::Retry { after: Duration::ZERO, reason })))
            }
        };
        let Some((id, what)) = self.calls.remove(&task) else { return };
        match what {
            CallKind::SetBackend(_) => self.writes_in_progress -= 1,
            CallKind::WakePermit => self.queued_wakes -= 1,
            CallKind::Wake => {}
        }
        let (id, result) = match (id, done) {
            (Some(id), CallResult::Called(result)) => (id, result),
            (_, CallResult::Placed(place)) => return self.wake_next(place),
            (None, CallResult::Called(_)) => return,
        };
        let now = Instant::now();
        let table = self.table.clone();
        let mut inner = table.inner();
        inner.dirty.insert(id.clone());
        let intercepted = inner.resources.get_mut(&id);
        match what {
            CallKind::SetBackend(to) => {
                self.context.metrics.count_interception_call(&self.labels, &result);
                let Some(intercepted) = intercepted else { return };
                let new_failure = intercepted.record_call(now, to, &result);
                let to = where_to(to);
                if let Some(why) = new_failure {
                    tracing::warn!(resource = %id, reason = %why, "failed to switch its Service {to}");
                    let message = format!("Failed to switch its Service {to}: {why}");
                    self.reporter.report(&id, events::INTERCEPTION_FAILED, message);
                } else if let Some((attempts, why)) = intercepted.last_failure() {
                    tracing::debug!(resource = %id, reason = %why, attempts, "Service not pointed {to} yet");
                }
            }
            CallKind::WakePermit => {}
            CallKind::Wake => {
                let unavailable_timeout = self.context.dlxs.unavailable_timeout;
                let refused = intercepted
                    .as_ref()
                    .map(|intercepted| intercepted.interception.refusal.clone())
                    .filter(|why| !why.is_empty());
                match &result {
                    Ok(()) if self.dlxs != Dlxs::Dead => {
                        let why = refused.map(|why| format!(": {why}")).unwrap_or_default();
                        tracing::warn!(resource = %id, "woke the resource: it is not intercepted, so no request could wake it{why}");
                        let message =
                            format!("Woken: it is not intercepted, so no request could wake it{why}");
                        self.reporter.report(&id, events::WOKEN, message);
                    }
                    Ok(()) => {
                        tracing::warn!(resource = %id, "woke the resource: no DLX is ready");
                        let message =
                            format!("Woken: no DLX has been ready for {}", short(unavailable_timeout));
                        self.reporter.report(&id, events::DLX_UNAVAILABLE, message);
                    }
                    Err(ScaleError::Conflict) => {}
                    Err(error) => {
                        tracing::warn!(resource = %id, %error, "failed to wake it; retrying");
                    }
                }
                if let Some(intercepted) = intercepted {
                    intercepted.record_wake(now, &result);
                }
            }
        }
    }
}

fn where_to(to: Backend) -> &'static str {
    match to {
        Backend::Workload => "to its own pods alone",
        Backend::Both => "to the DLXs and its own pods",
        Backend::Dlx => "to the DLXs",
        Backend::Unknown => "elsewhere",
    }
}
