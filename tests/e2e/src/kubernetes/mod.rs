//! The daemons as pods of a cluster, with the rights that the chart ships and no more.
//!
//! A [`Shop`] is a cluster with one served namespace, both daemons and their plugin in it: devcluster's API, controllers and node, all
//! inside a network namespace of the test's own; or, with `SCALER_E2E_KUBECONFIG`, the cluster of that file ([`test_cluster`]). [`Workload`]s are what sleeps and wakes; [`cycles`] has the load and the
//! disturbances.

pub mod broker;
pub mod cycles;
pub mod front;
pub mod hook;
pub mod journals;
pub mod manifests;
mod objects;
pub mod prometheus;
pub mod protocols;
pub mod shop;
pub mod snapshot;
pub mod test_cluster;
pub mod workload;
pub mod workload_view;

pub use objects::create;
pub use shop::{Setting, Shop};
pub use snapshot::Snapshot;
pub use test_cluster::{Names, kubeconfig, needs_devcluster, run};
pub use workload::Workload;
pub use workload_view::WorkloadView;
