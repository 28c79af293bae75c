//! A plugin in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use plugin_host::{CallError, CallFuture, Listed, RunningPlugin, UnreadableResource};
use scaler_types::{
    Backend, Changes, Interception, InterceptionRequest, Nonce, Phase, Record, Resource, ResourceEvent,
    ResourceId, RestoreRequest, Rollout, RolloutPhase, ScaleError, ScaleEvent, ScaleRequest, Target, Version,
};
use tokio::{sync::watch, time::Instant};

use super::{KIND, LONG, id};
use crate::interception::is_up;

/// A hook that is called when a record was written; it may write itself.
type Hook = Box<dyn FnMut(&Store, &Record) + Send>;

/// A plugin in memory. Clones share it.
#[derive(Clone)]
pub(crate) struct Store(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    hook: Mutex<Option<Hook>>,
    writes: watch::Sender<u64>,
}

/// What the store holds and how it behaves.
#[derive(Default)]
pub(crate) struct Inner {
    /// Everything there is.
    pub(crate) resources: BTreeMap<ResourceId, Resource>,
    /// Calls of `set_scale` and `compare_and_set`, by name.
    pub(crate) calls: Vec<&'static str>,
    /// What `compare_and_set` answers instead of writing.
    pub(crate) refuse_records: Option<ScaleError>,
    /// How long a workload takes to start, once its wake is written.
    pub(crate) start_takes: Duration,
    /// Resources that never start.
    pub(crate) never_up: BTreeSet<ResourceId>,
    /// The resources that were woken, in this order, by name.
    pub(crate) woken: Vec<String>,
    /// Workloads that are starting, and the most there were at once.
    pub(crate) starting: (usize, usize),
    /// What `set_scale` answers instead of scaling.
    pub(crate) refuse_scale: Option<ScaleError>,
    /// What is started ends at once, with this reason.
    pub(crate) ends_at_once: Option<&'static str>,
    /// How many replicas have work: no step down removes them.
    pub(crate) working: u32,
    /// The busy replicas that the last `set_scale` named.
    pub(crate) busy: Vec<String>,
    /// The events that were published, with their resources.
    pub(crate) reports: Vec<(ResourceId, ResourceEvent)>,
    /// What is listed and cannot be read.
    pub(crate) unreadable: Vec<UnreadableResource>,
    /// `get_resources` never answers.
    pub(crate) hang: bool,
    /// `changes` fails.
    pub(crate) blind: bool,
    /// All calls of `set_backend`.
    pub(crate) set_backend_calls: Vec<SetBackendCall>,
    /// The DLXs of each call of `sync_dlxs`, by name.
    pub(crate) synced_dlxs: Vec<Vec<String>>,
    /// Resources that were restored.
    pub(crate) restored: Vec<ResourceId>,
    /// Those of them that were not up when that began.
    pub(crate) restored_starting: Vec<ResourceId>,
    /// How long `restore` takes.
    pub(crate) restore_takes: Duration,
    /// What the next calls of `set_backend` answer instead of writing, first come first served.
    pub(crate) refuse_set_backend: VecDeque<ScaleError>,
    /// The same for `sync_dlxs`.
    pub(crate) refuse_sync_dlxs: VecDeque<String>,
    /// What `restore` answers instead of restoring, by resource.
    pub(crate) refuse_restore: BTreeMap<ResourceId, ScaleError>,
    /// `set_backend` never answers.
    pub(crate) stuck_set_backend: bool,
    /// `set_backend` succeeds and changes nothing.
    pub(crate) forgetful: bool,
    /// Calls of `set_backend` that are under way, and the most there were.
    pub(crate) writing: (usize, usize),
    /// When each resource was changed last, in the order of `changes`.
    log: BTreeMap<ResourceId, u64>,
    version: u64,
}

/// One call of `set_backend`.
#[derive(Clone, Debug)]
pub(crate) struct SetBackendCall {
    /// The name of its resource.
    pub(crate) name: String,
    /// The backend.
    pub(crate) to: Backend,
    /// The DLXs that were named.
    pub(crate) dlxs: Vec<String>,
    /// When.
    pub(crate) at: Instant,
}

