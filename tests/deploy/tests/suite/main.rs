//! The chart, the manifests and the examples: rendered, held against the programs and against the API's types.

mod cluster;
mod daemons;
mod docs;
mod examples;
mod interception;
mod invariants;
mod monitoring;
mod plugin;
mod policy;
mod production;
mod queries;
mod rbac;
mod reference;
mod release;
mod systemd;
mod typed;
mod uninstall;
mod values;
