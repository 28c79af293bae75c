//! The route of one resource, model-checked: its Service, the slices on it, who follows them, and the autoscalers that lead it.
//!
//! [`model::Model`] drives the very [`route_step`](scaler_types::protocol::route_step), [`Fence`](scaler_types::protocol::Fence),
//! [`Gate`](scaler_types::protocol::Gate) and [`recover`](scaler_types::protocol::recover) that the daemons call. `tests/route.rs` has
//! the scenarios, `tests/route_faults.rs` shows that each fault around the protocol is found.
//!
//! # What is modelled
//!
//! - **Three objects**, each with a version of its own: the workload (row and scale), the Service (our key in its selector) and
//!   our slice (the DLXs it names). Nothing changes two of them at once. The cluster's controller keeps a slice of the ready
//!   pods, empty while the key is there; it follows with any delay.
//! - **Nodes** follow the slices with any delay, each change in its order. New connections choose by a node's view; what is
//!   established stays where it is. A pooled connection carries another request at any time.
//! - **A grace** is over at any time after the controller was through with what was there when it began, and every node had
//!   followed what it had made of that ([`world::Grace`]): that is what its length is to ensure. No call that changes a route
//!   lives longer than a grace (its deadline), which counts where an autoscaler knows its pods by now, where it takes DLXs for
//!   dead, and where a DLX ends; everywhere else a write lands as late as it likes, also after its author has died.
//! - **Autoscalers** see route and row at any time, and decide later, by `route_step`, on what may be old. What carries it out
//!   keeps to this (in the daemons it is the plugin's `set_route`):
//!   1. The row is read after the route: it must be the one that the decision was made on, and still ask for what is written.
//!   2. To lead to the DLXs, the slice is written, anew if it is there; then the key, anew if it is there, on the version that
//!      the Service had before the slice was written.
//!   3. To lead to both, the key is removed, on the version that was told. (The slice is written first if it is not there, unless
//!      no DLX could be named.)
//!   4. Before our slice is removed, on the version that was told, a last look: no key, and the controller's slice names pods.
//!   5. The DLXs that are named were looked up after that version was told.
//! - **A try** on either path has the route written anew by these rules. On path direct it waits for the grace and takes a sample; on path
//!   always the Service must be the version on which it counted as led for a window, its own rewrites aside. The commit is
//!   written some time after a last look: the Service's version is the one the try wrote, key and slice are there.
//! - **DLXs** join, serve, die (a slice names them until it is tended), or leave: serve what comes until no slice names them and
//!   a grace has passed since, which begins anew when one does.
//! - **People**: server-side apply takes the key away; somebody deletes our slice or the controller's, scales to zero, up, or to
//!   another number (an HPA too), and opts out, all at any time, inside a fence too.
//!
//! # What must hold
//!
//! - New connections have somebody to go to in every state, unless a person stopped the pods or deleted a slice, or all that
//!   ours names have died. None goes to pods that a commit has stopped, or to a DLX that ended in good order.
//! - No commit cuts a request at a DLX. None cuts one at a pod, but on a pooled connection since after the sample (path direct), or
//!   from before it was led (path always): as gentle as a rolling update.
//! - When nothing can happen any more the row is active, asleep or failed, nothing is held, and the route is what path, row and
//!   owner want: given back, or led to exactly the DLXs that serve. From every state such an end can be reached.
//! - Every [`Event`](event::Event) that a scenario names does happen in it.
//!
//! # What is left out
//!
//! A key that is taken away between a commit's last look and its write (milliseconds; nobody could know). A commit's author that
//! dies in between, and the key taken away before its write lands: the same. Waking what sleeps when no DLX is left. Nodes that see
//! one slice's change before an older one of another: with that alone would the grace between the controller's slice and the
//! removal of ours be needed for more than the calls on their way. Writes of a row happen at once: they depend on nothing but the
//! row, and the other model takes them apart.
//!
//! # Budgets and states
//!
//! Nearly every scenario has one request, one fence, one node, one DLX, one autoscaler, and what its name says.
//!
//! | scenario | begins | with | distinct states |
//! |---|---|---|---|
//! | always_opts_in | awake, not led | a connection, opts out | 5,287 |
//! | always_led | awake | two requests, two fences | 5,917 |
//! | always_rivals | awake | two autoscalers, opts out | 56,849 |
//! | always_gitops | awake | key taken, a connection, pooled | 11,040 |
//! | always_crash | awake | an autoscaler dies, key taken, opts out | 61,861 |
//! | direct | awake | two nodes, a connection | 10,221 |
//! | direct_pooled | awake | a connection, pooled | 8,925 |
//! | direct_wakes | asleep | two nodes, a connection | 17,151 |
//! | direct_again | awake | two fences | 27,752 |
//! | direct_crash | awake | an autoscaler dies, a connection | 12,965 |
//! | direct_crash_awake | asleep | the same | 42,270 |
//! | direct_rivals | awake | two autoscalers, a connection | 92,866 |
//! | direct_rivals_awake | asleep | two autoscalers | 167,942 |
//! | gitops | awake | key taken twice, a connection | 15,544 |
//! | slices_deleted | awake | ours and the controller's | 43,295 |
//! | scaled_up | awake | by hand or by an HPA, key taken | 20,072 |
//! | scaled_to_zero | awake | by hand | 99,154 |
//! | scaled_by_hand | asleep | to zero, up; no request | 10,327 |
//! | opts_out | awake | and an autoscaler dies | 11,869 |
//! | joins | asleep | another DLX | 118,359 |
//! | leaves | awake | one of two | 103,525 |
//! | replaced | awake | the only DLX leaves, another joins (path always) | 106,577 |
//! | dies | awake | one of two | 19,215 |
//! | dead_man | awake | the only DLX dies, another joins (path always) | 27,016 |

pub mod event;
pub mod fault;
pub mod leader;
pub mod model;
pub mod step;
pub mod world;
