//! Changes of the route: what is seen, decided on it, and written.

use scaler_types::{Leads, Path};

use super::{Done, Step};
use crate::route::{
    event::Event,
    fault::Fault,
    model::RouteIn,
    world::{self, Autoscaler, Call, Orphan, RouteWrite, Since, Slice, Switch, Told},
};

/// What became of a write.
enum Landed {
    /// The version was another by then.
    Conflict,
    /// The call goes on with this.
    Next(Call),
    /// The call is done.
    Done,
}

// === impl Step ===

impl Step<'_> {
    /// It sees the route; its clocks run or start anew.
    pub(super) fn look(&mut self, a: usize) -> bool {
        let world = &self.world;
        let Autoscaler { told, call, .. } = &world.autoscalers[a];
        // With the fault it sees the route once more, and goes by the row of before.
        let remembered =
            told.as_ref().map(|told| told.workload.clone()).filter(|_| self.has(Fault::RowFromMemory));
        if told.is_some() != remembered.is_some() || call.is_some() || !self.model.is_unsettled(world, a) {
            return false;
        }
        let told = Told {
            service: world.service.clone(),
            slice: world.slice.clone(),
            ready: world.up,
            asked: world.asked,
            serving: self.has(Fault::NamesFromMemory).then(|| world.serving()),
            workload: remembered.unwrap_or_else(|| world.workload.clone()),
        };
        let now = Since {
            service: world.service.version,
            slice: world.slice.as_ref().map(|slice| slice.version),
            workload: world.workload.version.clone(),
            grace: world.grace(),
            covered: false,
        };
        let leads = world.leads();
        let (forever, goes_on) = (self.has(Fault::KnowsForever), self.has(Fault::LedForGoesOn));
        let autoscaler = &mut self.world.autoscalers[a];
        let same =
            |own: &Since| (own.service, own.slice, &own.workload) == (now.service, now.slice, &now.workload);
        let own = autoscaler.own.take().filter(|own| forever || same(own)).unwrap_or_else(|| now.clone());
        autoscaler.own = Some(own).filter(|_| (leads == Leads::Both && told.ready) || forever);
        let led = autoscaler
            .led
            .take()
            .map(|led| if goes_on { Since { service: now.service, ..led } } else { led });
        let led = led.filter(|led| led.service == now.service).unwrap_or(now);
        autoscaler.led =
            Some(led).filter(|_| self.model.path == Path::Always && (leads == Leads::Dlx || goes_on));
        autoscaler.told = Some(told);
        true
    }

    /// It decides. Its plugin reads the row, and refuses if it is another by now: the route was told before that, so whoever
    /// writes it after a later row finds it changed, or makes this change find it so.
    pub(super) fn decide(&mut self, a: usize, dead: bool) -> bool {
        if self.has(Fault::NobodyTends) {
            return false;
        }
        let Some(told) = self.world.autoscalers[a].told.clone() else { return false };
        let serving = told.serving.unwrap_or_else(|| self.world.serving());
        if dead && serving != 0 {
            return false;
        }
        if told.workload.version != self.world.workload.version && !self.has(Fault::RowFromMemory) {
            self.world.autoscalers[a].told = None;
            return self.note(Event::StaleDropped);
        }
        let autoscaler = &self.world.autoscalers[a];
        let (service, slice) = (told.service.version, told.slice.as_ref().map(|slice| slice.version));
        let known = autoscaler.own.as_ref().is_some_and(|own| {
            // No write takes longer than the grace.
            let on_its_way = self.world.calls().any(|call| call.write == RouteWrite::Key);
            let same = (own.service == service && own.slice == slice) || self.has(Fault::KnowsForever);
            let waited = self.is_over(&own.grace) || self.has(Fault::GivesBackEarly);
            same && told.ready && waited && (!on_its_way || self.has(Fault::WritesOutlastGrace))
        });
        let confirmed = autoscaler.attempt.as_ref().is_some_and(|attempt| attempt.switch.is_some());
        let route = RouteIn {
            service: &told.service,
            slice: told.slice.as_ref(),
            asked: told.asked,
            ready: told.ready,
            known,
            confirmed,
            serving,
            dead,
        };
        let to = self.model.route_step(&told.workload, &route);
        let leads = world::leads(&told.service, told.slice.as_ref());
        let write = match to {
            // The try does that.
            Some(Leads::Dlx) if confirmed => None,
            Some(Leads::Dlx) if self.has(Fault::KeyFirst) => Some(RouteWrite::Key),
            Some(Leads::Dlx) if slice.is_some() && self.has(Fault::SliceNotRewritten) => {
                Some(RouteWrite::Key)
            }
            Some(Leads::Both) if self.has(Fault::RemovesSliceUnderKey) => Some(RouteWrite::NoSlice),
            Some(Leads::Dlx) => Some(RouteWrite::Slice),
            Some(Leads::Both) if slice.is_none() && serving != 0 => Some(RouteWrite::Slice),
            Some(Leads::Both) => Some(RouteWrite::NoKey),
            // The Service is read once more: the slice's version says nothing of the key.
            Some(Leads::Own)
                if service != self.world.service.version && !self.has(Fault::RemovesSliceUnread) =>
            {
                self.note(Event::RouteConflict);
                None
            }
            Some(Leads::Own) => Some(RouteWrite::NoSlice),
            None => self.model.tends(told.slice.as_ref(), serving).then_some(RouteWrite::Slice),
        };
        if dead && write.is_some() {
            self.note(Event::DeadMan);
        }
        if to == Some(Leads::Dlx) && leads == Leads::Own && self.model.path == Path::Always {
            self.note(Event::OptedIn);
        }
        let autoscaler = &mut self.world.autoscalers[a];
        autoscaler.told = None;
        autoscaler.call =
            write.map(|write| Call { to, write, service, slice, names: serving, switch: false });
        true
    }

    /// A write of its own call reaches the API.
    pub(super) fn land(&mut self, a: usize) -> bool {
        let Some(call) = self.world.autoscalers[a].call.take() else { return false };
        let switch = call.switch;
        match self.happen(&call) {
            Landed::Conflict if switch => {
                self.note(Event::SwitchConflict);
                self.not_switched(a);
            }
            Landed::Conflict => {
                self.note(Event::RouteConflict);
            }
            Landed::Next(call) => self.world.autoscalers[a].call = Some(call),
            Landed::Done if switch => self.switched(a, &call),
            Landed::Done => {}
        }
        true
    }

    pub(super) fn land_orphan(&mut self, o: usize) -> Done {
        let stands = match self.world.orphans.remove(o) {
            Orphan::Route(call) => !matches!(self.happen(&call), Landed::Conflict),
            Orphan::Commit(commit) => self.put_to_zero(&commit)?,
        };
        Ok(self.note(if stands { Event::OrphanLanded } else { Event::OrphanConflict }))
    }

    fn happen(&mut self, call: &Call) -> Landed {
        let slice = self.world.slice.as_ref().map(|slice| slice.version);
        let stands = match call.write {
            RouteWrite::Slice | RouteWrite::NoSlice => slice == call.slice,
            RouteWrite::Key | RouteWrite::NoKey => self.world.service.version == call.service,
        };
        if !stands && !self.has(Fault::WritesBlindly) {
            return Landed::Conflict;
        }
        let version = self.nonce();
        match call.write {
            RouteWrite::Slice => {
                self.world.slice = Some(Slice { names: call.names, version });
                for dlx in self.world.dlxs.iter_mut().flatten().filter(|dlx| dlx.bit & call.names != 0) {
                    if dlx.unnamed.take().is_some() {
                        self.events |= Event::NamedAgain.bit();
                    }
                }
            }
            RouteWrite::NoSlice => {
                let live = self.world.dlxs.iter().flatten().fold(0, |all, dlx| all | dlx.bit);
                let named = self.world.slice.take().map_or(0, |slice| slice.names);
                self.world.forgiven |= named & live == 0;
                self.note(Event::GivenBack);
            }
            RouteWrite::Key => {
                if !self.world.service.key && slice.is_some() && !call.switch {
                    self.note(Event::PutBack);
                }
                (self.world.service.key, self.world.service.version) = (true, version);
            }
            RouteWrite::NoKey => {
                (self.world.service.key, self.world.service.version) = (false, version);
                self.note(Event::LedToBoth);
            }
        }
        self.tell();
        let next = match (call.write, call.to) {
            (RouteWrite::Slice, Some(Leads::Dlx)) if !self.has(Fault::KeyFirst) => RouteWrite::Key,
            (RouteWrite::Key, _) if self.has(Fault::KeyFirst) => RouteWrite::Slice,
            (RouteWrite::Slice, Some(Leads::Both)) => RouteWrite::NoKey,
            (RouteWrite::Slice, None) => {
                self.note(Event::Tended);
                return Landed::Done;
            }
            _ => return Landed::Done,
        };
        Landed::Next(Call { write: next, ..call.clone() })
    }

    /// The try's own change of the route.
    pub(super) fn switch(&mut self, a: usize) -> bool {
        let Autoscaler { call, attempt: Some(attempt), .. } = &self.world.autoscalers[a] else {
            return false;
        };
        if call.is_some() || !matches!(attempt.switch, Some(Switch::Ordered)) {
            return false;
        }
        let begun_on = attempt.service;
        let world = &self.world;
        let (names, leads) = (world.serving(), world.leads());
        let slice = world.slice.as_ref().map(|slice| slice.version);
        if names == 0 {
            self.not_switched(a);
            return true;
        }
        let always = self.model.path == Path::Always;
        if leads == Leads::Dlx && slice.is_some() && !always {
            self.note(Event::SwitchedAgain);
        }
        let call = Call {
            to: Some(Leads::Dlx),
            write: if always || (slice.is_some() && self.has(Fault::SliceNotRewritten)) {
                RouteWrite::Key
            } else {
                RouteWrite::Slice
            },
            // On path always nothing has happened to it since the decision to put it to zero.
            service: if always { begun_on } else { self.world.service.version },
            slice,
            names,
            switch: true,
        };
        if leads == Leads::Dlx && slice.is_some() && self.has(Fault::SwitchNotRewritten) {
            self.switched(a, &call);
        } else {
            self.world.autoscalers[a].call = Some(call);
        }
        true
    }
}
