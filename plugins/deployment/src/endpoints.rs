//! Where a workload's pods listen, and how the DLX finds out that they do.

use scaler_types::{Endpoint, Probe};

use crate::facts::{Container, Pod, PortOf, ProbeOf, Service};

/// Which port of a workload's pods its requests go to.
#[derive(Clone, Debug)]
pub struct Ports<'a> {
    /// Its annotation's.
    pub asked: Option<&'a PortOf>,
    /// The Services that lead to it, the one that is called as it is first.
    pub services: &'a [&'a Service],
}

/// The endpoint of a pod, if it has one now: it has an address and a port, is alive, and is not one that was ready and
/// no longer is (a Service would have dropped it).
pub fn endpoint(pod: &Pod, ports: &Ports<'_>) -> Option<Endpoint> {
    let ip = pod.ip.as_deref().filter(|_| pod.alive())?;
    if pod.was_ready && !pod.ready {
        return None;
    }
    let (port, container) = ports.of(pod)?;
    let (probe, probe_address) = probe(pod, container, port, ip);
    if probe == Probe::Listed && !pod.ready {
        return None;
    }
    let incarnation = match container.map_or(0, |container| container.restarts) {
        0 => pod.meta.uid.clone(),
        // Started anew at the same address: connections to what was there before are no longer used, and the DLX probes
        // it anew.
        restarts => format!("{}.{restarts}", pod.meta.uid),
    };
    Some(Endpoint { probe, probe_address, ..Endpoint::new(address(ip, port), incarnation) })
}

// === impl Ports ===

impl Ports<'_> {
    /// The port of a pod that requests go to, and the container that has it if one says so.
    pub fn of<'p>(&self, pod: &'p Pod) -> Option<(u16, Option<&'p Container>)> {
        let port = match self.asked {
            Some(PortOf::Number(number)) => *number,
            Some(PortOf::Name(name)) => {
                let of_a_service = self.services.iter().flat_map(|service| &service.ports);
                match of_a_service.clone().find(|port| port.name == *name) {
                    Some(port) => resolve(&port.target, pod)?,
                    None => pod.port_named(name)?.0,
                }
            }
            None => match self.services.iter().find_map(|service| service.http_port()) {
                Some(port) => resolve(&port.target, pod)?,
                None => pod.serving().find_map(|container| container.ports.first())?.1,
            },
        };
        let has = |container: &&Container| container.ports.iter().any(|(_, number)| *number == port);
        // Ports need not be declared: a container that is alone has them all.
        let alone = pod.serving().next().filter(|_| pod.serving().count() == 1);
        let container = pod.serving().find(has).or(alone);
        Some((port, container))
    }

    /// Why a pod has no port for requests.
    pub fn missing(&self) -> String {
        match self.asked {
            Some(PortOf::Name(name)) => format!(
                "no port of its Services or containers is called {name:?} (scaler.dev/port)"
            ),
            _ => "it has no port: no Service leads to it and no container declares one; say it with scaler.dev/port"
                .to_owned(),
        }
    }
}

fn resolve(target: &PortOf, pod: &Pod) -> Option<u16> {
    match target {
        PortOf::Number(number) => Some(*number),
        PortOf::Name(name) => pod.port_named(name).map(|(number, _)| number),
    }
}

/// How the DLX finds out that the port is ready, and where if not there. What it cannot do itself is left to the
/// kubelet: then the pod is listed only while that says it is ready.
fn probe(pod: &Pod, container: Option<&Container>, port: u16, ip: &str) -> (Probe, Option<String>) {
    let kubelets = (Probe::Listed, None);
    let others = pod
        .serving()
        .any(|other| other.probe.is_some() && container.is_none_or(|serving| !std::ptr::eq(serving, other)));
    if pod.gated || others {
        return kubelets;
    }
    let number = |wanted: &PortOf| match wanted {
        PortOf::Number(number) => Some(*number),
        PortOf::Name(name) => {
            container?.ports.iter().find(|(port, _)| port == name).map(|(_, number)| *number)
        }
    };
    let elsewhere = |at: u16, host: Option<&String>| {
        (at != port || host.is_some()).then(|| address(host.map_or(ip, String::as_str), at))
    };
    match container.and_then(|container| container.probe.as_ref()) {
        None => (Probe::Tcp, None),
        Some(ProbeOf::Kubelet) => kubelets,
        Some(ProbeOf::Tcp { port, host }) => match number(port) {
            Some(at) => (Probe::Tcp, elsewhere(at, host.as_ref())),
            None => kubelets,
        },
        Some(ProbeOf::Http { port, host, path, headers }) => match number(port) {
            Some(at) => {
                let probe = Probe::Http { path: path.clone(), headers: headers.clone() };
                (probe, elsewhere(at, host.as_ref()))
            }
            None => kubelets,
        },
        Some(ProbeOf::Grpc { port, service }) => {
            (Probe::Grpc { service: service.clone() }, elsewhere(*port, None))
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
