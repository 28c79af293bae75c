//! Where the daemons of `run` listen, and how each resource is reached.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use daemon::{exit::Misconfigured, listen::InheritedSockets};
use serde_json::Value;

use super::daemons::DaemonSockets;
use crate::cli::{
    admin_client::AdminClient,
    explain::array_field,
    output::{display_value, print, table},
};

/// The sockets of both daemons, bound here: the daemons take them over, so no other program can be faster.
pub(super) struct Sockets {
    requests: TcpListener,
    dlx: TcpListener,
    autoscaler: TcpListener,
    pub(super) addresses: Addresses,
}

/// Their addresses.
#[derive(Clone)]
pub(super) struct Addresses {
    requests: SocketAddr,
    dlx: SocketAddr,
    autoscaler: SocketAddr,
    /// The user chose that for requests.
    chosen: bool,
}

/// The daemons' default ports.
const DEFAULTS: [u16; 3] = [8090, 8091, 8092];
/// So many lines say how to reach a resource.
const MAX_LINES: usize = 20;
/// The pause before a daemon is asked again whether it is ready.
const READY_PAUSE: Duration = Duration::from_millis(20);

// === impl Sockets ===

impl Sockets {
    /// `wanted`: the address for requests that the user wants. `reserved`: the resources' own ports.
    pub(super) fn bind(wanted: Option<SocketAddr>, reserved: &BTreeSet<u16>) -> anyhow::Result<Self> {
        let [requests, dlx, autoscaler] = DEFAULTS;
        if let Some(address) = wanted.filter(|address| reserved.contains(&address.port())) {
            return Err(Misconfigured(format!(
                "--listen-address {address}: port {} is a resource's own in the files",
                address.port()
            ))
            .into());
        }
        let chosen = wanted.is_some();
        let requests = match wanted {
            Some(address) => InheritedSockets::default().bind(address).with_context(|| {
                format!("--listen-address {address}: choose another, or stop what has it")
            })?,
            None => bind_from(requests, reserved)?,
        };
        let (dlx, autoscaler) = (bind_from(dlx, reserved)?, bind_from(autoscaler, reserved)?);
        let addresses = Addresses {
            requests: requests.local_addr()?,
            dlx: dlx.local_addr()?,
            autoscaler: autoscaler.local_addr()?,
            chosen,
        };
        Ok(Self { requests, dlx, autoscaler, addresses })
    }

    /// Those of the DLX, and those of the autoscaler.
    pub(super) fn split(self) -> (DaemonSockets, DaemonSockets) {
        let flag = |name: &str, address: SocketAddr| format!("--{name}={address}").into();
        let Addresses { requests, dlx, autoscaler, .. } = self.addresses;
        let of_dlx = DaemonSockets {
            listeners: vec![self.requests, self.dlx],
            flags: vec![flag("listen-address", requests), flag("admin-address", dlx)],
        };
        let of_autoscaler = DaemonSockets {
            listeners: vec![self.autoscaler],
            flags: vec![flag("admin-address", autoscaler)],
        };
        (of_dlx, of_autoscaler)
    }
}

