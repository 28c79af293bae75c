//! `explain`: why one resource is asleep or not.

use std::fmt::Write as _;

use anyhow::bail;
use scaler_types::ResourceId;
use serde_json::Value;

use super::{
    admin_client::{AdminClient, AutoscalerOptions},
    output::{Format, display_value, print, print_json, table},
    parse_id,
};
use crate::http::percent_encode;

/// Explains why a resource is asleep or awake: the decision and its reason, the activity that DLXs and metrics reported,
/// its record, the last drain attempt
///
/// Queries the leader; exit status 1 if it does not know the resource.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler explain shop/web")]
pub(crate) struct Explain {
    /// The resource, as in shop/web; other kinds than Deployments as in shop/statefulset/db
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    resource: ResourceId,

    #[command(flatten)]
    options: AutoscalerOptions,
}

// === impl Explain ===

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.options.autoscaler_client()?;
        let ResourceId { namespace, name } = &self.resource;
        let path =
            format!("/api/v1/explain?namespace={}&name={}", percent_encode(namespace), percent_encode(name));
        let Some(answer) = client.get(&path).await? else {
            return Err(unknown_resource_error(&client, &self.resource).await?);
        };
        if self.options.output == Format::Json {
            return print_json(&answer);
        }
        for resource in array_field(&answer, "resources") {
            print(&render(resource, &answer));
        }
        Ok(())
    }
}

/// Why nothing is shown.
async fn unknown_resource_error(client: &AdminClient, id: &ResourceId) -> anyhow::Result<anyhow::Error> {
    require_leader(client).await?;
    Ok(anyhow::anyhow!(
        "{} knows no resource {id}: is it opted in, and has its plugin listed it? GET /api/v1/config there shows the \
         running namespaces and plugins, and their errors",
        client.url()
    ))
}

