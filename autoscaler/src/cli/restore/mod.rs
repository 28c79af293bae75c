//! `restore`: removes Scaler from resources.

mod summary;
mod wake_queue;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use daemon::{
    coordination::Coordinator,
    flags::CommonFlags,
    leader::{Leader, Leadership, Status, Timing},
    plugin_manager::PluginManager,
    settings::SettingsLayer,
    shutdown::Shutdown,
    wakes::{WakeSlot, Wakes},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use plugin_host::{CallError, Listed, RunningPlugin, UnreadableResource};
use scaler_types::{
    Phase, Resource, ResourceId, RestoreRequest, Role, ScaleError, backoff::Backoff, duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{summary::Summary, wake_queue::WakeQueue};
use super::{output::print, parse_id};
use crate::{interception::last_used, plugin::ActivePlugin};

/// Restores everything, or one resource: wakes it if it is asleep, removes the interception and everything Scaler wrote on it
///
/// Works on the cluster itself, with the plugins and namespace files of the daemons, and is the leader while it does: a running
/// autoscaler would intercept everything again at once. Scale its Deployment to 0 before; to restore one resource for good,
/// remove its annotation instead. Can be run again. Exit status 0 when all is restored, else 1.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler restore shop/web --kubeconfig-path ~/.kube/config")]
pub(crate) struct Restore {
    /// Only this resource, as in shop/web; other kinds than Deployments as in shop/statefulset/db
    #[arg(value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    resource: Option<ResourceId>,

    /// How long all of it may take. A killed leader keeps its Lease for 15 s; sleeping workloads have to start
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,

    /// The autoscaler's own Deployment, to be scaled to 0 before: it would intercept everything again at once. When all is
    /// restored, its Lease scaler-autoscaler is deleted
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_id)]
    stop_deployment: Option<ResourceId>,

    #[command(flatten)]
    common: CommonFlags,
}

/// A plugin running for one namespace file.
struct RestoreSource {
    active: ActivePlugin,
    namespace: String,
}

/// A step that ended.
enum Step {
    /// There is a permit for the next wake of this queue.
    Slot(usize, WakeSlot),
    /// It is awake, or will not be soon. The place, where it has to be woken yet.
    Woken(usize, ResourceId, Option<WakeSlot>),
    Restored(usize, ResourceId, Result<(), ScaleError>),
}

/// How many resources are restored concurrently: each waits for propagation delays most of the time.
const MAX_CONCURRENT_RESTORES: usize = 256;
/// How long the API server may take to answer.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// How many attempts one resource gets.
const MAX_ATTEMPTS: u32 = 5;
/// The longest pause between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long the writes of one may take, beside its start and the propagation delays.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Printed for a resource that is restored at 0 replicas.
const AT_ZERO_HINT: &str =
    ", at 0 replicas: its record does not say that Scaler scaled it to 0. Scale it up if it should run";
/// When to say what is waited for.
const WAIT_NOTICE_DELAY: Duration = Duration::from_secs(3);

// === impl Restore ===