/// An asleep resource, since that second; it is up when its rollout is complete.
pub(crate) fn sleeper(name: &str, slept: usize) -> Resource {
    let mut resource = Resource::new(id(name));
    resource.record = Record { phase: Phase::Asleep, nonce: Nonce::fresh(), ..Record::default() };
    resource.last_scale_event = Some(ScaleEvent::ScaleToZeroCompleted);
    resource.last_scale_event_time = Some(format!("2026-01-01T00:00:{slept:02}Z"));
    resource.rollout = Some(Rollout {
        revision: String::new(),
        phase: RolloutPhase::Progressing,
        status: String::new(),
        deadline: Some(LONG),
    });
    resource
}

// === impl Store ===

impl Store {
    /// A store with these names in namespace `demo`, each awake with one replica.
    pub(crate) fn with<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let store = Self(Arc::new(Shared {
            inner: Mutex::default(),
            hook: Mutex::new(None),
            writes: watch::Sender::new(0),
        }));
        for name in names {
            let mut resource = Resource::new(id(name));
            resource.replicas = 1;
            store.put(resource);
        }
        store
    }

    /// Puts a resource as it is, with a new version.
    pub(crate) fn put(&self, mut resource: Resource) {
        {
            let mut inner = self.inner();
            resource.version = inner.next();
            inner.log(&resource.id);
            inner.resources.insert(resource.id.clone(), resource);
        }
        self.0.writes.send_modify(|writes| *writes += 1);
    }

    /// Changes the resource of this name as another writer would, without another version where `record` stays.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Resource)) {
        {
            let mut inner = self.inner();
            inner.log(&id(name));
            change(inner.resources.get_mut(&id(name)).unwrap());
        }
        self.0.writes.send_modify(|writes| *writes += 1);
    }

    /// The resource of this name is gone.
    pub(crate) fn remove(&self, name: &str) {
        {
            let mut inner = self.inner();
            inner.log(&id(name));
            inner.resources.remove(&id(name));
        }
        self.0.writes.send_modify(|writes| *writes += 1);
    }

    /// Changes the interception of the resource of this name, or adds one.
    pub(crate) fn change_interception(&self, name: &str, change: impl FnOnce(&mut Interception)) {
        self.change(name, |resource| change(resource.interception.get_or_insert_default()));
    }

    /// Changes how it behaves.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.0.writes.send_modify(|writes| *writes += 1);
    }

    /// Calls this after every record that is written, until it is replaced.
    pub(crate) fn on_write(&self, hook: impl FnMut(&Store, &Record) + Send + 'static) {
        *self.0.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Writes a record on the only resource called `name`, as another writer.
    pub(crate) fn write(&self, name: &str, state: Phase) {
        let mut resource = self.get(name);
        resource.record = Record { phase: state, nonce: Nonce::fresh(), ..Record::default() };
        self.put(resource);
    }

    /// What it holds and how it behaves.
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap()
    }

    /// The resource of this name.
    pub(crate) fn get(&self, name: &str) -> Resource {
        self.inner().resources[&id(name)].clone()
    }

    /// Waits until what it holds fulfils the condition.
    pub(crate) async fn until(&self, fulfilled: impl FnMut(&Inner) -> bool) {
        self.wait(Duration::from_secs(60), fulfilled).await;
    }

    async fn wait(&self, limit: Duration, mut fulfilled: impl FnMut(&Inner) -> bool) {
        let mut writes = self.0.writes.subscribe();
        let wait = async {
            while !fulfilled(&self.inner()) {
                writes.changed().await.unwrap()
            }
        };
        tokio::time::timeout(limit, wait).await.expect("the store never came to that");
    }

    /// The same where the clock moves by itself: whatever it takes.
    pub(crate) async fn comes_to(&self, fulfilled: impl FnMut(&Inner) -> bool) {
        self.wait(LONG, fulfilled).await;
    }

    /// It takes requests.
    fn started(&self, id: &ResourceId) {
        self.set(|inner| {
            inner.starting.0 -= 1;
            inner.log(id);
            let resource = inner.resources.get_mut(id);
            let rollout = resource.and_then(|resource| resource.rollout.as_mut());
            if let Some(rollout) = rollout {
                rollout.phase = RolloutPhase::Complete;
            }
        });
    }

    fn wrote(&self, record: &Record) {
        // Taken out while it runs: it may write itself.
        let hook = self.0.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(self, record);
            self.0.hook.lock().unwrap().get_or_insert(hook);
        }
        self.0.writes.send_modify(|writes| *writes += 1);
    }
}

// === impl Inner ===

