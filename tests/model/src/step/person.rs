//! What a person does.

use scaler_types::Phase;

use super::Step;
use crate::{event::Event, fault::Fault, world::Old};

// === impl Step ===

impl Step<'_> {
    pub(super) fn manual_zero(&mut self) -> bool {
        self.world.left.zeros -= 1;
        if self.world.store.now.record.phase == Phase::Draining {
            self.note(Event::ZeroDuringDrain);
        }
        let again = self.model.has(Fault::SendsAgain);
        self.world.store.now.scaled = false;
        self.scale_to_zero(Old::Manual);
        self.world.store.committed = false;
        for dlx in self.world.dlx.iter_mut().flatten() {
            let cut = std::mem::take(&mut dlx.reached);
            if again && cut > 0 {
                (dlx.held, dlx.mark) = (dlx.held + cut, true);
            }
        }
        self.changed();
        true
    }

    pub(super) fn manual_scale(&mut self) -> bool {
        self.world.left.others -= 1;
        self.world.store.now.scaled = true;
        self.world.store.committed = false;
        self.changed();
        true
    }

    pub(super) fn undo(&mut self) -> bool {
        self.world.left.undos -= 1;
        let Some(record) = self.world.kept.take() else { return false };
        self.note(Event::Undone);
        if self.world.store.now.record.phase == Phase::Draining {
            self.note(Event::UndoneDuringDrain);
        }
        self.world.store.now.record = record;
        self.changed();
        true
    }
}
