//! Members in a cluster: a Lease per pod of a DLX, in the daemons' own namespace.
//!
//! | of the Lease | what it says |
//! |---|---|
//! | name | the pod's; without a pod, one that no other process has |
//! | label `scaler.dev/member: dlx` | it is a member's |
//! | annotation `scaler.dev/admin-address` | where its admin server is reached |
//! | annotation `scaler.dev/listen-address` | where it takes requests, as it is bound: of its pod's addresses those count that this has. Earlier versions do not say: all of them |
//! | annotation `scaler.dev/record-format` | the newest [`Record`] format that it reads; absent: 1 |
//! | `spec.holderIdentity` | the incarnation: a restarted container replaces it, and that proves the former one dead |
//! | `ownerReferences` | the pod, whose end proves the member's |
//!
//! It is written once and never renewed. A member is dead when its pod is gone, has another uid, or is in phase Succeeded
//! or Failed; or when the Lease is gone, which only its holder, the garbage collector and a reader with such a proof see to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use scaler_types::{Record, backoff::Backoff};
use tokio::{sync::Mutex, task::JoinSet, time::timeout};

use super::Member;
use crate::{
    cluster::{ApiError, OwnNamespace, OwnPod},
    exit::Misconfigured,
};

/// The members of a namespace.
pub struct Leases {
    own: OwnNamespace,
    reading: Mutex<Option<Reading>>,
}

/// Registered until it leaves, or its pod has ended.
pub struct MemberLease {
    own: OwnNamespace,
    lease: Lease,
}

/// The result of a read: callers that asked before it began may use it.
struct Reading {
    began: Instant,
    members: Result<Vec<Member>, Arc<anyhow::Error>>,
}

/// Why a DLX is not registered yet.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the Lease {0} in namespace {1} exists and is not a DLX's (no label {LABEL}): delete it")]
    ForeignLease(String, String),
    #[error("others keep changing the Lease {0} in namespace {1}")]
    Contended(String, String),
    #[error(
        "there is no pod {0} in namespace {1}: set POD_NAME and POD_NAMESPACE from metadata.name and metadata.namespace"
    )]
    NoPod(String, String),
    #[error("the pod {0} has no address yet")]
    NoAddress(String),
    #[error("the pod {0} has no uid")]
    NoUid(String),
}

pub(super) const LABEL: &str = "scaler.dev/member";
pub(super) const DLX: &str = "dlx";
const ADMIN: &str = "scaler.dev/admin-address";
const LISTEN: &str = "scaler.dev/listen-address";
const RECORD_FORMAT: &str = "scaler.dev/record-format";

/// Between attempts to register.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// Between attempts to leave: there is no time for longer pauses.
const LEAVING_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_millis(500));
/// How long the last call may be tried: what is not removed then, is when the pod has ended.
const LEAVING: Duration = Duration::from_secs(5);
/// How often a write that others were faster than is tried at once.
const TURNS: usize = 5;

// === impl Leases ===

impl Leases {
    /// The members of the namespace that is `own`.
    pub fn new(own: OwnNamespace) -> Self {
        Self { own, reading: Mutex::default() }
    }

    /// This process's place in the cluster.
    pub fn own_namespace(&self) -> &OwnNamespace {
        &self.own
    }

    /// Every live member, now. The lists and pods that are read are what the API server has then, not what a cache of it
    /// had. A caller that asks while others already wait for their turn shares their read.
    ///
    /// # Errors
    ///
    /// A call failed, or a member's Lease cannot be parsed: the list of members would be incomplete.
    pub async fn read(&self) -> anyhow::Result<Vec<Member>> {
        let came = Instant::now();
        let mut reading = self.reading.lock().await;
        let shared = reading.as_ref().filter(|last| last.began >= came);
        let members = match shared {
            Some(last) => last.members.clone(),
            None => {
                let began = Instant::now();
                let members = self.read_now().await.map_err(Arc::new);
                *reading = Some(Reading { began, members: members.clone() });
                members
            }
        };
        members.map_err(|error| anyhow!("{error:#}"))
    }

    async fn read_now(&self) -> anyhow::Result<Vec<Member>> {
        let own = &self.own;
        let members = ListParams::default().labels(&format!("{LABEL}={DLX}"));
        let listed = own.call(own.leases().list(&members)).await;
        let listed = listed.map_err(|error| own.error("list", "leases", error))?;
        let mut looks = JoinSet::new();
        for lease in listed {
            let own = own.clone();
            looks.spawn(async move { look_at(&own, &lease).await });
        }
        let mut members = Vec::new();
        while let Some(looked) = looks.join_next().await {
            members.extend(looked.context("looking at a member")??);
        }
        members.sort();
        Ok(members)
    }

