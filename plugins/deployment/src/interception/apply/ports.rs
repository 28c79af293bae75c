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
    Routes,
    desired::{
        plan::{self, Given},
        refusals,
    },
};
use crate::{
    cluster,
    index::{Change, State, Teller, Topic},
    interception::ports::Draft,
    objects::{Holder, NEWEST, Name, PORT_REGISTRY, Registry, Service},
};

/// How often a change is made anew because somebody else wrote meanwhile.
const TRIES: usize = 10;
/// To how many Services ports are given in one write before they are asked for: a patch of some 200 KB. Each write is read
/// whole by everybody, so that a write for each would cost the square of their number.
const AHEAD: usize = 1000;

/// What is to be changed in the registry.
#[derive(Clone, Debug)]
enum Wish {
    /// Each of a Service's ports is to have one.
    Claim(Vec<Holder>),
    /// The Service of that uid needs none.
    GiveBack(String),
    /// Whatever nobody needs is to be forgotten in the end.
    Tidy,
}

/// A wish that somebody waits for.
#[derive(Debug)]
pub(in crate::interception) struct Waiting {
    wish: Wish,
    told: oneshot::Sender<Result<Vec<u16>, ScaleError>>,
}

/// What is to be written.
enum Write {
    Create(BTreeMap<String, String>),
    Patch(Value),
}

impl Routes {
    /// Gives each of a Service's ports one of the DLXs'; those that have one keep it. Where all have, nothing is written, and the
    /// registry, as long as all Services together, is not gone through: every one of them asks when a DLX comes or goes.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Terminal`] if there are not enough, and as any write.
    pub(in crate::interception) async fn claim(&self, service: &Service) -> Result<Given, ScaleError> {
        let holders = plan::holders(service);
        let given = self.store.with(|state| {
            let (range, registry) = (state.config.service_ports?, state.routing.registry()?);
            // The count is right before one more Service is intercepted: an earlier version did not count.
            if !registry.is_counted() && !is_touched(state, service) {
                return None;
            }
            holders.iter().map(|holder| registry.only(holder, range)).collect::<Option<Vec<_>>>()
        });
        let ports = match given {
            Some(ports) => ports,
            None => self.register(Wish::Claim(holders.clone())).await?,
        };
        Ok(holders.into_iter().map(|holder| holder.port).zip(ports).collect())
    }

    /// Takes the ports of a Service back, by its uid.
    pub(in crate::interception) async fn give_back(&self, service: &str) -> Result<(), ScaleError> {
        self.register(Wish::GiveBack(service.to_owned())).await.map(drop)
    }

    /// Takes the ports back of Services that are gone or that nobody wants led, and forgets what was given back long ago.
    pub(in crate::interception) async fn tidy(&self) -> Result<(), ScaleError> {
        self.register(Wish::Tidy).await.map(drop)
    }

    /// Changes the registry. What is wished while it is written is written together next.
    async fn register(&self, wish: Wish) -> Result<Vec<u16>, ScaleError> {
        loop {
            let (told, answer) = oneshot::channel();
            self.waiting().push(Waiting { wish: wish.clone(), told });
            let turn = self.registering.lock().await;
            let all = std::mem::take(&mut *self.waiting());
            if !all.is_empty() {
                let wishes: Vec<_> = all.iter().map(|one| one.wish.clone()).collect();
                let answers = self.write_registry(&wishes).await;
                for (place, one) in all.into_iter().enumerate() {
                    let answer = answers.as_ref().map_err(Clone::clone).and_then(|all| all[place].clone());
                    // Who has stopped waiting asks again if he wants to.
                    let _ = one.told.send(answer);
                }
            }
            drop(turn);
            if let Ok(answer) = answer.await {
                return answer;
            }
            // Whoever had it among his was given up on.
        }
    }

