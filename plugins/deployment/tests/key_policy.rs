//! The key in a Service's selector where the chart's MutatingAdmissionPolicy is in force, and where it comes or goes.

mod common;

use std::sync::Arc;

use common::*;
use deployment::DeploymentScaler;
use devcluster::{Filter, User};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use scaler_types::{Backend, ResourceScaler as _, RestoreRequest, Role};
use serde_json::json;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/manifests/selector-key.yaml");
const OURS: &str = "/spec/selector/scaler.dev~1intercepted";

/// The policy and its binding, for the daemons of these tests.
fn policy() -> Vec<DynamicObject> {
    let text = std::fs::read_to_string(MANIFEST).unwrap();
    let text = text
        .replace("system:serviceaccount:shop:scaler-autoscaler", &leader_user().to_string())
        .replace("namespace: shop", &format!("namespace: {HOME}"));
    let documents = text.split("---\n").filter(|document| document.contains("kind:"));
    documents.map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

fn leader_user() -> User {
    User::service_account(NAMESPACE, AUTOSCALER)
}

fn api(scene: &Scene, object: &DynamicObject) -> Api<DynamicObject> {
    let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
    Api::all_with(scene.client.clone(), &ApiResource::from_gvk(&kind))
}

async fn install(scene: &Scene) {
    let policy = policy();
    assert_eq!(policy.len(), 2);
    for object in &policy {
        api(scene, object).create(&PostParams::default(), object).await.unwrap();
    }
}

async fn uninstall(scene: &Scene) {
    for object in policy().iter().rev() {
        let name = object.metadata.name.as_deref().unwrap();
        api(scene, object).delete(name, &DeleteParams::default()).await.unwrap();
    }
}

/// By server-side apply, with force or without.
async fn apply(scene: &Scene, force: bool) -> DynamicObject {
    let mut object = service("web", "web");
    (object["apiVersion"], object["kind"]) = ("v1".into(), "Service".into());
    let params = PatchParams { force, ..PatchParams::apply("flux") };
    scene.api("Service").patch("web", &params, &Patch::Apply(object)).await.unwrap()
}

async fn scene() -> Scene {
    let scene = Scene::new().await;
    let mut web = deployment("web", 3);
    web["metadata"]["annotations"]["scaler.dev/intercept"] = "always".into();
    scene.create("Deployment", web).await;
    apply(&scene, false).await;
    scene.own_endpoints("web", &[]).await;
    scene
}

async fn key(scene: &Scene) -> Option<String> {
    scene.get("Service", "web").await.data.pointer(OURS).map(|key| key.as_str().unwrap().to_owned())
}

/// The Service is flux's alone.
async fn is_fluxs(scene: &Scene) {
    let entries = scene.get("Service", "web").await.metadata.managed_fields.unwrap_or_default();
    let managers: Vec<_> = entries.iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(managers, ["flux"], "{entries:?}");
}

/// How many patches of Services there were since the last time, and how many dry runs of them.
fn patches(scene: &Scene) -> (u64, u64) {
    let requests = scene.cluster.requests();
    let count = |verb| requests.of(&Filter::any().verb(verb).resource("services"));
    let counts = (count("patch"), count("dry-run"));
    requests.reset();
    counts
}

async fn set(leader: &Arc<DeploymentScaler>, backend: Backend) {
    soon(leader.set_backend(&to("web", backend, dlxs(&["a"])))).await.unwrap();
}

async fn note(leader: &Arc<DeploymentScaler>) -> String {
    one(leader, "web").await.interception.map(|interception| interception.note).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_writes_the_key_and_keeps_it_under_applies() {
    let scene = scene().await;
    install(&scene).await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    patches(&scene);
    intercept(&leader, "web").await;
    assert_eq!(patches(&scene), (1, 0), "the write is its own test");
    assert_eq!(key(&scene).await.as_deref(), Some("1"));
    is_fluxs(&scene).await;
    assert!(note(&leader).await.contains("keeps Scaler's key"));

    let mut versions = std::collections::BTreeSet::new();
    for force in [false, true, true] {
        let applied = apply(&scene, force).await;
        assert_eq!(applied.data.pointer(OURS), Some(&json!("1")));
        versions.insert(applied.metadata.resource_version);
    }
    assert_eq!(versions.len(), 1, "nothing is written again and again");
    // Nor does anybody else take it away for good.
    scene.merge("Service", "web", json!({"spec": {"selector": {"scaler.dev/intercepted": null}}})).await;
    assert_eq!(key(&scene).await.as_deref(), Some("1"));
    apply(&scene, true).await;
    // Reads the Service.
    set(&leader, Backend::Dlx).await;

    patches(&scene);
    until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|interception| !interception.intercepted_for.is_zero())
    })
    .await;
    sleep(&leader, "web").await.unwrap();
    let committed = key(&scene).await.unwrap();
    assert_ne!(committed, "1");
    assert_eq!(patches(&scene), (1, 0), "the commit writes it anew");
    apply(&scene, false).await;
    assert_eq!(key(&scene).await, Some(committed));
    is_fluxs(&scene).await;

    set(&leader, Backend::Both).await;
    assert_eq!(key(&scene).await, None);
    is_fluxs(&scene).await;
    set(&leader, Backend::Dlx).await;
    let request =
        RestoreRequest { id: id("web"), propagation_delay: std::time::Duration::ZERO, deadline: SOON };
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    soon(leader.restore(&request)).await.unwrap();
    assert_eq!(key(&scene).await, None);
    is_fluxs(&scene).await;
}

