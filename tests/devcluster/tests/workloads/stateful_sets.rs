//! StatefulSets: names that stay.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::site::{Site, everywhere, is_ready, lives, template};

type Pods = BTreeMap<String, Pod>;

fn stateful_set(site: &Site, replicas: i32) -> Value {
    json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": template(site, "db", &[]),
        },
    })
}

/// Lets each pod take three seconds to end.
fn slow_end(set: &mut Value) {
    set["spec"]["template"]["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"sleep": {"seconds": 3}}});
}

async fn settled(site: &Site, replicas: i32) -> StatefulSet {
    site.until("all ready", "db", |set: &StatefulSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && (status.replicas, status.ready_replicas.unwrap_or_default()) == (replicas, replicas)
            && status.current_revision == status.update_revision
    })
    .await
}

#[test]
fn pods_come_one_after_the_other_and_are_numbered() {
    everywhere(|site| async move {
        site.create::<StatefulSet>(stateful_set(&site, 2)).await;
        let pods = site
            .until_all("two pods", "app=db", |pods: &Pods| {
                let first = pods.get("db-0").is_some_and(is_ready);
                assert!(first || !pods.contains_key("db-1"), "db-1 came before db-0 was ready");
                pods.len() == 2 && pods.values().all(is_ready)
            })
            .await;
        assert_eq!(pods.keys().collect::<Vec<_>>(), ["db-0", "db-1"]);
        let last = &pods["db-1"];
        assert_eq!(last.labels()["statefulset.kubernetes.io/pod-name"], "db-1");
        assert_eq!(last.labels()["apps.kubernetes.io/pod-index"], "1");
        assert_eq!(last.spec.as_ref().unwrap().hostname.as_deref(), Some("db-1"));
        let set = settled(&site, 2).await;
        let status = set.status.unwrap();
        assert_eq!(
            (status.current_replicas, status.updated_replicas, status.available_replicas),
            (Some(2), Some(2), Some(2))
        );
        assert_eq!(status.update_revision.as_ref(), last.labels().get("controller-revision-hash"));
        // The last goes first, and alone.
        site.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
        site.until_all("none", "app=db", |pods: &Pods| {
            let first_ends = pods.get("db-0").is_some_and(|pod| !lives(pod));
            assert!(!first_ends || !pods.contains_key("db-1"), "db-0 ended before db-1 was gone");
            pods.is_empty()
        })
        .await;
    });
}

#[test]
fn a_name_is_given_again_only_once_its_pod_is_gone() {
    everywhere(|site| async move {
        let mut set = stateful_set(&site, 1);
        slow_end(&mut set);
        site.create::<StatefulSet>(set).await;
        settled(&site, 1).await;
        let former = site.pod("a pod", "app=db", is_ready).await.uid();
        site.delete::<Pod>("db-0").await;
        let ended = std::cell::Cell::new(false);
        let successor = site
            .until_all("its successor", "app=db", |pods: &Pods| {
                let Some(pod) = pods.get("db-0") else {
                    ended.set(true);
                    return false;
                };
                if pod.uid() == former {
                    assert!(!lives(pod) && !ended.get());
                    return false;
                }
                is_ready(pod)
            })
            .await;
        assert_ne!(successor["db-0"].uid(), former);
    });
}

#[test]
fn its_replicas_count_terminating_pods() {
    everywhere(|site| async move {
        let mut set = stateful_set(&site, 1);
        slow_end(&mut set);
        site.create::<StatefulSet>(set).await;
        settled(&site, 1).await;
        site.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
        site.pod("the end of db-0", "app=db", |pod| !lives(pod)).await;
        let observed = |set: &StatefulSet| {
            set.status.as_ref().and_then(|status| status.observed_generation) == set.metadata.generation
        };
        let set = site.until("the new size noticed", "db", observed).await;
        assert_eq!(set.status.unwrap().replicas, 1, "unlike a ReplicaSet's");
        site.until("its end", "db", |set: &StatefulSet| {
            set.status.as_ref().is_some_and(|status| status.replicas == 0)
        })
        .await;
        site.until_all("none", "app=db", |pods: &Pods| pods.is_empty()).await;
    });
}

#[test]
fn a_new_template_goes_from_the_last_to_the_first() {
    everywhere(|site| async move {
        site.create::<StatefulSet>(stateful_set(&site, 2)).await;
        settled(&site, 2).await;
        let before = site.until_all("two pods", "app=db", |pods: &Pods| pods.len() == 2).await;
        let template = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
        site.patch::<StatefulSet>("db", template).await;
        let is_new =
            |pods: &Pods, name: &str| pods.get(name).is_some_and(|pod| pod.uid() != before[name].uid());
        site.until_all("two new pods", "app=db", |pods: &Pods| {
            assert!(!is_new(pods, "db-0") || is_new(pods, "db-1"), "db-0 was changed before db-1");
            is_new(pods, "db-0") && is_new(pods, "db-1") && pods.values().all(is_ready)
        })
        .await;
        settled(&site, 2).await;
    });
}