    /// Registers this process, which takes requests at `listen`, trying until it succeeds; `waiting` is called with each reason why it did
    /// not yet.
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: it runs in no pod, and `admin` is no address that others could use.
    pub async fn register(
        &self,
        admin: SocketAddr,
        listen: SocketAddr,
        waiting: impl Fn(String),
    ) -> Result<MemberLease, Misconfigured> {
        let own = &self.own;
        if own.pod.is_none() && admin.ip().is_unspecified() {
            return Err(Misconfigured(format!(
                "registering by Lease: the admin server listens on {admin}, which no autoscaler can reach; in a pod \
                 set POD_NAME and POD_IP from metadata.name and status.podIP, elsewhere give --admin-address an address"
            )));
        }
        let mut backoff = BACKOFF;
        let mut last = String::new();
        loop {
            match publish(own, admin, listen).await {
                Ok(lease) => {
                    tracing::info!(
                        member = own.incarnation,
                        namespace = own.namespace,
                        "registered this DLX"
                    );
                    return Ok(MemberLease { own: own.clone(), lease });
                }
                Err(error) => {
                    let why = error.to_string();
                    if why != last {
                        tracing::warn!(
                            reason = why,
                            "failed to register this DLX; retrying, it serves no request before that"
                        );
                    }
                    waiting(format!("this DLX is not registered yet: {why}"));
                    last = why;
                }
            }
            backoff.wait().await;
        }
    }
}

// === impl MemberLease ===

impl MemberLease {
    /// The name under which others know this incarnation.
    pub fn name(&self) -> &str {
        &self.own.incarnation
    }

    /// Removes the Lease, if it is still this incarnation's.
    pub async fn leave(self) {
        let (own, name) = (&self.own, self.lease.metadata.name.as_deref().unwrap_or_default());
        let left = timeout(LEAVING, async {
            let (mut lease, mut backoff) = (self.lease.clone(), LEAVING_BACKOFF);
            loop {
                let error = match remove(own, &lease).await {
                    Ok(()) => return,
                    Err(error) => error,
                };
                match own.call(own.leases().get_opt(name)).await {
                    // Another writer changed something else on it.
                    Ok(Some(now)) if holder(&now) == Some(&own.incarnation) => lease = now,
                    Ok(_) => return,
                    Err(_) => {}
                }
                tracing::debug!(member = own.incarnation, %error, "cannot leave yet");
                backoff.wait().await;
            }
        });
        if left.await.is_err() {
            tracing::warn!(
                member = own.incarnation,
                "failed to delete this DLX's Lease {name}; nothing is scaled to zero until its pod has ended"
            );
        }
    }
}

/// One attempt.
async fn publish(
    own: &OwnNamespace,
    admin: SocketAddr,
    listen: SocketAddr,
) -> Result<Lease, RegistrationError> {
    let (owner, admin) = match &own.pod {
        Some(pod) => owner(own, pod, admin).await?,
        None => (None, admin),
    };
    let lease = member(own, owner, admin, listen);
    let leases = own.leases();
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    for _ in 0..TURNS {
        let old = own.call(leases.get_opt(name)).await;
        let written = match old.map_err(|error| own.error("get", "leases", error))? {
            None => own
                .call(leases.create(&PostParams::default(), &lease))
                .await
                .map_err(|error| ("create", error)),
            Some(old) if old.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).is_none() => {
                return Err(RegistrationError::ForeignLease(name.to_owned(), own.namespace.clone()));
            }
            // Of a pod before that had the same name: the garbage collector may be about to remove it, by its uid.
            Some(old) if old.metadata.owner_references != lease.metadata.owner_references => {
                match remove(own, &old).await {
                    Ok(()) => continue,
                    Err(error) => Err(("delete", error)),
                }
            }
            // Of this pod's container before.
            Some(old) => {
                let mut lease = lease.clone();
                lease.metadata.resource_version = old.metadata.resource_version;
                let replaced = own.call(leases.replace(name, &PostParams::default(), &lease)).await;
                replaced.map_err(|error| ("update", error))
            }
        };
        match written {
            Ok(lease) => return Ok(lease),
            Err((_, kube::Error::Api(status))) if status.code == 409 || status.is_not_found() => {}
            Err((verb, error)) => return Err(own.error(verb, "leases", error).into()),
        }
    }
    Err(RegistrationError::Contended(name.to_owned(), own.namespace.clone()))
}

