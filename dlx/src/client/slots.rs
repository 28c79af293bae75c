//! The limit on clients' connections. When it is reached, those that have been idle for longest are closed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{ConnectionProgress, Socket};

/// The share of all slots that is freed at once: finding the longest idle looks at every connection.
const CLOSED_SHARE: usize = 64;
/// The least number that is freed at once: a flood of silent clients must not keep others waiting.
const MIN_CLOSED: usize = 8;
/// How long a connection must have been idle before it is closed to free its slot: by then anything its client has sent
/// or begun to send has been read.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// How long an HTTP/2 client may take to react to GOAWAY when its slot is needed: a round trip of most clients. Requests
/// it sends meanwhile are answered.
const GOAWAY_TIMEOUT_UNDER_PRESSURE: Duration = Duration::from_millis(250);
/// The shortest time between two searches for the connections with the most unread bytes.
const UNREAD_CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// How often the log may say that all slots are taken.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The slots for clients' connections.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    free: Arc<Semaphore>,
    limit: usize,
    /// Clients that wait for a slot.
    waiting: AtomicUsize,
    /// Notified when a connection becomes idle while clients wait.
    idle: Notify,
    /// The connections of each thread.
    threads: Mutex<Vec<Arc<Clients>>>,
    /// Connections that were closed to free their slot.
    closed: AtomicU64,
    full_logged: Mutex<Option<Instant>>,
    /// Answer bytes that HTTP/2 clients have not taken.
    unread: AtomicUsize,
    /// The limit on them.
    max_unread: usize,
    /// When the connections with the most of them were last searched for.
    unread_checked: Mutex<Option<Instant>>,
    /// Connections that were closed for their unread bytes.
    closed_unread: AtomicU64,
    /// Open connections.
    open: AtomicUsize,
    /// Notified when the last of them was closed.
    none_open: Notify,
}

/// All slots are taken, and clients wait.
#[derive(Debug, thiserror::Error)]
#[error(
    "new connections wait: {limit} clients are connected, which is the most that this process's limit of open files allows, and too \
     few of them are idle; raise the limit (ulimit -n, LimitNOFILE=) or run more DLXs"
)]
pub(crate) struct ConnectionsFull {
    limit: usize,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    slots: Arc<ConnectionSlots>,
    _slot: OwnedSemaphorePermit,
}

/// The connections of one thread.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    /// The number of the newest connection.
    last: u64,
    open: HashMap<u64, (Socket, Arc<ConnectionProgress>)>,
}

/// Lists a connection under its thread until it is dropped.
#[derive(Debug)]
pub(crate) struct ClientGuard {
    clients: Arc<Clients>,
    number: u64,
}

// === impl ConnectionSlots ===

