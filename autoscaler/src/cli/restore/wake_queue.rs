//! The asleep resources of one plugin in one namespace file, which are woken before they are restored.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use daemon::wakes::{WAKE_SLOT_TIMEOUT, WakeFor, WakeSlot, Wakes, jitter};
use plugin_host::{ChangeStream, RunningPlugin};
use scaler_types::{
    Changes, Nonce, Resource, ResourceId, ScaleError, ScaleRequest, Target,
    protocol::{Step as Protocol, transition},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{MAX_ATTEMPTS, Step, must_wake};
use crate::{
    interception::is_up,
    plugin::{ActivePlugin, protocol_seen},
};

/// The asleep resources of one plugin in one namespace file.
pub(super) struct WakeQueue {
    pub(super) active: ActivePlugin,
    namespace: Arc<str>,
    /// In the order in which they are woken.
    asleep: VecDeque<Resource>,
    listed: watch::Receiver<ListedResources>,
    follows: AbortHandle,
}

/// The resources as the plugin lists them.
type ListedResources = HashMap<ResourceId, Resource>;

// === impl WakeQueue ===

impl WakeQueue {
    pub(super) fn new(active: ActivePlugin, namespace: &str, asleep: Vec<Resource>) -> Self {
        let (sender, listed) = watch::channel(ListedResources::new());
        let follows = tokio::spawn(follow_resources(active.plugin.clone(), sender)).abort_handle();
        Self { active, namespace: namespace.into(), asleep: asleep.into(), listed, follows }
    }

    /// Waits for a slot for the next one, if there is one.
    pub(super) fn request_wake_permit(&self, number: usize, wakes: &Wakes, running: &mut JoinSet<Step>) {
        if self.asleep.is_empty() {
            return;
        }
        let (wakes, namespace) = (wakes.clone(), self.namespace.clone());
        let limit = self.active.settings.max_concurrent_wakes;
        running.spawn(async move {
            // A user waits for it.
            Step::Slot(number, wakes.slot(&namespace, limit, WakeFor::Request).await)
        });
    }

    /// Wakes the next one; which that is.
    pub(super) fn wake_next(
        &mut self,
        number: usize,
        place: WakeSlot,
        running: &mut JoinSet<Step>,
    ) -> Option<ResourceId> {
        let resource = self.asleep.pop_front()?;
        let (id, active, listed) = (resource.id.clone(), self.active.clone(), self.listed.clone());
        running.spawn(async move {
            jitter().await;
            let id = resource.id.clone();
            let woken = wake(&active, resource, listed).await;
            Step::Woken(number, id, (!woken).then_some(place))
        });
        Some(id)
    }
}

impl Drop for WakeQueue {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

/// Wakes one and waits until it is up, or has had its time. Whether that was written: if not, restoring wakes it.
async fn wake(
    active: &ActivePlugin,
    mut resource: Resource,
    mut listed: watch::Receiver<ListedResources>,
) -> bool {
    let ActivePlugin { plugin, settings } = active;
    if resource.rollout.is_none() {
        // When it is up cannot be seen: its Service stays intercepted until it is restored. And its plugin may have nothing to
        // restore: then it stays asleep.
        return false;
    }
    let deadline = resource.resource_readiness_timeout.unwrap_or(settings.resource_readiness_timeout);
    for _ in 0..MAX_ATTEMPTS {
        if let Some(now) = listed.borrow_and_update().get(&resource.id) {
            resource = now.clone();
        }
        let record = transition(&protocol_seen(&resource), Protocol::Wake, Nonce::fresh(), "restored");
        let written = match record {
            _ if !must_wake(&resource) => Ok(()),
            None => return false,
            Some(record) => {
                let request = ScaleRequest {
                    id: resource.id.clone(),
                    target: Target::AtLeast(1),
                    version: resource.version.clone(),
                    record,
                    deadline,
                    intercepted_for: std::time::Duration::ZERO,
                    busy: Vec::new(),
                };
                plugin.set_scale(&request).await
            }
        };
        match written {
            Ok(()) => {
                let up = listed.wait_for(|listed| listed.get(&resource.id).is_some_and(is_up));
                // Late or not: its result is printed when it is restored.
                drop(timeout(deadline.min(WAKE_SLOT_TIMEOUT), up).await);
                return true;
            }
            Err(ScaleError::Conflict) => drop(timeout(super::API_TIMEOUT, listed.changed()).await),
            Err(_) => return false,
        }
    }
    false
}

/// Follows what the plugin lists. Never ends.
async fn follow_resources(plugin: Arc<dyn RunningPlugin>, sender: watch::Sender<ListedResources>) {
    let mut stream = ChangeStream::new(plugin);
    loop {
        let Ok(mut changes) = stream.next().await else { continue };
        let Changes { complete, resources, removed, .. } = std::mem::take(&mut changes.readable);
        sender.send_modify(|listed| {
            if complete {
                let why_unreadable = changes.why_unreadable();
                listed.retain(|id, _| why_unreadable(id).is_some());
            }
            listed.extend(resources.into_iter().map(|resource| (resource.id.clone(), resource)));
            for id in &removed {
                listed.remove(id);
            }
        });
    }
}
