//! What sleeps of one plugin in one namespace file, and is woken before it is given back.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use daemon::wakes::{WAKE_PLACE_TIMEOUT, Waits, WakePlace, Wakes, jitter};
use scaler_types::{
    Changes, Nonce, Resource, ResourceId, ScaleError, ScaleRequest, Target,
    protocol::{Step as Protocol, transition},
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{Step, TRIES, sleeps};
use crate::{
    interception::is_up,
    observe::{Told, follow},
    plugin::{Given, Plugin, seen},
    telemetry::CycleLabels,
};

/// What sleeps of one plugin in one namespace file.
pub(super) struct Herd<P> {
    pub(super) given: Given<P>,
    namespace: Arc<str>,
    /// In the order in which they are woken.
    asleep: VecDeque<Resource>,
    known: watch::Receiver<Known>,
    follows: AbortHandle,
}

/// The resources as the plugin tells them.
type Known = HashMap<ResourceId, Resource>;

// === impl Herd ===

impl<P: Plugin> Herd<P> {
    pub(super) fn new(given: Given<P>, namespace: &str, asleep: Vec<Resource>) -> Self {
        let (tell, known) = watch::channel(Known::new());
        let follows = tokio::spawn(learn(given.clone(), namespace.to_owned(), tell)).abort_handle();
        Self { given, namespace: namespace.into(), asleep: asleep.into(), known, follows }
    }

    /// Waits for a place for the next one, if there is one.
    pub(super) fn next_place(&self, number: usize, wakes: &Wakes, running: &mut JoinSet<Step>) {
        if self.asleep.is_empty() {
            return;
        }
        let (wakes, namespace) = (wakes.clone(), self.namespace.clone());
        let limit = self.given.settings.max_concurrent_wakes;
        running.spawn(async move {
            // A person waits for it.
            Step::Place(number, wakes.place(&namespace, limit, Waits::Somebody).await)
        });
    }

    /// Wakes the next one; which that is.
    pub(super) fn wake_next(
        &mut self,
        number: usize,
        place: WakePlace,
        running: &mut JoinSet<Step>,
    ) -> Option<ResourceId> {
        let resource = self.asleep.pop_front()?;
        let (id, given, known) = (resource.id.clone(), self.given.clone(), self.known.clone());
        running.spawn(async move {
            jitter().await;
            let id = resource.id.clone();
            let woken = wake(&given, resource, known).await;
            Step::Woken(number, id, (!woken).then_some(place))
        });
        Some(id)
    }
}

impl<P> Drop for Herd<P> {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

/// Wakes one and waits until it is up, or has had its time. Whether that was written: if not, giving it back wakes it.
async fn wake<P: Plugin>(
    given: &Given<P>,
    mut resource: Resource,
    mut known: watch::Receiver<Known>,
) -> bool {
    let Given { plugin, settings } = given;
    if resource.rollout.is_none() {
        // Nobody could tell when it is up: its Service leads to the DLXs until it is given back. And its plugin may have nothing to
        // give back: then it sleeps on.
        return false;
    }
    let deadline = resource.resource_readiness_timeout.unwrap_or(settings.resource_readiness_timeout);
    for _ in 0..TRIES {
        if let Some(now) = known.borrow_and_update().get(&resource.id) {
            resource = now.clone();
        }
        let row = transition(&seen(&resource), Protocol::Wake, Nonce::fresh(), "given back");
        let written = match row {
            _ if !sleeps(&resource) => Ok(()),
            None => return false,
            Some(row) => {
                let request = ScaleRequest {
                    id: resource.id.clone(),
                    target: Target::AtLeast(1),
                    version: resource.version.clone(),
                    row,
                    deadline,
                    led_for: std::time::Duration::ZERO,
                };
                plugin.set_scale(&request).await
            }
        };
        match written {
            Ok(()) => {
                let up = known.wait_for(|known| known.get(&resource.id).is_some_and(is_up));
                // Late or not: what comes of it is said when it is given back.
                drop(timeout(deadline.min(WAKE_PLACE_TIMEOUT), up).await);
                return true;
            }
            Err(ScaleError::Conflict) => drop(timeout(super::CALL, known.changed()).await),
            Err(_) => return false,
        }
    }
    false
}

/// Follows what the plugin tells. Never ends.
async fn learn<P: Plugin>(given: Given<P>, namespace: String, tell: watch::Sender<Known>) {
    let labels = CycleLabels { kind: given.plugin.kind().to_owned(), namespace };
    // Another one is never given.
    let (_give, given) = watch::channel(given);
    let (told, mut tells) = mpsc::channel(1);
    let learn = async {
        while let Some(told) = tells.recv().await {
            let Told::Changes(Changes { complete, resources, removed, .. }) = told else { continue };
            tell.send_modify(|known| {
                if complete {
                    known.clear();
                }
                known.extend(resources.into_iter().map(|resource| (resource.id.clone(), resource)));
                for id in &removed {
                    known.remove(id);
                }
            });
        }
    };
    tokio::join!(follow(given, labels, told), learn);
}
