//! Decides whether a request is forwarded at once or held until its resource is up. Held requests wait and time out
//! here.

mod static_response;

use std::{sync::Arc, time::Duration};

use daemon::events;
use http::Request;
use hyper::body::Body;
use scaler_types::Phase;
pub(crate) use static_response::{StaticAnswer, static_answer, static_answer_to};
use tokio::time::{Instant, timeout_at};

use crate::{
    answer::ErrorResponse,
    error_code,
    identify::head::{Head, Length},
    state::{
        ColdStart, Dispatch, DispatchPermit, Effect, HeldRequest, HoldLimits, InFlight, Queue, QueueFull,
        Rejection, ResourceHandle, WakeCause,
    },
};

/// How often the Event `TooManyHeld` is reported for a resource.
const TOO_MANY_HELD_EVENT_INTERVAL: Duration = Duration::from_secs(60);
/// How much of a body, or of a TCP connection, a socket takes while nothing reads it.
pub(crate) const SOCKET_BUFFER_BYTES: u64 = 64 * 1024;

/// A request (or TCP connection) from when it was first seen until its answer: however often it is held in between, its
/// time counts once.
#[derive(Debug)]
pub(crate) struct Admission {
    resource: Arc<ResourceHandle>,
    since: Instant,
    deadline: Instant,
    /// The bytes reserved while it is held; `None` until it is held for the first time.
    bytes: Option<u64>,
}

/// A request that may be forwarded.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Counts it in flight.
    pub(crate) in_flight: InFlight,
    /// If it was held: its permit until the head of the response, and its cold start.
    pub(crate) held: Option<(DispatchPermit, ColdStart)>,
}

// === impl Admission ===

impl Admission {
    /// For a request that is first seen now.
    pub(crate) fn new(resource: Arc<ResourceHandle>) -> Self {
        Self::since(resource, Instant::now())
    }

    /// For a request that was first seen at `since`.
    fn since(resource: Arc<ResourceHandle>, since: Instant) -> Self {
        let deadline = since + resource.snapshot.load().settings.hold_timeout;
        Self { resource, since, deadline, bytes: None }
    }

    /// For a request that is never held.
    pub(crate) fn at_once(resource: Arc<ResourceHandle>) -> Self {
        let now = Instant::now();
        Self { resource, since: now, deadline: now, bytes: None }
    }

    /// The same request, for the resource that it turned out to be for.
    #[must_use]
    pub(crate) fn for_resource(self, resource: Arc<ResourceHandle>) -> Self {
        Self::since(resource, self.since)
    }

    /// The resource.
    pub(crate) fn resource(&self) -> &Arc<ResourceHandle> {
        &self.resource
    }

    /// Until when it may be held.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it may not be held any longer.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Enters if its resource is up and no request is held.
    pub(crate) fn enter(&self) -> Option<InFlight> {
        self.resource.enter()
    }

    /// Notes the cause of a wake if this request is the first to be held.
    pub(crate) fn note_cause(&self, cause: impl FnOnce() -> WakeCause) {
        self.resource.note_cause(cause);
    }

    /// Waits until the request may be forwarded, but not longer than its deadline. `bytes` are reserved for it; a request
    /// that is held again reserves as many as the first time.
    ///
    /// # Errors
    ///
    /// It is refused: the answer.
    pub(crate) async fn wait(&mut self, bytes: u64) -> Result<Admitted, Arc<ErrorResponse>> {
        let bytes = *self.bytes.get_or_insert(bytes);
        let mut held = hold(&self.resource, bytes)?;
        loop {
            let permit = match timeout_at(self.deadline, held.wait_for_dispatch()).await {
                Ok(Dispatch::Forward(permit)) => permit,
                Ok(Dispatch::Refuse(refusal)) => return Err(refusal),
                Err(_) => {
                    self.resource.queue.count(Rejection::TooLong);
                    return Err(Arc::new(self.held_too_long()));
                }
            };
            match self.resource.enter_dispatched() {
                Some(in_flight) => {
                    let cold = self.resource.read(|view| view.cold_since(self.since.into_std()));
                    return Ok(Admitted { in_flight, held: Some((permit, cold)) });
                }
                None => held.rejoin(permit),
            }
        }
    }

