//! One workload: what its annotations ask for, its scale, its pods.

pub(crate) mod busy;
pub(crate) mod endpoints;
pub(crate) mod exempt;
pub(crate) mod hosts;
pub(crate) mod idle_pods;
pub(crate) mod options;
pub(crate) mod patch;
pub(crate) mod pod_health;
pub(crate) mod scale;
pub(crate) mod step_down;
