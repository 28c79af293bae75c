//! What becomes of an object before it is stored: defaults, validation, and what depends on other objects.

mod decode;
mod defaults;
mod events;
mod families;
mod mutating;
mod names;
mod policies;
mod services;
mod slices;
mod validate;
mod validating;

use serde_json::{Value, json};

pub use self::{
    decode::{decode, micro_times},
    defaults::defaults,
    mutating::mutate,
    policies::Write,
    validate::validate,
    validating::enforce,
};
use crate::{
    bootstrap,
    http::failure::{Failure, Result},
    identity,
    registry::Kind,
    store::{Key, TableId, Tables, text},
};

/// What depends on other objects, and on the cluster's having addresses of both families: a Service gets its addresses, a pod needs its service account and a quota that allows it.
///
/// # Errors
///
/// It may not be.
pub fn admit(
    kind: &Kind,
    tables: &mut Tables,
    value: &mut Value,
    old: Option<&Value>,
    dual_stack: bool,
) -> Result<()> {
    let new = old.is_none();
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "services") => services::admit(kind, tables, value, old, dual_stack)?,
        ("", "namespaces") if new => bootstrap::service_account(tables, text(&value["metadata"]["name"])),
        ("", "pods") if new => {
            has_account(kind, tables, value)?;
            in_quota(kind, tables, value)?;
        }
        _ => {}
    }
    Ok(())
}

/// What an update takes from an object although its writer did not: what was given to it as what it is no more.
pub fn drop_unneeded(kind: &Kind, value: &mut Value, old: &Value) {
    if kind.is("", "services") {
        services::drop_unneeded(value, old);
    }
}

/// A pod now has a node.
pub fn scheduled(pod: &mut Value) {
    let now = identity::now();
    pod["status"]["conditions"] = json!([
        {"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now},
    ]);
}

/// A pod's first address is reported twice. The shorter field wins where they differ, as for kubelets that knew only that.
pub fn pod_addresses(pod: &mut Value) {
    let status = &mut pod["status"];
    let (first, all) = (status["podIP"].clone(), &status["podIPs"]);
    match (text(&first), text(&all[0]["ip"])) {
        ("", "") => {}
        ("", _) => status["podIP"] = all[0]["ip"].clone(),
        (one, other) if one != other => status["podIPs"] = json!([{"ip": first}]),
        _ => {}
    }
}

fn has_account(kind: &Kind, tables: &Tables, pod: &Value) -> Result<()> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let account = text(&pod["spec"]["serviceAccountName"]);
    if tables.get(&TableId::new("", "serviceaccounts"), &Key::new(namespace, account)).is_some() {
        return Ok(());
    }
    let why = format!(
        "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
    );
    Err(Failure::forbidden(kind, text(&pod["metadata"]["name"]), &why))
}

/// The number of pods that a namespace's quotas allow; other quantities are not counted here.
fn in_quota(kind: &Kind, tables: &Tables, pod: &Value) -> Result<()> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let quotas = tables.table(&TableId::new("", "resourcequotas"));
    let quotas =
        quotas.into_iter().flat_map(|table| &table.objects).filter(|(key, _)| key.namespace == namespace);
    for (key, quota) in quotas {
        let hard = &quota.value["spec"]["hard"];
        for counted in ["pods", "count/pods"] {
            let Some(limit) = hard.get(counted) else { continue };
            let limit = limit.as_u64().or_else(|| text(limit).parse().ok()).unwrap_or(u64::MAX);
            let pods = tables.table(&kind.table()).into_iter().flat_map(|table| &table.objects);
            let lives = |value: &Value| !matches!(text(&value["status"]["phase"]), "Succeeded" | "Failed");
            let used =
                pods.filter(|(key, pod)| key.namespace == namespace && lives(&pod.value)).count() as u64;
            if used + 1 > limit {
                let why = format!(
                    "exceeded quota: {}, requested: {counted}=1, used: {counted}={used}, limited: {counted}={limit}",
                    key.name
                );
                return Err(Failure::forbidden(kind, text(&pod["metadata"]["name"]), &why));
            }
        }
    }
    Ok(())
}
