//! The daemons as pods of a cluster, each test in one of its own.
#![allow(missing_docs)]

mod cycles;
mod waking;
