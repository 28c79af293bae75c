//! Under which names requests for a workload come.

use crate::{
    index::State,
    objects::{Service, Workload},
    workload::options::WorkloadOptions,
};

/// A host name that does not count, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedHost {
    pub(crate) host: String,
    /// Why it does not count, and what would make it.
    pub(crate) why: String,
}

/// The claims that decide which names are a workload's.
struct Claims<'a> {
    namespace: &'a str,
    /// The cluster's domain.
    domain: &'a str,
    /// The Services that select it.
    services: Vec<&'a Service>,
    /// The host annotation's names.
    requested: &'a [String],
    /// The names the operator gives it.
    from_operator: Vec<String>,
}

/// The names that requests for a workload come by, and those that do not count.
pub(crate) fn workload_hosts(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> (Vec<String>, Vec<RefusedHost>) {
    let (id, namespace) = (workload.id(), &workload.meta.namespace);
    let claims = Claims {
        namespace,
        domain: &state.config.cluster_domain,
        services: state.services_of(workload),
        requested: &options.hosts,
        from_operator: state.config.operators_hosts(&id.namespace, &id.name).cloned().collect(),
    };
    claims.settle(|name| state.is_alone(name), |host| state.is_routed(namespace, host))
}

// === impl Claims ===

impl Claims<'_> {
    /// The names that count, and those that do not.
    ///
    /// `alone` says whether a bare Service name means this namespace's alone; `routed` whether an Ingress or HTTPRoute of
    /// the namespace has a host. An annotation alone does not count: with the right to annotate a workload one could take
    /// another team's requests.
    fn settle(
        &self,
        alone: impl Fn(&str) -> bool,
        routed: impl Fn(&str) -> bool,
    ) -> (Vec<String>, Vec<RefusedHost>) {
        let (mut hosts, mut refused) = (Vec::new(), Vec::new());
        let (namespace, domain) = (self.namespace, self.domain);
        for service in &self.services {
            let name = &*service.meta.name;
            if alone(name) {
                hosts.push(name.to_owned());
            }
            hosts.extend([
                format!("{name}.{namespace}"),
                format!("{name}.{namespace}.svc"),
                format!("{name}.{namespace}.svc.{domain}"),
            ]);
        }
        hosts.extend(self.from_operator.iter().cloned());
        for host in self.requested {
            if hosts.contains(host) {
                continue;
            }
            if routed(host) {
                hosts.push(host.clone());
            } else {
                let why = format!(
                    "no Ingress or HTTPRoute in namespace {namespace} has it, and \
                     plugins.deployment.hosts of the namespace file does not name it"
                );
                refused.push(RefusedHost { host: host.clone(), why });
            }
        }
        (hosts, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Meta;

    fn service(name: &str) -> Service {
        Service { meta: Meta { name: name.into(), ..Meta::default() }, ..Service::default() }
    }

    #[test]
    fn a_service_gives_all_its_names() {
        let web = service("web");
        let claims = Claims {
            namespace: "shop",
            domain: "cluster.local",
            services: vec![&web],
            requested: &[],
            from_operator: Vec::new(),
        };
        let (hosts, refused) = claims.settle(|_| true, |_| false);
        assert_eq!(hosts, ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]);
        assert_eq!(refused, []);
        let (hosts, _) = claims.settle(|_| false, |_| false);
        assert_eq!(hosts[0], "web.shop", "a bare name that others have too is nobody's");
    }

    #[test]
    fn an_annotation_counts_only_where_a_route_or_the_operator_has_the_host() {
        let requested =
            ["shop.example.com".to_owned(), "bank.example.com".to_owned(), "given.example.com".to_owned()];
        let claims = Claims {
            namespace: "shop",
            domain: "cluster.local",
            services: Vec::new(),
            requested: &requested,
            from_operator: vec!["given.example.com".to_owned()],
        };
        let (hosts, refused) = claims.settle(|_| true, |host| host == "shop.example.com");
        assert_eq!(hosts, ["given.example.com", "shop.example.com"]);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].host, "bank.example.com");
        assert!(refused[0].why.contains("namespace shop"), "{}", refused[0].why);
    }
}
