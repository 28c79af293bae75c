//! Writing the registry of ports.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use scaler_types::{ScaleError, ServicePorts};
use serde_json::Value;
use tokio::sync::oneshot;

use super::super::{
    InterceptionWriter,
    desired::{
        plan::{self, AssignedPorts},
        refusals,
    },
};
use crate::{
    cluster,
    index::{ObjectChange, ObjectType, State, StateOrigin},
    interception::ports::PortDraft,
    objects::{NEWEST, ObjectName, PORT_REGISTRY, PortHolder, PortRegistry, Service},
};

/// How often a change is built again because of a concurrent write.
const MAX_ATTEMPTS: usize = 10;
/// How many Services are assigned ports in one write before they need them: a patch of some 200 KB. Each write is read
/// whole by everybody, so that a write for each would cost the square of their number.
const MAX_CLAIMED_AHEAD: usize = 1000;

/// What is to be changed in the registry.
#[derive(Clone, Debug)]
enum PortChange {
    /// Each of a Service's ports is to have one.
    Claim(Vec<PortHolder>),
    /// The Service of that uid needs none.
    Free(String),
    /// Ports that no Service needs are to be freed, and those freed long ago removed.
    Prune,
}

/// A change, and the caller that waits for it.
#[derive(Debug)]
pub(in crate::interception) struct PendingPortChange {
    change: PortChange,
    sender: oneshot::Sender<Result<Vec<u16>, ScaleError>>,
}

/// What is to be written.
enum Write {
    Create(BTreeMap<String, String>),
    Patch(Value),
}

impl InterceptionWriter {
    /// Gives each of a Service's ports one of the DLXs'; those that have one keep it. Where all have, nothing is written, and the
    /// registry, as long as all Services together, is not gone through: every one of them asks when a DLX comes or goes.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Terminal`] if there are not enough, and as any write.
    pub(in crate::interception) async fn claim_ports(
        &self,
        service: &Service,
    ) -> Result<AssignedPorts, ScaleError> {
        let holders = plan::port_holders(service);
        let assigned = self.store.with(|state| {
            let (range, registry) = (state.config.service_ports?, state.interception.registry()?);
            // The count is right before one more Service is intercepted: an earlier version did not count.
            if !registry.is_counted() && !is_touched(state, service) {
                return None;
            }
            holders.iter().map(|holder| registry.only(holder, range)).collect::<Option<Vec<_>>>()
        });
        let ports = match assigned {
            Some(ports) => ports,
            None => self.change_registry(PortChange::Claim(holders.clone())).await?,
        };
        Ok(holders.into_iter().map(|holder| holder.port).zip(ports).collect())
    }

    /// Takes the ports of a Service back, by its uid.
    pub(in crate::interception) async fn free_ports(&self, service: &str) -> Result<(), ScaleError> {
        self.change_registry(PortChange::Free(service.to_owned())).await.map(drop)
    }

    /// Frees the ports of Services that are gone or no longer to be intercepted, and removes entries freed long ago.
    pub(in crate::interception) async fn prune_ports(&self) -> Result<(), ScaleError> {
        self.change_registry(PortChange::Prune).await.map(drop)
    }

    /// Changes the registry. What is wished while it is written is written together next.
    async fn change_registry(&self, change: PortChange) -> Result<Vec<u16>, ScaleError> {
        loop {
            let (sender, answer) = oneshot::channel();
            self.waiting().push(PendingPortChange { change: change.clone(), sender });
            let turn = self.registering.lock().await;
            let all = std::mem::take(&mut *self.waiting());
            if !all.is_empty() {
                let changes: Vec<_> = all.iter().map(|one| one.change.clone()).collect();
                let answers = self.write_registry(&changes).await;
                for (place, one) in all.into_iter().enumerate() {
                    let answer = answers.as_ref().map_err(Clone::clone).and_then(|all| all[place].clone());
                    // Who has stopped waiting asks again if he wants to.
                    let _ = one.sender.send(answer);
                }
            }
            drop(turn);
            if let Ok(answer) = answer.await {
                return answer;
            }
            // Its former holder is gone.
        }
    }

