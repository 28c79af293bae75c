//! What the chart does before an uninstall, as helm renders it and the cluster's controller of Jobs would run it.

use std::{fs, time::Duration};

use deploy::{Release, root};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::{
    Shop,
    shop::{PROPAGATION_DELAY, SERVICE_PORTS},
};
use crate::until;

/// What makes an object helm's before it uninstalls.
const HOOK: &str = "helm.sh/hook";
const WEIGHT: &str = "helm.sh/hook-weight";

/// The objects of the hook, by weight; the Job is the last.
#[derive(Clone, Debug)]
pub struct Hook(Vec<Value>);

/// How a pod of the Job ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: i32,
    /// Its log.
    pub said: String,
}

// === impl Hook ===

impl Hook {
    /// Renders the chart as the manifests are, for a shop whose setting is [`Setting::intercepting`](super::Setting::intercepting).
    ///
    /// # Panics
    ///
    /// There is no helm, or the chart does not take the values.
    pub fn render(shop: &Shop, timeout: Duration) -> Self {
        let path = root().join("deploy/manifests/values.yaml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut values: Value = serde_yaml::from_str(&text).expect("the manifests' values");
        values["autoscaler"] = json!({"image": {"repository": shop.names().autoscaler}});
        values["servicePorts"] = json!({"first": SERVICE_PORTS.start(), "last": SERVICE_PORTS.end()});
        values["endpointPropagationDelaySeconds"] = json!(PROPAGATION_DELAY.as_secs());
        values["uninstall"] = json!({"timeoutSeconds": timeout.as_secs()});
        let release =
            Release { name: "scaler", namespace: &shop.names().namespace, values: &values.to_string() };
        let objects = release.render().into_iter().filter(|object| object.annotations().contains_key(HOOK));
        let mut objects: Vec<Value> =
            objects.map(|object| serde_json::to_value(object).expect("an object")).collect();
        objects.sort_by_key(|object| {
            let weight = object["metadata"]["annotations"][WEIGHT].as_str();
            weight.and_then(|weight| weight.parse::<i32>().ok()).expect("a hook's weight")
        });
        assert_eq!(objects.last().map(|object| &object["kind"]), Some(&json!("Job")), "{objects:#?}");
        Self(objects)
    }

    /// Creates all of it, as helm does.
    pub async fn create(&self, shop: &Shop) {
        for object in &self.0 {
            shop.create(object).await;
        }
    }

    /// Runs a pod of the Job to its end, by its template and with nothing else.
    ///
    /// # Panics
    ///
    /// It does not end in a long while.
    pub async fn run(&self, shop: &Shop, number: u32) -> Ended {
        let Some(job) = self.0.last() else { unreachable!("the Job is the last") };
        let template = &job["spec"]["template"];
        let called = format!("{}-{number}", job["metadata"]["name"].as_str().expect("the Job's name"));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": called, "namespace": shop.names().namespace,
                "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
            },
            "spec": template["spec"],
        });
        shop.create(&pod).await;
        let pods: Api<Pod> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let status = until(&format!("{called} to end"), || async {
            let status = pods.get(&called).await.map_err(|error| error.to_string())?.status;
            let containers = status.as_ref().and_then(|status| status.container_statuses.as_ref());
            let state = containers.and_then(|all| all.first()?.state.clone());
            let ended = state.and_then(|state| state.terminated);
            ended
                .map(|ended| ended.exit_code)
                .ok_or_else(|| format!("{status:?}\n{}", shop.logs(&called, 20)))
        })
        .await;
        Ended { status, said: shop.logs(&called, usize::MAX) }
    }
}
