//! One type of objects: a list, then a watch from where the list ended, and again.

use std::{collections::HashSet, fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use scaler_types::backoff::Backoff;
use serde::de::DeserializeOwned;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::store::{ObjectChange, ObjectType, StateOrigin, Store};
use crate::{cluster, objects::Meta};

/// How many objects are asked for at a time.
const PAGE_SIZE: u32 = 500;

/// How long the server lets a watch live. A connection that died without a word is noticed by its not being ended then,
/// so this bounds how old the view of a stalled stream can be; a new watch from where the old one was costs little.
const WATCH_TIMEOUT_SECONDS: u32 = 60;

/// How much later than that the end may come.
const GRACE: Duration = Duration::from_secs(5);

/// How long one answer to a list may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause after an error; doubled up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// The pause where an optional right is missing: it may be granted.
const OPTIONAL_DELAY: Duration = Duration::from_secs(60);

/// One stream.
pub(crate) struct ObjectWatch<K> {
    /// Where the API has it.
    pub(crate) api: Api<K>,
    /// Plural and group, as RBAC rules name it.
    pub(crate) what: String,
    pub(crate) topic: ObjectType,
    /// Only objects with these fields.
    pub(crate) fields: Option<String>,
    /// Only objects with these labels.
    pub(crate) labels: Option<String>,
    /// It can be done without, for want of a right.
    pub(crate) optional: bool,
    /// What is kept of an object.
    pub(crate) read: Arc<dyn Fn(K) -> ObjectChange + Send + Sync>,
}

/// How a watch ended.
enum WatchEnd {
    /// To be gone on with from this version.
    Again(String),
    /// The server no longer knows what was since: everything anew.
    Anew,
    /// With an error; to be gone on with from this version after a pause.
    Failed(String, kube::Error),
}

/// Runs a watch until it is aborted. The receiver gets one value: when the first list is in, or why there is none.
pub(crate) fn spawn<K>(
    feed: ObjectWatch<K>,
    store: Arc<Store>,
    tasks: &mut tokio::task::JoinSet<()>,
) -> oneshot::Receiver<Result<(), kube::Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (told, first) = oneshot::channel();
    tasks.spawn(async move { feed.follow(&store, told).await });
    first
}

// === impl ObjectWatch ===

