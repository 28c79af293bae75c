//! Idle connections to resources. One pool per thread, so that threads do not wait for each other; keyed by the
//! incarnation of the endpoint, so that no connection outlives its process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    RequestBody,
    dial::{UpstreamError, dial, dial_http2},
    habit::KeepAliveHabit,
    resend,
    upstream::{IdleState, Upstream, peek_state},
};
use crate::state::{EndpointTarget, ResourceHandle};

/// How long a connection stays idle: less than the servers with the shortest timeouts (gunicorn 2 s, node and uvicorn 5
/// s), since a request that crosses with a close can seldom be sent again.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long an endpoint without connections is remembered.
const HABIT_RETENTION: Duration = Duration::from_secs(600);

/// The connections of one thread.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    /// Notified when a connection is kept and the upkeep rests.
    kept: Notify,
    next: AtomicUsize,
    /// Requests that were sent again.
    resent: AtomicU64,
}

/// The connections of all threads.
#[derive(Debug, Default)]
pub(crate) struct Pools(Mutex<Vec<Arc<Pool>>>);

#[derive(Debug, Default)]
struct Idle {
    endpoints: HashMap<u64, Kept>,
    /// The upkeep found nothing and rests: notify it of the next connection.
    resting: bool,
}

/// The connections to one endpoint.
#[derive(Debug)]
struct Kept {
    /// When a connection was last kept.
    since: Instant,
    http1: Vec<IdleConnection>,
    http2: Option<(Instant, http2::SendRequest<RequestBody>, Upstream)>,
    habit: KeepAliveHabit,
}

/// An idle connection that carries one request at a time.
#[derive(Debug)]
struct IdleConnection {
    stream: TcpStream,
    /// How many answers came on it, to their end.
    answers: u32,
    /// When the last answer ended.
    since: Instant,
}

/// A connection in use by a request.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// Whether a request was answered on it before.
    pub(crate) reused: bool,
    pool: Arc<Pool>,
    target: u64,
    answers: u32,
    since: Instant,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// No byte was sent; the request is whole.
    Never(UpstreamError),
    /// The resource may have seen it.
    Perhaps(UpstreamError),
    /// The resource may have seen it, and its client broke off the body: why.
    Client(String),
}

// === impl Unsent ===

impl Unsent {
    /// Classifies the error of a request that the resource may have seen.
    pub(crate) fn perhaps(error: hyper::Error) -> Self {
        // hyper blames its caller: the client's body failed.
        match std::error::Error::source(&error).filter(|_| error.is_user()) {
            Some(cause) => Self::Client(cause.to_string()),
            None => Self::Perhaps(error.into()),
        }
    }
}

// === impl Pool ===

impl Pool {
    /// Creates an empty pool. Its upkeep is a task on the current runtime.
    pub(crate) fn new() -> Arc<Self> {
        let pool = Arc::new(Self {
            idle: Mutex::default(),
            kept: Notify::new(),
            next: AtomicUsize::new(0),
            resent: AtomicU64::new(0),
        });
        tokio::spawn(upkeep(Arc::downgrade(&pool)));
        pool
    }

