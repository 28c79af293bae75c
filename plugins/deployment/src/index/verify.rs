//! Reads pods once more that may be from before a sleep, so that those that are not can take requests.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{self, Cluster},
    index::{Change, Doubt, Store, Teller, Topic},
    objects::Pod,
};

/// How many workloads are looked after at once.
const AT_ONCE: usize = 32;

/// The pause after a read that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Does so for ever.
pub async fn follow(cluster: Cluster, store: Arc<Store>) {
    let mut changed = store.changed();
    let mut reads = JoinSet::new();
    loop {
        changed.borrow_and_update();
        while reads.len() < AT_ONCE
            && let Some(doubt) = store.with(|state| state.pods.next_doubt())
        {
            reads.spawn(one(cluster.clone(), store.clone(), doubt));
        }
        tokio::select! {
            Some(_) = reads.join_next() => {}
            // Closed never: `store` holds it.
            _ = changed.changed() => {}
        }
    }
}

async fn one(cluster: Cluster, store: Arc<Store>, doubt: Doubt) {
    match read(&cluster, &store, &doubt).await {
        Ok(()) => store.with(|state| {
            state.pods.settle(&doubt);
            state.touch(&doubt.id);
        }),
        Err(error) => {
            tracing::warn!(resource = %doubt.id, error = cluster::told(&error), "cannot tell its new pods from old ones yet");
            #[expect(clippy::disallowed_methods, reason = "an API that failed is asked again after a pause")]
            sleep_until(Instant::now() + AGAIN).await;
            store.with(|state| {
                state.pods.doubt_again(doubt.clone());
                state.touch(&doubt.id);
            });
        }
    }
}

async fn read(cluster: &Cluster, store: &Store, doubt: &Doubt) -> Result<(), kube::Error> {
    for (uid, name) in &doubt.pods {
        let api: Api<core::Pod> = Api::namespaced(cluster.client.clone(), &name.0);
        match cluster.call(api.get(&name.1)).await {
            Ok(pod) => store.with(|state| {
                let pod = Pod::from(pod);
                if pod.meta.uid != *uid {
                    state.remove(Topic::Pods, name, uid);
                }
                state.apply(Change::Pod(Box::new(pod)), Teller::Own);
            }),
            Err(error) if cluster::is_missing(&error) => {
                store.with(|state| state.remove(Topic::Pods, name, uid));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
