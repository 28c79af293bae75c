//! The leader's rule for interception: the next backend of a resource's requests, from nothing but what is observed.
//!
//! Level-triggered: whatever crashed before, and whatever others changed meanwhile, the next step follows from how things are.
//!
//! | step | why it is safe |
//! |---|---|
//! | workload, both -> dlx | the DLXs are named before the workload's endpoints are removed; asleep or awake, a DLX serves |
//! | dlx -> both | when it has replicas: both serve; with no endpoint yet, the DLXs alone do |
//! | both -> workload | only when the workload's endpoints have been ready for the propagation delay: every client's node knows them |
//!
//! During a drain attempt interception is not removed: the attempt's commit may be on its way.
//!
//! The step is right for what was observed, and that may be old. Record and interception are two objects, so the plugin that
//! carries a step out keeps to an order:
//!
//! - To the DLXs: it reads the interception, then the record: in traffic mode `when-asleep`, replicas that are not being drained
//!   keep their requests. Then it writes which DLXs are named, unless that is there, then the rest on the version read before.
//! - To both: it reads the interception, then the record: not during a drain attempt. Then it removes only what it has read; if that
//!   is another by then, it removes nothing, and the next step is decided on what is observed then.
//! - To the workload: the interception must be what the step was decided on, with the workload's endpoints observed. Then it removes
//!   the DLXs' names, on the version that the step was decided on.
//!
//! The model checker explores all of that, and what happens without it.

use crate::{Backend, Phase, TrafficMode};

/// The observed state of a resource and its interception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterceptionSeen {
    /// Its traffic mode.
    pub traffic_mode: TrafficMode,
    /// See [`Interception::requested`](crate::Interception::requested); and nothing refuses it.
    pub requested: bool,
    /// See [`Interception::backend`](crate::Interception::backend).
    pub backend: Backend,
    /// See [`Interception::in_sync`](crate::Interception::in_sync).
    pub in_sync: bool,
    /// The record's phase.
    pub phase: Phase,
    /// Whether it has replicas.
    pub scaled: bool,
    /// The record's drain attempt is this leader's own, and every DLX has confirmed it.
    pub confirmed: bool,
    /// The workload's endpoints have been ready for the propagation delay, while the backend was both, the record was the same, and
    /// this leader changed nothing of the interception. Every change that was under way when that began has ended: none takes longer
    /// than the delay.
    pub workload_known: bool,
    /// The workload's endpoints are ready.
    pub workload_ready: bool,
    /// How the DLXs are.
    pub dlxs: Dlxs,
}

/// How the DLXs are, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dlxs {
    /// At least one takes requests.
    Serving,
    /// None does, for the moment.
    Away,
    /// None has for the DLX-unavailable timeout; for longer than any change of an interception takes.
    Dead,
}

/// The next backend; `None`: it stays as it is.
pub fn interception_step(seen: &InterceptionSeen) -> Option<Backend> {
    match (wanted(seen)?, seen.backend) {
        (_, Backend::Unknown) => None,
        // No DLX could be named.
        (Backend::Dlx, _) if seen.dlxs != Dlxs::Serving => None,
        (Backend::Dlx, Backend::Dlx) => (!seen.in_sync).then_some(Backend::Dlx),
        (Backend::Dlx, Backend::Workload | Backend::Both) => Some(Backend::Dlx),
        // It has no other backend, and those that a commit has just taken away may be listed still.
        (_, Backend::Dlx) if !seen.scaled && seen.in_sync && seen.dlxs != Dlxs::Dead => None,
        (_, Backend::Dlx) => Some(Backend::Both),
        // Half of the requests would reach no DLX.
        (_, Backend::Both) if seen.dlxs == Dlxs::Dead => seen.workload_ready.then_some(Backend::Workload),
        (_, Backend::Both) => seen.workload_known.then_some(Backend::Workload),
        (_, Backend::Workload) => None,
    }
}