    /// Writes all changes at once, by the registry as it is known, and reads it again after a conflict.
    async fn write_registry(
        &self,
        changes: &[PortChange],
    ) -> Result<Vec<Result<Vec<u16>, ScaleError>>, ScaleError> {
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        let doing = format!("writing the ConfigMap {}/{}", self.cluster.home, PORT_REGISTRY);
        // What is not known may be there all the same.
        if self.store.with(|state| state.interception.registry().is_none()) {
            self.read_registry().await?;
        }
        let mut last = String::new();
        for _ in 0..MAX_ATTEMPTS {
            let (answers, write) = self.store.with(|state| draft_changes(state, changes));
            let written = match write {
                None => return Ok(answers),
                Some(Write::Create(data)) => {
                    let metadata =
                        ObjectMeta { name: Some(PORT_REGISTRY.to_owned()), ..ObjectMeta::default() };
                    let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                    self.cluster.call(api.create(&PostParams::default(), &map)).await
                }
                Some(Write::Patch(operations)) => {
                    let patch = serde_json::from_value(operations).map_err(anyhow::Error::from)?;
                    let patch = Patch::Json::<()>(patch);
                    self.cluster.call(api.patch(PORT_REGISTRY, &PatchParams::default(), &patch)).await
                }
            };
            match written {
                Ok(map) => {
                    self.observe_registry(map);
                    return Ok(answers);
                }
                Err(error) => match cluster::write_error(&error, &doing, true) {
                    // Somebody else has written, or taken it away.
                    ScaleError::Conflict => {
                        last = cluster::describe_error(&error);
                        self.read_registry().await?;
                    }
                    error => return Err(error),
                },
            }
        }
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason: format!("{doing}: {last}") })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<PendingPortChange>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the registry from the API server, and takes that over.
    pub(in crate::interception) async fn read_registry(&self) -> Result<(), ScaleError> {
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        match self.cluster.call(api.get(PORT_REGISTRY)).await {
            Ok(map) => self.observe_registry(map),
            Err(error) if cluster::is_missing(&error) => self.store.with(|state| {
                if let Some(meta) = state.interception.registry().map(|registry| registry.meta.clone()) {
                    state.remove(ObjectType::PortRegistry, &meta.key(), &meta.uid);
                }
            }),
            Err(error) => {
                let doing = format!("reading the ConfigMap {}/{}", self.cluster.home, PORT_REGISTRY);
                return Err(cluster::write_error(&error, &doing, false));
            }
        }
        Ok(())
    }

    fn observe_registry(&self, map: ConfigMap) {
        self.store
            .with(|state| state.apply(ObjectChange::PortRegistry(Box::new(map.into())), StateOrigin::Own));
    }
}

/// The answers, and what has to be written for them.
fn draft_changes(
    state: &State,
    changes: &[PortChange],
) -> (Vec<Result<Vec<u16>, ScaleError>>, Option<Write>) {
    let freed_at = Timestamp::now().to_string();
    // Without a range nothing is claimed.
    let range = state.config.service_ports.unwrap_or(ServicePorts { first: 1, last: 1 });
    let (known, nothing) = (state.interception.registry(), PortRegistry::default());
    let now = state.interception.now();
    let mut draft = PortDraft::new(known.unwrap_or(&nothing), range, &state.interception.quarantine, now);
    restore_lost(state, &mut draft);
    let done: HashSet<&String> = changes
        .iter()
        .filter_map(|change| match change {
            PortChange::Free(uid) => Some(uid),
            _ => None,
        })
        .collect();
    draft.free(&freed_at, |holder| done.contains(&holder.uid));
    if changes.iter().any(|change| matches!(change, PortChange::Prune)) {
        draft.free(&freed_at, |holder| is_idle(state, holder));
        draft.prune();
    }
    let answers = changes.iter().map(|change| match change {
        PortChange::Claim(holders) => draft
            .claim(holders, &freed_at)
            .ok_or_else(|| ScaleError::Terminal { reason: refusals::no_port_left(range) }),
        PortChange::Free(_) | PortChange::Prune => Ok(Vec::new()),
    });
    let answers = answers.collect();
    if changes.iter().any(|change| matches!(change, PortChange::Claim(_))) {
        claim_ahead(state, &mut draft, &freed_at);
    }
    let write = draft.is_new().then(|| match known {
        Some(_) => Write::Patch(draft.patch()),
        None => Write::Create(draft.data()),
    });
    (answers, write)
}

/// Assigns ports to Services that will need them next: many workloads are opted in at once.
fn claim_ahead(state: &State, draft: &mut PortDraft<'_>, freed_at: &str) {
    let wanting = state.to_be_intercepted().map(plan::port_holders).filter(|holders| !draft.has(holders));
    // A Service that gets none has that reported when it is its turn.
    for holders in wanting.take(MAX_CLAIMED_AHEAD).collect::<Vec<_>>() {
        draft.claim(&holders, freed_at);
    }
}

/// Enters ports that slices use and the registry lacks: it was deleted.
fn restore_lost(state: &State, draft: &mut PortDraft<'_>) {
    for slice in state.interception.our_slices() {
        let Some(ours) = slice.ours.as_ref().filter(|ours| ours.format <= NEWEST) else { continue };
        let Some(service) =
            state.service(&slice.service_name()).filter(|service| service.meta.uid == ours.uid)
        else {
            continue;
        };
        for holder in plan::port_holders(service) {
            if let Some(port) = ours.ports.get(&holder.port) {
                draft.restore(*port, &holder);
            }
        }
    }
}

/// Whether no Service needs a port: its Service is gone, or has nothing of Scaler's and no workload that is to be intercepted.
/// Services of namespaces that are not managed here are another instance's.
fn is_idle(state: &State, holder: &PortHolder) -> bool {
    if state.config.namespace.as_ref().is_some_and(|namespace| *namespace != holder.namespace) {
        return false;
    }
    let name: ObjectName = (Arc::from(holder.namespace.as_str()), Arc::from(holder.service.as_str()));
    let Some(service) = state.service(&name).filter(|service| service.meta.uid == holder.uid) else {
        return true;
    };
    let touched = is_touched(state, service);
    let has_port = service.ports.iter().any(|port| port.name == holder.port);
    !has_port || !touched && !state.workloads_of(service).iter().any(|id| state.wants_interception(id))
}

/// Whether something of Scaler's is on a Service.
pub(in crate::interception) fn is_touched(state: &State, service: &Service) -> bool {
    service.intercepted || state.interception.slices_of(&service.meta.key()).any(|slice| slice.ours.is_some())
}
