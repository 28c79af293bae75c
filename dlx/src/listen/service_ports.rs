//! The ports of `--service-ports`: all bound before any Service can point to this DLX, and kept until the process drains.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use daemon::listen::InheritedSockets;
use scaler_types::{ServicePorts, backoff::Backoff};

use super::{ListenerKind, Server, Workers};

/// The pause between attempts to bind ports that another process uses: nothing signals that a port is free.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// How many of the ports that cannot be bound are named in the text.
const MAX_NAMED: usize = 3;

/// The listening sockets of a range of ports.
#[derive(Debug)]
pub(crate) struct ServiceListeners(Vec<(u16, TcpListener)>);

// === impl ServiceListeners ===

impl ServiceListeners {
    /// Binds all ports and returns when that is done: ports that another process uses are retried, and `report` gets the
    /// reason after each attempt.
    pub(crate) async fn bind(
        ports: ServicePorts,
        ip: IpAddr,
        handed: &InheritedSockets,
        report: impl Fn(String),
    ) -> Self {
        let (mut bound, mut wanted) = (Vec::new(), ports.all().collect::<Vec<_>>());
        let (mut backoff, mut logged) = (BACKOFF, String::new());
        loop {
            let mut failed = Vec::new();
            for port in std::mem::take(&mut wanted) {
                match handed.bind(SocketAddr::new(ip, port)) {
                    Ok(listener) => bound.push((port, listener)),
                    Err(error) => failed.push((port, error)),
                }
            }
            if failed.is_empty() {
                tracing::info!(first = ports.first, last = ports.last, "bound the service ports");
                return Self(bound);
            }
            let why = describe_failures(ports, &failed);
            if why != logged {
                tracing::error!(%why, "failed to bind every service port; retrying");
                logged.clone_from(&why);
            }
            report(why);
            wanted.extend(failed.into_iter().map(|(port, _)| port));
            backoff.wait().await;
        }
    }

    /// Accepts connections until the process drains: each for the resource that owns its port then.
    ///
    /// # Errors
    ///
    /// A socket cannot be registered with the runtime.
    pub(crate) fn serve(self, server: &Server, workers: &Workers) -> io::Result<()> {
        for (port, listener) in self.0 {
            workers.listen(listener, server.draining.clone(), ListenerKind::Service(port))?;
        }
        Ok(())
    }
}

fn describe_failures(ports: ServicePorts, failed: &[(u16, io::Error)]) -> String {
    let ServicePorts { first, last } = ports;
    let named = failed.iter().take(MAX_NAMED).map(|(_, error)| error.to_string());
    let mut why = format!(
        "{} of the {} ports of --service-ports {first}-{last} cannot be bound: {}",
        failed.len(),
        ports.all().count(),
        named.collect::<Vec<_>>().join("; ")
    );
    if failed.len() > MAX_NAMED {
        why.push_str("; ...");
    }
    if failed.iter().any(|(_, error)| error.kind() == io::ErrorKind::AddrInUse) {
        why.push_str(
            "; stop what listens there (ss -ltnp shows it), or choose a range outside net.ipv4.ip_local_port_range, from \
             which the kernel gives ports to outgoing connections",
        );
    }
    why
}
