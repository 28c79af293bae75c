//! Making a field its owners' again after Scaler has written it.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, Resource,
    api::{ObjectMeta, Patch, PatchParams},
};
use scaler_types::{backoff::Backoff, duration};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::ClusterApi;
use crate::{cluster, objects::Owners};

/// How long it may take: what was decided is written already.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause after a try that failed; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(10);

// === impl Owners ===

impl Owners {
    /// Makes a field theirs again that was just written; gives the object as it is then. That it fails changes nothing of what was
    /// written: the field stays Scaler's, and the next write tries again.
    pub(crate) async fn restore<K>(&self, cluster: &ClusterApi, api: &Api<K>, written: K, field: &str) -> K
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let name = written.meta().name.clone().unwrap_or_default();
        let mut last_error = None;
        let tries = async {
            let mut last = written.clone();
            let mut backoff = Backoff::new(FIRST_DELAY, RESTORE_TIMEOUT);
            loop {
                let meta = last.meta();
                let Some(list) = self.restored_list(meta, field) else { return Ok(last) };
                match cluster.call(api.patch(&name, &PatchParams::default(), &patch(meta, &list))).await {
                    Ok(now) => return Ok(now),
                    Err(error) if is_worth_retrying(&error) => {
                        last_error = Some(cluster::describe_error(&error))
                    }
                    Err(error) => return Err(error),
                }
                backoff.wait().await;
                match cluster.call(api.get(&name)).await {
                    // Another object by now: its fields never were theirs.
                    Ok(now) if now.meta().uid != written.meta().uid => return Ok(last),
                    Ok(now) => last = now,
                    Err(error) if is_worth_retrying(&error) => {
                        last_error = Some(cluster::describe_error(&error))
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let why = match timeout(RESTORE_TIMEOUT, tries).await {
            Ok(Ok(now)) => return now,
            Ok(Err(error)) => cluster::describe_error(&error),
            Err(_) => {
                let last = last_error.unwrap_or_else(|| "no answer".to_owned());
                format!("not within {}: {last}", duration::short(RESTORE_TIMEOUT))
            }
        };
        let namespace = written.meta().namespace.clone().unwrap_or_default();
        tracing::warn!(
            object = format!("{namespace}/{name}"),
            field,
            reason = why,
            "failed to restore a field's owner in metadata.managedFields: until Scaler's next attempt, \
             the owner's server-side apply of the field conflicts"
        );
        written
    }
}

fn is_worth_retrying(error: &kube::Error) -> bool {
    cluster::is_invalid(error) || cluster::is_conflict(error) || cluster::is_transient(error)
}

fn patch(meta: &ObjectMeta, list: &[ManagedFieldsEntry]) -> Patch<()> {
    // An empty list would leave all as it is.
    let list = if list.is_empty() { json!([{}]) } else { json!(list) };
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "replace", "path": "/metadata/managedFields", "value": list},
    ]);
    Patch::Json(serde_json::from_value(operations).expect("these are operations"))
}
