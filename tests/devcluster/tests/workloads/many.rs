//! Work grows with what changes, not with what there is.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use crate::site::{deployment, dev_only, is_ready};

/// Deployments without pods. Making 3,000 takes as long for each as making 300 (25 to 30 ms on two busy cores, debug build, 6 requests).
const MANY: usize = 100;

#[test]
fn one_wake_among_many_asks_the_api_as_often_as_one_alone() {
    dev_only(
        |_| {},
        |site| async move {
            let site = &site;
            let create = async |number: usize| {
                let web = deployment(site, &format!("web-{number}"), 0, &[]);
                site.create::<Deployment>(web).await;
            };
            stream::iter(0..MANY).for_each_concurrent(8, create).await;
            let settled = |web: &Deployment| {
                let conditions = web.status.as_ref().and_then(|status| status.conditions.as_ref());
                conditions
                    .into_iter()
                    .flatten()
                    .any(|one| one.reason.as_deref() == Some("NewReplicaSetAvailable"))
            };
            let all = |all: &BTreeMap<String, Deployment>| all.len() == MANY && all.values().all(settled);
            site.until_all("all settled", "", all).await;
            // What is known of their ReplicaSets is written down, too.
            let observed = |set: &ReplicaSet| {
                set.status.as_ref().and_then(|status| status.observed_generation) == set.metadata.generation
            };
            let all = |all: &BTreeMap<String, ReplicaSet>| all.len() == MANY && all.values().all(observed);
            site.until_all("all ReplicaSets observed", "", all).await;
            let requests = site.cluster().requests();
            let made: u64 = requests.all().into_values().sum();
            assert!(made < 8 * MANY as u64, "{made} requests: {:#?}", requests.all());
            requests.reset();
            site.patch::<Deployment>("web-7", json!({"spec": {"replicas": 1}})).await;
            site.pod("a ready pod", "app=web-7", is_ready).await;
            let ready =
                |web: &Deployment| web.status.as_ref().is_some_and(|status| status.ready_replicas == Some(1));
            site.until("readyReplicas 1", "web-7", ready).await;
            let made: u64 = requests.all().into_values().sum();
            assert!(made <= 25, "{made} requests: {:#?}", requests.all());
        },
    );
}