/// Binds this port of loopback, or the next that is free.
fn bind_from(wanted: u16, reserved: &BTreeSet<u16>) -> anyhow::Result<TcpListener> {
    let may_be = |port: &u16| !reserved.contains(port) && (*port == wanted || !DEFAULTS.contains(port));
    for port in (wanted..=u16::MAX).filter(may_be) {
        match InheritedSockets::default().bind((Ipv4Addr::LOCALHOST, port).into()) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("every port of 127.0.0.1 from {wanted} on is taken")
}

// === impl Addresses ===

impl Addresses {
    /// Prints them once both daemons are ready.
    pub(super) async fn show_when_ready(&self, state: &Path) -> anyhow::Result<()> {
        let dlx = AdminClient::new(format!("http://{}", self.dlx))?;
        let autoscaler = AdminClient::new(format!("http://{}", self.autoscaler))?;
        for client in [&dlx, &autoscaler] {
            while !client.is_ready().await {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing tells another process that a daemon is ready"
                )]
                tokio::time::sleep(READY_PAUSE).await;
            }
        }
        let known = dlx.get("/api/v1/resources").await?.unwrap_or_default();
        print(&self.render(array_field(&known, "resources"), state));
        Ok(())
    }

    fn render(&self, resources: &[Value], state: &Path) -> String {
        let taken = |address: SocketAddr, default: u16| {
            let other = address.port() != default && address.ip() == Ipv4Addr::LOCALHOST;
            if other { format!("  (not {default}, which is taken)") } else { String::new() }
        };
        let [requests, dlx, autoscaler] = DEFAULTS;
        let requests = if self.chosen { self.requests.port() } else { requests };
        let line = |name: &str, address: SocketAddr, default: u16| {
            vec![name.to_owned(), format!("http://{}{}", reachable(address), taken(address, default))]
        };
        let mut out = table(&[
            line("requests", self.requests, requests),
            line("admin port of the DLX", self.dlx, dlx),
            line("admin port of the autoscaler", self.autoscaler, autoscaler),
            vec!["state".to_owned(), state.display().to_string()],
        ]);
        let lines: Vec<_> = resources.iter().flat_map(|resource| self.ways(resource)).collect();
        if !lines.is_empty() {
            out += &format!("\n{}", table(&lines[..lines.len().min(MAX_LINES)]));
        }
        if let Some(more) = lines.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            out += &format!("  and {more} more\n");
        }
        let admin = match self.autoscaler.port() == autoscaler {
            true => String::new(),
            false => format!(" --admin-address {}", self.autoscaler),
        };
        format!("\n{out}\n  All resources:    autoscaler list{admin}\n  Stop everything:  Ctrl-C\n\n")
    }

    /// How a resource is reached: each of its hosts and ports.
    fn ways(&self, resource: &Value) -> Vec<Vec<String>> {
        let name = format!("{}/{}", display_value(&resource["namespace"]), display_value(&resource["name"]));
        let requests = reachable(self.requests);
        // Others would have to be quoted.
        let plain = |host: &&str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        let hosts = array_field(resource, "hosts").iter().filter_map(Value::as_str).filter(plain);
        let curls = hosts.map(|host| match host.ends_with(".localhost") {
            true => format!("curl http://{host}:{}/", requests.port()),
            false => format!("curl -H 'Host: {host}' http://{requests}/"),
        });
        let ports = array_field(resource, "ports").iter().filter_map(|port| {
            let address = SocketAddr::new(requests.ip(), port["listen"].as_u64()?.try_into().ok()?);
            Some(match port["protocol"].as_str() {
                Some("http") => format!("curl http://{address}/"),
                _ => format!("{address} (TCP)"),
            })
        });
        curls.chain(ports).map(|way| vec![name.clone(), way]).collect()
    }
}

/// An address that a client on this host can use.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_person_reads() {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses = Addresses { requests: at(8090), dlx: at(8091), autoscaler: at(8093), chosen: false };
        let resources = [
            json!({"namespace": "demo", "name": "web", "hosts": ["web.localhost", "shop.example"], "ports": []}),
            json!({"namespace": "demo", "name": "store", "hosts": [],
                "ports": [{"listen": 6379, "protocol": "tcp"}, {"listen": 8000, "protocol": "http"}]}),
        ];
        let expected = "
  requests                      http://127.0.0.1:8090
  admin port of the DLX         http://127.0.0.1:8091
  admin port of the autoscaler  http://127.0.0.1:8093  (not 8092, which is taken)
  state                         /home/you/.local/state/scaler/demo

  demo/web    curl http://web.localhost:8090/
  demo/web    curl -H 'Host: shop.example' http://127.0.0.1:8090/
  demo/store  127.0.0.1:6379 (TCP)
  demo/store  curl http://127.0.0.1:8000/

  All resources:    autoscaler list --admin-address 127.0.0.1:8093
  Stop everything:  Ctrl-C

";
        assert_eq!(addresses.render(&resources, Path::new("/home/you/.local/state/scaler/demo")), expected);
        let everywhere = Addresses { requests: "[::]:80".parse().unwrap(), ..addresses };
        assert!(everywhere.render(&[], Path::new("/")).contains("http://127.0.0.1:80\n"));
    }

    #[test]
    fn the_ports_of_resources_and_of_the_other_daemon_are_left_alone() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULTS[0]));
        let listener = bind_from(DEFAULTS[0], &BTreeSet::from([8093, 8094])).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Where another program has it, it is taken, too.
        drop(taken);
        assert!(port >= 8095, "{port}");
    }
}
