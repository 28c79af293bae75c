//! What Scaler itself needs: its daemons, and what its metrics come from. None of it is ever put to sleep or has its Services led,
//! whoever asks: nobody would wake it.

use k8s_openapi::api::core::v1::Pod;
use scaler_types::{PluginContext, Result};

use crate::{
    caches::State,
    cluster::{self, Cluster},
    facts::{COMPONENT, Service, Workload, is_scaler},
};

/// A metric source, as the URL of a namespace file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The URL, for people.
    url: String,
    /// What may stand for a Service in it.
    host: Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A Service's namespace and name.
    Service(String, String),
    Address(String),
}

// === impl Source ===

impl Source {
    /// What a URL says, as a daemon in the namespace `home` understands it; `None`: it can be no Service.
    pub fn parse(url: &str, home: &str, domain: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let of = |host| Some(Self { url: url.to_owned(), host });
        if host.parse::<std::net::IpAddr>().is_ok() {
            return of(Host::Address(host));
        }
        let bare = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&host);
        let (bare, in_cluster) = bare.strip_suffix(".svc").map_or((bare, false), |bare| (bare, true));
        let service = |namespace: &str, name: &str| Host::Service(namespace.to_owned(), name.to_owned());
        match bare.split('.').collect::<Vec<_>>()[..] {
            [name] => of(service(home, name)),
            [name, namespace] => of(service(namespace, name)),
            // One pod of a headless one.
            [_, name, namespace] if in_cluster => of(service(namespace, name)),
            _ => None,
        }
    }

    fn is(&self, service: &Service) -> bool {
        match &self.host {
            Host::Service(namespace, name) => {
                (&*service.meta.namespace, &*service.meta.name) == (namespace.as_str(), name.as_str())
            }
            Host::Address(address) => service.addresses.contains(address),
        }
    }
}

/// Why a workload is neither put to sleep nor has its Services led, whatever its owners want; `None`: it may be.
pub fn why_left_alone(state: &State, workload: &Workload) -> Option<String> {
    if let Some(why) = state.unlabelled.as_ref().filter(|why| *why.home == *workload.meta.namespace) {
        return Some(why.text.clone());
    }
    let services = state.services_of(workload);
    let source = |service: &&Service| state.config.sources.iter().find(|source| source.is(service));
    let (service, source) = services.iter().find_map(|service| Some((service, source(service)?)))?;
    Some(format!(
        "Scaler's metrics come from it ({} is its Service {}): without them nothing could be decided, so it stays awake. Opt it \
         out (scaler.dev/scale-to-zero: \"false\")",
        source.url, service.meta.name
    ))
}

/// Why nothing is managed in the daemons' own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlabelled {
    /// That namespace.
    pub home: String,
    /// For people: what to do.
    pub text: String,
}

/// Looks whether the pod this daemon runs in tells that it is Scaler's; `None`: it does, or its namespace is not looked after.
///
/// # Errors
///
/// The API does not answer.
pub async fn unlabelled(cluster: &Cluster, context: &PluginContext) -> Result<Option<Unlabelled>> {
    let (Some(pod), Some(home)) = (&context.pod, &context.home) else { return Ok(None) };
    if cluster.namespace.as_ref().is_some_and(|namespace| namespace != home) {
        return Ok(None);
    }
    let because = match cluster.call(cluster.in_namespace::<Pod>(home).get(pod)).await {
        Ok(found) if found.metadata.labels.as_ref().is_some_and(is_scaler) => return Ok(None),
        Ok(_) => format!("the pod {pod} has no label {COMPONENT}"),
        Err(error) if cluster::may_pass(&error) => {
            anyhow::bail!("reading the pod {pod} in namespace {home}: {}", cluster::told(&error))
        }
        Err(error) => {
            format!("the labels of the pod {pod} cannot be read ({}): {COMPONENT}", cluster::told(&error))
        }
    };
    let text = format!(
        "nothing is managed in namespace {home}, where Scaler itself runs, for its daemons could not be told from other workloads: \
         {because}; label the pod templates {COMPONENT}: autoscaler and {COMPONENT}: dlx"
    );
    Ok(Some(Unlabelled { home: home.clone(), text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_service_as_a_pods_resolver_would() {
        let service = |namespace: &str, name: &str| Some(Host::Service(namespace.into(), name.into()));
        for (url, expected) in [
            ("http://prometheus:9090", service("scaler", "prometheus")),
            ("http://prometheus.shop:9090/prefix", service("shop", "prometheus")),
            ("https://Prometheus.Shop.svc", service("shop", "prometheus")),
            ("http://prometheus.shop.svc.cluster.example.:80", service("shop", "prometheus")),
            ("http://prometheus-0.prometheus.shop.svc.cluster.example", service("shop", "prometheus")),
            ("http://10.96.0.7:9090", Some(Host::Address("10.96.0.7".into()))),
            ("http://[fd00::7]:9090", Some(Host::Address("fd00::7".into()))),
            ("https://metrics.example.com", None),
            ("/metrics", None),
        ] {
            let source = Source::parse(url, "scaler", "cluster.example");
            assert_eq!(source.map(|source| source.host), expected, "{url}");
        }
    }
}
