//! Deployments and their ReplicaSets.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Pod, ResourceQuota},
};
use kube::ResourceExt as _;
use serde_json::json;

use crate::site::{Site, deployment, dev_only, everywhere, get, is_ready, lives};

type Sets = BTreeMap<String, ReplicaSet>;
type Pods = BTreeMap<String, Pod>;

/// Replicas, ready and available ones.
fn numbers(deployment: &Deployment) -> (i32, i32, i32) {
    let status = deployment.status.clone().unwrap_or_default();
    let number = |value: Option<i32>| value.unwrap_or_default();
    (number(status.replicas), number(status.ready_replicas), number(status.available_replicas))
}

/// A condition's status, reason and message.
fn condition(deployment: &Deployment, kind: &str) -> Option<(String, String, String)> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone()?, found.message.clone().unwrap_or_default()))
}

fn reason(deployment: &Deployment, kind: &str) -> String {
    condition(deployment, kind).map(|(_, reason, _)| reason).unwrap_or_default()
}

/// Waits until a rollout is over.
async fn settled(site: &Site, name: &str, replicas: i32) -> Deployment {
    site.until("a rollout's end", name, |one: &Deployment| {
        let observed = one.status.as_ref().and_then(|status| status.observed_generation);
        observed == one.metadata.generation
            && numbers(one) == (replicas, replicas, replicas)
            && one.status.as_ref().and_then(|status| status.updated_replicas).unwrap_or_default() == replicas
    })
    .await
}

#[test]
fn a_deployment_runs_and_says_so() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        web["metadata"]["annotations"] = json!({"scaler.dev/scale-to-zero": "10m"});
        site.create::<Deployment>(web).await;
        let pod = site.pod("a ready pod", "app=web", is_ready).await;
        let web = settled(&site, "web", 1).await;
        let sets = site.until_all("its ReplicaSet", "app=web", |sets: &Sets| sets.len() == 1).await;
        let (name, set) = sets.first_key_value().unwrap();
        let hash = &set.labels()["pod-template-hash"];
        assert_eq!(*name, format!("web-{hash}"));
        assert_eq!(&pod.labels()["pod-template-hash"], hash);
        assert!(pod.name_any().starts_with(&format!("{name}-")), "{}", pod.name_any());
        assert_eq!(web.annotations()["deployment.kubernetes.io/revision"], "1");
        assert_eq!(set.annotations()["deployment.kubernetes.io/revision"], "1");
        assert_eq!(set.annotations()["deployment.kubernetes.io/desired-replicas"], "1");
        assert_eq!(set.annotations()["scaler.dev/scale-to-zero"], "10m");
        let web = site
            .until("progress", "web", |web: &Deployment| {
                reason(web, "Progressing") == "NewReplicaSetAvailable"
            })
            .await;
        assert_eq!(condition(&web, "Available").unwrap().0, "True");
        assert_eq!(reason(&web, "Available"), "MinimumReplicasAvailable");
    });
}

#[test]
fn a_rollout_keeps_what_is_available_and_numbers_its_revisions() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 2, &[]);
        web["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        site.create::<Deployment>(web).await;
        settled(&site, "web", 2).await;
        let before = site.until_all("two pods", "app=web", |pods: &Pods| pods.len() == 2).await;
        let annotations = json!({"metadata": {"annotations": {"scaler.dev/state": "{}"}}});
        site.patch::<Deployment>("web", annotations).await;
        let template = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
        site.patch::<Deployment>("web", template).await;
        site.until_all("two new pods", "app=web", |pods: &Pods| {
            let ready = pods.values().filter(|pod| lives(pod) && is_ready(pod)).count();
            let living = pods.values().filter(|pod| lives(pod)).count();
            assert!(ready >= 2, "only {ready} are ready in the midst of a rollout");
            assert!(living <= 3, "{living} pods, where one may be too many");
            pods.len() == 2 && pods.keys().all(|name| !before.contains_key(name))
        })
        .await;
        let web = settled(&site, "web", 2).await;
        assert_eq!(web.annotations()["deployment.kubernetes.io/revision"], "2");
        let sets = site.until_all("both", "app=web", |sets: &Sets| sets.len() == 2).await;
        let mut sizes: Vec<_> = sets
            .values()
            .map(|set| {
                let revision = set.annotations()["deployment.kubernetes.io/revision"].clone();
                (
                    revision,
                    set.spec.as_ref().unwrap().replicas,
                    set.annotations().get("scaler.dev/state").cloned(),
                )
            })
            .collect();
        sizes.sort();
        // A new annotation of the Deployment is copied to the ReplicaSet of its template, and stays on it.
        let row = Some("{}".to_owned());
        assert_eq!(sizes, [("1".into(), Some(0), row.clone()), ("2".into(), Some(2), row)]);
    });
}

#[test]
fn recreate_has_all_old_pods_gone_before_the_first_new_one() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 2, &[]);
        web["spec"]["strategy"] = json!({"type": "Recreate"});
        site.create::<Deployment>(web).await;
        settled(&site, "web", 2).await;
        let before = site.until_all("two pods", "app=web", |pods: &Pods| pods.len() == 2).await;
        let template = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
        site.patch::<Deployment>("web", template).await;
        site.until_all("two new pods", "app=web", |pods: &Pods| {
            // A pod whose containers have ended may still be listed: the controller does not wait for its deletion.
            let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
            let runs = |pod: &Pod| !matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed"));
            let (old, new): (Vec<_>, Vec<_>) = pods.iter().partition(|(name, _)| before.contains_key(*name));
            let both = old.iter().any(|(_, pod)| runs(pod)) && !new.is_empty();
            assert!(!both, "old pods run beside new ones: {:?}", pods.keys());
            old.is_empty() && new.len() == 2
        })
        .await;
    });
}

