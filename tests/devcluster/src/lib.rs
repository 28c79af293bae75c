//! A Kubernetes API, its controllers, a node and the nodes' service proxies, for tests.
//!
//! [`Cluster::start`] serves the API on a port, in this process, on plain HTTP with bearer tokens. It does what our daemons and tests depend on, as the real
//! server does it; `tests/conformance` holds it to that, and runs against a real cluster, too. `README.md` lists where
//! it is more lenient.

mod access;
mod admission;
mod api;
mod bootstrap;
mod cache;
mod cluster;
mod collect;
pub mod controllers;
mod custom_metrics;
mod faults;
mod fields;
mod http;
mod identity;
pub mod netns;
pub mod node;
mod options;
mod patch;
pub mod proxy;
pub mod random;
mod registry;
mod requests;
mod selector;
mod server;
mod store;

pub use self::{
    access::User,
    cluster::{Cluster, kubeconfig},
    custom_metrics::CustomMetrics,
    faults::{Fault, Faults, Filter, Refusal},
    options::Options,
    requests::{Asked, Requests},
};
