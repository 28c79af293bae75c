//! The explorer itself, on models small enough to be counted by hand.

use model::explore::{Model, explore};

/// A counter that steps by one or two up to a limit, and what is wrong with it.
struct Counter {
    limit: u8,
    /// Must not be stepped on.
    pit: Option<u8>,
    /// From here it only goes round.
    trap: Option<u8>,
    /// Where it may come to an end.
    good: fn(u8) -> bool,
}

impl Model for Counter {
    type State = u8;
    type Action = u8;

    fn initial(&self) -> u8 {
        0
    }

    fn actions(&self, _: &u8, actions: &mut Vec<u8>) {
        actions.extend([1, 2]);
    }

    fn next(&self, state: &u8, action: &u8, events: &mut u64) -> Result<Option<u8>, String> {
        *events |= u64::from(*action);
        let next = match self.trap {
            Some(trap) if *state == trap => trap,
            _ => state + action,
        };
        if self.pit == Some(next) {
            return Err("the pit".into());
        }
        Ok((next <= self.limit).then_some(next))
    }

    fn fingerprint(&self, state: &u8) -> u64 {
        u64::from(*state) + 1
    }

    fn wrong_end(&self, state: &u8) -> Option<String> {
        (!(self.good)(*state)).then(|| format!("ends at {state}"))
    }
}

const COUNTER: Counter = Counter { limit: 9, pit: None, trap: None, good: |end| end == 9 };

#[test]
fn it_meets_every_state_once() {
    let report = explore(&COUNTER);
    assert!(report.broken.is_none(), "{report:?}");
    // 0 to 9; two steps from each but 8 (one) and 9 (none).
    assert_eq!((report.states, report.steps, report.ends, report.events), (10, 17, 1, 3));
}

#[test]
fn it_shows_a_shortest_way() {
    let broken = explore(&Counter { pit: Some(7), ..COUNTER }).broken.unwrap();
    assert_eq!((broken.what.as_str(), broken.trace.len(), broken.trace.iter().sum()), ("the pit", 4, 7_u8));
}

#[test]
fn it_tells_a_wrong_end() {
    let broken = explore(&Counter { good: |end| end == 8, ..COUNTER }).broken.unwrap();
    assert_eq!((broken.what.as_str(), broken.trace.iter().sum()), ("ends at 9", 9_u8));
}

#[test]
fn it_finds_a_trap_beside_a_way_out() {
    let broken = explore(&Counter { trap: Some(4), ..COUNTER }).broken.unwrap();
    assert_eq!(broken.what, "no good end can be reached any more");
    assert_eq!(broken.trace.iter().sum::<u8>(), 4);
}
