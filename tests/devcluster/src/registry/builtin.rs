//! The kinds that are built in: those that our daemons, tests and kubectl meet.

use super::{Conversion, Kind, ScalePaths};

/// Group and plural of CustomResourceDefinitions.
pub const CRDS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// What a row of [`TABLE`] says beside the names: N namespaced, S status, C scale, G generation, P a PUT may create, R an update must say its
/// resourceVersion.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// Group, version, kind, plural, short names and categories (after a `;`), traits.
const TABLE: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", "ns", "S"),
    ("", "v1", "Pod", "pods", "po;all", "NS"),
    ("", "v1", "Service", "services", "svc;all", "NS"),
    ("", "v1", "Endpoints", "endpoints", "ep", "NP"),
    ("", "v1", "Event", "events", "ev", "NP"),
    ("", "v1", "ConfigMap", "configmaps", "cm", "N"),
    ("", "v1", "Secret", "secrets", "", "N"),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "N"),
    ("", "v1", "Node", "nodes", "no", "S"),
    ("", "v1", "PersistentVolume", "persistentvolumes", "pv", "S"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "NS"),
    ("", "v1", "ResourceQuota", "resourcequotas", "quota", "NS"),
    ("", "v1", "LimitRange", "limitranges", "limits", "N"),
    ("", "v1", "ReplicationController", "replicationcontrollers", "rc;all", "NSCG"),
    ("apps", "v1", "Deployment", "deployments", "deploy;all", "NSCG"),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs;all", "NSCG"),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts;all", "NSCG"),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds;all", "NSG"),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", "", "N"),
    ("batch", "v1", "Job", "jobs", ";all", "NSG"),
    ("batch", "v1", "CronJob", "cronjobs", "cj;all", "NSG"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa;all", "NS"),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa;all", "NS"),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "NSG"),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "", "G"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "NG"),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "NG"),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "NPR"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "NP"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "NP"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", "P"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", "P"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "NSGR"),
    ("events.k8s.io", "v1", "Event", "events", "ev", "NP"),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd,crds",
        "SGR",
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        "SG",
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "",
        "G",
    ),
    ("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "", "G"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "",
        "G",
    ),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "G"),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", ""),
];

pub(super) fn kinds() -> Vec<Kind> {
    TABLE.iter().map(kind).collect()
}

fn kind(&(group, version, kind, plural, names, traits): &Row) -> Kind {
    let (short, categories) = names.split_once(';').unwrap_or((names, ""));
    let words = |text: &str| text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let has = |letter| traits.contains(letter);
    let conversion = match (group, version) {
        ("events.k8s.io", _) => Conversion::Events,
        ("autoscaling", "v1") => Conversion::AutoscalingV1,
        _ => Conversion::None,
    };
    let scale = has('C').then(|| ScalePaths {
        spec: "/spec/replicas".into(),
        status: "/status/replicas".into(),
        selector: Some("/spec/selector".into()),
    });
    Kind {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        list: format!("{kind}List"),
        short: words(short),
        categories: words(categories),
        namespaced: has('N'),
        status: has('S'),
        scale,
        custom: false,
        generation: has('G'),
        create_on_update: has('P'),
        unconditional_update: !has('R'),
        conversion,
        head: String::new(),
    }
}
