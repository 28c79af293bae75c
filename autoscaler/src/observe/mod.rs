//! What the autoscaler sees: the DLXs and their reports, metric sources, and the resources that plugins list.
//!
//! The DLXs ([`dlx`]), which every request passes, know both how busy a resource was and what is in flight. Another
//! source ([`prometheus`], [`kubernetes`]) tells values only: the DLXs are asked beside it, for what is in flight.

mod activity;
mod changes;
mod dlx;
pub mod kubernetes;
pub mod members;
mod prometheus;
mod quantity;
mod source;

pub use activity::{Activity, Coverage, Measure, REQUESTS, Reading, Sample, Seen, Source, Unknown, Value};
pub(crate) use activity::{Places, places};
pub(crate) use changes::{Told, follow};
pub use source::{MetricSource, metrics};
