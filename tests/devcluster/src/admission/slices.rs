//! What an EndpointSlice must be.

use std::net::IpAddr;

use serde_json::Value;

use super::{names, validate::port_number};
use crate::{http::failure::Cause, store::text};

/// The most endpoints of a slice.
const MOST_ENDPOINTS: usize = 1000;
/// The most addresses of an endpoint.
const MOST_ADDRESSES: usize = 100;

/// No loopback, link-local, multicast or unspecified address can be an endpoint.
pub(super) fn endpoint_slice(value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let family = text(&value["addressType"]);
    if family.is_empty() {
        causes.push(Cause::required("addressType", ""));
        return;
    }
    if !matches!(family, "IPv4" | "IPv6" | "FQDN") {
        causes.push(Cause::unsupported("addressType", &value["addressType"], &["FQDN", "IPv4", "IPv6"]));
        return;
    }
    if old.is_some_and(|old| old["addressType"] != value["addressType"]) {
        causes.push(Cause::invalid("addressType", &value["addressType"], "field is immutable"));
    }
    let endpoints = value["endpoints"].as_array().map_or(0, Vec::len);
    if endpoints > MOST_ENDPOINTS {
        causes.push(Cause::too_many("endpoints", endpoints, MOST_ENDPOINTS));
    }
    for (index, endpoint) in value["endpoints"].as_array().into_iter().flatten().enumerate() {
        let at = format!("endpoints[{index}].addresses");
        let addresses = endpoint["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        if addresses.is_empty() {
            causes.push(Cause::required(&at, "must contain at least 1 address"));
        }
        if addresses.len() > MOST_ADDRESSES {
            causes.push(Cause::too_many(&at, addresses.len(), MOST_ADDRESSES));
        }
        let (host, node) = (&endpoint["hostname"], &endpoint["nodeName"]);
        if host.as_str().is_some_and(|name| !names::is_label(name)) {
            causes.push(Cause::invalid(format!("endpoints[{index}].hostname"), host, names::LABEL));
        }
        if node.as_str().is_some_and(|name| !names::is_subdomain(name)) {
            causes.push(Cause::invalid(format!("endpoints[{index}].nodeName"), node, names::SUBDOMAIN));
        }
        for (index, address) in addresses.iter().enumerate().filter(|_| family != "FQDN") {
            // That it is of the family is said of all of them together, anything else of the one.
            if let Some(why) = no_address(text(address), family) {
                causes.push(Cause::invalid(&at, address, why));
            }
            if let Some(why) = no_endpoint(text(address)) {
                causes.push(Cause::invalid(format!("{at}[{index}]"), address, why));
            }
        }
    }
    let ports = value["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("ports[{index}]");
        let name = text(&port["name"]);
        if !name.is_empty() && !names::is_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &port["name"], names::LABEL));
        }
        if ports[..index].iter().any(|other| text(&other["name"]) == name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &port["name"]));
        }
        if !matches!(text(&port["protocol"]), "TCP" | "UDP" | "SCTP") {
            let known = ["SCTP", "TCP", "UDP"];
            causes.push(Cause::unsupported(format!("{at}.protocol"), &port["protocol"], &known));
        }
        names::app_protocol(&port["appProtocol"], &format!("{at}.appProtocol"), causes);
        if !port["port"].is_null() {
            port_number(&port["port"], &format!("{at}.port"), causes);
        }
    }
}

/// Why it is no address of the family.
fn no_address(address: &str, family: &str) -> Option<&'static str> {
    match (family, address.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => None,
        ("IPv4", _) => Some("must be an IPv4 address"),
        _ => Some("must be an IPv6 address"),
    }
}

/// Why an address cannot be an endpoint.
fn no_endpoint(address: &str) -> Option<&'static str> {
    let Ok(address) = address.parse::<IpAddr>() else {
        return Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.segments()[0] & 0xffc0 == 0xfe80, address.segments()[0] == 0xff02),
    };
    match address {
        _ if address.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        _ if address.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        _ if link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        _ if link_local_multicast => {
            Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        }
        _ => None,
    }
}
