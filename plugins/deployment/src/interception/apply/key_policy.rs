//! Two ways to change the key in a Service's selector.
//!
//! Where the chart's MutatingAdmissionPolicy is in force, a patch of `test` operations alone names the change in its field manager, and
//! the API server makes it: the selector stays its owners' in `metadata.managedFields`, and the policy keeps the key at everybody else's
//! writes. Otherwise the patch itself makes the change, and the owners are restored after it. Which way worked is seen from the answer:
//! the policy may come or go between any two calls.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams};
use scaler_types::{Nonce, ScaleError};
use serde_json::{Value, json};

use super::super::InterceptionWriter;
use crate::{
    cluster,
    objects::{INTERCEPT_MANAGER, RESTORE_MANAGER, SELECTOR_KEY, Service},
};

/// Who makes the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyWriter {
    /// The admission policy.
    Policy,
    /// The patch itself.
    Patch,
}

impl InterceptionWriter {
    /// Sets the key to `value`, or removes it, by `operations`: what they test must hold in either way.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if something that they test does not hold.
    pub(super) async fn write_key(
        &self,
        service: &Service,
        value: Option<&str>,
        operations: &[Value],
    ) -> Result<(), ScaleError> {
        let name = service.meta.key();
        let doing = format!("writing the selector of the Service {}/{}", name.0, name.1);
        let api = self.cluster.in_namespace::<core::Service>(&name.0);
        let writers = match self.is_key_policy_in_force(service).await {
            true => [KeyWriter::Policy, KeyWriter::Patch],
            false => [KeyWriter::Patch, KeyWriter::Policy],
        };
        for writer in writers {
            let (params, patch) = match writer {
                KeyWriter::Policy => (by_policy(value), json_patch(&tests(operations))?),
                KeyWriter::Patch => (PatchParams::default(), json_patch(operations)?),
            };
            let written = self.cluster.call(api.patch(&name.1, &params, &patch)).await;
            let written = written.map_err(|error| cluster::write_error(&error, &doing, true))?;
            if key(&written) == value {
                self.observe_written_selector(&api, written, &self.selector_owners(service)).await;
                return Ok(());
            }
            self.set_key_policy(writer == KeyWriter::Patch);
        }
        let reason = format!(
            "{doing}: the API server accepted Scaler's change of the key {SELECTOR_KEY} and did not make it: an \
             admission policy or a webhook of the cluster undoes it"
        );
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }

    /// Asks again whether the policy is in force, if that is due.
    pub(super) async fn check_key_policy(&self) {
        let service = self.store.with(|state| {
            // Without its parameter, the registry, it is not in force, and the first Service to be intercepted creates that.
            state.interception.registry()?;
            state.to_be_intercepted().next().cloned()
        });
        if let Some(service) = service {
            self.is_key_policy_in_force(&service).await;
        }
    }

    /// Whether the policy is in force for this Service: as the API server answered last, or by a dry run on it.
    async fn is_key_policy_in_force(&self, service: &Service) -> bool {
        if service.selector.is_empty() || service.external {
            // Such a Service it leaves alone.
            return false;
        }
        let known = || {
            self.store.with(|state| {
                let policy = &state.interception.key_policy;
                (!policy.is_due(state.interception.now())).then(|| policy.in_force() == Some(true))
            })
        };
        if let Some(known) = known() {
            return known;
        }
        let _turn = self.asking.lock().await;
        if let Some(known) = known() {
            return known;
        }
        let nonce = Nonce::fresh().to_string();
        let params = PatchParams { dry_run: true, ..by_policy(Some(&nonce)) };
        let uid = json!({"op": "test", "path": "/metadata/uid", "value": service.meta.uid});
        let Ok(patch) = json_patch(&[uid]) else { return false };
        let api = self.cluster.in_namespace::<core::Service>(&service.meta.namespace);
        match self.cluster.call(api.patch(&service.meta.name, &params, &patch)).await {
            Ok(shown) => {
                let in_force = key(&shown) == Some(nonce.as_str());
                self.set_key_policy(in_force);
                in_force
            }
            Err(error) => {
                let reason = cluster::describe_error(&error);
                tracing::debug!(reason, "a dry run that asks for the policy of the selector key failed");
                false
            }
        }
    }

    fn set_key_policy(&self, in_force: bool) {
        if self.store.with(|state| state.set_key_policy(in_force)) {
            let note = self.store.with(|state| state.interception.key_policy.note());
            tracing::info!(in_force, note, "learnt whether the policy of the selector key is in force");
        }
    }
}

/// The field manager by which the policy sets the key to `value`, or removes it.
fn by_policy(value: Option<&str>) -> PatchParams {
    let manager = match value {
        Some(value) => format!("{INTERCEPT_MANAGER}{value}"),
        None => RESTORE_MANAGER.to_owned(),
    };
    PatchParams { field_manager: Some(manager), ..PatchParams::default() }
}

fn tests(operations: &[Value]) -> Vec<Value> {
    operations.iter().filter(|operation| operation["op"] == "test").cloned().collect()
}

fn json_patch(operations: &[Value]) -> Result<Patch<()>, ScaleError> {
    Ok(Patch::Json(serde_json::from_value(json!(operations)).map_err(anyhow::Error::from)?))
}

/// The key's value.
fn key(service: &core::Service) -> Option<&str> {
    service.spec.as_ref()?.selector.as_ref()?.get(SELECTOR_KEY).map(String::as_str)
}
