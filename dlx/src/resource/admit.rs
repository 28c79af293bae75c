//! Into the gate: at once, or when the request was held and its resource is up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use scaler_types::{Severity, State};

use super::{Admitted, Entry, InFlight};
use crate::{
    answer::Refusal,
    hold::{Go, Held, Limits, Queue, Rejected},
    wake::WakeCause,
};

/// How often a resource's owners are told that too much is held for it.
const FULL_AGAIN: Duration = Duration::from_secs(60);

// === impl Entry ===

impl Entry {
    /// Enters if the gate is open and nobody waits in front.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        if !self.queue.is_empty() {
            return None;
        }
        self.enter_let_go()
    }

    /// Enters if the gate is open.
    pub fn enter_let_go(self: &Arc<Self>) -> Option<InFlight> {
        // Counted before the gate is asked; see [`crate::activity`].
        self.counts.enter();
        if self.open.load(Ordering::SeqCst) {
            Some(InFlight { entry: self.clone(), counts: true })
        } else {
            self.counts.retreat();
            None
        }
    }

    /// Enters if the gate is open, without keeping anything awake.
    pub fn enter_uncounted(self: &Arc<Self>) -> Option<InFlight> {
        // As above. From here on dropping it takes it back.
        self.counts.enter_uncounted();
        let in_flight = InFlight { entry: self.clone(), counts: false };
        self.open.load(Ordering::SeqCst).then_some(in_flight)
    }

    /// Remembers who is about to be [held](Self::admit), if nobody is yet: a wake tells who was the first.
    pub fn note_cause(&self, cause: impl FnOnce() -> WakeCause) {
        if !self.queue.has_waiting() {
            let cause = cause();
            self.decide(|view| view.wake_cause = Some(cause));
        }
    }

    /// Waits until the request may be forwarded, but not longer than until `deadline`. `bytes` are reserved for it.
    ///
    /// # Errors
    ///
    /// It is not to be: what to answer.
    pub async fn admit(
        self: &Arc<Self>,
        bytes: u64,
        deadline: tokio::time::Instant,
    ) -> Result<Admitted, Arc<Refusal>> {
        let begun = Instant::now();
        let mut held = self.hold(bytes)?;
        loop {
            let place = match tokio::time::timeout_at(deadline, held.told()).await {
                Ok(Go::Forward(place)) => place,
                Ok(Go::Refuse(refusal)) => return Err(refusal),
                Err(_) => {
                    self.queue.count(Rejected::TooLong);
                    return Err(Arc::new(self.held_too_long(begun.elapsed())));
                }
            };
            match self.enter_let_go() {
                Some(in_flight) => {
                    let cold = self.read(|view| view.cold_since(begun));
                    return Ok(Admitted { in_flight, held: Some((place, cold)) });
                }
                None => held.rejoin(place),
            }
        }
    }

    fn hold(self: &Arc<Self>, bytes: u64) -> Result<Held, Arc<Refusal>> {
        if let Some(refusal) = self.shared.refuse_held.get() {
            self.queue.count(Rejected::Draining);
            return Err(Arc::new(Refusal { resource: Some(self.key.id.clone()), ..refusal.clone() }));
        }
        if let Some(refusal) = self.read(|view| view.remembered_failure(&self.key.id)) {
            self.queue.count(Rejected::WakeFailed);
            return Err(Arc::new(refusal));
        }
        let settings = self.facts.load().settings.clone();
        let limits = Limits { requests: settings.max_held_requests, bytes: settings.max_held_bytes };
        let (held, first) = Queue::join(self, bytes, &limits, &self.shared.totals).map_err(|reason| {
            self.queue.count(Rejected::Full);
            self.tell_full(&reason);
            Arc::new(Refusal::unavailable(&self.key.id, "too much is held", reason, Duration::from_secs(1)))
        })?;
        if self.state() == Some(State::Draining) {
            self.counts.met_fence();
        }
        if first {
            self.decide(|view| view.wanted = Some(Instant::now()));
            // A probe that took its time is now in a hurry.
            self.tell();
        }
        // In this order: whoever takes the resource away refuses what waits after saying that it is gone.
        if self.read(|view| view.gone) {
            self.queue.count(Rejected::WakeFailed);
            return Err(Arc::new(Refusal::gone(&self.key.id)));
        }
        self.want();
        Ok(held)
    }

    /// Tells its owners that requests are refused because too many are held; now and then, however many they are.
    fn tell_full(&self, reason: &str) {
        let due = self.decide(|view| {
            let due = view.told_full.is_none_or(|told| told.elapsed() >= FULL_AGAIN);
            due.then(|| view.told_full = Some(Instant::now())).map(|()| view.source.clone())
        });
        if let Some(source) = due {
            tracing::warn!(resource = %self.key.id, kind = %self.key.kind, reason, "too much is held: requests are refused");
            let message = format!("requests are answered 503: {reason}");
            source.reports.report(&self.key.id, Severity::Warning, "HoldFull", message);
        }
    }

    fn held_too_long(&self, held: Duration) -> Refusal {
        let why = self.read(|view| view.why_not_up());
        let reason = format!(
            "held for {} and it is not up: {why}",
            scaler_types::duration::short(Duration::from_millis(held.as_millis() as u64))
        );
        Refusal::unavailable(&self.key.id, "held too long", reason, Duration::from_secs(5))
    }
}