fn member(own: &OwnNamespace, owner: Option<OwnerReference>, admin: SocketAddr, listen: SocketAddr) -> Lease {
    let annotations = [
        (ADMIN.to_owned(), admin.to_string()),
        (LISTEN.to_owned(), listen.to_string()),
        (RECORD_FORMAT.to_owned(), Record::FORMAT.to_string()),
    ];
    let name = own.pod.as_ref().map_or_else(|| format!("{DLX}-{}", own.incarnation), |pod| pod.name.clone());
    Lease {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(own.namespace.clone()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), DLX.to_owned())])),
            annotations: Some(BTreeMap::from(annotations)),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(own.incarnation.clone()),
            // For people: no process compares it with another host's clock.
            acquire_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

/// The pod as owner, and where others reach the admin server in it.
async fn owner(
    own: &OwnNamespace,
    pod: &OwnPod,
    admin: SocketAddr,
) -> Result<(Option<OwnerReference>, SocketAddr), RegistrationError> {
    let (mut uid, mut ip) = (pod.uid.clone(), pod.ip);
    if uid.is_none() || ip.is_none() && admin.ip().is_unspecified() {
        let found = own.call(own.pods().get_opt(&pod.name)).await;
        let found = found.map_err(|error| own.error("get", "pods", error))?;
        let found = found.ok_or_else(|| RegistrationError::NoPod(pod.name.clone(), own.namespace.clone()))?;
        uid = uid.or(found.metadata.uid);
        ip = ip.or_else(|| found.status?.pod_ip?.parse().ok());
    }
    let admin = match ip {
        Some(ip) if admin.ip().is_unspecified() => SocketAddr::new(ip, admin.port()),
        None if admin.ip().is_unspecified() => {
            return Err(RegistrationError::NoAddress(pod.name.clone()));
        }
        _ => admin,
    };
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: uid.ok_or_else(|| RegistrationError::NoUid(pod.name.clone()))?,
        ..OwnerReference::default()
    };
    Ok((Some(owner), admin))
}

/// Where the holder of a Lease takes requests; `None`: it does not say.
pub(super) fn listens(lease: &Lease) -> Option<SocketAddr> {
    lease.metadata.annotations.as_ref()?.get(LISTEN)?.parse().ok()
}

/// The member whose Lease this is, if it lives; removes the Lease if it is proved dead.
async fn look_at(own: &OwnNamespace, lease: &Lease) -> anyhow::Result<Option<Member>> {
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    let admin = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ADMIN));
    let (Some(holder), Some(Ok(admin))) = (holder(lease), admin.map(|admin| admin.parse())) else {
        return Err(anyhow!(
            "cannot tell which DLX holds the Lease {name} in namespace {}: it has the label {LABEL}, but no holder or no \
             {ADMIN}; if no DLX runs in the pod {name}, remove it",
            own.namespace
        ));
    };
    let member = Member { name: holder.to_owned(), admin };
    let Some(pod) = owning_pod(lease) else {
        // Of a process in no pod: it lives until it says that it does not.
        return Ok(Some(member));
    };
    let found = own.call(own.pods().get_opt(&pod.name)).await;
    let found = found.map_err(|error| own.error("get", "pods", error))?;
    let Some(proof) = dead(found.as_ref(), &pod.uid) else { return Ok(Some(member)) };
    match remove(own, lease).await {
        Ok(()) => {
            tracing::info!(member = member.name, pod = pod.name, "removed the Lease of a dead DLX: {proof}");
        }
        // The garbage collector removes it, or the next reader.
        Err(error) => tracing::debug!(
            member = member.name,
            pod = pod.name,
            reason = %own.error("delete", "leases", error),
            "failed to remove the Lease of a dead DLX: {proof}"
        ),
    }
    Ok(None)
}

/// The proof that the pod of that uid runs no more, if there is one.
fn dead(found: Option<&v1::Pod>, uid: &str) -> Option<String> {
    let Some(pod) = found else { return Some("its pod is gone".to_owned()) };
    if pod.metadata.uid.as_deref().is_some_and(|other| other != uid) {
        return Some("its pod is gone, another one has its name".to_owned());
    }
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    matches!(phase, "Succeeded" | "Failed").then(|| format!("its pod is in phase {phase}"))
}

pub(super) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The pod whose end proves the member's.
pub(super) fn owning_pod(lease: &Lease) -> Option<&OwnerReference> {
    lease.metadata.owner_references.as_deref()?.iter().find(|owner| owner.kind == "Pod")
}

/// Deletes the Lease as it was read. That it is gone already is fine.
async fn remove(own: &OwnNamespace, lease: &Lease) -> kube::Result<()> {
    let as_read = Preconditions {
        uid: lease.metadata.uid.clone(),
        resource_version: lease.metadata.resource_version.clone(),
    };
    let delete = DeleteParams { preconditions: Some(as_read), ..DeleteParams::default() };
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    match own.call(own.leases().delete(name, &delete)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
