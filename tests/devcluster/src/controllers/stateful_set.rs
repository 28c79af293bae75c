//! StatefulSet -> Pods with names that stay.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};
use kube::api::PostParams;

use super::{
    Error, World,
    pods::{available_in, from_template, is_active, is_over, is_ready, phase},
};
use crate::cache::Key;

/// Which template a pod was made after.
const REVISION: &str = "controller-revision-hash";

pub async fn reconcile(world: Arc<World>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(set) = world.stateful_sets.get(&key) else { return Ok(None) };
    let update = revision(&set);
    let mut result = Ok(());
    if set.metadata.deletion_timestamp.is_none() {
        result = manage(&world, &set, &update).await;
    }
    let again = write_status(&world, &set, &update).await?;
    result.map(|()| again)
}

/// The set's pods by their number.
fn pods(world: &World, set: &StatefulSet) -> BTreeMap<i32, Arc<Pod>> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
    let number = |pod: &Pod| pod.metadata.name.as_ref()?.strip_prefix(&prefix)?.parse().ok();
    world.pods_of(uid).into_iter().filter_map(|pod| Some((number(&pod)?, pod))).collect()
}

/// One step, or all at once where the set is managed in parallel. Whatever a pod does next causes the next step.
async fn manage(world: &World, set: &StatefulSet, update: &str) -> Result<(), Error> {
    let Some(spec) = &set.spec else { return Ok(()) };
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default();
    let wanted = first..first + spec.replicas.unwrap_or(1);
    let current = current_revision(set, update);
    let partition =
        spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref()?.partition);
    let mut known = pods(world, set);
    let healthy = |pod: &Pod| is_active(pod) && is_ready(pod) && phase(pod) == "Running";
    for number in wanted.clone() {
        match known.get(&number) {
            // Of this name there is one until it is gone altogether.
            Some(pod) if is_over(pod) && pod.metadata.deletion_timestamp.is_none() => {
                world.delete_pod(pod).await?;
            }
            Some(pod) => {
                if !parallel && !healthy(pod) {
                    return Ok(());
                }
                continue;
            }
            None => {
                let old = number < first + partition.unwrap_or_default();
                let revision = if old { &current } else { update };
                match world.create_pod(new_pod(set, number, revision)).await {
                    // Its name is still taken: its end will cause another step.
                    Err(kube::Error::Api(refused)) if refused.code == 409 => {}
                    other => other?,
                }
            }
        }
        if !parallel {
            return Ok(());
        }
    }
    // From the last to the first, each only once the one before is gone.
    for (_, pod) in known.iter().rev().filter(|(number, _)| !wanted.contains(number)) {
        if pod.metadata.deletion_timestamp.is_none() {
            world.delete_pod(pod).await?;
        }
        if !parallel {
            return Ok(());
        }
    }
    let on_delete =
        spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    if on_delete {
        return Ok(());
    }
    known.retain(|number, _| wanted.contains(number) && *number >= first + partition.unwrap_or_default());
    for pod in known.values().rev() {
        if revision_of(pod) != Some(update) && pod.metadata.deletion_timestamp.is_none() {
            return world.delete_pod(pod).await;
        }
        if !healthy(pod) {
            return Ok(());
        }
    }
    Ok(())
}

fn new_pod(set: &StatefulSet, number: i32, revision: &str) -> Pod {
    let spec = set.spec.clone().unwrap_or_default();
    let mut pod = from_template(&spec.template, set);
    let name = format!("{}-{number}", set.metadata.name.as_deref().unwrap_or_default());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), number.to_string());
    labels.insert(REVISION.into(), revision.to_owned());
    if let Some(pod) = &mut pod.spec {
        pod.hostname = Some(name.clone());
        pod.subdomain = spec.service_name.filter(|name| !name.is_empty());
    }
    pod.metadata.name = Some(name);
    pod
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).map(String::as_str)
}

/// The template's name, as that of the ControllerRevision that the real controller keeps.
fn revision(set: &StatefulSet) -> String {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let text = serde_json::to_string(&template).unwrap_or_default();
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}-{hash:08x}", set.metadata.name.as_deref().unwrap_or_default())
}

fn current_revision(set: &StatefulSet, update: &str) -> String {
    let known = set.status.as_ref().and_then(|status| status.current_revision.clone());
    known.filter(|known| !known.is_empty()).unwrap_or_else(|| update.to_owned())
}

async fn write_status(world: &World, set: &StatefulSet, update: &str) -> Result<Option<Duration>, Error> {
    let key = Key::of(set);
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let mut current = current_revision(set, update);
    let pods = pods(world, set);
    // As the real one: replicas counts those that are being deleted, too.
    let created: Vec<_> = pods.values().filter(|pod| !phase(pod).is_empty()).collect();
    let running: Vec<_> = created.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let some = |number: usize| Some(count(number)).filter(|number| *number > 0);
    let of = |wanted: &str| {
        let stays =
            |pod: &&&Arc<Pod>| pod.metadata.deletion_timestamp.is_none() && revision_of(pod) == Some(wanted);
        created.iter().filter(stays).count()
    };
    let available: Vec<u64> = running.iter().filter_map(|pod| available_in(pod, min_ready)).collect();
    let wanted: usize = spec.replicas.unwrap_or(1).try_into().unwrap_or_default();
    if of(update) == wanted && running.len() == wanted && created.len() == wanted {
        update.clone_into(&mut current);
    }
    let status = StatefulSetStatus {
        replicas: count(created.len()),
        ready_replicas: some(running.len()),
        available_replicas: Some(count(available.iter().filter(|left| **left == 0).count())),
        current_replicas: some(of(&current)),
        updated_replicas: some(of(update)),
        observed_generation: set.metadata.generation,
        current_revision: Some(current),
        update_revision: Some(update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or_default()),
        ..old.clone()
    };
    if status != old {
        let mut set = (*set).clone();
        set.status = Some(status);
        let api = world.api::<StatefulSet>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &set).await {
            Ok(written) => world.stateful_sets.wrote(written),
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(available.into_iter().filter(|left| *left > 0).min().map(Duration::from_secs))
}
