//! Tables, as kubectl asks for them to print: `Accept: application/json;as=Table;v=v1;g=meta.k8s.io`.

use serde_json::{Value, json};

use crate::{
    http::request::Request,
    registry::Kind,
    selector::LabelSelector,
    store::{Object, text},
};

/// A column: its heading, whether only `-o wide` shows it, and its value.
struct Column {
    name: &'static str,
    wide: bool,
    cell: fn(&Value) -> Value,
}

/// How much of each object a client wants beside its cells.
#[derive(Debug, Clone, Copy)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Whether the client would rather have a table, and with what.
pub(super) fn wanted(request: &Request) -> Option<Include> {
    let include = match request.query.get("includeObject") {
        Some("None") => Include::Nothing,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    };
    request.accept.contains("as=Table").then_some(include)
}

/// A table of objects.
pub(super) fn table<'a>(
    include: Include,
    kind: &Kind,
    objects: impl Iterator<Item = &'a Object>,
    metadata: Value,
) -> Value {
    let columns = columns(kind);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({"name": column.name, "type": "string", "format": format, "description": "", "priority": i32::from(column.wide)})
        })
        .collect();
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(&object.value)).collect();
            let shown = match include {
                Include::Nothing => Value::Null,
                Include::Object => object.served(kind),
                Include::Metadata => json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.metadata(),
                }),
            };
            json!({"cells": cells, "object": shown})
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

const fn column(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, wide: false, cell }
}

const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, wide: true, cell }
}

fn columns(kind: &Kind) -> Vec<Column> {
    let name = column("Name", |object| object["metadata"]["name"].clone());
    let age = column("Age", age);
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => vec![
            name,
            column("Ready", containers_ready),
            column("Status", pod_status),
            column("Restarts", restarts),
            age,
            wide("IP", |pod| or_none(&pod["status"]["podIP"])),
            wide("Node", |pod| or_none(&pod["spec"]["nodeName"])),
        ],
        ("apps", "deployments") => vec![
            name,
            column("Ready", ready_of_wanted),
            column("Up-to-date", |object| count(&object["status"]["updatedReplicas"])),
            column("Available", |object| count(&object["status"]["availableReplicas"])),
            age,
            wide("Images", images),
            wide("Selector", |object| LabelSelector::of(&object["spec"]["selector"]).text().into()),
        ],
        ("apps", "statefulsets") => vec![name, column("Ready", ready_of_wanted), age, wide("Images", images)],
        ("apps", "replicasets") => vec![
            name,
            column("Desired", |object| count(&object["spec"]["replicas"])),
            column("Current", |object| count(&object["status"]["replicas"])),
            column("Ready", |object| count(&object["status"]["readyReplicas"])),
            age,
        ],
        ("", "services") => vec![
            name,
            column("Type", |object| object["spec"]["type"].clone()),
            column("Cluster-IP", |object| or_none(&object["spec"]["clusterIP"])),
            column("External-IP", |object| or_none(&object["spec"]["externalName"])),
            column("Port(s)", service_ports),
            age,
            wide("Selector", |object| LabelSelector::of(&object["spec"]["selector"]).text().into()),
        ],
        ("discovery.k8s.io", _) => {
            vec![
                name,
                column("AddressType", |object| object["addressType"].clone()),
                column("Endpoints", addresses),
                age,
            ]
        }
        ("", "namespaces") => vec![name, column("Status", |object| object["status"]["phase"].clone()), age],
        ("coordination.k8s.io", _) => {
            vec![name, column("Holder", |object| object["spec"]["holderIdentity"].clone()), age]
        }
        ("" | "events.k8s.io", "events") => vec![
            column("Last Seen", age_of_event),
            column("Type", |event| event["type"].clone()),
            column("Reason", |event| event["reason"].clone()),
            column("Object", |event| {
                let about = &event["involvedObject"];
                format!("{}/{}", text(&about["kind"]).to_lowercase(), text(&about["name"])).into()
            }),
            column("Message", |event| event["message"].clone()),
        ],
        _ => vec![name, age],
    }
}

fn or_none(value: &Value) -> Value {
    if text(value).is_empty() { "<none>".into() } else { value.clone() }
}

fn count(value: &Value) -> Value {
    value.as_i64().unwrap_or_default().into()
}

fn ready_of_wanted(object: &Value) -> Value {
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or_default();
    format!("{}/{wanted}", object["status"]["readyReplicas"].as_i64().unwrap_or_default()).into()
}

fn images(object: &Value) -> Value {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|container| text(&container["image"])).collect::<Vec<_>>().join(",").into()
}

fn statuses(pod: &Value) -> &[Value] {
    pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn containers_ready(pod: &Value) -> Value {
    let ready = statuses(pod).iter().filter(|status| status["ready"] == true).count();
    format!("{ready}/{}", pod["spec"]["containers"].as_array().map_or(0, Vec::len)).into()
}

fn restarts(pod: &Value) -> Value {
    statuses(pod).iter().filter_map(|status| status["restartCount"].as_i64()).sum::<i64>().into()
}

/// Why a container waits or ended, else the phase.
fn pod_status(pod: &Value) -> Value {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".into();
    }
    let reasons = statuses(pod)
        .iter()
        .flat_map(|status| ["waiting", "terminated"].map(|state| text(&status["state"][state]["reason"])));
    let reason = reasons.into_iter().find(|reason| !reason.is_empty());
    reason.map_or_else(|| pod["status"]["phase"].clone(), Value::from)
}

fn service_ports(service: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|port| format!("{}/{}", port["port"], text(&port["protocol"])));
    ports.collect::<Vec<_>>().join(",").into()
}

fn addresses(slice: &Value) -> Value {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let all = endpoints.flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten().map(text));
    all.collect::<Vec<_>>().join(",").into()
}

fn age(object: &Value) -> Value {
    since(&object["metadata"]["creationTimestamp"])
}

fn age_of_event(event: &Value) -> Value {
    let times = ["lastTimestamp", "eventTime"].map(|field| &event[field]);
    times.into_iter().find(|time| time.is_string()).map_or_else(|| age(event), since)
}

/// How long ago that was, as kubectl shows it.
fn since(time: &Value) -> Value {
    let Ok(time) = text(time).parse::<k8s_openapi::jiff::Timestamp>() else { return "<unknown>".into() };
    let seconds = (k8s_openapi::jiff::Timestamp::now().as_second() - time.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
    .into()
}
