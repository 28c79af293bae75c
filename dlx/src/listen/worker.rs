//! One thread per core, each with a runtime, connections and a pool of its own: forwarding takes no lock of another thread.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use scaler_types::Protocol;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{ListenerKind, Server, accept::Listener, connection};
use crate::{
    client::{Clients, Socket, alive},
    forward::{http::Pool, tcp},
    state::PortOwner,
};

/// The threads.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Arc<Server>,
    threads: Vec<Worker>,
    next: AtomicUsize,
    /// The tasks that accept connections.
    accepting: TaskTracker,
    /// Ends the threads.
    _stop: DropGuard,
}

/// One thread.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    state: Arc<WorkerState>,
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
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let state = {
                let _runtime = handle.enter();
                WorkerState::new(server)
            };
            let stopped = stop.clone();
            thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || runtime.block_on(stopped.cancelled()))?;
            threads.push(Worker { handle, state });
        }
        Ok(Self(Arc::new(Inner {
            server: server.clone(),
            threads,
            next: AtomicUsize::new(0),
            accepting: TaskTracker::new(),
            _stop: stop.drop_guard(),
        })))
    }

    /// Accepts connections on one of the threads until `stop`, and hands each to the next thread, in turn. (A thread of its
    /// own would be woken for every connection, and so would all threads if each accepted.)
    ///
    /// # Errors
    ///
    /// The socket cannot be registered.
    pub(crate) fn listen(
        &self,
        listener: TcpListener,
        stop: CancellationToken,
        listener_kind: ListenerKind,
    ) -> io::Result<()> {
        let Inner { server, accepting, .. } = &*self.0;
        let thread = self.next();
        let listener = {
            let _runtime = thread.handle.enter();
            Listener::new(listener, listener_kind.stall(server))?
        };
        let workers = self.clone();
        let accept = async move {
            let take = |stream, peer, slot| {
                let connection = Accepted { stream, peer, slot };
                workers.next().serve(&workers.0.server, connection, &listener_kind);
            };
            listener.accept(stop, workers.0.server.slots.clone(), take).await;
        };
        accepting.spawn_on(accept, &thread.handle);
        Ok(())
    }

    /// Returns when nothing is accepted any more.
    pub(crate) async fn wait_until_stopped(&self) {
        self.0.accepting.close();
        self.0.accepting.wait().await;
    }

    /// The next thread, in turn.
    fn next(&self) -> &Worker {
        &self.0.threads[self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.threads.len()]
    }
}

// === impl WorkerState ===

impl WorkerState {
    /// One more thread, with no connection yet. Call it on the thread's runtime.
    pub(crate) fn new(server: &Server) -> Arc<Self> {
        let (pool, clients) = (Pool::new(), server.slots.add());
        server.pools.add(pool.clone());
        Arc::new(Self { pool, clients, draining: server.draining.child_token() })
    }
}

// === impl Worker ===

/// A connection that was accepted.
struct Accepted {
    stream: TcpStream,
    /// The address of the client.
    peer: SocketAddr,
    /// Its slot.
    slot: OwnedSemaphorePermit,
}

impl Worker {
    /// Serves a connection to its end, in a task on this thread.
    fn serve(&self, server: &Arc<Server>, accepted: Accepted, listener_kind: &ListenerKind) {
        let _runtime = self.handle.enter();
        let Accepted { stream, peer, slot } = accepted;
        let stream = match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "failed to take over a connection"),
        };
        let connection =
            Connection { server: server.clone(), worker: self.state.clone(), stream, peer, slot };
        match listener_kind {
            ListenerKind::Shared => connection.serve(None),
            ListenerKind::Own(identity) => connection.serve(Some(identity.clone())),
            ListenerKind::Service(port) => match server.identifier.find_port(*port) {
                Some(identity) => connection.serve(Some(identity)),
                None => drop(tokio::spawn(connection.serve_when_known(*port))),
            },
        }
    }
}

/// A connection on the current runtime.
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
                // A port of `--service-ports` has the option for clients that speak HTTP.
                alive::want_reading(&stream, Duration::ZERO);
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
