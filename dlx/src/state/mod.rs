//! One resource as this DLX knows it: its gate, its endpoints, its counts and what waits for it.

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
use daemon::settings::Settings;
pub(crate) use host::{is_host, normalize};
use http::HeaderValue;
pub(crate) use interceptions::{InterceptionGuard, Interceptions};
pub(crate) use queue::{
    Dispatch, DispatchPermit, HeldRequest, HeldTotals, HoldLimits, NamespaceShare, Queue, QueueFull,
    Rejection,
};
pub(crate) use resources::Resources;
use scaler_types::{
    Nonce, Phase, Resource, ResourceId, ScaleResource, Severity, TrafficMode,
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

/// What identifies a resource in this process.
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
    /// What stands in `Via` of requests that are sent to an address which may lead back to a DLX.
    pub(crate) mark: HeaderValue,
    /// When this process first saw it: the number of the listing that brought it.
    pub(crate) first_seen: u64,
    /// Nothing of it was missed: this process has counted it since it began, or had never forgotten anything when it came.
    pub(crate) since_start: bool,
    /// What it has to do.
    pub(crate) counts: Counts,
    /// What waits for it.
    pub(crate) queue: Queue,
    /// What waits for all of its namespace.
    pub(crate) share: Arc<NamespaceShare>,
    /// What the proxy path needs to know.
    pub(crate) facts: ArcSwap<Snapshot>,
    /// The gate is open and an endpoint is ready. Mirrors the view; written under its lock only.
    open: AtomicBool,
    view: Mutex<ResourceView>,
    changed: watch::Sender<u64>,
    shared: Arc<SharedState>,
}

/// What the proxy path needs to know of a resource, replaced as a whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Endpoints that are ready.
    pub(crate) ready: Vec<Arc<EndpointTarget>>,
    /// What holds for its requests.
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
    /// It keeps its resource awake.
    counts: bool,
}

// === impl ResourceKey ===

impl ResourceKey {
    /// `1.1 scaler-HASH`: the same in every DLX.
    fn mark(&self) -> HeaderValue {
        // Its keys are fixed. Should another version of it hash otherwise, two DLXs count each their own.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        // Letters, digits, dots and hyphens alone: always a header's value.
        HeaderValue::try_from(format!("1.1 scaler-{:016x}", hasher.finish()))
            .unwrap_or(HeaderValue::from_static("1.1 scaler"))
    }
}

// === impl ResourceHandle ===

impl ResourceHandle {
    /// A resource that was just seen for the first time. Its gate is shut until [`observe`](Self::observe) says otherwise.
    pub(crate) fn new(
        key: ResourceKey,
        first_seen: u64,
        source: Arc<PluginSource>,
        shared: Arc<SharedState>,
    ) -> Self {
        let settings = source.settings.load_full();
        Self {
            first_seen,
            since_start: false,
            counts: Counts::default(),
            queue: Queue::default(),
            share: shared.totals.share(&key.id.namespace),
            facts: ArcSwap::from_pointee(Snapshot { ready: Vec::new(), settings }),
            open: AtomicBool::new(false),
            view: Mutex::new(ResourceView::new(key.id.clone(), source, shared.rules)),
            changed: watch::Sender::new(0),
            mark: key.mark(),
            key,
            shared,
        }
    }

    /// What it shares with the other resources.
    pub(crate) fn shared(&self) -> &Arc<SharedState> {
        &self.shared
    }

