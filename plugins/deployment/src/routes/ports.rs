//! Writing the registry of ports.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use scaler_types::{ScaleError, ServicePorts};
use serde_json::Value;

use super::{
    Routes,
    plan::{self, Given},
    refusals,
};
use crate::{
    caches::{Change, State, Teller, Topic},
    cluster,
    facts::{NEWEST, Name, Service},
    registry::{self, Draft, Holder, Registry},
};

/// How often a change is made anew because somebody else wrote meanwhile.
const TRIES: usize = 10;

/// What is to be written.
enum Write {
    Create(BTreeMap<String, String>),
    Patch(Value),
}

/// There is no port left.
struct Full;

impl Routes {
    /// Gives each of the Services' ports one of the DLXs'; those that have one keep it.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Terminal`] if there are not enough, and as any write.
    pub(super) async fn claim(&self, services: &[&Service]) -> Result<HashMap<String, Given>, ScaleError> {
        self.register(|draft, now| {
            let all = services.iter().map(|service| {
                let holders = plan::holders(service).into_iter();
                let given: Option<Given> =
                    holders.map(|holder| Some((holder.port.clone(), draft.claim(&holder, now)?))).collect();
                Ok((service.meta.uid.clone(), given.ok_or(Full)?))
            });
            all.collect()
        })
        .await
    }

    /// Takes the ports of Services back, by their uids.
    pub(super) async fn give_back(&self, services: &BTreeSet<String>) -> Result<(), ScaleError> {
        self.register(|draft, now| {
            draft.release(now, |holder| services.contains(&holder.uid));
            Ok(())
        })
        .await
    }

    /// Takes the ports back of Services that are gone or that nobody wants led, and forgets what was given back long ago.
    pub(super) async fn tidy(&self) -> Result<(), ScaleError> {
        let idle: BTreeSet<Holder> = self.store.with(|state| {
            let registry = state.routing.registry();
            let entries = registry.into_iter().flat_map(Registry::entries).map(|(_, entry)| entry);
            let idle = entries.filter(|entry| entry.released.is_none() && is_idle(state, &entry.holder));
            idle.map(|entry| entry.holder.clone()).collect()
        });
        self.register(|draft, now| {
            draft.release(now, |holder| idle.contains(holder));
            draft.prune();
            Ok(())
        })
        .await
    }

    /// Changes the registry: by what is known of it, and by a fresh look at it where somebody else has written since.
    async fn register<T>(
        &self,
        change: impl Fn(&mut Draft<'_>, &str) -> Result<T, Full>,
    ) -> Result<T, ScaleError> {
        let _turn = self.registering.lock().await;
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        let doing = format!("writing the ConfigMap {}/{}", self.cluster.home, registry::NAME);
        // What is not known may be there all the same.
        if self.store.with(|state| state.routing.registry().is_none()) {
            self.read_registry().await?;
        }
        let mut last = String::new();
        for _ in 0..TRIES {
            let now = Timestamp::now().to_string();
            let (changed, write) = self.store.with(|state| {
                let range = state.config.service_ports.unwrap_or(ServicePorts { first: 1, last: 1 });
                let nothing = Registry::default();
                let known = state.routing.registry();
                let mut draft =
                    known.unwrap_or(&nothing).draft(range, &state.routing.quarantine, state.routing.now());
                restore(state, &mut draft);
                let changed = change(&mut draft, &now)
                    .map_err(|Full| ScaleError::Terminal { reason: refusals::full(range) });
                let write = draft.is_new().then(|| match known {
                    Some(_) => Write::Patch(draft.patch()),
                    None => Write::Create(draft.data()),
                });
                (changed, write)
            });
            let changed = changed?;
            let written = match write {
                None => return Ok(changed),
                Some(Write::Create(data)) => {
                    let metadata =
                        ObjectMeta { name: Some(registry::NAME.to_owned()), ..ObjectMeta::default() };
                    let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                    self.cluster.call(api.create(&PostParams::default(), &map)).await
                }
                Some(Write::Patch(operations)) => {
                    let patch = serde_json::from_value(operations).map_err(anyhow::Error::from)?;
                    let patch = Patch::Json::<()>(patch);
                    self.cluster.call(api.patch(registry::NAME, &PatchParams::default(), &patch)).await
                }
            };
            match written {
                Ok(map) => {
                    self.saw_registry(map);
                    return Ok(changed);
                }
                Err(error) => match cluster::unwritten(&error, &doing, true) {
                    // Somebody else has written, or taken it away.
                    ScaleError::Conflict => {
                        last = cluster::told(&error);
                        self.read_registry().await?;
                    }
                    error => return Err(error),
                },
            }
        }
        Err(ScaleError::Retry { after: Duration::from_secs(1), reason: format!("{doing}: {last}") })
    }

    async fn read_registry(&self) -> Result<(), ScaleError> {
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        match self.cluster.call(api.get(registry::NAME)).await {
            Ok(map) => self.saw_registry(map),
            Err(error) if cluster::is_missing(&error) => self.store.with(|state| {
                if let Some(meta) = state.routing.registry().map(|registry| registry.meta.clone()) {
                    state.remove(Topic::Registry, &meta.key(), &meta.uid);
                }
            }),
            Err(error) => {
                let doing = format!("reading the ConfigMap {}/{}", self.cluster.home, registry::NAME);
                return Err(cluster::unwritten(&error, &doing, false));
            }
        }
        Ok(())
    }

    fn saw_registry(&self, map: ConfigMap) {
        self.store.with(|state| state.apply(Change::Registry(Box::new(map.into())), Teller::Own));
    }
}

/// What slices use though the registry does not say so: somebody deleted it.
fn restore(state: &State, draft: &mut Draft<'_>) {
    for slice in state.routing.our_slices() {
        let Some(ours) = slice.ours.as_ref().filter(|ours| ours.format <= NEWEST) else { continue };
        let Some(service) = state.service(&slice.of()).filter(|service| service.meta.uid == ours.uid) else {
            continue;
        };
        for holder in plan::holders(service) {
            if let Some(port) = ours.ports.get(&holder.port) {
                draft.restore(*port, &holder);
            }
        }
    }
}

/// Whether nobody needs a port: its Service is gone, or has nothing of ours and no workload that asks for it. What is in
/// another namespace than those looked after is somebody else's.
fn is_idle(state: &State, holder: &Holder) -> bool {
    if state.config.namespace.as_ref().is_some_and(|namespace| *namespace != holder.namespace) {
        return false;
    }
    let name: Name = (Arc::from(holder.namespace.as_str()), Arc::from(holder.service.as_str()));
    let Some(service) = state.service(&name).filter(|service| service.meta.uid == holder.uid) else {
        return true;
    };
    let touched = service.fenced || state.routing.slices_of(&name).any(|slice| slice.ours.is_some());
    let has_port = service.ports.iter().any(|port| port.name == holder.port);
    !has_port || !touched && !state.workloads_of(service).iter().any(|id| state.asks(id))
}
