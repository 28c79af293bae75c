//! One resource that can be intercepted: its state, the next step, and what that waits for. Pure: takes the time as an argument.

use std::{sync::Arc, time::Duration};

use daemon::wakes::WakeSlot;
use k8s_openapi::jiff::Timestamp;
use scaler_types::{
    Backend, Interception, Nonce, Phase, Resource, RolloutPhase, ScaleError, Scaling, TrafficMode,
    backoff::Backoff,
    duration::short,
    protocol::{self, Dlxs, InterceptionSeen, Seen},
};
use serde::Serialize;
use tokio::time::Instant;

use super::SwitchoverProgress;
use crate::{plugin, telemetry::rounded};

/// After a call that did not bring about what it was for.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), MAX_RETRY_PAUSE);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(60);
/// The same where something stands in the way that does not pass by itself.
const BACKOFF_TERMINAL: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));
/// After a wake: how long its replicas may take to be seen.
const WAKE_VISIBLE_DELAY: Duration = Duration::from_secs(10);

/// How long a resource that is refused sleeps on before it is woken.
const STRANDED_DELAY: Duration = Duration::from_secs(10);

/// The state of one resource with an interception.
#[derive(Debug)]
pub(super) struct InterceptedResource {
    pub(super) path: TrafficMode,
    /// Its record, version and whether it has replicas.
    pub(super) seen: Seen,
    pub(super) interception: Interception,
    /// When the plugin listed that.
    listed_at: Instant,
    /// Since when it has this backend, as far as this process saw.
    since: Instant,
    /// Since when its own endpoints have been ready while its Service points to both.
    workload_ready: Option<Instant>,
    /// The call under way.
    pub(super) calling: Option<Backend>,
    /// The result of the last calls for the step that is due.
    pause: Option<RetryPause<Backend>>,
    /// A wake is under way, for no request could do it.
    pub(super) waking: bool,
    /// When it was used last, as far as its plugin lists that.
    pub(super) used: Option<Timestamp>,
    wake: Option<RetryPause<()>>,
    /// How long it may take to start, if it says so itself.
    pub(super) readiness: Option<Duration>,
    /// How many replicas a wake asks for.
    pub(super) wake_replicas: u32,
    /// It takes requests, by what its plugin lists.
    up: bool,
    /// Its place among the wakes, from the write until it is up or has had its time.
    starting: Option<RunningWake>,
    /// Since when it sleeps and no request could wake it.
    stranded: Option<Instant>,
    /// It waits for a place to be written, or woken.
    pub(super) queued: [bool; 2],
    /// The error that was published last.
    reported: Option<Arc<str>>,
    /// Its plugin's list of it cannot be read now: all of this may be out of date.
    pub(super) unreadable: bool,
}

/// A pause: no call before its end.
#[derive(Debug)]
struct RetryPause<T> {
    what: T,
    attempts: u32,
    until: Instant,
    /// Why the last one failed; `None`: it was well, and what it is for is not seen yet.
    failed: Option<Arc<str>>,
    /// The first change that is seen ends it.
    conflict: bool,
}

/// A wake that counts as under way.
#[derive(Debug)]
struct RunningWake {
    _place: WakeSlot,
    /// How long it may take once it is written.
    timeout: Duration,
    /// When its time is over; `None`: it is not written yet.
    until: Option<Instant>,
}

/// The availability of the DLXs, and the propagation delay.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepContext {
    pub(super) now: Instant,
    pub(super) propagation_delay: Duration,
    pub(super) dlxs: Dlxs,
    /// There are DLXs to be named, or none are waited for.
    pub(super) nameable: bool,
}

/// The actions that are due.
#[derive(Debug, Default, PartialEq)]
pub(super) struct DueActions {
    /// The backend to write now.
    pub(super) call: Option<Backend>,
    /// To wake it, now.
    pub(super) wake: bool,
    /// When to look again, if nothing changes before.
    pub(super) again: Option<Instant>,
}

