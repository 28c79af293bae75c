//! Addresses of Services.

use std::{collections::HashSet, net::IpAddr};

use serde_json::{Value, json};

use super::families::{self, FAMILIES, family_of};
use crate::{
    http::failure::{Cause, Failure},
    registry::Kind,
    store::{Tables, map, text},
};

/// The networks of the addresses that Services can ask for, by family: as kubeadm has them.
const RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The numbers in those networks that are given out; the first ones are the cluster's own.
const NUMBERS: std::ops::RangeInclusive<u16> = 11..=0xfffe;
/// The ports of nodes that are given out.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// What a Service says by one of a few words.
const WORDS: [(&str, &[&str]); 3] = [
    ("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    ("sessionAffinity", &["ClientIP", "None"]),
    ("internalTrafficPolicy", &["Cluster", "Local"]),
];
/// A Service without an address.
const NONE: &str = "None";

/// Words of which there are a few only, and what is of use from outside alone.
pub(super) fn validate(spec: &Value, causes: &mut Vec<Cause>) {
    for (field, known) in WORDS {
        let given = &spec[field];
        if !given.is_null() && !known.contains(&text(given)) {
            causes.push(Cause::unsupported(format!("spec.{field}"), given, known));
        }
    }
    let policy = &spec["externalTrafficPolicy"];
    if !policy.is_null() && !is_outside(spec) {
        let why = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", policy, why));
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !is_balanced(spec) {
        let why = "may only be used when `type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("spec.allocateLoadBalancerNodePorts", why));
    }
    for (index, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
        if spec["type"] == "ClusterIP" && node_port(port).is_some() {
            let why = "may not be used when `type` is 'ClusterIP'";
            causes.push(Cause::forbidden(format!("spec.ports[{index}].nodePort"), why));
        }
    }
}

/// Takes from a Service of another type than before what only the old type needs, where the update leaves it as it was.
pub(super) fn drop_unneeded(value: &mut Value, old: &Value) {
    let (spec, old) = (&mut value["spec"], &old["spec"]);
    if gets_node_ports(old) && !gets_node_ports(spec) && node_ports(spec).is_subset(&node_ports(old)) {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            map(port).remove("nodePort");
        }
    }
    for (field, unneeded) in [
        ("externalTrafficPolicy", is_outside(old) && !is_outside(spec)),
        ("allocateLoadBalancerNodePorts", is_balanced(old) && !is_balanced(spec)),
    ] {
        if unneeded && spec.get(field) == old.get(field) {
            map(spec).remove(field);
        }
    }
}

fn is_balanced(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer"
}

fn is_outside(spec: &Value) -> bool {
    let external = spec["externalIPs"].as_array().is_some_and(|all| !all.is_empty());
    external || is_balanced(spec) || spec["type"] == "NodePort"
}

fn gets_node_ports(spec: &Value) -> bool {
    spec["type"] == "NodePort" || is_balanced(spec) && spec["allocateLoadBalancerNodePorts"] != false
}

fn node_ports(spec: &Value) -> HashSet<u64> {
    spec["ports"].as_array().into_iter().flatten().filter_map(node_port).collect()
}

fn node_port(port: &Value) -> Option<u64> {
    port["nodePort"].as_u64().filter(|number| *number > 0)
}

/// Gives each port of a Service one of the nodes', and lets it keep it.
fn give_node_ports(
    kind: &Kind,
    tables: &Tables,
    value: &mut Value,
    old: Option<&Value>,
) -> Result<(), Failure> {
    let wanted = gets_node_ports(&value["spec"]);
    let held = old.and_then(|old| old["spec"]["ports"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let services = tables.table(&kind.table()).into_iter().flat_map(|table| table.objects.values());
    let mut taken: HashSet<u64> = services.flat_map(|service| node_ports(&service.value["spec"])).collect();
    taken.extend(node_ports(&value["spec"]));
    for port in value["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if node_port(port).is_some() {
            continue;
        }
        map(port).remove("nodePort");
        if wanted {
            let its = held.iter().find(|held| text(&held["name"]) == text(&port["name"]));
            let its = its.and_then(node_port);
            let number = its.or_else(|| NODE_PORTS.map(u64::from).find(|number| !taken.contains(number)));
            let number =
                number.ok_or_else(|| Failure::internal("failed to allocate a nodePort: range is full"))?;
            taken.insert(number);
            port["nodePort"] = number.into();
        }
    }
    Ok(())
}

/// Gives a Service an address of each of its families, and lets it keep them.
pub(super) fn admit(
    kind: &Kind,
    tables: &Tables,
    value: &mut Value,
    old: Option<&Value>,
    dual_stack: bool,
) -> Result<(), Failure> {
    give_node_ports(kind, tables, value, old)?;
    let name = text(&value["metadata"]["name"]).to_owned();
    let invalid = |cause: Cause| Failure::invalid(kind, &name, &[cause]);
    let held = old.map(|old| texts(&old["spec"]["clusterIPs"])).unwrap_or_default();
    if value["spec"]["type"] == "ExternalName" {
        // What it had as a Service of another type it releases.
        let given = text(&value["spec"]["clusterIP"]);
        if !given.is_empty() && held.first().is_none_or(|first| given != first) {
            let why = "may not be set when `type` is 'ExternalName'";
            return Err(invalid(Cause::invalid("spec.clusterIPs", &value["spec"]["clusterIPs"], why)));
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            map(&mut value["spec"]).remove(field);
        }
        return Ok(());
    }
    let mut addresses = given_addresses(&value["spec"], &held).map_err(invalid)?;
    let headless = addresses.first().is_some_and(|first| first == NONE);
    families::settle(value, old, &mut addresses, dual_stack).map_err(invalid)?;
    if !headless {
        let taken = taken(kind, tables);
        for (index, family) in texts(&value["spec"]["ipFamilies"]).iter().enumerate() {
            match addresses.get(index) {
                None => addresses.push(free(family, &taken)?),
                Some(address) if held.get(index) == Some(address) => {}
                Some(_) if held.len() > index => return Err(invalid(fixed(index, &addresses))),
                Some(address) => may_have(index, address, family, &taken).map_err(invalid)?,
            }
        }
    }
    value["spec"]["clusterIP"] = json!(addresses[0]);
    value["spec"]["clusterIPs"] = json!(addresses);
    Ok(())
}

/// The addresses that are asked for: who says nothing keeps those that are there.
fn given_addresses(spec: &Value, held: &[String]) -> Result<Vec<String>, Cause> {
    let (mut first, mut all) = (text(&spec["clusterIP"]).to_owned(), texts(&spec["clusterIPs"]));
    if let Some(kept) = held.first() {
        if first.is_empty() {
            first.clone_from(kept);
        } else if first != *kept {
            return Err(fixed(0, &[first]));
        }
        if all.is_empty() {
            all = held.to_vec();
        }
    }
    if all.is_empty() && !first.is_empty() {
        all.push(first.clone());
    }
    match all.first() {
        Some(other) if *other != first => {
            Err(Cause::invalid("spec.clusterIPs[0]", &json!(all), "first value must match `clusterIP`"))
        }
        _ => Ok(all),
    }
}

fn fixed(index: usize, addresses: &[String]) -> Cause {
    Cause::invalid(format!("spec.clusterIPs[{index}]"), &json!(addresses), "may not change once set")
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|one| text(one).to_owned()).collect()
}

fn taken<'t>(kind: &Kind, tables: &'t Tables) -> HashSet<&'t str> {
    let services = tables.table(&kind.table()).into_iter().flat_map(|table| table.objects.values());
    let all = services.filter_map(|service| service.value["spec"]["clusterIPs"].as_array());
    all.flatten().map(text).collect()
}

