//! The DLXs that take requests now, as the slices of intercepted Services name them.
//!
//! Such a one has a Lease whose pod is Ready, is not being deleted, and is still the one that registered. They are followed by two watches:
//! while one fails or stalls, what is known is kept; a new list replaces what was known when it is complete.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, PodStatus},
};
use kube::{Api, api::ListParams};
use kube_watch::{Event, LastFailure, Watch, WatchError};
use scaler_types::Dlx;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use super::{
    leases::{DLX, LABEL, holder, listens, owning_pod},
    registered::{self, Registered},
};
use crate::cluster::{self, OwnNamespace};

/// The DLXs that take requests, by name; `None`: not known, or not yet. By files they never are, and nothing is intercepted.
pub type ReadyDlxs = Option<Arc<[Dlx]>>;

/// Follows which DLXs take requests, until it is dropped.
pub struct Serving {
    sender: watch::Sender<ReadyDlxs>,
    registered: watch::Sender<Registered>,
    _task: AbortOnDropHandle<()>,
}

const ZONE: &str = "topology.kubernetes.io/zone";

/// The fields kept of a member's Lease: its holder, and the pod that owns it.
#[derive(Debug)]
struct Registrant {
    holder: String,
    pod: String,
    uid: String,
    /// Where it takes requests; `None`: at every address of its pod.
    listens: Option<IpAddr>,
}

/// The fields kept of a pod.
#[derive(Debug)]
struct PodAddresses {
    uid: String,
    takes: bool,
    addresses: Vec<IpAddr>,
    node: Option<String>,
    zone: Option<String>,
}

/// The objects of one watch, by name.
#[derive(Debug)]
struct WatchedObjects<T> {
    known: Option<HashMap<String, T>>,
    /// Of a list that is not complete yet.
    listed: HashMap<String, T>,
}

/// The fields kept of a node.
#[derive(Debug)]
enum Zone {
    Pending,
    /// `None`: it has none, or it could not be read.
    Known(Option<String>),
}

/// All that is known.
#[derive(Debug, Default)]
struct Seen {
    leases: WatchedObjects<Registrant>,
    pods: WatchedObjects<PodAddresses>,
    zones: HashMap<String, Zone>,
}

// === impl Serving ===

impl Serving {
    /// Those of one host: nothing is intercepted. To be called on a tokio runtime.
    pub(crate) fn follow_files(state_dir: PathBuf) -> Self {
        let registered = watch::Sender::new(Registered::unknown());
        let task = tokio::spawn(registered::follow_files(state_dir, registered.clone()));
        Self { sender: watch::Sender::new(None), registered, _task: AbortOnDropHandle::new(task) }
    }

    /// Those of the namespace that is `own`. To be called on a tokio runtime.
    pub(crate) fn follow(own: OwnNamespace) -> Self {
        let (sender, registered) = (watch::Sender::new(None), watch::Sender::new(Registered::unknown()));
        let task = tokio::spawn(follow(own, sender.clone(), registered.clone()));
        Self { sender, registered, _task: AbortOnDropHandle::new(task) }
    }

    /// The ready DLXs, now and with every change.
    pub fn known(&self) -> watch::Receiver<ReadyDlxs> {
        self.sender.subscribe()
    }

    /// The DLXs that have registered since this follows them.
    pub fn registered(&self) -> watch::Receiver<Registered> {
        self.registered.subscribe()
    }
}