impl ConnectionSlots {
    /// `limit` slots, for connections whose clients may leave `max_unread` bytes of their answers unread.
    pub(crate) fn new(limit: usize, max_unread: usize) -> Arc<Self> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(limit)),
            limit,
            waiting: AtomicUsize::new(0),
            idle: Notify::new(),
            threads: Mutex::default(),
            closed: AtomicU64::new(0),
            full_logged: Mutex::default(),
            unread: AtomicUsize::new(0),
            max_unread,
            unread_checked: Mutex::default(),
            closed_unread: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            none_open: Notify::new(),
        })
    }

    /// Adds a thread.
    pub(crate) fn add(&self) -> Arc<Clients> {
        let clients = Arc::<Clients>::default();
        lock(&self.threads).push(clients.clone());
        clients
    }

    /// Counts a connection as open in `slot`.
    pub(crate) fn open(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> ConnectionGuard {
        self.open.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard { slots: self.clone(), _slot: slot }
    }

    /// Returns when no connection is open.
    pub(crate) async fn wait_until_empty(&self) {
        while self.open.load(Ordering::SeqCst) > 0 {
            self.none_open.notified().await;
        }
    }

    /// A slot, if one is free.
    pub(crate) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// A slot, as soon as one is free. Other clients wait in the kernel meanwhile.
    pub(crate) async fn take(&self) -> OwnedSemaphorePermit {
        if let Some(slot) = self.try_take() {
            return slot;
        }
        let _waiting = WaitingGuard::new(&self.waiting);
        loop {
            // Before the search: a connection that becomes idle after it notifies.
            let idle = self.idle.notified();
            let again = match self.close_longest_idle() {
                0 => {
                    self.log_full();
                    MIN_IDLE
                }
                _ => GOAWAY_TIMEOUT_UNDER_PRESSURE,
            };
            tokio::select! {
                slot = self.free.clone().acquire_owned() => match slot {
                    Ok(slot) => return slot,
                    // Closed never.
                    Err(_) => std::future::pending().await,
                },
                () = idle => {}
                // More connections may have been idle for long enough by then.
                () = recheck(again) => {}
            }
        }
    }

    /// Closes the connections that have been idle for longest, unless enough are closing already; how many are.
    pub(crate) fn close_longest_idle(&self) -> usize {
        let threads = lock(&self.threads).clone();
        let (mut idle, mut ending) = (Vec::new(), 0);
        for clients in threads {
            let clients = lock(&clients.0);
            for (socket, progress) in clients.open.values() {
                match progress.closed_for() {
                    Some(ago) if ago < GOAWAY_TIMEOUT_UNDER_PRESSURE => ending += 1,
                    // It got GOAWAY. An error: it has ended.
                    Some(_) => drop(shutdown(socket.stream(), Shutdown::Both)),
                    None => {}
                }
            }
            idle.extend(clients.open.values().filter_map(|(socket, progress)| {
                let idle = progress.idle_for().filter(|idle| *idle >= MIN_IDLE)?;
                Some((idle, socket.clone(), progress.clone()))
            }));
        }
        let count = (self.limit / CLOSED_SHARE).max(MIN_CLOSED).saturating_sub(ending).min(idle.len());
        if count == 0 {
            return ending;
        }
        idle.select_nth_unstable_by_key(count - 1, |(idle, ..)| std::cmp::Reverse(*idle));
        let mut closed = 0;
        for (_, socket, progress) in idle.into_iter().take(count) {
            // It may be busy by now; a request that arrives at this moment crosses with the close.
            if progress.idle_for().is_some_and(|idle| idle >= MIN_IDLE)
                && progress.close()
                && (progress.gets_goaway() || shutdown(socket.stream(), Shutdown::Both).is_ok())
            {
                closed += 1;
            }
        }
        self.closed.fetch_add(closed as u64, Ordering::Relaxed);
        closed + ending
    }

    /// Adds to the unread bytes; above the limit, closes connections.
    pub(crate) fn add_unread(&self, bytes: usize) {
        let all = self.unread.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if all > self.max_unread {
            self.close_most_unread();
        }
    }

    /// Subtracts from the unread bytes.
    pub(crate) fn remove_unread(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Unread bytes of all connections.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Connections that were closed for their unread bytes.
    pub(crate) fn closed_for_unread(&self) -> u64 {
        self.closed_unread.load(Ordering::Relaxed)
    }

    /// Closes connections until the others are within the limit on unread bytes: those of the namespace with the most,
    /// and of these the ones with the most.
    fn close_most_unread(&self) {
        {
            let mut unread_checked = lock(&self.unread_checked);
            if unread_checked.is_some_and(|unread_checked| unread_checked.elapsed() < UNREAD_CHECK_INTERVAL) {
                return;
            }
            *unread_checked = Some(Instant::now());
        }
        let threads = lock(&self.threads).clone();
        let mut connections = Vec::new();
        for clients in threads {
            let clients = lock(&clients.0);
            connections.extend(clients.open.values().filter_map(|(socket, progress)| {
                let unread = progress.unread();
                let open = unread.bytes() > 0 && !unread.is_closed();
                open.then(|| (socket.clone(), unread.clone(), unread.namespaces()))
            }));
        }
        let mut namespaces = HashMap::<_, usize>::new();
        for (share, bytes) in connections.iter().flat_map(|(.., namespaces)| namespaces) {
            *namespaces.entry(share.as_ref().map(|share| share.namespace())).or_default() += bytes;
        }
        let mut left: usize = namespaces.values().sum();
        let mut parts = Vec::new();
        for (socket, unread, own) in &connections {
            let bytes: usize = own.iter().map(|(_, bytes)| bytes).sum();
            parts.extend(own.iter().map(|(share, part)| {
                let namespace = share.as_ref().map(|share| share.namespace());
                ((namespaces[&namespace], *part), namespace, bytes, socket, unread)
            }));
        }
        parts.sort_unstable_by_key(|(most, ..)| std::cmp::Reverse(*most));
        for (_, namespace, bytes, socket, unread) in parts {
            if left <= self.max_unread {
                return;
            }
            if unread.close() && shutdown(socket.stream(), Shutdown::Both).is_ok() {
                left -= bytes;
                self.closed_unread.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    namespace,
                    bytes,
                    "closed the connection with the most unread response bytes"
                );
            }
        }
    }

    /// Notes that a connection became idle.
    pub(crate) fn became_idle(&self) {
        // Clients count themselves as waiting before they search for idle connections, so one of the two sides sees the
        // other.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.idle.notify_one();
        }
    }

    /// Connections that were closed to free their slot.
    pub(crate) fn closed_for_others(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether clients get a slot without waiting.
    ///
    /// # Errors
    ///
    /// All slots are taken by connections that are busy.
    pub(crate) fn ready(&self) -> Result<(), ConnectionsFull> {
        match self.waiting.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(ConnectionsFull { limit: self.limit }),
        }
    }

    fn log_full(&self) {
        let mut full_logged = lock(&self.full_logged);
        if full_logged.is_none_or(|full_logged| full_logged.elapsed() >= FULL_LOG_INTERVAL) {
            *full_logged = Some(Instant::now());
            tracing::warn!("{}", ConnectionsFull { limit: self.limit });
        }
    }
}

