//! The DLX: receives requests, holds those of sleeping resources, has the plugin wake the resource, and forwards them.
//!
//! The path of a request, from top to bottom; no stage imports one above it:
//!
//! | stage | what it does |
//! |---|---|
//! | `listen` | accepts connections, serves each on one of the threads to its end |
//! | `identify` | finds the resource: by the port, the headers of a trusted peer, or the host |
//! | `admit` | forwards it at once, or holds it until its resource is up or it times out |
//! | `forward` | HTTP or TCP to an endpoint and back |
//!
//! Below them, `state` is what this DLX knows of each resource, and returns the effects of each change; `driver` carries
//! them out (probes, writes, wakes, Events) and follows the plugins' lists. `client` is a client's connection, `plugin`
//! the calls of a plugin. `stages` wires everything, `run` is the process, `stop` decides from when on new connections
//! are refused. Forwarding a request to a resource that is up takes no lock that threads share.

mod admin;
mod admit;
mod answer;
mod client;
mod clock;
mod driver;
mod error_code;
mod fault;
mod final_report;
mod flags;
mod forward;
mod identify;
mod listen;
mod metrics;
mod plugin;
mod run;
mod stages;
mod state;
mod stop;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use flags::DlxFlags;
pub use metrics::declared::METRICS;
pub use run::run;
