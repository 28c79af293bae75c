//! Workloads that Scaler itself needs: its daemons, and the source of its metrics. They are never scaled to zero or intercepted,
//! even if they are opted in: nothing would wake them.

use k8s_openapi::api::core::v1::Pod;
use scaler_types::{PluginContext, Result};

use crate::{
    cluster::{self, ClusterApi},
    index::{MissingPodLabel, State},
    objects::{COMPONENT, Service, Workload, is_scaler},
};

/// Why a workload is neither scaled to zero nor intercepted, whatever its annotations say; `None`: it may be.
pub(crate) fn exemption(state: &State, workload: &Workload) -> Option<String> {
    if let Some(why) = state.missing_pod_label.as_ref().filter(|why| *why.home == *workload.meta.namespace) {
        return Some(why.text.clone());
    }
    let services = state.services_of(workload);
    let source = |service: &&Service| state.config.sources.iter().find(|source| source.names(service));
    let (service, source) = services.iter().find_map(|service| Some((service, source(service)?)))?;
    Some(format!(
        "it serves Scaler's metrics ({} is its Service {}), which every decision needs, so it stays \
         awake. Opt it out (scaler.dev/scale-to-zero: \"false\")",
        source.url, service.meta.name
    ))
}

/// Checks that the pod of this daemon is labelled as Scaler's; `None`: it is, or its namespace is not managed.
///
/// # Errors
///
/// The API does not answer.
pub(crate) async fn check_own_pod(
    cluster: &ClusterApi,
    context: &PluginContext,
) -> Result<Option<MissingPodLabel>> {
    let (Some(pod), Some(home)) = (&context.daemon_pod, &context.daemon_namespace) else { return Ok(None) };
    if cluster.namespace.as_ref().is_some_and(|namespace| namespace != home) {
        return Ok(None);
    }
    let because = match cluster.call(cluster.in_namespace::<Pod>(home).get(pod)).await {
        Ok(found) if found.metadata.labels.as_ref().is_some_and(is_scaler) => return Ok(None),
        Ok(_) => format!("the pod {pod} has no label {COMPONENT}"),
        Err(error) if cluster::is_transient(&error) => {
            anyhow::bail!("reading the pod {pod} in namespace {home}: {}", cluster::describe_error(&error))
        }
        Err(error) => {
            format!("cannot read the label {COMPONENT} of the pod {pod}: {}", cluster::describe_error(&error))
        }
    };
    let text = format!(
        "nothing is managed in namespace {home}, where Scaler itself runs, because its daemons cannot \
         be distinguished from other workloads: {because}; label the pod templates {COMPONENT}: \
         autoscaler and {COMPONENT}: dlx"
    );
    Ok(Some(MissingPodLabel { home: home.clone(), text }))
}