#[test]
fn terminating_pods_are_not_counted() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 2, &[]);
        let container = &mut web["spec"]["template"]["spec"]["containers"][0];
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 3}}});
        site.create::<Deployment>(web).await;
        settled(&site, "web", 2).await;
        site.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
        let web = site
            .until("replicas 0", "web", |web: &Deployment| {
                numbers(web) == (0, 0, 0)
                    && web.status.as_ref().unwrap().observed_generation == web.metadata.generation
            })
            .await;
        assert_eq!(reason(&web, "Available"), "MinimumReplicasAvailable");
        let left = site.until_all("what is left", "app=web", |_: &Pods| true).await;
        assert_eq!(left.len(), 2, "they are still there, ending");
        assert!(!left.values().any(lives));
        let sets = site.until_all("its ReplicaSet", "app=web", |sets: &Sets| sets.len() == 1).await;
        assert_eq!(sets.values().next().unwrap().status.as_ref().unwrap().replicas, 0);
        site.until_all("their end", "app=web", |pods: &Pods| pods.is_empty()).await;
        // And up again, with the same ReplicaSet.
        site.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
        settled(&site, "web", 1).await;
        let again = site.until_all("its ReplicaSet", "app=web", |sets: &Sets| sets.len() == 1).await;
        assert_eq!(again.keys().next(), sets.keys().next());
    });
}

#[test]
fn what_refuses_the_pods_is_said_in_the_conditions() {
    everywhere(|site| async move {
        let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
        site.create::<ResourceQuota>(quota).await;
        if !site.is_dev() {
            site.until("a counted quota", "none", |quota: &ResourceQuota| {
                quota.status.as_ref().is_some_and(|status| status.hard.is_some())
            })
            .await;
        }
        site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
        let refused = |web: &Deployment| condition(web, "ReplicaFailure").is_some();
        let web = site.until("a failure", "web", refused).await;
        let (status, reason, message) = condition(&web, "ReplicaFailure").unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("True", "FailedCreate"));
        assert!(
            message.contains(
                "is forbidden: exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"
            ),
            "{message}"
        );
        // It is tried again, and then the condition goes.
        site.delete::<ResourceQuota>("none").await;
        let web = settled(&site, "web", 1).await;
        assert_eq!(condition(&web, "ReplicaFailure"), None);
    });
}

#[test]
fn a_pod_without_its_service_account_is_forbidden() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        web["spec"]["template"]["spec"]["serviceAccountName"] = json!("nobody");
        site.create::<Deployment>(web).await;
        let web = site
            .until("a failure", "web", |web: &Deployment| reason(web, "ReplicaFailure") == "FailedCreate")
            .await;
        let message = condition(&web, "ReplicaFailure").unwrap().2;
        assert!(message.contains("serviceaccount \"nobody\" not found"), "{message}");
    });
}

#[test]
fn a_rollout_that_stands_still_says_so() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        web["spec"]["progressDeadlineSeconds"] = json!(1);
        web["spec"]["template"]["spec"]["containers"][0]["image"] = json!(site.missing);
        site.create::<Deployment>(web).await;
        let late = |web: &Deployment| reason(web, "Progressing") == "ProgressDeadlineExceeded";
        let web = site.until("a deadline", "web", late).await;
        assert_eq!(condition(&web, "Progressing").unwrap().0, "False");
        assert_eq!(reason(&web, "Available"), "MinimumReplicasUnavailable");
    });
}

#[test]
fn the_pod_that_is_not_ready_leaves_first() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 3, &[])).await;
            settled(&site, "web", 3).await;
            let pods = site.until_all("three pods", "app=web", |pods: &Pods| pods.len() == 3).await;
            let unready = pods.values().next().unwrap();
            get(unready, "/ready/no").await;
            site.until("unreadiness", &unready.name_any(), |pod: &Pod| !is_ready(pod)).await;
            site.until("two ready", "web", |web: &Deployment| numbers(web) == (3, 2, 2)).await;
            site.patch::<Deployment>("web", json!({"spec": {"replicas": 2}})).await;
            let left = site.until_all("two pods", "app=web", |pods: &Pods| pods.len() == 2).await;
            assert!(!left.contains_key(&unready.name_any()));
        },
    );
}

#[test]
fn the_pod_with_the_lowest_deletion_cost_leaves_first_among_ready_ones() {
    everywhere(|site| async move {
        site.create::<Deployment>(deployment(&site, "web", 4, &[])).await;
        settled(&site, "web", 4).await;
        let pods = site.until_all("four pods", "app=web", |pods: &Pods| pods.len() == 4).await;
        let names: Vec<_> = pods.keys().cloned().collect();
        let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
        // Without one it is 0.
        for (name, value) in [(&names[0], "1"), (&names[2], "-2147483648"), (&names[3], "-1")] {
            site.patch::<Pod>(name, cost(value)).await;
        }
        for (replicas, leaves) in [(3, 2), (2, 3), (1, 1)] {
            site.patch::<Deployment>("web", json!({"spec": {"replicas": replicas}})).await;
            let left = |pods: &Pods| pods.values().filter(|pod| lives(pod)).count() == replicas;
            let left = site.until_all("fewer pods", "app=web", left).await;
            let gone = &names[leaves];
            assert!(left.get(gone).is_none_or(|pod| !lives(pod)), "{gone} did not leave: {:?}", left.keys());
        }
    });
}
