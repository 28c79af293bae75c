//! Writing records and scales, and waiting until a wake has come up.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use scaler_types::{Record, ResourceId, Role, ScaleError, ScaleRequest, Target, Version};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    cluster::{self, ClusterApi},
    index::{ObjectChange, ObjectType, StateOrigin, Store},
    objects::{PodObject, Workload},
    workload::{
        idle_pods::IdlePods,
        patch,
        pod_health::{Baseline, PodHealth, assess_pods},
    },
};

/// How often a write is built again because the object's status changed or another writer was faster, while what it was
/// decided on still holds.
const MAX_ATTEMPTS: usize = 5;

/// How long a wake waits for the streams to show that the sleep before it is through. Then it asks: a stream may stall.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes records and scales.
#[derive(Clone)]
pub(crate) struct ScaleWriter {
    cluster: ClusterApi,
    store: Arc<Store>,
    idle_pods: IdlePods,
    /// Workloads whose last write may or may not have taken effect.
    unconfirmed: Arc<Mutex<BTreeSet<ResourceId>>>,
}

// === impl ScaleWriter ===

impl ScaleWriter {
    /// Nothing is written yet.
    pub(crate) fn new(cluster: ClusterApi, store: Arc<Store>) -> Self {
        let idle_pods = IdlePods::new(cluster.clone(), Arc::clone(&store));
        Self { cluster, store, idle_pods, unconfirmed: Arc::default() }
    }

