//! Load on one resource, on and off with a random phase, tuned so that requests meet the drain attempts.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    load::{Connection, Exchange, Ids, Ledger, Lines, Lost, Outcome, get, post},
    random::Random,
    wait::pause,
};

/// The window after which the resources under this load sleep.
pub const WINDOW: Duration = Duration::from_secs(1);

/// How late a client that pauses may notice that it is to stop.
const STEP: Duration = Duration::from_millis(50);

/// What all clients of a run share.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Every request and its outcome.
    pub ledger: Ledger,
    /// The source of ids.
    pub ids: Arc<Ids>,
    /// Which requests are on their way now.
    pub flights: Arc<InFlight>,
    /// Set: finish what was begun.
    pub stop: Arc<AtomicBool>,
}

/// Where connections can be made now: the DLXs' own addresses, or a Service's on every node.
#[derive(Clone, Debug, Default)]
pub struct LiveAddresses(Arc<Mutex<Vec<SocketAddr>>>);

/// How clients reach a resource.
#[derive(Clone, Debug)]
pub struct Way {
    /// The host of its requests.
    pub host: String,
    /// Where its requests are taken; each new connection goes to any of these.
    pub fronts: LiveAddresses,
    /// Where its lines are taken, if it speaks that protocol.
    pub lines: Option<LiveAddresses>,
    /// How many connections a client keeps for as long as it lives, and uses one or the other of; at least one.
    pub pool: usize,
}

/// What the load is put on.
pub struct Target {
    /// How it is reached.
    pub way: Way,
    /// The state its record is in.
    pub state: Box<dyn Fn() -> String + Send + Sync>,
    /// How soon it sleeps, and how late at most.
    pub sleeps: Sleeps,
}

/// How long a resource has to be idle until it is scaled to zero.
#[derive(Clone, Copy, Debug)]
pub struct Sleeps {
    /// Its window: not before.
    pub after: Duration,
    /// By then it does, as a rule.
    pub by: Duration,
}

/// How a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// By connections that it keeps, and uses again and again.
    Keeps,
    /// By a new one for each request.
    New,
    /// By lines.
    Lines,
}

/// The requests that are on their way.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<(BTreeSet<String>, Option<BTreeSet<String>>)>);

/// The clients of one resource.
#[derive(Debug)]
pub struct Clients {
    shared: Shared,
    way: Way,
    pool: Vec<Option<Connection>>,
    lines: Option<Lines>,
}

/// Runs the load of one resource until it is stopped.
pub async fn run(target: &Target, shared: Shared, mut random: Random) {
    let stop = shared.stop.clone();
    let mut clients = Clients::new(shared, target.way.clone());
    while !stop.load(Ordering::Relaxed) {
        let length = random.between(Duration::from_millis(20)..Duration::from_millis(300));
        clients.burst(Instant::now() + length, &mut random).await;
        match random.below(10) {
            // Whatever state it is in then: about when the window ends, or well after.
            0..=3 => rest(random.between(target.sleeps.almost()..target.sleeps.by), &stop).await,
            // Into a drain attempt.
            4..=7 => target.seen("draining", &stop).await,
            // Asleep, or draining.
            _ => {
                target.seen("asleep", &stop).await;
                pause(random.between(Duration::ZERO..Duration::from_millis(50))).await;
            }
        }
    }
}

/// Lets so much time pass, or less when the load is stopped.
async fn rest(time: Duration, stop: &AtomicBool) {
    let end = Instant::now() + time;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        pause(STEP.min(end - Instant::now())).await;
    }
}

// === impl Target ===

impl Target {
    /// Waits until the resource's record says so, but no longer than scaling to zero takes.
    async fn seen(&self, state: &str, stop: &AtomicBool) {
        let end = Instant::now() + self.sleeps.by;
        rest(self.sleeps.almost(), stop).await;
        while Instant::now() < end && (self.state)() != state && !stop.load(Ordering::Relaxed) {
            pause(Duration::from_millis(1)).await;
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.way.host)
    }
}

