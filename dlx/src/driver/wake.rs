//! Works on a resource that requests wait for: writes, wakes and resolves until they can be forwarded.

use std::{sync::Arc, time::Duration};

use scaler_types::{
    Nonce, ScaleError, Version,
    backoff::Backoff,
    protocol::{GateInput, GateOrder, Unwritten},
};
use tokio::time::{sleep, timeout};

use super::{Driver, scale};
use crate::state::{Rejection, ResourceHandle};

/// After a plugin failed to say where its resource listens, or to list its resources.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), MAX_RETRY_DELAY);
/// After a write whose outcome is unknown.
const WRITE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), MAX_RETRY_DELAY);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The next step for a resource.
enum Next {
    /// No request waits, or nothing is left to be done.
    Stop,
    /// Carry out this order.
    Order(GateOrder),
    /// The plugin lists no endpoint: ask it for one.
    Resolve,
    /// Wait for another daemon or task.
    Wait,
    /// Get a wake slot, then wake it.
    WakeSlot,
}

/// Works on a resource as long as requests wait for it and its gate is shut. One task at a time:
/// [`ResourceView::driven`](crate::state::ResourceView::driven) is set meanwhile.
pub(crate) fn drive(driver: Arc<Driver>, resource: Arc<ResourceHandle>) {
    let handle = driver.handle.clone();
    handle.spawn(async move {
        let mut changed = resource.subscribe();
        let mut backoff = BACKOFF;
        let mut slot = None;
        let mut pending_slot = None;
        loop {
            changed.borrow_and_update();
            match next(&resource, slot.is_some()) {
                Next::Stop => return,
                Next::Order(GateOrder::Wake { expected, record }) => {
                    scale::start(driver.clone(), resource.clone(), expected, record, slot.take());
                }
                // It keeps its place in the line while things change.
                Next::WakeSlot => {
                    let turn = pending_slot
                        .get_or_insert_with(|| Box::pin(scale::wake_slot(driver.clone(), resource.clone())));
                    tokio::select! {
                        acquired = turn => (slot, pending_slot) = (Some(acquired), None),
                        _ = changed.changed() => {}
                    }
                }
                Next::Order(order) => {
                    (slot, pending_slot) = (None, None);
                    carry_out(&driver, &resource, order).await;
                }
                Next::Resolve => {
                    (slot, pending_slot) = (None, None);
                    if !resolve(&resource).await {
                        // Retried after a growing pause, or when the view changes.
                        let _ = timeout(backoff.next_pause(), changed.changed()).await;
                    }
                }
                // Closed never: `resource` is held.
                Next::Wait => {
                    (slot, pending_slot) = (None, None);
                    drop(changed.changed().await);
                }
            }
        }
    });
}

/// `has_slot`: a wake slot is held for the resource.
fn next(resource: &Arc<ResourceHandle>, has_slot: bool) -> Next {
    resource.decide(|view| {
        let up = view.gate.open() && view.is_ready();
        if up || view.gone || !resource.queue.has_waiting() {
            view.driven = false;
            return Next::Stop;
        }
        if let Some(refusal) = view.remembered_failure(&resource.key.id) {
            // They came while the wake failed.
            resource.refuse_held(refusal, Rejection::WakeFailed);
            view.driven = false;
            return Next::Stop;
        }
        let wanted = GateInput::Wanted { fresh: Nonce::fresh() };
        // Tried on a copy: an order of the gate starts the wake.
        let wakes = || matches!(view.gate.clone().step(wanted.clone()), GateOrder::Wake { .. });
        view.waits_for_turn = !has_slot && wakes();
        if view.waits_for_turn {
            return Next::WakeSlot;
        }
        match view.gate.step(wanted) {
            GateOrder::Nothing if view.gate.open() && view.listed.is_empty() && !view.gate.waking() => {
                Next::Resolve
            }
            GateOrder::Nothing => Next::Wait,
            order => Next::Order(order),
        }
    })
}

/// Carries out what the gate ordered, in a task of its own.
pub(crate) fn perform(driver: Arc<Driver>, resource: Arc<ResourceHandle>, order: GateOrder) {
    let handle = driver.handle.clone();
    handle.spawn(async move { carry_out(&driver, &resource, order).await });
}

