//! Changes of the route: what is seen, decided on it, and written.

use scaler_types::{Leads, Path, Version};

use super::{Done, Step};
use crate::route::{
    event::Event,
    fault::Fault,
    leader::{Autoscaler, Call, LedSince, Orphan, OwnSince, RouteWrite, Switch, Told},
    model::RouteIn,
    world::{self, Slice},
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
        let leads = world.leads();
        self.run_own(a, leads == Leads::Both && told.ready, &told.workload.version);
        self.run_led(a, leads == Leads::Dlx);
        self.world.autoscalers[a].told = Some(told);
        true
    }

    /// The clock of its pods: it runs while the route leads to both and they are ready, for one version of the row.
    fn run_own(&mut self, a: usize, runs: bool, version: &Version) {
        let forever = self.has(Fault::KnowsForever);
        let own = self.world.autoscalers[a].own.take().filter(|own| forever || own.version == *version);
        let begins = runs && own.is_none();
        let begun = OwnSince { version: version.clone(), grace: self.world.grace() };
        self.world.autoscalers[a].own = own.or(Some(begun)).filter(|_| runs || forever);
        if begins {
            // What is on its way now has ended when the clock's time is over.
            self.world.calls_mut().for_each(|call| call.before[a] = true);
        }
    }

    /// The clock of a led Service: for one version of it.
    fn run_led(&mut self, a: usize, runs: bool) {
        let goes_on = self.has(Fault::LedForGoesOn);
        let service = self.world.service.version;
        let led = self.world.autoscalers[a].led.take().filter(|led| goes_on || led.service == service);
        let begun = LedSince { service, grace: self.world.grace(), covered: false };
        let led = led.map(|led| LedSince { service, ..led }).unwrap_or(begun);
        self.world.autoscalers[a].led =
            Some(led).filter(|_| self.model.path == Path::Always && (runs || goes_on));
    }

    /// It decides. Its plugin reads the row, and refuses if it is another by now: the route was told before that, so whoever
    /// writes it after a later row finds it changed, or makes this change find it so.
    pub(super) fn decide(&mut self, a: usize, dead: bool) -> bool {
        let Some(told) = self.world.autoscalers[a].told.clone() else { return false };
        let serving = told.serving.unwrap_or_else(|| self.world.serving());
        // For longer than any call takes.
        let dies = serving == 0 && self.world.calls().all(|call| call.to != Some(Leads::Dlx));
        if self.has(Fault::NobodyTends) || (dead && !dies) {
            return false;
        }
        self.world.autoscalers[a].told = None;
        if told.workload.version != self.world.workload.version && !self.has(Fault::RowFromMemory) {
            return self.note(Event::StaleDropped);
        }
        let autoscaler = &self.world.autoscalers[a];
        let route = RouteIn {
            service: &told.service,
            slice: told.slice.as_ref(),
            asked: told.asked,
            ready: told.ready,
            known: told.ready && self.is_known(a),
            confirmed: autoscaler.attempt.as_ref().is_some_and(|attempt| attempt.switch.is_some()),
            serving,
            dead,
        };
        let to = self.model.route_step(&told.workload, &route);
        // A try does that itself; and whether it is asked for is read with the row.
        let drops = to == Some(Leads::Dlx) && (route.confirmed || (told.asked && !self.world.asked));
        let write = if drops { None } else { self.first_write(to, &told, serving) };
        let Some(write) = write else { return true };
        if dead {
            self.note(Event::DeadMan);
        }
        if to == Some(Leads::Dlx) && world::leads(&told.service, told.slice.as_ref()) == Leads::Own {
            self.note(Event::Led);
        }
        let slice = told.slice.as_ref().map(|slice| slice.version);
        let forever = self.has(Fault::KnowsForever);
        let autoscaler = &mut self.world.autoscalers[a];
        autoscaler.call = Some(Call::new(to, write, told.service.version, slice, serving));
        // What it changes itself is known anew.
        autoscaler.own = autoscaler.own.take().filter(|_| forever);
        true
    }

    /// Whether the time to know the pods is over.
    fn is_known(&self, a: usize) -> bool {
        let Some(own) = &self.world.autoscalers[a].own else { return false };
        // No call takes longer than the grace.
        let on_its_way = self.world.calls().any(|call| call.to == Some(Leads::Dlx) && call.before[a]);
        let waited = self.is_over(&own.grace) || self.has(Fault::GivesBackEarly);
        waited && (!on_its_way || self.has(Fault::WritesOutlastGrace))
    }

    fn first_write(&mut self, to: Option<Leads>, told: &Told, serving: world::Dlxs) -> Option<RouteWrite> {
        match to {
            Some(Leads::Dlx) if self.has(Fault::KeyFirst) => Some(RouteWrite::Key),
            Some(Leads::Dlx) if told.slice.is_some() && self.has(Fault::SliceNotRewritten) => {
                Some(RouteWrite::Key)
            }
            Some(Leads::Both) if self.has(Fault::RemovesSliceUnderKey) => Some(RouteWrite::NoSlice),
            Some(Leads::Dlx) => Some(RouteWrite::Slice),
            Some(Leads::Both) if told.slice.is_none() && serving != 0 => Some(RouteWrite::Slice),
            Some(Leads::Both) => Some(RouteWrite::NoKey),
            Some(Leads::Own) => self.may_remove().then_some(RouteWrite::NoSlice),
            None => self.model.tends(told.slice.as_ref(), serving).then_some(RouteWrite::Slice),
        }
    }

    /// The last look before our slice is removed: its own version says nothing of the others.
    fn may_remove(&mut self) -> bool {
        let key = self.world.service.key && !self.has(Fault::RemovesSliceUnread);
        let unseen = self.has(Fault::RemovesSliceUnseen) || self.has(Fault::GivesBackEarly);
        let nobody = !self.world.own && !unseen;
        if key || nobody {
            self.note(Event::RemovalRefused);
        }
        !key && !nobody
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
        let (begun_on, is_own) = (attempt.service, attempt.nonce == self.world.workload.row.nonce);
        let world = &self.world;
        let (names, leads) = (world.serving(), world.leads());
        let slice = world.slice.as_ref().map(|slice| slice.version);
        // Its plugin reads the row, as for every change.
        if names == 0 || (!is_own && !self.has(Fault::RowFromMemory)) {
            self.not_switched(a);
            return true;
        }
        let always = self.model.path == Path::Always;
        if leads == Leads::Dlx && slice.is_some() && !always {
            self.note(Event::SwitchedAgain);
        }
        let write = if always || (slice.is_some() && self.has(Fault::SliceNotRewritten)) {
            RouteWrite::Key
        } else {
            RouteWrite::Slice
        };
        // On path always nothing has happened to it since the decision to put it to zero.
        let service = if always { begun_on } else { self.world.service.version };
        let call = Call { switch: true, ..Call::new(Some(Leads::Dlx), write, service, slice, names) };
        if leads == Leads::Dlx && slice.is_some() && self.has(Fault::SwitchNotRewritten) {
            self.switched(a, &call);
        } else {
            self.world.autoscalers[a].call = Some(call);
        }
        true
    }
}
