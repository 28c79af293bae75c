//! One wake: one `set_scale` for all held requests, also if they leave meanwhile.

use std::{sync::Arc, time::Duration};

use daemon::{
    events,
    wakes::{WakeFor, WakeSlot},
};
use scaler_types::{
    Nonce, Phase, Record, ScaleError, ScaleRequest, Target, TrafficMode, Version,
    backoff::Backoff,
    duration,
    protocol::{GateInput, GateOrder},
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    Driver,
    wake::{perform, refresh_after_conflict},
};
use crate::{
    plugin::PluginSource,
    state::{Rejection, ResourceHandle, WakeCause, WakeOutcome},
};

/// How long a plugin that says what changed may take to say that a wake was written; then it lists everything.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a wake ended.
enum Ended {
    /// It was scaled, or another daemon changed the resource: the view decides.
    CheckView,
    /// It failed, or timed out.
    Failed(WakeOutcome, String),
}

/// Waits for a wake slot of this DLX.
pub(crate) async fn wake_slot(driver: Arc<Driver>, resource: Arc<ResourceHandle>) -> WakeSlot {
    let limit = resource.read(|view| view.settings().max_concurrent_wakes);
    driver.wakes.slot(&resource.key.id.namespace, limit, WakeFor::Request).await
}

/// Starts a wake that the gate ordered, in `slot`, or as soon as a slot is free.
pub(crate) fn start(
    driver: Arc<Driver>,
    resource: Arc<ResourceHandle>,
    expected: Version,
    record: Record,
    slot: Option<WakeSlot>,
) {
    let handle = driver.handle.clone();
    handle.spawn(async move {
        let _slot = match slot {
            Some(slot) => slot,
            None => wake_slot(driver.clone(), resource.clone()).await,
        };
        let (record, cause) = resource.update(|view| (view.begin_wake(record), view.wake_cause.clone()));
        let held = resource.queue.len();
        log(&resource, cause.as_ref(), held);
        let limit = resource.read(|view| view.settings().resource_readiness_timeout);
        let deadline = Instant::now() + limit;
        let nonce = record.nonce;
        let ended = scale(&driver, &resource, &expected, record, deadline).await;
        let scaled = matches!(ended, Ended::CheckView);
        finish(&driver, &resource, ended).await;
        if scaled && let Some(why) = wait_until_up(&resource, nonce, deadline).await {
            let reason = format!("not ready within {}: {why}", duration::short(limit));
            finish(&driver, &resource, Ended::Failed(WakeOutcome::TimedOut, reason)).await;
        }
    });
}

/// Logs the cause of each wake, whatever its client does later.
fn log(resource: &ResourceHandle, cause: Option<&WakeCause>, held: usize) {
    let (mut port, mut request) = (None, None);
    match cause {
        Some(WakeCause::Connection { port: own, .. }) => port = Some(*own),
        Some(WakeCause::Request { method, host, path, .. }) => request = Some((method, host, path)),
        Some(WakeCause::Command { .. }) | None => {}
    }
    tracing::info!(
        resource = %resource.key.id,
        kind = %resource.key.kind,
        cause = cause.map(WakeCause::name),
        client = cause.map(WakeCause::client),
        host = request.map(|(_, host, _)| host.as_str()),
        method = request.map(|(method, ..)| method.as_str()),
        path = request.map(|(.., path)| path.as_str()),
        port,
        held,
        "waking"
    );
}

