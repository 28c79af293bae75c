//! Keeping all intercepted Services in sync: the DLXs that their slices name, and nothing left for workloads that are gone.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};
use futures_util::{StreamExt as _, stream};
use scaler_types::{Dlx, Result, ScaleError};

use super::super::{
    InterceptionWriter,
    desired::{plan, status::is_complete},
};
use crate::{
    index::State,
    objects::{DlxSlice, ObjectName, PORT_REGISTRY, Service},
};

/// How many Services are written at once.
const MAX_CONCURRENT: usize = 16;

/// What is to be done with a Service that has something of Scaler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncAction {
    /// Its slices do not name the present DLXs, or its selector's field managers are not restored.
    Repair,
    /// It selects the pods of no managed workload, or no pods any more.
    Restore,
}

impl InterceptionWriter {
    /// Makes every slice name these DLXs, restores Services of workloads that are gone, and prunes the registry. Without DLXs
    /// no slice is changed: a slice without endpoints would lose every request.
    ///
    /// # Errors
    ///
    /// Not everything could be written; without DLXs also: a Service still holds a port.
    pub(crate) async fn sync_dlxs(&self, dlxs: &[Dlx]) -> Result<()> {
        self.ensure_autoscaler()?;
        let restores_all = dlxs.is_empty();
        let work = self.store.with(|state| {
            state.config.service_ports?;
            if !restores_all {
                state.set_dlxs(dlxs);
            }
            state.resume_suspended();
            state.settle();
            let mut work = pending_actions(state, dlxs);
            work.retain(|_, what| *what == SyncAction::Restore || !restores_all);
            Some(work)
        });
        let Some(work) = work else { return Ok(()) };
        let synced = self.sync_services(work, dlxs).await;
        if !restores_all {
            self.check_key_policy().await;
        }
        synced?;
        if restores_all { self.ensure_no_port_is_held().await } else { Ok(()) }
    }

    async fn sync_services(&self, work: BTreeMap<ObjectName, SyncAction>, dlxs: &[Dlx]) -> Result<()> {
        let all = work.into_iter().map(|(name, what)| async move {
            let done = self.sync_service(&name, what, dlxs).await;
            done.map_err(|error| format!("{}/{}: {error}", name.0, name.1)).err()
        });
        let mut failed: Vec<String> =
            stream::iter(all).buffer_unordered(MAX_CONCURRENT).filter_map(std::future::ready).collect().await;
        failed.extend(self.prune_ports().await.err().map(|error| error.to_string()));
        match failed.first() {
            None => Ok(()),
            Some(first) => Err(anyhow!("{} Services are not in sync; the first: {first}", failed.len())),
        }
    }

    /// Fails while a Service holds a port: everything that can be restored here has been.
    async fn ensure_no_port_is_held(&self) -> Result<()> {
        self.read_registry().await?;
        let held = self.store.with(|state| {
            let mut entries = state.interception.registry()?.entries();
            let (port, entry) = entries.find(|(_, entry)| entry.freed_at.is_none())?;
            Some((port, entry.holder.clone()))
        });
        let Some((port, holder)) = held else { return Ok(()) };
        bail!(
            "the ConfigMap {}/{} still counts the Service {}/{} as intercepted (key {port}), and no \
             namespace file in use covers its namespace. Check whether it exists: `kubectl -n {} get \
             service {}`. If it does, add a namespace file for it, or correct the one that is refused, \
             and run this again. Only if it does not, remove the key",
            self.cluster.home,
            PORT_REGISTRY,
            holder.namespace,
            holder.service,
            holder.namespace,
            holder.service
        )
    }

    async fn sync_service(
        &self,
        name: &ObjectName,
        what: SyncAction,
        dlxs: &[Dlx],
    ) -> Result<(), ScaleError> {
        let Some(service) = self.read_service(name).await? else { return Ok(()) };
        match what {
            SyncAction::Repair => {
                self.repair_slices(&service.service, dlxs).await?;
                self.restore_selector_owners(&service.service).await
            }
            SyncAction::Restore => {
                tracing::info!(service = %name.1, namespace = %name.0, "restoring a Service that selects no managed workload");
                // What a newer version wrote is found before anything is touched.
                let slices = self.read_slices(name).await?;
                self.clear_service(service, slices).await
            }
        }
    }
}

/// The Services that need something.
fn pending_actions(state: &State, dlxs: &[Dlx]) -> BTreeMap<ObjectName, SyncAction> {
    let ours = |service: &Service| -> Vec<&DlxSlice> {
        let slices = state.interception.slices_of(&service.meta.key());
        slices.filter_map(|slice| slice.ours.as_ref()).collect()
    };
    let need = |service: &Service| {
        let ours = ours(service);
        if ours.is_empty() && !service.intercepted {
            return None;
        }
        let listed = !service.external && state.workloads_of(service).iter().any(|id| state.is_listed(id));
        if !listed {
            return Some(SyncAction::Restore);
        }
        let names = |ours: &DlxSlice| {
            let Some(family) = ours.family else { return false };
            plan::dlx_endpoints(dlxs, family).1 == ours.dlxs
        };
        // A key without a slice is repaired where it is decided whether to intercept.
        let up_to_date = ours.iter().all(|ours| names(ours)) && is_complete(state, service);
        (!ours.is_empty() && (!up_to_date || service.owners.scaler)).then_some(SyncAction::Repair)
    };
    state.services().filter_map(|service| Some((service.meta.key(), need(service)?))).collect()
}
