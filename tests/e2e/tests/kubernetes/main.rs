//! The daemons as pods of a cluster, each test in one of its own.
#![allow(missing_docs)]

mod cycles;
mod elsewhere;
mod failing;
mod figures;
mod ground;
mod led;
mod mutants;
mod outage;
mod prometheus;
mod rights;
mod scenes;
mod stalled;
mod waking;
mod writers;