// === impl Sleeps ===

impl Sleeps {
    fn almost(self) -> Duration {
        self.after - self.after / 20
    }
}

impl Default for Sleeps {
    /// After [`WINDOW`], by a while longer than that and two decisions.
    fn default() -> Self {
        Self { after: WINDOW, by: Duration::from_millis(1_600) }
    }
}

// === impl Client ===

impl Client {
    /// Whether a request was such a client's.
    pub fn sent(self, id: &str) -> bool {
        id.ends_with(self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Keeps => "-keeps",
            Self::New => "-new",
            Self::Lines => "-lines",
        }
    }
}

// === impl Way ===

impl Way {
    /// Requests for `host`, over one kept connection and many new ones.
    pub fn new(host: &str, fronts: impl Into<LiveAddresses>) -> Self {
        Self { host: host.to_owned(), fronts: fronts.into(), lines: None, pool: 1 }
    }

    /// Lines, too.
    #[must_use]
    pub fn lines(mut self, fronts: impl Into<LiveAddresses>) -> Self {
        self.lines = Some(fronts.into());
        self
    }

    /// With so many kept connections.
    #[must_use]
    pub fn pool(mut self, size: usize) -> Self {
        self.pool = size;
        self
    }
}

// === impl LiveAddresses ===

impl LiveAddresses {
    /// From now on.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// All of them.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of them, as soon as there is one.
    async fn one(&self, random: &mut Random) -> SocketAddr {
        loop {
            let all = self.all();
            if let Some(front) = all.get(random.below(all.len() as u64) as usize) {
                return *front;
            }
            pause(Duration::from_millis(1)).await;
        }
    }
}

impl From<Vec<SocketAddr>> for LiveAddresses {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new(addresses)))
    }
}

// === impl Clients ===

impl Clients {
    /// Clients that have not connected yet.
    pub fn new(shared: Shared, way: Way) -> Self {
        let pool = (0..way.pool.max(1)).map(|_| None).collect();
        Self { shared, way, pool, lines: None }
    }

    /// Every kind of client at once, each with random pauses between its requests.
    pub async fn burst(&mut self, end: Instant, random: &mut Random) {
        let mut randoms = [0, 1, 2].map(|part| Random::new(random.draw(), part));
        let [first, second, third] = &mut randoms;
        let (shared, way) = (&self.shared, &self.way);
        tokio::join!(
            keep_alive(shared, way, &mut self.pool, end, first),
            new_connections(shared, way, end, second),
            line_by_line(shared, way, &mut self.lines, end, third),
        );
    }
}

async fn keep_alive(
    shared: &Shared,
    way: &Way,
    pool: &mut [Option<Connection>],
    end: Instant,
    random: &mut Random,
) {
    loop {
        let id = shared.begin(Client::Keeps);
        let kept = &mut pool[random.below(pool.len() as u64) as usize];
        let outcome = loop {
            let new = kept.is_none();
            let connection = match kept.as_mut() {
                Some(connection) => connection,
                None => match Connection::open(way.fronts.one(random).await).await {
                    Ok(connection) => kept.insert(connection),
                    Err(error) => break Outcome::Lost(Lost::Connect(error.to_string())),
                },
            };
            match connection.send(&request(&id, &way.host, random)).await {
                Exchange::Answered(response) => break response.outcome(&id),
                Exchange::Unsent | Exchange::Crossed if new => break refused(),
                // Closed between two requests, and this one was not sent.
                Exchange::Unsent => *kept = None,
                Exchange::Crossed => break Outcome::Crossed,
                Exchange::Lost(lost) => break Outcome::Lost(lost),
            }
        };
        if !matches!(outcome, Outcome::Answered { .. }) {
            *kept = None;
        }
        shared.end(id, outcome);
        if Instant::now() >= end {
            return;
        }
        pause(random.between(Duration::ZERO..Duration::from_millis(40))).await;
    }
}