async fn follow(own: OwnNamespace, sender: watch::Sender<ReadyDlxs>, registered: watch::Sender<Registered>) {
    let members = ListParams::default().labels(&format!("{LABEL}={DLX}"));
    let mut leases = Watch::new(own.leases(), members);
    let mut pods = Watch::new(own.pods(), ListParams::default());
    let mut seen = Seen::default();
    let mut nodes: JoinSet<(String, kube::Result<Option<String>>)> = JoinSet::new();
    let mut forbidden = false;
    let mut failures = [(); 2].map(|()| LastFailure::default());
    loop {
        tokio::select! {
            event = leases.next() => {
                if matches!(event, Err(WatchError::Start(_))) {
                    // One that broke goes on where it was, if it can.
                    Registered::missed(&registered);
                }
                if let Some(event) = log_failure(&own, "leases", &mut failures[0], event) {
                    note_registered(&event, seen.leases.known.is_some(), &registered);
                    seen.leases.apply(event, |lease: Lease| (lease.metadata.name.clone(), Registrant::from_lease(&lease)));
                }
            }
            event = pods.next() => {
                if let Some(event) = log_failure(&own, "pods", &mut failures[1], event) {
                    seen.pods.apply(event, |pod: Pod| (pod.metadata.name.clone(), PodAddresses::from_pod(pod)));
                }
            }
            Some(answer) = nodes.join_next() => {
                // After a panic the node is not read again.
                let Ok((node, zone)) = answer else { continue };
                seen.zones.insert(node, Zone::Known(zone.unwrap_or_else(|error| {
                    no_zone(&error, &mut forbidden);
                    None
                })));
            }
        }
        for node in seen.without_zone() {
            seen.zones.insert(node.clone(), Zone::Pending);
            nodes.spawn(read_zone(own.clone(), node));
        }
        let Some(now) = seen.serving() else { continue };
        sender.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&*now);
            if differs {
                let names: Vec<_> = now.iter().map(|dlx| dlx.name.as_str()).collect();
                tracing::info!(dlxs = names.join(", "), "changed the ready DLXs");
                *known = Some(now.into());
            }
            differs
        });
    }
}

/// The event, if there is one; why there is none is logged once.
fn log_failure<K>(
    own: &OwnNamespace,
    resource: &'static str,
    last: &mut LastFailure,
    event: Result<Event<K>, WatchError>,
) -> Option<Event<K>> {
    match event {
        Ok(event) => {
            if last.ends_with(&event) {
                tracing::info!(resource, "watching the DLXs again");
            }
            Some(event)
        }
        Err(error) => {
            let reason = own.error(error.verb(), resource, error.into_inner()).to_string();
            if last.is_new(&reason) {
                tracing::warn!(reason, "failed to watch the DLXs: keeping the last known ones");
            }
            None
        }
    }
}

/// Notes who registered. `again`: they had been listed before, so that a new list may lack some that came and went.
fn note_registered(event: &Event<Lease>, again: bool, sender: &watch::Sender<Registered>) {
    if matches!(event, Event::Init) && again {
        Registered::lost_sight(sender);
    }
    for holder in event.objects().iter().filter_map(holder) {
        Registered::record(sender, holder);
    }
    if matches!(event, Event::Page { complete_at: Some(_), .. }) {
        Registered::followed(sender);
    }
}

async fn read_zone(own: OwnNamespace, node: String) -> (String, kube::Result<Option<String>>) {
    let nodes: Api<Node> = Api::all(own.client.clone());
    let found = own.call(nodes.get_opt(&node)).await;
    let zone = |node: Node| node.metadata.labels.unwrap_or_default().remove(ZONE);
    (node, found.map(|found| found.and_then(zone)))
}

fn no_zone(error: &kube::Error, forbidden: &mut bool) {
    let missing = matches!(error, kube::Error::Api(status) if status.is_forbidden());
    if missing && std::mem::replace(forbidden, true) {
        return;
    }
    tracing::info!(
        reason = cluster::causes(error),
        "cannot read a node's zone: its DLXs are published without it (the ClusterRole of the autoscaler's service account needs the verb get on nodes)"
    );
}

// === impl Seen ===

