//! The custom metrics API, with the values that a test sets.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::{Value, json};

use crate::{
    http::failure::{Failure, Result},
    http::request::Request,
    identity,
    registry::{Kind, Kinds},
    selector::LabelSelector,
    store::{Key, Tables},
};

/// The group.
pub const GROUP: &str = "custom.metrics.k8s.io";
/// Its versions, the preferred one first.
pub const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// Values of the custom metrics API.
#[derive(Debug, Default)]
pub struct CustomMetrics(Mutex<BTreeMap<Series, Sample>>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    namespace: String,
    /// `deployments.apps`, or `pods`.
    resource: String,
    name: String,
    metric: String,
}

#[derive(Debug, Clone)]
struct Sample {
    value: String,
    window_seconds: Option<u64>,
    time: String,
}

// === impl CustomMetrics ===

impl CustomMetrics {
    /// An object's value from now on: a quantity (`0`, `1500m`, `3k`), as measured over `window_seconds`.
    /// `resource` is the plural with its group, `deployments.apps`, or `pods`.
    pub fn set(
        &self,
        namespace: &str,
        resource: &str,
        name: &str,
        metric: &str,
        value: &str,
        window_seconds: Option<u64>,
    ) {
        let series = Series::new(namespace, resource, name, metric);
        let sample = Sample { value: value.to_owned(), window_seconds, time: identity::now() };
        self.lock().insert(series, sample);
    }

    /// An object has no value any more.
    pub fn remove(&self, namespace: &str, resource: &str, name: &str, metric: &str) {
        self.lock().remove(&Series::new(namespace, resource, name, metric));
    }

    /// `namespaces/NAMESPACE/RESOURCE/NAME-or-*/METRIC`.
    pub(crate) fn answer(&self, request: &Request, kinds: &Kinds, tables: &Tables) -> Result<Value> {
        let target = &request.target;
        if target.verb != "get" || target.name.is_empty() || target.subresource.is_empty() {
            return Err(Failure::no_such_path());
        }
        let (plural, group) = target.resource.split_once('.').unwrap_or((&target.resource, ""));
        let kind = kinds.all.iter().find(|kind| kind.is(group, plural));
        let labels = LabelSelector::parse(request.query.get("labelSelector").unwrap_or_default())?;
        let items: Vec<Value> = self
            .lock()
            .iter()
            .filter(|(series, _)| {
                series.namespace == target.namespace
                    && series.resource == target.resource
                    && series.metric == target.subresource
                    && (target.name == "*" || series.name == target.name)
            })
            .filter(|(series, _)| {
                labels.is_empty() || labelled(kind.map(AsRef::as_ref), tables, series, &labels)
            })
            .map(|(series, sample)| item(&target.version, kind.map(AsRef::as_ref), series, sample))
            .collect();
        if items.is_empty() {
            let metric = Kind::named("", "", &target.resource);
            let mut failure = Failure::not_found(&metric, &target.name);
            failure.message = format!(
                "the server could not find the metric {} for {} {}",
                target.subresource, target.resource, target.name
            );
            return Err(failure);
        }
        Ok(json!({
            "kind": "MetricValueList",
            "apiVersion": format!("{GROUP}/{}", target.version),
            "metadata": {},
            "items": items,
        }))
    }

    /// The metrics that there are, as discovery lists them.
    pub(crate) fn resources(&self) -> Vec<Value> {
        let mut names: Vec<String> =
            self.lock().keys().map(|series| format!("{}/{}", series.resource, series.metric)).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]}))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Series, Sample>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn labelled(kind: Option<&Kind>, tables: &Tables, series: &Series, labels: &LabelSelector) -> bool {
    let Some(kind) = kind else { return false };
    let object = tables.get(&kind.table(), &Key::new(&series.namespace, &series.name));
    object.is_some_and(|object| labels.matches(&object.metadata()["labels"]))
}

fn item(version: &str, kind: Option<&Kind>, series: &Series, sample: &Sample) -> Value {
    let mut item = json!({
        "describedObject": {
            "kind": kind.map_or("", |kind| kind.kind.as_str()),
            "namespace": series.namespace,
            "name": series.name,
            "apiVersion": kind.map_or_else(String::new, Kind::api_version),
        },
        "timestamp": sample.time,
        "value": sample.value,
    });
    if let Some(window) = sample.window_seconds {
        let field = if version == "v1beta1" { "window" } else { "windowSeconds" };
        item[field] = json!(window);
    }
    if version == "v1beta1" {
        item["metricName"] = json!(series.metric);
    } else {
        item["metric"] = json!({"name": series.metric});
    }
    item
}

// === impl Series ===

impl Series {
    fn new(namespace: &str, resource: &str, name: &str, metric: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            metric: metric.to_owned(),
        }
    }
}
