//! Changes of the route: what is seen, and decided on it.

use scaler_types::{Backend, TrafficMode, Version};

use super::Step;
use crate::route::{
    event::Event,
    fault::Fault,
    leader::{Autoscaler, Call, CallStep, LedSince, OwnSince, Told},
    model::RouteIn,
};

// === impl Step ===

impl Step<'_> {
    /// It sees the route; its clocks run or start anew.
    pub(super) fn look(&mut self, a: usize) -> bool {
        let world = &self.world;
        let Autoscaler { told, call, .. } = &world.autoscalers[a];
        if told.is_some() || call.is_some() || !self.model.is_unsettled(world, a) {
            return false;
        }
        let told = Told {
            service: world.service.clone(),
            slice: world.slice.clone(),
            ready: world.up,
            own: world.own,
            asked: world.asked,
            serving: self.has(Fault::NamesFromMemory).then(|| world.serving()),
            workload: world.workload.clone(),
        };
        let leads = world.leads();
        self.run_own(a, leads == Backend::Both && told.ready, &told.workload.version);
        self.run_led(a, leads == Backend::Dlx);
        self.saw_route(a, &told);
        self.world.autoscalers[a].told = Some(told);
        true
    }

    /// The clock of its pods: it runs while the route leads to both and they are ready, for one version of the record.
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
            Some(led).filter(|_| self.model.path == TrafficMode::Always && (runs || goes_on));
    }

    /// It decides on what it saw, and its plugin reads Service and slice for the call.
    pub(super) fn decide(&mut self, a: usize, dead: bool) -> bool {
        let Some(told) = self.world.autoscalers[a].told.clone() else { return false };
        let serving = told.serving.unwrap_or_else(|| self.world.serving());
        // For longer than any call takes.
        let dies = serving == 0 && self.world.calls().all(|call| call.to != Some(Backend::Dlx));
        if self.has(Fault::NobodyTends) || (dead && !dies) {
            return false;
        }
        self.world.autoscalers[a].told = None;
        let confirmed = self.world.autoscalers[a]
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.switch.is_some() && attempt.nonce == told.workload.record.nonce);
        let route = RouteIn {
            service: &told.service,
            slice: told.slice.as_ref(),
            asked: told.asked,
            ready: told.ready,
            known: told.ready && self.is_known(a),
            confirmed,
            serving,
            dead,
        };
        let to = self.model.interception_step(&told.workload, &route);
        if to.is_none() && !self.model.tends(told.slice.as_ref(), serving) {
            return true;
        }
        let call = Call {
            to,
            at: CallStep::Slice,
            service: self.world.service.clone(),
            slice: self.world.slice.as_ref().map(|slice| slice.version),
            names: serving,
            own: told.own,
            seen: (told.service.version, told.slice.as_ref().map(|slice| slice.version)),
            before: [false; 2],
        };
        let Some(at) = self.first(&call) else { return true };
        if dead {
            self.note(Event::DeadMan);
        }
        if to == Some(Backend::Dlx) && !confirmed && self.world.leads() == Backend::Workload {
            self.note(Event::Led);
        }
        let forever = self.has(Fault::KnowsForever);
        let autoscaler = &mut self.world.autoscalers[a];
        autoscaler.call = Some(Call { at, ..call });
        // What it changes itself is known anew.
        autoscaler.own = autoscaler.own.take().filter(|_| forever);
        true
    }

    /// Whether the time to know the pods is over.
    fn is_known(&self, a: usize) -> bool {
        let Some(own) = &self.world.autoscalers[a].own else { return false };
        // No call takes longer than the grace.
        let on_its_way = self.world.calls().any(|call| call.to == Some(Backend::Dlx) && call.before[a]);
        let waited = self.is_over(&own.grace) || self.has(Fault::GivesBackEarly);
        waited && (!on_its_way || self.has(Fault::WritesOutlastGrace))
    }
}
