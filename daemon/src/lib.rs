//! What both daemons share. (skeleton: the signatures stand, the bodies come)
#![allow(missing_docs, unused_variables, clippy::todo)]
pub mod admin;
pub mod fleet;
pub mod flags;
pub mod leader;
pub mod listen;
pub mod members;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
