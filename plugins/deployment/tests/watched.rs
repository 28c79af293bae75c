//! What is known of workloads: their annotations, names, other scalers; and how it stays known.

mod common;

use common::*;
use devcluster::{Filter, User};
use scaler_types::{
    Backend, Phase, Resource, ResourceEvent, ResourceScaler as _, Role, ScaleError, Severity,
};
use serde_json::json;

/// The reasons of the Events on an object so far.
async fn events(scene: &Scene, name: &str) -> Vec<(String, String)> {
    let all = scene.api("Event").list(&Default::default()).await.unwrap();
    let its = all.items.into_iter().filter(|event| event.data["regarding"]["name"] == name);
    its.map(|event| {
        let text = |key: &str| event.data[key].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("note"))
    })
    .collect()
}

/// Waits for an Event, by changing something until it is there: each change makes the plugin look again.
async fn event(scene: &Scene, name: &str, reason: &str, note: &str) {
    soon(async {
        while !events(scene, name).await.iter().any(|(is, says)| is == reason && says.contains(note)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_managed_workloads_follow_the_annotations() {
    let scene = Scene::with_web().await;
    let mut other = deployment("other", 1);
    other["metadata"]["annotations"] = json!({});
    scene.create("Deployment", other).await;
    let dlx = scene.dlx().await;
    assert_eq!(all(&dlx).await.len(), 1);
    let cursor = soon(dlx.changes(0)).await.unwrap().cursor;
    scene.annotate("other", "scaler.dev/scale-to-zero", "5m").await;
    let changes = soon(dlx.changes(cursor)).await.unwrap();
    assert!(!changes.complete);
    assert_eq!(changes.resources.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [id("other")]);
    scene.annotate("other", "scaler.dev/scale-to-zero", "false").await;
    let changes = soon(dlx.changes(changes.cursor)).await.unwrap();
    assert_eq!(changes.removed, [id("other")]);

    // The namespace as a whole, but for who opted out.
    scene
        .create("Deployment", {
            let mut third = deployment("third", 1);
            third["metadata"]["annotations"] = json!({});
            third
        })
        .await;
    let namespaces: kube::Api<kube::api::DynamicObject> =
        kube::Api::all_with(scene.client.clone(), &api_resource("Namespace"));
    let patch = json!({"metadata": {"annotations": {"scaler.dev/scale-to-zero": "20m"}}});
    namespaces.patch(NAMESPACE, &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let third = until(&dlx, "third", |_| true).await;
    assert_eq!(third.scale_resources[0].wire_name(), "requests_per_20m");
    assert_eq!(all(&dlx).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_workload_is_woken_even_when_it_opted_out_since() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    sleep(&dlx, "web").await.unwrap();
    scene.annotate("web", "scaler.dev/scale-to-zero", "false").await;
    until(&dlx, "web", |web| web.keep_awake.contains("opted out")).await;
    scene.observe("web", 0).await;
    let web = one(&dlx, "web").await;
    let mut cursor = soon(dlx.changes(0)).await.unwrap().cursor;
    let waking = wake(&dlx, "web", &web.version, 2);
    soon(async {
        loop {
            let changes = dlx.changes(cursor).await.unwrap();
            if changes.removed.contains(&id("web")) {
                return;
            }
            cursor = changes.cursor;
        }
    })
    .await;
    assert_eq!(scene.replicas("web").await, 3, "awake, it is left alone");
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_is_one_event_on_its_object_and_keeps_it_awake() {
    let scene = Scene::with_web().await;
    scene.create("Deployment", deployment("fine", 1)).await;
    let autoscaler = scene.autoscaler().await;
    scene.annotate("web", "scaler.dev/hold-timeout", "soon").await;
    let web = until(&autoscaler, "web", |web| !web.keep_awake.is_empty()).await;
    assert!(
        web.keep_awake.contains("scaler.dev/hold-timeout") && web.keep_awake.contains("\"soon\""),
        "{}",
        web.keep_awake
    );
    assert_eq!(one(&autoscaler, "fine").await.keep_awake, "");
    event(&scene, "web", "InvalidAnnotation", "scaler.dev/hold-timeout").await;
    scene.annotate("web", "scaler.dev/hold-timeout", "20s").await;
    let web = until(&autoscaler, "web", |web| web.keep_awake.is_empty()).await;
    assert_eq!(web.hold_timeout.unwrap().as_secs(), 20);
    assert_eq!(events(&scene, "web").await.len(), 1);
}

/// A workload of which nothing can be read costs no other, and each message names what cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_workload_costs_no_other_and_each_bad_annotation_is_named() {
    let scene = Scene::with_web().await;
    let values = [
        ("scale-to-zero", "soon"),
        ("metrics", "requests"),
        ("hosts", "*.example.com"),
        ("port", "0"),
        ("hold-timeout", "ever"),
        ("readiness-timeout", "ever"),
        ("min-awake", "ever"),
        ("keep-awake", "tomorrow"),
        ("paused", "yes"),
        ("intercept", "perhaps"),
        ("ignore-checks", "all"),
    ];
    let mut bad = deployment("bad", 3);
    for (name, value) in values {
        bad["metadata"]["annotations"][format!("scaler.dev/{name}")] = value.into();
    }
    bad["metadata"]["annotations"]["scaler.dev/state"] = json!({"phase": 7}).to_string().into();
    scene.create("Deployment", bad).await;
    let (autoscaler, dlx) = (scene.autoscaler().await, scene.dlx().await);
    for plugin in [&autoscaler, &dlx] {
        let listed = soon(plugin.get_resources()).await.unwrap();
        assert_eq!(listed.iter().map(|resource| &*resource.id.name).collect::<Vec<_>>(), ["bad", "web"]);
        // As it crosses the plugin boundary.
        let text = serde_json::to_string(&listed).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Resource>>(&text).unwrap(), listed);
        assert!(!listed[1].keep_awake.contains("invalid annotation"), "{}", listed[1].keep_awake);
        for (name, _) in values {
            assert!(
                listed[0].keep_awake.contains(&format!("scaler.dev/{name}: ")),
                "{}",
                listed[0].keep_awake
            );
        }
        for word in ["scaler.dev/state", "integer `7`"] {
            assert!(listed[0].status.contains(word), "{}", listed[0].status);
        }
    }
    for name in values.map(|(name, _)| name).into_iter().chain(["state"]) {
        event(&scene, "bad", "InvalidAnnotation", &format!("scaler.dev/{name}")).await;
    }
    assert_eq!(events(&scene, "web").await, []);
    sleep(&autoscaler, "web").await.unwrap();
    assert_eq!((scene.replicas("web").await, scene.replicas("bad").await), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_kept_awake_and_scaled_to_zero_by_annotation() {
    let scene = Scene::with_web().await;
    let autoscaler = scene.autoscaler().await;
    scene.annotate("web", "scaler.dev/paused", "true").await;
    until(&autoscaler, "web", |web| web.keep_awake.contains("paused")).await;
    scene.annotate("web", "scaler.dev/paused", "false").await;
    scene.annotate("web", "scaler.dev/keep-awake", "until=2999-01-01T00:00:00Z").await;
    until(&autoscaler, "web", |web| web.keep_awake.contains("2999")).await;
    scene.annotate("web", "scaler.dev/keep-awake", "until=1999-01-01T00:00:00Z").await;
    until(&autoscaler, "web", |web| web.keep_awake.is_empty()).await;

    scene.annotate("web", "scaler.dev/sleep-now", "a").await;
    until(&autoscaler, "web", |web| web.sleep_now).await;
    sleep(&autoscaler, "web").await.unwrap();
    scene.observe("web", 0).await;
    let dlx = scene.dlx().await;
    let waking = wake(&dlx, "web", &one(&dlx, "web").await.version, 2);
    let awake = until(&autoscaler, "web", |web| web.replicas > 0).await;
    assert!(!awake.sleep_now, "once for each value");
    scene.annotate("web", "scaler.dev/sleep-now", "b").await;
    until(&autoscaler, "web", |web| web.sleep_now).await;
    waking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_counts_only_where_a_route_of_its_namespace_has_it() {
    let scene = Scene::with_web().await;
    let autoscaler =
        scene.plugin_of(Role::Autoscaler, &User::Admin, "{hosts: {web: [given.example.com]}}").await;
    scene.annotate("web", "scaler.dev/hosts", "bank.example.com").await;
    event(&scene, "web", "HostRefused", "bank.example.com").await;
    let web = one(&autoscaler, "web").await;
    assert!(web.hosts.contains(&"given.example.com".to_owned()));
    assert!(!web.hosts.contains(&"bank.example.com".to_owned()), "{:?}", web.hosts);
    let ingress = json!({
        "metadata": {"name": "bank"},
        "spec": {"rules": [{"host": "Bank.example.com"}]},
    });
    let mut ingress = ingress;
    ingress["spec"]["rules"][0]["host"] = "bank.example.com".into();
    scene.create("Ingress", ingress).await;
    until(&autoscaler, "web", |web| web.hosts.contains(&"bank.example.com".to_owned())).await;
    scene.delete("Ingress", "bank").await;
    until(&autoscaler, "web", |web| !web.hosts.contains(&"bank.example.com".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_come_and_go_and_change_give_and_take_names() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    scene.create("Service", service("front", "web")).await;
    until(&dlx, "web", |web| web.hosts.contains(&"front.shop".to_owned())).await;
    scene.merge("Service", "front", json!({"spec": {"selector": {"app": "other"}}})).await;
    until(&dlx, "web", |web| !web.hosts.contains(&"front.shop".to_owned())).await;
    scene.delete("Service", "web").await;
    until(&dlx, "web", |web| web.hosts.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_that_scales_to_zero_keeps_it_awake() {
    let scene = Scene::with_web().await;
    scene.define("ScaledObject", json!({})).await;
    let autoscaler = scene.autoscaler().await;
    let object = json!({"metadata": {"name": "queue"}, "spec": {"scaleTargetRef": {"name": "web"}}});
    scene.create("ScaledObject", object).await;
    let web = until(&autoscaler, "web", |web| !web.keep_awake.is_empty()).await;
    assert!(web.keep_awake.contains("ScaledObject queue"), "{}", web.keep_awake);
    event(&scene, "web", "ConflictingAutoscaler", "ScaledObject queue").await;
    let paused = json!({"metadata": {"annotations": {"autoscaling.keda.sh/paused": "true"}}});
    scene.merge("ScaledObject", "queue", paused).await;
    until(&autoscaler, "web", |web| web.keep_awake.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_events_on_the_object() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    let report = ResourceEvent {
        severity: Severity::Warning,
        reason: "WakeFailed".to_owned(),
        message: "container web: ImagePullBackOff".to_owned(),
    };
    dlx.publish_event(&id("web"), &report).await.unwrap();
    // Not twice within seconds.
    dlx.publish_event(&id("web"), &report).await.unwrap();
    assert_eq!(events(&scene, "web").await, [("WakeFailed".to_owned(), report.message.clone())]);
    let all = scene.api("Event").list(&Default::default()).await.unwrap();
    let regarding = &all.items[0].data["regarding"];
    let uid = scene.get("Deployment", "web").await.metadata.uid.unwrap();
    assert_eq!(
        (regarding["kind"].as_str(), regarding["uid"].as_str()),
        (Some("Deployment"), Some(uid.as_str()))
    );
    assert!(dlx.publish_event(&id("gone"), &report).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_of_each_port_is_one_event() {
    let scene = Scene::with_web().await;
    scene.annotate("web", "scaler.dev/intercept", "always").await;
    let ports = json!({"spec": {"ports": [
        {"name": "grpc", "port": 26257}, {"name": "http", "port": 80, "appProtocol": "http"}, {"name": "db", "port": 5432},
    ]}});
    scene.merge("Service", "web", ports).await;
    scene.own_endpoints("web", &["10.244.0.1"]).await;
    let leader = scene.leader().await;
    let note = "Service web: grpc as HTTP by its name, and as TCP where a client's first bytes cannot be HTTP \
                (set appProtocol to decide); http as HTTP by its appProtocol; db as TCP";
    let request = to("web", Backend::Dlx, dlxs(&["a"]));
    for _ in 0..2 {
        soon(leader.set_backend(&request)).await.unwrap();
        event(&scene, "web", "PortsForwarded", note).await;
    }
    let all = scene.api("Event").list(&Default::default()).await.unwrap().items;
    let published: Vec<_> = all.iter().filter(|event| event.data["reason"] == "PortsForwarded").collect();
    assert!(matches!(&published[..], [once] if once.data["series"].is_null()), "{published:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_are_dropped_and_versions_that_are_forgotten_lose_nothing() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    scene.create("Deployment", deployment("gone", 1)).await;
    until(&dlx, "gone", |_| true).await;
    // Dropped: gone on with from where it was.
    scene.cluster.requests().reset();
    scene.cluster.faults().drop_watches(Filter::any());
    scene.annotate("web", "scaler.dev/hold-timeout", "11s").await;
    until(&dlx, "web", |web| web.hold_timeout.is_some_and(|time| time.as_secs() == 11)).await;
    assert_eq!(scene.asked("list", "deployments"), 0);
    // Forgotten: listed anew, and what went meanwhile is gone.
    let cursor = soon(dlx.changes(0)).await.unwrap().cursor;
    let list = Filter::any().verb("watch").resource("deployments");
    let refuse = scene.cluster.faults().refuse(list, 3, devcluster::Refusal::Unavailable);
    scene.cluster.faults().drop_watches(Filter::any());
    scene.delete("Deployment", "gone").await;
    scene.annotate("web", "scaler.dev/hold-timeout", "12s").await;
    scene.cluster.compact();
    drop(refuse);
    until(&dlx, "web", |web| web.hold_timeout.is_some_and(|time| time.as_secs() == 12)).await;
    soon(async {
        let mut cursor = cursor;
        loop {
            let changes = dlx.changes(cursor).await.unwrap();
            if changes.removed.contains(&id("gone")) {
                return;
            }
            cursor = changes.cursor;
        }
    })
    .await;
    assert_eq!(all(&dlx).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_is_away_what_is_known_is_served() {
    let scene = Scene::with_web().await;
    let dlx = scene.dlx().await;
    scene.pod("web-1", "web").await;
    scene.runs("web-1", "10.244.0.1", true).await;
    let before = until(&dlx, "web", |web| web.endpoints.len() == 1).await;
    let outage = scene.cluster.faults().outage();
    assert_eq!(one(&dlx, "web").await, before);
    let write = dlx.compare_and_set(&id("web"), &before.version, &record(Phase::Draining, 1)).await;
    assert!(matches!(write, Err(ScaleError::Retry { .. })), "{write:?}");
    assert_eq!(soon(dlx.get_resources()).await.unwrap(), std::slice::from_ref(&before));
    outage.end();
    // The API is there again a moment after that.
    soon(async {
        loop {
            let write = dlx.compare_and_set(&id("web"), &before.version, &record(Phase::Draining, 1)).await;
            match write {
                Err(ScaleError::Retry { .. }) => tokio::task::yield_now().await,
                written => return written.unwrap(),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_api_is_reported_and_does_not_hang_a_start() {
    let scene = Scene::new().await;
    let mut context = scene.context(Role::Dlx, &User::Admin, "{}");
    context.kubeconfig = Some("/nowhere/config".into());
    let error = soon(deployment::DeploymentScaler::new(context)).await.err().unwrap();
    assert!(format!("{error:#}").contains("/nowhere/config"), "{error:#}");
}