    /// Told whenever its view changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether a request that comes now need not wait.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_empty() && self.open.load(Ordering::SeqCst)
    }

    /// Whether the gate is open and an endpoint is ready.
    pub(crate) fn is_up(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Enters if the gate is open and nobody waits in front.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        if !self.queue.is_empty() {
            return None;
        }
        self.enter_dispatched()
    }

    /// Enters if the gate is open.
    pub(crate) fn enter_dispatched(self: &Arc<Self>) -> Option<InFlight> {
        // Counted before the gate is asked; see [`activity`].
        self.counts.enter();
        if self.open.load(Ordering::SeqCst) {
            Some(InFlight { resource: self.clone(), counts: true })
        } else {
            self.counts.retreat();
            None
        }
    }

    /// Enters if the gate is open, without keeping anything awake.
    pub(crate) fn enter_uncounted(self: &Arc<Self>) -> Option<InFlight> {
        // As above. From here on dropping it takes it back.
        self.counts.enter_uncounted();
        let in_flight = InFlight { resource: self.clone(), counts: false };
        self.open.load(Ordering::SeqCst).then_some(in_flight)
    }

    /// Remembers who is about to be held, if nobody is yet: a wake tells who was the first.
    pub(crate) fn note_cause(&self, cause: impl FnOnce() -> WakeCause) {
        if !self.queue.has_waiting() {
            let cause = cause();
            self.decide(|view| view.wake_cause = Some(cause));
        }
    }

    /// Makes sure that what waits is let go, or that somebody works on it.
    pub(crate) fn want(self: &Arc<Self>) {
        if self.open.load(Ordering::SeqCst) {
            return self.release();
        }
        let mut view = self.lock();
        if self.open.load(Ordering::SeqCst) {
            drop(view);
            self.release();
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

    /// Wakes whoever waits for a change of the view.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, ResourceView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go what may go.
    pub(crate) fn release(self: &Arc<Self>) {
        if self.open.load(Ordering::SeqCst) {
            let facts = self.facts.load();
            Queue::release(
                self,
                facts.settings.slow_start_requests_per_endpoint.saturating_mul(facts.ready.len()),
            );
        }
    }

    /// Refuses all that wait.
    pub(crate) fn refuse_held(&self, refusal: ErrorResponse, why: Rejection) {
        for _ in 0..self.queue.len() {
            self.queue.count(why);
        }
        self.queue.refuse_all(&Arc::new(refusal));
    }

    /// Looks at the view.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&ResourceView) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the view without anything following from it: for whoever does himself what is to be done.
    pub(crate) fn decide<R>(&self, decide: impl FnOnce(&mut ResourceView) -> R) -> R {
        decide(&mut self.lock())
    }

    /// Changes the view, and does what follows from it: mirrors the gate, lets go what may go, finds out whether
    /// endpoints are ready, finishes a wake, and makes somebody work on what still waits.
    pub(crate) fn update<R>(self: &Arc<Self>, change: impl FnOnce(&mut ResourceView) -> R) -> R {
        let mut guard = self.lock();
        let view = &mut *guard;
        let result = change(view);
        let was_open = self.open.load(Ordering::SeqCst);
        for target in view.take_unprobed() {
            self.carry_out(Effect::Probe(target));
        }
        if std::mem::take(&mut view.facts_changed) {
            self.facts.store(Arc::new(Snapshot { ready: view.ready(), settings: view.settings() }));
        }
        let unlisted = std::mem::take(&mut view.unlisted);
        let ready = view.is_ready();
        let open = view.gate.open() && ready;
        self.open.store(open, Ordering::SeqCst);
        if ready && let order @ GateOrder::Write { .. } = view.answers() {
            self.carry_out(Effect::Write(order));
        }
        if open && !was_open {
            self.queue.opened();
        }
        view.note_progress();
        if view.is_seen_to_be_own() {
            self.report_wake_started(view, view.wake_cause.as_ref());
        }
        if open
            && !was_open
            && let Some((took, phases, own)) = view.came_up()
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
            self.release();
        }
        result
    }

    /// This DLX's own wake was written, as its plugin says: told to the resource's owners, unless that was done.
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
        self.report(view, Severity::Normal, "WakeStarted", message);
    }

    /// A wake of this DLX's own ended well.
    fn count_woken(self: &Arc<Self>, view: &ResourceView, took: Duration, phases: &ColdStartPhases) {
        self.carry_out(Effect::Woken(took, *phases));
        self.counts.woken(WakeOutcome::Awake);
        let message = format!("ready {:.3} s after the wake began: {phases}", took.as_secs_f64());
        self.report(view, Severity::Normal, "Woken", message);
    }

    fn report(
        self: &Arc<Self>,
        view: &ResourceView,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        self.carry_out(Effect::Report { source: view.source.clone(), severity, reason, message });
    }

    /// Has the driver do what follows from a change.
    pub(crate) fn carry_out(self: &Arc<Self>, effect: Effect) {
        self.shared.carry_out(self, effect);
    }

    /// The plugin told its state; in the order of the plugin's stream.
    pub(crate) fn observe(self: &Arc<Self>, source: &Arc<PluginSource>, resource: Resource) {
        self.update(|view| {
            // With traffic mode `external` nothing is fenced: its own controller's record is not ours to read.
            let record = if resource.traffic_mode == TrafficMode::External { Default::default() } else { resource.record.clone() };
            let seen = Seen { record, version: resource.version.clone(), scaled: resource.replicas > 0 };
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

    /// Waits, but not longer than until `deadline`, until the fence `nonce` can be confirmed, or says why not.
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
                // The gate is shut by now if the fence is seen: `open` was mirrored under this lock.
                let in_flight = self.counts.under_way();
                let held = self.queue.len() as u64;
                view.gate.step(GateInput::Asked { nonce, in_flight, held })
            };
            match order {
                GateOrder::Confirm => return Ok(()),
                GateOrder::Refuse(Refusal::InFlight(n)) => return Err(DrainNotConfirmed::InFlight(n)),
                GateOrder::Refuse(Refusal::Held(n)) => return Err(DrainNotConfirmed::Held(n)),
                // It will not come again.
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

    /// Could not be connected to: nothing goes there until it answers again. Whether it is one of those listed.
    pub(crate) fn unreachable(self: &Arc<Self>, target: &EndpointTarget, reason: String) -> bool {
        self.update(|view| view.unreachable(target.number, reason))
    }

    /// Whether requests go to that endpoint now.
    pub(crate) fn goes_to(&self, number: u64) -> bool {
        self.facts.load().ready.iter().any(|target| target.number == number)
    }

    /// A probe of an endpoint found no answer.
    pub(crate) fn note_probe(&self, number: u64, error: String) {
        // Changes nothing that anybody waits for.
        self.lock().unanswered(number, error);
    }

    /// The largest window in which it may count as idle.
    pub(crate) fn largest_window(&self) -> Duration {
        let facts = self.facts.load();
        let largest = |metrics: &[ScaleResource]| metrics.iter().map(|metric| metric.window_size).max();
        let own = self.read(|view| largest(&view.resource.scale_resources));
        own.or_else(|| largest(&facts.settings.scale_resources)).unwrap_or(DEFAULT_WINDOW)
    }

    /// Whether it runs by what its record and its scale say, whatever its endpoints say.
    pub(crate) fn is_awake(&self) -> bool {
        let runs = |seen: &Seen| seen.record.phase == Phase::Active && seen.scaled;
        self.read(|view| view.gate.seen().is_some_and(runs))
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> Option<Phase> {
        self.read(|view| view.gate.seen().map(|seen| seen.record.phase))
    }
}

// === impl InFlight ===

impl InFlight {
    /// Whose.
    pub(crate) fn resource(&self) -> &Arc<ResourceHandle> {
        &self.resource
    }

    /// Whether it keeps its resource awake, and may wait for it.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        match self.counts {
            true => self.resource.counts.leave(),
            false => self.resource.counts.leave_uncounted(),
        }
    }
}
