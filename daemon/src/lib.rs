//! The parts that both daemons share: flags, namespace files and the plugins running for them, logs and metrics, the admin
//! server, membership, leadership, listening sockets, and how a daemon ends.

pub mod admin;
pub mod cluster;
pub mod completion;
pub mod coordination;
pub mod events;
pub mod exit;
mod files;
pub mod flags;
pub mod leader;
pub mod listen;
pub mod members;
pub mod namespace_file;
pub mod plugin_manager;
pub mod reports;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod token;
pub mod wakes;
