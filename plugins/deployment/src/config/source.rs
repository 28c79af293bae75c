//! Where metrics come from.

use crate::objects::Service;

/// A metric source, as the URL of a namespace file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricsUrl {
    /// The URL, for people.
    pub(crate) url: String,
    /// What may stand for a Service in it.
    host: Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A Service's namespace and name.
    Service(String, String),
    Address(String),
}

// === impl MetricsUrl ===

impl MetricsUrl {
    /// What a URL says, as a daemon in the namespace `home` understands it; `None`: it can be no Service.
    pub(crate) fn parse(url: &str, home: &str, domain: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let source = |host| Some(Self { url: url.to_owned(), host });
        if host.parse::<std::net::IpAddr>().is_ok() {
            return source(Host::Address(host));
        }
        let bare = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&host);
        let (bare, in_cluster) = bare.strip_suffix(".svc").map_or((bare, false), |bare| (bare, true));
        let service = |namespace: &str, name: &str| Host::Service(namespace.to_owned(), name.to_owned());
        match bare.split('.').collect::<Vec<_>>()[..] {
            [name] => source(service(home, name)),
            [name, namespace] => source(service(namespace, name)),
            // One pod of a headless one.
            [_, name, namespace] if in_cluster => source(service(namespace, name)),
            _ => None,
        }
    }

    pub(crate) fn names(&self, service: &Service) -> bool {
        match &self.host {
            Host::Service(namespace, name) => {
                (&*service.meta.namespace, &*service.meta.name) == (namespace.as_str(), name.as_str())
            }
            Host::Address(address) => service.addresses.contains(address),
        }
    }
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
            let source = MetricsUrl::parse(url, "scaler", "cluster.example");
            assert_eq!(source.map(|source| source.host), expected, "{url}");
        }
    }
}