async fn scale(
    driver: &Driver,
    resource: &Arc<ResourceHandle>,
    expected: &Version,
    record: Record,
    deadline: Instant,
) -> Ended {
    let (source, replicas) = resource.read(|view| (view.source.clone(), view.replicas_for_request()));
    let began = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        let request = ScaleRequest {
            id: resource.key.id.clone(),
            target: Target::AtLeast(replicas),
            version: expected.clone(),
            record: record.clone(),
            deadline: deadline.saturating_duration_since(Instant::now()),
            intercepted_for: Duration::ZERO,
            busy: Vec::new(),
        };
        driver.metrics.set_scales.inc();
        match source.calls.set_scale(&request).await {
            Ok(()) => {
                resource.wake_written();
                show_scaled(resource, &source).await;
                return Ended::CheckView;
            }
            Err(ScaleError::Conflict) => {
                refresh_after_conflict(resource, expected).await;
                return Ended::CheckView;
            }
            Err(ScaleError::Terminal { reason }) => {
                // The record says `waking` by now; until the view shows that, the failure could not be written.
                source.refresh().await;
                return Ended::Failed(WakeOutcome::Refused, reason);
            }
            Err(ScaleError::Unsupported) => {
                return Ended::Failed(WakeOutcome::Refused, "its plugin cannot scale it".to_owned());
            }
            Err(ScaleError::Retry { after, reason } | ScaleError::Busy { after, reason }) => {
                tracing::warn!(resource = %resource.key.id, kind = %resource.key.kind, %reason, "wake attempt failed; retrying");
                resource.update(|view| view.last_error = Some(reason.clone()));
                let again = Instant::now() + after.max(backoff.next_pause());
                if again >= deadline {
                    // The plugin's status and the endpoints' errors, besides the plugin's last error.
                    let why = resource.read(|view| view.why_not_up());
                    let reason = format!("not ready within {}: {why}", duration::short(deadline - began));
                    return Ended::Failed(WakeOutcome::TimedOut, reason);
                }
                #[expect(clippy::disallowed_methods, reason = "a plugin says after what time to try again")]
                sleep_until(again).await;
                let moved =
                    resource.read(|view| view.gate.seen().is_none_or(|seen| seen.version != *expected));
                if moved {
                    // It may have taken effect after all, or another daemon changed it.
                    return Ended::CheckView;
                }
            }
        }
    }
}

/// Returns when the view shows that the resource was scaled: before anything is decided on it, or the resource would be woken
/// twice. A list of everything costs as much as there are resources, so a plugin that says what changed is given time to.
async fn show_scaled(resource: &Arc<ResourceHandle>, source: &PluginSource) {
    let mut changed = resource.subscribe();
    let shown = async {
        // A resource whose wake failed may have had replicas all the time.
        while !resource.read(|view| view.gate.open()) {
            // Closed never: `resource` is held.
            let _ = changed.changed().await;
        }
    };
    let limit = if source.tells_changes() { CHANGE_TIMEOUT } else { Duration::ZERO };
    if timeout(limit, shown).await.is_err() {
        source.refresh().await;
    }
}

/// Waits until an endpoint answers, a resource that takes no requests is up, or the record shows that another daemon has continued
/// from this wake. Returns why the resource is not up, if none of these has happened by the deadline.
async fn wait_until_up(resource: &Arc<ResourceHandle>, nonce: Nonce, deadline: Instant) -> Option<String> {
    let mut changed = resource.subscribe();
    loop {
        changed.borrow_and_update();
        let waits = resource.read(|view| {
            let mine = view.gate.seen().is_some_and(|seen| {
                seen.record.phase == Phase::Waking
                    && seen.record.nonce == nonce
                    && view.resource.traffic_mode != TrafficMode::External
            });
            (mine && !view.gone && !view.is_ready() && !view.runs_without_requests())
                .then(|| view.why_not_up())
        });
        let why = waits?;
        if timeout_at(deadline, changed.changed()).await.is_err() {
            return Some(why);
        }
    }
}

async fn finish(driver: &Arc<Driver>, resource: &Arc<ResourceHandle>, ended: Ended) {
    let fresh = Nonce::fresh();
    let failed = match ended {
        Ended::CheckView => None,
        Ended::Failed(outcome, reason) => Some((outcome, reason)),
    };
    let mut up = false;
    let order = resource.update(|view| {
        up = view.gate.open() && view.is_ready();
        if up {
            // Part of the resource may be broken; an endpoint that answers is enough.
            return view.gate.step(GateInput::Woke { terminal: None, fresh });
        }
        if let Some((_, reason)) = &failed {
            view.remember_failure(reason);
            // Before the gate gets the failure, so that held requests do not wake the resource again.
            if let Some(refusal) = view.remembered_failure(&resource.key.id) {
                resource.refuse_held(refusal, Rejection::WakeFailed);
            }
        }
        view.gate.step(GateInput::Woke { terminal: failed.as_ref().map(|(_, reason)| reason.clone()), fresh })
    });
    match failed {
        Some((_, reason)) if up => {
            tracing::warn!(resource = %resource.key.id, kind = %resource.key.kind, %reason, "wake failed, but an endpoint answers: requests are forwarded");
        }
        Some((outcome, reason)) => {
            tracing::warn!(resource = %resource.key.id, kind = %resource.key.kind, %reason, "wake failed");
            driver.metrics.failed_wakes.inc();
            resource.counts.woken(outcome);
            resource.read(|view| {
                view.source.reports.report(&resource.key.id, events::WAKE_FAILED, reason);
            });
        }
        None => {}
    }
    if let order @ GateOrder::Write { .. } = order {
        perform(driver.clone(), resource.clone(), order);
    }
}