/// To which backend it was switched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum BackendChange {
    ToDlxs,
    ToWorkload,
}

/// A drain attempt that waits for the interception of a resource.
#[derive(Debug)]
pub(super) struct WaitingAttempt {
    /// The nonce of the record before the attempt, and that of the attempt.
    pub(super) nonces: [Nonce; 2],
    /// Its draining record was seen.
    pub(super) seen: bool,
}

/// An interception, as the admin port shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct InterceptionStatus {
    backend: Backend,
    /// Since when, as far as this process saw.
    since: String,
    requested: bool,
    refusal: String,
    in_sync: bool,
    /// For how long every request has passed a DLX.
    intercepted_for: String,
    dlxs: Vec<String>,
    /// Where it is to lead next.
    next_backend: Option<Backend>,
    /// The condition it waits for, or the obstacle.
    waiting_for: Option<String>,
    /// What its plugin says about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

/// When a sleeping resource was last used, as far as its plugin reports: it was scaled to zero some time after that.
pub(crate) fn last_used(resource: &Resource) -> Option<Timestamp> {
    resource.last_scale_event_time.as_deref()?.parse().ok()
}

/// Whether a resource takes requests, as far as its plugin knows.
pub(crate) fn is_up(resource: &Resource) -> bool {
    resource.replicas > 0
        && match (&resource.rollout, &resource.interception) {
            (Some(rollout), _) => rollout.phase == RolloutPhase::Complete,
            (None, Some(interception)) => interception.workload_ready,
            (None, None) => true,
        }
}

fn wake_replicas(resource: &Resource) -> u32 {
    resource.scaling.as_ref().map_or(1, Scaling::replicas_for_request)
}

// === impl InterceptedResource ===

impl InterceptedResource {
    pub(super) fn new(now: Instant, resource: &Resource, interception: &Interception) -> Self {
        let mut this = Self {
            path: resource.traffic_mode,
            seen: plugin::protocol_seen(resource),
            interception: interception.clone(),
            listed_at: now,
            since: now,
            workload_ready: None,
            calling: None,
            pause: None,
            waking: false,
            used: last_used(resource),
            wake: None,
            readiness: resource.resource_readiness_timeout,
            wake_replicas: wake_replicas(resource),
            up: is_up(resource),
            starting: None,
            stranded: None,
            queued: [false; 2],
            reported: None,
            unreadable: false,
        };
        this.track_workload_ready(now);
        this
    }