impl Inner {
    /// A step down would have to remove replicas that have work. Each time they are others.
    fn why_busy(&self, request: &ScaleRequest) -> Option<ScaleError> {
        let replicas = self.resources.get(&request.id)?.replicas;
        let lowers = matches!(request.target, Target::Exactly(to) if to.get() < replicas);
        let reason = format!("{replicas} of its {replicas} pods may have work (call {})", self.calls.len());
        let after = Duration::from_secs(5);
        (lowers && replicas <= self.working).then_some(ScaleError::Busy { after, reason })
    }

    fn next(&mut self) -> Version {
        self.version += 1;
        Version(self.version.to_string())
    }

    fn set(
        &mut self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<&mut Resource, ScaleError> {
        let version = self.next();
        let resource = self.resources.get_mut(id).filter(|resource| resource.version == *expected);
        let resource = resource.ok_or(ScaleError::Conflict)?;
        (resource.record, resource.version) = (record.clone(), version);
        self.log.insert(id.clone(), self.version);
        Ok(resource)
    }

    fn is_unreadable(&self, id: &ResourceId) -> bool {
        self.unreadable.iter().any(|other| other.id.as_ref() == Some(id))
    }

    fn log(&mut self, id: &ResourceId) {
        self.version += 1;
        self.log.insert(id.clone(), self.version);
    }

    /// What changed since then.
    fn since(&self, cursor: u64) -> Changes {
        let changed = self.log.iter().filter(|(_, at)| **at >= cursor).map(|(id, _)| id);
        let (there, removed) = changed.cloned().partition::<Vec<_>, _>(|id| self.resources.contains_key(id));
        Changes {
            cursor: self.version + 1,
            complete: cursor == 0,
            resources: there
                .iter()
                .filter(|id| !self.is_unreadable(id))
                .map(|id| self.resources[id].clone())
                .collect(),
            removed: if cursor == 0 { Vec::new() } else { removed },
        }
    }

    /// Points the Service there at once.
    fn apply_backend(&mut self, request: &InterceptionRequest) {
        let dlxs: Vec<_> = request.dlxs.iter().map(|dlx| dlx.name.clone()).collect();
        let Some(resource) = self.resources.get_mut(&request.id) else { return };
        let Some(interception) = &mut resource.interception else { return };
        (interception.backend, interception.in_sync, interception.dlxs) = (request.backend, true, dlxs);
        interception.intercepted_for = Duration::ZERO;
        if request.backend == Backend::Workload && !interception.requested {
            resource.interception = None;
        }
        self.log(&request.id);
    }
}

impl RunningPlugin for Store {
    fn kind(&self) -> &str {
        KIND
    }

    fn namespace(&self) -> &str {
        "demo"
    }

    fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>> {
        Box::pin(async move {
            if self.inner().hang {
                std::future::pending::<()>().await;
            }
            let inner = self.inner();
            let readable = inner.resources.keys().filter(|id| !inner.is_unreadable(id));
            let readable = readable.map(|id| inner.resources[id].clone()).collect();
            Ok(Listed { readable, unreadable: inner.unreadable.clone() })
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        id: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>> {
        Box::pin(async move {
            let version = {
                let mut inner = self.inner();
                inner.calls.push("compare_and_set");
                if let Some(error) = inner.refuse_records.clone() {
                    return Err(error);
                }
                inner.set(id, expected, record)?.version.clone()
            };
            self.wrote(record);
            Ok(version)
        })
    }

    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            let result = {
                let mut inner = self.inner();
                inner.calls.push("set_scale");
                inner.busy.clone_from(&request.busy);
                let working = inner.working;
                match inner.refuse_scale.clone().or_else(|| inner.why_busy(request)) {
                    Some(error) => Err(error),
                    None => inner.set(&request.id, &request.version, &request.record).map(|resource| {
                        resource.replicas = match request.target {
                            Target::Zero => 0,
                            Target::AtLeast(replicas) => resource.replicas.max(replicas),
                            Target::Exactly(replicas) => replicas.get().max(working.min(resource.replicas)),
                        };
                    }),
                }
            };
            self.wrote(&request.record);
            let ends_at_once = self.inner().ends_at_once;
            if let (Ok(()), Some(reason)) = (&result, ends_at_once) {
                self.change(&request.id.name, |resource| resource.replicas = 0);
                return Err(ScaleError::Terminal { reason: reason.to_owned() });
            }
            if result.is_ok() && matches!(request.target, Target::AtLeast(_)) {
                self.set(|inner| {
                    inner.woken.push(request.id.name.clone());
                    inner.starting.0 += 1;
                    inner.starting.1 = inner.starting.1.max(inner.starting.0);
                });
                let takes = self.inner().start_takes;
                if takes.is_zero() {
                    self.started(&request.id);
                } else if !self.inner().never_up.contains(&request.id) {
                    // As in a cluster: written is not up.
                    let (store, id) = (self.clone(), request.id.clone());
                    tokio::spawn(async move {
                        #[expect(clippy::disallowed_methods, reason = "the test moves its clock")]
                        tokio::time::sleep(takes).await;
                        store.started(&id);
                    });
                }
            }
            result
        })
    }

    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>> {
        Box::pin(async move {
            let mut writes = self.0.writes.subscribe();
            loop {
                {
                    let inner = self.inner();
                    if inner.blind {
                        return Err(CallError::Plugin("the API is away".to_owned()));
                    }
                    let (changes, unreadable) = (inner.since(cursor), inner.unreadable.clone());
                    if changes.complete || !changes.resources.is_empty() || !changes.removed.is_empty() {
                        return Ok(Listed { readable: changes, unreadable });
                    }
                }
                writes.changed().await.unwrap();
            }
        })
    }

