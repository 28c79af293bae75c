//! The ports of resources outside `--service-ports`: bound and closed as resources come and go.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use daemon::listen::InheritedSockets;
use scaler_types::ServicePorts;
use tokio_util::sync::CancellationToken;

use super::{ListenerKind, Server, Workers};
use crate::state::{PortOwner, ResourceHandle, Resources};

/// The ports that are bound, and those that failed.
#[derive(Debug)]
pub(crate) struct DedicatedPorts {
    resources: Arc<Resources>,
    /// The range that `ServiceListeners` binds; none of it is bound here.
    service_ports: Option<ServicePorts>,
    bound: Mutex<HashMap<u16, DedicatedPort>>,
}

/// One port.
#[derive(Clone, Debug)]
pub(crate) struct DedicatedPort {
    /// The resource and port, as the plugin lists them.
    pub(crate) identity: PortOwner,
    /// Why it cannot be bound; `None` if it is.
    pub(crate) error: Option<String>,
    stop: CancellationToken,
}

// === impl DedicatedPorts ===

impl DedicatedPorts {
    /// Nothing is bound yet. `service_ports` are bound elsewhere.
    pub(crate) fn new(resources: Arc<Resources>, service_ports: Option<ServicePorts>) -> Arc<Self> {
        Arc::new(Self { resources, service_ports, bound: Mutex::default() })
    }

    /// All ports, with their errors.
    pub(crate) fn all(&self) -> Vec<DedicatedPort> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Binds and closes ports as the resources' ports change; when the process drains, closes them all.
    pub(crate) async fn follow(
        &self,
        server: Arc<Server>,
        workers: Workers,
        handed: InheritedSockets,
        ip: IpAddr,
    ) {
        loop {
            let mut replaced = std::pin::pin!(self.resources.replaced());
            // From here on no change is missed.
            replaced.as_mut().enable();
            self.apply(&server, &workers, &handed, ip);
            tokio::select! {
                () = replaced => {}
                // The accept loop of each port ends by the same token.
                () = server.draining.cancelled() => return,
            }
        }
    }

    fn apply(&self, server: &Server, workers: &Workers, handed: &InheritedSockets, ip: IpAddr) {
        let table = self.resources.table();
        let is_own = |port: u16| self.service_ports.is_none_or(|all| !all.contains(port));
        let wanted: HashMap<u16, &PortOwner> = table
            .ports()
            .filter(|identity| is_own(identity.port.listen))
            .map(|identity| (identity.port.listen, identity))
            .collect();
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|number, bound| {
            let stays = bound.error.is_none()
                && wanted.get(number).is_some_and(|identity| {
                    Arc::ptr_eq(&identity.resource, &bound.identity.resource)
                        && identity.port == bound.identity.port
                });
            if !stays {
                bound.stop.cancel();
            }
            stays
        });
        for (number, identity) in wanted {
            bound.entry(number).or_insert_with(|| {
                bind(server, workers, handed, SocketAddr::new(ip, number), identity.clone())
            });
        }
    }
}

fn bind(
    server: &Server,
    workers: &Workers,
    handed: &InheritedSockets,
    address: SocketAddr,
    identity: PortOwner,
) -> DedicatedPort {
    let stop = server.draining.child_token();
    let PortOwner { resource, port } = &identity;
    let bound = handed
        .bind(address)
        .and_then(|listener| workers.listen(listener, stop.clone(), ListenerKind::Own(identity.clone())));
    let error = match bound {
        Ok(()) => {
            tracing::info!(resource = %resource.key.id, %address, protocol = ?port.protocol, "bound the resource's port");
            None
        }
        Err(error) => Some(not_bound(resource, address, &error)),
    };
    DedicatedPort { identity, error, stop }
}

fn not_bound(resource: &ResourceHandle, address: SocketAddr, error: &io::Error) -> String {
    tracing::error!(resource = %resource.key.id, %address, %error, "failed to bind the resource's port; retried when resources change");
    format!("cannot bind {address}: {error}")
}