    /// Updates it with what the plugin lists now.
    pub(super) fn update(
        &mut self,
        now: Instant,
        resource: &Resource,
        interception: &Interception,
    ) -> Option<BackendChange> {
        let before = self.interception.backend;
        self.unreadable = false;
        self.path = resource.traffic_mode;
        let seen = plugin::protocol_seen(resource);
        if seen.version != self.seen.version {
            // Its Service may have been switched and back in between.
            self.workload_ready = None;
        }
        self.seen = seen;
        self.interception = interception.clone();
        self.used = last_used(resource);
        (self.readiness, self.up) = (resource.resource_readiness_timeout, is_up(resource));
        self.wake_replicas = wake_replicas(resource);
        self.listed_at = now;
        self.track_workload_ready(now);
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.conflict) {
            pause.until = now;
        }
        if before == interception.backend {
            return None;
        }
        self.since = now;
        match interception.backend {
            Backend::Dlx => Some(BackendChange::ToDlxs),
            Backend::Workload => Some(BackendChange::ToWorkload),
            Backend::Both | Backend::Unknown => None,
        }
    }

    fn track_workload_ready(&mut self, now: Instant) {
        self.workload_ready = match self.interception.backend {
            Backend::Both if self.interception.workload_ready => self.workload_ready.or(Some(now)),
            _ => None,
        };
    }

    /// For how long every new connection has gone to a DLX.
    fn intercepted_for(&self, now: Instant) -> Duration {
        match self.interception.backend {
            Backend::Dlx if self.interception.in_sync => {
                self.interception.intercepted_for + now.duration_since(self.listed_at)
            }
            _ => Duration::ZERO,
        }
    }

    fn is_requested(&self) -> bool {
        self.interception.requested && self.interception.refusal.is_empty()
    }

    fn step_input(&self, context: StepContext, confirmed: bool) -> InterceptionSeen {
        InterceptionSeen {
            traffic_mode: self.path,
            requested: self.is_requested(),
            backend: self.interception.backend,
            in_sync: self.interception.in_sync,
            phase: self.seen.record.phase,
            scaled: self.seen.scaled,
            confirmed,
            workload_known: self
                .workload_ready
                .is_some_and(|since| context.now.duration_since(since) >= context.propagation_delay),
            workload_ready: self.interception.workload_ready,
            dlxs: context.dlxs,
        }
    }

    /// Whether the record is draining by the attempt that waits.
    fn is_attempt_confirmed(&self, waiting: Option<&WaitingAttempt>) -> bool {
        let record = &self.seen.record;
        waiting.is_some_and(|waiting| record.phase == Phase::Draining && record.nonce == waiting.nonces[1])
    }

    /// Where it is to lead next.
    fn next_backend(&self, context: StepContext, waiting: Option<&WaitingAttempt>) -> Option<Backend> {
        let to = protocol::interception_step(&self.step_input(context, self.is_attempt_confirmed(waiting)))?;
        // A new leader does not know the DLXs yet.
        (to == Backend::Workload || context.nameable).then_some(to)
    }

    /// The actions that are due now.
    pub(super) fn due_actions(
        &mut self,
        context: StepContext,
        waiting: Option<&WaitingAttempt>,
    ) -> DueActions {
        let mut due = DueActions::default();
        if self.unreadable {
            // A backend is set whatever the record's version: its Service could be pointed to pods that are gone by now.
            return due;
        }
        self.stranded = self.is_stranded(context).then(|| self.stranded.unwrap_or(context.now));
        // A Service that is being re-created has a moment to appear.
        let since = self
            .stranded
            .map(|since| if context.dlxs == Dlxs::Dead { since } else { since + STRANDED_DELAY });
        if let Some(since) = since.filter(|since| context.now < *since) {
            due.again = Some(since);
        } else if since.is_none() {
            self.wake = None;
        } else if !self.waking {
            due.again = self.wake.as_ref().map(|pause| pause.until).filter(|until| context.now < *until);
            due.wake = due.again.is_none();
        }
        if due.wake || !self.is_starting(context.now) {
            self.starting = None;
        }
        due.again = due.again.into_iter().chain(self.starting.as_ref().and_then(|one| one.until)).min();
        if self.calling.is_some() {
            return due;
        }
        let again = match self.next_backend(context, waiting) {
            None => {
                (self.pause, self.reported) = (None, None);
                self.workload_ready.map(|since| since + context.propagation_delay)
            }
            Some(to) => {
                let until = self.pause.as_ref().filter(|pause| pause.what == to).map(|pause| pause.until);
                let until = until.filter(|until| context.now < *until);
                due.call = until.is_none().then_some(to);
                until
            }
        };
        due.again = due.again.into_iter().chain(again.filter(|again| context.now < *again)).min();
        due
    }

    /// Records the result of a call; returns an error to publish, if it is new.
    pub(super) fn record_call(
        &mut self,
        now: Instant,
        to: Backend,
        result: &Result<(), ScaleError>,
    ) -> Option<Arc<str>> {
        self.calling = None;
        let before = self.pause.take().filter(|pause| pause.what == to);
        let pause = RetryPause::after_call(now, to, before.as_ref(), result);
        let failure = match result {
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => pause.failed.clone(),
            _ => None,
        };
        self.pause = Some(pause);
        if failure.is_none() || failure == self.reported {
            return None;
        }
        self.reported.clone_from(&failure);
        failure
    }

    /// A wake begins.
    pub(super) fn begin_wake(&mut self, place: WakeSlot, timeout: Duration) {
        self.waking = true;
        self.starting = Some(RunningWake { _place: place, timeout, until: None });
    }

    /// Its last wake failed.
    pub(super) fn has_failed_wake(&self) -> bool {
        let failed = self.wake.as_ref().is_some_and(|pause| pause.failed.is_some());
        failed || !self.seen.record.failed_wake.is_empty()
    }

    /// A wake was written, or could not be.
    pub(super) fn record_wake(&mut self, now: Instant, result: &Result<(), ScaleError>) {
        self.waking = false;
        match (result, &mut self.starting) {
            (Ok(()), Some(starting)) => starting.until = now.checked_add(starting.timeout),
            _ => self.starting = None,
        }
        let mut pause = RetryPause::after_call(now, (), self.wake.take().as_ref(), result);
        if result.is_ok() {
            pause.until = pause.until.max(now + WAKE_VISIBLE_DELAY);
        }
        self.wake = Some(pause);
    }

    /// The progress of the switchover for a waiting attempt, and when to check again.
    pub(super) fn switchover_progress(
        &self,
        context: StepContext,
        waiting: &mut WaitingAttempt,
    ) -> (SwitchoverProgress, Option<Instant>) {
        let mine = self.is_attempt_confirmed(Some(waiting));
        waiting.seen |= mine;
        if !mine && (waiting.seen || self.seen.record.nonce != waiting.nonces[0]) {
            return (SwitchoverProgress::Changed, None);
        }
        if !self.is_requested() {
            return (SwitchoverProgress::Lost("its interception is no longer requested".into()), None);
        }
        if !mine {
            return (SwitchoverProgress::Waiting, None);
        }
        let intercepted_for = self.intercepted_for(context.now);
        match self.interception.backend {
            Backend::Dlx if self.interception.in_sync && intercepted_for >= context.propagation_delay => {
                (SwitchoverProgress::Intercepted, None)
            }
            Backend::Dlx if self.interception.in_sync => (
                SwitchoverProgress::Waiting,
                context.now.checked_add(context.propagation_delay - intercepted_for),
            ),
            _ => (SwitchoverProgress::Waiting, None),
        }
    }

    /// As the admin port shows it.
    pub(super) fn status(
        &self,
        context: StepContext,
        waiting: Option<&WaitingAttempt>,
    ) -> InterceptionStatus {
        let next = self.next_backend(context, waiting);
        let to = self.calling.or(next);
        InterceptionStatus {
            backend: self.interception.backend,
            since: elapsed(context.now, self.since),
            requested: self.interception.requested,
            refusal: self.interception.refusal.clone(),
            in_sync: self.interception.in_sync,
            intercepted_for: short(rounded(self.intercepted_for(context.now))),
            dlxs: self.interception.dlxs.clone(),
            next_backend: to.or_else(|| self.later_backend()),
            waiting_for: self.blocked_on(context, next, waiting),
            note: self.interception.note.clone(),
        }
    }

    /// Its wake is being written, or has time left and nothing took it back.
    fn is_starting(&self, now: Instant) -> bool {
        match self.starting.as_ref().and_then(|starting| starting.until) {
            None => self.waking,
            Some(until) if now >= until => false,
            Some(_) if self.seen.scaled => !self.up,
            // The write is not seen yet.
            Some(_) => self.wake.is_some(),
        }
    }

    /// It sleeps, and no request would wake it: no DLX takes any, or its are refused and lead to none.
    fn is_stranded(&self, context: StepContext) -> bool {
        let refused = self.interception.requested
            && !self.interception.refusal.is_empty()
            && self.interception.backend == Backend::Workload;
        let slept = matches!(self.seen.record.phase, Phase::Asleep | Phase::Waking | Phase::Failed);
        !self.seen.scaled && (context.dlxs == Dlxs::Dead || refused && slept)
    }

    /// It is to be restored, and has not been woken yet.
    fn waits_for_wake(&self) -> bool {
        !self.is_requested() && !self.seen.scaled && self.interception.backend == Backend::Dlx
    }

    /// Where it is to lead when what that waits for has come.
    fn later_backend(&self) -> Option<Backend> {
        match self.interception.backend {
            Backend::Both => Some(Backend::Workload),
            _ => self.waits_for_wake().then_some(Backend::Both),
        }
    }

    /// The obstacle to the next step; reads on from "waits for".
    fn blocked_on(
        &self,
        context: StepContext,
        next: Option<Backend>,
        waiting: Option<&WaitingAttempt>,
    ) -> Option<String> {
        if self.waking {
            let why = if context.dlxs == Dlxs::Dead {
                "no DLX is ready to take requests"
            } else {
                "it is not intercepted, so no request could wake it"
            };
            return Some(format!("its wake: {why}"));
        }
        if self.calling.is_some() {
            return Some("the write of its Service".to_owned());
        }
        if let Some(to) = next {
            return Some(match self.pause.as_ref().filter(|pause| pause.what == to) {
                None => "a free write slot".to_owned(),
                Some(RetryPause { failed: None, .. }) => "its last write to become visible".to_owned(),
                Some(RetryPause { failed: Some(why), attempts, until, .. }) => {
                    format!(
                        "another attempt in {}, after {attempts} that failed: {why}",
                        elapsed(*until, context.now)
                    )
                }
            });
        }
        let left = context.propagation_delay.saturating_sub(self.intercepted_for(context.now));
        if waiting.is_some() && self.interception.backend == Backend::Dlx && !left.is_zero() {
            return Some(format!("the endpoint propagation delay, {} left", short(rounded(left))));
        }
        match (self.interception.backend, self.workload_ready) {
            _ if self.waits_for_wake() => Some("its wake: it has no replicas yet".to_owned()),
            (Backend::Both, None) => Some("its own endpoints to become ready".to_owned()),
            (Backend::Both, Some(since)) => Some(format!(
                "the endpoint propagation delay, {} left",
                elapsed(since + context.propagation_delay, context.now)
            )),
            (Backend::Workload, _)
                if self.is_requested()
                    && self.path == TrafficMode::Always
                    && context.dlxs != Dlxs::Serving =>
            {
                Some("a DLX that is ready to take requests".to_owned())
            }
            _ => None,
        }
    }

    /// Why the last call failed, and for how often.
    pub(super) fn last_failure(&self) -> Option<(u32, &Arc<str>)> {
        self.pause.as_ref().and_then(|pause| Some((pause.attempts, pause.failed.as_ref()?)))
    }
}

fn elapsed(now: Instant, then: Instant) -> String {
    short(rounded(now.saturating_duration_since(then)))
}

// === impl RetryPause ===

impl<T> RetryPause<T> {
    fn after_call(now: Instant, what: T, before: Option<&Self>, result: &Result<(), ScaleError>) -> Self {
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let pause = match result {
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => {
                BACKOFF_TERMINAL.pause_after(attempts)
            }
            Err(ScaleError::Retry { after, .. } | ScaleError::Busy { after, .. }) => {
                BACKOFF.pause_after(attempts).max(*after).min(MAX_RETRY_PAUSE)
            }
            _ => BACKOFF.pause_after(attempts),
        };
        let failed = result.as_ref().err().map(|error| match error {
            ScaleError::Retry { reason, .. } | ScaleError::Busy { reason, .. } => reason.as_str().into(),
            error => error.to_string().into(),
        });
        Self { what, attempts, until: now + pause, failed, conflict: *result == Err(ScaleError::Conflict) }
    }
}