/// The backend in the end: the DLXs or the workload; `None`: that is not decided, or another controller's decision.
fn wanted(seen: &InterceptionSeen) -> Option<Backend> {
    use Phase::{Active, Asleep, Draining, Failed, Waking};
    if !seen.requested || seen.dlxs == Dlxs::Dead {
        // A commit may be on its way, and would find the interception changed: the attempt is reverted first.
        let draining = seen.phase == Draining && seen.scaled;
        return (!draining).then_some(Backend::Workload);
    }
    match (seen.traffic_mode, seen.phase, seen.scaled) {
        (TrafficMode::External | TrafficMode::Unknown, ..) => None,
        (TrafficMode::Always, ..) => Some(Backend::Dlx),
        (TrafficMode::WhenAsleep, Draining, true) => seen.confirmed.then_some(Backend::Dlx),
        // Another writer scaled it to zero. A request would wake it, but interception is not requested for that.
        (TrafficMode::WhenAsleep, Active, false) => None,
        (TrafficMode::WhenAsleep, Draining | Asleep | Waking | Failed, false) => Some(Backend::Dlx),
        (TrafficMode::WhenAsleep, Active | Asleep | Waking | Failed, true) => Some(Backend::Workload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 5] = [Phase::Active, Phase::Draining, Phase::Asleep, Phase::Waking, Phase::Failed];

    fn seen(traffic_mode: TrafficMode, phase: Phase, scaled: bool, backend: Backend) -> InterceptionSeen {
        InterceptionSeen {
            traffic_mode,
            requested: true,
            backend,
            in_sync: true,
            phase,
            scaled,
            confirmed: false,
            workload_known: false,
            workload_ready: false,
            dlxs: Dlxs::Serving,
        }
    }

    #[test]
    fn always_leads_to_the_dlxs_in_every_state() {
        for phase in PHASES {
            for scaled in [false, true] {
                let at = |backend| seen(TrafficMode::Always, phase, scaled, backend);
                assert_eq!(interception_step(&at(Backend::Workload)), Some(Backend::Dlx));
                assert_eq!(interception_step(&at(Backend::Both)), Some(Backend::Dlx));
                assert_eq!(interception_step(&at(Backend::Dlx)), None);
                let torn = InterceptionSeen { in_sync: false, ..at(Backend::Dlx) };
                assert_eq!(interception_step(&torn), Some(Backend::Dlx), "what is missing is put back");
                let nobody = InterceptionSeen { dlxs: Dlxs::Away, ..at(Backend::Workload) };
                assert_eq!(interception_step(&nobody), None, "nobody could be named");
            }
        }
    }

    #[test]
    fn direct_leads_to_the_dlxs_only_while_there_is_nobody_else() {
        let table = [
            // Without replicas and with, from a route that backend to itself.
            (Phase::Active, [None, None]),
            (Phase::Draining, [Some(Backend::Dlx), None]),
            (Phase::Asleep, [Some(Backend::Dlx), None]),
            (Phase::Waking, [Some(Backend::Dlx), None]),
            (Phase::Failed, [Some(Backend::Dlx), None]),
        ];
        for (phase, expected) in table {
            let got = [false, true].map(|scaled| {
                interception_step(&seen(TrafficMode::WhenAsleep, phase, scaled, Backend::Workload))
            });
            assert_eq!(got, expected, "{phase}");
        }
        let draining = seen(TrafficMode::WhenAsleep, Phase::Draining, true, Backend::Workload);
        let confirmed = InterceptionSeen { confirmed: true, ..draining };
        assert_eq!(interception_step(&confirmed), Some(Backend::Dlx));
        let led = InterceptionSeen { backend: Backend::Dlx, ..draining };
        assert_eq!(interception_step(&led), None, "the revert decides");
    }

    #[test]
    fn the_way_back_is_by_both_and_waits_for_everybody() {
        for (traffic_mode, phase, requested) in [
            (TrafficMode::WhenAsleep, Phase::Active, true),
            (TrafficMode::WhenAsleep, Phase::Waking, true),
            (TrafficMode::Always, Phase::Active, false),
        ] {
            let at = |backend| InterceptionSeen { requested, ..seen(traffic_mode, phase, true, backend) };
            assert_eq!(interception_step(&at(Backend::Dlx)), Some(Backend::Both));
            let both = at(Backend::Both);
            assert_eq!(interception_step(&both), None, "nobody else serves yet");
            let ready = InterceptionSeen { workload_ready: true, ..both };
            assert_eq!(interception_step(&ready), None, "not everybody knows");
            assert_eq!(
                interception_step(&InterceptionSeen { workload_known: true, ..ready }),
                Some(Backend::Workload)
            );
            assert_eq!(interception_step(&at(Backend::Workload)), None);
        }
    }

    #[test]
    fn dead_dlxs_keep_nothing() {
        for traffic_mode in [TrafficMode::Always, TrafficMode::WhenAsleep] {
            for phase in PHASES {
                let at = |backend| InterceptionSeen {
                    dlxs: Dlxs::Dead,
                    ..seen(traffic_mode, phase, true, backend)
                };
                if phase == Phase::Draining {
                    continue;
                }
                assert_eq!(interception_step(&at(Backend::Dlx)), Some(Backend::Both));
                assert_eq!(interception_step(&at(Backend::Both)), None);
                let ready = InterceptionSeen { workload_ready: true, ..at(Backend::Both) };
                assert_eq!(interception_step(&ready), Some(Backend::Workload), "without a grace");
                assert_eq!(interception_step(&at(Backend::Workload)), None);
            }
        }
    }

    #[test]
    fn nothing_is_given_back_while_a_fence_stands() {
        for traffic_mode in [TrafficMode::Always, TrafficMode::WhenAsleep] {
            for backend in [Backend::Both, Backend::Dlx] {
                for confirmed in [false, true] {
                    let known = InterceptionSeen {
                        confirmed,
                        workload_known: true,
                        workload_ready: true,
                        ..seen(traffic_mode, Phase::Draining, true, backend)
                    };
                    assert_eq!(interception_step(&InterceptionSeen { requested: false, ..known }), None);
                    assert_eq!(interception_step(&InterceptionSeen { dlxs: Dlxs::Dead, ..known }), None);
                    // Another writer scaled it to zero: every commit fails. Without a DLX nothing else would answer.
                    let zero =
                        InterceptionSeen { requested: false, scaled: false, dlxs: Dlxs::Dead, ..known };
                    assert!(interception_step(&zero).is_some());
                }
            }
        }
    }

    #[test]
    fn what_sleeps_is_given_back_when_it_is_woken() {
        for traffic_mode in [TrafficMode::Always, TrafficMode::WhenAsleep] {
            for phase in [Phase::Active, Phase::Asleep, Phase::Waking, Phase::Failed] {
                let at = |scaled| InterceptionSeen {
                    requested: false,
                    ..seen(traffic_mode, phase, scaled, Backend::Dlx)
                };
                assert_eq!(interception_step(&at(false)), None, "{phase}: its last pods may be listed");
                assert_eq!(interception_step(&InterceptionSeen { dlxs: Dlxs::Away, ..at(false) }), None);
                assert_eq!(
                    interception_step(&InterceptionSeen { in_sync: false, ..at(false) }),
                    Some(Backend::Both),
                    "some of what comes may wake nobody"
                );
                assert_eq!(
                    interception_step(&InterceptionSeen { dlxs: Dlxs::Dead, ..at(false) }),
                    Some(Backend::Both)
                );
                assert_eq!(interception_step(&at(true)), Some(Backend::Both));
            }
        }
    }

    #[test]
    fn external_is_somebody_elses() {
        for backend in [Backend::Workload, Backend::Both, Backend::Dlx] {
            assert_eq!(interception_step(&seen(TrafficMode::External, Phase::Asleep, false, backend)), None);
        }
    }
}
