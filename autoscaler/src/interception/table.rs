//! The interceptions of one plugin in one namespace file, as drain attempts, the admin port and the interceptor see them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scaler_types::{Nonce, ResourceId, protocol::Dlxs};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    resource::{InterceptedResource, InterceptionStatus, StepContext, WaitingAttempt},
    serving::{ObservedDlxs, ServingDlxs},
};

/// The interceptions of one plugin in one namespace file. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterceptionTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

/// An interceptor's state.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// The resources that have an interception.
    pub(super) resources: HashMap<ResourceId, InterceptedResource>,
    /// The attempts that wait for an interception.
    waiting: HashMap<ResourceId, WaitingEntry>,
    /// The resources to check again.
    pub(super) dirty: BTreeSet<ResourceId>,
    pub(super) dlxs: ObservedDlxs,
    /// Whether the plugin could list its resources the last time; `None`: it has not answered yet.
    pub(super) reachable: Option<bool>,
}

#[derive(Debug)]
struct WaitingEntry {
    waiting: WaitingAttempt,
    sender: watch::Sender<SwitchoverProgress>,
}

/// The progress of the switchover of one attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum SwitchoverProgress {
    /// Not intercepted yet.
    #[default]
    Waiting,
    /// Completely intercepted, for at least the propagation delay.
    Intercepted,
    /// Its record changed: the attempt is over.
    Changed,
    /// It has failed, and why.
    Lost(Arc<str>),
}

/// An attempt that waits for its switchover: this leader's own, and confirmed by every DLX. Ends when dropped.
#[derive(Debug)]
pub(crate) struct PendingSwitchover {
    table: InterceptionTable,
    id: ResourceId,
    progress: watch::Receiver<SwitchoverProgress>,
}

// === impl InterceptionTable ===

impl InterceptionTable {
    /// Begins the switchover of a resource whose drain every DLX has confirmed. `before`: the record's nonce before the attempt; `attempt_nonce`: its own.
    pub(crate) fn begin_switchover(
        &self,
        id: &ResourceId,
        before: Nonce,
        attempt_nonce: Nonce,
    ) -> PendingSwitchover {
        let (sender, progress) = watch::channel(SwitchoverProgress::default());
        let waiting = WaitingAttempt { nonces: [before, attempt_nonce], seen: false };
        {
            let mut inner = self.inner();
            inner.waiting.insert(id.clone(), WaitingEntry { waiting, sender });
            inner.dirty.insert(id.clone());
        }
        self.0.changed.notify_one();
        PendingSwitchover { table: self.clone(), id: id.clone(), progress }
    }

    /// The interception of a resource, as the admin port shows it; `None`: it has none, or this process is not the leader.
    pub(crate) fn status(&self, id: &ResourceId, serving: &ServingDlxs) -> Option<InterceptionStatus> {
        let inner = self.inner();
        let at = inner.step_context(Instant::now(), serving);
        let waiting = inner.waiting.get(id).map(|waiter| &waiter.waiting);
        Some(inner.resources.get(id)?.status(at, waiting))
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is to be checked again.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn step_context(&self, now: Instant, serving: &ServingDlxs) -> StepContext {
        let dlxs = self.dlxs.availability(now, serving.unavailable_timeout);
        StepContext {
            now,
            propagation_delay: serving.propagation_delay,
            dlxs,
            nameable: dlxs == Dlxs::Dead || self.dlxs.any_named(),
        }
    }

    /// Its attempt, if one waits for its interception.
    pub(super) fn resource_and_attempt(
        &mut self,
        id: &ResourceId,
    ) -> (Option<&mut InterceptedResource>, Option<&WaitingAttempt>) {
        (self.resources.get_mut(id), self.waiting.get(id).map(|waiter| &waiter.waiting))
    }

    /// Publishes the progress to the attempt that waits for it; returns when to check again.
    pub(super) fn publish_progress(&mut self, id: &ResourceId, at: StepContext) -> Option<Instant> {
        let WaitingEntry { waiting, sender } = self.waiting.get_mut(id)?;
        let (progress, again) = match self.resources.get(id) {
            _ if self.reachable == Some(false) => {
                (SwitchoverProgress::Lost("its plugin cannot list resources now".into()), None)
            }
            None if self.reachable.is_none() => (SwitchoverProgress::Waiting, None),
            None => (SwitchoverProgress::Lost("its plugin no longer lists its interception".into()), None),
            Some(resource) if resource.unreadable => {
                (SwitchoverProgress::Lost("what its plugin lists of it cannot be read".into()), None)
            }
            Some(resource) => resource.switchover_progress(at, waiting),
        };
        sender.send_if_modified(|known| {
            let differs = *known != progress;
            *known = progress;
            differs
        });
        again
    }

    /// The resources that attempts wait for.
    pub(super) fn awaited_resources(&self) -> Vec<ResourceId> {
        self.waiting.keys().cloned().collect()
    }
}

// === impl PendingSwitchover ===

impl PendingSwitchover {
    /// Waits until it is intercepted or has failed; never returns `Waiting`.
    pub(crate) async fn settled(&mut self) -> SwitchoverProgress {
        match self.progress.wait_for(|progress| *progress != SwitchoverProgress::Waiting).await {
            Ok(progress) => progress.clone(),
            Err(_) => SwitchoverProgress::Lost("this autoscaler is stopping".into()),
        }
    }

    /// Waits until it is no longer intercepted; returns why.
    pub(crate) async fn lost(&mut self) -> SwitchoverProgress {
        match self.progress.wait_for(|progress| *progress != SwitchoverProgress::Intercepted).await {
            Ok(progress) => progress.clone(),
            Err(_) => SwitchoverProgress::Lost("this autoscaler is stopping".into()),
        }
    }
}

impl Drop for PendingSwitchover {
    fn drop(&mut self) {
        let mut inner = self.table.inner();
        inner.waiting.remove(&self.id);
        inner.dirty.insert(self.id.clone());
        drop(inner);
        self.table.0.changed.notify_one();
    }
}