    fn held_too_long(&self) -> ErrorResponse {
        let why = self.resource.read(|view| view.why_not_up());
        let held = Duration::from_millis(self.since.elapsed().as_millis() as u64);
        let reason =
            format!("held for {} and the resource is not ready: {why}", scaler_types::duration::short(held));
        ErrorResponse::unavailable(
            &self.resource.key.id,
            error_code::HELD_TOO_LONG,
            reason,
            Duration::from_secs(5),
        )
    }
}

/// Bytes to reserve for a held request: its head, and how much of its body the socket takes meanwhile.
pub(crate) fn weight<B: Body>(request: &Request<B>) -> u64 {
    let head: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let head = head + request.uri().path_and_query().map_or(1, |path| path.as_str().len());
    let hint = request.body().size_hint();
    let body = if request.body().is_end_stream() {
        0
    } else {
        hint.upper().unwrap_or(u64::MAX).min(SOCKET_BUFFER_BYTES)
    };
    head as u64 + body
}

/// The same for a request of which only the head was parsed.
pub(crate) fn head_weight(head: &Head<'_, '_>) -> u64 {
    let body = match head.body {
        Length::Known(length) => length,
        Length::Chunked => u64::MAX,
    };
    head.len as u64 + body.min(SOCKET_BUFFER_BYTES)
}

fn hold(resource: &Arc<ResourceHandle>, bytes: u64) -> Result<HeldRequest, Arc<ErrorResponse>> {
    if let Some(refusal) = resource.shared().refuse_held.get() {
        resource.queue.count(Rejection::ShuttingDown);
        return Err(Arc::new(ErrorResponse { resource: Some(resource.key.id.clone()), ..refusal.clone() }));
    }
    if let Some(refusal) = resource.read(|view| view.remembered_failure(&resource.key.id)) {
        resource.queue.count(Rejection::WakeFailed);
        return Err(Arc::new(refusal));
    }
    let settings = resource.snapshot.load().settings.clone();
    let limits = HoldLimits { requests: settings.max_held_requests, bytes: settings.max_held_bytes };
    let (held, first) = Queue::join(resource, bytes, &limits, &resource.shared().totals).map_err(|full| {
        resource.queue.count(Rejection::TooManyHeld);
        report_full(resource, &full);
        Arc::new(ErrorResponse::unavailable(
            &resource.key.id,
            error_code::TOO_MANY_HELD,
            format!("too many held requests: {full}"),
            Duration::from_secs(1),
        ))
    })?;
    if resource.state() == Some(Phase::Draining) {
        resource.counts.met_drain();
    }
    if first {
        resource.decide(|view| view.held_since = Some(Instant::now().into_std()));
        // Probes are frequent from now on.
        resource.notify();
    }
    // In this order: a resource is marked gone before its held requests are refused.
    if resource.read(|view| view.gone) {
        resource.queue.count(Rejection::WakeFailed);
        return Err(Arc::new(ErrorResponse::gone(&resource.key.id)));
    }
    resource.serve_held();
    Ok(held)
}

/// Reports that requests are refused because too many are held; at intervals, however many they are.
fn report_full(resource: &Arc<ResourceHandle>, full: &QueueFull) {
    let due = resource.decide(|view| {
        let due =
            view.full_reported.is_none_or(|reported| reported.elapsed() >= TOO_MANY_HELD_EVENT_INTERVAL);
        due.then(|| view.full_reported = Some(Instant::now().into_std())).map(|()| view.source.clone())
    });
    if let Some(source) = due {
        tracing::warn!(resource = %resource.key.id, kind = %resource.key.kind, reason = %full, "refusing requests: too many are held");
        let message = format!("requests are answered 503: {full}");
        resource.carry_out(Effect::Report { source, reason: events::TOO_MANY_HELD, message });
    }
}
