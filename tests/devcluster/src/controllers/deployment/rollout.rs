//! How many pods each ReplicaSet is to have.

use std::{cmp::Reverse, sync::Arc};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{
    Sets, recreates, replicas, resize,
    sets::{available, size},
    slack,
};
use crate::controllers::{Error, World, pods::is_over};

/// The first size of a new ReplicaSet beside the old ones.
pub fn first_size(deployment: &Deployment, sets: &Sets) -> i32 {
    let wanted = replicas(deployment);
    if recreates(deployment) {
        return wanted;
    }
    let room = wanted + slack(deployment).0 - sets.all().map(|set| size(set)).sum::<i32>();
    room.clamp(0, wanted)
}

/// The Deployment was scaled, or is paused: its ReplicaSets follow, and nothing is rolled out.
pub async fn scale(world: &World, deployment: &Deployment, sets: &Sets) -> Result<(), Error> {
    let wanted = replicas(deployment);
    let active: Vec<_> = sets.all().filter(|set| size(set) > 0).cloned().collect();
    let only = match active.as_slice() {
        [] => sets.new.clone().or_else(|| sets.old.last().cloned()),
        [one] => Some(Arc::clone(one)),
        _ => None,
    };
    if let Some(only) = only {
        return if size(&only) == wanted { Ok(()) } else { resize(world, deployment, &only, wanted).await };
    }
    if active.is_empty() {
        return Ok(());
    }
    // The new one has all it is to have: what is left of the old ones goes.
    if let Some(new) = &sets.new
        && size(new) == wanted
        && available(new) == wanted
    {
        for old in sets.old.iter().filter(|set| size(set) > 0) {
            resize(world, deployment, old, 0).await?;
        }
        return Ok(());
    }
    if recreates(deployment) {
        return Ok(());
    }
    share(world, deployment, active).await
}

/// Each gets its share of what is added or taken, the largest first; what rounding leaves over is the first one's.
async fn share(
    world: &World,
    deployment: &Deployment,
    mut active: Vec<Arc<ReplicaSet>>,
) -> Result<(), Error> {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 { wanted + slack(deployment).0 } else { 0 };
    let total: i32 = active.iter().map(|set| size(set)).sum();
    let mut left = allowed - total;
    active.sort_by_key(|set| {
        let age = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if left > 0 { (-size(set), Some(Reverse(age)), None) } else { (-size(set), None, Some(age)) }
    });
    let before = left;
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        let maximum = set.metadata.annotations.as_ref().and_then(|all| all.get(super::MAXIMUM));
        let maximum: i32 = maximum.and_then(|text| text.parse().ok()).unwrap_or(total).max(1);
        let exact = f64::from(size(set)) * f64::from(allowed) / f64::from(maximum);
        #[expect(clippy::cast_possible_truncation, reason = "numbers of pods")]
        let change = exact.round() as i32 - size(set);
        let change = if before > 0 { change.clamp(0, left.max(0)) } else { change.clamp(left.min(0), 0) };
        left -= change;
        sizes.push((size(set) + change).max(0));
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    for (set, number) in active.iter().zip(sizes) {
        resize(world, deployment, set, number).await?;
    }
    Ok(())
}

/// Whether there are pods of an earlier template. One that is being deleted still runs.
pub fn old_ones_live(world: &World, sets: &Sets) -> bool {
    sets.old.iter().any(|set| {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        size(set) > 0 || world.pods_of(uid).iter().any(|pod| !is_over(pod))
    })
}

/// First the old pods go, all of them; then the new ones come.
pub async fn recreate(world: &World, deployment: &Deployment, sets: &Sets) -> Result<(), Error> {
    let mut scaled = false;
    for old in sets.old.iter().filter(|set| size(set) > 0) {
        resize(world, deployment, old, 0).await?;
        scaled = true;
    }
    if scaled || old_ones_live(world, sets) {
        return Ok(());
    }
    match &sets.new {
        Some(new) => resize(world, deployment, new, replicas(deployment)).await,
        None => Ok(()),
    }
}

/// One step of a rolling update; the ReplicaSets' changes cause the next.
pub async fn roll(world: &World, deployment: &Deployment, sets: &Sets) -> Result<(), Error> {
    let Some(new) = &sets.new else { return Ok(()) };
    let wanted = replicas(deployment);
    let (surge, unavailable) = slack(deployment);
    let total: i32 = sets.all().map(|set| size(set)).sum();
    if size(new) > wanted {
        return resize(world, deployment, new, wanted).await;
    }
    if size(new) < wanted && total < wanted + surge {
        let room = wanted + surge - total;
        return resize(world, deployment, new, size(new) + room.min(wanted - size(new))).await;
    }
    // What it says of the Deployment may be out of date though its size is right.
    if size(new) == wanted {
        resize(world, deployment, new, wanted).await?;
    }
    if sets.old.iter().all(|set| size(set) == 0) {
        return Ok(());
    }
    let least = wanted - unavailable;
    let mut most = total - least - (size(new) - available(new));
    if most <= 0 {
        return Ok(());
    }
    // Those that are not available go first.
    let mut sizes: Vec<i32> = sets.old.iter().map(|set| size(set)).collect();
    for (set, number) in sets.old.iter().zip(&mut sizes) {
        let unhealthy = (*number - available(set)).max(0).min(most);
        *number -= unhealthy;
        most -= unhealthy;
    }
    let mut spare = sets.all().map(|set| available(set)).sum::<i32>() - least;
    for number in &mut sizes {
        let fewer = (*number).min(spare.max(0));
        *number -= fewer;
        spare -= fewer;
    }
    for (set, number) in sets.old.iter().zip(sizes) {
        if size(set) != number {
            resize(world, deployment, set, number).await?;
        }
    }
    Ok(())
}