impl Seen {
    /// The DLXs that take requests, by name; `None`: not everything was listed yet.
    fn serving(&self) -> Option<Vec<Dlx>> {
        let (leases, pods) = (self.leases.known.as_ref()?, self.pods.known.as_ref()?);
        let mut dlxs: Vec<_> = leases
            .values()
            .filter_map(|held| {
                let pod = pods.get(&held.pod).filter(|pod| pod.uid == held.uid && pod.takes)?;
                let addresses = held.reached_by(&pod.addresses);
                if addresses.is_empty() {
                    return None;
                }
                let zone = match (&pod.zone, &pod.node) {
                    (Some(zone), _) => Some(zone.clone()),
                    (None, None) => None,
                    // One whose zone is being asked for is not named yet: it would be twice.
                    (None, Some(node)) => match self.zones.get(node)? {
                        Zone::Pending => return None,
                        Zone::Known(zone) => zone.clone(),
                    },
                };
                Some(Dlx { name: held.holder.clone(), addresses, node: pod.node.clone(), zone })
            })
            .collect();
        dlxs.sort();
        Some(dlxs)
    }

    /// Nodes of DLXs whose zone has not been read.
    fn without_zone(&self) -> BTreeSet<String> {
        let (Some(leases), Some(pods)) = (&self.leases.known, &self.pods.known) else {
            return BTreeSet::new();
        };
        let places = leases.values().filter_map(|held| pods.get(&held.pod));
        let nodes = places.filter(|pod| pod.takes && pod.zone.is_none()).filter_map(|pod| pod.node.clone());
        nodes.filter(|node| !self.zones.contains_key(node)).collect()
    }
}

// === impl WatchedObjects ===

impl<T> WatchedObjects<T> {
    /// `read` gives an object's name and what is kept of it.
    fn apply<K>(&mut self, event: Event<K>, read: impl Fn(K) -> (Option<String>, Option<T>)) {
        let put = |table: &mut HashMap<String, T>, object| {
            if let (Some(name), kept) = read(object) {
                match kept {
                    Some(kept) => drop(table.insert(name, kept)),
                    None => drop(table.remove(&name)),
                }
            }
        };
        match event {
            Event::Init => self.listed.clear(),
            Event::Page { objects, complete_at } => {
                objects.into_iter().for_each(|object| put(&mut self.listed, object));
                if complete_at.is_some() {
                    self.known = Some(std::mem::take(&mut self.listed));
                }
            }
            Event::Apply(object) => {
                if let Some(known) = &mut self.known {
                    put(known, object);
                }
            }
            Event::Delete(object) => {
                if let (Some(name), Some(known)) = (read(object).0, &mut self.known) {
                    known.remove(&name);
                }
            }
            Event::Bookmark => {}
        }
    }
}

impl<T> Default for WatchedObjects<T> {
    fn default() -> Self {
        Self { known: None, listed: HashMap::new() }
    }
}

// === impl Registrant ===

impl Registrant {
    /// `None`: it has no holder, or one that is in no pod and so cannot be a Service's endpoint.
    fn from_lease(lease: &Lease) -> Option<Self> {
        let owner = owning_pod(lease)?;
        Some(Self {
            holder: holder(lease)?.to_owned(),
            pod: owner.name.clone(),
            uid: owner.uid.clone(),
            listens: listens(lease).map(|address| address.ip()),
        })
    }

    /// Those of its pod's addresses at which it takes requests: clients that connect to another are refused.
    fn reached_by(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let reaches = |address: &IpAddr| match self.listens {
            None | Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => true,
            Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => address.is_ipv4(),
            Some(one) => one.to_canonical() == *address,
        };
        addresses.iter().copied().filter(reaches).collect()
    }
}

// === impl PodAddresses ===

impl PodAddresses {
    fn from_pod(pod: Pod) -> Option<Self> {
        let status = pod.status.unwrap_or_default();
        let addresses = addresses(&status);
        let ready = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Some(Self {
            uid: pod.metadata.uid?,
            takes: ready && pod.metadata.deletion_timestamp.is_none() && !addresses.is_empty(),
            addresses,
            node: pod.spec.and_then(|spec| spec.node_name),
            zone: pod.metadata.labels.unwrap_or_default().remove(ZONE),
        })
    }
}

/// One of each family it has.
fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in all.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        if addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            addresses.push(address);
        }
    }
    addresses
}
