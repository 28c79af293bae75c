//! Changing the endpoints of one workload's Services.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use scaler_types::{Backend, Dlx, InterceptionRequest, ResourceId, ScaleError, duration};
use tokio::time::timeout;

use super::{
    super::{
        InterceptionWriter, ServiceSnapshot,
        desired::{plan, refusals::check_interception},
        interception_status,
    },
    ports,
};
use crate::{
    config::InterceptMode,
    index::State,
    objects::{Meta, Service, Slice},
    workload::options::workload_options,
};

impl InterceptionWriter {
    /// Directs the Services of a workload as requested.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if another writer changed one of them meanwhile, [`ScaleError::Terminal`] with what prevents
    /// it.
    pub(crate) async fn set_backend(&self, request: &InterceptionRequest) -> Result<(), ScaleError> {
        self.ensure_autoscaler()?;
        let work = async {
            match request.backend {
                Backend::Dlx => self.intercept(&request.id, &request.dlxs).await,
                Backend::Both => self.add_workload_endpoints(&request.id, &request.dlxs).await,
                Backend::Workload => self.remove_interception(&request.id).await,
                Backend::Unknown => Err(ScaleError::Unsupported),
            }
        };
        let written = timeout(request.deadline, work).await.unwrap_or_else(|_| {
            let reason = format!("not written within {}", duration::short(request.deadline));
            Err(ScaleError::Retry { after: Duration::from_secs(1), reason })
        });
        if matches!(written, Err(ScaleError::Terminal { .. })) {
            // It may be refused by now.
            self.store.with(|state| state.touch(&request.id));
        }
        written
    }

    /// Ports, then slices, then the key: the DLXs are named before the pods are no endpoints any more.
    async fn intercept(&self, id: &ResourceId, dlxs: &[Dlx]) -> Result<(), ScaleError> {
        if dlxs.is_empty() {
            return Err(terminal(format!("intercepting {id}: no DLX is available")));
        }
        let read = self.read_services(id).await?;
        let (wanted, direct) = self.store.with(|state| {
            let workload = state.workload(id).ok_or_else(|| terminal(format!("{id} does not exist")))?;
            let options = workload_options(state, workload);
            if !options.wants_interception(state, workload) {
                return Err(terminal(format!(
                    "{id} is not to be intercepted: scaler.dev/intercept is manual, or it is opted out"
                )));
            }
            if let Some(why) = check_interception(state, workload, &options, dlxs) {
                return Err(terminal(why.text()));
            }
            let services = state.ordinary_services_of(workload);
            let wanted: BTreeSet<_> = services.into_iter().map(|service| service.meta.uid.clone()).collect();
            Ok((wanted, options.intercept == InterceptMode::WhenAsleep))
        })?;
        let read: Vec<ServiceSnapshot> =
            read.into_iter().filter(|one| wanted.contains(&one.service.meta.uid)).collect();
        if read.len() != wanted.len() {
            // One came or went meanwhile.
            return Err(ScaleError::Conflict);
        }
        for service in &read {
            let assigned = self.claim_ports(&service.service).await?;
            self.write_slices(&service.service, &assigned, dlxs).await?;
        }
        if direct && self.scales.fetch_workload(id).await?.serves() {
            // Its drain was reverted meanwhile, and a restore may have missed what was written here.
            return Err(ScaleError::Conflict);
        }
        for service in read {
            self.add_selector_key(service).await?;
        }
        Ok(())
    }

    /// Slices, then the key away: the pods become endpoints beside the DLXs.
    async fn add_workload_endpoints(&self, id: &ResourceId, dlxs: &[Dlx]) -> Result<(), ScaleError> {
        let read = self.read_services(id).await?;
        self.ensure_no_drain(id).await?;
        for one in &read {
            if dlxs.is_empty() || !self.is_touched(one) {
                continue;
            }
            if plan::unreachable_family(&one.service, dlxs).is_some() {
                // Who comes by that family finds no DLX that would do it.
                self.wake(id).await?;
            }
            self.repair_slices(&one.service, dlxs).await?;
        }
        for one in read {
            self.remove_selector_key(one).await?;
        }
        Ok(())
    }

