//! NetworkPolicies: which connections to pods are allowed.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{Labels, Meta, Selector};

/// The fields kept of a NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    pub(crate) meta: Meta,
    /// The pods it selects; an empty selector selects all of its namespace.
    pub(crate) pods: Selector,
    /// It restricts connections to them, not only from them.
    pub(crate) ingress: bool,
}

// === impl Policy ===

impl Policy {
    /// Whether it restricts connections to pods with these labels.
    pub(crate) fn guards(&self, labels: &Labels) -> bool {
        self.ingress && (self.pods.is_empty() || self.pods.matches(labels))
    }
}

impl From<NetworkPolicy> for Policy {
    fn from(policy: NetworkPolicy) -> Self {
        let spec = policy.spec.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        Self {
            meta: Meta::from(&policy.metadata),
            pods: spec.pod_selector.map(Selector::from).unwrap_or_default(),
            // Where the types are not said they are both.
            ingress: types.is_empty() || types.iter().any(|name| name == "Ingress"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_says_who_may_connect_guards() {
        let labels = Selector::parse("app=web").equal;
        for (spec, guards) in [
            (json!({"podSelector": {}}), true),
            (
                json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"]}),
                true,
            ),
            (json!({"podSelector": {"matchLabels": {"app": "api"}}}), false),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), false),
        ] {
            let object: Value = json!({"metadata": {"name": "p"}, "spec": spec});
            let policy = Policy::from(serde_json::from_value::<NetworkPolicy>(object).unwrap());
            assert_eq!(policy.guards(&labels), guards, "{spec}");
        }
    }
}
