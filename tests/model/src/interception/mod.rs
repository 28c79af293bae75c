//! The route of one resource, model-checked: its Service, the slices on it, who follows them, and the autoscalers that lead it.
//!
//! [`model::Model`] drives the very [`interception_step`](scaler_types::protocol::interception_step), [`Drain`](scaler_types::protocol::Drain),
//! [`Gate`](scaler_types::protocol::Gate) and [`recover`](scaler_types::protocol::recover) that the daemons call. `tests/route.rs` has
//! the scenarios, `tests/route_faults.rs` shows that each fault around the protocol is found.
//!
//! # What is modelled
//!
//! - **Three objects**, each with a version of its own: the workload (record and scale), the Service (our key in its selector) and
//!   our slice (the DLXs it names). Nothing changes two of them at once. The cluster's controller keeps a slice of the ready
//!   pods, empty while the key is there; it follows with any delay.
//! - **Nodes** follow the slices with any delay, each change in its order. New connections choose by a node's view; what is
//!   established stays where it is. A pooled connection carries another request at any time.
//! - **A grace** is over at any time after the controller was through with what was there when it began, and every node had
//!   followed what it had made of that ([`world::Grace`]): that is what its length is to ensure. No call that changes a route
//!   lives longer than a grace (its deadline), which counts where an autoscaler knows its pods by now, where it takes DLXs for
//!   dead, and where a DLX ends; everywhere else a write lands as late as it likes, also after its author has died.
//! - **Autoscalers** see route and record at any time, and decide later, by `interception_step`, on what may be old. The plugin carries it
//!   out, one call at a time for each autoscaler, every request of it a step of its own:
//!   1. To lead to the DLXs: Service, slice and workload are read. In traffic mode `when-asleep` one with replicas and no fence is left alone. The
//!      slice is written if it is not there as it should be; then the key if it is not there, on the version read before.
//!   2. To lead to both: the Service is read, *then* the workload; with a drain attempt nothing is done. The key is removed if its value is
//!      the one that was read, and not tried again. (The slice is written first if it is not there, unless no DLX could be named.)
//!   3. To remove our slice: the Service is read, and must have no key and the version that was seen when it was decided; the
//!      controller's slice was seen to name the pods. The slice is removed on the version seen then, not on one read now.
//! - **A try** in traffic mode `always` begins where the Service has led to the DLXs for a window; in traffic mode `when-asleep` where it leads to its own.
//!   There it waits until its autoscaler sees that the route leads to the DLXs, for the grace, and takes a sample; if it sees the
//!   Service changed meanwhile it begins to wait anew, or gives up. On both paths the commit takes the Service's version from its
//!   plugin's view, where that leads to the DLXs with names (in traffic mode `always` for a window, counted on that very version); writes
//!   the key anew on it, with the drain attempt's nonce; reads the slice; and writes the workload.
//! - **DLXs** join, serve, die (a slice names them until it is tended), or leave: serve what comes until no slice names them and
//!   a grace has passed since, which begins anew when one does.
//! - **People**: server-side apply takes the key away; somebody deletes our slice or the controller's, scales to zero, up, or to
//!   another number (an HPA too), and opts out, all at any time, inside a drain attempt too.
//!
//! # What must hold
//!
//! - New connections have somebody to go to in every state, unless a person stopped the pods or deleted a slice, or all that
//!   ours names have died. None goes to pods that a commit has stopped, or to a DLX that ended in good order.
//! - No commit cuts a request at a DLX. None cuts one at a pod, but on a pooled connection since after the sample (traffic mode `when-asleep`), or
//!   from before it was led (traffic mode `always`): as gentle as a rolling update.
//! - When nothing can happen any more the record is active, asleep or failed, nothing is held, and the route is what path, record and
//!   owner want: given back, or led to exactly the DLXs that serve. From every state such an end can be reached.
//! - Every [`Event`](event::Event) that a scenario names does happen in it.
//!
//! # What is left out
//!
//! A key that people take away between a commit's two writes, or a slice between its reading and the last (milliseconds; nobody
//! could know), its author dead or not. Pods that answer on for a moment after a commit: the controller does not name them again
//! when the key is removed in that moment. Waking what sleeps when no DLX is left. Nodes that see
//! one slice's change before an older one of another: with that alone would the grace between the controller's slice and the
//! removal of ours be needed for more than the calls on their way. Writes of a record happen at once: they depend on nothing but the
//! record, and the other model takes them apart.
//!
//! # Budgets and states
//!
//! Nearly every scenario has one request, one fence, one node, one DLX, one autoscaler, and what its name says.
//!
//! | scenario | begins | with | distinct states |
//! |---|---|---|---|
//! | always_opts_in | awake, not led | a connection, opts out | 7,054 |
//! | always_led | awake | two requests, two fences | 2,816 |
//! | always_rivals | awake | two autoscalers, opts out | 123,885 |
//! | always_gitops | awake | key taken, a connection, pooled | 8,422 |
//! | always_rivals_gitops | awake | two autoscalers, key taken | 78,208 |
//! | always_crash | awake | an autoscaler dies, key taken, opts out | 89,302 |
//! | direct | awake | two nodes, a connection | 10,743 |
//! | direct_pooled | awake | a connection, pooled | 9,633 |
//! | direct_wakes | asleep | two nodes, a connection | 8,232 |
//! | direct_again | awake | two fences | 5,708 |
//! | direct_crash | awake | an autoscaler dies, a connection | 21,313 |
//! | direct_crash_awake | asleep | the same | 23,796 |
//! | direct_rivals | awake | two autoscalers, a connection | 186,437 |
//! | direct_rivals_awake | asleep | two autoscalers | 148,959 |
//! | gitops | awake | key taken twice, a connection | 47,708 |
//! | slices_deleted | awake | ours and the controller's | 61,150 |
//! | scaled_up | awake | by hand or by an HPA, key taken | 31,928 |
//! | scaled_to_zero | awake | by hand | 64,205 |
//! | scaled_by_hand | asleep | to zero, up; no request | 2,806 |
//! | opts_out | awake | and an autoscaler dies | 18,855 |
//! | joins | asleep | another DLX | 19,185 |
//! | leaves | awake | one of two | 119,291 |
//! | replaced | awake | the only DLX leaves, another joins (traffic mode `always`) | 105,007 |
//! | dies | awake | one of two | 23,779 |
//! | dead_man | awake | the only DLX dies, another joins (traffic mode `always`) | 25,602 |

pub mod event;
pub mod fault;
pub mod leader;
pub mod model;
pub mod step;
pub mod world;
