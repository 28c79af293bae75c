//! A plugin whose resources the test moves by hand. Records and scales are changed by compare-and-set, as a real one's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use plugin_host::{CallError, CallFuture, Listed, RunningPlugin, UnreadableResource};
use scaler_types::{
    AddressOf, Changes, Endpoint, Nonce, Phase, Record, Resource, ResourceEvent, ResourceId, ScaleError,
    ScaleRequest, Target, Version,
};
use tokio::sync::watch;

type Wake = Box<dyn Fn(&ScaleRequest) -> Result<Vec<Endpoint>, ScaleError> + Send + Sync>;

pub(crate) struct Plugin {
    resources: Mutex<BTreeMap<ResourceId, Resource>>,
    cursor: watch::Sender<u64>,
    versions: AtomicU64,
    /// What a wake gives.
    pub(crate) wake: Mutex<Arc<Wake>>,
    pub(crate) set_scales: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    /// What was reported: reason and message.
    pub(crate) reports: Mutex<Vec<(String, String)>>,
    /// Listed, and cannot be read.
    unreadable: Mutex<Vec<UnreadableResource>>,
    /// The stream says that what it tells is not all there is.
    pub(crate) tells_changes: AtomicBool,
    /// While it is set, the stream tells nothing; lists are told.
    pub(crate) stalled: watch::Sender<bool>,
    /// The address of resources that list no endpoint.
    pub(crate) named: Mutex<Option<String>>,
    /// What a wake waits for after it was written, to fail then as a crash loop does.
    pub(crate) after_wake: Mutex<Option<watch::Receiver<bool>>>,
    /// So many wakes may come up; the others wait before they are written.
    pub(crate) comes_up: Mutex<Option<watch::Receiver<usize>>>,
    came_up: AtomicUsize,
}

impl Plugin {
    /// A plugin whose wakes come up at once at `address`.
    pub(crate) fn at(address: impl ToString) -> Arc<Self> {
        let address = address.to_string();
        Self::waking(move |_| Ok(vec![endpoint(&address)]))
    }

    pub(crate) fn waking(
        wake: impl Fn(&ScaleRequest) -> Result<Vec<Endpoint>, ScaleError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            resources: Mutex::default(),
            cursor: watch::Sender::new(1),
            versions: AtomicU64::new(1),
            wake: Mutex::new(Arc::new(Box::new(wake))),
            set_scales: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            reports: Mutex::default(),
            unreadable: Mutex::default(),
            tells_changes: AtomicBool::new(false),
            stalled: watch::Sender::new(false),
            named: Mutex::default(),
            after_wake: Mutex::default(),
            comes_up: Mutex::default(),
            came_up: AtomicUsize::new(0),
        })
    }

    /// Adds a resource that sleeps, known under `<name>.test`.
    pub(crate) fn asleep(self: Arc<Self>, name: &str) -> Arc<Self> {
        self.add(name, |resource| resource.record.phase = Phase::Asleep);
        self
    }

    /// Adds a resource that is awake.
    pub(crate) fn awake(self: Arc<Self>, name: &str, address: impl ToString) -> Arc<Self> {
        self.add(name, |resource| {
            resource.replicas = 1;
            resource.endpoints = vec![endpoint(address)];
        });
        self
    }

    pub(crate) fn add(&self, name: &str, change: impl FnOnce(&mut Resource)) {
        let mut resource = Resource::new(id(name));
        resource.hosts = vec![format!("{}.test", resource.id.name)];
        change(&mut resource);
        resource.version = self.version();
        self.resources.lock().unwrap().insert(resource.id.clone(), resource);
        self.moved();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.resources.lock().unwrap().remove(&id(name));
        self.moved();
    }

    /// Changes a resource as somebody else would.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Resource)) -> Version {
        let version = self.version();
        let mut resources = self.resources.lock().unwrap();
        let resource = resources.get_mut(&id(name)).unwrap();
        change(resource);
        resource.version = version.clone();
        drop(resources);
        self.moved();
        version
    }

    /// The autoscaler's write; `None` on a conflict.
    pub(crate) fn write(
        &self,
        name: &str,
        expected: &Version,
        change: impl FnOnce(&mut Resource),
    ) -> Option<Version> {
        let mut resources = self.resources.lock().unwrap();
        let resource = resources.get_mut(&id(name)).unwrap();
        if resource.version != *expected {
            return None;
        }
        change(resource);
        resource.version = self.version();
        let version = resource.version.clone();
        drop(resources);
        self.moved();
        Some(version)
    }

    /// Begins a drain attempt: its nonce and version, `None` if the resource is not active.
    pub(crate) fn begin_drain(&self, name: &str) -> Option<(Nonce, Version)> {
        let now = self.get(name);
        if now.record.phase != Phase::Active || now.replicas == 0 {
            return None;
        }
        let nonce = Nonce::fresh();
        let version = self.write(name, &now.version, |resource| {
            resource.record = Record { phase: Phase::Draining, nonce, ..Record::default() };
        })?;
        Some((nonce, version))
    }

    /// From now on these cannot be read; `None`: one without a readable name.
    pub(crate) fn set_unreadable(&self, names: &[Option<&str>]) {
        let unreadable =
            |name: &Option<&str>| UnreadableResource { id: name.map(id), error: "field replicas".to_owned() };
        *self.unreadable.lock().unwrap() = names.iter().map(unreadable).collect();
        self.moved();
    }

    pub(crate) fn get(&self, name: &str) -> Resource {
        self.resources.lock().unwrap()[&id(name)].clone()
    }

    fn version(&self) -> Version {
        Version(self.versions.fetch_add(1, Ordering::SeqCst).to_string())
    }

    fn moved(&self) {
        self.cursor.send_modify(|cursor| *cursor += 1);
    }
}

