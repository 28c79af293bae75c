//! Explores every state a model can reach.
//!
//! Small enough to be read, and without dependencies: the published checkers bring a web server. Beyond them it
//! reports what happened *on* a step without putting it into the state (which would multiply the states), and finds
//! traps: states from which no good end can be reached any more, cycles included.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

/// What can be explored.
pub trait Model {
    /// A state.
    type State: Clone;
    /// A step.
    type Action: Clone + Debug;

    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// The steps that may be possible in a state.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// The state after a step: `None` if it is not possible, the broken property if it breaks one. What is worth
    /// knowing about the step is noted as bits in `events`.
    fn next(
        &self,
        state: &Self::State,
        action: &Self::Action,
        events: &mut u64,
    ) -> Result<Option<Self::State>, String>;
    /// Two states with the same fingerprint are taken for the same.
    fn fingerprint(&self, state: &Self::State) -> u64;
    /// What is wrong with a state in which no step is possible.
    fn wrong_end(&self, state: &Self::State) -> Option<String>;
}

/// What was found.
#[derive(Debug)]
pub struct Report<A> {
    /// Distinct states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// States in which no step is possible.
    pub ends: usize,
    /// Bits of all events noted.
    pub events: u64,
    /// The time it took.
    pub took: Duration,
    /// The first broken property with the shortest way to it.
    pub broken: Option<Broken<A>>,
}

/// A broken property.
#[derive(Debug)]
pub struct Broken<A> {
    /// What is wrong.
    pub what: String,
    /// The steps that lead there.
    pub trace: Vec<A>,
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct AsIs(u64);

struct Node {
    parent: u32,
    step: u16,
}

/// Explores `model` breadth first, so that the first broken property comes with a shortest way to it.
pub fn explore<M: Model>(model: &M) -> Report<M::Action> {
    let began = Instant::now();
    let mut known: HashMap<u64, u32, BuildHasherDefault<AsIs>> = HashMap::default();
    let mut nodes: Vec<Node> = vec![Node { parent: 0, step: 0 }];
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut ends: Vec<u32> = Vec::new();
    let mut queue = VecDeque::from([(0_u32, model.initial())]);
    known.insert(model.fingerprint(&queue[0].1), 0);
    let (mut steps, mut events) = (0, 0);
    let mut actions = Vec::new();
    let mut broken = None;
    'all: while let Some((id, state)) = queue.pop_front() {
        let mut possible = false;
        actions.clear();
        model.actions(&state, &mut actions);
        for (step, action) in actions.iter().enumerate() {
            let next = match model.next(&state, action, &mut events) {
                Ok(None) => continue,
                Ok(Some(next)) => next,
                Err(what) => {
                    let mut trace = way(model, &nodes, id);
                    trace.push(action.clone());
                    broken = Some(Broken { what, trace });
                    break 'all;
                }
            };
            possible = true;
            steps += 1;
            let new = u32::try_from(nodes.len()).expect("fewer than 2^32 states");
            let reached = *known.entry(model.fingerprint(&next)).or_insert(new);
            if reached == new {
                nodes.push(Node { parent: id, step: u16::try_from(step).expect("fewer than 2^16 steps") });
                queue.push_back((new, next));
            }
            if reached != id {
                edges.push((reached, id));
            }
        }
        if !possible {
            if let Some(what) = model.wrong_end(&state) {
                broken = Some(Broken { what, trace: way(model, &nodes, id) });
                break;
            }
            ends.push(id);
        }
    }
    let states = nodes.len();
    if broken.is_none()
        && let Some(id) = trap(states, edges, &ends)
    {
        broken = Some(Broken {
            what: "no good end can be reached any more".into(),
            trace: way(model, &nodes, id),
        });
    }
    Report { states, steps, ends: ends.len(), events, took: began.elapsed(), broken }
}

/// The steps that lead to a state.
fn way<M: Model>(model: &M, nodes: &[Node], mut id: u32) -> Vec<M::Action> {
    let mut steps = Vec::new();
    while id != 0 {
        let node = &nodes[id as usize];
        steps.push(node.step);
        id = node.parent;
    }
    let mut state = model.initial();
    let mut trace = Vec::new();
    for step in steps.into_iter().rev() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let action = actions[usize::from(step)].clone();
        state = model.next(&state, &action, &mut 0).ok().flatten().expect("the step was possible before");
        trace.push(action);
    }
    trace
}

/// The first state that cannot reach any of `ends`; `edges` lead backwards.
fn trap(states: usize, mut edges: Vec<(u32, u32)>, ends: &[u32]) -> Option<u32> {
    edges.sort_unstable();
    let mut safe = vec![false; states];
    let mut queue: Vec<u32> = ends.to_vec();
    ends.iter().for_each(|end| safe[*end as usize] = true);
    while let Some(id) = queue.pop() {
        let from = edges.partition_point(|(to, _)| *to < id);
        for (_, before) in edges[from..].iter().take_while(|(to, _)| *to == id) {
            if !std::mem::replace(&mut safe[*before as usize], true) {
                queue.push(*before);
            }
        }
    }
    safe.iter().position(|safe| !safe).map(|id| id as u32)
}

// === impl Broken ===

impl<A: Debug> Broken<A> {
    /// The steps, a line each.
    pub fn trace(&self) -> String {
        self.trace
            .iter()
            .enumerate()
            .map(|(place, action)| format!("{:4}. {action:?}\n", place + 1))
            .collect()
    }
}

// === impl AsIs ===

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
