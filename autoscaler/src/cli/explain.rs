//! `explain`: why one resource sleeps or not.

use std::fmt::Write as _;

use anyhow::bail;
use scaler_types::ResourceId;
use serde_json::Value;

use super::{
    admin_client::{Asking, Port},
    output::{Format, plain, print, print_json, table},
    parse_id,
};
use crate::http::encoded;

/// Says why a resource sleeps or stays awake: the decision and its rule, what every DLX and metric told of it, its row,
/// how the last try went
///
/// Asks the leading autoscaler, which decides; exit status 1 if it knows no such resource.
#[derive(clap::Args, Clone, Debug)]
pub struct Explain {
    /// The resource, as in shop/web; what is no Deployment has its kind in its name: shop/statefulset/db
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    resource: ResourceId,

    #[command(flatten)]
    asking: Asking,
}

// === impl Explain ===

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let port = self.asking.autoscaler()?;
        let ResourceId { namespace, name } = &self.resource;
        let path = format!("/api/v1/explain?namespace={}&name={}", encoded(namespace), encoded(name));
        let Some(answer) = port.get(&path).await? else { return Err(unknown(&port, &self.resource).await?) };
        if self.asking.output == Format::Json {
            return print_json(&answer);
        }
        for resource in list(&answer, "resources") {
            print(&told(resource, &answer));
        }
        Ok(())
    }
}

/// Why nothing is told.
async fn unknown(port: &Port, id: &ResourceId) -> anyhow::Result<anyhow::Error> {
    leads(port).await?;
    Ok(anyhow::anyhow!(
        "{} knows no resource {id}: is it opted in, and has its plugin listed it? GET /api/v1/config there shows the \
         namespaces and plugins at work, and their errors",
        port.url()
    ))
}

