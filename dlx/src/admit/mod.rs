//! Whether a request may go to its resource: at once while that is up, else as soon as it is. Here alone a request waits, and
//! here alone its time is over.

mod static_response;

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::body::Body;
use scaler_types::{Phase, Severity};
pub use static_response::{StaticAnswer, static_answer, static_answer_to};
use tokio::time::{Instant, timeout_at};

use crate::{
    answer::Refusal,
    state::{Cold, Effect, Entry, Go, Held, InFlight, Limits, Place, Queue, Rejected, WakeCause},
};

/// How often a resource's owners are told that too much is held for it.
const FULL_AGAIN: Duration = Duration::from_secs(60);
/// What a socket takes of a body, or of a TCP connection, while nobody reads it.
pub const SOCKET_TAKES: u64 = 64 * 1024;

/// A request (or TCP connection) on its way to its resource, from when it was first seen until its answer: however often
/// it is held in between, its time is counted once.
#[derive(Debug)]
pub struct Admission {
    entry: Arc<Entry>,
    since: Instant,
    deadline: Instant,
    /// Reserved for it whenever it is held; `None` until it is held for the first time.
    bytes: Option<u64>,
}

/// A request that may be forwarded.
#[derive(Debug)]
pub struct Admitted {
    /// Counts it in flight.
    pub in_flight: InFlight,
    /// Where it was held: its place among those let go, until the response head came.
    pub held: Option<(Place, Cold)>,
}

// === impl Admission ===

impl Admission {
    /// Of a request that is first seen now.
    pub fn new(entry: Arc<Entry>) -> Self {
        Self::since(entry, Instant::now())
    }

    /// Of a request that was first seen at `since`.
    fn since(entry: Arc<Entry>, since: Instant) -> Self {
        let deadline = since + entry.facts.load().settings.hold_timeout;
        Self { entry, since, deadline, bytes: None }
    }

    /// Of a request that is never held.
    pub fn at_once(entry: Arc<Entry>) -> Self {
        let now = Instant::now();
        Self { entry, since: now, deadline: now, bytes: None }
    }

    /// The same request's, for the resource that it turned out to be for.
    #[must_use]
    pub fn for_resource(self, entry: Arc<Entry>) -> Self {
        Self::since(entry, self.since)
    }

    /// For whom the request is.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Until when it may be held.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it may not be held any longer.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Lets it in if its resource is up and nobody waits in front.
    pub fn enter(&self) -> Option<InFlight> {
        self.entry.enter()
    }

    /// Notes who is about to be held, if nobody is yet: a wake tells who was the first.
    pub fn note_cause(&self, cause: impl FnOnce() -> WakeCause) {
        self.entry.note_cause(cause);
    }

    /// Waits until the request may be forwarded, but not longer than its time. `bytes` are to be reserved for it; a
    /// request that is held again reserves as many as the first time.
    ///
    /// # Errors
    ///
    /// It is not to be: what to answer.
    pub async fn wait(&mut self, bytes: u64) -> Result<Admitted, Arc<Refusal>> {
        let bytes = *self.bytes.get_or_insert(bytes);
        let mut held = hold(&self.entry, bytes)?;
        loop {
            let place = match timeout_at(self.deadline, held.told()).await {
                Ok(Go::Forward(place)) => place,
                Ok(Go::Refuse(refusal)) => return Err(refusal),
                Err(_) => {
                    self.entry.queue.count(Rejected::TooLong);
                    return Err(Arc::new(self.held_too_long()));
                }
            };
            match self.entry.enter_let_go() {
                Some(in_flight) => {
                    let cold = self.entry.read(|view| view.cold_since(self.since.into_std()));
                    return Ok(Admitted { in_flight, held: Some((place, cold)) });
                }
                None => held.rejoin(place),
            }
        }
    }

    fn held_too_long(&self) -> Refusal {
        let why = self.entry.read(|view| view.why_not_up());
        let held = Duration::from_millis(self.since.elapsed().as_millis() as u64);
        let reason = format!("held for {} and it is not up: {why}", scaler_types::duration::short(held));
        Refusal::unavailable(&self.entry.key.id, "held too long", reason, Duration::from_secs(5))
    }
}

/// Bytes to reserve for a held request: its head, and what the socket may take of its body meanwhile.
pub fn weight<B: Body>(request: &Request<B>) -> u64 {
    let head: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let head = head + request.uri().path_and_query().map_or(1, |path| path.as_str().len());
    let hint = request.body().size_hint();
    let body =
        if request.body().is_end_stream() { 0 } else { hint.upper().unwrap_or(u64::MAX).min(SOCKET_TAKES) };
    head as u64 + body
}

fn hold(entry: &Arc<Entry>, bytes: u64) -> Result<Held, Arc<Refusal>> {
    if let Some(refusal) = entry.shared().refuse_held.get() {
        entry.queue.count(Rejected::Draining);
        return Err(Arc::new(Refusal { resource: Some(entry.key.id.clone()), ..refusal.clone() }));
    }
    if let Some(refusal) = entry.read(|view| view.remembered_failure(&entry.key.id)) {
        entry.queue.count(Rejected::WakeFailed);
        return Err(Arc::new(refusal));
    }
    let settings = entry.facts.load().settings.clone();
    let limits = Limits { requests: settings.max_held_requests, bytes: settings.max_held_bytes };
    let (held, first) = Queue::join(entry, bytes, &limits, &entry.shared().totals).map_err(|reason| {
        entry.queue.count(Rejected::Full);
        tell_full(entry, &reason);
        Arc::new(Refusal::unavailable(&entry.key.id, "too much is held", reason, Duration::from_secs(1)))
    })?;
    if entry.state() == Some(Phase::Draining) {
        entry.counts.met_fence();
    }
    if first {
        entry.decide(|view| view.wanted = Some(Instant::now().into_std()));
        // A probe that took its time is now in a hurry.
        entry.tell();
    }
    // In this order: whoever takes the resource away refuses what waits after saying that it is gone.
    if entry.read(|view| view.gone) {
        entry.queue.count(Rejected::WakeFailed);
        return Err(Arc::new(Refusal::gone(&entry.key.id)));
    }
    entry.want();
    Ok(held)
}

/// Tells its owners that requests are refused because too many are held; now and then, however many they are.
fn tell_full(entry: &Arc<Entry>, reason: &str) {
    let due = entry.decide(|view| {
        let due = view.told_full.is_none_or(|told| told.elapsed() >= FULL_AGAIN);
        due.then(|| view.told_full = Some(Instant::now().into_std())).map(|()| view.source.clone())
    });
    if let Some(source) = due {
        tracing::warn!(resource = %entry.key.id, kind = %entry.key.kind, reason, "too much is held: requests are refused");
        let message = format!("requests are answered 503: {reason}");
        let severity = Severity::Warning;
        entry.carry_out(Effect::Report { source, severity, reason: "HoldFull", message });
    }
}
