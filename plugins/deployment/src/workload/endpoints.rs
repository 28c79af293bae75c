//! Where a workload's pods listen, and how the DLX finds out that they do.

use scaler_types::{AddressOf, Endpoint, Probe, ServicePorts};

use crate::objects::{Container, ContainerProbe, PodObject, PortRef, Service, is_scaler};

/// Which port of a workload's pods its requests go to.
#[derive(Clone, Debug)]
pub(crate) struct PortSelection<'a> {
    /// Its annotation's.
    pub(crate) requested: Option<&'a PortRef>,
    /// The Services that select it, the one of its own name first.
    pub(crate) services: &'a [&'a Service],
    /// The addresses of DLXs that are endpoints of these.
    pub(crate) dlxs: &'a [&'a str],
    /// The DLXs' ports for Services.
    pub(crate) service_ports: Option<ServicePorts>,
}

/// The endpoint of a pod, if it has one now: it has an address and a port, is alive, and is not one that was ready and
/// no longer is (a Service would have dropped it). Where its Services take pods that are not ready
/// (`publishNotReadyAddresses`), it is one as soon as it takes connections.
pub(crate) fn pod_endpoint(pod: &PodObject, ports: &PortSelection<'_>) -> Option<Endpoint> {
    let ip = pod.ip.as_deref().filter(|_| pod.alive())?;
    let unready = ports.take_unready();
    if pod.was_ready && !pod.ready && !unready || ports.is_dlx(pod) {
        return None;
    }
    let (port, container) = ports.select_port(pod)?;
    let (probe, probe_address) = match unready {
        true => (Probe::Tcp, None),
        false => probe(pod, container, port, ip),
    };
    if probe == Probe::Listed && !pod.ready {
        return None;
    }
    let incarnation = match container.map_or(0, |container| container.restarts) {
        0 => pod.meta.uid.clone(),
        // Started anew at the same address: connections to what was there before are no longer used, and the DLX probes
        // it anew.
        restarts => format!("{}.{restarts}", pod.meta.uid),
    };
    let address_of = AddressOf::Instance;
    Some(Endpoint { probe, probe_address, address_of, ..Endpoint::new(address(ip, port), incarnation) })
}

// === impl PortSelection ===

