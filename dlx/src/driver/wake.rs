//! From asleep to awake: whatever has to be written, scaled and found out so that what is held can go.

use std::{sync::Arc, time::Duration};

use scaler_types::{
    Nonce, ScaleError,
    backoff::Backoff,
    protocol::{GateInput, GateOrder, Unwritten},
};
use tokio::time::{sleep, timeout};

use super::{Driver, scale};
use crate::state::{Rejection, ResourceHandle};

/// After a plugin that did not say where its resource listens, or could not list its resources.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), MAX_RETRY_DELAY);
/// After a write whose outcome is unknown.
const WRITE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), MAX_RETRY_DELAY);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// What the driver found.
enum Next {
    /// Nobody waits, or nothing is left to be done.
    Stop,
    /// This is to be done.
    Order(GateOrder),
    /// The plugin lists no endpoint: it is to be asked for one.
    Resolve,
    /// Somebody else works on it.
    Wait,
    /// It is to be woken, and needs a place among the wakes for that.
    WakeSlot,
}

/// Works on a resource for as long as requests wait for it and its gate is shut. One at a time:
/// [`ResourceView::driven`](crate::state::ResourceView::driven) says that it runs.
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
                        // Asked again after a growing pause, or when something else is to be done.
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
            // Came in while the wake failed.
            resource.refuse_held(refusal, Rejection::WakeFailed);
            view.driven = false;
            return Next::Stop;
        }
        let wanted = GateInput::Wanted { fresh: Nonce::fresh() };
        // Looked at on a copy: once the gate has ordered its wake, it is under way.
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
                // What was believed is old: looked at anew before anything is decided on it.
                Err(ScaleError::Conflict) => {
                    source.refresh().await;
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

/// Asks the plugin where the resource listens. Whether it said.
async fn resolve(resource: &Arc<ResourceHandle>) -> bool {
    let source = resource.read(|view| view.source.clone());
    let named = match source.calls.resolve_service_name(&resource.key.id).await {
        Ok(named) => named,
        Err(error) => {
            let reason = format!("its plugin does not say where it listens: {error}");
            // Nothing follows from it.
            resource.decide(|view| {
                // One that lists endpoints as they appear says what they wait for.
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
    resource.update(|view| view.resolved(address));
    true
}

/// Whether `host:port` has its port; a bare IPv6 address has none.
fn has_port(address: &str) -> bool {
    match address.rsplit_once(':') {
        Some((host, port)) => port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
        None => false,
    }
}
