//! The suite: one program, a module per subject.

mod burst;
mod cli;
mod commands;
mod cycles;
mod history;
mod holding;
mod load;
mod members;
mod misbehaving;
mod mistakes;
mod namespaces;
mod proxying;
mod reload;
mod rules;
mod run;
mod waking;
mod workers;
