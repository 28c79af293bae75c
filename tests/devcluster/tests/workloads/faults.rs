//! Controllers and node beside an API that fails.

use std::{collections::BTreeMap, time::Duration};

use devcluster::{Filter, Refusal};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::json;

use crate::site::{deployment, dev_only, is_ready};

type Pods = BTreeMap<String, Pod>;

#[test]
fn neither_a_pod_too_many_nor_one_too_few_for_all_that_goes_wrong() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
            site.pod("a ready pod", "app=web", is_ready).await;
            let faults = site.cluster().faults();
            let settled = async |replicas: i32| {
                let wanted = usize::try_from(replicas).unwrap();
                site.until_all("the pods that are wanted", "app=web", |pods: &Pods| {
                    assert!(pods.len() <= 3, "more pods than were ever wanted: {:?}", pods.keys());
                    pods.len() == wanted && pods.values().all(is_ready)
                })
                .await;
                site.until("as many in the status", "web", |web: &Deployment| {
                    let status = web.status.clone().unwrap_or_default();
                    let ready = status.ready_replicas.unwrap_or_default();
                    status.observed_generation == web.metadata.generation
                        && (status.replicas.unwrap_or_default(), ready) == (replicas, replicas)
                })
                .await;
            };
            for round in 0..4_u32 {
                for replicas in [3, 1, 0, 2] {
                    // What was seen so far is forgotten, so that each cut watch begins with a list.
                    site.cluster().compact();
                    faults.drop_watches(Filter::any());
                    let fault = match round {
                        0 => faults.refuse(Filter::any().resource("pods"), 3, Refusal::InternalError),
                        1 => faults.refuse(Filter::any().resource("pods/status"), 5, Refusal::Conflict),
                        2 => {
                            faults.refuse(Filter::any().resource("replicasets/status"), 3, Refusal::Conflict)
                        }
                        _ => faults.latency(Filter::any().verb("watch"), Duration::from_millis(100)),
                    };
                    let patch = json!({"spec": {"replicas": replicas}});
                    // A person tries again, too.
                    let api = site.api::<Deployment>();
                    let how = kube::api::PatchParams::default();
                    while api.patch("web", &how, &kube::api::Patch::Merge(&patch)).await.is_err() {}
                    faults.drop_watches(Filter::any());
                    settled(replicas).await;
                    fault.end();
                }
            }
        },
    );
}