async fn recheck(after: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a connection is idle for long enough by time alone")]
    tokio::time::sleep(after).await;
}

/// Counts a client as waiting until it is dropped.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl ConnectionGuard ===

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if self.slots.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.slots.none_open.notify_one();
        }
    }
}

// === impl Clients ===

impl Clients {
    /// Adds a connection that may be closed when it is idle.
    pub(crate) fn add(self: &Arc<Self>, socket: Socket, progress: Arc<ConnectionProgress>) -> ClientGuard {
        let mut inner = lock(&self.0);
        inner.last += 1;
        let number = inner.last;
        inner.open.insert(number, (socket, progress));
        ClientGuard { clients: self.clone(), number }
    }
}

// === impl ClientGuard ===

impl Drop for ClientGuard {
    fn drop(&mut self) {
        lock(&self.clients.0).open.remove(&self.number);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustix::net::RecvFlags;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
        task::yield_now,
        time::advance,
    };

    use super::*;
    use crate::client::Timeouts;

    /// HTTP/2 connections end a moment after they are closed. Others that are idle meanwhile stay.
    #[tokio::test(start_paused = true)]
    async fn one_waiting_client_closes_only_a_share_of_the_idle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = Socket::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let slots = ConnectionSlots::new(2 * CLOSED_SHARE, usize::MAX);
        let clients = slots.add();
        let mut taken = Vec::new();
        while let Some(slot) = slots.try_take() {
            let progress = ConnectionProgress::new(Timeouts::default(), slots.clone());
            progress.mark_http2();
            // One request, already answered.
            drop(progress.busy());
            taken.push((slot, clients.add(socket.clone(), progress.clone()), progress));
        }
        advance(MIN_IDLE + GOAWAY_TIMEOUT_UNDER_PRESSURE).await;
        let waits = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        for _ in 0..10 {
            yield_now().await;
            drop(taken[0].2.busy());
            // As without free descriptors.
            slots.close_longest_idle();
        }
        assert_eq!(slots.closed_for_others(), 8);
        // They have not ended in time: more are closed.
        advance(GOAWAY_TIMEOUT_UNDER_PRESSURE).await;
        slots.close_longest_idle();
        assert_eq!(slots.closed_for_others(), 16);
        taken.pop();
        drop(waits.await.unwrap());
    }

    /// An HTTP/2 client gets GOAWAY first and ends by itself; one that has never sent a request, or does not end, is
    /// closed.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_react_is_closed_all_the_same() {
        for had_request in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let slots = ConnectionSlots::new(1, usize::MAX);
            let progress = ConnectionProgress::new(Timeouts::default(), slots.clone());
            progress.mark_http2();
            if had_request {
                drop(progress.busy());
            }
            let socket = Socket::new(listener.accept().await.unwrap().0);
            let _known = slots.add().add(socket, progress);
            advance(MIN_IDLE + GOAWAY_TIMEOUT_UNDER_PRESSURE).await;
            assert_eq!(slots.close_longest_idle(), 1);
            let ended = rustix::net::recv(&client, &mut [0_u8], RecvFlags::DONTWAIT);
            assert_eq!(ended.is_err(), had_request, "{ended:?}");
            advance(GOAWAY_TIMEOUT_UNDER_PRESSURE).await;
            slots.close_longest_idle();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
    }
}
