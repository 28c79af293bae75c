//! The DLX: receives the requests of resources that are at zero, holds them, has the plugin scale the resource from
//! zero, then proxies.
//!
//! A request's way, from top to bottom; no stage imports one above it:
//!
//! | stage | what it does |
//! |---|---|
//! | `listen` | accepts connections, serves each on one of the threads to its end |
//! | `identify` | for whom a request is: by its port, the headers of a trusted peer, or its host |
//! | `admit` | whether it may go now, or is held until its resource is up or its time is over |
//! | `forward` | HTTP or TCP to an endpoint and back |
//!
//! Below them `state` is what this DLX knows of each resource, and says what follows from a change; `driver` does that
//! (probes, writes, wakes, Events), and follows what the plugins tell. `client` is a client's connection, `plugin` what is
//! called of a plugin. `stages` wires all of it, `run` is the process, `stop` says from when on nobody comes any more.
//! The way of a request to a resource that is up takes no lock that another thread takes.

mod admin;
mod admit;
mod answer;
mod client;
mod clock;
mod driver;
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
pub use run::run;
