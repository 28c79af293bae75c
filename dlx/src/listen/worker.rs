//! One thread per core, each with a runtime, connections and a pool of its own: forwarding takes no lock of another thread.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use scaler_types::Protocol;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::{ListenerKind, Server, connection};
use crate::{
    client::{Clients, Socket, alive},
    forward::{http::Pool, tcp},
    state::PortOwner,
};

/// A connection that was accepted, on its way to a thread.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// The address of the client.
    pub(crate) peer: SocketAddr,
    /// The listener that accepted it.
    pub(crate) listener_kind: ListenerKind,
    /// Its slot.
    pub(crate) slot: OwnedSemaphorePermit,
}

/// The threads.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    threads: Arc<[mpsc::UnboundedSender<Accepted>]>,
    next: Arc<AtomicUsize>,
}

/// The state that the connections of one thread share.
#[derive(Debug)]
pub(crate) struct WorkerState {
    /// Connections to resources.
    pub(crate) pool: Arc<Pool>,
    /// Connections of clients.
    pub(crate) clients: Arc<Clients>,
    /// The thread's own child of [`Server::draining`]: looking at a token, or cloning it, takes the token's lock.
    pub(crate) draining: CancellationToken,
}

// === impl Workers ===

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    ///
    /// A thread or its runtime cannot be made.
    pub(crate) fn start(server: &Arc<Server>, count: usize) -> io::Result<Self> {
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (sender, receiver) = mpsc::unbounded_channel();
            let server = server.clone();
            thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || runtime.block_on(work(server, receiver)))?;
            threads.push(sender);
        }
        Ok(Self { threads: threads.into(), next: Arc::new(AtomicUsize::new(0)) })
    }

    /// Hands a connection to the next thread, in turn.
    pub(crate) fn hand(&self, accepted: Accepted) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        // An error: the process ends.
        let _ = self.threads[turn].send(accepted);
    }
}

// === impl WorkerState ===

impl WorkerState {
    /// One more thread, with no connection yet.
    pub(crate) fn new(server: &Server) -> Arc<Self> {
        let (pool, clients) = (Pool::new(), server.slots.add());
        server.pools.add(pool.clone());
        Arc::new(Self { pool, clients, draining: server.draining.child_token() })
    }
}

async fn work(server: Arc<Server>, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
    let worker = WorkerState::new(&server);
    while let Some(Accepted { stream, peer, listener_kind, slot }) = accepted.recv().await {
        let ready = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
        let stream = match ready {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to take over a connection");
                continue;
            }
        };
        // On failure it is only slower.
        let _ = stream.set_nodelay(true);
        alive::watch(&stream);
        let connection = Connection { server: server.clone(), worker: worker.clone(), stream, peer, slot };
        match listener_kind {
            ListenerKind::Shared => connection.serve(None),
            ListenerKind::Own(identity) => connection.serve(Some(identity)),
            ListenerKind::Service(port) => match server.identifier.find_port(port) {
                Some(identity) => connection.serve(Some(identity)),
                None => drop(tokio::spawn(connection.serve_when_known(port))),
            },
        }
    }
}

/// A connection on this thread.
struct Connection {
    server: Arc<Server>,
    worker: Arc<WorkerState>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    slot: OwnedSemaphorePermit,
}

// === impl Connection ===

impl Connection {
    /// Serves it to its end, in a task of its own.
    fn serve(self, identity: Option<PortOwner>) {
        let Self { server, worker, stream, peer, slot } = self;
        let open = server.slots.open(slot);
        match identity {
            Some(identity) if identity.port.protocol == Protocol::Tcp => {
                tokio::spawn(tcp::serve(open, Socket::new(stream), identity));
            }
            identity => {
                tokio::spawn(connection::serve(server, open, worker, stream, peer, identity));
            }
        }
    }

    /// The same as soon as the port has an owner; if none is found, resets the connection.
    async fn serve_when_known(self, port: u16) {
        match self.server.identifier.wait_for_port(port).await {
            Some(identity) => self.serve(Some(identity)),
            None => {
                tracing::debug!(port, peer = %self.peer, "reset a connection: no resource has its port");
                self.server.metrics.unassigned.inc();
                alive::reset(&self.stream);
            }
        }
    }
}
