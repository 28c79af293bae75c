//! The daemons as pods of a cluster, each test in one of its own.
#![allow(missing_docs)]

mod affinity;
mod backup;
mod cycles;
mod direct;
mod dual;
mod elsewhere;
mod failing;
mod figures;
mod giving_back;
mod ground;
mod herd;
mod leaders;
mod led;
mod mutants;
mod outage;
mod prometheus;
mod protocols;
mod rights;
mod scenes;
mod stalled;
mod uninstall;
mod upgrade;
mod waking;
mod writers;
