//! The ports of the resources: bound as resources come, closed as they go.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use daemon::listen::Handed;
use scaler_types::{Port, ResourceId};
use tokio_util::sync::CancellationToken;

use crate::{
    dlx::Dlx,
    resource::Entry,
    serve::{Accepted, Identity, Workers, accept},
};

/// The ports that are bound, and those that cannot be.
#[derive(Debug, Default)]
pub struct Ports {
    bound: Mutex<HashMap<u16, Bound>>,
}

/// One port.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Whose.
    pub resource: ResourceId,
    /// As the plugin lists it.
    pub port: Port,
    /// Why it cannot be bound; `None` if it is.
    pub error: Option<String>,
    entry: Arc<Entry>,
    stop: CancellationToken,
}

// === impl Ports ===

impl Ports {
    /// The ports, and how they are.
    pub fn all(&self) -> Vec<Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Binds and closes ports as the resources' ports change, until the process drains; then closes them all.
pub async fn follow(dlx: Arc<Dlx>, workers: Workers, handed: Handed, ip: IpAddr) {
    loop {
        let routed = dlx.routed.notified();
        let mut routed = std::pin::pin!(routed);
        // From here on a change is not missed.
        routed.as_mut().enable();
        apply(&dlx, &workers, &handed, ip);
        tokio::select! {
            () = routed => {}
            // Each port's own accepting ends by the same token.
            () = dlx.draining.cancelled() => return,
        }
    }
}

fn apply(dlx: &Arc<Dlx>, workers: &Workers, handed: &Handed, ip: IpAddr) {
    let mut wanted: HashMap<u16, (Arc<Entry>, Port)> = HashMap::new();
    for entry in dlx.registry.all() {
        let (gone, ports) = entry.read(|view| (view.gone, view.resource.ports.clone()));
        for port in ports.into_iter().filter(|_| !gone) {
            match wanted.get(&port.listen) {
                Some((has, _)) => {
                    tracing::warn!(port = port.listen, has = %has.key.id, wants = %entry.key.id, "two resources claim one port; the older one has it")
                }
                None => {
                    wanted.insert(port.listen, (entry.clone(), port));
                }
            }
        }
    }
    let mut bound = dlx.ports.bound.lock().unwrap_or_else(PoisonError::into_inner);
    bound.retain(|number, bound| {
        let stays = bound.error.is_none()
            && wanted
                .get(number)
                .is_some_and(|(entry, port)| Arc::ptr_eq(entry, &bound.entry) && *port == bound.port);
        if !stays {
            bound.stop.cancel();
        }
        stays
    });
    for (number, (entry, port)) in wanted {
        bound
            .entry(number)
            .or_insert_with(|| bind(dlx, workers, handed, SocketAddr::new(ip, number), entry, port));
    }
}

fn bind(
    dlx: &Arc<Dlx>,
    workers: &Workers,
    handed: &Handed,
    address: SocketAddr,
    entry: Arc<Entry>,
    port: Port,
) -> Bound {
    let stop = dlx.draining.child_token();
    let listening = handed.bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let error = match listening {
        Ok(listener) => {
            tracing::info!(resource = %entry.key.id, %address, protocol = ?port.protocol, "its port is bound");
            let (workers, stop, identity) =
                (workers.clone(), stop.clone(), Identity { entry: entry.clone(), port: port.clone() });
            let places = dlx.places.clone();
            dlx.shared.handle.spawn(async move {
                let ended = accept(listener, stop, places, |stream, peer, place| {
                    workers.hand(Accepted { stream, peer, identity: Some(identity.clone()), place });
                });
                if let Err(error) = ended.await {
                    tracing::error!(%address, %error, "a port cannot be accepted on");
                }
            });
            None
        }
        Err(error) => Some(not_bound(&entry, address, &error)),
    };
    Bound { resource: entry.key.id.clone(), port, error, entry, stop }
}

fn not_bound(entry: &Entry, address: SocketAddr, error: &io::Error) -> String {
    tracing::error!(resource = %entry.key.id, %address, %error, "its port cannot be bound; tried again when resources change");
    format!("cannot bind {address}: {error}")
}
