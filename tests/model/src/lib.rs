//! The sleep protocol, model-checked, in three models that share an explorer: [`window`] has when a leader may believe that no
//! request was served for a window; [`model`] has how a drain attempt, a wake and their
//! requests go, with every write and answer a step of its own; [`interception`] has how requests come to pods or DLXs, and how that is
//! changed (its own page says more). What follows is about [`model`].
//!
//! [`model::Model`] drives the very [`Gate`](scaler_types::protocol::Gate),
//! [`Drain`](scaler_types::protocol::Drain), [`transition`](scaler_types::protocol::transition) and
//! [`recover`](scaler_types::protocol::recover) that the daemons call, through every order of events that a finite
//! [`Budget`](world::Budget) allows. `cargo nextest run -p model` explores the scenarios of `tests/faultless.rs`, prints
//! states and times (`--no-capture`), and shows in `tests/faults.rs` that each rule left out and each fault around the
//! protocol is found (`MODEL_TRACE=1` prints the shortest way to it).
//!
//! # What is modelled
//!
//! - **The store**: record, version and scale of one resource. A write is three steps: ordered, landed (the
//!   compare-and-set happens), answered. Any answer may be late; one may be lost before or after the write landed, and
//!   then the write may still land at any later time, or never. So may the writes of a process that has died. Commit and
//!   wake change record and scale in one step; the process is away at once with a commit and answers some time after a wake.
//! - **Pods** (only in the scenarios named after them): what is scaled to zero answers on until it is stopped, some time after
//!   its deletion is written; each DLX's plugin learns of pods by a watch that may be behind or ahead of the records'. A wake
//!   is written when the controller counts no pods and the plugin knows of no pod of before that is not being stopped. A pod seen alive at zero replicas is
//!   no endpoint any more, until a list that is made after replicas were seen says that it lives.
//! - **Two DLXs**, each a record of incarnations: registers, lists, follows a stream of its own with any delay (states in
//!   between may be left out, the newest be repeated), leaves some time after its last request is done (it waits to be asked for its
//!   last report, and confirms meanwhile), or dies at any step.
//!   One may be frozen and continue. A place without a DLX may be taken at any time, inside a drain attempt too.
//! - **Requests** arrive, are counted, look at the gate, are sent, reach the resource, end: each a step of its own. One
//!   that finds the gate shut is held, asks for what it wants, and goes the same way when the gate is open and the
//!   resource answers. An upgraded socket is a request that ends late.
//! - **Two autoscalers**, both of which believe to be the leader: begin a drain attempt, read the members, ask, hear the answers in any
//!   order, give up waiting at any time, recover any record at any time (a wake counts as stuck whenever it likes), die at
//!   any step. Another one is there at once: what a pause would add, any delay adds. Each of them resizes, and wakes by a metric,
//!   at any time.
//! - **A person** scales to zero, from zero or to another number, in any state; an undo brings any earlier record back.
//!
//! # What must hold
//!
//! - No request reaches a resource, or a pod, that a commit has scaled to zero; no commit cuts a request that has reached it; none is
//!   sent twice; none is lost: each ends, is held, or belonged to a DLX that died, or was cut by a person.
//! - No commit happens beside an unreachable DLX whose gate is open.
//! - A resize and a wake by the leader happen only in the phases that have them; no commit takes replicas that a resize gave after
//!   its drain attempt was written; no resize that did not happen is taken for done.
//! - When nothing can happen any more the record is active, asleep or failed, nothing is held and nothing is under way.
//! - From every state such an end can be reached: no loop without a way out ([`explore`]).
//! - Every [`Event`](event::Event) that a scenario names does happen in it, so that none of this holds only because nothing happened.
//!
//! # What is left out
//!
//! Interception: see [`interception`]. More than one resource; leader election (both are the leader all the time); readiness probes (a request that finds no process
//! is held again); pacing, bounds and deadlines of held requests; time: a deadline is a step that may come whenever it
//! likes. A request held when its wake turns out impossible is answered, and so done. That a path exists to a good end
//! says nothing about how long it takes: that is for the daemons' own tests.
//!
//! Versions, nonces and members' names are compared for equality alone, and both DLXs and both autoscalers are alike:
//! states that differ in names or in which is first are met once ([`canon`]).
//!
//! # Budgets and states
//!
//! Nearly every scenario has one request and one drain attempt, and what its name says once more; keeps_replicas has two of each.
//! Sizes (DLXs x autoscalers):
//!
//! | scenario | size | distinct states |
//! |---|---|---|
//! | requests (two) | 2 x 1 | 230,322 |
//! | rivals | 2 x 2 | 51,204 |
//! | two_drains | 1 x 2 | 201,892 |
//! | joins (one dies, others join) | 2 x 1 | 80,252 |
//! | no_member | 2 x 1 | 25,880 |
//! | everything_dies | 1 x 1 | 7,454 |
//! | autoscaler_crash | 2 x 2 | 90,218 |
//! | manual_zero | 1 x 2 | 140,778 |
//! | manual_up | 2 x 1 | 177,130 |
//! | unreachable (and back) | 2 x 1 | 71,199 |
//! | leaves | 2 x 1 | 89,249 |
//! | lost_answers | 2 x 1 | 85,096 |
//! | repeated | 2 x 1 | 86,286 |
//! | failed_wake | 2 x 1 | 22,015 |
//! | keeps_replicas (fails, and sleeps again) | 1 x 1 | 94,889 |
//! | pods_lag | 2 x 1 | 65,331 |
//! | pods_of_before (two requests right after a commit) | 2 x 0 | 122,036 |
//! | undone | 1 x 1 | 25,918 |
//! | resized (two) | 1 x 2 | 366,246 |
//! | resized_waking (two) | 1 x 2 | 50,110 |
//! | resized_by_a_dead_leader (and an answer is lost) | 1 x 1 | 164,078 |
//! | woken_by_leaders (twice, without a drain attempt) | 1 x 2 | 5,490 |
//! | woken_and_drained | 1 x 2 | 198,199 |
//! | woken_by_a_dead_leader | 1 x 1 | 88,288 |
//! | woken_after_a_manual_zero (without a drain attempt) | 1 x 1 | 1,418 |
//! | woken_by_the_leader_over_old_pods | 1 x 1 | 67,296 |
//!
//! # Why an explorer of our own
//!
//! stateright brings 34 packages, a web server among them, and holds an "eventually" for kept on the first path that
//! meets a state. [`explore`] is one file without dependencies, tested on models that can be counted by hand; it looks
//! at steps as well as states, and finds traps by going backwards from the ends.

pub mod canon;
pub mod event;
pub mod explore;
pub mod fault;
pub mod interception;
pub mod model;
pub mod step;
pub mod window;
pub mod world;
