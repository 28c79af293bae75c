//! Two ways to change the key in a Service's selector.
//!
//! Where the chart's MutatingAdmissionPolicy is in force, a patch of `test` operations alone names the change in its field manager, and
//! the API server makes it: the selector stays its owners' in `metadata.managedFields`, and the policy keeps the key at everybody else's
//! writes. Otherwise the patch itself makes the change, and the owners are restored after it. Which way works is seen from the answer to
//! each write: the policy may come or go between any two calls.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams};
use scaler_types::{Nonce, ScaleError};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::InterceptionWriter;
use crate::{
    cluster,
    objects::{INTERCEPT_MANAGER, RESTORE_MANAGER, SELECTOR_KEY, Service},
};

/// How long a dry run may take: only what users are told depends on it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

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
        let revision = operations.iter().find(|operation| operation["path"] == "/metadata/resourceVersion");
        for writer in self.key_writers(service) {
            let (params, patch) = match writer {
                KeyWriter::Policy => (by_policy(value), json_patch(&tests(operations))?),
                KeyWriter::Patch => (PatchParams::default(), json_patch(operations)?),
            };
            let written = self.cluster.call(api.patch(&name.1, &params, &patch)).await;
            let written = written.map_err(|error| cluster::write_error(&error, &doing, true))?;
            let made = key(&written) == value;
            if *writer == KeyWriter::Policy {
                self.set_key_policy(made);
            }
            let left = self.observe_written_selector(&api, written, &self.selector_owners(service)).await;
            if made {
                return Ok(());
            }
            if revision.is_some_and(|tested| tested["value"] != left.resource_version) {
                // Something else of it was changed: whether that matters is decided anew.
                break;
            }
        }
        let reason = format!(
            "{doing}: the API server accepted Scaler's change of the key {SELECTOR_KEY} and did not make it: an \
             admission policy or a webhook of the cluster changes what Scaler writes"
        );
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }

    /// Who is to make the change, in this order until it is made. Where the policy is not in force, a patch for it changes nothing.
    fn key_writers(&self, service: &Service) -> &'static [KeyWriter] {
        let absent = self.store.with(|state| {
            let now = state.interception.now();
            state.interception.key_policy.is_absent(now)
        });
        match absent {
            // Such a Service the policy leaves alone.
            _ if service.selector.is_empty() || service.external => &[KeyWriter::Patch],
            true => &[KeyWriter::Patch, KeyWriter::Policy],
            false => &[KeyWriter::Policy, KeyWriter::Patch],
        }
    }

    /// Asks whether the policy is in force by a dry run on a Service that is to be intercepted, if that is due.
    pub(super) async fn check_key_policy(&self) {
        let service = self.store.with(|state| {
            let now = state.interception.now();
            // Without its parameter, the registry, it is not in force, and the first Service to be intercepted creates that.
            state.interception.registry()?;
            if !state.interception.key_policy.is_due(now) {
                return None;
            }
            let mut services: Vec<_> =
                state.to_be_intercepted().filter(|service| !service.selector.is_empty()).cloned().collect();
            let index = state.interception.key_policy.record_check(now).checked_rem(services.len())?;
            Some(services.swap_remove(index))
        });
        let Some(service) = service else { return };
        let nonce = Nonce::fresh().to_string();
        let params = PatchParams { dry_run: true, ..by_policy(Some(&nonce)) };
        let uid = json!({"op": "test", "path": "/metadata/uid", "value": service.meta.uid});
        let Ok(patch) = json_patch(&[uid]) else { return };
        let api = self.cluster.in_namespace::<core::Service>(&service.meta.namespace);
        let answer = self.cluster.call(api.patch(&service.meta.name, &params, &patch));
        let reason = match timeout(CHECK_TIMEOUT, answer).await {
            Ok(Ok(shown)) => return self.set_key_policy(key(&shown) == Some(nonce.as_str())),
            Ok(Err(error)) => cluster::describe_error(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::debug!(reason, "a dry run that asks for the policy of the selector key failed");
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