impl Restore {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signals(self.common.shutdown_grace).context("following signals")?;
        let draining = shutdown.draining.clone();
        let coordination = Coordinator::from_flags(&self.common, Role::Autoscaler).await?;
        let (settings, grace) = (SettingsLayer::default(), self.common.endpoint_propagation_delay);
        let begin = PluginManager::start_whole(&self.common, settings, Role::Autoscaler, draining.clone());
        let (plugin_manager, errors) = tokio::select! {
            () = draining.cancelled() => bail!("stopped: nothing was restored"),
            plugin_manager = begin => plugin_manager?,
        };
        for error in &errors {
            print(&format!("not running: {error}\n"));
        }
        let until = Instant::now() + self.timeout;
        if let Some(deployment) = &self.stop_deployment {
            scale_to_zero(&coordination, deployment).await?;
        }
        let leader = Leader::new(&coordination, Timing::default());
        let leadership = tokio::select! {
            () = draining.cancelled() => bail!("stopped: nothing was restored"),
            leadership = self.wait_for_leadership(&leader) => leadership?,
        };
        let stop = leadership.lost().child_token();
        let served = plugin_manager.served().borrow().clone();
        let plugins = served.iter().map(|served| RestoreSource {
            active: ActivePlugin { plugin: served.instance.clone(), settings: served.settings.clone() },
            namespace: served.namespace.clone(),
        });
        let plugins = plugins.collect();
        let wakes = Wakes::new(self.common.max_concurrent_wakes);
        #[expect(
            clippy::disallowed_methods,
            reason = "the end of the time that all of it may take is the event"
        )]
        let late = sleep_until(until);
        let in_time = async {
            late.await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            biased;
            () = draining.cancelled() => None,
            summary = restore(plugins, self.resource.as_ref(), grace, &wakes, &stop) => Some(summary),
            () = in_time => unreachable!("it waits for ever"),
        };
        let lost = leadership.lost().is_cancelled();
        let all = ended.as_ref().is_some_and(|summary| summary.failed == 0 && summary.remaining == 0);
        match (&self.stop_deployment, all) {
            // Stopping the autoscaler means uninstalling: no other leader follows.
            (Some(_), true) => leadership.end().await,
            _ => leadership.release().await,
        }
        plugin_manager.stop().await;
        let Some(summary) = ended else {
            bail!("stopped before everything was restored: run it again to continue");
        };
        print(&summary.render());
        match summary {
            _ if lost => {
                bail!("lost leadership to another autoscaler: scale its Deployment to 0 and run this again")
            }
            Summary { failed: 0, remaining: 0, restored, skipped, .. } => {
                match (&self.resource, errors.len()) {
                    (Some(id), 0) if restored + skipped == 0 => bail!("no plugin lists {id}"),
                    (_, 0) => Ok(()),
                    (_, wrong) => {
                        bail!("{wrong} of the plugins and namespace files are not running, see above")
                    }
                }
            }
            Summary { failed, remaining, .. } => {
                bail!("{} are not restored, see above", failed + remaining)
            }
        }
    }

    /// Waits until this process is the leader.
    async fn wait_for_leadership(&self, leader: &Leader) -> anyhow::Result<Leadership> {
        let status = leader.status();
        let say = async {
            #[expect(clippy::disallowed_methods, reason = "a wait is reported after a moment")]
            sleep(WAIT_NOTICE_DELAY).await;
            print(&format!(
                "waiting up to {} for leadership: {}\n",
                duration::short(self.timeout),
                describe_blocker(&status())
            ));
            std::future::pending::<()>().await;
        };
        let leadership = async {
            tokio::select! {
                leadership = leader.lead() => leadership,
                () = say => unreachable!("it waits for ever"),
            }
        };
        match timeout(self.timeout, leadership).await {
            Ok(leadership) => Ok(leadership?),
            Err(_) => bail!(
                "nothing was restored: after {} {}. Scale the autoscaler's Deployment to 0 (kubectl scale --replicas=0) and run \
                 this again; to restore one resource for good, remove its annotation scaler.dev/scale-to-zero: the autoscaler \
                 does the rest",
                duration::short(self.timeout),
                describe_blocker(&status())
            ),
        }
    }
}

/// Scales the autoscaler's own Deployment to zero. That it is gone is fine.
async fn scale_to_zero(coordination: &Coordinator, deployment: &ResourceId) -> anyhow::Result<()> {
    let Coordinator::Leases(leases) = coordination else {
        bail!("--stop-deployment {deployment}: there is no cluster, the autoscalers coordinate by files");
    };
    let client = leases.own_namespace().client.clone();
    let deployments: Api<Deployment> = Api::namespaced(client, &deployment.namespace);
    let zero = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
    match timeout(API_TIMEOUT, deployments.patch_scale(&deployment.name, &PatchParams::default(), &zero))
        .await
    {
        Ok(Ok(_)) => print(&format!("scaled the Deployment {deployment} to 0\n")),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {}
        Ok(Err(error)) => {
            bail!("scaling the Deployment {deployment} to 0: {}", daemon::cluster::causes(&error))
        }
        Err(_) => {
            bail!(
                "scaling the Deployment {deployment} to 0: no answer within {}",
                duration::short(API_TIMEOUT)
            )
        }
    }
    Ok(())
}

