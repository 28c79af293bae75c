//! What is to be intercepted of a workload, and how its slices are to be.

use std::{collections::BTreeMap, net::IpAddr};

use scaler_types::{Dlx, Protocol};

use crate::objects::{IpFamily, PortHolder, Service, ServicePort, SliceEndpoint};

/// The most endpoints that the API takes in one slice.
const MAX_ENDPOINTS: usize = 1000;
/// The most ports.
pub(crate) const MAX_PORTS: usize = 100;

/// `appProtocol`s that are HTTP in clear text.
const HTTP_PROTOCOLS: [&str; 6] =
    ["http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws"];
/// Names of ports that are, where no `appProtocol` is said: these, and these with a hyphen and anything after it.
const HTTP_NAMES: [&str; 3] = ["http", "http2", "grpc"];

/// What is spoken on a port.
pub(crate) fn port_protocol(port: &ServicePort) -> Protocol {
    let named = |known: &str| {
        port.name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let http = match port.protocol.as_str() {
        "" => HTTP_NAMES.into_iter().any(named),
        said => HTTP_PROTOCOLS.contains(&said),
    };
    if http { Protocol::Http } else { Protocol::Tcp }
}

/// Whether that it is HTTP is only guessed, from its name.
pub(crate) fn is_guessed(port: &ServicePort) -> bool {
    port.protocol.is_empty() && port_protocol(port) == Protocol::Http
}

/// How the ports of a Service are forwarded, human-readable.
pub(crate) fn describe_forwarding(service: &Service) -> String {
    let how = |port: &ServicePort| {
        let name = if port.name.is_empty() { "unnamed port" } else { &port.name };
        match port_protocol(port) {
            Protocol::Tcp => format!("{name} as TCP"),
            Protocol::Http if is_guessed(port) => format!(
                "{name} as HTTP by its name, and as TCP where a client's first bytes cannot be HTTP \
                 (set appProtocol to decide)"
            ),
            Protocol::Http => format!("{name} as HTTP by its appProtocol"),
        }
    };
    let ports = service.ports.iter().map(how).collect::<Vec<_>>();
    format!("Service {}: {}", service.meta.name, ports.join("; "))
}

/// The ports of a Service, as holders of DLX ports.
pub(crate) fn port_holders(service: &Service) -> Vec<PortHolder> {
    let holder = |port: &ServicePort| PortHolder {
        namespace: service.meta.namespace.to_string(),
        service: service.meta.name.to_string(),
        uid: service.meta.uid.clone(),
        port: port.name.clone(),
    };
    service.ports.iter().map(holder).collect()
}

/// The families that a Service and the DLXs share.
pub(crate) fn shared_families(service: &Service, dlxs: &[Dlx]) -> Vec<IpFamily> {
    let shared = |family: &IpFamily| dlxs.iter().any(|dlx| address(dlx, *family).is_some());
    service.families.iter().copied().filter(shared).collect()
}

/// The first family of a Service by which no DLX is reached: its clients would find no endpoint. None, if the DLXs are
/// not known.
pub(crate) fn unreachable_family(service: &Service, dlxs: &[Dlx]) -> Option<IpFamily> {
    if dlxs.is_empty() {
        return None;
    }
    let shared = shared_families(service, dlxs);
    service.families.iter().copied().find(|family| !shared.contains(family))
}

/// The endpoints of a slice with these DLXs, and which DLXs they are: those that have an address of the family.
pub(crate) fn dlx_endpoints(dlxs: &[Dlx], family: IpFamily) -> (Vec<SliceEndpoint>, Vec<String>) {
    let mut all: Vec<_> = dlxs.iter().filter_map(|dlx| Some((dlx, address(dlx, family)?))).collect();
    all.sort();
    all.dedup_by_key(|(_, address)| *address);
    all.truncate(MAX_ENDPOINTS);
    let names = all.iter().map(|(dlx, _)| dlx.name.clone()).collect();
    let place = |(dlx, address): (&Dlx, IpAddr)| SliceEndpoint {
        address: address.to_string(),
        node: dlx.node.clone(),
        zone: dlx.zone.clone(),
        ready: true,
    };
    let mut dlx_endpoints: Vec<_> = all.into_iter().map(place).collect();
    dlx_endpoints.sort();
    (dlx_endpoints, names)
}

/// The name of our slice of a Service.
pub(crate) fn slice_name(service: &str, family: IpFamily) -> String {
    format!("{service}-scaler-{}", family.name().to_ascii_lowercase())
}

/// Ports by the names of the Service's.
pub(crate) type AssignedPorts = BTreeMap<String, u16>;

fn address(dlx: &Dlx, family: IpFamily) -> Option<IpAddr> {
    dlx.addresses.iter().copied().find(|address| family.has(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::PortRef;

    fn dlx(name: &str, addresses: &[&str]) -> Dlx {
        Dlx {
            name: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            node: Some("node".to_owned()),
            zone: None,
        }
    }

    #[test]
    fn what_is_http_is_a_list() {
        for (name, said, expected) in [
            ("http", "", Protocol::Http),
            ("http-admin", "", Protocol::Http),
            ("grpc-api", "", Protocol::Http),
            ("http2", "", Protocol::Http),
            ("https", "", Protocol::Tcp),
            ("web", "", Protocol::Tcp),
            ("", "", Protocol::Tcp),
            ("db", "http", Protocol::Http),
            ("db", "kubernetes.io/h2c", Protocol::Http),
            ("db", "kubernetes.io/ws", Protocol::Http),
            ("db", "grpc", Protocol::Http),
            ("http", "kubernetes.io/wss", Protocol::Tcp),
            ("http", "https", Protocol::Tcp),
            ("http", "tcp", Protocol::Tcp),
        ] {
            let port =
                ServicePort { name: name.to_owned(), protocol: said.to_owned(), target: PortRef::Number(1) };
            assert_eq!(port_protocol(&port), expected, "{name} {said}");
            assert_eq!(is_guessed(&port), expected == Protocol::Http && said.is_empty(), "{name} {said}");
        }
    }

    #[test]
    fn each_family_has_the_dlxs_that_have_it() {
        let dlxs = [dlx("b", &["10.0.0.2", "fd00::2"]), dlx("a", &["10.0.0.10"])];
        let (dlx_endpoints, names) = dlx_endpoints(&dlxs, IpFamily::V4);
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            dlx_endpoints.iter().map(|place| &*place.address).collect::<Vec<_>>(),
            ["10.0.0.10", "10.0.0.2"]
        );
        assert_eq!(super::dlx_endpoints(&dlxs, IpFamily::V6).1, ["b"]);
        let both = Service { families: vec![IpFamily::V6, IpFamily::V4], ..Service::default() };
        assert_eq!(shared_families(&both, &dlxs), [IpFamily::V6, IpFamily::V4]);
        assert_eq!(shared_families(&both, &dlxs[1..]), [IpFamily::V4]);
        assert_eq!(unreachable_family(&both, &dlxs), None);
        assert_eq!(unreachable_family(&both, &dlxs[1..]), Some(IpFamily::V6));
        assert_eq!(unreachable_family(&both, &[]), None, "nobody knows");
        let many: Vec<_> = (0..2000_u32)
            .map(|number| {
                dlx(&number.to_string(), &[&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()])
            })
            .collect();
        assert_eq!(super::dlx_endpoints(&many, IpFamily::V4).0.len(), MAX_ENDPOINTS);
    }
}
