//! Metric sources against real servers.

mod custom_metrics;
mod exporter;
mod real_prometheus;
