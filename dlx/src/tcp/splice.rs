//! A TCP connection to a resource: through the same gate as a request, then bytes both ways.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use scaler_types::State;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::pipe::Pipe;
use crate::{
    dlx::Open,
    resource::{Entry, InFlight},
    serve::{Identity, Socket},
};

/// What a held connection's socket may have taken in by the time it is let go.
const SOCKET_TAKES: u64 = 64 * 1024;

/// Whose turn it is among a resource's endpoints.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Why a copying stopped.
enum Stopped {
    /// Both directions are over.
    Over,
    /// No byte moved for a whole window.
    Idle,
}

/// Serves one connection to its end.
pub async fn serve(_open: Open, client: TcpStream, identity: Identity) {
    let entry = identity.entry.clone();
    let client = Socket::new(client);
    entry.counts.arrived();
    if let Err(error) = splice(&entry, &client, &identity).await {
        tracing::debug!(resource = %entry.key.id, port = identity.port.listen, %error, "a connection ended");
    }
}

async fn splice(entry: &Arc<Entry>, client: &Socket, identity: &Identity) -> io::Result<()> {
    let (mut in_flight, resource) = connect(entry, client, identity).await?;
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    loop {
        match copy(entry, client.stream(), &resource, &mut up, &mut down).await? {
            Stopped::Over => return Ok(()),
            // Its bytes stay where they are until the gate lets them.
            Stopped::Idle => drop(in_flight),
        }
        if !rest(entry, (client.stream(), up.is_done()), (&resource, down.is_done())).await {
            return Ok(());
        }
        in_flight = enter(entry, client).await?;
    }
}

/// Enters the gate and connects; held while the resource is not up.
async fn connect(
    entry: &Arc<Entry>,
    client: &Socket,
    identity: &Identity,
) -> io::Result<(InFlight, TcpStream)> {
    let deadline = Instant::now() + entry.facts.load().settings.hold_timeout;
    let mut pause = Duration::from_millis(2);
    loop {
        let in_flight = enter_until(entry, client, deadline).await?;
        let facts = entry.facts.load_full();
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % facts.ready.len().max(1);
        let Some(target) = facts.ready.get(turn) else { continue };
        let target = match identity.port.target {
            Some(port) => Arc::new(target.at_port(port)),
            None => target.clone(),
        };
        match crate::proxy::dial(&target).await {
            Ok(resource) => return Ok((in_flight, resource)),
            Err(reason) => {
                drop(in_flight);
                if Instant::now() >= deadline {
                    return Err(io::Error::other(reason));
                }
                if !entry.unreachable(&target, &reason) {
                    // Another port of an endpoint that is ready: nobody else finds out when it answers.
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when a port of a ready endpoint accepts"
                    )]
                    sleep_until((Instant::now() + pause).min(deadline)).await;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
            }
        }
    }
}

async fn enter(entry: &Arc<Entry>, client: &Socket) -> io::Result<InFlight> {
    let deadline = Instant::now() + entry.facts.load().settings.hold_timeout;
    enter_until(entry, client, deadline).await
}

async fn enter_until(entry: &Arc<Entry>, client: &Socket, deadline: Instant) -> io::Result<InFlight> {
    if let Some(in_flight) = entry.enter() {
        return Ok(in_flight);
    }
    tokio::select! {
        admitted = entry.admit(SOCKET_TAKES, deadline) => match admitted {
            Ok(admitted) => Ok(admitted.in_flight),
            Err(refusal) => Err(io::Error::other(refusal.reason.clone())),
        },
        () = client.gone() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Copies both ways until both are over, or until no byte moved for the resource's largest window.
#[expect(clippy::disallowed_methods, reason = "that no byte moved for a window is the event")]
async fn copy(
    entry: &Arc<Entry>,
    client: &TcpStream,
    resource: &TcpStream,
    up: &mut Pipe,
    down: &mut Pipe,
) -> io::Result<Stopped> {
    loop {
        let window = entry.largest_window();
        let moved = tokio::select! {
            biased;
            moved = poll_fn(|cx| {
                let mut moved = false;
                let (a, b) = (up.poll(cx, client, resource, &mut moved), down.poll(cx, resource, client, &mut moved));
                match (a, b) {
                    (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                    (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(true)),
                    // Begins the window anew.
                    _ if moved => Poll::Ready(Ok(false)),
                    _ => Poll::Pending,
                }
            }) => moved?,
            // What was read and cannot be written is under way, not idle.
            () = sleep_until(Instant::now() + window), if !up.is_full() && !down.is_full() => return Ok(Stopped::Idle),
        };
        entry.counts.touch();
        if moved || up.is_done() && down.is_done() {
            return Ok(Stopped::Over);
        }
    }
}

/// Waits, out of flight, for a byte. Whether there is one; if not, the resource sleeps or somebody closed.
async fn rest(entry: &Arc<Entry>, client: (&TcpStream, bool), resource: (&TcpStream, bool)) -> bool {
    let mut changed = entry.subscribe();
    let (mut a, mut b) = ([0], [0]);
    loop {
        changed.borrow_and_update();
        if matches!(entry.state(), None | Some(State::Asleep)) {
            return false;
        }
        tokio::select! {
            // An end, or an error, of either side ends both: nothing is under way.
            seen = client.0.peek(&mut a), if !client.1 => return seen.is_ok_and(|len| len > 0),
            seen = resource.0.peek(&mut b), if !resource.1 => return seen.is_ok_and(|len| len > 0),
            _ = changed.changed() => {}
        }
    }
}
