//! A Service's port on a node: a listener while there is an endpoint, and the connections that it takes.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, TcpListener as Listener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use super::{Counted, count, splice::splice};
use crate::{
    cache::{Key, rest},
    random::Random,
};

/// The pause after a connection could not be taken: this process has too many files open.
const PAUSE: Duration = Duration::from_millis(10);

/// Tasks that end with the proxy, and not with what started them.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// An address and port of a node.
pub struct Port {
    shared: Arc<Shared>,
    listening: Option<Listening>,
}

/// How a listener is asked to close, and reports that it has.
struct Listening {
    close: oneshot::Sender<()>,
    closed: oneshot::Receiver<()>,
}

struct Shared {
    address: SocketAddr,
    service: Key,
    tasks: Tasks,
    counts: Counted,
    choice: Mutex<Choice>,
}

struct Choice {
    endpoints: Vec<SocketAddr>,
    /// The clients whose connections go where they went before; none without affinity.
    kept: Option<HashMap<IpAddr, SocketAddr>>,
    random: Random,
}

// === impl Tasks ===

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Ends all of them.
    pub fn end(&self) {
        self.lock().abort_all();
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Port ===

impl Port {
    /// A port without endpoints yet.
    pub fn new(address: SocketAddr, service: Key, random: Random, tasks: Tasks, counts: Counted) -> Self {
        let choice = Mutex::new(Choice { endpoints: Vec::new(), kept: None, random });
        Self { shared: Arc::new(Shared { address, service, tasks, counts, choice }), listening: None }
    }

    /// New connections go there from now on; with `affinity` all of one client to the same.
    pub async fn lead_to(&mut self, endpoints: &[SocketAddr], affinity: bool) {
        if endpoints.is_empty() {
            return self.stop().await;
        }
        self.shared.choice().set(endpoints, affinity);
        if self.listening.is_none() {
            match listen(self.shared.address) {
                Ok(listener) => {
                    let (close, closing) = oneshot::channel();
                    let (done, closed) = oneshot::channel();
                    self.shared.tasks.spawn(Arc::clone(&self.shared).accept(listener, closing, done));
                    self.listening = Some(Listening { close, closed });
                }
                Err(error) => {
                    tracing::error!(address = %self.shared.address, %error, "a Service's port cannot be listened on");
                }
            }
        }
    }

    /// New connections are refused from now on, for ever.
    pub async fn close(mut self) {
        self.stop().await;
    }

    async fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            drop(listening.close);
            // An error: the proxy ends.
            let _ = listening.closed.await;
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = Listener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.shared.address, self.shared.service.name)
    }
}

// === impl Shared ===

impl Shared {
    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        mut closing: oneshot::Receiver<()>,
        done: oneshot::Sender<()>,
    ) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => self.forward(client),
                    Err(error) => {
                        tracing::warn!(address = %self.address, %error, "a connection could not be taken");
                        rest(PAUSE).await;
                    }
                },
                _ = &mut closing => break,
            }
        }
        // Whoever is connected already came while there were endpoints.
        if let Ok(listener) = listener.into_std() {
            while let Ok((client, _)) = listener.accept() {
                let client = client.set_nonblocking(true).and_then(|()| TcpStream::from_std(client));
                if let Ok(client) = client {
                    self.forward(client);
                }
            }
        }
        // Nobody may wait for it any more.
        let _ = done.send(());
    }

    /// Chooses an endpoint, once, and connects the two.
    fn forward(self: &Arc<Self>, client: TcpStream) {
        let address = client.peer_addr().ok().map(|address| address.ip());
        let Some(endpoint) = self.choice().choose(address) else { return };
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let (service, counts) = (&shared.service, &shared.counts);
            match TcpStream::connect(endpoint).await {
                Ok(endpoint) => {
                    count(counts, service, |counts| counts.forwarded += 1);
                    if !splice(client, endpoint).await {
                        count(counts, service, |counts| counts.reset += 1);
                    }
                }
                Err(_) => {
                    count(counts, service, |counts| counts.refused += 1);
                    // So that its end is a reset.
                    let _ = client.set_zero_linger();
                }
            }
        });
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Choice ===

impl Choice {
    fn set(&mut self, endpoints: &[SocketAddr], affinity: bool) {
        self.endpoints = endpoints.to_vec();
        let mut kept = self.kept.take().unwrap_or_default();
        kept.retain(|_, endpoint| endpoints.contains(endpoint));
        self.kept = affinity.then_some(kept);
    }

    fn choose(&mut self, client: Option<IpAddr>) -> Option<SocketAddr> {
        let before = self.kept.as_ref().and_then(|kept| kept.get(&client?));
        if before.is_some() {
            return before.copied();
        }
        let index = self.random.below(self.endpoints.len() as u64);
        let endpoint = *self.endpoints.get(usize::try_from(index).unwrap_or_default())?;
        if let (Some(kept), Some(client)) = (&mut self.kept, client) {
            kept.insert(client, endpoint);
        }
        Some(endpoint)
    }
}
