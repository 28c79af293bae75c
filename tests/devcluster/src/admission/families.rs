//! Which families of addresses a Service has.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::services::texts;
use crate::{http::failure::Cause, store::text};

/// The families, by the API's words for them. A cluster of one has the first.
pub(super) const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

const POLICY: &str = "spec.ipFamilyPolicy";
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The family of an address.
pub(super) fn family_of(address: IpAddr) -> &'static str {
    FAMILIES[usize::from(address.is_ipv6())]
}

/// What can be said without knowing the cluster.
pub(super) fn validate(spec: &Value, causes: &mut Vec<Cause>) {
    let policy = &spec["ipFamilyPolicy"];
    if !matches!(text(policy), "" | SINGLE | PREFER | REQUIRE) {
        causes.push(Cause::unsupported(POLICY, policy, &[PREFER, REQUIRE, SINGLE]));
    }
    let families = spec["ipFamilies"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let at = format!("spec.ipFamilies[{index}]");
        if !FAMILIES.contains(&text(family)) {
            causes.push(Cause::unsupported(&at, family, &FAMILIES));
        }
        if families[..index].contains(family) {
            causes.push(Cause::duplicate(&at, family));
        }
    }
}

/// Settles a Service's families and its policy by what it asks for, by what it had, and by what the cluster has. `addresses`, those
/// that it asks for, become fewer where it gives one back.
pub(super) fn settle(
    service: &mut Value,
    old: Option<&Value>,
    addresses: &mut Vec<String>,
    dual_stack: bool,
) -> Result<(), Cause> {
    let spec = &service["spec"];
    let before = |field: &str| old.map(|old| old["spec"][field].clone()).unwrap_or_default();
    let (held, had) = (texts(&before("clusterIPs")), texts(&before("ipFamilies")));
    let mut families = texts(&spec["ipFamilies"]);
    let headless = addresses.first().is_some_and(|first| first == "None");
    let bare = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = match (text(&spec["ipFamilyPolicy"]), text(&before("ipFamilyPolicy"))) {
        ("", "") if bare => REQUIRE,
        ("", "") => SINGLE,
        ("", kept) => kept,
        (given, _) => given,
    }
    .to_owned();
    let wrong = |why: &str| Cause::invalid(POLICY, &json!(policy), why);
    if policy == SINGLE {
        // To say so is enough to give the second one back.
        if *addresses == held {
            addresses.truncate(1);
        }
        if families == had {
            families.truncate(1);
        }
        for (field, count) in [("clusterIPs", addresses.len()), ("ipFamilies", families.len())] {
            if count > 1 {
                return Err(wrong(&format!(
                    "must be RequireDualStack or PreferDualStack when multiple values are specified in {field}"
                )));
            }
        }
    }
    for (what, now, before) in [("cluster IP", &*addresses, &held), ("IP family", &families, &had)] {
        if policy != SINGLE && !now.is_empty() && now.len() < before.len() {
            return Err(wrong(&format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
    let configured = |family: &str| dual_stack || family == FAMILIES[0];
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        // What is no address is refused where addresses are assigned.
        let Ok(address) = address.parse::<IpAddr>() else { break };
        let family = family_of(address);
        if !configured(family) {
            let why = format!("{family} is not configured on this cluster");
            return Err(Cause::invalid(format!("spec.clusterIPs[{index}]"), &json!(addresses), &why));
        }
        families.push(family.to_owned());
    }
    // What has neither addresses nor pods is what its owner says.
    if !bare {
        if policy == REQUIRE && !dual_stack {
            return Err(wrong("this cluster is not configured for dual-stack services"));
        }
        if let Some(index) = families.iter().position(|family| !configured(family)) {
            let at = format!("spec.ipFamilies[{index}]");
            return Err(Cause::invalid(at, &json!(families[index]), "not configured on this cluster"));
        }
    }
    if families.is_empty() {
        families.push(FAMILIES[0].to_owned());
    }
    if policy != SINGLE && families.len() == 1 && (dual_stack || bare) {
        let other = FAMILIES.into_iter().find(|family| *family != families[0]);
        families.extend(other.map(str::to_owned));
    }
    service["spec"]["ipFamilies"] = json!(families);
    service["spec"]["ipFamilyPolicy"] = json!(policy);
    Ok(())
}