/// The current leader, or why there is none.
fn describe_blocker(status: &Status) -> String {
    match status {
        Status { error: Some(error), .. } => error.clone(),
        Status { leader: Some(leader), lease, .. } => {
            let lease = lease.as_ref().map(|lease| format!(" (Lease {lease})")).unwrap_or_default();
            format!("the autoscaler {leader} is the leader{lease}")
        }
        _ => "another autoscaler is the leader".to_owned(),
    }
}

/// Restores what the plugins list: all, or `only` one. Awake resources at once; sleeping ones are woken first, as permits come, and
/// back when it is up.
async fn restore(
    plugins: Vec<RestoreSource>,
    only: Option<&ResourceId>,
    grace: Duration,
    wakes: &Wakes,
    stop: &CancellationToken,
) -> Summary {
    let mut summary = Summary::default();
    // The resources not restored yet, and whether their restore has begun.
    let mut left = BTreeMap::new();
    let (mut queues, mut queue, mut at_zero) = (Vec::new(), VecDeque::new(), BTreeSet::new());
    let all: Vec<Arc<dyn RunningPlugin>> = plugins.iter().map(|at| at.active.plugin.clone()).collect();
    for RestoreSource { active, namespace } in plugins {
        let kind = active.plugin.kind();
        let listed = tokio::select! {
            biased;
            () = stop.cancelled() => {
                print(&format!("{kind} in {namespace}: NOT restored: listing its resources timed out\n"));
                summary.remaining += 1;
                continue;
            }
            listed = active.plugin.get_resources() => listed,
        };
        let Listed { readable: mut listed, unreadable } = match listed {
            Ok(listed) => listed,
            Err(error) => {
                print(&format!("{kind} in {namespace}: listing its resources failed: {error}\n"));
                summary.failed += 1;
                continue;
            }
        };
        listed.retain(|resource| only.is_none_or(|only| *only == resource.id));
        for UnreadableResource { id, error } in unreadable {
            let name = match (&id, only) {
                (Some(id), Some(only)) if id != only => continue,
                (None, Some(_)) if !listed.is_empty() => continue,
                (Some(id), _) => id.to_string(),
                (None, _) => "a resource without a readable name".to_owned(),
            };
            // Whether it is asleep, and so has to be woken first, is not known.
            print(&format!(
                "{name}: NOT restored: cannot read what plugin {kind} lists for it in namespace {namespace}: {error}\n"
            ));
            summary.failed += 1;
        }
        // The most recently used first; those with a failed wake at the end.
        listed
            .sort_by_key(|resource| (!resource.record.failed_wake.is_empty(), Reverse(last_used(resource))));
        left.extend(listed.iter().map(|resource| ((queues.len(), resource.id.clone()), false)));
        let (asleep, awake): (Vec<_>, Vec<_>) = listed.into_iter().partition(must_wake);
        at_zero.extend(awake.iter().filter(|one| one.replicas == 0).map(|one| one.id.clone()));
        queue.extend(awake.into_iter().map(|resource| (queues.len(), resource.id, None)));
        queues.push(WakeQueue::new(active, &namespace, asleep));
    }
    let mut running = JoinSet::new();
    for (number, queue) in queues.iter().enumerate() {
        queue.request_wake_permit(number, wakes, &mut running);
    }
    let mut restoring = 0;
    loop {
        while restoring < MAX_CONCURRENT_RESTORES
            && let Some((number, id, place)) = queue.pop_front()
        {
            left.insert((number, id.clone()), true);
            let ActivePlugin { plugin, settings } = queues[number].active.clone();
            // To both and from there to the workload, each with its propagation delay, and the start between.
            let deadline = settings.resource_readiness_timeout + 2 * grace + WRITE_TIMEOUT;
            let request = RestoreRequest { id, propagation_delay: grace, deadline };
            restoring += 1;
            running.spawn(async move {
                let _place: Option<WakeSlot> = place;
                let result = restore_resource(&*plugin, &request).await;
                Step::Restored(number, request.id, result)
            });
        }
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            ended = running.join_next() => ended,
        };
        let (number, id, result) = match ended {
            None => break,
            Some(Ok(Step::Slot(number, place))) => {
                if let Some(id) = queues[number].wake_next(number, place, &mut running) {
                    left.insert((number, id), true);
                }
                queues[number].request_wake_permit(number, wakes, &mut running);
                continue;
            }
            Some(Ok(Step::Woken(number, id, place))) => {
                queue.push_back((number, id, place));
                continue;
            }
            Some(Ok(Step::Restored(number, id, result))) => (number, id, result),
            Some(Err(error)) => {
                print(&format!("a call ended early: {error}\n"));
                summary.failed += 1;
                continue;
            }
        };
        restoring -= 1;
        left.remove(&(number, id.clone()));
        match result {
            Ok(()) => {
                let zero = at_zero.contains(&id);
                print(&format!("{id}: restored{}\n", if zero { AT_ZERO_HINT } else { "" }));
                summary.restored += 1;
                summary.at_zero += usize::from(zero);
            }
            Err(ScaleError::Unsupported) => summary.skipped += 1,
            Err(error) => {
                print(&format!("{id}: NOT restored: {error}\n"));
                summary.failed += 1;
            }
        }
    }
    for ((_, id), begun) in &left {
        let why = if *begun { "not finished in time. Do its pods become ready?" } else { "not attempted" };
        print(&format!("{id}: NOT restored: {why}\n"));
    }
    summary.remaining += left.len();
    if only.is_none() && summary.failed == 0 && summary.remaining == 0 {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                print("NOT checked: Services still intercepted for resources that no longer exist\n");
                summary.remaining += 1;
            }
            rest = restore_remaining(&all) => {
                summary.failed += rest.len();
                for error in rest {
                    print(&format!("NOT restored: {error}\n"));
                }
            }
        }
    }
    summary
}

