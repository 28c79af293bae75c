//! Service interception: traffic to a workload's Services goes to the DLXs.
//!
//! What is to be intercepted, why not, and what is intercepted now is a pure function of the index ([`desired`]). The writes are on
//! three kinds of objects, each a compare-and-set: the ConfigMap of the port registry ([`ports`]), Scaler's EndpointSlices, and one
//! key in the Services' selectors. Their order ([`apply`]) leaves every Service with an endpoint after each write, and a call that
//! starts again continues from there.

mod apply;
mod desired;
pub(crate) mod ports;
#[cfg(test)]
mod scene;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use scaler_types::{Nonce, Phase, ResourceId, Role, ScaleError};
use tokio::sync::Mutex;

use crate::{
    cluster::{self, ClusterApi},
    index::{ObjectChange, ObjectType, State, StateOrigin, Store},
    objects::{ObjectName, Service, Workload},
    workload::{options::workload_options, scale::ScaleWriter},
};

pub(crate) use desired::{
    reach::interception_by_default,
    status::{WorkloadInterception, interception_status},
};

/// Intercepts and restores Services.
#[derive(Clone)]
pub(crate) struct InterceptionWriter {
    cluster: ClusterApi,
    store: Arc<Store>,
    scales: ScaleWriter,
    /// One write of the registry at a time: those of one process would only be in each other's way.
    registering: Arc<Mutex<()>>,
    /// What is to be written there next.
    waiting: Arc<std::sync::Mutex<Vec<apply::ports::PendingPortChange>>>,
}

/// A Service as the API server has it.
#[derive(Clone, Debug)]
struct ServiceSnapshot {
    service: Service,
    resource_version: String,
    /// The selector as it stands.
    selector: std::collections::BTreeMap<String, String>,
}

/// How the ports of a workload's Services are forwarded, human-readable.
pub(crate) fn describe_forwarding(state: &State, workload: &Workload) -> String {
    let services = state.ordinary_services_of(workload);
    services.into_iter().map(desired::plan::describe_forwarding).collect::<Vec<_>>().join(". ")
}

// === impl InterceptionWriter ===

impl InterceptionWriter {
    /// Nothing is written yet.
    pub(crate) fn new(cluster: ClusterApi, store: Arc<Store>, scales: ScaleWriter) -> Self {
        Self { cluster, store, scales, registering: Arc::default(), waiting: Arc::default() }
    }

    /// Verifies that the Services of a workload that is about to be scaled to zero by the drain attempt of that nonce are intercepted,
    /// and have been for `intercepted_for`; a workload that is not to be intercepted passes.
    ///
    /// The record is on the workload and the selector key on the Service, so no single write can test both. Therefore the key of each
    /// Service is refreshed first, on the very version since which everything passes the DLXs: a removal that was decided on an older
    /// version fails from then on, and one that is decided on this version finds the drain.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`]: they are not, or another writer changed one.
    pub(crate) async fn verify_interception(
        &self,
        id: &ResourceId,
        attempt: Nonce,
        intercepted_for: Duration,
    ) -> Result<(), ScaleError> {
        let counted_on = self.store.with(|state| {
            let workload = state.workload(id)?;
            let status = interception_status(state, workload, &workload_options(state, workload));
            let services = state.ordinary_services_of(workload).into_iter().cloned().collect::<Vec<_>>();
            let long_enough =
                status.intercepted_since.is_some_and(|since| since.elapsed() >= intercepted_for);
            status.is_requested().then(|| (status.is_fully_intercepted() && long_enough).then_some(services))
        });
        let Some(counted_on) = counted_on else { return Ok(()) };
        let services = counted_on.ok_or(ScaleError::Conflict)?;
        for service in &services {
            self.refresh_selector_key(service, attempt).await?;
        }
        for service in &services {
            self.read_slices(&service.meta.key()).await?;
        }
        match self.interception_status(id).is_some_and(|status| status.is_fully_intercepted()) {
            true => Ok(()),
            false => Err(ScaleError::Conflict),
        }
    }

    /// Nothing is restored during a drain: its commit may have verified the interception already. To be called after the Services were
    /// read and before they are written: a drain that begins later finds them changed.
    async fn ensure_no_drain(&self, id: &ResourceId) -> Result<(), ScaleError> {
        let workload = self.scales.fetch_workload(id).await?;
        match workload.stored.record.phase {
            Phase::Draining if workload.replicas > 0 => Err(ScaleError::Conflict),
            _ => Ok(()),
        }
    }

    /// Only the autoscaler intercepts.
    fn ensure_autoscaler(&self) -> Result<(), ScaleError> {
        match self.store.with(|state| state.config.role) {
            Role::Autoscaler => Ok(()),
            Role::Dlx => Err(ScaleError::Unsupported),
        }
    }

    /// Reads the Services of a workload from the API server, and takes that over. Those that are gone are left out.
    async fn read_services(&self, id: &ResourceId) -> Result<Vec<ServiceSnapshot>, ScaleError> {
        let names: Vec<ObjectName> = self.store.with(|state| {
            let workload = state.workload(id);
            let services = workload.map(|workload| state.services_of(workload)).unwrap_or_default();
            services.into_iter().map(|service| service.meta.key()).collect()
        });
        let mut all = Vec::new();
        for name in names {
            all.extend(self.read_service(&name).await?);
        }
        Ok(all)
    }

    async fn read_service(&self, name: &ObjectName) -> Result<Option<ServiceSnapshot>, ScaleError> {
        match self.cluster.call(self.cluster.in_namespace::<core::Service>(&name.0).get(&name.1)).await {
            Ok(service) => Ok(Some(self.observe_service(service))),
            Err(error) if cluster::is_missing(&error) => {
                self.store.with(|state| {
                    if let Some(uid) = state.service(name).map(|service| service.meta.uid.clone()) {
                        state.remove(ObjectType::Services, name, &uid);
                    }
                });
                Ok(None)
            }
            Err(error) => {
                let doing = format!("reading the Service {}/{}", name.0, name.1);
                Err(cluster::write_error(&error, &doing, false))
            }
        }
    }

    fn observe_service(&self, service: core::Service) -> ServiceSnapshot {
        let resource_version = service.metadata.resource_version.clone().unwrap_or_default();
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let fact = Service::from(service);
        self.store.with(|state| state.apply(ObjectChange::Service(fact.clone()), StateOrigin::Own));
        ServiceSnapshot { service: fact, resource_version, selector }
    }
}
