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
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    RequestBody,
    dial::{UpstreamError, dial, dial_http1, dial_http2, handshake_http1},
    habit::KeepAliveHabit,
    resend,
    upstream::{self, IdleState, Upstream},
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
    http1: Vec<Connection>,
    http2: Option<(Instant, http2::SendRequest<RequestBody>, Upstream)>,
    habit: KeepAliveHabit,
}

/// A connection that carries one request at a time.
#[derive(Debug)]
struct Connection {
    link: Link,
    /// How many answers came on it, to their end.
    answers: u32,
    /// When the last answer ended, or it was made.
    since: Instant,
}

/// Who reads and writes an open connection. An idle one may change hands.
#[derive(Debug)]
enum Link {
    /// The HTTP library.
    Library(http1::SendRequest<RequestBody>, Upstream),
    /// The relay.
    Relay(TcpStream),
}

/// A connection in use by the relay.
#[derive(Debug)]
pub(crate) struct RelayConnection {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// Whether a request was answered on it before.
    pub(crate) reused: bool,
    pool: Arc<Pool>,
    target: u64,
    answers: u32,
    since: Instant,
}

/// A connection in use by a request.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    pool: Arc<Pool>,
    target: u64,
    connection: Connection,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// No byte was sent; the request again.
    Never(Box<Request<RequestBody>>, UpstreamError),
    /// The resource may have seen it.
    Perhaps(UpstreamError),
    /// The resource may have seen it, and its client broke off the body.
    Client(hyper::Error),
}

// === impl Unsent ===

