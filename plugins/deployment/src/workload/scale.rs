//! Writing records and scales, and waiting until a wake has come up.

use std::{
    collections::BTreeSet,
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
    cluster::{self, Cluster},
    index::{Change, Store, Teller, Topic},
    objects::{Pod, Workload},
    workload::{
        patch,
        pod_health::{Baseline, Outlook, outlook},
    },
};

/// How often a write is built anew because the object's status changed under it, or another writer was at it, while
/// what it was decided on still stands.
const TRIES: usize = 5;

/// How long a wake waits for the streams to show that the sleep before it is through. Then it asks: a stream may stall.
const TRUST: Duration = Duration::from_secs(2);

/// Writes records and scales.
#[derive(Clone)]
pub struct Scales {
    cluster: Cluster,
    store: Arc<Store>,
    /// Workloads of which it is not known what the last write did.
    doubted: Arc<Mutex<BTreeSet<ResourceId>>>,
}

// === impl Scales ===

impl Scales {
    /// Nothing is written yet.
    pub fn new(cluster: Cluster, store: Arc<Store>) -> Self {
        Self { cluster, store, doubted: Arc::default() }
    }

    /// Scales a workload as asked.
    ///
    /// To zero it returns when the API server has taken it: the cluster's controllers stop the pods from there on, and
    /// what is being stopped is listed nowhere. (A try to sleep holds one of the autoscaler's few places; a pod may
    /// take minutes to end.) It is the next wake that waits, for the pods to be told so.
    ///
    /// From zero it returns when a pod is ready, when the record was moved on (a DLX reached an endpoint), or when it
    /// cannot come up.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    pub async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        let ScaleRequest { id, target, version, record, deadline, .. } = request;
        match target {
            Target::Zero | Target::Exactly(_) => {
                self.write(id, version, record, Some(*target)).await.map(drop)
            }
            Target::AtLeast(_) => {
                // So that the caller gets a reason instead of its own patience's end.
                let until =
                    Instant::now() + deadline.saturating_sub((*deadline / 10).min(Duration::from_secs(2)));
                self.emptied(request, until).await?;
                let before = self.store.with(|state| Baseline::new(state.workload(id), state.pods.of(id)));
                self.write(id, version, record, Some(*target)).await?;
                if self.store.with(|state| state.config.role) == Role::Autoscaler {
                    // It watches no pods.
                    return Ok(());
                }
                self.up(request, before, until).await
            }
        }
    }

    /// Writes a record, with a scale if there is a target, if the version still stands; gives what the workload is then.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    pub async fn write(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
        target: Option<Target>,
    ) -> Result<Workload, ScaleError> {
        let writing = || format!("writing the record of {id}");
        if self.is_doubted(id) {
            self.read(id).await.map_err(|error| cluster::retry(&error, &format!("reading {id}")))?;
        }
        let mut workload = self.find(id)?;
        for _ in 0..TRIES {
            if workload.version() != *expected {
                // An earlier try of this very call went through, and nobody knew. (One that somebody brought back is of
                // another generation.)
                let written = workload.kept.record == *record && workload.kept.fits(workload.generation);
                return if written { Ok(workload) } else { Err(ScaleError::Conflict) };
            }
            let api = self.cluster.of(&workload);
            if target.is_none()
                && workload.needs_repair()
                && !workload.stale
                && workload.kept.record == *record
            {
                return self.give_back(&api, workload).await;
            }
            let write = patch::write(&workload, record, target, &Timestamp::now().to_string());
            let operations = serde_json::from_value(write.operations).map_err(anyhow::Error::from)?;
            let patch = Patch::Json::<()>(operations);
            let params = PatchParams::default();
            let error = match self.cluster.call(api.patch(&workload.meta.name, &params, &patch)).await {
                Ok(mut object) => {
                    let new = Workload::new(&workload.kind, object.clone());
                    if write.generation != new.generation {
                        // Something in between changes what is written (an admission webhook): what was kept is not
                        // believed later, which is the safe side.
                        tracing::debug!(resource = %id, expected = write.generation, is = new.generation, "another generation than was to be expected");
                    }
                    self.fold(new.clone());
                    if !new.owners.scaler {
                        return Ok(new);
                    }
                    let field = &workload.kind.replicas_path;
                    object = workload.owners.restore(&self.cluster, &api, object, field).await;
                    self.fold(Workload::new(&workload.kind, object));
                    return Ok(new);
                }
                Err(error) => error,
            };
            if cluster::is_missing(&error) {
                self.is_gone(&workload);
                return Err(gone(id));
            } else if cluster::is_invalid(&error) || cluster::is_conflict(&error) {
                // Either it is another by now, or what was to be written is not valid: only a look tells.
                let now = match self.read(id).await {
                    Ok(Some(now)) => now,
                    Ok(None) => return Err(gone(id)),
                    Err(error) => return Err(cluster::retry(&error, &format!("reading {id}"))),
                };
                let stands = now.version() == *expected;
                if stands && cluster::is_invalid(&error) && !write.strict {
                    return Err(cluster::refused(&error, &writing()));
                }
                workload = now;
            } else if cluster::is_unknown(&error) {
                self.doubt(id);
                return Err(cluster::retry(&error, &writing()));
            } else if cluster::may_pass(&error) {
                return Err(cluster::retry(&error, &writing()));
            } else {
                return Err(cluster::refused(&error, &writing()));
            }
        }
        let reason = format!("{}: others write to it all the time", writing());
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
    }

    /// Gives the replicas back to their owners; nothing else of it changes.
    async fn give_back(&self, api: &Api<DynamicObject>, workload: Workload) -> Result<Workload, ScaleError> {
        let (id, field) = (workload.id(), &workload.kind.replicas_path);
        let doing = format!("giving the replicas of {id} back to their owners");
        let read = self.cluster.call(api.get(&workload.meta.name)).await;
        let read = read.map_err(|error| cluster::unwritten(&error, &doing, false))?;
        if read.metadata.uid.as_ref() != Some(&workload.meta.uid) {
            return Err(ScaleError::Conflict);
        }
        let now = workload.owners.restore(&self.cluster, api, read, field).await;
        let now = Workload::new(&workload.kind, now);
        self.fold(now.clone());
        now.owners.are_restored(&format!("the replicas of {id}"))?;
        Ok(now)
    }

    /// Reads again what is in doubt. What cannot be read stays so; every write looks at it first.
    pub async fn resolve_doubts(&self) {
        let doubted: Vec<_> = self.doubted().iter().cloned().collect();
        let mut reads = JoinSet::new();
        for id in doubted {
            let scales = self.clone();
            reads.spawn(async move {
                if let Err(error) = scales.read(&id).await {
                    tracing::debug!(resource = %id, error = cluster::told(&error), "what its last write did is still not known");
                }
            });
        }
        reads.join_all().await;
    }

    /// Reads a workload from the API server and takes that over.
    async fn read(&self, id: &ResourceId) -> Result<Option<Workload>, kube::Error> {
        let Ok(known) = self.find(id) else {
            self.doubted().remove(id);
            return Ok(None);
        };
        match self.cluster.call(self.cluster.of(&known).get(&known.meta.name)).await {
            Ok(object) => {
                let now = Workload::new(&known.kind, object);
                self.fold(now.clone());
                self.doubted().remove(id);
                // With what was known of it before.
                Ok(Some(
                    self.find(id).ok().filter(|seen| seen.meta.revision >= now.meta.revision).unwrap_or(now),
                ))
            }
            Err(error) if cluster::is_missing(&error) => {
                self.is_gone(&known);
                self.doubted().remove(id);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What a workload is now, by the API server.
    ///
    /// # Errors
    ///
    /// It is gone, or cannot be read.
    pub async fn read_anew(&self, id: &ResourceId) -> Result<Workload, ScaleError> {
        let read = self.read(id).await.map_err(|error| cluster::retry(&error, &format!("reading {id}")))?;
        read.ok_or_else(|| gone(id))
    }

    /// A workload was written elsewhere.
    pub fn saw(&self, workload: Workload) {
        self.fold(workload);
    }

    /// Waits until nothing from before the sleep is alive: a wake that is written earlier may be answered by a pod that
    /// is about to be ended.
    async fn emptied(&self, request: &ScaleRequest, until: Instant) -> Result<(), ScaleError> {
        let id = &request.id;
        let mut changed = self.store.follow(id);
        loop {
            changed.borrow_and_update();
            let (workload, alive) = self.store.with(|state| {
                (state.workload(id).cloned(), state.pods.of(id).filter(|pod| pod.alive()).count())
            });
            let workload = workload.ok_or_else(|| gone(id))?;
            if workload.version() != request.version {
                // The write says what that means.
                return Ok(());
            }
            // Other kinds may count as they like.
            let counted = workload.kind.api.group != "apps" || workload.is_emptied();
            if workload.replicas > 0 || alive == 0 && counted {
                return Ok(());
            }
            let limit = until.min(Instant::now() + TRUST);
            if timeout_at(limit, changed.changed()).await.is_ok() {
                continue;
            }
            if Instant::now() >= until {
                let reason = match alive {
                    0 => {
                        format!("the controller of {} has not seen its last sleep", workload.kind.full_name())
                    }
                    pods => format!("{pods} of its pods from before its last sleep still run"),
                };
                return Err(ScaleError::Retry { after: Duration::from_secs(1), reason });
            }
            let asked = async {
                self.read(id).await?;
                self.list_pods(&workload).await
            };
            if let Err(error) = asked.await {
                tracing::warn!(resource = %id, error = cluster::told(&error), "cannot ask whether its last sleep is through");
            }
        }
    }

    /// Waits until it is up, or cannot come up.
    async fn up(
        &self,
        request: &ScaleRequest,
        mut before: Baseline,
        until: Instant,
    ) -> Result<(), ScaleError> {
        let id = &request.id;
        let mut changed = self.store.follow(id);
        loop {
            changed.borrow_and_update();
            let looks = self.store.with(|state| {
                let workload = state.workload(id)?;
                if workload.kept.record != request.record {
                    // A DLX has found it up, or somebody else has taken over.
                    return Some(Ok(Outlook::Ready));
                }
                if workload.replicas == 0 {
                    return Some(Err(ScaleError::Conflict));
                }
                let pods = state.pods.of(id).filter(|pod| !state.pods.is_suspected(id, pod));
                before.follow(workload, pods.clone());
                Some(Ok(outlook(workload, pods, &before)))
            });
            let waits = match looks {
                None => return Err(gone(id)),
                Some(Err(error)) => return Err(error),
                Some(Ok(Outlook::Ready)) => return Ok(()),
                Some(Ok(Outlook::Never(reason))) => return Err(ScaleError::Terminal { reason }),
                Some(Ok(Outlook::Coming(what))) => what,
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
        let pods = self.cluster.call(api.list(&cluster::labelled(&workload.selector.query()))).await?;
        let revision = pods.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
        let pods: Vec<Pod> = pods.items.into_iter().map(Pod::from).collect();
        self.store.with(|state| {
            let known: Vec<_> = state.pods.of(&workload.id()).map(|pod| pod.meta.clone()).collect();
            for meta in known {
                let there = pods.iter().any(|pod| pod.meta.uid == meta.uid);
                if !there && revision.is_some_and(|revision: u64| revision >= meta.revision) {
                    state.remove(Topic::Pods, &meta.key(), &meta.uid);
                }
            }
            for pod in pods {
                state.apply(Change::Pod(Box::new(pod)), Teller::Own);
            }
        });
        Ok(())
    }

    /// A workload as it is known. Where its Services are led, the last commit left its nonce on them: a record that has it is that
    /// commit's own, whatever was deployed since, and not one that somebody brought back.
    fn find(&self, id: &ResourceId) -> Result<Workload, ScaleError> {
        let known = self.store.with(|state| {
            let mut workload = state.workload(id)?.clone();
            if !workload.believed && workload.replicas == 0 {
                let nonce = Some(workload.kept.record.nonce);
                workload.believed =
                    state.services_of(&workload).iter().any(|service| service.committed == nonce);
            }
            Some(workload)
        });
        known.ok_or_else(|| gone(id))
    }

    fn fold(&self, workload: Workload) {
        self.store.with(|state| state.apply(Change::Workload(Box::new(workload)), Teller::Own));
    }

    fn is_gone(&self, workload: &Workload) {
        let topic = Topic::Workloads(workload.kind.index);
        self.store.with(|state| state.remove(topic, &workload.meta.key(), &workload.meta.uid));
    }

    fn doubt(&self, id: &ResourceId) {
        self.doubted().insert(id.clone());
    }

    fn is_doubted(&self, id: &ResourceId) -> bool {
        self.doubted().contains(id)
    }

    fn doubted(&self) -> std::sync::MutexGuard<'_, BTreeSet<ResourceId>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(id: &ResourceId) -> ScaleError {
    ScaleError::Terminal { reason: format!("{id} does not exist any more") }
}
