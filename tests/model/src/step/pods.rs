//! Pods: stopped some time after they were scaled to zero, and known to each plugin by a watch of its own.

use super::Step;
use crate::{
    event::Event,
    fault::Fault,
    world::{Author, Kind, Old, Write},
};

// === impl Step ===

impl Step<'_> {
    /// Nothing is to run any more: what runs answers until it is stopped.
    pub(super) fn scale_to_zero(&mut self, old: Old) {
        if self.model.pods_lag {
            if self.world.store.up {
                (self.world.store.old, self.world.store.marked) = (old, false);
            }
            self.world.dlx.iter_mut().flatten().for_each(|dlx| dlx.pods.scale_to_zero());
        }
        self.world.store.up = false;
    }

    pub(super) fn stop_old(&mut self) -> bool {
        (self.world.store.old, self.world.store.marked) = (Old::Gone, false);
        true
    }

    pub(super) fn mark_old(&mut self) -> bool {
        self.world.store.marked = true;
        if (0..2).any(|d| self.world.write(Author::Wake(d)).is_some_and(|wake| wake.landed.is_none())) {
            self.note(Event::WakeWaited);
        }
        true
    }

    /// Whether a plugin may write a wake: it waits until the controller counts no pods, and until what it knows to be of before is
    /// being stopped. The leader's plugin knows of none.
    pub(super) fn may_wake(&self, author: Author, write: &Write) -> bool {
        let store = &self.world.store;
        let knows = match author {
            Author::Wake(d) => self.world.dlx[d].as_ref().is_some_and(|dlx| dlx.pods.old),
            _ if write.kind == Kind::WakeByLeader => false,
            _ => return true,
        };
        let counted = store.old == Old::Gone || store.marked || store.now.version != write.expected;
        !knows && counted || self.model.has(Fault::WakesOverOldPods)
    }

    pub(super) fn see_record(&mut self, d: usize, scaled: bool) {
        if self.model.pods_lag {
            let before = self.dlx(d).pods;
            self.dlx(d).pods.see_record(scaled);
            if self.dlx(d).pods.old_buried && !before.old_buried {
                self.note(Event::OldPodBuried);
            }
        }
    }

    pub(super) fn see_pods(&mut self, d: usize) -> bool {
        let store = self.world.store.clone();
        let before = self.dlx(d).pods;
        self.dlx(d).pods.see_pods(&store);
        self.dlx(d).pods != before
    }

    /// With replicas and pods that it believes to be of before: it asks which are alive now, past its cache.
    pub(super) fn list_pods(&mut self, d: usize) -> bool {
        if !self.model.pods_lag {
            return false;
        }
        let store = self.world.store.clone();
        let (before, zero) = (self.dlx(d).pods, self.dlx(d).pods.zero);
        self.dlx(d).pods.list(&store);
        // The records' watch is where it was.
        self.dlx(d).pods.zero = zero;
        if before.new_buried && self.dlx(d).pods.new && !self.dlx(d).pods.new_buried {
            self.note(Event::NewPodUnburied);
        }
        self.dlx(d).pods != before
    }
}
