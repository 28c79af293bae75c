//! Writes: on their way, in the store, their answers on the way back.

use scaler_types::{
    Phase, Version,
    protocol::{DrainInput, GateInput, Unwritten},
};

use super::{Done, Step};
use crate::{
    event::Event,
    fault::Fault,
    world::{Kind, Old, Who, Write},
};

// === impl Step ===

impl Step<'_> {
    pub(super) fn land(&mut self, who: Who) -> Done {
        let Some(write) = self.world.write(who).cloned().filter(|write| write.landed.is_none()) else {
            return Ok(false);
        };
        if !self.may_wake(who) {
            return Ok(false);
        }
        let blind = write.kind == Kind::Commit && !self.model.rules.commit_tests_version;
        let stands = self.world.store.now.version == write.expected || blind;
        let version = if stands { Some(self.happen(who, &write)?) } else { None };
        if let Who::Orphan(orphan) = who {
            self.world.orphans.remove(orphan);
            if stands {
                self.note(Event::OrphanLanded);
            }
        } else if let Who::Recovery(a) = who {
            // Its answer changes nothing: the next look at the record says what is to be done.
            self.world.autoscalers[a].recovery = None;
        } else if let Some(Some(write)) = self.world.write_mut(who) {
            write.landed = Some(version);
        }
        Ok(true)
    }

    /// The write happens, record and scale in one step.
    pub(super) fn happen(&mut self, who: Who, write: &Write) -> Result<Version, String> {
        let from = self.world.store.now.record.phase;
        if matches!(who, Who::Recovery(_)) {
            let deserted = self.world.autoscalers.iter().all(|autoscaler| autoscaler.attempt.is_none());
            match from {
                Phase::Draining if deserted => self.note(Event::LeftBehindRecovered),
                Phase::Asleep => self.note(Event::WokenByHand),
                _ => false,
            };
        }
        if matches!(who, Who::Gate(_)) && from == Phase::Draining {
            self.note(Event::RevertedByRequest);
        }
        let silent = self.world.dlx.iter().flatten().any(|dlx| dlx.silent);
        if silent && write.record.phase == Phase::Draining {
            self.note(Event::FencedOverSilence);
        }
        match write.kind {
            Kind::Record if write.record.phase == Phase::Draining && from == Phase::Failed => {
                self.note(Event::FencedFailed);
            }
            Kind::Record => {}
            Kind::Wake => {
                if from == Phase::Asleep {
                    self.note(Event::WokenByRequest);
                }
                if from == Phase::Failed && self.world.store.now.scaled {
                    self.note(Event::FailedWoken);
                }
                if from == Phase::Failed && self.world.store.up {
                    self.note(Event::FailedWokenUp);
                }
                self.world.store.now.scaled = true;
                self.world.store.committed = false;
            }
            Kind::Commit => {
                self.note(Event::Committed);
                let live = || self.world.dlx.iter().flatten();
                if self.model.cuts_count && live().any(|dlx| dlx.reached > 0) {
                    return Err("a commit cuts a request in flight".into());
                }
                if live().any(|dlx| dlx.silent && self.model.open(dlx)) {
                    return Err("a commit takes a DLX's silence for its consent".into());
                }
                if live().any(|dlx| dlx.gate.seen().is_none()) {
                    self.note(Event::CommittedPastJoiner);
                }
                self.world.store.now.scaled = false;
                self.put_to_zero(Old::ByCommit);
                self.world.store.committed = true;
            }
        }
        self.world.store.now.record = write.record.clone();
        Ok(self.changed())
    }

    /// Record or scale are others now: a new version, told to all who follow.
    pub(super) fn changed(&mut self) -> Version {
        let version = self.version();
        self.world.store.now.version = version.clone();
        let now = self.world.store.now.clone();
        for dlx in self.world.dlx.iter_mut().flatten().filter(|dlx| dlx.following) {
            dlx.stream.push(now.clone());
        }
        version
    }

    pub(super) fn answer(&mut self, who: Who) -> bool {
        if self.deaf(who) {
            return false;
        }
        let Some(write) = self.world.write_mut(who).and_then(Option::take) else { return false };
        let result = write.landed.clone().flatten().ok_or(Unwritten::Conflict);
        self.ended(who, write, result);
        true
    }

    pub(super) fn lose(&mut self, who: Who) -> bool {
        if self.deaf(who) {
            return false;
        }
        self.world.left.unknowns -= 1;
        let Some(write) = self.world.write_mut(who).and_then(Option::take) else { return false };
        match who {
            Who::Wake(_) => self.note(Event::WakeUnknown),
            Who::Drain(_) if write.kind == Kind::Commit => self.note(Event::CommitUnknown),
            _ => true,
        };
        if write.landed.is_none() {
            self.world.orphans.push(write.clone());
        }
        let done = self.model.has(Fault::UnknownIsDone) && matches!(who, Who::Gate(_));
        let result = if done { Ok(self.version()) } else { Err(Unwritten::Unknown) };
        self.ended(who, write, result);
        true
    }

    /// The end of a write is told to whose it was.
    pub(super) fn ended(&mut self, who: Who, write: Write, result: Result<Version, Unwritten>) {
        let Write { kind, expected, record, .. } = write;
        let fresh = self.nonce();
        match who {
            Who::Gate(d) => {
                let version = result.clone().ok();
                self.gate(d, GateInput::Wrote { expected, record, result });
                let seen = self.dlx(d).gate.seen().map(|seen| seen.version.clone());
                if version.is_some() && version != seen {
                    self.note(Event::OwnWriteOvertaken);
                }
            }
            Who::Wake(d) => {
                self.gate(d, GateInput::Woke { terminal: None, fresh });
            }
            Who::Drain(a) if kind == Kind::Commit => {
                if result == Err(Unwritten::Conflict) {
                    self.note(Event::CommitConflict);
                }
                self.fence(a, DrainInput::Scaled(result.map(|_| ())));
            }
            Who::Drain(a) => {
                self.fence(a, DrainInput::Wrote(result));
            }
            Who::Recovery(_) | Who::Orphan(_) => {}
        }
    }

    pub(super) fn orphan(&mut self, who: Who) {
        let write = self.world.write_mut(who).and_then(Option::take);
        self.world.orphans.extend(write.filter(|write| write.landed.is_none()));
    }
}
