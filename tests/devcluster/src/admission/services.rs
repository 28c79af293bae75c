//! Addresses of Services.

use std::{collections::HashSet, net::Ipv4Addr};

use serde_json::{Value, json};

use crate::{
    http::failure::{Cause, Failure, Result},
    registry::Kind,
    store::{Tables, map, text},
};

/// The network of the addresses that Services can ask for.
const RANGE: ([u8; 2], &str) = ([10, 96], "10.96.0.0/16");
/// Addresses are given out from here on: 10.96.0.0/16, as kubeadm has it; the first ones are the cluster's own.
const FIRST: u32 = u32::from_be_bytes([10, 96, 0, 11]);
const LAST: u32 = u32::from_be_bytes([10, 96, 255, 254]);

/// Gives a Service its address, and lets it keep it.
pub(super) fn admit(kind: &Kind, tables: &Tables, value: &mut Value, old: Option<&Value>) -> Result<()> {
    let name = text(&value["metadata"]["name"]).to_owned();
    let invalid =
        |field: &str, of: &Value, why: &str| Failure::invalid(kind, &name, &[Cause::invalid(field, of, why)]);
    let spec = &value["spec"];
    let (told, all) = (text(&spec["clusterIP"]).to_owned(), &spec["clusterIPs"]);
    let held = old.map(|old| text(&old["spec"]["clusterIP"]).to_owned()).unwrap_or_default();
    if spec["type"] == "ExternalName" {
        // What it had as a Service of another type it gives back.
        if !told.is_empty() && told != held {
            return Err(invalid("spec.clusterIPs", all, "may not be set when `type` is 'ExternalName'"));
        }
        for field in ["clusterIP", "clusterIPs"] {
            map(&mut value["spec"]).remove(field);
        }
        return Ok(());
    }
    if !held.is_empty() {
        if !told.is_empty() && told != held {
            return Err(invalid("spec.clusterIPs[0]", &json!([told]), "may not change once set"));
        }
        give(value, &held);
        return Ok(());
    }
    if all.get(0).is_some_and(|first| text(first) != told) {
        return Err(invalid("spec.clusterIPs[0]", all, "first value must match `clusterIP`"));
    }
    let taken = taken(kind, tables);
    let address = match told.as_str() {
        "" => free(&taken)?,
        "None" => told,
        _ => match refusal(&told, &taken) {
            Some((field, why)) => return Err(invalid(field, &json!([told]), &why)),
            None => told,
        },
    };
    give(value, &address);
    Ok(())
}

fn give(service: &mut Value, address: &str) {
    service["spec"]["clusterIP"] = address.into();
    service["spec"]["clusterIPs"] = json!([address]);
}

fn taken<'t>(kind: &Kind, tables: &'t Tables) -> HashSet<&'t str> {
    let services = tables.table(&kind.table()).into_iter().flat_map(|table| table.objects.values());
    services.map(|service| text(&service.value["spec"]["clusterIP"])).collect()
}

fn free(taken: &HashSet<&str>) -> Result<String> {
    let mut all = (FIRST..=LAST).map(|at| Ipv4Addr::from(at).to_string());
    let free = all.find(|at| !taken.contains(at.as_str()));
    free.ok_or_else(|| Failure::internal("failed to allocate a serviceIP: range is full"))
}

/// Why a Service cannot have the address it asks for, and which field is told so.
fn refusal(address: &str, taken: &HashSet<&str>) -> Option<(&'static str, String)> {
    let Ok(parsed) = address.parse::<Ipv4Addr>() else {
        return Some((
            "spec.clusterIPs[0]",
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into(),
        ));
    };
    let failed = |why: String| Some(("spec.clusterIPs", format!("failed to allocate IP {address}: {why}")));
    if parsed.octets()[..2] != RANGE.0 || u32::from(parsed) > LAST {
        let range = RANGE.1;
        return failed(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
        ));
    }
    if taken.contains(address) { failed("provided IP is already allocated".into()) } else { None }
}
