//! The one key in a Service's selector.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use scaler_types::{Nonce, ScaleError};
use serde_json::{Value, json};

use super::super::{Read, Routes};
use crate::{
    cluster,
    objects::{FENCED, LED, Name, Owners, SELECTOR, Service},
};

/// How often a write is built anew because something else of the Service changed.
const TRIES: usize = 5;

impl Routes {
    /// Adds our key to a Service's selector: from there on no pod is an endpoint of it. Everything else stays.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if it is no longer what was looked at.
    pub(in crate::interception) async fn fence(&self, service: Read) -> Result<(), ScaleError> {
        self.turn(service, true).await
    }

    /// Takes our key out of it. A Service that is gone is fine.
    ///
    /// # Errors
    ///
    /// As [`fence`](Self::fence).
    pub(in crate::interception) async fn unfence(&self, service: Read) -> Result<(), ScaleError> {
        self.turn(service, false).await
    }

    /// Writes our key anew, if the Service is still the one that was seen.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if it is another by now.
    pub(in crate::interception) async fn fence_anew(
        &self,
        seen: &Service,
        fence: Nonce,
    ) -> Result<(), ScaleError> {
        let name = seen.meta.key();
        let doing = format!("writing the selector of the Service {}/{}", name.0, name.1);
        let operations = json!([
            {"op": "test", "path": "/metadata/uid", "value": seen.meta.uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": seen.meta.revision.to_string()},
            {"op": "replace", "path": path(), "value": fence.to_string()},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(operations).map_err(anyhow::Error::from)?);
        let api = self.cluster.in_namespace::<core::Service>(&name.0);
        let written = self.cluster.call(api.patch(&name.1, &PatchParams::default(), &patch)).await;
        let written = written.map_err(|error| cluster::unwritten(&error, &doing, true))?;
        self.wrote_selector(&api, written, &self.selector_owners(seen)).await;
        Ok(())
    }

    /// What was written counts at once; whose the selector is after that.
    async fn wrote_selector(&self, api: &Api<core::Service>, written: core::Service, owners: &Owners) {
        self.saw_service(written.clone());
        let there = written.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
        let nobody = Owners::default();
        let owners = if there { owners } else { &nobody };
        self.saw_service(owners.restore(&self.cluster, api, written, SELECTOR).await);
    }

    /// Gives a Service's selector back to its owners, where whoever wrote it last ended before that.
    ///
    /// # Errors
    ///
    /// The Service cannot be read.
    pub(in crate::interception) async fn give_selector_back(
        &self,
        service: &Service,
    ) -> Result<(), ScaleError> {
        if !service.owners.scaler {
            return Ok(());
        }
        let name = service.meta.key();
        let doing = format!("reading the Service {}/{}", name.0, name.1);
        let api = self.cluster.in_namespace::<core::Service>(&name.0);
        match self.cluster.call(api.get(&name.1)).await {
            Ok(read) if read.metadata.uid.as_ref() != Some(&service.meta.uid) => {
                return Err(ScaleError::Conflict);
            }
            Ok(read) => self.wrote_selector(&api, read, &self.selector_owners(service)).await,
            Err(error) if cluster::is_missing(&error) => {}
            Err(error) => return Err(cluster::unwritten(&error, &doing, false)),
        }
        Ok(())
    }

    /// To be asked before its slices are deleted, which say whose it was.
    ///
    /// # Errors
    ///
    /// Scaler still owns it.
    pub(in crate::interception) fn selector_is_restored(&self, name: &Name) -> Result<(), ScaleError> {
        let owners = self.store.with(|state| state.service(name).map(|service| service.owners.clone()));
        owners.unwrap_or_default().are_restored(&format!("the selector of the Service {}/{}", name.0, name.1))
    }

    /// Whose a Service's selector is, or was before Scaler wrote it: our slices of it say that.
    pub(in crate::interception) fn selector_owners(&self, service: &Service) -> Owners {
        self.store.with(|state| {
            let slices = state.routing.slices_of(&service.meta.key());
            let mut ours =
                slices.filter_map(|slice| slice.ours.as_ref()).filter(|ours| ours.uid == service.meta.uid);
            let stored = ours.find(|ours| !ours.owners.is_empty()).map(|ours| &*ours.owners);
            service.owners.clone().or_stored(stored.unwrap_or_default())
        })
    }

    async fn turn(&self, mut service: Read, led: bool) -> Result<(), ScaleError> {
        let name = service.fact.meta.key();
        let doing = format!("writing the selector of the Service {}/{}", name.0, name.1);
        for _ in 0..TRIES {
            if service.fact.fenced == led {
                return self.give_selector_back(&service.fact).await;
            }
            self.store.with(|state| state.routing.taken.wants(&service.fact.meta.uid, led));
            let operations = if led { add(&service) } else { remove(&service) };
            let patch = Patch::Json::<()>(serde_json::from_value(operations).map_err(anyhow::Error::from)?);
            let api = self.cluster.in_namespace::<core::Service>(&name.0);
            let error = match self.cluster.call(api.patch(&name.1, &PatchParams::default(), &patch)).await {
                Ok(written) => {
                    self.wrote_selector(&api, written, &self.selector_owners(&service.fact)).await;
                    return Ok(());
                }
                Err(error) => cluster::unwritten(&error, &doing, true),
            };
            if error != ScaleError::Conflict {
                return Err(error);
            }
            match self.read_service(&name).await? {
                Some(now) if led && now.fact.is_as(&service.fact) => service = now,
                // Something else of it changed. With another value it was fenced anew meanwhile.
                Some(now) if !led && (!now.fact.fenced || now.key() == service.key()) => service = now,
                None if !led => return Ok(()),
                _ => return Err(ScaleError::Conflict),
            }
        }
        let reason = format!("{doing}: others write to it all the time");
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }
}

impl Read {
    /// Our key's value.
    fn key(&self) -> Option<&String> {
        self.selector.get(FENCED)
    }
}

fn path() -> String {
    format!("/spec/selector/{}", FENCED.replace('~', "~0").replace('/', "~1"))
}

fn add(service: &Read) -> Value {
    json!([
        {"op": "test", "path": "/metadata/uid", "value": service.fact.meta.uid},
        // What was looked at before it was decided to lead it: ports, policies, the user's own keys.
        {"op": "test", "path": "/metadata/resourceVersion", "value": service.resource_version},
        {"op": "add", "path": path(), "value": LED},
    ])
}

fn remove(service: &Read) -> Value {
    let uid = json!({"op": "test", "path": "/metadata/uid", "value": service.fact.meta.uid});
    if service.fact.selector.is_empty() {
        // Its owners took theirs away meanwhile: it selected nothing of its own.
        return json!([
            uid,
            {"op": "test", "path": "/spec/selector", "value": service.selector},
            {"op": "remove", "path": "/spec/selector"},
        ]);
    }
    json!([
        uid,
        {"op": "test", "path": path(), "value": service.key()},
        {"op": "remove", "path": path()},
    ])
}
