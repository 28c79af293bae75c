//! What a pod's status says of what became of it.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, ContainerStatus, Pod},
};
use kube::ResourceExt as _;
use serde_json::json;

use crate::site::{deployment, everywhere, is_ready, template, waiting};

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

#[test]
fn an_image_that_is_nowhere_shows_in_the_container_status() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        web["spec"]["template"]["spec"]["containers"][0]["image"] = json!(site.missing);
        site.create::<Deployment>(web).await;
        let seen = std::cell::RefCell::new(Vec::<String>::new());
        let pod = site
            .pod("a back-off", "app=web", |pod| {
                let reason = waiting(pod).map(|(reason, _)| reason.to_owned()).unwrap_or_default();
                seen.borrow_mut().push(reason.clone());
                reason == "ImagePullBackOff"
            })
            .await;
        assert!(seen.borrow().iter().any(|reason| reason == "ErrImagePull"), "{:?}", seen.borrow());
        assert!(
            waiting(&pod).unwrap().1.starts_with(&format!("Back-off pulling image \"{}\"", site.missing))
        );
        assert_eq!(phase(&pod), Some("Pending"));
        assert!(!is_ready(&pod));
    });
}

#[test]
fn a_container_that_ends_at_once_comes_into_a_crash_loop() {
    everywhere(|site| async move {
        // No program takes this flag, so the same is seen of any image.
        site.create::<Deployment>(deployment(&site, "web", 1, &["--no-such-flag", "3"])).await;
        let pod = site
            .pod("a crash loop", "app=web", |pod| {
                container(pod).is_some_and(|one| one.restart_count >= 1)
                    && waiting(pod).is_some_and(|(reason, _)| reason == "CrashLoopBackOff")
            })
            .await;
        let status = container(&pod).unwrap();
        let last =
            status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("how it ended");
        assert_ne!(last.exit_code, 0);
        assert_eq!(last.reason.as_deref(), Some("Error"));
        let (_, message) = waiting(&pod).unwrap();
        assert!(message.contains("restarting failed container=app pod="), "{message}");
        assert_eq!(phase(&pod), Some("Running"));
        site.pod("a third restart", "app=web", |pod| {
            container(pod).is_some_and(|one| one.restart_count >= 3)
        })
        .await;
    });
}

#[test]
fn a_container_waits_for_its_config_map() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        let container = &mut web["spec"]["template"]["spec"]["containers"][0];
        container["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
        site.create::<Deployment>(web).await;
        let waits = |pod: &Pod| {
            waiting(pod) == Some(("CreateContainerConfigError", "configmap \"settings\" not found"))
        };
        site.pod("a container without its ConfigMap", "app=web", waits).await;
        site.create::<ConfigMap>(json!({"metadata": {"name": "settings"}, "data": {"COLOUR": "blue"}})).await;
        site.pod("a ready pod", "app=web", is_ready).await;
    });
}

#[test]
fn a_pod_that_no_node_fits_is_unschedulable() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        web["spec"]["template"]["spec"]["nodeSelector"] = json!({"scaler.dev/nowhere": "true"});
        site.create::<Deployment>(web).await;
        let refused = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| {
                condition.type_ == "PodScheduled"
                    && condition.status == "False"
                    && condition.reason.as_deref() == Some("Unschedulable")
                    && condition
                        .message
                        .as_deref()
                        .is_some_and(|why| why.contains("didn't match Pod's node affinity/selector"))
            })
        };
        let pod = site.pod("a pod that no node fits", "app=web", refused).await;
        assert_eq!(phase(&pod), Some("Pending"));
        // It has no process to wait for: it goes at once.
        site.delete::<Deployment>("web").await;
        site.until_all("none", "app=web", |pods: &BTreeMap<String, Pod>| pods.is_empty()).await;
    });
}

#[test]
fn how_a_pod_ends_is_its_phase() {
    everywhere(|site| async move {
        for (name, flag, wanted) in [("good", "--help", "Succeeded"), ("bad", "--no-such-flag", "Failed")] {
            let mut pod = template(&site, name, &[]);
            pod["metadata"]["name"] = json!(name);
            pod["spec"]["restartPolicy"] = json!("Never");
            pod["spec"]["containers"][0]["args"] = json!([flag]);
            site.create::<Pod>(pod).await;
            let pod = site.until("its end", name, |pod: &Pod| phase(pod) == Some(wanted)).await;
            assert!(!is_ready(&pod));
            assert_eq!(container(&pod).unwrap().restart_count, 0);
            let conditions = pod.status.clone().unwrap().conditions.unwrap();
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
            assert_eq!(
                ready.reason.as_deref(),
                Some(if name == "good" { "PodCompleted" } else { "PodFailed" })
            );
            site.delete::<Pod>(&pod.name_any()).await;
            site.until_all("none", &format!("app={name}"), |pods: &BTreeMap<String, Pod>| pods.is_empty())
                .await;
        }
    });
}

#[test]
fn init_containers_come_first_one_after_the_other() {
    everywhere(|site| async move {
        let mut web = deployment(&site, "web", 1, &[]);
        let image = site.image.clone();
        web["spec"]["template"]["spec"]["initContainers"] = json!([
            {"name": "one", "image": image, "args": ["--help"]},
            {"name": "two", "image": image, "args": ["--help"]},
        ]);
        site.create::<Deployment>(web).await;
        let pod = site.pod("a ready pod", "app=web", is_ready).await;
        let status = pod.status.unwrap();
        let inits = status.init_container_statuses.unwrap();
        assert_eq!(inits.iter().map(|init| init.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        for init in inits {
            let ended = init.state.and_then(|state| state.terminated).expect("it has ended");
            assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
        }
    });
}
