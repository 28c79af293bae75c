//! Connections to resources, kept for the next request. One pool per thread, so that no two threads wait for each
//! other; kept by the endpoint's incarnation, so that none outlives the process it leads to.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::Upload;
use crate::{
    resource::{Entry, Target},
    serve::alive,
};

/// How long a connection waits for its next request: less than the servers that close theirs soonest (gunicorn after
/// 2 s, node and uvicorn after 5 s), since a request that crosses with a close cannot be sent again.
const IDLE: Duration = Duration::from_millis(1500);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The connections of one thread.
#[derive(Debug)]
pub struct Pool {
    idle: Mutex<HashMap<u64, Kept>>,
    /// Told when the first connection is kept.
    kept: Notify,
    next: AtomicUsize,
    dice: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    http1: Vec<(Instant, http1::SendRequest<Upload>)>,
    http2: Option<(Instant, http2::SendRequest<Upload>)>,
}

/// A connection that carries a request.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    target: u64,
    connection: http1::SendRequest<Upload>,
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum Unsent {
    /// Not a byte of it was sent: here it is again.
    Never(Box<Request<Upload>>, String),
    /// The resource may have seen it.
    Perhaps(String),
}

// === impl Pool ===

impl Pool {
    /// An empty one. Its upkeep is a task on the current runtime.
    pub fn new() -> Arc<Self> {
        let pool = Arc::new(Self {
            idle: Mutex::default(),
            kept: Notify::new(),
            next: AtomicUsize::new(0),
            dice: AtomicU64::new(RandomState::new().hash_one(0)),
        });
        tokio::spawn(upkeep(Arc::downgrade(&pool)));
        pool
    }

    /// Which of `count` endpoints is next.
    pub fn turn(&self, count: usize) -> usize {
        if count < 2 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % count }
    }

    /// Heads or tails.
    pub fn draw(&self) -> bool {
        let n = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        RandomState::new().hash_one(n) & 1 == 0
    }

    /// Sends a request in HTTP/1.1 and waits for the response's head.
    pub async fn send(
        self: &Arc<Self>,
        target: &Target,
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Unsent> {
        loop {
            let (mut connection, kept) = match self.take(target.number) {
                Some(connection) => (connection, true),
                None => match Box::pin(connect(target)).await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err(Unsent::Never(Box::new(request), error)),
                },
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease { pool: self.clone(), target: target.number, connection };
                    return Ok((response, lease));
                }
                Err(mut failed) => match failed.take_message() {
                    // It was closed while it waited: the next one, or a new one.
                    Some(again) if kept => request = again,
                    Some(again) => return Err(Unsent::Never(Box::new(again), explain(failed.error()))),
                    None => return Err(Unsent::Perhaps(explain(failed.error()))),
                },
            }
        }
    }

    /// Sends a request in HTTP/2 with prior knowledge.
    pub async fn send_http2(
        self: &Arc<Self>,
        target: &Target,
        mut request: Request<Upload>,
    ) -> Result<Response<Incoming>, Unsent> {
        loop {
            let known = self.lock().get(&target.number).and_then(|kept| kept.http2.clone());
            let (mut connection, kept) = match known {
                Some((_, connection)) if !connection.is_closed() => (connection, true),
                _ => match connect_http2(target).await {
                    Ok(connection) => {
                        self.keep_http2(target.number, connection.clone());
                        (connection, false)
                    }
                    Err(error) => return Err(Unsent::Never(Box::new(request), error)),
                },
            };
            if kept {
                self.keep_http2(target.number, connection.clone());
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    Some(again) if kept => {
                        if let Some(kept) = self.lock().get_mut(&target.number) {
                            kept.http2 = None;
                        }
                        request = again;
                    }
                    Some(again) => return Err(Unsent::Never(Box::new(again), explain(failed.error()))),
                    None => return Err(Unsent::Perhaps(explain(failed.error()))),
                },
            }
        }
    }

    fn keep_http2(&self, target: u64, connection: http2::SendRequest<Upload>) {
        self.lock().entry(target).or_default().http2 = Some((Instant::now(), connection));
        self.kept.notify_one();
    }

    fn take(&self, target: u64) -> Option<http1::SendRequest<Upload>> {
        let mut idle = self.lock();
        let kept = &mut idle.get_mut(&target)?.http1;
        // From the end: the one used last is the least likely to be closed soon.
        let mut at = kept.len();
        while at > 0 {
            at -= 1;
            if kept[at].1.is_closed() {
                kept.swap_remove(at);
            } else if kept[at].1.is_ready() {
                return Some(kept.swap_remove(at).1);
            }
        }
        None
    }

    fn put(&self, target: u64, connection: http1::SendRequest<Upload>) {
        let mut idle = self.lock();
        let first = idle.is_empty();
        idle.entry(target).or_default().http1.push((Instant::now(), connection));
        drop(idle);
        if first {
            self.kept.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections to these endpoints that carry no request now.
    pub fn close_idle(&self, unlisted: &[u64]) {
        self.lock().retain(|number, _| !unlisted.contains(&Target::listed(*number)));
    }

    /// Drops what waited for too long; when to look again, if anything is left.
    fn drop_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let fresh = |at: Instant| now.duration_since(at) < IDLE;
        let mut idle = self.lock();
        idle.retain(|_, kept| {
            kept.http1.retain(|(at, connection)| fresh(*at) && !connection.is_closed());
            // Dropping the handle ends the connection only when its streams are done.
            kept.http2 = kept.http2.take().filter(|(at, connection)| fresh(*at) && !connection.is_closed());
            !kept.http1.is_empty() || kept.http2.is_some()
        });
        (!idle.is_empty()).then_some(now + IDLE)
    }
}

/// Drops connections that waited for too long. Sleeps for good while there are none.
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

// === impl Lease ===

impl Lease {
    /// The response came to its end: the connection is kept for another request, if more are to go where it leads.
    pub fn give_back(self, entry: &Entry) {
        if entry.goes_to(Target::listed(self.target)) {
            self.pool.put(self.target, self.connection);
        }
    }
}

/// A TCP connection to an endpoint.
pub async fn dial(target: &Target) -> Result<TcpStream, String> {
    let connecting = async {
        match target.socket {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect(&target.endpoint.address).await,
        }
    };
    let stream: io::Result<TcpStream> = match timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let stream = stream.map_err(|error| format!("cannot connect to {}: {error}", target.endpoint.address))?;
    // Without it: small writes wait for an acknowledgement; with it failing, nothing worse.
    let _ = stream.set_nodelay(true);
    alive::watch(&stream);
    Ok(stream)
}

async fn connect(target: &Target) -> Result<http1::SendRequest<Upload>, String> {
    let stream = dial(target).await?;
    let (sender, connection) = http1::Builder::new()
        // One copy of a small body costs less than a second piece to write.
        .writev(false)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot speak HTTP/1 to {}: {error}", target.endpoint.address))?;
    // Its error is told to whoever waits for the response.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn connect_http2(target: &Target) -> Result<http2::SendRequest<Upload>, String> {
    let stream = dial(target).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot speak HTTP/2 to {}: {error}", target.endpoint.address))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// A hyper error with its cause.
pub fn explain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
