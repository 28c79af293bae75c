//! The daemons as pods of a cluster, each test in one of its own.
#![allow(missing_docs)]

mod affinity;
mod backup;
mod coexistence;
mod cycles;
mod dual_stack;
mod existing_cluster;
mod failed_wakes;
mod footprint;
mod gitops;
mod harness;
mod herd;
mod intercepted;
mod leaders;
mod many;
mod mutants;
mod outage;
mod pages;
mod prometheus;
mod protocols;
mod quickstart;
mod rbac;
mod restore;
mod scenarios;
mod stalled;
mod uninstall;
mod upgrade;
mod waking;
mod when_asleep;
mod workers;
