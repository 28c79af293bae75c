//! An API server takes every object.

use deploy::{create, file, objects};
use devcluster::{Cluster, Options, User};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{Api, Client, api::ListParams, core::DynamicObject};

use crate::values::{SETS, rendered};

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
    for path in ["deploy/manifests/scaler.yaml", "deploy/manifests/cluster.yaml"] {
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