    /// Requests that were sent again.
    pub(crate) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// The next of `count` endpoints, in turn.
    pub(crate) fn turn(&self, count: usize) -> usize {
        if count < 2 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % count }
    }

    /// Sends a request in HTTP/2 with prior knowledge. Taken out of its place, unless it was not sent.
    pub(crate) async fn send_http2(
        self: &Arc<Self>,
        target: &EndpointTarget,
        place: &mut Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unsent> {
        let mut request = resend::take(place);
        loop {
            let (safe, second) = (resend::is_safe(&request), resend::is_second(&request));
            let kept = if second { None } else { self.take_http2(target.number) };
            let reused = kept.is_some();
            let (mut sender, upstream) = match kept {
                Some(connection) => connection,
                None => match dial_http2(target).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        *place = request;
                        return Err(Unsent::Never(error));
                    }
                },
            };
            self.keep_http2(target.number, sender.clone(), upstream.clone());
            let (first, copy) = resend::keep(request);
            let sent = Instant::now();
            let mut failed = match sender.try_send_request(first).await {
                Ok(response) => {
                    self.count_second(second);
                    return Ok(response);
                }
                Err(failed) => failed,
            };
            match (failed.take_message(), copy) {
                (Some(again), _) if reused => {
                    self.drop_http2(target.number);
                    request = again;
                }
                (Some(again), _) => {
                    *place = again;
                    return Err(Unsent::Never(failed.into_error().into()));
                }
                (None, Some(mut copy))
                    if resend::was_refused(failed.error(), &upstream) && resend::begins_again(&copy)
                        || reused && safe && resend::crossed(upstream.closed(), sent) =>
                {
                    resend::mark_second(&mut copy);
                    request = copy;
                }
                (None, _) => {
                    self.count_second(second);
                    return Err(Unsent::perhaps(failed.into_error()));
                }
            }
        }
    }

    /// Counts a request that went out for the second time.
    pub(crate) fn count_second(&self, second: bool) {
        if second {
            self.resent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_http2(&self, target: u64) -> Option<(http2::SendRequest<RequestBody>, Upstream)> {
        let mut idle = self.lock();
        let kept = &mut idle.endpoints.get_mut(&target)?.http2;
        kept.take_if(|(_, sender, upstream)| {
            sender.is_closed() || upstream.peek_state() == IdleState::Closed
        });
        kept.as_ref().map(|(_, sender, upstream)| (sender.clone(), upstream.clone()))
    }

    fn keep_http2(&self, target: u64, sender: http2::SendRequest<RequestBody>, upstream: Upstream) {
        let mut idle = self.lock();
        let now = Instant::now();
        idle.kept(target, now).http2 = Some((now, sender, upstream));
        self.wake_upkeep(&mut idle);
    }

    fn drop_http2(&self, target: u64) {
        if let Some(kept) = self.lock().endpoints.get_mut(&target) {
            kept.http2 = None;
        }
    }

    /// An idle connection; for a request that cannot be sent again, one that is likely to stay open.
    pub(crate) fn take_idle(
        self: &Arc<Self>,
        target: &EndpointTarget,
        safe: bool,
    ) -> Option<PooledConnection> {
        let IdleConnection { stream, answers, since } = self.take(target.number, safe)?;
        Some(self.pooled(target.number, stream, answers, since))
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// The endpoint cannot be reached.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        target: &EndpointTarget,
    ) -> Result<PooledConnection, UpstreamError> {
        let stream = dial(target).await?;
        Ok(self.pooled(target.number, stream, 0, Instant::now()))
    }

    fn pooled(
        self: &Arc<Self>,
        target: u64,
        stream: TcpStream,
        answers: u32,
        since: Instant,
    ) -> PooledConnection {
        PooledConnection { stream, reused: answers > 0, pool: self.clone(), target, answers, since }
    }

    fn take(&self, target: u64, safe: bool) -> Option<IdleConnection> {
        let mut idle = self.lock();
        let kept = idle.endpoints.get_mut(&target)?;
        if kept.http1.is_empty() {
            return None;
        }
        let now = Instant::now();
        // From the end: the last used is the least likely to be closed soon.
        let mut at = kept.http1.len();
        while at > 0 {
            at -= 1;
            let connection = &kept.http1[at];
            if !safe && !kept.habit.trusted(connection.since, now) {
                continue;
            }
            if peek_state(&connection.stream) == IdleState::Quiet {
                return Some(kept.http1.swap_remove(at));
            }
            kept.habit.closed(connection.answers, connection.since, now);
            kept.http1.swap_remove(at);
        }
        None
    }

    fn put(&self, target: u64, stream: TcpStream, answers: u32) {
        let now = Instant::now();
        let connection = IdleConnection { stream, answers: answers.saturating_add(1), since: now };
        let mut idle = self.lock();
        let kept = idle.kept(target, now);
        kept.habit.answered(connection.answers);
        if kept.habit.keep(now) {
            kept.http1.push(connection);
            self.wake_upkeep(&mut idle);
        }
    }

    /// Wakes the upkeep if it rests.
    fn wake_upkeep(&self, idle: &mut Idle) {
        if std::mem::take(&mut idle.resting) {
            self.kept.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections to these endpoints.
    pub(crate) fn close_idle(&self, unlisted: &[u64]) {
        self.lock().endpoints.retain(|number, _| !unlisted.contains(&EndpointTarget::listed(*number)));
    }

    /// Drops connections that were idle for too long, and forgets endpoints that are not used any more: a connection may
    /// still be kept after its endpoint was last listed. When to look again, if a connection is left.
    fn drop_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let fresh = |at: Instant| now.duration_since(at) < IDLE_TIMEOUT;
        let mut left = false;
        let mut idle = self.lock();
        idle.endpoints.retain(|_, kept| {
            kept.http1.retain(|connection| fresh(connection.since));
            // A dropped handle ends the connection only when its streams are done.
            kept.http2.take_if(|(since, sender, _)| sender.is_closed() || !fresh(*since));
            let holds = !kept.http1.is_empty() || kept.http2.is_some();
            left |= holds;
            holds || now.duration_since(kept.since) < HABIT_RETENTION
        });
        idle.resting = !left;
        left.then_some(now + IDLE_TIMEOUT)
    }
}

// === impl Pools ===

impl Pools {
    /// Adds the pool of a thread.
    pub(crate) fn add(&self, pool: Arc<Pool>) {
        self.lock().push(pool);
    }

    /// Requests that were sent again.
    pub(crate) fn resent(&self) -> u64 {
        self.lock().iter().map(|pool| pool.resent()).sum()
    }

    /// Closes the idle connections to endpoints that are not listed any more: a pod that ends may wait for that.
    pub(crate) fn close_idle(&self, unlisted: &[u64]) {
        for pool in self.lock().iter() {
            pool.close_idle(unlisted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Pool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops connections that were idle for too long; rests while there are none.
async fn upkeep(pool: std::sync::Weak<Pool>) {
    loop {
        let Some(pool) = pool.upgrade() else { return };
        match pool.drop_old() {
            Some(again) => {
                drop(pool);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "that a connection was not used for a while is the event"
                )]
                sleep_until(again).await;
            }
            None => pool.kept.notified().await,
        }
    }
}

// === impl Idle ===

impl Idle {
    /// The connections to an endpoint, to which one is about to be added.
    fn kept(&mut self, target: u64, now: Instant) -> &mut Kept {
        let new = || Kept { since: now, http1: Vec::new(), http2: None, habit: KeepAliveHabit::default() };
        let kept = self.endpoints.entry(target).or_insert_with(new);
        kept.since = now;
        kept
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    /// At the end of the response: keeps the connection if its endpoint still takes requests.
    pub(crate) fn return_to_pool(self, resource: &ResourceHandle) {
        let Self { stream, pool, target, answers, .. } = self;
        if resource.is_ready_at(EndpointTarget::listed(target)) {
            pool.put(target, stream, answers);
        }
    }

    /// Notes that it was closed while the next request was on its way.
    pub(crate) fn note_closed(self) {
        if let Some(kept) = self.pool.lock().endpoints.get_mut(&self.target) {
            kept.habit.closed(self.answers, self.since, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use scaler_types::Endpoint;
    use tokio::{net::TcpListener, time::advance};

    use super::*;

    /// Connections are kept one after another for endpoints that are not listed any more.
    #[tokio::test(start_paused = true)]
    async fn unused_endpoints_are_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new();
        for _ in 0..3 {
            let target = EndpointTarget::new(Endpoint::new(listener.local_addr().unwrap().to_string(), ""));
            let (sender, upstream) = dial_http2(&target).await.unwrap();
            pool.close_idle(&[target.number]);
            pool.keep_http2(target.number, sender, upstream);
        }
        assert_eq!(pool.lock().endpoints.len(), 3);
        advance(IDLE_TIMEOUT).await;
        assert_eq!(pool.drop_old(), None);
        advance(HABIT_RETENTION).await;
        pool.drop_old();
        assert_eq!(pool.lock().endpoints.len(), 0);
    }
}
