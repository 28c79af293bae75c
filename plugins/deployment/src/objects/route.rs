//! The Ingresses and HTTPRoutes: they assign a host name to a namespace, and its requests to Services.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DynamicObject;
use serde_json::Value;

use super::{Meta, ObjectName};

/// The fields kept of an Ingress or HTTPRoute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostRoute {
    pub(crate) meta: Meta,
    /// Its host names, lower case; `*.example.com` is every one with a label before it.
    pub(crate) hosts: BTreeSet<String>,
    /// Its backends.
    pub(crate) rules: Vec<RouteRule>,
}

/// A rule of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteRule {
    /// The host names under which its requests arrive: the rule's, or the one that the route replaces it with.
    pub(crate) hosts: BTreeSet<String>,
    /// The Services that they arrive at.
    pub(crate) services: BTreeSet<ObjectName>,
}

/// Has ingress-nginx send requests under another host name.
const UPSTREAM_HOST: &str = "nginx.ingress.kubernetes.io/upstream-vhost";

// === impl HostRoute ===

impl HostRoute {
    /// Whether the host is one of its own.
    pub(crate) fn has(&self, host: &str) -> bool {
        is_among(&self.hosts, host)
    }
}

// === impl RouteRule ===

impl RouteRule {
    /// Whether requests for the host arrive under that name.
    pub(crate) fn has(&self, host: &str) -> bool {
        is_among(&self.hosts, host)
    }
}

fn is_among(hosts: &BTreeSet<String>, host: &str) -> bool {
    let wildcard = |known: &String| {
        let rest = host.split_once('.').map(|(_, rest)| rest);
        rest.is_some() && known.strip_prefix("*.") == rest
    };
    hosts.contains(host) || hosts.iter().any(wildcard)
}

impl From<Ingress> for HostRoute {
    fn from(ingress: Ingress) -> Self {
        let meta = Meta::from(&ingress.metadata);
        let upstream_host = ingress.metadata.annotations.and_then(|mut all| all.remove(UPSTREAM_HOST));
        let upstream_host: Option<BTreeSet<_>> = upstream_host.map(|host| [host.to_ascii_lowercase()].into());
        let spec_rules = ingress.spec.unwrap_or_default().rules.into_iter().flatten();
        let (mut hosts, mut rules) = (BTreeSet::new(), Vec::new());
        for rule in spec_rules {
            let own: BTreeSet<_> = rule.host.into_iter().map(|host| host.to_ascii_lowercase()).collect();
            let paths = rule.http.into_iter().flat_map(|http| http.paths);
            let services = paths.filter_map(|path| path.backend.service);
            let services = services.map(|service| (meta.namespace.clone(), service.name.into())).collect();
            hosts.extend(own.iter().cloned());
            rules.push(RouteRule { hosts: upstream_host.clone().unwrap_or(own), services });
        }
        Self { meta, hosts, rules }
    }
}

impl From<DynamicObject> for HostRoute {
    /// From an HTTPRoute.
    fn from(route: DynamicObject) -> Self {
        let meta = Meta::from(&route.metadata);
        let list = |of: &Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
        let spec = &route.data["spec"];
        let hosts = list(spec, "hostnames");
        let hosts = hosts.iter().filter_map(Value::as_str).map(str::to_ascii_lowercase);
        let hosts: BTreeSet<String> = hosts.collect();
        let permitted = is_permitted(&route.data["status"], route.metadata.generation);
        let rule = |rule: &Value| {
            let filters = list(rule, "filters");
            let rewritten = filters.iter().find_map(|filter| filter["urlRewrite"]["hostname"].as_str());
            let rewritten = rewritten.map(|host| [host.to_ascii_lowercase()].into());
            let backends = list(rule, "backendRefs");
            let takes = |backend: &&Value| {
                backend["kind"].as_str().is_none_or(|kind| kind == "Service") && backend["weight"] != 0
            };
            let service = |backend: &Value| {
                let namespace =
                    backend["namespace"].as_str().map_or_else(|| meta.namespace.clone(), Into::into);
                (namespace == meta.namespace || permitted)
                    .then_some((namespace, backend["name"].as_str()?.into()))
            };
            RouteRule {
                hosts: rewritten.unwrap_or_else(|| hosts.clone()),
                services: backends.iter().filter(takes).filter_map(service).collect(),
            }
        };
        let rules = list(spec, "rules").iter().map(rule).collect();
        Self { meta, hosts, rules }
    }
}

