//! Changes of the interception: what is observed, and decided on it.

use scaler_types::{Backend, TrafficMode, Version};

use super::Step;
use crate::interception::{
    event::Event,
    fault::Fault,
    leader::{Autoscaler, BothSince, Call, CallStep, InterceptedSince, Observed},
    model::InterceptionInput,
};

// === impl Step ===

impl Step<'_> {
    /// It observes the interception; its clocks run or start anew.
    pub(super) fn look(&mut self, a: usize) -> bool {
        let world = &self.world;
        let Autoscaler { observed, call, .. } = &world.autoscalers[a];
        if observed.is_some() || call.is_some() || !self.model.is_unsettled(world, a) {
            return false;
        }
        let observed = Observed {
            service: world.service.clone(),
            slice: world.slice.clone(),
            ready: world.up,
            own: world.own,
            asked: world.asked,
            serving: self.has(Fault::NamesFromMemory).then(|| world.serving()),
            workload: world.workload.clone(),
        };
        let backend = world.backend();
        self.run_both_clock(a, backend == Backend::Both && observed.ready, &observed.workload.version);
        self.run_intercepted_clock(a, backend == Backend::Dlx);
        self.observe_service(a, &observed);
        self.world.autoscalers[a].observed = Some(observed);
        true
    }

    /// The clock of its pods: it runs while the backend is both and they are ready, for one version of the record.
    fn run_both_clock(&mut self, a: usize, runs: bool, version: &Version) {
        let forever = self.has(Fault::KnowsForever);
        let own = self.world.autoscalers[a].own.take().filter(|own| forever || own.version == *version);
        let begins = runs && own.is_none();
        let begun = BothSince { version: version.clone(), delay: self.world.propagation_delay() };
        self.world.autoscalers[a].own = own.or(Some(begun)).filter(|_| runs || forever);
        if begins {
            // What is on its way now has ended when the clock's time is over.
            self.world.calls_mut().for_each(|call| call.before[a] = true);
        }
    }

    /// The clock of an intercepted Service: for one version of it.
    fn run_intercepted_clock(&mut self, a: usize, runs: bool) {
        let goes_on = self.has(Fault::InterceptedForGoesOn);
        let service = self.world.service.version;
        let intercepted = self.world.autoscalers[a]
            .intercepted
            .take()
            .filter(|intercepted| goes_on || intercepted.service == service);
        let begun = InterceptedSince { service, delay: self.world.propagation_delay(), covered: false };
        let intercepted =
            intercepted.map(|intercepted| InterceptedSince { service, ..intercepted }).unwrap_or(begun);
        self.world.autoscalers[a].intercepted =
            Some(intercepted).filter(|_| self.model.traffic_mode == TrafficMode::Always && (runs || goes_on));
    }

    /// It decides on what it saw, and its plugin reads Service and slice for the call.
    pub(super) fn decide(&mut self, a: usize, dead: bool) -> bool {
        let Some(observed) = self.world.autoscalers[a].observed.clone() else { return false };
        let serving = observed.serving.unwrap_or_else(|| self.world.serving());
        // For longer than any call takes.
        let dies = serving == 0 && self.world.calls().all(|call| call.to != Some(Backend::Dlx));
        if self.has(Fault::NoSync) || (dead && !dies) {
            return false;
        }
        self.world.autoscalers[a].observed = None;
        let confirmed = self.world.autoscalers[a].attempt.as_ref().is_some_and(|attempt| {
            attempt.switch.is_some() && attempt.nonce == observed.workload.record.nonce
        });
        let input = InterceptionInput {
            service: &observed.service,
            slice: observed.slice.as_ref(),
            asked: observed.asked,
            ready: observed.ready,
            known: observed.ready && self.is_known(a),
            confirmed,
            serving,
            dead,
        };
        let to = self.model.interception_step(&observed.workload, &input);
        if to.is_none() && !self.model.needs_sync(observed.slice.as_ref(), serving) {
            return true;
        }
        let call = Call {
            to,
            at: CallStep::Slice,
            service: self.world.service.clone(),
            slice: self.world.slice.as_ref().map(|slice| slice.version),
            names: serving,
            own: observed.own,
            seen: (observed.service.version, observed.slice.as_ref().map(|slice| slice.version)),
            before: [false; 2],
        };
        let Some(at) = self.first(&call) else { return true };
        if dead {
            self.note(Event::FailedOver);
        }
        if to == Some(Backend::Dlx) && !confirmed && self.world.backend() == Backend::Workload {
            self.note(Event::Intercepted);
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
        // No call takes longer than the propagation delay.
        let on_its_way = self.world.calls().any(|call| call.to == Some(Backend::Dlx) && call.before[a]);
        let waited = self.is_over(&own.delay) || self.has(Fault::RestoresEarly);
        waited && (!on_its_way || self.has(Fault::WritesOutlastDelay))
    }
}
