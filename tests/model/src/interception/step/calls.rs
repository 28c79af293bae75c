//! The calls of a plugin that change an interception: each request of one a step of its own.

use scaler_types::{Backend, Phase, TrafficMode};

use super::{Done, Step};
use crate::interception::{
    event::Event,
    fault::Fault,
    leader::{Call, CallStep, CommitStep, Orphan},
    world::{INTERCEPTED, Service, Slice},
};

/// What became of a request.
enum Landed {
    /// It found something else than it was made for.
    Conflict,
    /// The call goes on with this.
    Next(Call),
    /// The call is done.
    Done,
}

// === impl Step ===

impl Step<'_> {
    /// What a call does first, on what it has read; `None`: everything is there already.
    pub(super) fn first(&mut self, call: &Call) -> Option<CallStep> {
        let slice = self.world.slice.clone();
        let named = slice.as_ref().is_some_and(|slice| slice.names == call.names);
        let intercepted = self.world.service.key.is_some();
        match call.to {
            Some(Backend::Dlx) if !self.asks() => {
                self.note(Event::StaleDropped);
                None
            }
            Some(Backend::Dlx) if named || self.has(Fault::KeyFirst) => {
                (!intercepted).then_some(CallStep::Key)
            }
            Some(Backend::Dlx) => Some(CallStep::Slice),
            Some(Backend::Both) if self.has(Fault::RemovesSliceUnderKey) => Some(CallStep::NoSlice),
            Some(Backend::Both) if slice.is_none() && call.names != 0 => Some(CallStep::Slice),
            Some(Backend::Both) => intercepted.then(|| self.first_of_removal()),
            Some(Backend::Workload) => Some(CallStep::ReadRemoval),
            Some(Backend::Unknown) => None,
            None => (slice.is_some() && !named).then_some(CallStep::Slice),
        }
    }

    /// The workload is read too: in traffic mode `when-asleep` pods that are not to be scaled to zero take their requests themselves.
    fn asks(&self) -> bool {
        let workload = &self.world.workload;
        self.model.traffic_mode == TrafficMode::Always
            || !workload.scaled
            || workload.record.phase == Phase::Draining
            || self.has(Fault::InterceptsUnread)
    }

    fn first_of_removal(&self) -> CallStep {
        match self.has(Fault::ReadsWorkloadFirst) {
            true => CallStep::ReadWorkload,
            false => CallStep::ReadService,
        }
    }

    /// A request of its own call reaches the API.
    pub(super) fn land(&mut self, a: usize) -> bool {
        let Some(call) = self.world.autoscalers[a].call.take() else { return false };
        match self.happen(&call) {
            Landed::Conflict => {
                self.note(Event::CallConflict);
            }
            Landed::Next(call) => self.world.autoscalers[a].call = Some(call),
            Landed::Done => {}
        }
        true
    }

    pub(super) fn land_orphan(&mut self, o: usize) -> Done {
        let stands = match self.world.orphans.remove(o) {
            Orphan::Call(call) => !matches!(self.happen(&call), Landed::Conflict),
            Orphan::Commit(commit) if commit.at == CommitStep::Stamp => self.put_stamp(&commit),
            Orphan::Commit(commit) => self.scale_to_zero(&commit)?,
        };
        Ok(self.note(if stands { Event::OrphanLanded } else { Event::OrphanConflict }))
    }

    fn happen(&mut self, call: &Call) -> Landed {
        let next = |at| Landed::Next(Call { at, ..call.clone() });
        match call.at {
            CallStep::Slice => self.write_slice(call),
            CallStep::Key => {
                if self.world.service.version != call.service.version && !self.has(Fault::WritesBlindly) {
                    return Landed::Conflict;
                }
                if self.world.service.key.is_none() && call.slice.is_some() {
                    self.note(Event::KeyAddedAgain);
                }
                self.world.service = Service { key: Some(INTERCEPTED), version: self.nonce() };
                if self.has(Fault::KeyFirst) { next(CallStep::Slice) } else { Landed::Done }
            }
            CallStep::ReadService => {
                let service = self.world.service.clone();
                let at = match self.has(Fault::WorkloadNotRead) || self.has(Fault::ReadsWorkloadFirst) {
                    true => CallStep::NoKey,
                    false => CallStep::ReadWorkload,
                };
                match service.key {
                    Some(_) => Landed::Next(Call { at, service, ..call.clone() }),
                    None => Landed::Done,
                }
            }
            CallStep::ReadWorkload => {
                let workload = &self.world.workload;
                if workload.record.phase == Phase::Draining && workload.scaled {
                    self.note(Event::KeyStays);
                    return Landed::Conflict;
                }
                next(if self.has(Fault::ReadsWorkloadFirst) {
                    CallStep::ReadService
                } else {
                    CallStep::NoKey
                })
            }
            CallStep::NoKey => {
                let same = self.world.service.key == call.service.key;
                let blind = self.has(Fault::WritesBlindly) || self.has(Fault::RetriesRemoval);
                if self.world.service.key.is_none() || (!same && !blind) {
                    return Landed::Conflict;
                }
                self.world.service = Service { key: None, version: self.nonce() };
                self.note(Event::SwitchedToBoth);
                Landed::Done
            }
            CallStep::ReadRemoval => self.read_removal(call),
            CallStep::NoSlice => {
                let slice = self.world.slice.as_ref().map(|slice| slice.version);
                if slice != call.slice && !self.has(Fault::WritesBlindly) {
                    return Landed::Conflict;
                }
                let live = self.world.dlxs.iter().flatten().fold(0, |all, dlx| all | dlx.bit);
                let named = self.world.slice.take().map_or(0, |slice| slice.names);
                self.world.forgiven |= named & live == 0;
                self.publish_slices();
                self.note(Event::Restored);
                Landed::Done
            }
        }
    }

    fn write_slice(&mut self, call: &Call) -> Landed {
        let slice = self.world.slice.as_ref().map(|slice| slice.version);
        if slice != call.slice && !self.has(Fault::WritesBlindly) {
            return Landed::Conflict;
        }
        self.world.slice = Some(Slice { names: call.names, version: self.nonce() });
        for dlx in self.world.dlxs.iter_mut().flatten().filter(|dlx| dlx.bit & call.names != 0) {
            if dlx.unnamed.take().is_some() {
                self.events |= Event::NamedAgain.bit();
            }
        }
        self.publish_slices();
        let at = match call.to {
            Some(Backend::Dlx) if call.service.key.is_none() && !self.has(Fault::KeyFirst) => CallStep::Key,
            Some(Backend::Both) => self.first_of_removal(),
            None => {
                self.note(Event::SlicesUpdated);
                return Landed::Done;
            }
            _ => return Landed::Done,
        };
        Landed::Next(Call { at, ..call.clone() })
    }

    /// The Service is read, which must be the one that was seen, and have no key; whether the controller's slice names the pods
    /// its plugin has seen before, as well as which slice of ours that is to be removed.
    fn read_removal(&mut self, call: &Call) -> Landed {
        let service = &self.world.service;
        let same = service.version == call.seen.0 || self.has(Fault::RemovesSliceOfAnotherService);
        let unseen = self.has(Fault::RemovesSliceUnseen) || self.has(Fault::RestoresEarly);
        if service.key.is_some() || !same || (!call.own && !unseen) {
            self.note(Event::RemovalRefused);
            return Landed::Conflict;
        }
        let slice = match self.has(Fault::RemovesAnotherSlice) {
            true => self.world.slice.as_ref().map(|slice| slice.version),
            false => call.seen.1,
        };
        Landed::Next(Call { at: CallStep::NoSlice, slice, ..call.clone() })
    }
}
