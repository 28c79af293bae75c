//! The contract between Scaler and its plugins.
//!
//! A *resource-scaler* is a plugin, one shared library per kind of resource. Its author implements
//! [`ResourceScaler`] in ordinary asynchronous Rust and ends with one line, [`export_resource_scaler!`];
//! this crate does everything that crosses the library boundary (module [`v1`]).
//!
//! The crate also holds what both daemons and the model checker share: the [`protocol`] by which a resource goes
//! to zero without losing a request, as pure functions.
//!
//! # Writing a plugin
//!
//! A crate of type `cdylib` that depends on this one:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! scaler-types = { path = "../../scaler-types" }
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! (`cargo xtask new-plugin NAME` makes one.) This is a whole plugin. It scales lamps, of which there are as many as are
//! configured, and which are lit by writing it down:
//!
//! ```
//! use scaler_types::{records::Records, *};
//! use serde::Deserialize;
//!
//! /// plugins: {lamp: {lamps: [hall, kitchen], address: "127.0.0.1:9000"}}
//! #[derive(Default, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Section {
//!     lamps: Vec<String>,
//!     address: String,
//! }
//!
//! struct Lamps {
//!     namespace: String,
//!     section: Section,
//!     /// The records of all lamps, in files that both daemons share; beside each, which wake lit it.
//!     records: Records<Nonce>,
//! }
//!
//! impl ResourceScaler for Lamps {
//!     const KIND: &'static str = "lamp";
//!
//!     async fn new(context: PluginContext) -> Result<Self> {
//!         let section = context.section()?.unwrap_or_default();
//!         Ok(Self { section, records: Records::open(&context)?, namespace: context.namespace })
//!     }
//!
//!     async fn get_resources(&self) -> Result<Vec<Resource>> {
//!         let lamp = |name: &String| {
//!             let mut lamp = Resource::new(ResourceId::new(&self.namespace, name));
//!             let stored = self.records.read(&lamp.id)?;
//!             lamp.hosts = vec![format!("{name}.localhost")];
//!             lamp.replicas = stored.up.is_some().into();
//!             let endpoint = |wake: Nonce| Endpoint::new(&self.section.address, wake.to_string());
//!             lamp.endpoints = stored.up.map(endpoint).into_iter().collect();
//!             (lamp.record, lamp.version) = (stored.record, stored.version);
//!             Ok(lamp)
//!         };
//!         self.section.lamps.iter().map(lamp).collect()
//!     }
//!
//!     async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
//!         let mut turn = self.records.begin(request).await?; // written, and nobody else scales this lamp now
//!         if turn.leaving().is_some() {
//!             // Here it would be put out.
//!             turn.stopped().await?;
//!         }
//!         if request.target != Target::Zero && turn.up().is_none() {
//!             // Here it would be lit.
//!             turn.started(request.record.nonce).await?;
//!         }
//!         Ok(())
//!     }
//!
//!     async fn resolve_service_name(&self, _: &ResourceId) -> Result<String> {
//!         Ok(self.section.address.clone())
//!     }
//!
//!     async fn changes(&self, cursor: u64) -> Result<Changes> {
//!         let cursor = self.records.changed(cursor).await.cursor;
//!         Ok(Changes { cursor, complete: true, resources: self.get_resources().await?, ..Changes::default() })
//!     }
//!
//!     async fn compare_and_set(&self, id: &ResourceId, expected: &Version, record: &Record) -> Result<Version, ScaleError> {
//!         self.records.compare_and_set(id, expected, record).await
//!     }
//! }
//!
//! export_resource_scaler!(Lamps);
//! #
//! # // What the daemons see of it; the seam itself is tested in plugin-host.
//! # #[tokio::main]
//! # async fn main() -> Result<()> {
//! #     let state = tempfile::tempdir()?;
//! #     let lamps = Lamps::new(PluginContext {
//! #         namespace: "demo".into(), role: Role::Dlx, state_dir: state.path().into(), plugin_dir: "plugins".into(),
//! #         kubeconfig: None, coordination: Coordination::Files, daemon_namespace: None, service_ports: None, daemon_pod: None,
//! #         dlx_service: String::new(), metrics_urls: Vec::new(), kind: "lamp".into(), namespace_file: "demo.yaml".into(),
//! #         namespace_file_text: "namespace: demo\nplugins:\n  lamp: {lamps: [hall], address: '127.0.0.1:9000'}\n".into(),
//! #     }).await?;
//! #     let hall = lamps.get_resources().await?.remove(0);
//! #     assert_eq!((hall.hosts[0].as_str(), hall.replicas), ("hall.localhost", 0));
//! #     let record = Record { phase: Phase::Waking, nonce: Nonce(7), ..Record::default() };
//! #     let deadline = std::time::Duration::from_secs(60);
//! #     let wake = ScaleRequest { id: hall.id.clone(), target: Target::AtLeast(1), version: hall.version, record, deadline, intercepted_for: deadline, busy: Vec::new() };
//! #     lamps.set_scale(&wake).await?;
//! #     assert_eq!(lamps.set_scale(&wake).await, Err(ScaleError::Conflict), "it was decided on an older version");
//! #     let hall = lamps.changes(0).await?.resources.remove(0);
//! #     assert_eq!((hall.replicas, hall.endpoints.len(), hall.record.phase), (1, 1, Phase::Waking));
//! #     Ok(())
//! # }
//! ```
//!
//! Rules that an author must keep, and that nothing checks:
//!
//! 1. A [`Record`] and the scale are one thing with one [`Version`]: written in one step, only if the version is still the same, and read
//!    together. [`records`] does it for resources on one host; a cluster's API does it with `resourceVersion`.
//! 2. A replica that is being stopped is not listed: neither in [`Resource::replicas`] nor in [`Resource::endpoints`]. A plugin that
//!    watches endpoints and records separately must treat an endpoint it observed at zero replicas as being stopped, and wait until it
//!    is gone before it scales from zero. If the records' watch was only late, a list of the endpoints made after replicas were
//!    observed corrects that (`tests/model`, `pods_of_before`).
//! 3. Every daemon loads the plugin in its own process, and each may call at any time. Keep state that matters outside of them.
//! 4. A call may be dropped at any `await`, and the process may be killed at any point: the next call must be able to go on from there.
//!    Scaling to a scale that is reached already must work.
//! 5. [`changes`](ResourceScaler::changes) never returns an older state of a resource after a newer one.
//!
//! `examples/plugin` in the repository is a plugin that starts and stops something, with a page that explains it.
//!
//! # How it is built and loaded
//!
//! `cargo build --release`, then `lib<name>.so` goes to the daemons' plugin folder as `<name>.so`, by rename. It must
//! be built with unwinding panics (cargo's default), for the same system as the daemons or an older one; the compiler need not
//! be the same. A library built with another version of this crate loads as long as the major version is the same: methods and fields
//! that one side does not know are left out.
//!
//! Each library has its own copy of every crate, tokio among them, and two threads on which all its calls run.
//! What it logs with `tracing` goes to the daemon's log. A panic is its call's error. These end the daemon, since it is
//! one process: a segmentation fault, `abort`, `exit`, a stack overflow, and running out of memory.