/// Fails where this autoscaler does not lead: then it decides nothing.
pub(super) async fn leads(port: &Port) -> anyhow::Result<Value> {
    let leader = port.get("/api/v1/leader").await?.unwrap_or_default();
    if leader["leads"] == true {
        return Ok(leader);
    }
    let who = match &leader["leader"] {
        Value::String(name) => format!("{name} leads"),
        _ => "another one leads".to_owned(),
    };
    let why = leader["error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
    bail!(
        "the autoscaler at {} does not lead{why}: {who}, ask that one (--admin-address, --url)",
        port.url()
    );
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn told(resource: &Value, answer: &Value) -> String {
    let text = |key: &str| plain(&resource[key]);
    let state = match resource["replicas"].as_u64() {
        Some(0) => "asleep",
        _ => "awake",
    };
    let does = if resource["decision"] == "to_zero" { "going to zero" } else { "stays as it is" };
    let mut out = format!(
        "{}/{} ({}): {state}, {does}: {}\n",
        text("namespace"),
        text("name"),
        text("kind"),
        text("reason")
    );
    let mut rows = vec![
        row("decision", format!("{} ({}), for {}", text("decision"), text("code"), text("since"))),
        row(
            "row",
            format!(
                "{}: {} (nonce {})",
                plain(&resource["row"]["state"]),
                plain(&resource["row"]["reason"]),
                plain(&resource["row"]["nonce"])
            ),
        ),
    ];
    rows.extend(failed_wake(resource).map(|why| row("last failed wake", why)));
    rows.extend([
        row("replicas", text("replicas")),
        row("path", text("path")),
        row("version", text("version")),
    ]);
    rows.extend(route(&resource["route"]));
    if resource["status"].as_str().is_some_and(|status| !status.is_empty()) {
        rows.push(row("status", text("status")));
    }
    if resource["frequent_wakes"].is_string() {
        rows.push(row("wakes", text("frequent_wakes")));
    }
    if let Some(rollout) = resource["rollout"].as_object() {
        let waits = rollout.get("status").map(|status| format!(": {}", plain(status))).unwrap_or_default();
        rows.push(row("rollout", format!("{}{waits}", plain(&rollout["phase"]))));
    }
    for metric in list(resource, "metrics") {
        let threshold = plain(&metric["threshold"]);
        let line = match (&metric["value"], &metric["known"]) {
            (Value::Null, Value::Null) => format!("idle at {threshold} or less, by the DLXs below"),
            (value, known) => format!("{}, idle at {threshold} or less; {}", plain(value), plain(known)),
        };
        rows.push(row(&plain(&metric["name"]), line));
    }
    for sample in list(resource, "samples") {
        let mut line = format!(
            "{} requests, {} in flight, {} held, last activity {} ago, counting for {}",
            plain(&sample["requests"]),
            plain(&sample["in_flight"]),
            plain(&sample["held"]),
            plain(&sample["idle"]),
            plain(&sample["counting"])
        );
        for (window, count) in sample["windows"].as_object().into_iter().flatten() {
            let _ = write!(line, ", {count} in {window}");
        }
        rows.push(row(&format!("DLX {}", plain(&sample["member"])), line));
    }
    if let Some(event) = resource["last_event"].as_object() {
        let at = event["time"].as_str().map(|time| format!(" (at {time})")).unwrap_or_default();
        rows.push(row(
            "last event",
            format!("{}, seen {} ago{at}", plain(&event["event"]), plain(&event["ago"])),
        ));
    }
    if let Some(last) = resource["last_try"].as_object() {
        rows.push(row("last try", format!("{} ago: {}", plain(&last["ago"]), plain(&last["reason"]))));
    }
    if let Some(failure) = resource["failure"].as_object() {
        rows.push(row(
            "failures",
            format!(
                "{} in a row: {}; next try in {}",
                plain(&failure["tries"]),
                plain(&failure["reason"]),
                plain(&failure["next_in"])
            ),
        ));
    }
    let of = |cycle: &&Value| {
        cycle["kind"] == resource["kind"]
            && (cycle["namespace"] == resource["namespace"] || cycle["namespace"] == "*")
    };
    if let Some(cycle) = list(answer, "cycles").iter().find(of) {
        let error = cycle["error"].as_str().map(|error| format!("; {error}")).unwrap_or_default();
        let line = format!(
            "number {}, {} ago, took {}{error}",
            cycle["count"],
            plain(&cycle["last"]),
            plain(&cycle["took"])
        );
        rows.push(row("last cycle", line));
    }
    out += &table(&rows);
    out
}

/// Why its last wake failed, if none has succeeded since.
pub(super) fn failed_wake(resource: &Value) -> Option<String> {
    let why = &resource["row"]["failed_wake"];
    why.as_str().is_some_and(|why| !why.is_empty()).then(|| plain(why))
}

/// Where its requests are led, and what comes next.
fn route(route: &Value) -> Vec<Vec<String>> {
    if route.is_null() {
        return Vec::new();
    }
    let leads = match route["leads"].as_str() {
        Some("dlx") if route["complete"] == false => "leads to the DLXs, but not all of it".to_owned(),
        Some("dlx") => {
            format!("leads to the DLXs, every request passes one for {}", plain(&route["led_for"]))
        }
        Some("both") => "leads to the DLXs and to itself".to_owned(),
        _ => "leads to itself".to_owned(),
    };
    let asked = if route["asked"] == true { "" } else { "; nobody asks for it to be led" };
    let mut rows = vec![row("route", format!("{leads}, since {}{asked}", plain(&route["since"])))];
    let named: Vec<_> = list(route, "dlxs").iter().map(plain).collect();
    if !named.is_empty() {
        rows.push(row("route names", named.join(", ")));
    }
    if route["refused"].as_str().is_some_and(|why| !why.is_empty()) {
        rows.push(row("route refused", plain(&route["refused"])));
    }
    let next = route["next"].as_str().map(|next| match next {
        "dlx" => "to the DLXs",
        "both" => "to itself as well",
        _ => "to itself alone",
    });
    let waits = route["waits"].as_str().map(|waits| format!("waits for {waits}"));
    let next: Vec<_> = next.map(str::to_owned).into_iter().chain(waits).collect();
    if !next.is_empty() {
        rows.push(row("route next", next.join("; ")));
    }
    rows
}

fn row(name: &str, text: String) -> Vec<String> {
    vec![name.to_owned(), text]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_person_reads() {
        let resource = json!({
            "namespace": "shop", "name": "statefulset/db", "kind": "deployment", "path": "always", "replicas": 2,
            "row": {"state": "active", "reason": "woken by a request", "nonce": "00", "failed_wake": "no such image"}, "version": "7", "status": "",
            "rollout": {"revision": "f", "phase": "progressing", "status": "1 of 2 pods have the current template"},
            "decision": "keep", "code": "active", "reason": "active 3s ago, the window is 10m", "since": "12s",
            "metrics": [
                {"name": "requests_per_10m", "threshold": 0.0, "value": null, "known": null},
                {"name": "jobs_per_1m", "threshold": 2.5, "value": 1.0, "known": "41 scrapes, 41 needed for it"},
            ],
            "samples": [{"member": "a", "requests": 3, "in_flight": 0, "held": 0, "idle": "3s", "counting": "2h",
                "windows": {"10m": 3}}],
            "last_event": {"event": "scaleFromZeroCompleted", "ago": "5m", "time": null},
            "last_try": {"outcome": "reverted", "reason": "reverted: no", "ago": "1m"},
            "failure": null,
            "route": {"leads": "both", "since": "12s", "asked": false, "refused": "", "complete": true, "led_for": "0s",
                "dlxs": ["a", "b"], "next": "own", "waits": "its own endpoints to be ready"},
        });
        let answer = json!({"cycles": [{"kind": "deployment", "namespace": "*", "count": 3, "last": "1s",
            "took": "2ms", "error": null}]});
        let told = told(&resource, &answer);
        let expected = "\
shop/statefulset/db (deployment): awake, stays as it is: active 3s ago, the window is 10m
  decision          keep (active), for 12s
  row               active: woken by a request (nonce 00)
  last failed wake  no such image
  replicas          2
  path              always
  version           7
  route             leads to the DLXs and to itself, since 12s; nobody asks for it to be led
  route names       a, b
  route next        to itself alone; waits for its own endpoints to be ready
  rollout           progressing: 1 of 2 pods have the current template
  requests_per_10m  idle at 0.0 or less, by the DLXs below
  jobs_per_1m       1.0, idle at 2.5 or less; 41 scrapes, 41 needed for it
  DLX a             3 requests, 0 in flight, 0 held, last activity 3s ago, counting for 2h, 3 in 10m
  last event        scaleFromZeroCompleted, seen 5m ago
  last try          1m ago: reverted: no
  last cycle        number 3, 1s ago, took 2ms
";
        assert_eq!(told, expected);
    }
}
