//! Forwards a TCP connection: through the same gate as a request, then bytes both ways.

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

use scaler_types::{Phase, backoff::Backoff};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::pipe::Pipe;
use crate::{
    admit::{Admission, Admitted, SOCKET_BUFFER_BYTES},
    client::{ConnectionGuard, Socket, alive},
    forward::http::dial,
    state::{EndpointTarget, InFlight, PortOwner, ResourceHandle, WakeCause},
};

/// Takes turns among the endpoints of a resource.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Why copying stopped.
enum Stopped {
    /// Both directions have ended.
    Over,
    /// No byte moved for a whole window.
    Idle,
}

/// Serves one connection to its end. A connection that was not wholly served is reset: its client must not take what it
/// got for everything.
pub(crate) async fn serve(_open: ConnectionGuard, client: Socket, identity: PortOwner) {
    let resource = identity.resource.clone();
    resource.counts.arrived();
    let ended = match connect(&resource, &client, &identity).await {
        Ok((in_flight, upstream, target)) => {
            let ended = splice(&resource, &client, (&upstream, &target), in_flight).await;
            if ended.is_err() {
                alive::reset(&upstream);
            }
            ended
        }
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(resource = %resource.key.id, port = identity.port.listen, %error, "connection failed");
        alive::reset(client.stream());
    }
}

async fn splice(
    resource: &Arc<ResourceHandle>,
    client: &Socket,
    (upstream, target): (&TcpStream, &Arc<EndpointTarget>),
    mut in_flight: InFlight,
) -> io::Result<()> {
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    loop {
        match copy(resource, client.stream(), upstream, &mut up, &mut down).await? {
            Stopped::Over => return Ok(()),
            // Its bytes stay in the sockets until the gate opens.
            Stopped::Idle => drop(in_flight),
        }
        if !rest(resource, (client.stream(), &mut up), (upstream, &mut down)).await? {
            return Ok(());
        }
        in_flight = enter(&mut Admission::new(resource.clone()), client).await?.in_flight;
        in_flight.set_endpoint(target);
    }
}

/// Enters the gate and connects; held while the resource is not up.
async fn connect(
    resource: &Arc<ResourceHandle>,
    client: &Socket,
    identity: &PortOwner,
) -> io::Result<(InFlight, TcpStream, Arc<EndpointTarget>)> {
    let mut admission = Admission::new(resource.clone());
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));
    loop {
        // Its permit is free again when it is connected.
        let Admitted { mut in_flight, held } = enter(&mut admission, client).await?;
        let snapshot = resource.snapshot.load_full();
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % snapshot.ready.len().max(1);
        let Some(target) = snapshot.ready.get(turn).map(|target| target.on_port(identity.port.target)) else {
            continue;
        };
        in_flight.set_endpoint(&target);
        match dial(&target).await {
            Ok(upstream) => return Ok((in_flight, upstream, target)),
            Err(error) => {
                drop((in_flight, held));
                if admission.is_over() {
                    return Err(io::Error::other(error));
                }
                if !resource.mark_unreachable(&target, error.to_string()) {
                    // A port other than the probed one: no probe finds out when it accepts.
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when a port of a ready endpoint accepts"
                    )]
                    sleep_until((Instant::now() + backoff.next_pause()).min(admission.deadline())).await;
                }
            }
        }
    }
}

async fn enter(admission: &mut Admission, client: &Socket) -> io::Result<Admitted> {
    if let Some(in_flight) = admission.enter() {
        return Ok(Admitted { in_flight, held: None });
    }
    admission.note_cause(|| {
        let stream = client.stream();
        let client = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
        let port = stream.local_addr().map_or(0, |own| own.port());
        WakeCause::Connection { client: client.unwrap_or_default(), port }
    });
    tokio::select! {
        admitted = admission.wait(SOCKET_BUFFER_BYTES) => {
            admitted.map_err(|refusal| io::Error::other(refusal.reason.clone()))
        }
        () = client.gone() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Copies both ways until both have ended, or no byte moved for the resource's largest window.
#[expect(clippy::disallowed_methods, reason = "that no byte moved for a window is the event")]
async fn copy(
    resource: &Arc<ResourceHandle>,
    client: &TcpStream,
    upstream: &TcpStream,
    up: &mut Pipe,
    down: &mut Pipe,
) -> io::Result<Stopped> {
    loop {
        let window = resource.largest_window();
        let moved = tokio::select! {
            biased;
            moved = poll_fn(|cx| {
                let mut moved = false;
                let (a, b) = (up.poll(cx, client, upstream, &mut moved), down.poll(cx, upstream, client, &mut moved));
                match (a, b) {
                    (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                    (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(true)),
                    // Restarts the window.
                    _ if moved => Poll::Ready(Ok(false)),
                    _ => Poll::Pending,
                }
            }) => moved?,
            // Bytes that were read and cannot be written are under way, not idle.
            () = sleep_until(Instant::now() + window), if !up.is_full() && !down.is_full() => return Ok(Stopped::Idle),
        };
        resource.counts.touch();
        if moved || up.is_done() && down.is_done() {
            return Ok(Stopped::Over);
        }
    }
}

/// Waits, not in flight, for a byte. `false`: the resource sleeps, or both sides have half-closed. A half-close is passed
/// on: the other side may still send.
async fn rest(
    resource: &Arc<ResourceHandle>,
    (client, up): (&TcpStream, &mut Pipe),
    (upstream, down): (&TcpStream, &mut Pipe),
) -> io::Result<bool> {
    let mut changed = resource.subscribe();
    let (mut a, mut b) = ([0], [0]);
    while !up.is_done() || !down.is_done() {
        changed.borrow_and_update();
        if matches!(resource.state(), None | Some(Phase::Asleep)) {
            return Ok(false);
        }
        tokio::select! {
            seen = client.peek(&mut a), if !up.is_done() => match seen? {
                0 => up.end(upstream),
                _ => return Ok(true),
            },
            seen = upstream.peek(&mut b), if !down.is_done() => match seen? {
                0 => down.end(client),
                _ => return Ok(true),
            },
            _ = changed.changed() => {}
        }
    }
    Ok(false)
}