/// Restores Services intercepted for resources that no longer exist; returns what is still intercepted.
async fn restore_remaining(plugins: &[Arc<dyn RunningPlugin>]) -> Vec<CallError> {
    let mut failed = Vec::new();
    // A Service that one plugin still finds intercepted another may restore: a second round for all.
    for _ in 0..2 {
        failed.clear();
        for plugin in plugins {
            failed.extend(plugin.sync_dlxs(&[]).await.err());
        }
        if failed.is_empty() {
            break;
        }
    }
    failed
}

/// Whether it has to be woken before it is restored.
fn must_wake(resource: &Resource) -> bool {
    let slept = matches!(resource.record.phase, Phase::Asleep | Phase::Waking | Phase::Failed);
    resource.replicas == 0 && slept
}

/// Restores one resource, retrying transient errors.
async fn restore_resource(plugin: &dyn RunningPlugin, request: &RestoreRequest) -> Result<(), ScaleError> {
    let mut attempts = 1;
    let mut backoff = Backoff::new(Duration::from_secs(1), MAX_RETRY_DELAY);
    loop {
        let pause = match plugin.restore(request).await {
            Err(ScaleError::Conflict) if attempts < MAX_ATTEMPTS => Duration::ZERO,
            Err(ScaleError::Retry { after, .. } | ScaleError::Busy { after, .. })
                if attempts < MAX_ATTEMPTS =>
            {
                after
            }
            ended => return ended,
        };
        #[expect(clippy::disallowed_methods, reason = "a failed attempt is retried after a growing pause")]
        sleep(pause.max(backoff.next_pause()).min(MAX_RETRY_DELAY)).await;
        attempts += 1;
    }
}

#[cfg(test)]
mod tests;