/// Of namespace `demo`, unless the name says another: `other/web`.
pub(crate) fn id(name: &str) -> ResourceId {
    let (namespace, name) = name.split_once('/').unwrap_or(("demo", name));
    ResourceId::new(namespace, name)
}

fn name_of(id: &ResourceId) -> String {
    format!("{}/{}", id.namespace, id.name)
}

/// An endpoint that is the resource's own process, and ready when its port accepts. Each is another incarnation.
pub(crate) fn endpoint(address: impl ToString) -> Endpoint {
    Endpoint { address_of: AddressOf::Instance, ..service(address) }
}

/// The same by the address of a Service.
pub(crate) fn service(address: impl ToString) -> Endpoint {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let incarnation = RUN.fetch_add(1, Ordering::Relaxed).to_string();
    Endpoint::new(address.to_string(), incarnation)
}

impl RunningPlugin for Plugin {
    fn kind(&self) -> &str {
        "test"
    }

    fn namespace(&self) -> &str {
        "demo"
    }

    fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>> {
        Box::pin(async {
            let Listed { readable, unreadable } = self.changes(0).await?;
            Ok(Listed { readable: readable.resources, unreadable })
        })
    }

    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>> {
        Box::pin(async move {
            let mut moved = self.cursor.subscribe();
            let complete = cursor == 0 || !self.tells_changes.load(Ordering::SeqCst);
            if cursor == 0 {
                self.lists.fetch_add(1, Ordering::SeqCst);
            } else {
                moved.wait_for(|now| *now != cursor).await.unwrap();
                self.stalled.subscribe().wait_for(|stalled| !stalled).await.unwrap();
            }
            let cursor = *moved.borrow();
            let unreadable = self.unreadable.lock().unwrap().clone();
            let resources = self.resources.lock().unwrap();
            let readable = resources
                .values()
                .filter(|resource| unreadable.iter().all(|other| other.id.as_ref() != Some(&resource.id)));
            let resources = readable.cloned().collect();
            let readable = Changes { cursor, complete, resources, removed: Vec::new() };
            Ok(Listed { readable, unreadable })
        })
    }

    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            assert!(matches!(request.target, Target::AtLeast(1..)), "{:?}", request.target);
            self.set_scales.fetch_add(1, Ordering::SeqCst);
            if self.get(&name_of(&request.id)).version != request.version {
                return Err(ScaleError::Conflict);
            }
            let may = self.comes_up.lock().unwrap().clone();
            if let Some(mut may) = may {
                let mine = self.came_up.fetch_add(1, Ordering::SeqCst);
                may.wait_for(|may| *may > mine).await.unwrap();
            }
            let wake = self.wake.lock().unwrap().clone();
            let endpoints = wake(request)?;
            let written = self.write(&name_of(&request.id), &request.version, |resource| {
                resource.record = request.record.clone();
                resource.replicas = 1;
                resource.endpoints = endpoints;
            });
            written.ok_or(ScaleError::Conflict)?;
            let after = self.after_wake.lock().unwrap().clone();
            if let Some(mut fails) = after {
                fails.wait_for(|fails| *fails).await.unwrap();
                return Err(ScaleError::Terminal { reason: "CrashLoopBackOff: back-off 10s".to_owned() });
            }
            Ok(())
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        id: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>> {
        Box::pin(async move {
            self.write(&name_of(id), expected, |resource| resource.record = record.clone())
                .ok_or(ScaleError::Conflict)
        })
    }

    fn resolve_service_name<'a>(&'a self, _: &'a ResourceId) -> CallFuture<'a, Result<String, CallError>> {
        let named = self.named.lock().unwrap().clone();
        Box::pin(async move { named.ok_or_else(|| CallError::Plugin("it lists its endpoints".to_owned())) })
    }

    fn publish_event<'a>(
        &'a self,
        _: &'a ResourceId,
        report: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), CallError>> {
        self.reports.lock().unwrap().push((report.reason.clone(), report.message.clone()));
        Box::pin(async { Ok(()) })
    }
}
