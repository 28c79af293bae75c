//! One workload: what its annotations ask for, its scale, its pods.

pub mod endpoints;
pub mod exempt;
pub mod hosts;
pub mod options;
pub mod patch;
pub mod pod_health;
pub mod scale;
