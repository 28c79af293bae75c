//! Reads pods once more that may be from before a sleep, so that those that are not can take requests.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use scaler_types::backoff::Backoff;
use tokio::task::JoinSet;

use crate::{
    cluster::{self, ClusterApi},
    index::{ObjectChange, ObjectType, StateOrigin, Store, UnverifiedPods},
    objects::PodObject,
};

/// How many workloads are read at once.
const MAX_CONCURRENT: usize = 32;

/// The pause after a read that failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Runs until it is aborted.
pub(crate) async fn follow_unverified(cluster: ClusterApi, store: Arc<Store>) {
    let mut changed = store.changed();
    let mut reads = JoinSet::new();
    loop {
        changed.borrow_and_update();
        while reads.len() < MAX_CONCURRENT
            && let Some(unverified) = store.with(|state| state.pods.next_unverified())
        {
            reads.spawn(verify_pods(cluster.clone(), store.clone(), unverified));
        }
        tokio::select! {
            Some(_) = reads.join_next() => {}
            // Closed never: `store` holds it.
            _ = changed.changed() => {}
        }
    }
}

async fn verify_pods(cluster: ClusterApi, store: Arc<Store>, unverified: UnverifiedPods) {
    match read_pods(&cluster, &store, &unverified).await {
        Ok(()) => store.with(|state| {
            state.pods.mark_verified(&unverified);
            state.touch(&unverified.id);
        }),
        Err(error) => {
            tracing::warn!(resource = %unverified.id, error = cluster::describe_error(&error), "failed to check whether pods are from before the last scale to zero; retrying, they get no requests until then");
            Backoff::new(RETRY_DELAY, RETRY_DELAY).wait().await;
            store.with(|state| {
                state.pods.retry_unverified(unverified.clone());
                state.touch(&unverified.id);
            });
        }
    }
}

async fn read_pods(
    cluster: &ClusterApi,
    store: &Store,
    unverified: &UnverifiedPods,
) -> Result<(), kube::Error> {
    for (uid, name) in &unverified.pods {
        let api: Api<core::Pod> = Api::namespaced(cluster.client.clone(), &name.0);
        match cluster.call(api.get(&name.1)).await {
            Ok(pod) => store.with(|state| {
                let pod = PodObject::from(pod);
                if pod.meta.uid != *uid {
                    state.remove(ObjectType::Pods, name, uid);
                }
                state.apply(ObjectChange::Pod(Box::new(pod)), StateOrigin::Own);
            }),
            Err(error) if cluster::is_missing(&error) => {
                store.with(|state| state.remove(ObjectType::Pods, name, uid));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
