//! Resource-scaler of kind `deployment`: Kubernetes workloads that have a scale.
//!
//! The index is kept by watches ([`index`]); every write is one JSON patch of record and scale together, with tests of
//! what it was decided on ([`workload::patch`], [`workload::scale`]). What the daemons see of a workload is a pure function of the index
//! ([`resource`]). Its Services are intercepted by [`interception`].

mod ascii;
mod cluster;
mod config;
mod events;
mod index;
mod interception;
mod objects;
mod resource;
mod workload;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context as _;
use scaler_types::{
    Backend, Changes, Coordination, Dlx, InterceptionRequest, PluginContext, Record, Resource, ResourceEvent,
    ResourceId, ResourceScaler, ResourceScalerConfig, RestoreRequest, Result, Role, ScaleError, ScaleRequest,
    Target, Version,
};
use tokio::task::JoinSet;

use cluster::ClusterApi;
use config::PluginConfig;
use events::{Events, reasons::PORTS_FORWARDED};
use index::{
    Clock, Store,
    start::{self, Started},
};
use interception::InterceptionWriter;
use objects::Workload;
use workload::{exempt, scale::ScaleWriter};

/// Scales Kubernetes workloads and intercepts their Services.
pub struct DeploymentScaler {
    config: Arc<PluginConfig>,
    store: Arc<Store>,
    scales: ScaleWriter,
    interception: InterceptionWriter,
    events: Arc<Events>,
    /// What was published of how the ports of intercepted Services are forwarded.
    describe_forwarding: Mutex<HashMap<ResourceId, String>>,
    /// The watches and what follows from them.
    tasks: Mutex<JoinSet<()>>,
}

scaler_types::export_resource_scaler!(DeploymentScaler);

// === impl DeploymentScaler ===

impl ResourceScaler for DeploymentScaler {
    const KIND: &'static str = "deployment";

    /// In a cluster every file does: workloads opt in by annotations. On one host only a file that says so by mistake.
    fn is_configured(context: &PluginContext) -> bool {
        context.coordination == Coordination::Leases || context.has_section()
    }

    async fn new(context: PluginContext) -> Result<Self> {
        let clock: Clock = Arc::new(Instant::now);
        let config = Arc::new(PluginConfig::read(&context)?);
        let (kubeconfig, home) = (context.kubeconfig.as_deref(), context.daemon_namespace.clone());
        let cluster = ClusterApi::connect(kubeconfig, config.namespace.clone(), home, config.role).await?;
        let missing_pod_label = exempt::check_own_pod(&cluster, &context).await?;
        let Started { store, mut tasks } =
            start::start(&cluster, &config, clock, resource::project, missing_pod_label).await?;
        let events = Arc::new(Events::new(cluster.client.clone(), config.role));
        tasks.spawn(events::warnings::publish_warnings(Arc::clone(&store), Arc::clone(&events), config.role));
        if config.role == Role::Dlx {
            tasks.spawn(index::verify::follow_unverified(cluster.clone(), Arc::clone(&store)));
        }
        let scales = ScaleWriter::new(cluster.clone(), Arc::clone(&store));
        let interception = InterceptionWriter::new(cluster, Arc::clone(&store), scales.clone());
        Ok(Self {
            config,
            store,
            scales,
            interception,
            events,
            describe_forwarding: Mutex::default(),
            tasks: Mutex::new(tasks),
        })
    }

    async fn get_resources(&self) -> Result<Vec<Resource>> {
        self.scales.confirm_writes().await;
        Ok(self.store.resources())
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        // A DLX scales nothing to zero.
        if request.target == Target::Zero && self.config.role == Role::Autoscaler {
            // Before anything is changed: that would rewrite the key of an intercepted Service.
            self.scales.ensure_idle(&request.id).await?;
            self.interception
                .verify_interception(&request.id, request.record.nonce, request.intercepted_for)
                .await?;
        }
        self.scales.set_scale(request).await
    }

    async fn get_config(&self) -> Result<Option<ResourceScalerConfig>> {
        let warnings =
            self.store.with(|state| state.missing_pod_label.iter().map(|why| why.text.clone()).collect());
        Ok(Some(ResourceScalerConfig {
            scale_resources: config::requests_in(self.config.scale_to_zero),
            warnings,
            ..ResourceScalerConfig::default()
        }))
    }

    async fn resolve_service_name(&self, resource: &ResourceId) -> Result<String> {
        // Requests go to pods, never by the Service: while it is intercepted they would come back.
        let known = self.store.with(|state| resource::project(state, resource).listed);
        let known = known.with_context(|| format!("{resource} is not managed"))?;
        let status = known.status();
        anyhow::bail!("{}", if status.is_empty() { "no pod has an address yet" } else { status })
    }

    async fn changes(&self, cursor: u64) -> Result<Changes> {
        if cursor == 0 {
            self.scales.confirm_writes().await;
        }
        Ok(self.store.changes(cursor).await)
    }

    async fn compare_and_set(
        &self,
        resource: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        Ok(self.scales.write_record(resource, expected, record, None).await?.version())
    }

    async fn set_backend(&self, request: &InterceptionRequest) -> Result<(), ScaleError> {
        self.interception.set_backend(request).await?;
        if request.backend == Backend::Dlx {
            self.publish_forwarding(&request.id);
        }
        Ok(())
    }

    async fn sync_dlxs(&self, dlxs: &[Dlx]) -> Result<()> {
        self.interception.sync_dlxs(dlxs).await
    }

    async fn restore(&self, request: &RestoreRequest) -> Result<(), ScaleError> {
        self.interception.restore(request).await
    }

    async fn publish_event(&self, resource: &ResourceId, report: &ResourceEvent) -> Result<()> {
        let object = self.store.with(|state| state.workload(resource).map(Workload::reference));
        let object = object.with_context(|| format!("{resource} does not exist"))?;
        let written = self.events.write(&object, report).await;
        written.map_err(|error| {
            anyhow::anyhow!(
                "writing the Event {} on {resource}: {}",
                report.reason,
                cluster::describe_error(&error)
            )
        })
    }

    async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl DeploymentScaler {
    /// Publishes once, and again when it changed, how the ports of a workload's Services are forwarded. In the background.
    fn publish_forwarding(&self, id: &ResourceId) {
        let event = self.store.with(|state| {
            let workload = state.workload(id)?;
            Some((workload.reference(), interception::describe_forwarding(state, workload)))
        });
        let Some((object, message)) = event else { return };
        let mut describe_forwarding = self.describe_forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        if describe_forwarding.insert(id.clone(), message.clone()).as_ref() == Some(&message) {
            return;
        }
        let (events, id) = (Arc::clone(&self.events), id.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are done are forgotten.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            if let Err(error) = events.write(&object, &PORTS_FORWARDED.event(message)).await {
                tracing::warn!(resource = %id, error = cluster::describe_error(&error), "failed to write an Event");
            }
        });
    }
}
