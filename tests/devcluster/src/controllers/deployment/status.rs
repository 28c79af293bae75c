//! What a Deployment says of itself.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::api::PostParams;

use super::{Sets, replicas, sets::available, slack};
use crate::{
    cache::Key,
    controllers::{Error, World},
};

/// A condition as it is to be: type, status, reason, message.
type Wanted<'a> = (&'a str, &'a str, &'a str, String);

/// Writes the status if it is another. `paused` is `None` for one that is being deleted. Returns when progress will have taken too long.
pub async fn write(
    world: &World,
    deployment: &Deployment,
    sets: &Sets,
    paused: Option<bool>,
) -> Result<Option<Duration>, Error> {
    let key = Key::of(deployment);
    // With what this reconciliation itself wrote.
    let Some(current) = world.deployments.get(&key) else { return Ok(None) };
    let old = current.status.clone().unwrap_or_default();
    let mut status = counted(deployment, sets, &old);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let least = replicas(deployment) - slack(deployment).1;
    let word = if status.available_replicas.unwrap_or_default() >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, ("Available", word.0, word.1, word.2.to_owned()));
    let mut again = None;
    match paused {
        Some(false) => {
            if let Some(wanted) = progress(deployment, sets, &old, &status) {
                set(&mut conditions, wanted);
            }
            again = deadline(deployment, &conditions);
        }
        Some(true) => {
            set(
                &mut conditions,
                ("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into()),
            );
        }
        None => {}
    }
    let failure = sets.new.iter().chain(&sets.old).find_map(|set| failure_of(set));
    conditions.retain(|condition| condition.type_ != "ReplicaFailure" || failure.is_some());
    if let Some((reason, message)) = failure {
        set(&mut conditions, ("ReplicaFailure", "True", &reason, message));
    }
    status.conditions = Some(conditions);
    if status != old {
        let mut changed = (*current).clone();
        changed.status = Some(status);
        let api = world.api::<Deployment>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => world.deployments.wrote(written),
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(again)
}

fn counted(deployment: &Deployment, sets: &Sets, old: &DeploymentStatus) -> DeploymentStatus {
    let some = |number: i32| Some(number).filter(|number| *number > 0);
    let pods = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let total: i32 = sets.all().map(|set| super::sets::size(set)).sum();
    let here: i32 = sets.all().map(|set| available(set)).sum();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sets.all().map(|set| pods(set)).sum()),
        updated_replicas: some(sets.new.as_ref().map_or(0, |set| pods(set))),
        ready_replicas: some(sets.all().map(|set| ready(set)).sum()),
        available_replicas: some(here),
        unavailable_replicas: some(total - here),
        ..old.clone()
    }
}

/// How the rollout comes along; `None` leaves the condition as it is.
fn progress(
    deployment: &Deployment,
    sets: &Sets,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
) -> Option<Wanted<'static>> {
    let known = condition(old.conditions.as_deref().unwrap_or_default(), "Progressing");
    let name = sets.new.as_ref().and_then(|set| set.metadata.name.clone());
    let subject = name.map_or_else(
        || format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
        |name| format!("ReplicaSet \"{name}\""),
    );
    if sets.created {
        let name = subject.trim_start_matches("ReplicaSet ");
        return Some((
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            format!("Created new replica set {name}"),
        ));
    }
    let of = |number: Option<i32>| number.unwrap_or_default();
    let settled = known.is_some_and(|known| known.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if settled && of(new.replicas) == of(new.updated_replicas) {
        return None;
    }
    let wanted = replicas(deployment);
    if [new.updated_replicas, new.replicas, new.available_replicas].iter().all(|number| of(*number) == wanted)
    {
        let message = format!("{subject} has successfully progressed.");
        return Some(("Progressing", "True", "NewReplicaSetAvailable", message));
    }
    let fewer_old = of(new.replicas) - of(new.updated_replicas) < of(old.replicas) - of(old.updated_replicas);
    let moved = of(new.updated_replicas) > of(old.updated_replicas)
        || fewer_old
        || of(new.ready_replicas) > of(old.ready_replicas)
        || of(new.available_replicas) > of(old.available_replicas);
    if moved {
        return Some(("Progressing", "True", "ReplicaSetUpdated", format!("{subject} is progressing.")));
    }
    let Some(known) = known else {
        let name = subject.trim_start_matches("ReplicaSet ");
        return Some(("Progressing", "True", "FoundNewReplicaSet", format!("Found new replica set {name}")));
    };
    let late = left(deployment, known).is_some_and(|left| left.is_zero());
    late.then(|| {
        ("Progressing", "False", "ProgressDeadlineExceeded", format!("{subject} has timed out progressing."))
    })
}

/// How long the rollout may still stand still.
fn left(deployment: &Deployment, known: &DeploymentCondition) -> Option<Duration> {
    let seconds = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds)?;
    let since = known.last_update_time.as_ref().map_or(0, |time| time.0.as_second());
    let left = since + i64::from(seconds) - Timestamp::now().as_second();
    Some(Duration::from_secs(left.try_into().unwrap_or_default()))
}

fn deadline(deployment: &Deployment, conditions: &[DeploymentCondition]) -> Option<Duration> {
    let known = condition(conditions, "Progressing")?;
    let waits = known.status == "True" && known.reason.as_deref() != Some("NewReplicaSetAvailable");
    // A second later: times are cut to seconds.
    left(deployment, known).filter(|_| waits).map(|left| left + Duration::from_secs(1))
}

fn condition<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Sets a condition unless status, reason and message are the same.
fn set(conditions: &mut Vec<DeploymentCondition>, (kind, status, reason, message): Wanted<'_>) {
    let now = Timestamp::from_second(Timestamp::now().as_second()).ok().map(Time);
    let known = condition(conditions, kind).cloned();
    if let Some(known) = &known {
        let moves = kind == "Progressing" && reason == "ReplicaSetUpdated";
        if known.status == status && known.reason.as_deref() == Some(reason) && !moves {
            return;
        }
    }
    let turned = known.as_ref().filter(|known| known.status == status);
    let since = turned.map_or_else(|| now.clone(), |known| known.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since,
        last_update_time: now,
    });
}

/// What keeps a ReplicaSet from having its pods.
fn failure_of(set: &ReplicaSet) -> Option<(String, String)> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")?;
    Some((failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default()))
}