fn free(family: &str, taken: &HashSet<&str>) -> Result<String, Failure> {
    let mut all = NUMBERS.map(|number| address(family, number).to_string());
    let free = all.find(|at| !taken.contains(at.as_str()));
    free.ok_or_else(|| Failure::internal("failed to allocate a serviceIP: range is full"))
}

/// The address of that number in a family's network.
fn address(family: &str, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family == FAMILIES[1] {
        true => [0xfd00, 0x10, 0x96, 0, 0, 0, 0, number].into(),
        false => [10, 96, high, low].into(),
    }
}

/// Whether a Service can have the address it asks for.
fn may_have(index: usize, address: &str, family: &str, taken: &HashSet<&str>) -> Result<(), Cause> {
    let at = format!("spec.clusterIPs[{index}]");
    let Ok(parsed) = address.parse::<IpAddr>() else {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(Cause::invalid(at, &json!([address]), why));
    };
    if family_of(parsed) != family {
        let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
        return Err(Cause::invalid(at, &json!(address), &why));
    }
    let failed = |why: String| {
        let why = format!("failed to allocate IP {address}: {why}");
        Err(Cause::invalid("spec.clusterIPs", &json!([address]), &why))
    };
    let number = match parsed {
        IpAddr::V4(parsed) => u16::from_be_bytes([parsed.octets()[2], parsed.octets()[3]]),
        IpAddr::V6(parsed) => parsed.segments()[7],
    };
    if parsed != self::address(family, number) || number > *NUMBERS.end() {
        let range = RANGES[usize::from(family == FAMILIES[1])];
        return failed(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
        ));
    }
    if taken.contains(address) { failed("provided IP is already allocated".into()) } else { Ok(()) }
}
