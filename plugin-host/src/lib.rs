//! Finds, checks, loads and calls plugins: resource-scalers and metric sources.
//!
//! [`load_dir`] looks at every `*.so` of a folder and says which it loaded and why it rejected the others. A [`Plugin`] is a
//! loaded library; [`Plugin::start`] makes a [`RunningPlugin`] of it for one namespace file, [`Plugin::start_metric_source`] a
//! [`RunningMetricSource`]. Their calls never last longer than their time, hold no thread while they wait, and are cancelled in the plugin when they are dropped; a
//! plugin that panics has answered with an error.
//!
//! A library is first loaded by another process: what crashes or hangs in its initialisers is left out. (In the daemon itself
//! it would take the dynamic loader with it, and nearly every thread needs that now and then.)
//!
//! A plugin can still crash the daemon it is in (a segmentation fault, `abort`, `exit`, a stack overflow), eat its
//! memory, and change the state of the whole process (signal handlers, the working directory). Load only libraries
//! you trust. Replace a library by writing another file and renaming it over the old one: to overwrite one that is
//! loaded changes the code under a running daemon.

mod breaker;
mod change_stream;
mod error;
mod exit;
mod inspect;
mod instance;
mod interface;
mod listed;
mod log;
mod metric_source;
mod object;
mod pace;
mod plugin;
mod probe;
mod running;
mod scan;

pub use change_stream::ChangeStream;
pub use error::{CallError, LoadError, RejectedPlugin};
pub use exit::exit;
pub use interface::{Interface, METRIC_SOURCES_FOLDER};
pub use listed::{Listed, UnreadableResource};
pub use log::{Panics, panics};
pub use metric_source::RunningMetricSource;
pub use object::{ANSWER_WITHIN, STOP_WITHIN};
pub use plugin::Plugin;
pub use probe::answer_probe;
pub use running::{CallFuture, RunningPlugin};
pub use scan::{LOAD_TIMEOUT, Scan, load_dir};
