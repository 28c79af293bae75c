//! The leading autoscaler's rule for routes: what is to be changed, from nothing but what is seen.
//!
//! Level-triggered: whatever crashed before, and whoever changed something meanwhile, the next step follows from how things are.
//!
//! | step | why it is safe |
//! |---|---|
//! | own, both -> dlx | the DLXs are named before the resource's own endpoints are taken away; asleep or awake, a DLX serves |
//! | dlx -> both | when it has replicas: both serve; with no endpoint yet, the DLXs alone do |
//! | both -> own | only when endpoints of its own have been there for the grace: everybody who follows the route knows them |
//!
//! While a fence stands nothing is given back, whoever asks for it: its commit may be on its way.
//!
//! It says what is right for what was seen, and that may be old. Row and route are two objects, so the plugin that carries a step
//! out keeps to an order:
//!
//! - To the DLXs: what the route is, then the row: on path direct, replicas without a fence keep their requests. Then who is named
//!   is written, unless that is there, then the rest on the version read before.
//! - To both: what the route is, then the row: a fence is no time for it. Then only what was read is taken away; if it is another
//!   by then, nothing is, and the next step is decided on what is seen then.
//! - To its own: what the route is must be what the step was decided on, and the resource's own endpoints have been seen. Then the
//!   names are taken away, on the version that the step was decided on.
//!
//! The model checker explores all of that, and what happens without it.

use crate::{Leads, Path, State};

/// What is seen of a resource and its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteSeen {
    /// Its path.
    pub path: Path,
    /// See [`Route::asked`](crate::Route::asked); and nothing refuses it.
    pub asked: bool,
    /// See [`Route::leads`](crate::Route::leads).
    pub leads: Leads,
    /// See [`Route::complete`](crate::Route::complete).
    pub complete: bool,
    /// The row's state.
    pub state: State,
    /// Whether it has replicas.
    pub scaled: bool,
    /// The fence in the row is this leader's own, and every DLX has confirmed it.
    pub confirmed: bool,
    /// Its own endpoints have been ready for the grace, while it leads to both, the row was the same, and this leader changed
    /// nothing of the route. Every change that was under way when that began has ended: none takes longer than the grace.
    pub own_known: bool,
    /// Its own endpoints are ready.
    pub own_ready: bool,
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
    /// None has for so long that nobody waits for them any more; for longer than any change of a route takes.
    Dead,
}

/// Where the route is to lead next; `None`: it stays as it is.
pub fn route_step(seen: &RouteSeen) -> Option<Leads> {
    match (wanted(seen)?, seen.leads) {
        // Nobody could be named.
        (Leads::Dlx, _) if seen.dlxs != Dlxs::Serving => None,
        (Leads::Dlx, Leads::Dlx) => (!seen.complete).then_some(Leads::Dlx),
        (Leads::Dlx, Leads::Own | Leads::Both) => Some(Leads::Dlx),
        // It has nobody else to serve, and those that a commit has just taken away may be listed still.
        (_, Leads::Dlx) if !seen.scaled && seen.complete && seen.dlxs != Dlxs::Dead => None,
        (_, Leads::Dlx) => Some(Leads::Both),
        // Half of what comes would find nobody.
        (_, Leads::Both) if seen.dlxs == Dlxs::Dead => seen.own_ready.then_some(Leads::Own),
        (_, Leads::Both) => seen.own_known.then_some(Leads::Own),
        (_, Leads::Own) => None,
    }
}