/// A new connection that is closed before its first request refuses service.
fn refused() -> Outcome {
    Outcome::Lost(Lost::NoAnswer("a new connection was closed".into()))
}

async fn new_connections(shared: &Shared, way: &Way, end: Instant, random: &mut Random) {
    loop {
        let id = shared.begin(Client::New);
        let outcome = match Connection::open(way.fronts.one(random).await).await {
            Err(error) => Outcome::Lost(Lost::Connect(error.to_string())),
            Ok(mut connection) => match connection.send(&request(&id, &way.host, random)).await {
                Exchange::Answered(response) => response.outcome(&id),
                Exchange::Unsent | Exchange::Crossed => refused(),
                Exchange::Lost(lost) => Outcome::Lost(lost),
            },
        };
        shared.end(id, outcome);
        if Instant::now() >= end {
            return;
        }
        pause(random.between(Duration::ZERO..Duration::from_millis(60))).await;
    }
}

async fn line_by_line(
    shared: &Shared,
    way: &Way,
    kept: &mut Option<Lines>,
    end: Instant,
    random: &mut Random,
) {
    let Some(fronts) = &way.lines else { return };
    loop {
        let id = shared.begin(Client::Lines);
        let outcome = loop {
            let new = kept.is_none();
            let connection = match kept.as_mut() {
                Some(connection) => connection,
                None => match Lines::open(fronts.one(random).await).await {
                    Ok(connection) => kept.insert(connection),
                    Err(error) => break Outcome::Lost(Lost::Connect(error.to_string())),
                },
            };
            match connection.send(&id).await {
                None | Some(Outcome::Crossed) if new => break refused(),
                Some(outcome) => break outcome,
                None => *kept = None,
            }
        };
        // One in four goes on over a new connection.
        if !matches!(outcome, Outcome::Answered { .. }) || random.percent(25) {
            *kept = None;
        }
        shared.end(id, outcome);
        if Instant::now() >= end {
            return;
        }
        pause(random.between(Duration::ZERO..Duration::from_millis(40))).await;
    }
}

/// A request for the host; some take a while, so that they are in flight at a drain attempt, and half have a body: one
/// that is lost is not sent again, and so is found.
fn request(id: &str, host: &str, random: &mut Random) -> Vec<u8> {
    let path = if random.percent(30) { format!("/slow/{}", random.below(100)) } else { "/".to_owned() };
    if random.percent(50) { post(host, &path, id) } else { get(host, &path, id) }
}

// === impl Shared ===

impl Shared {
    /// What a run begins with; ids begin with the seed.
    pub fn new(seed: u64) -> Self {
        Self { ids: Arc::new(Ids::new(format!("{seed:x}"))), ..Self::default() }
    }

    fn begin(&self, client: Client) -> String {
        let id = format!("{}{}", self.ids.next(), client.name());
        self.flights.begin(&id);
        id
    }

    fn end(&self, id: String, outcome: Outcome) {
        self.flights.end(&id);
        self.ledger.record(id, outcome);
    }
}

// === impl InFlight ===

impl InFlight {
    fn begin(&self, id: &str) {
        let (now, recorded) = &mut *self.lock();
        now.insert(id.to_owned());
        if let Some(recorded) = recorded {
            recorded.insert(id.to_owned());
        }
    }

    fn end(&self, id: &str) {
        self.lock().0.remove(id);
    }

    /// From now on, remembers every request that is on its way at any moment.
    pub fn watch(&self) {
        let (now, recorded) = &mut *self.lock();
        *recorded = Some(now.clone());
    }

    /// Which ones those were.
    pub fn watched(&self) -> BTreeSet<String> {
        self.lock().1.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, (BTreeSet<String>, Option<BTreeSet<String>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
