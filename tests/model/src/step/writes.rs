//! Writes: on their way, in the store, their answers on the way back.

use scaler_types::{
    Phase, Version,
    protocol::{self, DrainInput, GateInput, Unwritten, transition},
};

use super::{Done, Step};
use crate::{
    event::Event,
    fault::Fault,
    world::{Author, Kind, Old, Write},
};

// === impl Step ===

impl Step<'_> {
    pub(super) fn land(&mut self, author: Author) -> Done {
        let Some(write) = self.world.write(author).cloned().filter(|write| write.landed.is_none()) else {
            return Ok(false);
        };
        if !self.may_wake(author, &write) {
            return Ok(false);
        }
        let blind = match write.kind {
            Kind::Commit => !self.model.rules.commit_tests_version,
            Kind::WakeByLeader => self.model.has(Fault::WakesBlindly),
            _ => false,
        };
        let stands = self.world.store.now.version == write.expected || blind;
        if !stands {
            self.overtaken(&write)?;
        }
        let version = if stands { Some(self.happen(author, &write)?) } else { None };
        if let Author::Orphan(orphan) = author {
            self.world.orphans.remove(orphan);
            if stands {
                self.note(Event::OrphanLanded);
            }
        } else if let Author::Recovery(a) = author {
            // Its answer changes nothing: the next look at the record says what is to be done.
            self.world.autoscalers[a].recovery = None;
        } else if let Author::Scale(a) = author {
            self.world.autoscalers[a].scale = None;
        } else if let Some(Some(write)) = self.world.write_mut(author) {
            write.landed = Some(version);
        }
        Ok(true)
    }

    /// The write finds another version. A plugin takes a resize whose record is there for done: a call that was cut off has been
    /// repeated. Only while waking, where the record says nothing, it looks at the replicas.
    fn overtaken(&mut self, write: &Write) -> Result<(), String> {
        let store = &self.world.store;
        let (same_record, drains) = (store.now.record == write.record, write.record.phase == Phase::Draining);
        match write.kind {
            Kind::Resize(replicas) => {
                let by_record =
                    write.record.phase != Phase::Waking || self.model.has(Fault::ResizeTrustsRecord);
                if same_record && by_record && store.replicas != replicas {
                    return Err("a resize that did not happen is taken for done".into());
                }
                self.note(Event::ResizeConflict);
            }
            Kind::WakeByLeader => {
                self.note(Event::LeaderWakeConflict);
            }
            Kind::Record if drains && store.resized => {
                self.note(Event::ResizeBeatDrain);
            }
            Kind::Commit if store.resized => {
                self.note(Event::CommitAfterResize);
            }
            _ => {}
        }
        Ok(())
    }

    /// The write happens, record and scale in one step.
    pub(super) fn happen(&mut self, author: Author, write: &Write) -> Result<Version, String> {
        let from = self.world.store.now.record.phase;
        if matches!(author, Author::Recovery(_)) {
            let deserted = self.world.autoscalers.iter().all(|autoscaler| autoscaler.attempt.is_none());
            match from {
                Phase::Draining if deserted => self.note(Event::StaleDrainRecovered),
                Phase::Asleep => self.note(Event::ScaledUpManually),
                _ => false,
            };
        }
        if matches!(author, Author::Gate(_)) && from == Phase::Draining {
            self.note(Event::RevertedByRequest);
        }
        let frozen = self.world.dlx.iter().flatten().any(|dlx| dlx.frozen);
        if frozen && write.record.phase == Phase::Draining {
            self.note(Event::DrainBesideUnreachable);
        }
        match write.kind {
            Kind::Record => {
                let drains = write.record.phase == Phase::Draining;
                if drains && from == Phase::Failed {
                    self.note(Event::DrainedFailed);
                }
                self.world.store.resized &= !drains;
            }
            Kind::Resize(replicas) => {
                let now = &self.world.store.now;
                if transition(now, protocol::Step::Resize, write.record.nonce, "").is_none() {
                    return Err(format!("a resize changes what is {from}"));
                }
                self.note(if from == Phase::Waking { Event::ResizedWaking } else { Event::Resized });
                (self.world.store.replicas, self.world.store.resized) = (replicas, true);
            }
            Kind::WakeByLeader => {
                let now = &self.world.store.now;
                if transition(now, protocol::Step::WakeByLeader, write.record.nonce, "").is_none() {
                    return Err(format!("a wake by the leader changes what is {from}"));
                }
                self.note(Event::WokenByLeader);
                if self.world.dlx.iter().flatten().any(|dlx| dlx.held > 0) {
                    self.note(Event::WokenBesideRequest);
                }
                if from == Phase::Failed && self.world.store.now.scaled && self.world.store.up {
                    self.note(Event::FailedResumed);
                }
                self.world.store.now.scaled = true;
                self.world.store.committed = false;
            }
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
                if self.world.store.resized {
                    return Err(
                        "a commit takes the replicas that a resize gave after its drain attempt began".into(),
                    );
                }
                let live = || self.world.dlx.iter().flatten();
                if self.model.cuts_count && live().any(|dlx| dlx.reached > 0) {
                    return Err("a commit cuts a request in flight".into());
                }
                if live().any(|dlx| dlx.frozen && self.model.open(dlx)) {
                    return Err("a commit takes no answer of a DLX for its confirmation".into());
                }
                if live().any(|dlx| dlx.gate.seen().is_none()) {
                    self.note(Event::CommittedPastJoiner);
                }
                self.world.store.now.scaled = false;
                self.scale_to_zero(Old::ByCommit);
                self.world.store.committed = true;
            }
        }
        self.world.store.now.record = write.record.clone();
        Ok(self.changed())
    }

    /// Record or scale have changed: a new version, delivered to every follower.
    pub(super) fn changed(&mut self) -> Version {
        let version = self.version();
        self.world.store.now.version = version.clone();
        let now = self.world.store.now.clone();
        for dlx in self.world.dlx.iter_mut().flatten().filter(|dlx| dlx.following) {
            dlx.stream.push(now.clone());
        }
        version
    }

    pub(super) fn answer(&mut self, author: Author) -> bool {
        if self.is_frozen(author) {
            return false;
        }
        let Some(write) = self.world.write_mut(author).and_then(Option::take) else { return false };
        let result = write.landed.clone().flatten().ok_or(Unwritten::Conflict);
        self.ended(author, write, result);
        true
    }

    pub(super) fn lose(&mut self, author: Author) -> bool {
        if self.is_frozen(author) {
            return false;
        }
        self.world.left.unknowns -= 1;
        let Some(write) = self.world.write_mut(author).and_then(Option::take) else { return false };
        match author {
            Author::Wake(_) => self.note(Event::WakeUnknown),
            Author::Drain(_) if write.kind == Kind::Commit => self.note(Event::CommitUnknown),
            _ => true,
        };
        if write.landed.is_none() {
            self.world.orphans.push(write.clone());
        }
        let done = self.model.has(Fault::UnknownIsDone) && matches!(author, Author::Gate(_));
        let result = if done { Ok(self.version()) } else { Err(Unwritten::Unknown) };
        self.ended(author, write, result);
        true
    }

    /// The author of a write learns its result.
    pub(super) fn ended(&mut self, author: Author, write: Write, result: Result<Version, Unwritten>) {
        let Write { kind, expected, record, .. } = write;
        let fresh = self.nonce();
        match author {
            Author::Gate(d) => {
                let version = result.clone().ok();
                self.gate(d, GateInput::Wrote { expected, record, result });
                let seen = self.dlx(d).gate.seen().map(|seen| seen.version.clone());
                if version.is_some() && version != seen {
                    self.note(Event::OwnWriteOvertaken);
                }
            }
            Author::Wake(d) => {
                self.gate(d, GateInput::Woke { terminal: None, fresh });
            }
            Author::Drain(a) if kind == Kind::Commit => {
                if result == Err(Unwritten::Conflict) {
                    self.note(Event::CommitConflict);
                }
                self.drain(a, DrainInput::Scaled { result: result.map(|_| ()), fresh });
            }
            Author::Drain(a) => {
                self.drain(a, DrainInput::Wrote(result));
            }
            Author::Recovery(_) | Author::Scale(_) | Author::Orphan(_) => {}
        }
    }

    pub(super) fn orphan(&mut self, author: Author) {
        let write = self.world.write_mut(author).and_then(Option::take);
        self.world.orphans.extend(write.filter(|write| write.landed.is_none()));
    }
}
