//! Restoring a workload: as it was before, with nothing of Scaler's on it.

use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube_watch::{Watch, WatchError};
use scaler_types::{
    Nonce, Phase, ResourceId, RestoreRequest, ScaleError, Target, duration,
    protocol::{Seen, Step, transition},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{super::InterceptionWriter, backend::terminal};
use crate::{
    cluster,
    objects::{ObjectName, Owners, SERVICE, Slice, Workload, record},
};

/// How often a write is built anew because something else of the object changed.
const MAX_ATTEMPTS: usize = 5;

/// Why a record is written.
const REASON: &str = "restored";

impl InterceptionWriter {
    /// Restores a workload.
    ///
    /// Awake first, then the pods are endpoints beside the DLXs, and only when they take requests and nodes and clients had the time to
    /// follow, the DLXs are removed. Each step looks first whether it is done.
    ///
    /// # Errors
    ///
    /// It did not come to that in time; another call goes on from there.
    pub(crate) async fn restore(&self, request: &RestoreRequest) -> Result<(), ScaleError> {
        self.ensure_autoscaler()?;
        let restored =
            timeout(request.deadline, self.restore_workload(&request.id, request.propagation_delay)).await;
        restored.unwrap_or_else(|_| {
            let reason = format!(
                "{} was not restored within {}: its pods are not ready, or the API does not answer",
                request.id,
                duration::short(request.deadline)
            );
            Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
        })
    }

    async fn restore_workload(&self, id: &ResourceId, grace: Duration) -> Result<(), ScaleError> {
        let workload = self.wake(id).await?;
        let read = self.read_services(id).await?;
        let all: Vec<_> =
            read.iter().map(|one| (one.service.meta.key(), one.service.meta.uid.clone())).collect();
        let mut intercepted: Vec<ObjectName> = Vec::new();
        for one in read {
            let slices = self.read_slices(&one.service.meta.key()).await?;
            if one.service.intercepted || !slices.is_empty() {
                intercepted.push(one.service.meta.key());
            }
            self.remove_selector_key(one).await?;
        }
        for (name, _) in &all {
            self.ensure_selector_owners_restored(name)?;
        }
        if !intercepted.is_empty() {
            if workload.replicas > 0 {
                for name in &intercepted {
                    self.wait_until_ready(name).await?;
                }
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "nothing reports when nodes and clients have followed: the delay is the time they are given"
            )]
            sleep(grace).await;
            for name in &intercepted {
                self.delete_slices(name).await?;
            }
        }
        for (_, uid) in all {
            self.free_ports(&uid).await?;
        }
        self.remove_record(id).await
    }

    /// Wakes what was put to sleep.
    pub(in crate::interception) async fn wake(&self, id: &ResourceId) -> Result<Workload, ScaleError> {
        for _ in 0..MAX_ATTEMPTS {
            let workload = self.scales.fetch_workload(id).await?;
            let record = &workload.stored.record;
            let slept = matches!(record.phase, Phase::Asleep | Phase::Waking | Phase::Failed);
            if workload.replicas > 0 || !slept {
                return Ok(workload);
            }
            let seen = Seen { record: record.clone(), version: workload.version(), scaled: false };
            let Some(record) = transition(&seen, Step::Wake, Nonce::fresh(), REASON) else {
                return Err(terminal(format!(
                    "the state of {id} was written by a newer version of Scaler: restore it with that \
                     version"
                )));
            };
            match self.scales.write_record(id, &seen.version, &record, Some(Target::AtLeast(1))).await {
                Ok(workload) => return Ok(workload),
                Err(ScaleError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended(id))
    }

    /// Waits until a Service has a ready endpoint of its own. Asks the API itself: it is also done where no slices are watched.
    async fn wait_until_ready(&self, service: &ObjectName) -> Result<(), ScaleError> {
        let api = self.cluster.in_namespace::<EndpointSlice>(&service.0);
        let mut slices = Watch::new(api, cluster::select_labels(&format!("{SERVICE}={}", service.1)));
        let doing = format!("watching the EndpointSlices of the Service {}/{}", service.0, service.1);
        let is_ready = |slice: &EndpointSlice| {
            let slice = Slice::from(slice.clone());
            slice.ours.is_none() && slice.ready
        };
        loop {
            let event = match slices.next().await {
                // It goes on by itself.
                Err(WatchError::Broken(_)) => continue,
                event => event.map_err(|error| cluster::retry_error(&error.into_inner(), &doing))?,
            };
            if event.objects().iter().any(is_ready) {
                return Ok(());
            }
        }
    }

    /// Takes the record away, and the map of annotations if there was none but it.
    async fn remove_record(&self, id: &ResourceId) -> Result<(), ScaleError> {
        let doing = format!("removing the state annotation of {id}");
        for _ in 0..MAX_ATTEMPTS {
            let workload = self.scales.fetch_workload(id).await?;
            let api = self.cluster.workload_api(&workload);
            let object = self.cluster.call(api.get(&workload.meta.name)).await;
            let mut object = object.map_err(|error| cluster::write_error(&error, &doing, false))?;
            if object.metadata.uid.as_ref() != Some(&workload.meta.uid) {
                continue;
            }
            let (owners, field) = (&workload.owners, &workload.kind.replicas_path);
            if owners.scaler {
                // The record names their managers.
                object = owners.restore(&self.cluster, &api, object, field).await;
                Owners::of_field(&object.metadata, field)
                    .ensure_restored(&format!("the replicas of {id}"))?;
            }
            let annotations = object.metadata.annotations.unwrap_or_default();
            if !annotations.contains_key(record::ANNOTATION) {
                return Ok(());
            }
            let path = match annotations.len() {
                1 => "/metadata/annotations".to_owned(),
                _ => format!("/metadata/annotations/{}", record::ANNOTATION.replace('/', "~1")),
            };
            let operations: Value = json!([
                {"op": "test", "path": "/metadata/uid", "value": object.metadata.uid},
                {"op": "test", "path": "/metadata/resourceVersion", "value": object.metadata.resource_version},
                {"op": "remove", "path": path},
            ]);
            let patch = Patch::Json::<()>(serde_json::from_value(operations).map_err(anyhow::Error::from)?);
            match self.cluster.call(api.patch(&workload.meta.name, &PatchParams::default(), &patch)).await {
                Ok(object) => {
                    // Nor does Scaler manage any field of it.
                    let object = owners.restore(&self.cluster, &api, object, field).await;
                    self.scales.observe_workload(Workload::new(&workload.kind, object));
                    return Ok(());
                }
                Err(error) => match cluster::write_error(&error, &doing, true) {
                    ScaleError::Conflict => {}
                    error => return Err(error),
                },
            }
        }
        Err(contended(id))
    }
}

fn contended(id: &ResourceId) -> ScaleError {
    let reason = format!("restoring {id}: too many concurrent writes by others");
    ScaleError::Retry { after: Duration::from_secs(1), reason }
}