/// Whether a Gateway says that the references of an HTTPRoute as it is may be followed: those to another namespace need a
/// ReferenceGrant there. The condition is of the whole route: it is also false where a backend is not found.
fn is_permitted(status: &Value, generation: Option<i64>) -> bool {
    let parents = status["parents"].as_array().into_iter().flatten();
    let mut conditions = parents.filter_map(|parent| parent["conditions"].as_array()).flatten();
    conditions.any(|condition| {
        let observed = condition["observedGeneration"].as_i64();
        let permitted = match (condition["status"].as_str(), condition["reason"].as_str()) {
            (Some("True"), _) => true,
            (Some("False"), Some(reason)) => reason != "RefNotPermitted",
            _ => false,
        };
        condition["type"] == "ResolvedRefs"
            && permitted
            && observed.is_none_or(|observed| Some(observed) >= generation)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(route: &HostRoute) -> Vec<String> {
        let all = route.rules.iter().map(|rule| {
            let hosts: Vec<_> = rule.hosts.iter().map(String::as_str).collect();
            let services = rule.services.iter().map(|(namespace, name)| format!("{namespace}/{name}"));
            format!("{} to {}", hosts.join(","), services.collect::<Vec<_>>().join(","))
        });
        all.collect()
    }

    #[test]
    fn an_ingress_leads_each_rules_host_to_its_services() {
        let path =
            |name: &str| json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": name}}});
        let ingress = |annotations: Value| {
            let object = json!({
                "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
                "spec": {"rules": [
                    {"host": "Shop.example.com", "http": {"paths": [path("scaler-dlx"), path("api")]}},
                    {"host": "*.example.org", "http": {"paths": [path("web")]}},
                    {"host": "nothing.example.com"},
                ]},
            });
            HostRoute::from(serde_json::from_value::<Ingress>(object).unwrap())
        };
        let plain = ingress(json!({}));
        let expected = [
            "shop.example.com to shop/api,shop/scaler-dlx",
            "*.example.org to shop/web",
            "nothing.example.com to ",
        ];
        assert_eq!(rules(&plain), expected);
        assert!(plain.rules[1].has("a.example.org") && !plain.rules[1].has("shop.example.com"));
        let rewritten = ingress(json!({UPSTREAM_HOST: "web.shop.svc"}));
        assert_eq!(rewritten.hosts, plain.hosts);
        assert_eq!(rules(&rewritten)[0], "web.shop.svc to shop/api,shop/scaler-dlx");
    }

    #[test]
    fn an_httproute_leads_its_hosts_to_each_rules_services() {
        let condition = |status: &str, generation: i64| json!([{"type": "ResolvedRefs", "status": status, "observedGeneration": generation}]);
        let parents = json!([{"conditions": condition("False", 4)}, {"conditions": condition("True", 4)}]);
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "shop", "generation": 4},
            "status": {"parents": parents},
            "spec": {"hostnames": ["Shop.example.com"], "rules": [
                {"backendRefs": [{"name": "scaler-dlx", "namespace": "scaler", "port": 80}, {"name": "old", "weight": 0}]},
                {
                    "backendRefs": [{"name": "web", "kind": "Service"}, {"name": "bucket", "kind": "Bucket"}],
                    "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "web.shop.svc"}}],
                },
                {},
            ]},
        });
        let read = |object: &Value| {
            HostRoute::from(serde_json::from_value::<DynamicObject>(object.clone()).unwrap())
        };
        let expected =
            ["shop.example.com to scaler/scaler-dlx", "web.shop.svc to shop/web", "shop.example.com to "];
        assert_eq!(rules(&read(&object)), expected);
        // The condition is of the whole route: here another backend is not found.
        for reason in ["BackendNotFound", "InvalidKind"] {
            let mut said = condition("False", 4);
            said[0]["reason"] = reason.into();
            object["status"] = json!({"parents": [{"conditions": said}]});
            assert_eq!(rules(&read(&object)), expected, "{reason}");
        }
        let mut forbidden = condition("False", 4);
        forbidden[0]["reason"] = "RefNotPermitted".into();
        // Without a Gateway's word for the route as it is, only what is of its own namespace counts.
        for parents in [
            json!([]),
            json!([{"conditions": condition("False", 4)}]),
            json!([{"conditions": forbidden}]),
            json!([{"conditions": condition("True", 3)}]),
            json!([{"conditions": [{"type": "Accepted", "status": "True"}]}]),
        ] {
            object["status"] = json!({ "parents": parents });
            let expected = ["shop.example.com to ", "web.shop.svc to shop/web", "shop.example.com to "];
            assert_eq!(rules(&read(&object)), expected, "{parents}");
        }
    }
}