    fn resolve_service_name<'a>(&'a self, id: &'a ResourceId) -> CallFuture<'a, Result<String, CallError>> {
        Box::pin(async move { Ok(id.name.clone()) })
    }

    fn set_backend<'a>(&'a self, request: &'a InterceptionRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            struct Writing(Store);
            impl Drop for Writing {
                fn drop(&mut self) {
                    self.0.inner().writing.0 -= 1;
                }
            }
            let (refused, stuck) = {
                let mut inner = self.inner();
                inner.calls.push("set_backend");
                inner.set_backend_calls.push(SetBackendCall {
                    name: request.id.name.clone(),
                    to: request.backend,
                    dlxs: request.dlxs.iter().map(|dlx| dlx.name.clone()).collect(),
                    at: Instant::now(),
                });
                inner.writing.0 += 1;
                inner.writing.1 = inner.writing.1.max(inner.writing.0);
                (inner.refuse_set_backend.pop_front(), inner.stuck_set_backend)
            };
            let _writing = Writing(self.clone());
            self.0.writes.send_modify(|writes| *writes += 1);
            if stuck {
                std::future::pending::<()>().await;
            }
            // As any call: others have their turn meanwhile.
            tokio::task::yield_now().await;
            if let Some(error) = refused {
                return Err(error);
            }
            let forgetful = self.inner().forgetful;
            if !forgetful {
                self.inner().apply_backend(request);
            }
            self.0.writes.send_modify(|writes| *writes += 1);
            Ok(())
        })
    }

    fn sync_dlxs<'a>(&'a self, dlxs: &'a [scaler_types::Dlx]) -> CallFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let refused = {
                let mut inner = self.inner();
                inner.synced_dlxs.push(dlxs.iter().map(|dlx| dlx.name.clone()).collect());
                inner.refuse_sync_dlxs.pop_front()
            };
            self.0.writes.send_modify(|writes| *writes += 1);
            refused.map_or(Ok(()), |reason| Err(CallError::Plugin(reason)))
        })
    }

    fn restore<'a>(&'a self, request: &'a RestoreRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            let takes = {
                let mut inner = self.inner();
                inner.calls.push("release");
                if inner.resources.get(&request.id).is_some_and(|resource| !is_up(resource)) {
                    inner.restored_starting.push(request.id.clone());
                }
                inner.restore_takes
            };
            self.set(|_| ());
            #[expect(clippy::disallowed_methods, reason = "the test moves its clock")]
            tokio::time::sleep(takes).await;
            let mut inner = self.inner();
            if let Some(error) = inner.refuse_restore.get(&request.id) {
                return Err(error.clone());
            }
            inner.restored.push(request.id.clone());
            Ok(())
        })
    }

    fn publish_event<'a>(
        &'a self,
        id: &'a ResourceId,
        report: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            self.inner().reports.push((id.clone(), report.clone()));
            self.0.writes.send_modify(|writes| *writes += 1);
            Ok(())
        })
    }
}
