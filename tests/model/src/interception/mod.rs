//! The interception of one resource, model-checked: its Service, the slices on it, the nodes that follow them, and the autoscalers
//! that change it.
//!
//! [`model::Model`] drives the very [`interception_step`](scaler_types::protocol::interception_step), [`Drain`](scaler_types::protocol::Drain),
//! [`Gate`](scaler_types::protocol::Gate) and [`recover`](scaler_types::protocol::recover) that the daemons call.
//! `tests/interception.rs` has the scenarios, `tests/interception_faults.rs` shows that each fault around the protocol is found.
//!
//! # What is modelled
//!
//! - **Three objects**, each with a version of its own: the workload (record and scale), the Service (our key in its selector) and
//!   our slice (the DLXs it names). Nothing changes two of them at once. The cluster's controller keeps a slice of the ready
//!   pods, empty while the key is there; it follows with any delay.
//! - **Nodes** follow the slices with any delay, each change in its order. New connections choose by a node's view; what is
//!   established stays where it is. A pooled connection carries another request at any time.
//! - **A propagation delay** ([`world::PropagationDelay`]) is over at any time after the controller has followed what was there when
//!   it began, and every node what the controller had made of that: that is what its length is to ensure. No call that changes an
//!   interception lives longer than the propagation delay (its deadline), which counts where an autoscaler knows its pods by now,
//!   where it takes DLXs for dead, and where a DLX ends; everywhere else a write lands as late as it likes, also after its author
//!   has died.
//! - **Autoscalers** observe interception and record at any time, and decide later, by `interception_step`, on what may be old. The
//!   plugin carries it out, one call at a time for each autoscaler, every request of it a step of its own:
//!   1. To switch to the DLXs: Service, slice and workload are read. In traffic mode `when-asleep` a workload with replicas and
//!      without a drain attempt is left alone. The slice is written if it is not there as it should be; then the key if it is not
//!      there, on the version read before.
//!   2. To switch to both: the Service is read, *then* the workload; during a drain attempt nothing is done. The key is removed if
//!      its value is the one that was read, without a second attempt. (The slice is written first if it is not there, unless no
//!      DLX could be named.)
//!   3. To remove our slice: the Service is read, and must have no key and the version that was seen when it was decided; the
//!      controller's slice was seen to name the pods. The slice is removed on the version seen then, not on one read now.
//! - **A drain attempt** in traffic mode `always` begins where the backend has been the DLXs for a window; in traffic mode
//!   `when-asleep` where it is the workload. There it waits until its autoscaler sees that the backend is the DLXs, for the
//!   propagation delay, and takes a sample; if it sees the Service changed meanwhile it begins to wait anew, or gives up. In both
//!   modes the commit takes the Service's version from its plugin's view, where the backend is the DLXs with names (in traffic mode
//!   `always` for a window, counted on that very version); writes the key anew on it, with the drain attempt's nonce; reads the
//!   slice; and writes the workload.
//! - **DLXs** join, serve, die (a slice names them until it is updated), or leave: serve what comes until no slice names them and
//!   a propagation delay has passed since, which begins anew when one does.
//! - **People**: server-side apply removes the key; a person deletes our slice or the controller's, scales to zero, up, or to
//!   another number (an HPA too), and opts out, all at any time, inside a drain attempt too.
//!
//! # What must hold
//!
//! - New connections have an endpoint in every state, unless a person stopped the pods or deleted a slice, or all that
//!   ours names have died. None goes to pods that a commit has stopped, or to a DLX that ended in good order.
//! - No commit cuts a request at a DLX. None cuts one at a pod, but on a pooled connection since after the sample (traffic mode
//!   `when-asleep`), or from before the interception (traffic mode `always`): as gentle as a rolling update.
//! - When nothing can happen any more the record is active, asleep or failed, nothing is held, and the backend is what traffic mode,
//!   record and user want: restored, or exactly the DLXs that serve. From every state such an end can be reached.
//! - Every [`Event`](event::Event) that a scenario names does happen in it.
//!
//! # What is left out
//!
//! A key that people remove between a commit's two writes, or a slice between its reading and the last (milliseconds; nothing
//! could detect it), its author dead or not. Pods that answer on for a moment after a commit: the controller does not name them
//! again when the key is removed in that moment. Waking what sleeps when no DLX is left. Nodes that see one slice's change before
//! an older one of another: only with that would the propagation delay between the controller's slice and the removal of ours be
//! needed for more than the calls on their way. Writes of a record happen at once: they depend on nothing but the record, and the
//! other model takes them apart.
//!
//! # Budgets and states
//!
//! Nearly every scenario has one request, one drain attempt, one node, one DLX, one autoscaler, and what its name says.
//!
//! | scenario | begins | with | distinct states |
//! |---|---|---|---|
//! | always_opts_in | awake, not intercepted | a connection, opts out | 6,968 |
//! | always_intercepted | awake | two requests, two drain attempts | 2,816 |
//! | always_rivals | awake | two autoscalers, opts out | 121,996 |
//! | always_gitops | awake | key removed, a connection, pooled | 8,422 |
//! | always_rivals_gitops | awake | two autoscalers, key removed | 78,208 |
//! | always_crash | awake | an autoscaler dies, key removed, opts out | 87,724 |
//! | when_asleep | awake | two nodes, a connection | 10,743 |
//! | when_asleep_pooled | awake | a connection, pooled | 9,633 |
//! | when_asleep_wakes | asleep | two nodes, a connection | 8,232 |
//! | when_asleep_again | awake | two drain attempts | 5,708 |
//! | when_asleep_crash | awake | an autoscaler dies, a connection | 21,313 |
//! | when_asleep_crash_awake | asleep | the same | 23,796 |
//! | when_asleep_rivals | awake | two autoscalers, a connection | 186,437 |
//! | when_asleep_rivals_awake | asleep | two autoscalers | 148,959 |
//! | gitops | awake | key removed twice, a connection | 47,708 |
//! | slices_deleted | awake | ours and the controller's | 61,150 |
//! | scaled_up | awake | manually or by an HPA, key removed | 31,928 |
//! | scaled_to_zero | awake | manually | 64,205 |
//! | scaled_manually | asleep | to zero, up; no request | 2,806 |
//! | opts_out | awake | and an autoscaler dies | 18,525 |
//! | joins | asleep | another DLX | 19,185 |
//! | leaves | awake | one of two | 119,291 |
//! | replaced | awake | the only DLX leaves, another joins (traffic mode `always`) | 105,007 |
//! | dies | awake | one of two | 23,779 |
//! | failover | awake | the only DLX dies, another joins (traffic mode `always`) | 25,602 |

pub mod event;
pub mod fault;
pub mod leader;
pub mod model;
pub mod step;
pub mod world;