    /// Writes what is wished in one change, by what is known of the registry, and by a fresh look at it where somebody else has
    /// written since.
    async fn write_registry(&self, wishes: &[Wish]) -> Result<Vec<Result<Vec<u16>, ScaleError>>, ScaleError> {
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        let doing = format!("writing the ConfigMap {}/{}", self.cluster.home, PORT_REGISTRY);
        // What is not known may be there all the same.
        if self.store.with(|state| state.routing.registry().is_none()) {
            self.read_registry().await?;
        }
        let mut last = String::new();
        for _ in 0..TRIES {
            let (answers, write) = self.store.with(|state| draft(state, wishes));
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
                    self.saw_registry(map);
                    return Ok(answers);
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

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the registry from the API server, and takes that over.
    pub(in crate::interception) async fn read_registry(&self) -> Result<(), ScaleError> {
        let api = self.cluster.in_namespace::<ConfigMap>(&self.cluster.home);
        match self.cluster.call(api.get(PORT_REGISTRY)).await {
            Ok(map) => self.saw_registry(map),
            Err(error) if cluster::is_missing(&error) => self.store.with(|state| {
                if let Some(meta) = state.routing.registry().map(|registry| registry.meta.clone()) {
                    state.remove(Topic::Registry, &meta.key(), &meta.uid);
                }
            }),
            Err(error) => {
                let doing = format!("reading the ConfigMap {}/{}", self.cluster.home, PORT_REGISTRY);
                return Err(cluster::unwritten(&error, &doing, false));
            }
        }
        Ok(())
    }

    fn saw_registry(&self, map: ConfigMap) {
        self.store.with(|state| state.apply(Change::Registry(Box::new(map.into())), Teller::Own));
    }
}

/// The answers, and what has to be written for them.
fn draft(state: &State, wishes: &[Wish]) -> (Vec<Result<Vec<u16>, ScaleError>>, Option<Write>) {
    let freed = Timestamp::now().to_string();
    // Without a range nothing is claimed.
    let range = state.config.service_ports.unwrap_or(ServicePorts { first: 1, last: 1 });
    let (known, nothing) = (state.routing.registry(), Registry::default());
    let now = state.routing.now();
    let mut draft = Draft::new(known.unwrap_or(&nothing), range, &state.routing.quarantine, now);
    restore(state, &mut draft);
    let done: HashSet<&String> = wishes
        .iter()
        .filter_map(|wish| match wish {
            Wish::GiveBack(uid) => Some(uid),
            _ => None,
        })
        .collect();
    draft.free(&freed, |holder| done.contains(&holder.uid));
    if wishes.iter().any(|wish| matches!(wish, Wish::Tidy)) {
        draft.free(&freed, |holder| is_idle(state, holder));
        draft.prune();
    }
    let answers = wishes.iter().map(|wish| match wish {
        Wish::Claim(holders) => {
            draft.claim(holders, &freed).ok_or_else(|| ScaleError::Terminal { reason: refusals::full(range) })
        }
        Wish::GiveBack(_) | Wish::Tidy => Ok(Vec::new()),
    });
    let answers = answers.collect();
    if wishes.iter().any(|wish| matches!(wish, Wish::Claim(_))) {
        claim_ahead(state, &mut draft, &freed);
    }
    let write = draft.is_new().then(|| match known {
        Some(_) => Write::Patch(draft.patch()),
        None => Write::Create(draft.data()),
    });
    (answers, write)
}

/// Gives ports to those who are about to ask for them: many are opted in at once.
fn claim_ahead(state: &State, draft: &mut Draft<'_>, freed: &str) {
    let wanting = state.to_be_led().map(plan::holders).filter(|holders| !draft.has(holders));
    // Whoever does not get any is told so when it is his turn.
    for holders in wanting.take(AHEAD).collect::<Vec<_>>() {
        draft.claim(&holders, freed);
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
    let touched = is_touched(state, service);
    let has_port = service.ports.iter().any(|port| port.name == holder.port);
    !has_port || !touched && !state.workloads_of(service).iter().any(|id| state.asks(id))
}

/// Whether something of ours is on a Service.
pub(in crate::interception) fn is_touched(state: &State, service: &Service) -> bool {
    service.fenced || state.routing.slices_of(&service.meta.key()).any(|slice| slice.ours.is_some())
}
