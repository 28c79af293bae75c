//! The routes of one plugin in one namespace file, as a try, the admin port and their router see them.

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
    dlxs::{Leading, Watched},
    resource::{Led, Now, RouteTold, Waiting},
};

/// The routes of one plugin in one namespace file. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Routes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    poked: Notify,
}

/// What a router knows.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// The resources that have a route.
    pub(super) led: HashMap<ResourceId, Led>,
    /// The tries that wait for a route.
    waiting: HashMap<ResourceId, Waiter>,
    /// What is to be looked at anew.
    pub(super) dirty: BTreeSet<ResourceId>,
    pub(super) dlxs: Watched,
    /// Whether what the plugin told last was no error; `None`: it has told nothing yet.
    pub(super) told: Option<bool>,
}

#[derive(Debug)]
struct Waiter {
    waiting: Waiting,
    tell: watch::Sender<Progress>,
}

/// How far the route of a resource is whose try waits for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Progress {
    /// Not there yet.
    #[default]
    Waiting,
    /// It leads to the DLXs, all of it, and everybody has had the time to follow.
    Led,
    /// Somebody else changed the resource: the fence stands no more.
    Changed,
    /// It comes to nothing, and why.
    Lost(Arc<str>),
}

/// A try waits in its switch: its fence is this leader's own, and every DLX has confirmed it. Ends when dropped.
#[derive(Debug)]
pub struct Confirmation {
    routes: Routes,
    id: ResourceId,
    progress: watch::Receiver<Progress>,
}

// === impl Routes ===

impl Routes {
    /// Every DLX has confirmed the fence of this resource. `before`: the row's nonce before that fence; `fence`: its own.
    pub fn confirm(&self, id: &ResourceId, before: Nonce, fence: Nonce) -> Confirmation {
        let (tell, progress) = watch::channel(Progress::default());
        let waiting = Waiting { nonces: [before, fence], seen: false };
        {
            let mut inner = self.inner();
            inner.waiting.insert(id.clone(), Waiter { waiting, tell });
            inner.dirty.insert(id.clone());
        }
        self.0.poked.notify_one();
        Confirmation { routes: self.clone(), id: id.clone(), progress }
    }

    /// The route of a resource, as the admin port tells of it; `None`: it has none, or this process does not lead.
    pub fn told(&self, id: &ResourceId, leading: &Leading) -> Option<RouteTold> {
        let inner = self.inner();
        let at = inner.now(Instant::now(), leading);
        let waiting = inner.waiting.get(id).map(|waiter| &waiter.waiting);
        Some(inner.led.get(id)?.told(at, waiting))
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be looked at anew.
    pub(super) async fn poked(&self) {
        self.0.poked.notified().await;
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn now(&self, now: Instant, leading: &Leading) -> Now {
        let dlxs = self.dlxs.all(now, leading.dead_man);
        Now { now, grace: leading.grace, dlxs, nameable: dlxs == Dlxs::Dead || self.dlxs.any_named() }
    }

    /// Its try, if one waits for its route.
    pub(super) fn of(&mut self, id: &ResourceId) -> (Option<&mut Led>, Option<&Waiting>) {
        (self.led.get_mut(id), self.waiting.get(id).map(|waiter| &waiter.waiting))
    }

    /// Tells the try that waits for this route how far it is; when to look again.
    pub(super) fn tell(&mut self, id: &ResourceId, at: Now) -> Option<Instant> {
        let Waiter { waiting, tell } = self.waiting.get_mut(id)?;
        let (progress, again) = match self.led.get(id) {
            _ if self.told == Some(false) => {
                (Progress::Lost("its plugin cannot tell its route now".into()), None)
            }
            None if self.told.is_none() => (Progress::Waiting, None),
            None => (Progress::Lost("its plugin tells no route of it".into()), None),
            Some(led) => led.progress(at, waiting),
        };
        tell.send_if_modified(|known| {
            let differs = *known != progress;
            *known = progress;
            differs
        });
        again
    }

    /// Of whom a try waits.
    pub(super) fn waited_for(&self) -> Vec<ResourceId> {
        self.waiting.keys().cloned().collect()
    }
}

// === impl Confirmation ===

impl Confirmation {
    /// Waits until the route is led, or comes to nothing; never tells that it waits.
    pub async fn settled(&mut self) -> Progress {
        match self.progress.wait_for(|progress| *progress != Progress::Waiting).await {
            Ok(progress) => progress.clone(),
            Err(_) => Progress::Lost("this autoscaler stops".into()),
        }
    }

    /// Waits until it is led no more; why.
    pub async fn lost(&mut self) -> Progress {
        match self.progress.wait_for(|progress| *progress != Progress::Led).await {
            Ok(progress) => progress.clone(),
            Err(_) => Progress::Lost("this autoscaler stops".into()),
        }
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        let mut inner = self.routes.inner();
        inner.waiting.remove(&self.id);
        inner.dirty.insert(self.id.clone());
        drop(inner);
        self.routes.0.poked.notify_one();
    }
}
