//! What a test does to the workloads of a shop, and sees of them.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    runtime::reflector,
};
use serde_json::Value;

use super::{Part, Shop};
use crate::{
    admin,
    kubernetes::{Workload, objects},
    load::{self, Lost, Response, get},
    until,
};

impl Shop {
    /// Creates a workload and its Service, and waits until the daemons list it.
    pub async fn deploy(&self, workload: &Workload) {
        objects::create(&self.client, &workload.service()).await;
        if let Some(ingress) = workload.ingress() {
            objects::create(&self.client, &ingress).await;
        }
        objects::create(&self.client, &workload.object()).await;
        self.listed(workload).await;
    }

    /// Waits until every DLX knows a workload.
    pub async fn listed(&self, workload: &Workload) {
        let id = workload.id();
        until(&format!("{id} to be known to every DLX"), || async {
            for (pod, address) in self.admins(Part::Dlx).await {
                let resource = resource(address, &id).await?;
                if resource.is_null() {
                    return Err(format!("{pod} does not know it"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Creates any object.
    pub async fn create(&self, object: &Value) {
        objects::create(&self.client, object).await;
    }

    /// Deletes any object.
    pub async fn remove(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("an object's name");
        let deleted = objects::api_of(&self.client, object).delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("deleting {name}: {error}"));
    }

    /// Deletes a workload, and waits until it is gone.
    pub async fn delete(&self, workload: &Workload) {
        let api = objects::api_of(&self.client, &workload.object());
        api.delete(&workload.name, &DeleteParams::background())
            .await
            .unwrap_or_else(|error| panic!("deleting {}: {error}", workload.name));
        until(&format!("{} to be gone", workload.name), || async {
            match api.get_opt(&workload.name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Merges into a workload's object, as its user.
    pub async fn patch(&self, workload: &Workload, patch: Value) {
        self.merge(&workload.object(), patch).await;
    }

    /// Merges into any object.
    pub async fn merge(&self, object: &Value, patch: Value) {
        let name = object["metadata"]["name"].as_str().expect("an object's name");
        let api = objects::api_of(&self.client, object);
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap_or_else(|error| panic!("patching {name}: {error}"));
    }

    /// A workload's object now.
    pub async fn object(&self, workload: &Workload) -> DynamicObject {
        let api = objects::api_of(&self.client, &workload.object());
        api.get(&workload.name).await.unwrap_or_else(|error| panic!("getting {}: {error}", workload.name))
    }

    /// The state of a Deployment's record, as watched: empty if it has none.
    pub fn state(&self, deployment: &str) -> String {
        let key = reflector::ObjectRef::new(deployment).within(&self.names().namespace);
        self.deployments
            .get(&key)
            .and_then(|found| Some(record(found.annotations())?["phase"].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// Its state as a function that can be passed on.
    pub fn state_of(&self, deployment: &str) -> Box<dyn Fn() -> String + Send + Sync> {
        let (store, key) =
            (self.deployments.clone(), reflector::ObjectRef::new(deployment).within(&self.names().namespace));
        Box::new(move || {
            let found = store.get(&key);
            found
                .and_then(|found| Some(record(found.annotations())?["phase"].as_str()?.to_owned()))
                .unwrap_or_default()
        })
    }

    /// Waits until a workload's record says this.
    pub async fn state_is(&self, workload: &Workload, state: &str) {
        until(&format!("{} to be {state}", workload.id()), || async {
            let object = self.object(workload).await;
            let record = record(object.annotations()).unwrap_or_default();
            let replicas = &object.data["spec"]["replicas"];
            if record["phase"] == state {
                Ok(())
            } else {
                Err(format!(
                    "its record is {record}, its replicas {replicas}; {}",
                    self.logs("autoscaler", 10)
                ))
            }
        })
        .await;
    }

    /// Waits until a workload sleeps and none of its pods is left.
    pub async fn asleep(&self, workload: &Workload) {
        self.state_is(workload, "asleep").await;
        assert_eq!(self.object(workload).await.data["spec"]["replicas"], 0, "{} sleeps", workload.id());
        until(&format!("no pod of {} to be left", workload.id()), || async {
            let left = self.pods_of(workload).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }

    /// The names of a workload's pods.
    pub async fn pods_of(&self, workload: &Workload) -> Vec<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let of = ListParams::default().labels(&format!("app={}", workload.name));
        let list = pods.list(&of).await.map(|list| list.items).unwrap_or_default();
        list.iter().map(kube::ResourceExt::name_any).collect()
    }

    /// The address of a workload's only pod.
    pub async fn address(&self, workload: &Workload) -> IpAddr {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names().namespace);
        until(&format!("an address of {}", workload.id()), || async {
            let names = self.pods_of(workload).await;
            let [name] = &names[..] else { return Err(format!("{names:?}")) };
            let pod = pods.get(name).await.map_err(|error| error.to_string())?;
            let address = pod.status.and_then(|status| status.pod_ip?.parse().ok());
            address.ok_or_else(|| "none yet".to_owned())
        })
        .await
    }

    /// Sends one request to a workload by one of the DLXs.
    ///
    /// # Errors
    ///
    /// As it was lost.
    pub async fn ask(&self, workload: &Workload, path: &str, id: &str) -> Result<Response, Lost> {
        let fronts = self.fronts().all();
        load::once(front(&fronts, id), &get(&workload.host(), path, id)).await
    }

    /// As [`Shop::ask`], and the workload itself answers.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn served(&self, workload: &Workload, id: &str) -> Response {
        let fronts = self.fronts().all();
        self.served_at(front(&fronts, id), workload, id).await
    }

    /// The same at this address, of its Service or of a DLX.
    ///
    /// # Panics
    ///
    /// As [`Shop::served`].
    pub async fn served_at(&self, address: SocketAddr, workload: &Workload, id: &str) -> Response {
        let answer = load::once(address, &get(&workload.host(), "/", id)).await;
        let answer = answer.unwrap_or_else(|lost| panic!("{id} was lost: {lost}\n{}", self.logs("dlx", 40)));
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id)), "{}", answer.text());
        answer
    }

    /// The Events on a workload, as `REASON: NOTE`.
    pub async fn events(&self, workload: &Workload) -> Vec<String> {
        use k8s_openapi::api::events::v1::Event;
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let list = events.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let on = |event: &Event| {
            event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(&workload.name))
        };
        list.into_iter()
            .filter(on)
            .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// Waits for an Event on a workload that has this in it.
    pub async fn event(&self, workload: &Workload, part: &str) {
        until(&format!("an Event with {part:?} on {}", workload.id()), || async {
            let events = self.events(workload).await;
            if events.iter().any(|event| event.contains(part)) { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await;
    }
}

/// What a daemon says of a resource; null if it does not know it.
async fn resource(address: SocketAddr, id: &str) -> Result<Value, String> {
    let answer = admin::get(address, "/api/v1/resources").await?.json();
    let all = answer["resources"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|one| one["name"] == id).unwrap_or_default())
}

/// The record that annotations hold.
fn record(annotations: &std::collections::BTreeMap<String, String>) -> Option<Value> {
    serde_json::from_str(annotations.get("scaler.dev/state")?).ok()
}

/// The DLX that a request of this id is sent to.
fn front(fronts: &[SocketAddr], id: &str) -> SocketAddr {
    fronts[id.bytes().map(usize::from).sum::<usize>() % fronts.len()]
}