async fn carry_out(driver: &Arc<Driver>, resource: &Arc<ResourceHandle>, order: GateOrder) {
    let source = resource.read(|view| view.source.clone());
    match order {
        GateOrder::Write { expected, record } => {
            let written = source.calls.compare_and_set(&resource.key.id, &expected, &record).await;
            tracing::debug!(resource = %resource.key.id, state = %record.phase, nonce = %record.nonce, ?written, "wrote the record");
            let result = match written {
                Ok(version) => {
                    resource.update(|view| view.lost_writes = 0);
                    Ok(version)
                }
                // The view was old: it is refreshed before anything is decided on it.
                Err(ScaleError::Conflict) => {
                    refresh_after_conflict(resource, &expected).await;
                    Err(Unwritten::Conflict)
                }
                Err(error) => {
                    let lost = resource.update(|view| {
                        view.last_error = Some(format!("cannot write its record: {error}"));
                        view.lost_writes += 1;
                        view.lost_writes
                    });
                    tracing::warn!(resource = %resource.key.id, kind = %resource.key.kind, %error, "failed to write the record");
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a store that failed is asked again after a growing pause"
                    )]
                    sleep(WRITE_BACKOFF.pause_after(lost)).await;
                    source.refresh().await;
                    Err(Unwritten::Unknown)
                }
            };
            resource.update(|view| view.gate.step(GateInput::Wrote { expected, record, result }));
        }
        GateOrder::Refresh => {
            if !source.refresh().await {
                let mut backoff = BACKOFF;
                backoff.wait().await;
            }
        }
        GateOrder::Wake { expected, record } => {
            scale::start(driver.clone(), resource.clone(), expected, record, None)
        }
        GateOrder::Nothing | GateOrder::Confirm | GateOrder::Refuse(_) => {}
    }
}

/// Has the plugin list what has another version than `expected` by now. One that does not show it (what it lists cannot be
/// read, say) is asked again after a growing pause. Returns whether it shows another version.
pub(super) async fn refresh_after_conflict(resource: &Arc<ResourceHandle>, expected: &Version) -> bool {
    resource.read(|view| view.source.clone()).refresh().await;
    let lost = resource.update(|view| {
        if view.gate.seen().is_none_or(|seen| seen.version != *expected) {
            return None;
        }
        view.last_error = Some(
            "its record was changed by another writer, and its plugin still lists the old one".to_owned(),
        );
        view.lost_writes += 1;
        Some(view.lost_writes)
    });
    let Some(lost) = lost else { return true };
    let mut changed = resource.subscribe();
    let listed = async {
        while resource.read(|view| view.gate.seen().is_some_and(|seen| seen.version == *expected)) {
            // Closed never: `resource` is held.
            let _ = changed.changed().await;
        }
    };
    timeout(WRITE_BACKOFF.pause_after(lost), listed).await.is_ok()
}

/// Asks the plugin where the resource listens; whether it answered.
async fn resolve(resource: &Arc<ResourceHandle>) -> bool {
    let source = resource.read(|view| view.source.clone());
    let named = match source.calls.resolve_service_name(&resource.key.id).await {
        Ok(named) => named,
        Err(error) => {
            let reason = format!("its plugin does not say where it listens: {error}");
            // This has no effects.
            resource.decide(|view| {
                // A plugin that lists endpoints as they appear says in `status` what they wait for.
                if view.resource.status.is_empty() {
                    view.last_error = Some(reason);
                }
            });
            return false;
        }
    };
    let address = match source.settings.load().target_port {
        _ if has_port(&named) => named,
        Some(port) if named.contains(':') && !named.starts_with('[') => format!("[{named}]:{port}"),
        Some(port) => format!("{named}:{port}"),
        None => {
            let reason =
                format!("its plugin names {named} without a port: set dlx.targetPort or --target-port");
            resource.decide(|view| view.last_error = Some(reason));
            return false;
        }
    };
    resource.update(|view| view.set_resolved(address));
    true
}

/// Whether the address has a port; a bare IPv6 address has none.
fn has_port(address: &str) -> bool {
    match address.rsplit_once(':') {
        Some((host, port)) => port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, SiteOptions, plugin::Plugin, until};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_pause_after_a_conflict_ends_with_the_change_it_waits_for() {
        let plugin = Plugin::at("127.0.0.1:9").asleep("a");
        let site = Site::start(plugin.clone(), SiteOptions::default()).await;
        let resource = site.resource("a");
        resource.decide(|view| view.lost_writes = 20);
        let pause = tokio::spawn({
            let (resource, expected) = (resource.clone(), plugin.get("a").version);
            async move { refresh_after_conflict(&resource, &expected).await }
        });
        until("it pauses", || resource.read(|view| view.lost_writes == 21)).await;
        plugin.change("a", |resource| resource.status = "changed".to_owned());
        assert!(pause.await.unwrap(), "the pause ended with the change, not with its time");
        assert_eq!(resource.read(|view| view.lost_writes), 0);
    }
}
