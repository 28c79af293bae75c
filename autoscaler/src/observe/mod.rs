//! The autoscaler's observations: the DLXs and their reports, metric sources, and the resources that plugins list.
//!
//! The DLXs ([`dlx`]), which every request passes, know both how busy a resource was and what is in flight. Another
//! source ([`prometheus`], [`kubernetes`]) has values only: the DLXs are queried as well, for what is in flight.

mod activity;
mod changes;
mod dlx;
mod error;
pub(crate) mod kubernetes;
pub(crate) mod load;
pub(crate) mod members;
mod prometheus;
mod quantity;
pub(crate) mod queues;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod work;

pub(crate) use activity::{
    Activity, ActivityUnknown, Completeness, DlxReports, Measurements, MetricReading, MetricValue, REQUESTS,
    Sample, SampleCount,
};
pub(crate) use activity::{ResourceIndex, index_by_name};
pub(crate) use changes::{ListedChanges, follow_changes};
pub(crate) use source::{ActivitySource, RequestedScalingMetric, effective_metrics, shortest_window};