impl PortSelection<'_> {
    /// Whether pods that are not ready take requests, too. Headless Services do not count: they are not intercepted.
    fn take_unready(&self) -> bool {
        let mut services = self.services.iter().filter(|service| service.is_ordinary()).peekable();
        services.peek().is_some() && services.all(|service| service.unready)
    }

    /// The port of a pod that requests go to, and the container that has it if one says so.
    pub(crate) fn select_port<'p>(&self, pod: &'p PodObject) -> Option<(u16, Option<&'p Container>)> {
        let port = match self.requested {
            Some(PortRef::Number(number)) => *number,
            Some(PortRef::Name(name)) => {
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

    /// Whether a pod is one of Scaler's own, or its address is a DLX's: what is sent there would come back.
    pub(crate) fn is_dlx(&self, pod: &PodObject) -> bool {
        // On its node's network a pod shares the address with all the others there.
        let is_its_own = || {
            let port = self.select_port(pod).map(|(port, _)| port);
            !pod.host_network
                || self.service_ports.zip(port).is_some_and(|(ports, port)| ports.contains(port))
        };
        is_scaler(&pod.labels) || pod.ip.as_deref().is_some_and(|ip| self.dlxs.contains(&ip)) && is_its_own()
    }

    /// Why a pod has no port for requests.
    pub(crate) fn missing(&self) -> String {
        match self.requested {
            Some(PortRef::Name(name)) => {
                format!("no port of its Services or containers is named {name:?} (scaler.dev/port)")
            }
            _ => "it has no port: no Service selects it and no container declares one; set scaler.dev/port"
                .to_owned(),
        }
    }
}

fn resolve(target: &PortRef, pod: &PodObject) -> Option<u16> {
    match target {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => pod.port_named(name).map(|(number, _)| number),
    }
}

/// How the DLX probes the port, and where if not there. Probes the DLX cannot make are left to the kubelet: then the pod
/// is listed only while the kubelet reports it ready.
fn probe(pod: &PodObject, container: Option<&Container>, port: u16, ip: &str) -> (Probe, Option<String>) {
    let kubelets = (Probe::Listed, None);
    let others = pod
        .serving()
        .any(|other| other.probe.is_some() && container.is_none_or(|serving| !std::ptr::eq(serving, other)));
    if pod.gated || others {
        return kubelets;
    }
    let number = |wanted: &PortRef| match wanted {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => {
            container?.ports.iter().find(|(port, _)| port == name).map(|(_, number)| *number)
        }
    };
    let elsewhere = |at: u16, host: Option<&String>| {
        (at != port || host.is_some()).then(|| address(host.map_or(ip, String::as_str), at))
    };
    match container.and_then(|container| container.probe.as_ref()) {
        None => (Probe::Tcp, None),
        Some(ContainerProbe::Kubelet) => kubelets,
        Some(ContainerProbe::Tcp { port, host }) => match number(port) {
            Some(at) => (Probe::Tcp, elsewhere(at, host.as_ref())),
            None => kubelets,
        },
        Some(ContainerProbe::Http { port, host, path, headers }) => match number(port) {
            Some(at) => {
                let probe = Probe::Http { path: path.clone(), headers: headers.clone() };
                (probe, elsewhere(at, host.as_ref()))
            }
            None => kubelets,
        },
        Some(ContainerProbe::Grpc { port, service }) => {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::COMPONENT;

    fn pod(containers: Value, ready: bool) -> PodObject {
        let statuses: Vec<_> = containers.as_array().unwrap().iter().map(|container| {
            json!({"name": container["name"], "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": {"running": {}}})
        }).collect();
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": containers, "nodeName": "node"},
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": statuses,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }))
        .unwrap();
        pod.into()
    }

    fn service(ports: Value) -> Service {
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"a": "b"}, "ports": ports}}),
        )
        .unwrap();
        service.into()
    }

    fn endpoint_of(pod: &PodObject, requested: Option<PortRef>, services: &[&Service]) -> Option<Endpoint> {
        pod_endpoint(
            pod,
            &PortSelection { requested: requested.as_ref(), services, dlxs: &[], service_ports: None },
        )
    }

    #[test]
    fn a_dlx_is_no_endpoint() {
        let at = |address: &str, host_network: bool, number: u16| {
            let mut pod = pod(json!([{"name": "web", "ports": [{"containerPort": number}]}]), true);
            (pod.ip, pod.host_network) = (Some(address.to_owned()), host_network);
            let service_ports = Some(ServicePorts { first: 20_000, last: 20_999 });
            let ports = PortSelection {
                requested: None,
                services: &[],
                dlxs: &["10.0.0.7", "fd00::7"],
                service_ports,
            };
            pod_endpoint(&pod, &ports).is_some()
        };
        assert!(at("10.0.0.1", false, 8090));
        assert!(!at("10.0.0.7", false, 8090) && !at("fd00::7", false, 80));
        assert!(at("10.0.0.7", true, 8080), "another pod on the DLX's node");
        assert!(!at("10.0.0.7", true, 20_001));
        let mut own = pod(json!([{"name": "web", "ports": [{"containerPort": 8080}]}]), true);
        assert!(endpoint_of(&own, None, &[]).is_some());
        own.labels.insert(COMPONENT.to_owned(), "dlx".to_owned());
        assert!(endpoint_of(&own, None, &[]).is_none(), "not intercepted yet, and a DLX all the same");
    }

    #[test]
    fn the_port_is_the_one_that_is_said() {
        let web = pod(
            json!([{"name": "web", "ports": [{"name": "admin", "containerPort": 9000}, {"name": "http", "containerPort": 8080}]}]),
            true,
        );
        let one = service(
            json!([{"name": "metrics", "port": 9100}, {"name": "http", "port": 80, "targetPort": "http"}]),
        );
        let said = service(
            json!([{"name": "a", "port": 1}, {"name": "b", "port": 80, "appProtocol": "http", "targetPort": 81}]),
        );
        let first = service(json!([{"name": "a", "port": 5000}]));
        let udp = service(json!([{"name": "a", "port": 53, "protocol": "UDP"}]));
        let name = |name: &str| Some(PortRef::Name(name.to_owned()));
        for (requested, services, expected) in [
            (None, vec![&one], Some(8080)),
            (None, vec![&said], Some(81)),
            (None, vec![&first, &one], Some(5000)),
            (None, vec![&udp], Some(9000)),
            (None, vec![&udp, &one], Some(8080)),
            (None, vec![], Some(9000)),
            (Some(PortRef::Number(7)), vec![&one], Some(7)),
            (name("metrics"), vec![&one], Some(9100)),
            (name("admin"), vec![&one], Some(9000)),
            (name("nobody"), vec![&one], None),
        ] {
            let port = endpoint_of(&web, requested.clone(), &services).map(|one| one.address);
            assert_eq!(port, expected.map(|port| format!("10.0.0.1:{port}")), "{requested:?} {services:?}");
        }
        let bare = pod(json!([{"name": "web"}]), true);
        assert_eq!(endpoint_of(&bare, None, &[]), None);
    }

    #[test]
    fn probes_are_the_pods_own() {
        let ports =
            json!([{"name": "http", "containerPort": 8080}, {"name": "health", "containerPort": 8081}]);
        let tcp = |address: Option<&str>| Some((Probe::Tcp, address.map(str::to_owned)));
        let http = |path: &str, headers: &[(&str, &str)], address: Option<&str>| {
            let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Some((Probe::Http { path: path.to_owned(), headers }, address.map(str::to_owned)))
        };
        let grpc = |service: &str, address: Option<&str>| {
            Some((Probe::Grpc { service: service.to_owned() }, address.map(str::to_owned)))
        };
        for (probes, expected) in [
            (json!({}), tcp(None)),
            (json!({"readinessProbe": {"tcpSocket": {"port": "http"}}}), tcp(None)),
            (json!({"readinessProbe": {"tcpSocket": {"port": 8081}}}), tcp(Some("10.0.0.1:8081"))),
            (json!({"readinessProbe": {"httpGet": {"port": "http", "path": "ok"}}}), http("/ok", &[], None)),
            (
                json!({"readinessProbe": {"httpGet": {"port": "health", "httpHeaders": [{"name": "Host", "value": "a"}]}}}),
                http("/", &[("Host", "a")], Some("10.0.0.1:8081")),
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 8080, "host": "::1"}}}),
                http("/", &[], Some("[::1]:8080")),
            ),
            (json!({"readinessProbe": {"grpc": {"port": 8080, "service": "s"}}}), grpc("s", None)),
            (json!({"readinessProbe": {"grpc": {"port": 8081}}}), grpc("", Some("10.0.0.1:8081"))),
            (json!({"startupProbe": {"httpGet": {"port": "http", "path": "/up"}}}), http("/up", &[], None)),
            // Only the kubelet can tell: not listed, for it is not ready yet.
            (json!({"readinessProbe": {"exec": {"command": ["true"]}}}), None),
            (json!({"readinessProbe": {"httpGet": {"port": "http", "scheme": "HTTPS"}}}), None),
            (json!({"readinessProbe": {"httpGet": {"port": "nobody"}}}), None),
            (json!({"readinessProbe": {"httpGet": {"port": "http"}, "successThreshold": 2}}), None),
        ] {
            let mut container = probes.clone();
            container["name"] = "web".into();
            container["ports"] = ports.clone();
            let found = endpoint_of(&pod(json!([container]), false), Some(PortRef::Number(8080)), &[]);
            assert_eq!(found.map(|one| (one.probe, one.probe_address)), expected, "{probes}");
            let ready =
                endpoint_of(&pod(json!([container]), true), Some(PortRef::Number(8080)), &[]).unwrap();
            assert_eq!(ready.probe == Probe::Listed, expected.is_none(), "{probes}");
        }
    }

    #[test]
    fn a_check_beside_the_servings_own_is_the_kubelets_to_make() {
        let web = json!({"name": "web", "ports": [{"containerPort": 8080}]});
        let beside = json!({"name": "proxy", "readinessProbe": {"tcpSocket": {"port": 15020}}});
        assert_eq!(endpoint_of(&pod(json!([web, beside]), false), None, &[]), None);
        assert_eq!(endpoint_of(&pod(json!([web, beside]), true), None, &[]).unwrap().probe, Probe::Listed);
        let mut gated = pod(json!([web]), false);
        gated.gated = true;
        assert_eq!(endpoint_of(&gated, None, &[]), None);
    }

    #[test]
    fn what_does_not_run_or_no_longer_is_ready_is_no_endpoint() {
        let alive = pod(json!([{"name": "web", "ports": [{"containerPort": 8080}]}]), false);
        let with = |change: fn(&mut PodObject)| {
            let mut pod = alive.clone();
            change(&mut pod);
            endpoint_of(&pod, None, &[])
        };
        assert!(with(|_| ()).is_some());
        assert_eq!(with(|pod| pod.deleting = true), None);
        assert_eq!(with(|pod| pod.phase = "Failed".to_owned()), None);
        assert_eq!(with(|pod| pod.phase = "Succeeded".to_owned()), None);
        assert_eq!(with(|pod| pod.ip = None), None);
        assert_eq!(with(|pod| pod.was_ready = true), None, "a Service would have dropped it");
        assert_eq!(with(|pod| pod.ip = Some("fd00::1".to_owned())).unwrap().address, "[fd00::1]:8080");
        assert_eq!(with(|_| ()).unwrap().incarnation, "u1");
        assert_eq!(with(|pod| pod.containers[0].restarts = 2).unwrap().incarnation, "u1.2");
    }

    #[test]
    fn where_its_services_take_pods_that_are_not_ready_they_are_endpoints() {
        let container = json!({
            "name": "vault", "ports": [{"containerPort": 8200}],
            "readinessProbe": {"exec": {"command": ["vault", "status"]}},
        });
        let sealed = pod(json!([container]), false);
        let service = |more: Value| {
            let mut spec = json!({"selector": {"a": "b"}, "ports": [{"name": "http", "port": 8200}]});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            let object = json!({"metadata": {"name": "vault"}, "spec": spec});
            Service::from(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(object).unwrap())
        };
        let (plain, unready) = (service(json!({})), service(json!({"publishNotReadyAddresses": true})));
        let peers = service(json!({"publishNotReadyAddresses": true, "clusterIP": "None"}));
        assert_eq!(endpoint_of(&sealed, None, &[&plain]), None);
        assert_eq!(endpoint_of(&sealed, None, &[&plain, &peers]), None, "nobody comes by a headless one");
        assert_eq!(endpoint_of(&sealed, None, &[&plain, &unready]), None, "by some of them it must be ready");
        for services in [vec![&unready], vec![&unready, &peers]] {
            let found = endpoint_of(&sealed, None, &services).expect("it takes connections");
            assert_eq!((found.address.as_str(), found.probe), ("10.0.0.1:8200", Probe::Tcp));
        }
        let mut no_longer = sealed.clone();
        no_longer.was_ready = true;
        assert!(endpoint_of(&no_longer, None, &[&unready]).is_some());
        no_longer.deleting = true;
        assert_eq!(endpoint_of(&no_longer, None, &[&unready]), None);
    }
}
