//! A resource as this DLX knows it: its gate, its endpoints, its counts and its held requests.

mod activity;
mod cause;
mod cold_start;
mod host;
mod interceptions;
mod queue;
mod resources;
mod shared;
mod table;
mod target;
mod view;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(crate) use activity::{Counts, WakeOutcome};
use arc_swap::ArcSwap;
pub(crate) use cause::WakeCause;
pub(crate) use cold_start::ColdStartPhase;
pub(crate) use cold_start::{ColdStart, ColdStartPhases};
use daemon::{events, settings::Settings};
pub(crate) use host::{is_host, normalize};
use http::HeaderValue;
pub(crate) use interceptions::{InterceptionGuard, Interceptions};
pub(crate) use queue::{
    Dispatch, DispatchPermit, HeldRequest, HeldTotals, HoldLimits, NamespaceShare, Queue, QueueFull,
    Rejection,
};
pub(crate) use resources::Resources;
use scaler_types::{
    EventReason, Nonce, Phase, Resource, ResourceId, ScaleResource, TrafficMode,
    protocol::{GateInput, GateOrder, Refusal, Seen},
};
pub(crate) use shared::{Effect, SharedState};
pub(crate) use table::{Claim, Conflict, HostTable, NameHeader, PathHeader, PortOwner};
pub(crate) use target::EndpointTarget;
use tokio::sync::watch;
pub(crate) use view::ResourceView;

use crate::{answer::ErrorResponse, plugin::PluginSource};

/// The window of a resource without any metric.
const DEFAULT_WINDOW: Duration = Duration::from_secs(600);

/// The identity of a resource in this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ResourceKey {
    /// The plugin's kind.
    pub(crate) kind: Arc<str>,
    /// Namespace and name.
    pub(crate) id: ResourceId,
}

/// One resource.
#[derive(Debug)]
pub(crate) struct ResourceHandle {
    /// Which one.
    pub(crate) key: ResourceKey,
    /// The mark in `Via` of requests to an address that may point back to a DLX.
    pub(crate) mark: HeaderValue,
    /// The number of the listing in which this process first saw it.
    pub(crate) first_seen: u64,
    /// It was counted without a gap: since this process began, or since it was first listed when nothing had been
    /// forgotten.
    pub(crate) counted_since_start: bool,
    /// Its requests.
    pub(crate) counts: Counts,
    /// Its held requests.
    pub(crate) queue: Queue,
    /// The requests held for its namespace.
    pub(crate) share: Arc<NamespaceShare>,
    /// The part that forwarding reads.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Whether the gate is open and an endpoint is ready. Mirrors the view; written under its lock only.
    open: AtomicBool,
    view: Mutex<ResourceView>,
    changed: watch::Sender<u64>,
    shared: Arc<SharedState>,
}

/// The part of a resource's view that forwarding reads; replaced as a whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Endpoints that are ready.
    pub(crate) ready: Vec<Arc<EndpointTarget>>,
    /// The settings for its requests.
    pub(crate) settings: Arc<Settings>,
}

/// Why a drain attempt is not confirmed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrainNotConfirmed {
    #[error("{0} requests in flight")]
    InFlight(u64),
    #[error("{0} requests held")]
    Held(u64),
    #[error("the drain was reverted")]
    Reverted,
    #[error("sees {phase} with nonce {nonce}")]
    OtherRecord { phase: Phase, nonce: Nonce },
    #[error("does not see it")]
    NotSeen,
    #[error("does not know it")]
    UnknownResource,
}

/// Counts one request in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    resource: Arc<ResourceHandle>,
    /// Whether it keeps its resource awake.
    counts: bool,
    /// Where it was sent.
    endpoint: Option<Arc<EndpointTarget>>,
}

// === impl ResourceKey ===

impl ResourceKey {
    /// `1.1 scaler-HASH`: the same in every DLX.
    fn mark(&self) -> HeaderValue {
        // Its keys are fixed. If another version of it hashes differently, two DLXs each count their own.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        // Only letters, digits, dots and hyphens: always a valid header value.
        HeaderValue::try_from(format!("1.1 scaler-{:016x}", hasher.finish()))
            .unwrap_or(HeaderValue::from_static("1.1 scaler"))
    }
}

// === impl ResourceHandle ===