/// Fails where this autoscaler does not lead: then it decides nothing.
pub(super) async fn require_leader(client: &AdminClient) -> anyhow::Result<Value> {
    let Some(leader) = client.get("/api/v1/leader").await? else {
        bail!(
            "{} is not the admin port of an autoscaler: it knows no /api/v1/leader; by default an autoscaler's is 8092, a DLX's 8091",
            client.url()
        );
    };
    if leader["is_leader"] == true {
        return Ok(leader);
    }
    let who = match &leader["leader"] {
        Value::String(name) => format!("the leader is {name}"),
        _ => "another one is the leader".to_owned(),
    };
    let why = leader["error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
    bail!(
        "the autoscaler at {} is not the leader{why}: {who}, query that one (--admin-address, --url)",
        client.url()
    );
}

pub(super) fn array_field<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn render(resource: &Value, answer: &Value) -> String {
    let text = |key: &str| display_value(&resource[key]);
    let state = match resource["replicas"].as_u64() {
        Some(0) => "asleep",
        _ => "awake",
    };
    let does = if resource["decision"] == "scale_to_zero" { "scaling to zero" } else { "no action" };
    let mut out = format!(
        "{}/{} ({}): {state}, {does}: {}\n",
        text("namespace"),
        text("name"),
        text("kind"),
        text("reason")
    );
    let mut rows = vec![
        field("decision", format!("{} ({}), for {}", text("decision"), text("code"), text("since"))),
        field(
            "record",
            format!(
                "{}: {} (nonce {})",
                display_value(&resource["record"]["phase"]),
                display_value(&resource["record"]["reason"]),
                display_value(&resource["record"]["nonce"])
            ),
        ),
    ];
    rows.extend(failed_wake(resource).map(|why| field("last failed wake", why)));
    rows.push(field("replicas", text("replicas")));
    rows.extend(scaling(&resource["scaling"]));
    rows.extend([field("traffic mode", text("traffic_mode")), field("version", text("version"))]);
    rows.extend(interception(&resource["interception"]));
    if resource["status"].as_str().is_some_and(|status| !status.is_empty()) {
        rows.push(field("status", text("status")));
    }
    if resource["frequent_wakes"].is_string() {
        rows.push(field("wakes", text("frequent_wakes")));
    }
    if let Some(rollout) = resource["rollout"].as_object() {
        let waits =
            rollout.get("status").map(|status| format!(": {}", display_value(status))).unwrap_or_default();
        rows.push(field("rollout", format!("{}{waits}", display_value(&rollout["phase"]))));
    }
    for metric in array_field(resource, "metrics") {
        let threshold = display_value(&metric["threshold"]);
        let line = match (&metric["value"], &metric["completeness"]) {
            (Value::Null, Value::Null) => {
                format!("idle at {threshold} or less, as counted by the DLXs below")
            }
            (value, known) => {
                format!("{}, idle at {threshold} or less; {}", display_value(value), display_value(known))
            }
        };
        rows.push(field(&display_value(&metric["name"]), line));
    }
    for sample in array_field(resource, "samples") {
        let mut line = format!(
            "{} requests, {} in flight, {} held, last activity {} ago, counting for {}",
            display_value(&sample["requests"]),
            display_value(&sample["in_flight"]),
            display_value(&sample["held"]),
            display_value(&sample["idle"]),
            display_value(&sample["counted_for"])
        );
        for (window, count) in sample["windows"].as_object().into_iter().flatten() {
            let _ = write!(line, ", {count} in {window}");
        }
        rows.push(field(&format!("DLX {}", display_value(&sample["member"])), line));
    }
    if let Some(event) = resource["last_event"].as_object() {
        let at = event["time"].as_str().map(|time| format!(" (at {time})")).unwrap_or_default();
        rows.push(field(
            "last event",
            format!("{}, seen {} ago{at}", display_value(&event["event"]), display_value(&event["ago"])),
        ));
    }
    if let Some(last) = resource["last_attempt"].as_object() {
        rows.push(field(
            "last attempt",
            format!("{} ago: {}", display_value(&last["ago"]), display_value(&last["reason"])),
        ));
    }
    if let Some(failure) = resource["failure"].as_object() {
        rows.push(field(
            "failures",
            format!(
                "{} consecutive: {}; next attempt in {}",
                display_value(&failure["attempts"]),
                display_value(&failure["reason"]),
                display_value(&failure["next_in"])
            ),
        ));
    }
    let of = |cycle: &&Value| {
        cycle["kind"] == resource["kind"]
            && (cycle["namespace"] == resource["namespace"] || cycle["namespace"] == "*")
    };
    if let Some(cycle) = array_field(answer, "cycles").iter().find(of) {
        let error = cycle["error"].as_str().map(|error| format!("; {error}")).unwrap_or_default();
        let line = format!(
            "number {}, {} ago, took {}{error}",
            cycle["count"],
            display_value(&cycle["last"]),
            display_value(&cycle["took"])
        );
        rows.push(field("last cycle", line));
    }
    out += &table(&rows);
    out
}

/// The rows about how many replicas it should have.
fn scaling(scaling: &Value) -> Vec<Vec<String>> {
    if scaling.is_null() {
        return Vec::new();
    }
    let text = |key: &str| display_value(&scaling[key]);
    let desired = match &scaling["desired"] {
        Value::Null => text("reason"),
        desired => format!("{}: {}", display_value(desired), text("reason")),
    };
    let limits = format!("{} to {} while it is awake", text("min_replicas"), text("max_replicas"));
    let mut rows = vec![field("desired replicas", desired), field("limits", limits)];
    if scaling["failed"].is_string() {
        rows.push(field("last change", format!("failed: {}", text("failed"))));
    }
    for queue in array_field(scaling, "queues") {
        let count = |key: &str| match &queue[key] {
            Value::Null => "unknown".to_owned(),
            count => display_value(count),
        };
        let holds = match &queue["error"] {
            Value::Null => format!(
                "{} waiting, {} in flight, {} delayed",
                count("waiting"),
                count("in_flight"),
                count("delayed")
            ),
            error => format!("not known: {}", display_value(error)),
        };
        rows.push(field(&display_value(&queue["queue"]), holds));
    }
    rows
}

/// Why its last wake failed, if none has succeeded since.
pub(super) fn failed_wake(resource: &Value) -> Option<String> {
    let why = &resource["record"]["failed_wake"];
    why.as_str().is_some_and(|why| !why.is_empty()).then(|| display_value(why))
}

/// The rows about its interception.
fn interception(interception: &Value) -> Vec<Vec<String>> {
    if interception.is_null() {
        return Vec::new();
    }
    let backend = match interception["backend"].as_str() {
        Some("dlx") if interception["in_sync"] == false => "the DLXs, but not completely".to_owned(),
        Some("dlx") => {
            format!("the DLXs, completely for {}", display_value(&interception["intercepted_for"]))
        }
        Some("both") => "the DLXs and its own pods".to_owned(),
        _ => "its own pods".to_owned(),
    };
    let unrequested = if interception["requested"] == true { "" } else { "; interception is not requested" };
    let mut rows = vec![field(
        "backend",
        format!("{backend}, since {}{unrequested}", display_value(&interception["since"])),
    )];
    let named: Vec<_> = array_field(interception, "dlxs").iter().map(display_value).collect();
    if !named.is_empty() {
        rows.push(field("named DLXs", named.join(", ")));
    }
    if interception["refusal"].as_str().is_some_and(|why| !why.is_empty()) {
        rows.push(field("refused", display_value(&interception["refusal"])));
    }
    let next = interception["next_backend"].as_str().map(|next| match next {
        "dlx" => "the DLXs",
        "both" => "the DLXs and its own pods",
        _ => "its own pods alone",
    });
    let waits = interception["waiting_for"].as_str().map(|waits| format!("waits for {waits}"));
    let next: Vec<_> = next.map(str::to_owned).into_iter().chain(waits).collect();
    if !next.is_empty() {
        rows.push(field("next backend", next.join("; ")));
    }
    if interception["note"].as_str().is_some_and(|note| !note.is_empty()) {
        rows.push(field("note", display_value(&interception["note"])));
    }
    rows
}

fn field(name: &str, text: String) -> Vec<String> {
    vec![name.to_owned(), text]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_person_reads() {
        let resource = json!({
            "namespace": "shop", "name": "statefulset/db", "kind": "deployment", "traffic_mode": "always", "replicas": 2,
            "record": {"phase": "active", "reason": "woken by a request", "nonce": "00", "failed_wake": "no such image"}, "version": "7", "status": "",
            "rollout": {"revision": "f", "phase": "progressing", "status": "1 of 2 pods have the current template"},
            "decision": "keep", "code": "active", "reason": "active 3s ago, the window is 10m", "since": "12s",
            "scaling": {"desired": 5, "reason": "95 messages, 20 per replica: 5 replicas wanted", "min_replicas": 1, "max_replicas": 30, "failed": null,
                "queues": [
                    {"queue": "beanstalkd://broker/mails", "waiting": 90, "in_flight": 5, "delayed": null, "error": null},
                    {"queue": "file:///jobs", "waiting": null, "in_flight": null, "delayed": null, "error": "no such folder"}]},
            "metrics": [
                {"name": "requests_per_10m", "threshold": 0.0, "value": null, "completeness": null},
                {"name": "jobs_per_1m", "threshold": 2.5, "value": 1.0, "completeness": "41 scrapes, 41 needed for it"},
            ],
            "samples": [{"member": "a", "requests": 3, "in_flight": 0, "held": 0, "idle": "3s", "counted_for": "2h",
                "windows": {"10m": 3}}],
            "last_event": {"event": "scaleFromZeroCompleted", "ago": "5m", "time": null},
            "last_attempt": {"outcome": "reverted", "reason": "reverted: no", "ago": "1m"},
            "failure": null,
            "interception": {"backend": "both", "since": "12s", "requested": false, "refusal": "", "in_sync": true, "intercepted_for": "0s",
                "dlxs": ["a", "b"], "next_backend": "workload", "waiting_for": "its own endpoints to become ready",
                "note": "a policy keeps the key"},
        });
        let answer = json!({"cycles": [{"kind": "deployment", "namespace": "*", "count": 3, "last": "1s",
            "took": "2ms", "error": null}]});
        let text = render(&resource, &answer);
        let expected = "\
shop/statefulset/db (deployment): awake, no action: active 3s ago, the window is 10m
  decision                   keep (active), for 12s
  record                     active: woken by a request (nonce 00)
  last failed wake           no such image
  replicas                   2
  desired replicas           5: 95 messages, 20 per replica: 5 replicas wanted
  limits                     1 to 30 while it is awake
  beanstalkd://broker/mails  90 waiting, 5 in flight, unknown delayed
  file:///jobs               not known: no such folder
  traffic mode               always
  version                    7
  backend                    the DLXs and its own pods, since 12s; interception is not requested
  named DLXs                 a, b
  next backend               its own pods alone; waits for its own endpoints to become ready
  note                       a policy keeps the key
  rollout                    progressing: 1 of 2 pods have the current template
  requests_per_10m           idle at 0.0 or less, as counted by the DLXs below
  jobs_per_1m                1.0, idle at 2.5 or less; 41 scrapes, 41 needed for it
  DLX a                      3 requests, 0 in flight, 0 held, last activity 3s ago, counting for 2h, 3 in 10m
  last event                 scaleFromZeroCompleted, seen 5m ago
  last attempt               1m ago: reverted: no
  last cycle                 number 3, 1s ago, took 2ms
";
        assert_eq!(text, expected);
    }
}
