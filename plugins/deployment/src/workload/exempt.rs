//! What Scaler itself needs: its daemons, and what its metrics come from. None of it is ever put to sleep or has its Services led,
//! whoever asks: nobody would wake it.

use k8s_openapi::api::core::v1::Pod;
use scaler_types::{PluginContext, Result};

use crate::{
    cluster::{self, Cluster},
    index::{MissingPodLabel, State},
    objects::{COMPONENT, Service, Workload, is_scaler},
};

/// Why a workload is neither put to sleep nor has its Services led, whatever its owners want; `None`: it may be.
pub(crate) fn exemption(state: &State, workload: &Workload) -> Option<String> {
    if let Some(why) = state.missing_pod_label.as_ref().filter(|why| *why.home == *workload.meta.namespace) {
        return Some(why.text.clone());
    }
    let services = state.services_of(workload);
    let source = |service: &&Service| state.config.sources.iter().find(|source| source.names(service));
    let (service, source) = services.iter().find_map(|service| Some((service, source(service)?)))?;
    Some(format!(
        "Scaler's metrics come from it ({} is its Service {}): without them nothing could be decided, so it stays awake. Opt it \
         out (scaler.dev/scale-to-zero: \"false\")",
        source.url, service.meta.name
    ))
}

/// Looks whether the pod this daemon runs in tells that it is Scaler's; `None`: it does, or its namespace is not looked after.
///
/// # Errors
///
/// The API does not answer.
pub(crate) async fn check_own_pod(
    cluster: &Cluster,
    context: &PluginContext,
) -> Result<Option<MissingPodLabel>> {
    let (Some(pod), Some(home)) = (&context.pod, &context.home) else { return Ok(None) };
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
            format!(
                "the labels of the pod {pod} cannot be read ({}): {COMPONENT}",
                cluster::describe_error(&error)
            )
        }
    };
    let text = format!(
        "nothing is managed in namespace {home}, where Scaler itself runs, for its daemons could not be told from other workloads: \
         {because}; label the pod templates {COMPONENT}: autoscaler and {COMPONENT}: dlx"
    );
    Ok(Some(MissingPodLabel { home: home.clone(), text }))
}
