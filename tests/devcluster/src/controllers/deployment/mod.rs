//! Deployment -> ReplicaSets.

mod rollout;
mod sets;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use self::sets::Sets;
use super::{Error, World};
use crate::cache::Key;

/// The annotation with a rollout's number.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// What the Deployment wanted when its ReplicaSet was scaled last.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// And how many pods there might be.
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

pub async fn reconcile(world: Arc<World>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(deployment) = world.deployments.get(&key) else { return Ok(None) };
    let sets = Sets::of(&world, &deployment);
    if deployment.metadata.deletion_timestamp.is_some() {
        return status::write(&world, &deployment, &sets, None).await;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let scaled = sets.scaled_since(replicas(&deployment));
    // One that recreates has no new ReplicaSet before the old pods are gone.
    let free = !recreates(&deployment) || !rollout::old_ones_live(&world, &sets);
    let sets = sets.revised(&world, &deployment, !paused && !scaled && free).await?;
    let Some(sets) = sets else {
        // The name of the new ReplicaSet was taken: the status now says another.
        return Ok(None);
    };
    if paused || scaled {
        rollout::scale(&world, &deployment, &sets).await?;
    } else if recreates(&deployment) {
        rollout::recreate(&world, &deployment, &sets).await?;
    } else {
        rollout::roll(&world, &deployment, &sets).await?;
    }
    let created = sets.created;
    let sets = Sets { created, ..Sets::of(&world, &deployment) };
    clean_up(&world, &deployment, &sets).await?;
    status::write(&world, &deployment, &sets, Some(paused)).await
}

fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Pods beyond the wanted number, and below it, that a rollout may have.
fn slack(deployment: &Deployment) -> (i32, i32) {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    if recreates(deployment) {
        return (0, 0);
    }
    let wanted = replicas(deployment);
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let number = |value: Option<IntOrString>, up: bool| match value {
        Some(IntOrString::Int(number)) => number,
        Some(IntOrString::String(text)) => {
            let hundredths = text.trim_end_matches('%').parse().unwrap_or(25) * wanted;
            if up { (hundredths + 99) / 100 } else { hundredths / 100 }
        }
        None => {
            let hundredths = 25 * wanted;
            if up { (hundredths + 99) / 100 } else { hundredths / 100 }
        }
    };
    let (surge, unavailable) = (number(rolling.max_surge, true), number(rolling.max_unavailable, false));
    // Neither would be no rollout at all.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted)) }
}

/// Sets a ReplicaSet's number of pods, and what it says of its Deployment.
async fn resize(world: &World, deployment: &Deployment, set: &ReplicaSet, number: i32) -> Result<(), Error> {
    let (wanted, (surge, _)) = (replicas(deployment), slack(deployment));
    let annotations = BTreeMap::from([
        (DESIRED.to_owned(), wanted.to_string()),
        (MAXIMUM.to_owned(), (wanted + surge).to_string()),
    ]);
    let known = set.metadata.annotations.clone().unwrap_or_default();
    let is_recorded = annotations.iter().all(|(key, value)| known.get(key) == Some(value));
    if sets::size(set) == number && is_recorded {
        return Ok(());
    }
    let patch = json!({
        "metadata": {"annotations": annotations, "resourceVersion": set.metadata.resource_version},
        "spec": {"replicas": number},
    });
    sets::patch(world, set, patch).await
}

/// Deletes ReplicaSets beyond the history that is to be kept.
async fn clean_up(world: &World, deployment: &Deployment, sets: &Sets) -> Result<(), Error> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let over = sets.old.len().saturating_sub(limit.try_into().unwrap_or_default());
    let idle = |set: &&Arc<ReplicaSet>| {
        let pods = set.status.as_ref().map_or(0, |status| status.replicas);
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        pods == 0 && sets::size(set) == 0 && observed >= set.metadata.generation
    };
    for set in sets.old.iter().take(over).filter(idle) {
        let key = Key::of(&**set);
        match world.api::<ReplicaSet>(&key.namespace).delete(&key.name, &DeleteParams::background()).await {
            Ok(_) => world.replica_sets.removed(set),
            Err(kube::Error::Api(refused)) if refused.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn annotate(world: &World, deployment: &Deployment, revision: &str) -> Result<(), Error> {
    let key = Key::of(deployment);
    let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
    let api = world.api::<Deployment>(&key.namespace);
    let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    world.deployments.wrote(written);
    Ok(())
}