    /// The slices, and the ports. Only on the very versions of Service and slices that it was decided on: intercepted
    /// and restored in between, its own endpoints would not be known to everybody.
    async fn remove_interception(&self, id: &ResourceId) -> Result<(), ScaleError> {
        let decided_on = self.store.with(|state| read_versions(state, id));
        let is_same = |meta: &Meta| decided_on.get(&meta.uid) == Some(&meta.revision);
        let mut all = Vec::new();
        for service in self.read_services(id).await? {
            let slices = self.read_slices(&service.service.meta.key()).await?;
            let touched = service.service.intercepted || !slices.is_empty();
            let same = is_same(&service.service.meta)
                && slices.iter().all(|slice| is_same(&Slice::from(slice.clone()).meta));
            let alone = || self.store.with(|state| !state.interception.is_ready(&service.service));
            // With the key there, or without ready pods, the Service would have no endpoint.
            if touched && (service.service.intercepted || !same || alone()) {
                return Err(ScaleError::Conflict);
            }
            all.push((service, slices));
        }
        self.ensure_no_drain(id).await?;
        for (service, slices) in all {
            self.clear_service(service, slices).await?;
        }
        Ok(())
    }

    /// Removes all that is Scaler's from a Service: its key, and these slices as they were read.
    ///
    /// # Errors
    ///
    /// As any write.
    pub(in crate::interception) async fn clear_service(
        &self,
        service: ServiceSnapshot,
        slices: Vec<EndpointSlice>,
    ) -> Result<(), ScaleError> {
        let (name, uid) = (service.service.meta.key(), service.service.meta.uid.clone());
        self.remove_selector_key(service).await?;
        self.ensure_selector_owners_restored(&name)?;
        for slice in slices {
            self.delete_slice(slice).await?;
        }
        self.free_ports(&uid).await
    }

    /// Updates the slices of a Service that has something of Scaler's. Where no port is left for what is new of it, what
    /// has one goes on.
    ///
    /// # Errors
    ///
    /// As any write.
    pub(in crate::interception) async fn repair_slices(
        &self,
        service: &Service,
        dlxs: &[Dlx],
    ) -> Result<(), ScaleError> {
        let assigned = match self.claim_ports(service).await {
            Ok(assigned) => assigned,
            Err(ScaleError::Terminal { reason }) => {
                tracing::warn!(service = %service.meta.name, reason, "no DLX port for a Service's new ports: clients of these get no answer");
                self.store
                    .with(|state| {
                        let range = state.config.service_ports?;
                        let registry = state.interception.registry()?;
                        let holders = plan::port_holders(service).into_iter();
                        Some(
                            holders
                                .filter_map(|one| Some((one.port.clone(), registry.held(&one, range)?)))
                                .collect(),
                        )
                    })
                    .unwrap_or_default()
            }
            Err(error) => return Err(error),
        };
        if assigned.is_empty() {
            return Ok(());
        }
        self.write_slices(service, &assigned, dlxs).await
    }

    /// Whether something of Scaler's is on a Service.
    fn is_touched(&self, service: &ServiceSnapshot) -> bool {
        self.store.with(|state| ports::is_touched(state, &service.service))
    }

    /// How a workload's Services are intercepted now.
    pub(in crate::interception) fn interception_status(
        &self,
        id: &ResourceId,
    ) -> Option<super::super::WorkloadInterception> {
        self.store.with(|state| {
            state
                .workload(id)
                .map(|workload| interception_status(state, workload, &workload_options(state, workload)))
        })
    }
}

/// The versions of a workload's Services, and of our slices of them, by uid.
fn read_versions(state: &State, id: &ResourceId) -> BTreeMap<String, u64> {
    let services = state.workload(id).map(|workload| state.services_of(workload)).unwrap_or_default();
    let metas = services.into_iter().flat_map(|service| {
        let slices = state.interception.slices_of(&service.meta.key()).filter(|slice| slice.ours.is_some());
        slices.map(|slice| &slice.meta).chain([&service.meta])
    });
    metas.map(|meta| (meta.uid.clone(), meta.revision)).collect()
}

pub(in crate::interception) fn terminal(reason: String) -> ScaleError {
    ScaleError::Terminal { reason }
}