/// Where it is to lead in the end: to the DLXs or to itself; `None`: that is not decided, or somebody else's business.
fn wanted(seen: &RouteSeen) -> Option<Leads> {
    use State::{Active, Asleep, Draining, Failed, Waking};
    if !seen.asked || seen.dlxs == Dlxs::Dead {
        // A commit may be on its way, and would find the route changed: the fence is lifted first, whosever it is.
        let fenced = seen.state == Draining && seen.scaled;
        return (!fenced).then_some(Leads::Own);
    }
    match (seen.path, seen.state, seen.scaled) {
        (Path::External, ..) => None,
        (Path::Always, ..) => Some(Leads::Dlx),
        (Path::Direct, Draining, true) => seen.confirmed.then_some(Leads::Dlx),
        // Somebody else scaled it to zero. A request would wake it, but nobody asked for it to be led.
        (Path::Direct, Active, false) => None,
        (Path::Direct, Draining | Asleep | Waking | Failed, false) => Some(Leads::Dlx),
        (Path::Direct, Active | Asleep | Waking | Failed, true) => Some(Leads::Own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 5] = [State::Active, State::Draining, State::Asleep, State::Waking, State::Failed];

    fn seen(path: Path, state: State, scaled: bool, leads: Leads) -> RouteSeen {
        RouteSeen {
            path,
            asked: true,
            leads,
            complete: true,
            state,
            scaled,
            confirmed: false,
            own_known: false,
            own_ready: false,
            dlxs: Dlxs::Serving,
        }
    }

    #[test]
    fn always_leads_to_the_dlxs_in_every_state() {
        for state in STATES {
            for scaled in [false, true] {
                let at = |leads| seen(Path::Always, state, scaled, leads);
                assert_eq!(route_step(&at(Leads::Own)), Some(Leads::Dlx));
                assert_eq!(route_step(&at(Leads::Both)), Some(Leads::Dlx));
                assert_eq!(route_step(&at(Leads::Dlx)), None);
                let torn = RouteSeen { complete: false, ..at(Leads::Dlx) };
                assert_eq!(route_step(&torn), Some(Leads::Dlx), "what is missing is put back");
                let nobody = RouteSeen { dlxs: Dlxs::Away, ..at(Leads::Own) };
                assert_eq!(route_step(&nobody), None, "nobody could be named");
            }
        }
    }

    #[test]
    fn direct_leads_to_the_dlxs_only_while_there_is_nobody_else() {
        let table = [
            // Without replicas and with, from a route that leads to itself.
            (State::Active, [None, None]),
            (State::Draining, [Some(Leads::Dlx), None]),
            (State::Asleep, [Some(Leads::Dlx), None]),
            (State::Waking, [Some(Leads::Dlx), None]),
            (State::Failed, [Some(Leads::Dlx), None]),
        ];
        for (state, expected) in table {
            let got = [false, true].map(|scaled| route_step(&seen(Path::Direct, state, scaled, Leads::Own)));
            assert_eq!(got, expected, "{state}");
        }
        let draining = seen(Path::Direct, State::Draining, true, Leads::Own);
        let confirmed = RouteSeen { confirmed: true, ..draining };
        assert_eq!(route_step(&confirmed), Some(Leads::Dlx));
        let led = RouteSeen { leads: Leads::Dlx, ..draining };
        assert_eq!(route_step(&led), None, "the revert decides");
    }

    #[test]
    fn the_way_back_is_by_both_and_waits_for_everybody() {
        for (path, state, asked) in [
            (Path::Direct, State::Active, true),
            (Path::Direct, State::Waking, true),
            (Path::Always, State::Active, false),
        ] {
            let at = |leads| RouteSeen { asked, ..seen(path, state, true, leads) };
            assert_eq!(route_step(&at(Leads::Dlx)), Some(Leads::Both));
            let both = at(Leads::Both);
            assert_eq!(route_step(&both), None, "nobody else serves yet");
            let ready = RouteSeen { own_ready: true, ..both };
            assert_eq!(route_step(&ready), None, "not everybody knows");
            assert_eq!(route_step(&RouteSeen { own_known: true, ..ready }), Some(Leads::Own));
            assert_eq!(route_step(&at(Leads::Own)), None);
        }
    }

    #[test]
    fn dead_dlxs_keep_nothing() {
        for path in [Path::Always, Path::Direct] {
            for state in STATES {
                let at = |leads| RouteSeen { dlxs: Dlxs::Dead, ..seen(path, state, true, leads) };
                if state == State::Draining {
                    continue;
                }
                assert_eq!(route_step(&at(Leads::Dlx)), Some(Leads::Both));
                assert_eq!(route_step(&at(Leads::Both)), None);
                let ready = RouteSeen { own_ready: true, ..at(Leads::Both) };
                assert_eq!(route_step(&ready), Some(Leads::Own), "without a grace");
                assert_eq!(route_step(&at(Leads::Own)), None);
            }
        }
    }

    #[test]
    fn nothing_is_given_back_while_a_fence_stands() {
        for path in [Path::Always, Path::Direct] {
            for leads in [Leads::Both, Leads::Dlx] {
                for confirmed in [false, true] {
                    let known = RouteSeen {
                        confirmed,
                        own_known: true,
                        own_ready: true,
                        ..seen(path, State::Draining, true, leads)
                    };
                    assert_eq!(route_step(&RouteSeen { asked: false, ..known }), None);
                    assert_eq!(route_step(&RouteSeen { dlxs: Dlxs::Dead, ..known }), None);
                    // Somebody scaled it to zero: no commit finds what it expects. Without a DLX nobody else would answer.
                    let zero = RouteSeen { asked: false, scaled: false, dlxs: Dlxs::Dead, ..known };
                    assert!(route_step(&zero).is_some());
                }
            }
        }
    }

    #[test]
    fn what_sleeps_is_given_back_when_it_is_woken() {
        for path in [Path::Always, Path::Direct] {
            for state in [State::Active, State::Asleep, State::Waking, State::Failed] {
                let at = |scaled| RouteSeen { asked: false, ..seen(path, state, scaled, Leads::Dlx) };
                assert_eq!(route_step(&at(false)), None, "{state}: its last pods may be listed");
                assert_eq!(route_step(&RouteSeen { dlxs: Dlxs::Away, ..at(false) }), None);
                assert_eq!(
                    route_step(&RouteSeen { complete: false, ..at(false) }),
                    Some(Leads::Both),
                    "some of what comes may wake nobody"
                );
                assert_eq!(route_step(&RouteSeen { dlxs: Dlxs::Dead, ..at(false) }), Some(Leads::Both));
                assert_eq!(route_step(&at(true)), Some(Leads::Both));
            }
        }
    }

    #[test]
    fn external_is_somebody_elses() {
        for leads in [Leads::Own, Leads::Both, Leads::Dlx] {
            assert_eq!(route_step(&seen(Path::External, State::Asleep, false, leads)), None);
        }
    }
}
