//! An API server takes every object.

use deploy::{create, file, objects};
use devcluster::{Cluster, Options, User};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::json;

use crate::values::{MANIFESTS, SETS, rendered};

/// Namespaces, and the kinds that are no part of Kubernetes.
const BEFORE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: scaler}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: blog}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: news}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bare}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PrometheusRule, plural: prometheusrules}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: httproutes.gateway.networking.k8s.io}
spec:
  group: gateway.networking.k8s.io
  names: {kind: HTTPRoute, plural: httproutes}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: referencegrants.gateway.networking.k8s.io}
spec:
  group: gateway.networking.k8s.io
  names: {kind: ReferenceGrant, plural: referencegrants}
  scope: Namespaced
  versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
";

/// An API with what is there before anything of ours.
pub async fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start(Options::default()).expect("an API");
    let client = cluster.client().expect("a client");
    created(&client, "what was there before", &objects("before", BEFORE)).await;
    (cluster, client)
}

/// Creates objects, or ends the test.
pub async fn created(client: &Client, what: &str, objects: &[DynamicObject]) {
    create(client, objects).await.unwrap_or_else(|(object, error)| panic!("{what}: {object}: {error}"));
}

#[tokio::test]
async fn the_api_takes_every_object_of_the_chart() {
    for (name, values) in SETS {
        let (_cluster, client) = cluster().await;
        // The example serves it, and brings it itself.
        if name == "the example's" {
            let preview = objects("preview", "{apiVersion: v1, kind: Namespace, metadata: {name: preview}}");
            created(&client, name, &preview).await;
        }
        created(&client, name, &rendered(values)).await;
    }
}

#[tokio::test]
async fn the_api_takes_the_manifests_and_the_examples() {
    let (_cluster, client) = cluster().await;
    for (path, _) in MANIFESTS {
        created(&client, path, &file(path)).await;
    }
    for (path, objects) in crate::examples::files() {
        created(&client, &path, &objects).await;
    }
}

/// The Roles are bound to the service accounts that the pods run as. (That they suffice, the end-to-end tests show.)
#[tokio::test]
async fn a_daemon_may_see_workloads_where_it_serves_and_no_secrets() {
    let (cluster, client) = cluster().await;
    created(&client, "the chart", &rendered("namespaces: {shop: {}}")).await;
    for daemon in ["scaler-autoscaler", "scaler-dlx"] {
        let daemon = cluster.client_of(&User::service_account("scaler", daemon)).expect("a client");
        let all = ListParams::default();
        let workloads = Api::<Deployment>::namespaced(daemon.clone(), "shop").list(&all).await;
        workloads.expect("the workloads of a served namespace");
        for namespace in ["shop", "scaler"] {
            let secrets = Api::<Secret>::namespaced(daemon.clone(), namespace).list(&all).await;
            assert!(
                matches!(secrets, Err(kube::Error::Api(status)) if status.code == 403),
                "secrets of {namespace}"
            );
        }
        let elsewhere = Api::<Deployment>::namespaced(daemon.clone(), "blog").list(&all).await;
        assert!(matches!(elsewhere, Err(kube::Error::Api(status)) if status.code == 403));
    }
}

/// Whether a call was allowed; what else stands in its way is a mistake of the test.
fn allowed<T>(answer: kube::Result<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 403 => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_autoscaler_alone_intercepts_services_in_its_namespaces_and_only_with_service_ports() {
    let names = ["scaler-service-ports", "scaler-namespaces"];
    for (values, intercepts) in
        [("namespaces: {shop: {}}", true), ("namespaces: {shop: {}}\nservicePorts: null", false)]
    {
        let (cluster, client) = cluster().await;
        // The rights alone are asked about: the policies would deny what is written here.
        let rights = format!("{values}\nadmissionPolicy: {{create: false}}");
        created(&client, "the chart", &rendered(&rights)).await;
        for namespace in ["shop", "blog"] {
            let web = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
            let web: Service = serde_json::from_value(web).expect("a Service");
            let all = Api::namespaced(client.clone(), namespace);
            all.create(&PostParams::default(), &web).await.expect("a Service");
        }
        for daemon in ["scaler-dlx", "scaler-autoscaler"] {
            let its = cluster.client_of(&User::service_account("scaler", daemon)).expect("a client");
            let writes = intercepts && daemon == "scaler-autoscaler";
            for namespace in ["shop", "blog"] {
                let here = namespace == "shop";
                let patch = Patch::Merge(json!({"spec": {"selector": {"scaler.dev/intercepted": "1"}}}));
                let services = Api::<Service>::namespaced(its.clone(), namespace);
                let patched = services.patch("web", &PatchParams::default(), &patch).await;
                assert_eq!(
                    allowed(patched),
                    writes && here,
                    "{values}: {daemon} patches a Service of {namespace}"
                );
                let slice = json!({
                    "metadata": {"name": format!("web-{daemon}")}, "addressType": "IPv4", "endpoints": [], "ports": [],
                });
                let slice: EndpointSlice = serde_json::from_value(slice).expect("an EndpointSlice");
                let slices = Api::namespaced(its.clone(), namespace);
                let made = allowed(slices.create(&PostParams::default(), &slice).await);
                assert_eq!(
                    made,
                    writes && here,
                    "{values}: {daemon} creates an EndpointSlice of {namespace}"
                );
                let listed = allowed(slices.list(&ListParams::default()).await);
                assert_eq!(
                    listed,
                    intercepts && here,
                    "{values}: {daemon} lists EndpointSlices of {namespace}"
                );
                if made {
                    assert!(allowed(slices.delete(&format!("web-{daemon}"), &Default::default()).await));
                }
            }
            let maps = Api::<ConfigMap>::namespaced(its.clone(), "scaler");
            for name in names {
                let ours = intercepts && name == names[0];
                let field = ListParams::default().fields(&format!("metadata.name={name}"));
                assert_eq!(allowed(maps.list(&field).await), ours, "{values}: {daemon} lists {name}");
            }
            let registry = ConfigMap::default();
            let registry = ConfigMap {
                metadata: kube::core::ObjectMeta { name: Some(names[0].to_owned()), ..registry.metadata },
                ..registry
            };
            assert_eq!(
                allowed(maps.create(&PostParams::default(), &registry).await),
                writes,
                "{values}: {daemon}"
            );
            for name in names {
                let patch = Patch::Merge(json!({"data": {"20000": "{}"}}));
                let patched = maps.patch(name, &PatchParams::default(), &patch).await;
                assert_eq!(allowed(patched), writes && name == names[0], "{values}: {daemon} patches {name}");
            }
        }
    }
}
