//! How a container comes to its end: hook, SIGTERM, SIGKILL.

use std::{future::pending, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::watch, time::Instant};

use super::{
    probe::{self, Target},
    process::Process,
};
use crate::cache::rest;

/// The time a pod's processes have to end.
pub fn grace_of(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    Duration::from_secs(seconds.try_into().unwrap_or_default())
}

/// preStop, SIGTERM, and SIGKILL when its time is over. It never ends by itself before the process does.
pub async fn end(process: &Process, target: &Target<'_>, mut deadlines: watch::Receiver<Option<Instant>>) {
    let hook = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook {
        let run = async {
            let result = if let Some(sleep) = &hook.sleep {
                rest(Duration::from_secs(sleep.seconds.try_into().unwrap_or_default())).await;
                Ok(())
            } else if let Some(exec) = &hook.exec {
                let words = exec.command.as_deref().unwrap_or_default();
                probe::run(target.processes, &(target.command)(words)).await
            } else if let Some(http) = &hook.http_get {
                probe::get(http, target).await
            } else {
                Ok(())
            };
            if let Err(why) = result {
                tracing::debug!(container = target.container.name, why, "the preStop hook failed");
            }
        };
        tokio::select! {
            () = run => {}
            () = over(&mut deadlines) => {}
        }
    }
    process.terminate();
    over(&mut deadlines).await;
    process.kill();
    pending::<()>().await;
}

/// Waits for the deadline, which may be set anew.
async fn over(deadlines: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = *deadlines.borrow_and_update();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = rest(left.unwrap_or(Duration::MAX / 4)), if left.is_some() => return,
            Ok(()) = deadlines.changed() => {}
            else => return,
        }
    }
}

/// Waits until the pod is to end.
pub async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) {
    if stop.wait_for(Option::is_some).await.is_err() {
        pending::<()>().await;
    }
}

/// Waits until the pod is to end, or to end at another time than `known`.
pub async fn changed_stop(stop: &mut watch::Receiver<Option<Instant>>, known: Option<Instant>) {
    if stop.wait_for(|wanted| *wanted != known).await.is_err() {
        pending::<()>().await;
    }
}
