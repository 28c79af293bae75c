//! What people and their tools do.

use scaler_types::Phase;

use super::{Step, take_one};
use crate::interception::{
    event::Event,
    world::{Direct, Service},
};

// === impl Step ===

impl Step<'_> {
    /// Server-side apply of the user's manifest. Not between the two writes of a commit: that takes milliseconds, and nothing could
    /// detect it.
    pub(super) fn remove_key(&mut self) -> bool {
        if self.world.service.key.is_none()
            || self.world.commits()
            || !take_one(&mut self.world.left.key_removals)
        {
            return false;
        }
        self.world.service = Service { key: None, version: self.nonce() };
        if self.is_draining() {
            self.note(Event::KeyRemovedDuringDrain);
        }
        true
    }

    pub(super) fn delete_slice(&mut self) -> bool {
        // Not between a commit's look at it and its write, as with the key.
        if self.world.slice.is_none()
            || self.world.has_read_slices()
            || !take_one(&mut self.world.left.deletes)
        {
            return false;
        }
        if self.world.service.key.is_some() {
            self.note(Event::SliceDeletedUnderKey);
        }
        self.world.slice = None;
        self.world.forgiven = true;
        self.publish_slices();
        true
    }

    /// The controller writes it again.
    pub(super) fn delete_own(&mut self) -> bool {
        if !self.world.own || !take_one(&mut self.world.left.own_deletes) {
            return false;
        }
        self.world.own = false;
        self.world.forgiven = true;
        self.publish_slices();
        true
    }

    pub(super) fn manual_zero(&mut self) -> bool {
        if !self.world.workload.scaled || !take_one(&mut self.world.left.zeros) {
            return false;
        }
        if self.is_draining() {
            self.note(Event::ZeroDuringDrain);
        }
        self.world.workload.scaled = false;
        self.world.up = false;
        self.world.committed = false;
        self.world.forgiven = true;
        self.world.direct = Direct::default();
        for dlx in self.world.dlxs.iter_mut().flatten() {
            dlx.in_flight = 0;
        }
        self.world.workload.version = self.version();
        true
    }

    /// From zero, or to another number.
    pub(super) fn manual_up(&mut self) -> bool {
        if !take_one(&mut self.world.left.ups) {
            return false;
        }
        if self.is_draining() {
            self.note(Event::ScaledDuringDrain);
        }
        self.scale_up();
        self.world.workload.version = self.version();
        true
    }

    /// An annotation: the version covers record and scale alone.
    pub(super) fn opt_out(&mut self) -> bool {
        if !self.world.asked || !take_one(&mut self.world.left.opt_outs) {
            return false;
        }
        self.world.asked = false;
        if self.is_draining() {
            self.note(Event::OptedOutDuringDrain);
        } else if self.world.workload.record.phase == Phase::Asleep {
            self.note(Event::OptedOutAsleep);
        }
        true
    }

    fn is_draining(&self) -> bool {
        self.world.workload.record.phase == Phase::Draining
    }
}
