//! ReplicaSet -> Pods.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::api::PostParams;

use super::{
    Error, World,
    pods::{available_in, controller_of, first_to_leave, from_template, is_active, is_ready},
};
use crate::cache::Key;

/// The first batch of new pods; each that succeeds doubles the next, so that what is refused is not tried a thousand times.
const FIRST_BATCH: usize = 1;
/// Pods made or deleted in one go, as kube-controller-manager's burst.
const BURST: usize = 500;

pub async fn reconcile(world: Arc<World>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(set) = world.replica_sets.get(&key) else { return Ok(None) };
    let uid = set.metadata.uid.clone().unwrap_or_default();
    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        let pods = active(&world, &uid);
        failure = manage(&world, &set, pods).await.err();
    }
    // The cache has what was just written.
    let again = write_status(&world, &set, &active(&world, &uid), failure.as_ref()).await?;
    failure.map_or(Ok(again), |(_, error)| Err(error))
}

fn active(world: &World, uid: &str) -> Vec<Arc<Pod>> {
    world.pods_of(uid).into_iter().filter(|pod| is_active(pod)).collect()
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    replicas.try_into().unwrap_or_default()
}

/// The pods of all ReplicaSets of its Deployment, its own included.
fn related(world: &World, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let sets = controller_of(&set.metadata).map(|owner| world.replica_sets.find(&owner.uid));
    let uids = sets.into_iter().flatten().filter_map(|set| set.metadata.uid.clone());
    let uids: BTreeSet<_> = uids.chain(set.metadata.uid.clone()).collect();
    uids.iter().flat_map(|uid| active(world, uid)).collect()
}

/// Makes what is missing, deletes what is too much. `Err`: the condition's reason and what the API said.
async fn manage(world: &World, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Result<(), (&'static str, Error)> {
    let wanted = wanted(set);
    if pods.len() < wanted {
        let mut left = (wanted - pods.len()).min(BURST);
        let mut batch = FIRST_BATCH;
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else { return Ok(()) };
        while left > 0 {
            let now = batch.min(left);
            let made = (0..now).map(|_| {
                let mut pod = from_template(&template, set);
                pod.metadata.generate_name =
                    Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default()));
                world.create_pod(pod)
            });
            let failed = join_all(made).await.into_iter().find_map(Result::err);
            if let Some(error) = failed {
                return Err(("FailedCreate", error));
            }
            left -= now;
            batch *= 2;
        }
    } else if pods.len() > wanted {
        let count = (pods.len() - wanted).min(BURST);
        let leaving = first_to_leave(pods, &related(world, set), count, Timestamp::now());
        let failed = join_all(leaving.iter().map(|pod| world.delete_pod(pod))).await;
        if let Some(error) = failed.into_iter().find_map(Result::err) {
            return Err(("FailedDelete", error));
        }
    }
    Ok(())
}

/// Says how it stands; returns when the next pod will count as available.
async fn write_status(
    world: &World,
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&(&'static str, Error)>,
) -> Result<Option<Duration>, Error> {
    let key = Key::of(set);
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let available: Vec<u64> = pods.iter().filter_map(|pod| available_in(pod, min_ready)).collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let some = |number: usize| Some(count(number)).filter(|number| *number > 0);
    let old = set.status.clone().unwrap_or_default();
    let labels = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone());
    let fully = |pod: &&Arc<Pod>| {
        labels.iter().flatten().all(|(key, value)| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
        })
    };
    let status = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: some(pods.iter().filter(fully).count()),
        ready_replicas: some(pods.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: some(available.iter().filter(|left| **left == 0).count()),
        observed_generation: set.metadata.generation,
        conditions: conditions(&old, failure),
        ..old.clone()
    };
    if status != old {
        let mut set = set.clone();
        set.status = Some(status);
        let name = key.name.clone();
        match world
            .api::<ReplicaSet>(&key.namespace)
            .replace_status(&name, &PostParams::default(), &set)
            .await
        {
            Ok(written) => world.replica_sets.wrote(written),
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(available.into_iter().filter(|left| *left > 0).min().map(Duration::from_secs))
}

/// ReplicaFailure while pods cannot be made or deleted, with the API's own words.
fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<&(&'static str, Error)>,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = old.conditions.iter().flatten().find(|condition| condition.type_ == "ReplicaFailure");
    let mut all: Vec<_> =
        old.conditions.iter().flatten().filter(|one| one.type_ != "ReplicaFailure").cloned().collect();
    if let Some((reason, error)) = failure {
        let message = match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        };
        // It keeps its first message, as the real one does, while the reason stays.
        all.push(match known {
            Some(known) if known.reason.as_deref() == Some(*reason) => known.clone(),
            _ => ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some((*reason).to_owned()),
                message: Some(message),
                last_transition_time: Timestamp::from_second(Timestamp::now().as_second()).ok().map(Time),
            },
        });
    }
    Some(all).filter(|all| !all.is_empty())
}
