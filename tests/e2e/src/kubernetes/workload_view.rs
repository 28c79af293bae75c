//! A workload, its Service and its slices as they are at one moment, from watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject},
    runtime::watcher::{self, Event, watcher},
};
use scaler_types::{Backend, Phase};
use serde_json::Value;
use tokio::time::timeout;

use super::{Shop, Workload, objects::api_of};
use crate::wait::{pause, wait_timeout};

/// Which Service a slice is of.
const SERVICE: &str = "kubernetes.io/service-name";
/// Which controller manages a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The watches.
const OBJECTS: &str = "objects";
const SERVICES: &str = "services";
const SLICES: &str = "slices";

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadView {
    /// The workload's object; null if there is none.
    pub object: Value,
    /// Its Service; null if there is none.
    pub service: Value,
    /// The slices of that Service, by name.
    pub slices: BTreeMap<String, Value>,
}

// === impl WorkloadView ===

impl WorkloadView {
    /// The workload's record; null if it has none.
    pub fn record(&self) -> Value {
        let record = self.object["metadata"]["annotations"]["scaler.dev/state"].as_str();
        record.and_then(|record| serde_json::from_str(record).ok()).unwrap_or_default()
    }

    /// The record's state.
    pub fn state(&self) -> Option<Phase> {
        serde_json::from_value(self.record()["phase"].clone()).ok()
    }

    /// How many replicas are wanted.
    pub fn replicas(&self) -> i64 {
        self.object["spec"]["replicas"].as_i64().unwrap_or_default()
    }

    /// Our key is in the Service's selector.
    pub fn has_selector_key(&self) -> bool {
        !self.service["spec"]["selector"]["scaler.dev/intercepted"].is_null()
    }

    /// Our slices.
    pub fn ours(&self) -> impl Iterator<Item = &Value> {
        self.slices.values().filter(|slice| slice["metadata"]["labels"][MANAGED_BY] == "scaler.dev")
    }

    /// The Service's backend, as its objects say.
    pub fn backend(&self) -> Backend {
        match (self.ours().next().is_some(), self.has_selector_key()) {
            (false, _) => Backend::Workload,
            (true, false) => Backend::Both,
            (true, true) => Backend::Dlx,
        }
    }

    fn put(&mut self, kind: &str, object: DynamicObject, there: bool) {
        let name = object.name_any();
        let value = if there { serde_json::to_value(object).unwrap_or_default() } else { Value::Null };
        match kind {
            SERVICES => self.service = value,
            SLICES if there => drop(self.slices.insert(name, value)),
            SLICES => drop(self.slices.remove(&name)),
            _ => self.object = value,
        }
    }

    fn forget(&mut self, kind: &str) {
        match kind {
            SERVICES => self.service = Value::Null,
            SLICES => self.slices.clear(),
            _ => self.object = Value::Null,
        }
    }
}

impl Shop {
    /// Watches a workload until it is seen as wanted: every state that the API reports is looked at, however short it lasts.
    ///
    /// # Panics
    ///
    /// It is not in a long while; the message has the last that was seen.
    pub async fn until_seen(
        &self,
        workload: &Workload,
        what: &str,
        wanted: impl Fn(&WorkloadView) -> bool,
    ) -> WorkloadView {
        let mut seen = WorkloadView::default();
        let found = timeout(wait_timeout(), self.watch(workload, &mut seen, wanted)).await.is_ok();
        let id = workload.id();
        assert!(
            found,
            "waited {:?} for {what} ({id}): {seen:#?}\n{}",
            wait_timeout(),
            self.logs("autoscaler", 10)
        );
        seen
    }

    async fn watch(
        &self,
        workload: &Workload,
        seen: &mut WorkloadView,
        wanted: impl Fn(&WorkloadView) -> bool,
    ) {
        let by_name = watcher::Config::default().fields(&format!("metadata.name={}", workload.name));
        let by_label = watcher::Config::default().labels(&format!("{SERVICE}={}", workload.name));
        let slices = ApiResource::erase::<k8s_openapi::api::discovery::v1::EndpointSlice>(&());
        let slices = Api::namespaced_with(self.client.clone(), &self.names().namespace, &slices);
        let watches: [(&str, Api<DynamicObject>, watcher::Config); 3] = [
            (OBJECTS, api_of(&self.client, &workload.object()), by_name.clone()),
            (SERVICES, api_of(&self.client, &workload.service()), by_name),
            (SLICES, slices, by_label),
        ];
        let watches =
            watches.map(|(kind, api, config)| watcher(api, config).map(move |event| (kind, event)).boxed());
        let mut events = stream::select_all(watches);
        let mut listed = BTreeSet::new();
        while let Some((kind, event)) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => seen.put(kind, object, true),
                Ok(Event::Delete(object)) => seen.put(kind, object, false),
                Ok(Event::Init) => {
                    listed.remove(kind);
                    seen.forget(kind);
                }
                Ok(Event::InitDone) => drop(listed.insert(kind)),
                // An API that is away is asked again.
                Err(_) => pause(Duration::from_millis(10)).await,
            }
            if listed.len() == 3 && wanted(seen) {
                return;
            }
        }
    }
}
