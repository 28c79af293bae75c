//! Addresses of Services.

use std::{collections::HashSet, net::Ipv4Addr};

use serde_json::{Value, json};

use crate::{
    http::failure::{Cause, Failure, Result},
    registry::Kind,
    store::{Tables, text},
};

/// Addresses are given out from here on: 10.96.0.0/16, as kubeadm has it; the first ones are the cluster's own.
const FIRST: u32 = u32::from_be_bytes([10, 96, 0, 11]);
const LAST: u32 = u32::from_be_bytes([10, 96, 255, 254]);

/// Gives a Service its address, and lets it keep it.
pub(super) fn admit(kind: &Kind, tables: &Tables, value: &mut Value, old: Option<&Value>) -> Result<()> {
    let name = text(&value["metadata"]["name"]).to_owned();
    let spec = &value["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(());
    }
    let told = text(&spec["clusterIP"]).to_owned();
    let held = old.map(|old| text(&old["spec"]["clusterIP"]).to_owned()).unwrap_or_default();
    if !held.is_empty() {
        if !told.is_empty() && told != held {
            let cause = Cause::invalid("spec.clusterIPs[0]", &json!([told]), "may not change once set");
            return Err(Failure::invalid(kind, &name, &[cause]));
        }
        give(value, &held);
        return Ok(());
    }
    if !told.is_empty() {
        give(value, &told);
        return Ok(());
    }
    let table = tables.table(&kind.table());
    let taken: HashSet<&str> = table
        .into_iter()
        .flat_map(|table| table.objects.values())
        .map(|service| text(&service.value["spec"]["clusterIP"]))
        .collect();
    let free =
        (FIRST..=LAST).map(|at| Ipv4Addr::from(at).to_string()).find(|at| !taken.contains(at.as_str()));
    let free = free.ok_or_else(|| Failure::internal("failed to allocate a serviceIP: range is full"))?;
    give(value, &free);
    Ok(())
}

fn give(service: &mut Value, address: &str) {
    service["spec"]["clusterIP"] = address.into();
    service["spec"]["clusterIPs"] = json!([address]);
}