pub mod backoff;
mod changes;
mod child;
mod context;
pub mod duration;
mod event;
mod id;
mod interception;
mod metric_source;
pub mod protocol;
mod record;
pub mod records;
mod resource;
mod rollout;
mod scale;
mod scaler;
mod scaling;
pub mod scaling_options;
#[doc(hidden)]
pub mod tolerant;
pub mod v1;
#[doc(hidden)]
pub mod yaml;

pub use changes::Changes;
pub use child::kill_with_parent;
pub use context::{Coordination, PluginContext, ResourceScalerConfig, Role};
pub use event::{EventReason, ResourceEvent, Severity};
pub use id::ResourceId;
pub use interception::{Backend, Dlx, Interception, InterceptionRequest, RestoreRequest, ServicePorts};
pub use metric_source::{MetricSource, MetricSourceContext, QueueError, QueueReading};
pub use record::{Nonce, Phase, Record, Version};
pub use resource::{
    AddressOf, Endpoint, Port, Probe, Progress, Protocol, Resource, ScaleResource, TrafficMode,
};
pub use rollout::{Rollout, RolloutPhase};
pub use scale::{ScaleError, ScaleEvent, ScaleRequest, Target};
pub use scaler::ResourceScaler;
pub use scaling::{Disruption, Scaling, ScalingMetric};

/// The result of a plugin author's functions: any error, with its causes.
pub use anyhow::Result;
