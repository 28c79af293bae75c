//! The one key in a Service's selector.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use scaler_types::{Nonce, ScaleError};
use serde_json::{Value, json};

use super::super::{InterceptionWriter, ServiceSnapshot};
use crate::{
    cluster,
    objects::{ObjectName, Owners, SELECTOR, SELECTOR_KEY, SELECTOR_KEY_UNCOMMITTED, Service},
};

/// How often a write is built anew because something else of the Service changed.
const MAX_ATTEMPTS: usize = 5;

impl InterceptionWriter {
    /// Adds the key to a Service's selector: from then on no pod is an endpoint of it. Everything else stays.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if it is no longer what was looked at.
    pub(in crate::interception) async fn add_selector_key(
        &self,
        service: ServiceSnapshot,
    ) -> Result<(), ScaleError> {
        self.set_selector_key(service, true).await
    }

    /// Removes the key. A Service that is gone is fine.
    ///
    /// # Errors
    ///
    /// As [`add_selector_key`](Self::add_selector_key).
    pub(in crate::interception) async fn remove_selector_key(
        &self,
        service: ServiceSnapshot,
    ) -> Result<(), ScaleError> {
        self.set_selector_key(service, false).await
    }

    /// Writes the key again, if the Service is still the one that was seen.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if it is another by now.
    pub(in crate::interception) async fn refresh_selector_key(
        &self,
        seen: &Service,
        attempt: Nonce,
    ) -> Result<(), ScaleError> {
        let value = attempt.to_string();
        let operations = [
            json!({"op": "test", "path": "/metadata/uid", "value": seen.meta.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": seen.meta.revision.to_string()}),
            json!({"op": "replace", "path": key_path(), "value": value}),
        ];
        self.write_key(seen, Some(&value), &operations).await
    }

    /// Takes over what was written, then restores the selector's field managers; the Service as that leaves it.
    pub(super) async fn observe_written_selector(
        &self,
        api: &Api<core::Service>,
        written: core::Service,
        owners: &Owners,
    ) -> ServiceSnapshot {
        self.observe_service(written.clone());
        let there = written.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
        let nobody = Owners::default();
        let owners = if there { owners } else { &nobody };
        self.observe_service(owners.restore(&self.cluster, api, written, SELECTOR).await)
    }

    /// Restores the managers of a Service's selector, where the daemon that wrote it last ended before that.
    ///
    /// # Errors
    ///
    /// The Service cannot be read.
    pub(in crate::interception) async fn restore_selector_owners(
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
            Ok(read) => {
                self.observe_written_selector(&api, read, &self.selector_owners(service)).await;
            }
            Err(error) if cluster::is_missing(&error) => {}
            Err(error) => return Err(cluster::write_error(&error, &doing, false)),
        }
        Ok(())
    }

    /// To be called before its slices are deleted, which name the previous managers.
    ///
    /// # Errors
    ///
    /// Scaler still owns it.
    pub(in crate::interception) fn ensure_selector_owners_restored(
        &self,
        name: &ObjectName,
    ) -> Result<(), ScaleError> {
        let owners = self.store.with(|state| state.service(name).map(|service| service.owners.clone()));
        owners
            .unwrap_or_default()
            .ensure_restored(&format!("the selector of the Service {}/{}", name.0, name.1))
    }

    /// The managers of a Service's selector, or those before Scaler wrote it: Scaler's slices name them.
    pub(in crate::interception) fn selector_owners(&self, service: &Service) -> Owners {
        self.store.with(|state| {
            let slices = state.interception.slices_of(&service.meta.key());
            let mut ours =
                slices.filter_map(|slice| slice.ours.as_ref()).filter(|ours| ours.uid == service.meta.uid);
            let stored = ours.find(|ours| !ours.owners.is_empty()).map(|ours| &*ours.owners);
            service.owners.clone().or_stored(stored.unwrap_or_default())
        })
    }

    async fn set_selector_key(
        &self,
        mut service: ServiceSnapshot,
        intercepted: bool,
    ) -> Result<(), ScaleError> {
        let name = service.service.meta.key();
        let doing = format!("writing the selector of the Service {}/{}", name.0, name.1);
        for _ in 0..MAX_ATTEMPTS {
            if service.service.intercepted == intercepted {
                return self.restore_selector_owners(&service.service).await;
            }
            self.store.with(|state| {
                state.interception.selector_conflicts.set_expected(&service.service.meta.uid, intercepted)
            });
            let (value, operations) = match intercepted {
                true => (Some(SELECTOR_KEY_UNCOMMITTED), add_key(&service)),
                false => (None, remove_key(&service)),
            };
            let Err(error) = self.write_key(&service.service, value, &operations).await else {
                return Ok(());
            };
            if error != ScaleError::Conflict {
                return Err(error);
            }
            match self.read_service(&name).await? {
                Some(now) if intercepted && now.service.has_same_spec(&service.service) => service = now,
                // Something else of it changed. Another value is the key of another drain attempt.
                Some(now) if !intercepted && (!now.service.intercepted || now.key() == service.key()) => {
                    service = now
                }
                None if !intercepted => return Ok(()),
                _ => return Err(ScaleError::Conflict),
            }
        }
        let reason = format!("{doing}: too many concurrent writes by others");
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }
}

impl ServiceSnapshot {
    /// Our key's value.
    fn key(&self) -> Option<&String> {
        self.selector.get(SELECTOR_KEY)
    }
}

fn key_path() -> String {
    format!("/spec/selector/{}", SELECTOR_KEY.replace('~', "~0").replace('/', "~1"))
}

fn add_key(service: &ServiceSnapshot) -> [Value; 3] {
    [
        json!({"op": "test", "path": "/metadata/uid", "value": service.service.meta.uid}),
        // What the decision was made on: ports, policies, the user's own keys.
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": service.resource_version}),
        json!({"op": "add", "path": key_path(), "value": SELECTOR_KEY_UNCOMMITTED}),
    ]
}

fn remove_key(service: &ServiceSnapshot) -> [Value; 3] {
    let uid = json!({"op": "test", "path": "/metadata/uid", "value": service.service.meta.uid});
    if service.service.selector.is_empty() {
        // Its owners took theirs away meanwhile: it selected nothing of its own.
        return [
            uid,
            json!({"op": "test", "path": "/spec/selector", "value": service.selector}),
            json!({"op": "remove", "path": "/spec/selector"}),
        ];
    }
    [
        uid,
        json!({"op": "test", "path": key_path(), "value": service.key()}),
        json!({"op": "remove", "path": key_path()}),
    ]
}