    /// Scales a workload as asked.
    ///
    /// A step down may be smaller than requested, where pods have work.
    ///
    /// To zero it returns when the API server has taken it: the cluster's controllers stop the pods from there on, and
    /// what is being stopped is listed nowhere. (A drain attempt holds one of the autoscaler's few places; a pod may
    /// take minutes to end.) The next wake waits for the pods to be terminating.
    ///
    /// From zero it returns when a pod is ready, when the record was moved on (a DLX reached an endpoint), or when it
    /// cannot come up.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    pub(crate) async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        let ScaleRequest { id, target, version, record, deadline, busy, .. } = request;
        match target {
            Target::Zero => {
                self.ensure_idle(id).await?;
                self.write_record(id, version, record, Some(*target)).await.map(drop)
            }
            Target::Exactly(count) => {
                let count = self.idle_pods.step_down(id, version, *count, busy).await?;
                self.write_record(id, version, record, Some(Target::Exactly(count))).await.map(drop)
            }
            Target::AtLeast(_) => {
                // So that the caller gets a reason instead of its own patience's end.
                let until =
                    Instant::now() + deadline.saturating_sub((*deadline / 10).min(Duration::from_secs(2)));
                self.wait_until_emptied(request, until).await?;
                let before =
                    self.store.with(|state| Baseline::new(state.workload(id), state.pods.pods_of(id)));
                self.write_record(id, version, record, Some(*target)).await?;
                if self.store.with(|state| state.config.role) == Role::Autoscaler {
                    // It watches no pods.
                    return Ok(());
                }
                self.wait_until_up(request, before, until).await
            }
        }
    }

    /// Asks the pods of a workload with a busy probe before it is scaled to zero.
    ///
    /// # Errors
    ///
    /// One has work, or does not say: a [`ScaleError::Busy`].
    pub(crate) async fn ensure_idle(&self, id: &ResourceId) -> Result<(), ScaleError> {
        self.idle_pods.ensure_idle(id).await
    }

    /// Writes a record, with a scale if there is a target, if the version still stands; gives what the workload is then.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    pub(crate) async fn write_record(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
        target: Option<Target>,
    ) -> Result<Workload, ScaleError> {
        let writing = || format!("writing the state of {id}");
        if self.is_unconfirmed(id) {
            self.read_workload(id)
                .await
                .map_err(|error| cluster::retry_error(&error, &format!("reading {id}")))?;
        }
        let mut workload = self.find_workload(id)?;
        for _ in 0..MAX_ATTEMPTS {
            if workload.version() != *expected {
                // An earlier try of this very call went through, unnoticed. (One that was brought back is of
                // another generation. A resize while it is waking has the record that was there before.)
                let resized = |count: NonZeroU32| workload.replicas == count.get();
                let written = workload.stored.record == *record
                    && workload.stored.matches_generation(workload.generation)
                    && !matches!(target, Some(Target::Exactly(count)) if !resized(count));
                return if written { Ok(workload) } else { Err(ScaleError::Conflict) };
            }
            let api = self.cluster.workload_api(&workload);
            if target.is_none()
                && workload.needs_repair()
                && !workload.stale
                && workload.stored.record == *record
            {
                return self.restore_owners(&api, workload).await;
            }
            // While its metrics decide it gets what it needs, whatever it had before its sleep.
            let remembers = self.store.with(|state| !state.is_scaled(id));
            let replicas = patch::replicas(&workload, target, remembers);
            let write = patch::build_patch(&workload, record, replicas, Timestamp::now());
            let operations = serde_json::from_value(write.operations).map_err(anyhow::Error::from)?;
            let patch = Patch::Json::<()>(operations);
            let params = PatchParams::default();
            let error = match self.cluster.call(api.patch(&workload.meta.name, &params, &patch)).await {
                Ok(mut object) => {
                    let new = Workload::new(&workload.kind, object.clone());
                    if write.generation != new.generation {
                        // Something in between changes what is written (an admission webhook): what was kept is not
                        // trusted later, which is the safe side.
                        tracing::debug!(resource = %id, expected = write.generation, is = new.generation, "a write gave another generation than expected");
                    }
                    self.observe_workload(new.clone());
                    if !new.owners.scaler {
                        return Ok(new);
                    }
                    let field = &workload.kind.replicas_path;
                    object = workload.owners.restore(&self.cluster, &api, object, field).await;
                    self.observe_workload(Workload::new(&workload.kind, object));
                    return Ok(new);
                }
                Err(error) => error,
            };
            if cluster::is_missing(&error) {
                self.forget_workload(&workload);
                return Err(missing(id));
            } else if cluster::is_invalid(&error) || cluster::is_conflict(&error) {
                // Either it is another by now, or the write is not valid: only a read shows which.
                let now = match self.read_workload(id).await {
                    Ok(Some(now)) => now,
                    Ok(None) => return Err(missing(id)),
                    Err(error) => return Err(cluster::retry_error(&error, &format!("reading {id}"))),
                };
                let stands = now.version() == *expected;
                if stands && cluster::is_invalid(&error) && !write.strict {
                    return Err(cluster::terminal_error(&error, &writing()));
                }
                workload = now;
            } else if cluster::may_have_applied(&error) {
                self.mark_unconfirmed(id);
                return Err(cluster::retry_error(&error, &writing()));
            } else if cluster::is_transient(&error) {
                return Err(cluster::retry_error(&error, &writing()));
            } else {
                return Err(cluster::terminal_error(&error, &writing()));
            }
        }
        let reason = format!("{}: too many concurrent writes by others", writing());
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }

    /// Gives the replicas back to their owners; nothing else of it changes.
    async fn restore_owners(
        &self,
        api: &Api<DynamicObject>,
        workload: Workload,
    ) -> Result<Workload, ScaleError> {
        let (id, field) = (workload.id(), &workload.kind.replicas_path);
        let doing = format!("restoring the field managers of the replicas of {id}");
        let read = self.cluster.call(api.get(&workload.meta.name)).await;
        let read = read.map_err(|error| cluster::write_error(&error, &doing, false))?;
        if read.metadata.uid.as_ref() != Some(&workload.meta.uid) {
            return Err(ScaleError::Conflict);
        }
        let now = workload.owners.restore(&self.cluster, api, read, field).await;
        let now = Workload::new(&workload.kind, now);
        self.observe_workload(now.clone());
        now.owners.ensure_restored(&format!("the replicas of {id}"))?;
        Ok(now)
    }

    /// Reads workloads with unconfirmed writes. One that cannot be read stays so; every write reads it first.
    pub(crate) async fn confirm_writes(&self) {
        let unconfirmed: Vec<_> = self.unconfirmed().iter().cloned().collect();
        let mut reads = JoinSet::new();
        for id in unconfirmed {
            let scales = self.clone();
            reads.spawn(async move {
                if let Err(error) = scales.read_workload(&id).await {
                    tracing::debug!(resource = %id, error = cluster::describe_error(&error), "failed to read whether the last write took effect");
                }
            });
        }
        reads.join_all().await;
    }

    /// Reads a workload from the API server and takes that over.
    async fn read_workload(&self, id: &ResourceId) -> Result<Option<Workload>, kube::Error> {
        let Ok(known) = self.find_workload(id) else {
            self.unconfirmed().remove(id);
            return Ok(None);
        };
        match self.cluster.call(self.cluster.workload_api(&known).get(&known.meta.name)).await {
            Ok(object) => {
                let now = Workload::new(&known.kind, object);
                self.observe_workload(now.clone());
                self.unconfirmed().remove(id);
                // With what was known of it before.
                Ok(Some(
                    self.find_workload(id)
                        .ok()
                        .filter(|seen| seen.meta.revision >= now.meta.revision)
                        .unwrap_or(now),
                ))
            }
            Err(error) if cluster::is_missing(&error) => {
                self.forget_workload(&known);
                self.unconfirmed().remove(id);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A workload's current state, read from the API server.
    ///
    /// # Errors
    ///
    /// It is gone, or cannot be read.
    pub(crate) async fn fetch_workload(&self, id: &ResourceId) -> Result<Workload, ScaleError> {
        let read = self
            .read_workload(id)
            .await
            .map_err(|error| cluster::retry_error(&error, &format!("reading {id}")))?;
        read.ok_or_else(|| missing(id))
    }

    /// Waits until nothing from before the sleep is alive: a wake that is written earlier may be answered by a pod that
    /// is about to be ended.
    async fn wait_until_emptied(&self, request: &ScaleRequest, until: Instant) -> Result<(), ScaleError> {
        let id = &request.id;
        let mut changed = self.store.watch_resource(id);
        loop {
            changed.borrow_and_update();
            let (workload, alive) = self.store.with(|state| {
                (state.workload(id).cloned(), state.pods.pods_of(id).filter(|pod| pod.alive()).count())
            });
            let workload = workload.ok_or_else(|| missing(id))?;
            if workload.version() != request.version {
                // The write says what that means.
                return Ok(());
            }
            // Other kinds may count as they like.
            let counted = workload.kind.api.group != "apps" || workload.is_emptied();
            if workload.replicas > 0 || alive == 0 && counted {
                return Ok(());
            }
            let limit = until.min(Instant::now() + STREAM_TIMEOUT);
            if timeout_at(limit, changed.changed()).await.is_ok() {
                continue;
            }
            if Instant::now() >= until {
                let reason = match alive {
                    0 => {
                        format!(
                            "the controller of {} has not observed that it was scaled to zero",
                            workload.kind.full_name()
                        )
                    }
                    pods => format!("{pods} pods from before it was last scaled to zero are still running"),
                };
                return Err(ScaleError::Retry { after: Duration::from_secs(1), reason });
            }
            let written = async {
                self.read_workload(id).await?;
                self.list_pods(&workload).await
            };
            if let Err(error) = written.await {
                tracing::warn!(resource = %id, error = cluster::describe_error(&error), "failed to check whether it is scaled down");
            }
        }
    }

    /// Waits until it is up, or cannot come up.
    async fn wait_until_up(
        &self,
        request: &ScaleRequest,
        mut before: Baseline,
        until: Instant,
    ) -> Result<(), ScaleError> {
        let id = &request.id;
        let mut changed = self.store.watch_resource(id);
        loop {
            changed.borrow_and_update();
            let looks = self.store.with(|state| {
                let workload = state.workload(id)?;
                if workload.stored.record != request.record {
                    // A DLX has found it up, or another writer has taken over.
                    return Some(Ok(PodHealth::Ready));
                }
                if workload.replicas == 0 {
                    return Some(Err(ScaleError::Conflict));
                }
                let pods = state.pods.pods_of(id).filter(|pod| !state.pods.is_suspected(id, pod));
                before.update(workload, pods.clone());
                Some(Ok(assess_pods(workload, pods, &before)))
            });
            let waits = match looks {
                None => return Err(missing(id)),
                Some(Err(error)) => return Err(error),
                Some(Ok(PodHealth::Ready)) => return Ok(()),
                Some(Ok(PodHealth::Failed(reason))) => return Err(ScaleError::Terminal { reason }),
                Some(Ok(PodHealth::Pending(what))) => what,
            };
            if timeout_at(until, changed.changed()).await.is_err() {
                return Err(ScaleError::Retry { after: Duration::from_secs(1), reason: waits });
            }
        }
    }

    /// Reads a workload's pods, and takes that over.
    async fn list_pods(&self, workload: &Workload) -> Result<(), kube::Error> {
        let api: kube::Api<core::Pod> =
            kube::Api::namespaced(self.cluster.client.clone(), &workload.meta.namespace);
        let pods = self.cluster.call(api.list(&cluster::select_labels(&workload.selector.query()))).await?;
        let revision = pods.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
        let pods: Vec<PodObject> = pods.items.into_iter().map(PodObject::from).collect();
        self.store.with(|state| {
            let known: Vec<_> = state.pods.pods_of(&workload.id()).map(|pod| pod.meta.clone()).collect();
            for meta in known {
                let there = pods.iter().any(|pod| pod.meta.uid == meta.uid);
                if !there && revision.is_some_and(|revision: u64| revision >= meta.revision) {
                    state.remove(ObjectType::Pods, &meta.key(), &meta.uid);
                }
            }
            for pod in pods {
                state.apply(ObjectChange::Pod(Box::new(pod)), StateOrigin::Own);
            }
        });
        Ok(())
    }

    /// A workload as it is known. Where its Services are intercepted, the last commit left its nonce on them: a record that has it is
    /// that commit's own, whatever was deployed since, and not one that was brought back.
    fn find_workload(&self, id: &ResourceId) -> Result<Workload, ScaleError> {
        let known = self.store.with(|state| {
            let mut workload = state.workload(id)?.clone();
            if !workload.believed && workload.replicas == 0 {
                let nonce = Some(workload.stored.record.nonce);
                workload.believed =
                    state.services_of(&workload).iter().any(|service| service.committed == nonce);
            }
            Some(workload)
        });
        known.ok_or_else(|| missing(id))
    }

    pub(crate) fn observe_workload(&self, workload: Workload) {
        self.store.with(|state| state.apply(ObjectChange::Workload(Box::new(workload)), StateOrigin::Own));
    }

    fn forget_workload(&self, workload: &Workload) {
        let topic = ObjectType::Workloads(workload.kind.index);
        self.store.with(|state| state.remove(topic, &workload.meta.key(), &workload.meta.uid));
    }

    fn mark_unconfirmed(&self, id: &ResourceId) {
        self.unconfirmed().insert(id.clone());
    }

    fn is_unconfirmed(&self, id: &ResourceId) -> bool {
        self.unconfirmed().contains(id)
    }

    fn unconfirmed(&self) -> std::sync::MutexGuard<'_, BTreeSet<ResourceId>> {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(id: &ResourceId) -> ScaleError {
    ScaleError::Terminal { reason: format!("{id} does not exist") }
}
