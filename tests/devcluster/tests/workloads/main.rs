//! Controllers and node, held to what a real cluster does where it can be asked.

mod deployments;
mod faults;
mod many;
mod node;
mod pods;
mod program;
mod proxy;
mod proxy_lag;
mod proxy_site;
mod services;
mod site;
mod stateful_sets;