impl<K> ObjectWatch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    async fn follow(self, store: &Store, told: oneshot::Sender<Result<(), kube::Error>>) {
        let mut told = Some(told);
        let mut version = None;
        let mut errors = WatchErrors::default();
        loop {
            let error = match version.take() {
                None => match self.list(store).await {
                    Ok(listed) => {
                        errors.clear(&self.what);
                        version = Some(listed);
                        if let Some(told) = told.take() {
                            // Nobody waits: the instance is about to be dropped, and this task with it.
                            let _ = told.send(Ok(()));
                        } else if matches!(self.topic, ObjectType::Services | ObjectType::Slices) {
                            store.with(super::State::reset_intercepted_since);
                        }
                        continue;
                    }
                    Err(error) => error,
                },
                Some(from) => {
                    let began = Instant::now();
                    match self.watch(store, from).await {
                        WatchEnd::Again(from) if began.elapsed() > FIRST_DELAY => {
                            errors.clear(&self.what);
                            version = Some(from);
                            continue;
                        }
                        // One that ends as soon as it begins is no better than one that fails.
                        WatchEnd::Again(from) => {
                            version = Some(from);
                            errors.backoff.wait().await;
                            continue;
                        }
                        WatchEnd::Anew => {
                            tracing::debug!(what = self.what, "watch expired: listing again");
                            continue;
                        }
                        WatchEnd::Failed(from, error) => {
                            if began.elapsed() > MAX_DELAY {
                                // It had worked.
                                errors.backoff.reset();
                            }
                            version = Some(from);
                            error
                        }
                    }
                }
            };
            let needless = self.optional && (cluster::is_forbidden(&error) || cluster::is_missing(&error));
            errors.report(&self.what, &error, needless);
            if let Some(first) = told.take() {
                if needless {
                    let _ = first.send(Ok(()));
                } else if cluster::is_transient(&error) {
                    // Whoever waits has a limit of its own.
                    told = Some(first);
                } else {
                    let _ = first.send(Err(error));
                    return;
                }
            }
            if needless {
                Backoff::new(OPTIONAL_DELAY, OPTIONAL_DELAY).wait().await;
            } else {
                errors.backoff.wait().await;
            }
        }
    }

    /// Lists all there is by a consistent read (no `resourceVersion` is named), and takes it over page by page.
    async fn list(&self, store: &Store) -> Result<String, kube::Error> {
        let mut params = ListParams { limit: Some(PAGE_SIZE), ..ListParams::default() };
        params.field_selector.clone_from(&self.fields);
        params.label_selector.clone_from(&self.labels);
        let mut listed = HashSet::new();
        loop {
            let page = cluster::with_timeout(LIST_TIMEOUT, self.api.list(&params)).await?;
            let version = page.metadata.resource_version.unwrap_or_default();
            store.with(|state| {
                for object in page.items {
                    listed.insert(Meta::from(object.meta()).key());
                    state.apply((self.read)(object), StateOrigin::Watch);
                }
            });
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    // All pages are of the state of the first.
                    let revision = version.parse().unwrap_or(0);
                    store.with(|state| {
                        for (name, uid) in state.missing(self.topic, &listed, revision) {
                            state.remove(self.topic, &name, &uid);
                        }
                    });
                    return Ok(version);
                }
            }
        }
    }

    async fn watch(&self, store: &Store, mut version: String) -> WatchEnd {
        let params = WatchParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            timeout: Some(WATCH_TIMEOUT_SECONDS),
            ..WatchParams::default()
        };
        let stream = match cluster::with_timeout(LIST_TIMEOUT, self.api.watch(&params, &version)).await {
            Ok(stream) => stream,
            Err(error) if cluster::is_gone(&error) => return WatchEnd::Anew,
            Err(error) => return WatchEnd::Failed(version, error),
        };
        let mut stream = pin!(stream);
        let limit = Duration::from_secs(WATCH_TIMEOUT_SECONDS.into()) + GRACE;
        loop {
            let event = match timeout(limit, stream.next()).await {
                Ok(Some(event)) => event,
                Ok(None) | Err(_) => return WatchEnd::Again(version),
            };
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    let change = (self.read)(object);
                    store.with(|state| state.apply(change, StateOrigin::Watch));
                }
                Ok(WatchEvent::Deleted(object)) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    let meta = Meta::from(object.meta());
                    store.with(|state| state.remove(self.topic, &meta.key(), &meta.uid));
                }
                Ok(WatchEvent::Bookmark(mark)) => version = mark.metadata.resource_version,
                Ok(WatchEvent::Error(status)) if status.code == 410 => return WatchEnd::Anew,
                Ok(WatchEvent::Error(status)) => {
                    return WatchEnd::Failed(version, kube::Error::Api(status));
                }
                Err(error) => return WatchEnd::Failed(version, error),
            }
        }
    }
}

/// What stands in the way of a feed.
struct WatchErrors {
    reported: Option<String>,
    backoff: Backoff,
}

// === impl WatchErrors ===

impl Default for WatchErrors {
    fn default() -> Self {
        Self { reported: None, backoff: Backoff::new(FIRST_DELAY, MAX_DELAY) }
    }
}

impl WatchErrors {
    fn report(&mut self, what: &str, error: &kube::Error, needless: bool) {
        let reason = cluster::describe_error(error);
        if self.reported.as_ref() == Some(&reason) {
            return;
        }
        if needless {
            tracing::info!(what, reason, "not watching an optional type");
        } else {
            tracing::warn!(what, reason, "failed to watch: keeping the last known objects");
        }
        self.reported = Some(reason);
    }

    fn clear(&mut self, what: &str) {
        self.backoff.reset();
        if self.reported.take().is_some() {
            tracing::info!(what, "watching again");
        }
    }
}
