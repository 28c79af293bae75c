//! Before pods are removed: asks them whether they have work, and has the idle ones removed first.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use scaler_types::{ResourceId, ScaleError, Version, scaling_options::BusyProbe};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    cluster::{self, ClusterApi},
    index::Store,
    objects::Workload,
    workload::{
        busy::{PodActivity, probe_pod},
        options::workload_options,
        step_down::{DELETION_COST, Removal, Replica, describe_busy, plan_step_down},
    },
};

/// How old the answers of the pods may be when a step down is written. A pod that does not answer takes half of it
/// ([`PROBE_TIMEOUT`](super::busy::PROBE_TIMEOUT)), so that the answers of the others are not too old by then.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How often the pods are asked for one step down.
const MAX_ROUNDS: usize = 3;

/// When to try again what pods with work have prevented.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Finds the pods that have no work, and has them removed first.
#[derive(Clone)]
pub(crate) struct IdlePods {
    cluster: ClusterApi,
    store: Arc<Store>,
    /// It was reported that deletion costs cannot be written.
    reported: Arc<AtomicBool>,
}

// === impl IdlePods ===

impl IdlePods {
    pub(crate) fn new(cluster: ClusterApi, store: Arc<Store>) -> Self {
        Self { cluster, store, reported: Arc::default() }
    }

    /// Asks the pods of a workload with a busy probe before it is scaled to zero.
    ///
    /// # Errors
    ///
    /// One has work, or does not say: a [`ScaleError::Busy`] that says which.
    pub(crate) async fn ensure_idle(&self, id: &ResourceId) -> Result<(), ScaleError> {
        let Some((workload, Some(probe))) = self.workload(id) else { return Ok(()) };
        let pods = ask_pods(self.list_pods(&workload).await?, Some(&probe), &[]).await;
        describe_busy(&pods).map_or(Ok(()), |reason| Err(busy_error(reason)))
    }

    /// The replicas to write for a step down to `wanted`: as many, or more where so many pods have work. `busy`: incarnations of
    /// pods at which requests are in flight. Where idle ones are to be removed and busy ones stay, the deletion costs of the pods
    /// are written first.
    ///
    /// # Errors
    ///
    /// All that could be removed have work, or it is not known which do: a [`ScaleError::Busy`] that says which.
    pub(crate) async fn step_down(
        &self,
        id: &ResourceId,
        version: &Version,
        wanted: NonZeroU32,
        busy: &[String],
    ) -> Result<NonZeroU32, ScaleError> {
        for _ in 0..MAX_ROUNDS {
            let Some((workload, probe)) = self.workload(id) else { return Ok(wanted) };
            let is_step_down = wanted.get() < workload.replicas && (probe.is_some() || !busy.is_empty());
            // Of another version: the write says what that means.
            if !is_step_down || workload.version() != *version {
                return Ok(wanted);
            }
            let pods = self.list_pods(&workload).await?;
            let asked_at = Instant::now();
            let pods = ask_pods(pods, probe.as_ref(), busy).await;
            let step = plan_step_down(&pods, removal(&workload), workload.replicas, wanted.get())
                .map_err(busy_error)?;
            let written = self.write_costs(&workload, &pods, &step.costs).await;
            if written && asked_at.elapsed() <= MAX_AGE {
                return Ok(wanted.max(NonZeroU32::new(step.replicas).unwrap_or(wanted)));
            }
        }
        let reason = "its pods changed while they were chosen".to_owned();
        Err(ScaleError::Retry { after: RETRY_DELAY, reason })
    }

    fn workload(&self, id: &ResourceId) -> Option<(Workload, Option<BusyProbe>)> {
        self.store.with(|state| {
            let workload = state.workload(id)?;
            let probe = workload_options(state, workload).scaling_options.busy_probe;
            Some((workload.clone(), probe))
        })
    }

    /// The pods as the API server has them now.
    async fn list_pods(&self, workload: &Workload) -> Result<Vec<Replica>, ScaleError> {
        let api = self.cluster.in_namespace::<Pod>(&workload.meta.namespace);
        let selected = cluster::select_labels(&workload.selector.query());
        let listed = self.cluster.call(api.list(&selected)).await;
        let listed = listed.map_err(|error| {
            let doing = format!("listing the pods of {} to ask whether they have work", workload.id());
            cluster::retry_error(&error, &doing)
        })?;
        Ok(listed.items.into_iter().filter_map(Replica::new).collect())
    }

    /// Writes deletion costs; `false` if a pod was changed meanwhile. Where they must not be written the controller chooses.
    async fn write_costs(
        &self,
        workload: &Workload,
        pods: &[Replica],
        costs: &[(String, Option<i32>)],
    ) -> bool {
        let api = self.cluster.in_namespace::<Pod>(&workload.meta.namespace);
        let writes = costs.iter().filter_map(|(name, cost)| {
            let pod = pods.iter().find(|pod| pod.name == *name)?;
            let cost = cost.map(|cost| cost.to_string());
            let patch = json!({
                "metadata": {"resourceVersion": pod.resource_version, "annotations": {DELETION_COST: cost}},
            });
            Some((pod, Patch::Merge(patch)))
        });
        let params = PatchParams::default();
        let writes = writes.map(|(pod, patch)| {
            let api = &api;
            let params = &params;
            async move { self.cluster.call(api.patch(&pod.name, params, &patch)).await }
        });
        let results = join_all(writes).await;
        let mut unchanged = true;
        for error in results.into_iter().filter_map(Result::err) {
            if cluster::is_conflict(&error) || cluster::is_missing(&error) || cluster::is_transient(&error) {
                unchanged = false;
            } else if !self.reported.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    resource = %workload.id(),
                    error = cluster::describe_error(&error),
                    "failed to write the deletion costs of pods: the controller chooses which pods a step down removes, busy ones \
                     too; set autoscaler.podDeletionCost in the chart's values"
                );
            }
        }
        unchanged
    }
}

/// The pods with what they answer, all asked at once. One that does not answer is busy.
async fn ask_pods(pods: Vec<Replica>, probe: Option<&BusyProbe>, busy: &[String]) -> Vec<Replica> {
    let asked = pods.into_iter().map(|mut pod| async {
        // An incarnation is the pod's uid, with a number behind it where its container was started anew.
        let serves = busy.iter().any(|at| at.split('.').next() == Some(&pod.uid));
        pod.activity = match (probe, &pod.ip) {
            _ if serves => PodActivity::Busy("requests are in flight".to_owned()),
            (Some(probe), Some(ip)) if pod.runs => probe_pod(ip, probe).await,
            (Some(_), None) if pod.runs => PodActivity::Busy("it has no address to ask".to_owned()),
            _ => PodActivity::Idle,
        };
        pod
    });
    join_all(asked).await
}

/// How its controller chooses.
fn removal(workload: &Workload) -> Removal {
    match (workload.kind.api.group.as_str(), workload.kind.api.kind.as_str()) {
        ("apps", "Deployment") => Removal::Cheapest,
        ("apps", "StatefulSet") => Removal::Last(workload.first_ordinal),
        _ => Removal::Any,
    }
}

fn busy_error(reason: String) -> ScaleError {
    ScaleError::Busy { after: RETRY_DELAY, reason }
}
