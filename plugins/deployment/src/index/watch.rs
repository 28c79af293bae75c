//! One type of objects, followed into the store.

use std::{collections::HashSet, fmt::Debug, mem, sync::Arc, time::Duration};

use kube::{Api, Resource, api::ListParams};
use kube_watch::{Event, LastFailure, Watch};
use scaler_types::backoff::Backoff;
use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    State,
    store::{ObjectChange, ObjectType, StateOrigin, Store},
};
use crate::{
    cluster,
    objects::{Meta, ObjectName},
};

/// The pause where an optional right is missing: it may be granted.
const OPTIONAL_DELAY: Duration = Duration::from_secs(60);

/// One type of objects to be watched.
pub(crate) struct ObjectWatch<K> {
    api: Api<K>,
    /// Plural and group, as RBAC rules name it.
    pub(crate) what: String,
    topic: ObjectType,
    selection: ListParams,
    /// The rights without which nothing works; `None`: it is optional.
    pub(crate) verbs: Option<&'static str>,
    /// What is kept of an object.
    read: Box<dyn Fn(K) -> ObjectChange + Send + Sync>,
}

// === impl ObjectWatch ===

impl<K> ObjectWatch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// All objects of the type, if there is one and it may be watched.
    pub(crate) fn new(
        api: Api<K>,
        what: impl Into<String>,
        topic: ObjectType,
        read: impl Fn(K) -> ObjectChange + Send + Sync + 'static,
    ) -> Self {
        let selection = ListParams::default();
        Self { api, what: what.into(), topic, selection, verbs: None, read: Box::new(read) }
    }

    /// Nothing works without it: these are the rights that it needs.
    pub(crate) fn required(self, verbs: &'static str) -> Self {
        Self { verbs: Some(verbs), ..self }
    }

    pub(crate) fn with_labels(self, labels: &str) -> Self {
        Self { selection: self.selection.labels(labels), ..self }
    }

    pub(crate) fn with_fields(self, fields: &str) -> Self {
        Self { selection: self.selection.fields(fields), ..self }
    }

    /// Runs until the task is aborted. The receiver gets one value: when the first list is in, or why there is none.
    pub(crate) fn spawn(
        self,
        store: &Arc<Store>,
        tasks: &mut JoinSet<()>,
    ) -> oneshot::Receiver<Result<(), kube::Error>> {
        let (sender, first) = oneshot::channel();
        let store = Arc::clone(store);
        tasks.spawn(async move { self.follow(&store, sender).await });
        first
    }

    async fn follow(self, store: &Store, first: oneshot::Sender<Result<(), kube::Error>>) {
        let mut events = Watch::new(self.api.clone(), self.selection.clone());
        let mut first = Some(first);
        let mut listed = HashSet::new();
        let mut failure = LastFailure::default();
        loop {
            let error = match events.next().await {
                Ok(event) => {
                    if failure.ends_with(&event) {
                        tracing::info!(what = self.what, "watching again");
                    }
                    if self.apply(store, &mut listed, event) {
                        if let Some(first) = first.take() {
                            // Fails when the instance is about to be dropped, and this task with it.
                            let _ = first.send(Ok(()));
                        } else if matches!(self.topic, ObjectType::Services | ObjectType::Slices) {
                            store.with(State::reset_intercepted_since);
                        }
                    }
                    continue;
                }
                Err(error) => error.into_inner(),
            };
            let needless =
                self.verbs.is_none() && (cluster::is_forbidden(&error) || cluster::is_missing(&error));
            let reason = cluster::describe_error(&error);
            match (failure.is_new(&reason), needless) {
                (false, _) => {}
                (true, true) => tracing::info!(what = self.what, reason, "not watching an optional type"),
                (true, false) => {
                    tracing::warn!(
                        what = self.what,
                        reason,
                        "failed to watch: keeping the last known objects"
                    );
                }
            }
            // Until a first list that may yet come, its receiver has a limit of its own.
            let fatal = !needless && !cluster::is_transient(&error);
            if (needless || fatal)
                && let Some(first) = first.take()
            {
                let _ = first.send(if fatal { Err(error) } else { Ok(()) });
                if fatal {
                    return;
                }
            }
            if needless {
                Backoff::new(OPTIONAL_DELAY, OPTIONAL_DELAY).wait().await;
            }
        }
    }

    /// Takes an event over; returns whether it completes a list.
    fn apply(&self, store: &Store, listed: &mut HashSet<ObjectName>, event: Event<K>) -> bool {
        let mut completes = false;
        store.with(|state| match event {
            Event::Init => listed.clear(),
            Event::Page { objects, complete_at } => {
                for object in objects {
                    listed.insert(Meta::from(object.meta()).key());
                    state.apply((self.read)(object), StateOrigin::Watch);
                }
                if let Some(revision) = complete_at {
                    completes = true;
                    for (name, uid) in state.missing(self.topic, &mem::take(listed), revision) {
                        state.remove(self.topic, &name, &uid);
                    }
                }
            }
            Event::Apply(object) => state.apply((self.read)(object), StateOrigin::Watch),
            Event::Delete(object) => {
                let meta = Meta::from(object.meta());
                state.remove(self.topic, &meta.key(), &meta.uid);
            }
            Event::Bookmark => {}
        });
        completes
    }
}