impl Unsent {
    /// Classifies the error of a request that the resource may have seen.
    pub(crate) fn perhaps(error: hyper::Error) -> Self {
        // hyper blames its caller: the client's body failed.
        match error.is_user() && std::error::Error::source(&error).is_some() {
            true => Self::Client(error),
            false => Self::Perhaps(error.into()),
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

    /// Sends a request in HTTP/1.1 and waits for the response's head.
    pub(crate) async fn send(
        self: &Arc<Self>,
        target: &EndpointTarget,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, PooledConnection), Unsent> {
        loop {
            let (safe, second) = (resend::is_safe(&request), resend::is_second(&request));
            // A request that is sent again takes a new connection.
            let kept = if second { None } else { self.take(target.number, safe) };
            let reused = kept.is_some();
            let (answers, since) =
                kept.as_ref().map_or((0, Instant::now()), |kept| (kept.answers, kept.since));
            let library = match kept.map(|kept| kept.link) {
                Some(Link::Library(sender, upstream)) => Ok((sender, upstream)),
                Some(Link::Relay(stream)) => Box::pin(handshake_http1(stream, target)).await,
                None => Box::pin(dial_http1(target)).await,
            };
            let (mut sender, upstream) = match library {
                Ok(library) => library,
                Err(error) => return Err(Unsent::Never(Box::new(request), error)),
            };
            let copy = (reused && safe).then(|| resend::copy(&request));
            let sent = Instant::now();
            upstream.begin();
            let result = sender.try_send_request(request).await;
            let connection = Connection { link: Link::Library(sender, upstream.clone()), answers, since };
            let mut failed = match result {
                Ok(response) => {
                    self.count_second(second);
                    return Ok((
                        response,
                        PooledConnection { pool: self.clone(), target: target.number, connection },
                    ));
                }
                Err(failed) => failed,
            };
            match (failed.take_message(), copy) {
                // The idle connection was closed: try the next, or a new one.
                (Some(again), _) if reused => request = again,
                (Some(again), _) => return Err(Unsent::Never(Box::new(again), failed.into_error().into())),
                (None, Some(copy)) if !upstream.answered() && resend::crossed(upstream.closed(), sent) => {
                    self.note_closed(target.number, &connection);
                    request = resend::second(copy);
                }
                (None, _) => {
                    self.count_second(second);
                    return Err(Unsent::perhaps(failed.into_error()));
                }
            }
        }
    }

    /// Sends a request in HTTP/2 with prior knowledge.
    pub(crate) async fn send_http2(
        self: &Arc<Self>,
        target: &EndpointTarget,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unsent> {
        loop {
            let (safe, second) = (resend::is_safe(&request), resend::is_second(&request));
            let kept = if second { None } else { self.take_http2(target.number) };
            let reused = kept.is_some();
            let (mut sender, upstream) = match kept {
                Some(connection) => connection,
                None => match dial_http2(target).await {
                    Ok(connection) => connection,
                    Err(error) => return Err(Unsent::Never(Box::new(request), error)),
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
                (Some(again), _) => return Err(Unsent::Never(Box::new(again), failed.into_error().into())),
                (None, Some(copy))
                    if resend::was_refused(failed.error(), &upstream) && resend::begins_again(&copy)
                        || reused && safe && resend::crossed(upstream.closed(), sent) =>
                {
                    request = resend::second(copy);
                }
                (None, _) => {
                    self.count_second(second);
                    return Err(Unsent::perhaps(failed.into_error()));
                }
            }
        }
    }

    /// Counts a request that went out for the second time.
    fn count_second(&self, second: bool) {
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

    /// An idle connection for the relay; as [`take`](Self::take) chooses.
    pub(crate) fn take_idle(
        self: &Arc<Self>,
        target: &EndpointTarget,
        safe: bool,
    ) -> Option<RelayConnection> {
        loop {
            let Connection { link, answers, since } = self.take(target.number, safe)?;
            let stream = match link {
                Link::Relay(stream) => Some(stream),
                Link::Library(_, upstream) => upstream.detach(),
            };
            if let Some(stream) = stream {
                return Some(self.relayed(target.number, stream, answers, since));
            }
        }
    }

    /// A new connection for the relay.
    ///
    /// # Errors
    ///
    /// The endpoint cannot be reached.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        target: &EndpointTarget,
    ) -> Result<RelayConnection, UpstreamError> {
        let stream = dial(target).await?;
        Ok(self.relayed(target.number, stream, 0, Instant::now()))
    }

    fn relayed(
        self: &Arc<Self>,
        target: u64,
        stream: TcpStream,
        answers: u32,
        since: Instant,
    ) -> RelayConnection {
        RelayConnection { stream, reused: answers > 0, pool: self.clone(), target, answers, since }
    }

    /// An idle connection; for a request that cannot be sent again, one that is likely to stay open.
    fn take(&self, target: u64, safe: bool) -> Option<Connection> {
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
            let closed = connection.is_closed();
            let fits = connection.is_ready() && (safe || kept.habit.trusted(connection.since, now));
            if closed || fits && connection.peek_state() != IdleState::Quiet {
                connection.record_close(&mut kept.habit, now);
                kept.http1.swap_remove(at);
            } else if fits {
                return Some(kept.http1.swap_remove(at));
            }
        }
        None
    }

    fn put(&self, target: u64, mut connection: Connection) {
        let now = Instant::now();
        connection.answers = connection.answers.saturating_add(1);
        connection.since = now;
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

    /// Notes that a connection was closed while the next request was on its way.
    fn note_closed(&self, target: u64, connection: &Connection) {
        if let Some(kept) = self.lock().endpoints.get_mut(&target) {
            connection.record_close(&mut kept.habit, Instant::now());
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
            let habit = &mut kept.habit;
            kept.http1.retain(|connection| {
                let closed = connection.is_closed();
                if closed {
                    connection.record_close(habit, now);
                }
                !closed && fresh(connection.since)
            });
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

// === impl Connection ===

impl Connection {
    /// Whether its end was seen. That of the relay's is seen only by [`peek_state`](Self::peek_state).
    fn is_closed(&self) -> bool {
        match &self.link {
            Link::Library(sender, _) => sender.is_closed(),
            Link::Relay(_) => false,
        }
    }

    /// Whether the last exchange on it is over.
    fn is_ready(&self) -> bool {
        match &self.link {
            Link::Library(sender, _) => sender.is_ready(),
            Link::Relay(_) => true,
        }
    }

    fn peek_state(&self) -> IdleState {
        match &self.link {
            Link::Library(_, upstream) => upstream.peek_state(),
            Link::Relay(stream) => upstream::peek_state(stream),
        }
    }

    /// Notes that it was closed by `now`, or earlier if that was seen.
    fn record_close(&self, habit: &mut KeepAliveHabit, now: Instant) {
        let closed = match &self.link {
            Link::Library(_, upstream) => upstream.closed(),
            Link::Relay(_) => None,
        };
        habit.closed(self.answers, self.since, closed.unwrap_or(now));
    }
}

// === impl RelayConnection ===

impl RelayConnection {
    /// At the end of the response: keeps the connection if its endpoint still takes requests.
    pub(crate) fn return_to_pool(self, resource: &ResourceHandle) {
        let Self { stream, pool, target, answers, since, .. } = self;
        if resource.is_ready_at(EndpointTarget::listed(target)) {
            pool.put(target, Connection { link: Link::Relay(stream), answers, since });
        }
    }

    /// Notes that it was closed while the next request was on its way.
    pub(crate) fn note_closed(self) {
        let Self { stream, pool, target, answers, since, .. } = self;
        pool.note_closed(target, &Connection { link: Link::Relay(stream), answers, since });
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    /// At the end of the response: keeps the connection if its endpoint still takes requests.
    pub(crate) fn return_to_pool(self, resource: &ResourceHandle) {
        if resource.is_ready_at(EndpointTarget::listed(self.target)) {
            self.pool.put(self.target, self.connection);
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