/// That the policy is gone shows in the answer to the write.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_gone_by_the_write_is_noticed() {
    for gone_before in [Backend::Dlx, Backend::Both] {
        let scene = scene().await;
        install(&scene).await;
        let leader = scene.leading_as(Role::Autoscaler).await;
        intercept(&leader, "web").await;
        if gone_before == Backend::Dlx {
            set(&leader, Backend::Both).await;
        }
        uninstall(&scene).await;
        patches(&scene);
        set(&leader, gone_before).await;
        assert_eq!(key(&scene).await.is_some(), gone_before == Backend::Dlx);
        assert_eq!(patches(&scene), (3, 0), "one without effect, one with it, one that restores the owner");
        is_fluxs(&scene).await;
        assert!(note(&leader).await.contains("no MutatingAdmissionPolicy"));
        // The autoscaler makes the changes itself from then on.
        let other = if gone_before == Backend::Dlx { Backend::Both } else { Backend::Dlx };
        set(&leader, other).await;
        assert_eq!(patches(&scene), (2, 0));
        is_fluxs(&scene).await;
    }
}

/// Without it an apply takes the key away, and the autoscaler writes it itself from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_back_leaves_what_the_autoscaler_itself_writes() {
    let scene = scene().await;
    install(&scene).await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    intercept(&leader, "web").await;
    uninstall(&scene).await;
    apply(&scene, true).await;
    assert_eq!(key(&scene).await, None);
    until(&leader, "web", |web| {
        web.interception.as_ref().is_some_and(|interception| interception.backend == Backend::Both)
    })
    .await;
    patches(&scene);
    set(&leader, Backend::Dlx).await;
    assert_eq!(patches(&scene), (3, 0));
    is_fluxs(&scene).await;

    // It is there again: what the autoscaler itself adds or removes stays so.
    install(&scene).await;
    for (backend, there) in [(Backend::Both, false), (Backend::Dlx, true), (Backend::Both, false)] {
        set(&leader, backend).await;
        assert_eq!((key(&scene).await.is_some(), patches(&scene)), (there, (2, 0)));
        is_fluxs(&scene).await;
    }
}

/// `autoscaler restore` with an administrator's rights: for the policy it is anybody, and what it removes itself is put back.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_restores_by_the_policy() {
    let scene = scene().await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    intercept(&leader, "web").await;
    install(&scene).await;
    let admin = scene.leader().await;
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    let request =
        RestoreRequest { id: id("web"), propagation_delay: std::time::Duration::ZERO, deadline: SOON };
    soon(admin.restore(&request)).await.unwrap();
    assert_eq!(key(&scene).await, None);
    is_fluxs(&scene).await;
    assert_eq!(scene.our_slices().await.len(), 0);
}

/// A webhook that never answers a dry run delays no DLX's address in a slice.
#[tokio::test(flavor = "multi_thread")]
async fn slices_name_the_new_dlxs_before_a_dry_run_is_sent() {
    let scene = scene().await;
    install(&scene).await;
    let earlier = scene.leading_as(Role::Autoscaler).await;
    intercept(&earlier, "web").await;
    let leader = scene.leading_as(Role::Autoscaler).await;
    patches(&scene);
    let dry_runs = Filter::any().verb("dry-run");
    let _silent = scene.cluster.faults().latency(dry_runs.clone(), SOON * 10);
    let syncing = tokio::spawn(async move { leader.sync_dlxs(&dlxs(&["a", "b"])).await });
    soon(async {
        while scene.cluster.requests().of(&dry_runs) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(scene.our_slices().await[0].data["endpoints"].as_array().unwrap().len(), 2);
    soon(syncing).await.unwrap().unwrap();
}

/// The owners are restored all the same, and what was undone tells nothing of the policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_policy_removes_is_reported() {
    let scene = scene().await;
    for mut object in policy() {
        object.metadata.name = Some("without-keys".to_owned());
        let spec = &mut object.data["spec"];
        if spec.get("policyName").is_some() {
            *spec = json!({"policyName": "without-keys"});
        } else {
            spec.as_object_mut().unwrap().remove("paramKind");
            let remove = r#"variables.keyed ? [JSONPatch{op: "remove", path: "/spec/selector/scaler.dev~1intercepted"}] : []"#;
            spec["mutations"] = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": remove}}]);
        }
        api(&scene, &object).create(&PostParams::default(), &object).await.unwrap();
    }
    let leader = scene.leading_as(Role::Autoscaler).await;
    patches(&scene);
    let refused = soon(leader.set_backend(&to("web", Backend::Dlx, dlxs(&["a"])))).await.unwrap_err();
    assert!(refused.to_string().contains("did not make it"), "{refused}");
    assert_eq!((key(&scene).await, patches(&scene)), (None, (3, 0)), "the last restores the owner");
    is_fluxs(&scene).await;
    assert!(note(&leader).await.contains("no MutatingAdmissionPolicy"));
}