impl ResourceHandle {
    /// A resource that was just listed for the first time. Its gate is shut until [`observe`](Self::observe).
    pub(crate) fn new(
        key: ResourceKey,
        first_seen: u64,
        source: Arc<PluginSource>,
        shared: Arc<SharedState>,
    ) -> Self {
        let settings = source.settings.load_full();
        Self {
            first_seen,
            counted_since_start: false,
            counts: Counts::default(),
            queue: Queue::default(),
            share: shared.totals.share(&key.id.namespace),
            snapshot: ArcSwap::from_pointee(Snapshot { ready: Vec::new(), settings }),
            open: AtomicBool::new(false),
            view: Mutex::new(ResourceView::new(key.id.clone(), source, shared.rules)),
            changed: watch::Sender::new(0),
            mark: key.mark(),
            key,
            shared,
        }
    }

    /// The state that all resources share.
    pub(crate) fn shared(&self) -> &Arc<SharedState> {
        &self.shared
    }

    /// Notified when its view has changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether a new request is forwarded at once.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_empty() && self.open.load(Ordering::SeqCst)
    }

    /// Whether the gate is open and an endpoint is ready.
    pub(crate) fn is_up(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Enters if the gate is open and no request is held.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        if !self.queue.is_empty() {
            return None;
        }
        self.enter_dispatched()
    }

    /// Enters if the gate is open.
    pub(crate) fn enter_dispatched(self: &Arc<Self>) -> Option<InFlight> {
        // Counted before the gate is read; see [`activity`].
        self.counts.enter();
        if self.open.load(Ordering::SeqCst) {
            Some(InFlight { resource: self.clone(), counts: true, endpoint: None })
        } else {
            self.counts.retreat();
            None
        }
    }

    /// Enters if the gate is open, without keeping anything awake.
    pub(crate) fn enter_uncounted(self: &Arc<Self>) -> Option<InFlight> {
        // As above. From here on a drop reverts it.
        self.counts.enter_uncounted();
        let in_flight = InFlight { resource: self.clone(), counts: false, endpoint: None };
        self.open.load(Ordering::SeqCst).then_some(in_flight)
    }

    /// Notes the cause of a wake if the next request is the first to be held.
    pub(crate) fn note_cause(&self, cause: impl FnOnce() -> WakeCause) {
        if !self.queue.has_waiting() {
            let cause = cause();
            self.decide(|view| view.wake_cause = Some(cause));
        }
    }

    /// Dispatches held requests, or has the driver work on the resource.
    pub(crate) fn serve_held(self: &Arc<Self>) {
        if self.open.load(Ordering::SeqCst) {
            return self.dispatch_held();
        }
        let mut view = self.lock();
        if self.open.load(Ordering::SeqCst) {
            drop(view);
            self.dispatch_held();
        } else {
            self.drive(&mut view);
        }
    }

    fn drive(self: &Arc<Self>, view: &mut ResourceView) {
        if !view.driven && self.queue.has_waiting() {
            view.driven = true;
            self.carry_out(Effect::Drive);
        }
    }

    /// Wakes the tasks that wait for a change of the view.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, ResourceView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dispatches as many held requests as may be.
    pub(crate) fn dispatch_held(self: &Arc<Self>) {
        if self.open.load(Ordering::SeqCst) {
            let snapshot = self.snapshot.load();
            Queue::dispatch(
                self,
                snapshot.settings.slow_start_requests_per_endpoint.saturating_mul(snapshot.ready.len()),
            );
        }
    }

    /// Refuses all held requests.
    pub(crate) fn refuse_held(&self, refusal: ErrorResponse, why: Rejection) {
        for _ in 0..self.queue.len() {
            self.queue.count(why);
        }
        self.queue.refuse_all(&Arc::new(refusal));
    }

    /// Reads the view.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&ResourceView) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the view without any effect: the caller does what follows.
    pub(crate) fn decide<R>(&self, decide: impl FnOnce(&mut ResourceView) -> R) -> R {
        decide(&mut self.lock())
    }

    /// Changes the view and does what follows: mirrors the gate, dispatches held requests, probes endpoints, finishes a
    /// wake, and has the driver work on what is still held.
    pub(crate) fn update<R>(self: &Arc<Self>, change: impl FnOnce(&mut ResourceView) -> R) -> R {
        let mut guard = self.lock();
        let view = &mut *guard;
        let result = change(view);
        let was_open = self.open.load(Ordering::SeqCst);
        for target in view.take_unprobed() {
            self.carry_out(Effect::Probe(target));
        }
        if std::mem::take(&mut view.snapshot_changed) {
            self.snapshot.store(Arc::new(Snapshot { ready: view.ready(), settings: view.settings() }));
        }
        let unlisted = std::mem::take(&mut view.unlisted);
        let ready = view.is_ready();
        let open = view.gate.open() && ready;
        self.open.store(open, Ordering::SeqCst);
        let runs_alone = view.runs_without_requests();
        if (ready || runs_alone)
            && let order @ GateOrder::Write { .. } = view.order_when_ready()
        {
            self.carry_out(Effect::Write(order));
        }
        if open && !was_open {
            self.queue.opened();
        }
        view.note_progress();
        if view.is_newly_own() {
            self.report_wake_started(view, view.wake_cause.as_ref());
        }
        if (open && !was_open || runs_alone && view.wakes())
            && let Some((took, phases, own)) = view.finish_wake()
        {
            tracing::info!(resource = %self.key.id, kind = %self.key.kind, took = ?took, %phases, "awake");
            if own {
                self.count_woken(view, took, &phases);
            }
        }
        if !open {
            self.drive(view);
        }
        self.notify();
        drop(guard);
        if !unlisted.is_empty() {
            self.carry_out(Effect::CloseIdle(unlisted));
        }
        if open {
            self.dispatch_held();
        }
        result
    }

    /// Reports the Event that this DLX's wake has begun, once its plugin says that it was written.
    pub(crate) fn wake_written(self: &Arc<Self>) {
        self.decide(|view| {
            if view.claim() {
                self.report_wake_started(view, view.wake_cause.as_ref());
            }
            if let Some((took, phases, cause)) = view.take_unclaimed() {
                self.report_wake_started(view, cause.as_ref());
                self.count_woken(view, took, &phases);
            }
        });
    }

    fn report_wake_started(self: &Arc<Self>, view: &ResourceView, cause: Option<&WakeCause>) {
        let cause = cause.map(|cause| format!("woken by {cause}; ")).unwrap_or_default();
        let message = format!("{cause}requests held: {}", self.queue.len());
        self.report(view, events::WAKE_STARTED, message);
    }

    /// Counts and reports a wake of this DLX that succeeded.
    fn count_woken(self: &Arc<Self>, view: &ResourceView, took: Duration, phases: &ColdStartPhases) {
        self.carry_out(Effect::Woken(took, *phases));
        self.counts.woken(WakeOutcome::Awake);
        let message = format!("ready {:.3} s after the wake began: {phases}", took.as_secs_f64());
        self.report(view, events::WOKEN, message);
    }

    fn report(self: &Arc<Self>, view: &ResourceView, reason: EventReason, message: String) {
        self.carry_out(Effect::Report { source: view.source.clone(), reason, message });
    }

    /// Has the driver do an effect.
    pub(crate) fn carry_out(self: &Arc<Self>, effect: Effect) {
        self.shared.carry_out(self, effect);
    }

    /// Takes over what the plugin lists; call it in the order of the plugin's stream.
    pub(crate) fn observe(self: &Arc<Self>, source: &Arc<PluginSource>, resource: Resource) {
        self.update(|view| {
            // With traffic mode `external` nothing is drained: the record belongs to another controller.
            let record = if resource.traffic_mode == TrafficMode::External { Default::default() } else { resource.record.clone() };
            let seen = Seen { record, version: resource.version.clone(), scaled: resource.replicas > 0 };
            if view.gate.seen().is_none_or(|before| before.version != seen.version) {
                view.lost_writes = 0;
            }
            let before = view.gate.seen().map(|seen| seen.record.phase);
            let after = seen.record.phase;
            if after == Phase::Draining {
                view.last_drain = Some(seen.record.nonce);
            }
            view.gate.step(GateInput::Saw(Some(seen)));
            view.apply_listing(source, resource);
            if before.is_some_and(|before| before != after) {
                tracing::debug!(resource = %self.key.id, from = %before.unwrap_or_default(), to = %after, "state changed");
            }
        });
    }

    /// No plugin lists it any more.
    pub(crate) fn mark_gone(self: &Arc<Self>) {
        self.update(|view| {
            view.gate.step(GateInput::Saw(None));
            view.mark_gone();
        });
        self.refuse_held(ErrorResponse::gone(&self.key.id), Rejection::WakeFailed);
    }

    /// Returns when no plugin lists it any more.
    pub(crate) async fn gone(&self) {
        let mut changed = self.subscribe();
        while !self.read(|view| view.gone) {
            // Closed never: its sender is `self`.
            let _ = changed.changed().await;
        }
    }

    /// Returns when it runs, if it takes no requests; else never.
    pub(crate) async fn runs_without_requests(&self) {
        let mut changed = self.subscribe();
        while !self.read(ResourceView::runs_without_requests) {
            // Closed never: its sender is `self`.
            let _ = changed.changed().await;
        }
    }

    /// Waits until the drain attempt `nonce` can be confirmed, but not longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) async fn confirm_drain(
        self: &Arc<Self>,
        nonce: Nonce,
        deadline: tokio::time::Instant,
    ) -> Result<(), DrainNotConfirmed> {
        let mut changed = self.subscribe();
        loop {
            changed.borrow_and_update();
            let order = {
                let mut view = self.lock();
                // The gate is shut by now if the drain is seen: `open` was mirrored under this lock.
                let in_flight = self.counts.under_way();
                let held = self.queue.len() as u64;
                view.gate.step(GateInput::Asked { nonce, in_flight, held })
            };
            match order {
                GateOrder::Confirm => return Ok(()),
                GateOrder::Refuse(Refusal::InFlight(n)) => return Err(DrainNotConfirmed::InFlight(n)),
                GateOrder::Refuse(Refusal::Held(n)) => return Err(DrainNotConfirmed::Held(n)),
                // It will not come back.
                _ if self.read(|view| view.last_drain == Some(nonce)) => {
                    return Err(DrainNotConfirmed::Reverted);
                }
                _ => {
                    if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                        return Err(self.read(|view| match view.gate.seen() {
                            Some(seen) => DrainNotConfirmed::OtherRecord {
                                phase: seen.record.phase,
                                nonce: seen.record.nonce,
                            },
                            None => DrainNotConfirmed::NotSeen,
                        }));
                    }
                }
            }
        }
    }

    /// Notes that the endpoint refused a connection: it gets no requests until a probe succeeds. Whether it is listed.
    pub(crate) fn mark_unreachable(self: &Arc<Self>, target: &EndpointTarget, reason: String) -> bool {
        self.update(|view| view.mark_unreachable(target.number, reason))
    }

    /// Whether requests go to that endpoint now.
    pub(crate) fn is_ready_at(&self, number: u64) -> bool {
        self.snapshot.load().ready.iter().any(|target| target.number == number)
    }

    /// Notes that a probe of an endpoint failed.
    pub(crate) fn note_probe(&self, number: u64, error: String) {
        // Nothing waits for this change.
        self.lock().note_probe_error(number, error);
    }

    /// The largest window of its metrics.
    pub(crate) fn largest_window(&self) -> Duration {
        let snapshot = self.snapshot.load();
        let largest = |metrics: &[ScaleResource]| metrics.iter().map(|metric| metric.window_size).max();
        let own = self.read(|view| largest(&view.resource.scale_resources));
        own.or_else(|| largest(&snapshot.settings.scale_resources)).unwrap_or(DEFAULT_WINDOW)
    }

    /// Whether it runs by its record and its scale, whatever its endpoints say.
    pub(crate) fn is_awake(&self) -> bool {
        let runs = |seen: &Seen| seen.record.phase == Phase::Active && seen.scaled;
        self.read(|view| view.gate.seen().is_some_and(runs))
    }

    /// The phase of its record.
    pub(crate) fn state(&self) -> Option<Phase> {
        self.read(|view| view.gate.seen().map(|seen| seen.record.phase))
    }
}

// === impl InFlight ===

impl InFlight {
    /// The resource.
    pub(crate) fn resource(&self) -> &Arc<ResourceHandle> {
        &self.resource
    }

    /// Whether it keeps its resource awake and may wait for it.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    /// It is sent to this endpoint, and to no other any more.
    pub(crate) fn set_endpoint(&mut self, endpoint: &Arc<EndpointTarget>) {
        if self.counts {
            endpoint.enter();
            self.leave_endpoint();
            self.endpoint = Some(endpoint.clone());
        }
    }

    fn leave_endpoint(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.leave();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.leave_endpoint();
        match self.counts {
            true => self.resource.counts.leave(),
            false => self.resource.counts.leave_uncounted(),
        }
    }
}
