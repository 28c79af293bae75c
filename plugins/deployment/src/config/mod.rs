//! The plugin's section of a namespace file.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use scaler_types::{
    Coordination, PluginContext, Result, Role, ScaleResource, ServicePorts, duration,
    scaling_options::ScalingOptions,
};
use serde::{Deserialize, Deserializer, de};

use crate::objects::host_name;

pub(crate) use source::MetricsUrl;

/// The metric that an opt-in by duration alone looks at: the one the DLXs count.
pub(crate) const METRIC: &str = "requests";

/// How long a workload is idle before it is scaled to zero, by default.
const SCALE_TO_ZERO: Duration = Duration::from_secs(600);

/// What the section says, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PluginConfig {
    /// The namespace to look after; none: all of them.
    pub(crate) namespace: Option<String>,
    /// Which daemon this is.
    pub(crate) role: Role,
    /// Kinds of workloads beside Deployments and StatefulSets.
    pub(crate) workloads: Vec<WorkloadKind>,
    /// Whether a workload has to opt in.
    pub(crate) opt_in: OptIn,
    /// The window of what opts in without one.
    pub(crate) scale_to_zero: Duration,
    /// Host names the operator gives to workloads, by the workload's name (`web`, `statefulset/db`; `shop/web` where
    /// all namespaces are managed).
    pub(crate) hosts: BTreeMap<String, Vec<String>>,
    /// What the operator sets of how many replicas workloads get, by the workload's name as in `hosts`.
    pub(crate) scaling: BTreeMap<String, ScalingOptions>,
    /// The cluster's DNS domain.
    pub(crate) cluster_domain: String,
    /// When the Services of a workload are intercepted that does not say it; none: the file does not say it either.
    pub(crate) intercept: Option<InterceptMode>,
    /// NetworkPolicies do not refuse an interception.
    pub(crate) intercept_despite_network_policies: bool,
    /// The DLXs' ports for intercepted Services; none: no Service is intercepted.
    pub(crate) service_ports: Option<ServicePorts>,
    /// The namespace that the daemons run in, where it is known.
    pub(crate) home: Option<String>,
    /// The DLXs' Service there.
    pub(crate) dlx_service: String,
    /// Where the metrics of all namespace files come from.
    pub(crate) sources: Vec<MetricsUrl>,
}

/// When the Services of a workload are intercepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InterceptMode {
    /// Never: its users point clients at the DLXs themselves.
    Manual,
    /// All the time.
    #[default]
    Always,
    /// While it is asleep.
    WhenAsleep,
}

/// A kind of workload that has a scale.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadKind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    /// Its name in URLs; none: as the cluster's discovery says.
    #[serde(default)]
    pub(crate) plural: Option<String>,
    /// Where its replicas are, a JSON pointer.
    #[serde(default = "replicas_path")]
    pub(crate) replicas_path: String,
}

/// Whether a workload has to opt in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OptIn {
    /// By an annotation, on itself or on its namespace.
    #[default]
    Annotation,
    /// Every one is in that does not opt out.
    All,
}

/// The keys of the section; what they mean is in the crate's README.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Section {
    #[serde(default)]
    workloads: Vec<WorkloadKind>,
    #[serde(default)]
    opt_in: OptIn,
    #[serde(default, deserialize_with = "window")]
    scale_to_zero: Option<Duration>,
    #[serde(default)]
    hosts: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    scaling: BTreeMap<String, ScalingOptions>,
    #[serde(default)]
    cluster_domain: Option<String>,
    #[serde(default)]
    intercept: Option<InterceptMode>,
    #[serde(default)]
    intercept_despite_network_policies: bool,
}

fn replicas_path() -> String {
    "/spec/replicas".to_owned()
}

fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse_interval(&text).map(Some).map_err(|why| de::Error::custom(format!("scaleToZero: {why}")))
}

// === impl PluginConfig ===

impl PluginConfig {
    /// Reads the section and checks what it says.
    ///
    /// # Errors
    ///
    /// It does not fit, or the daemons know of each other by files: no DLX on another host would be asked before a
    /// workload is scaled to zero.
    pub(crate) fn read(context: &PluginContext) -> Result<Self> {
        ensure!(
            context.coordination == Coordination::Leases,
            "the daemons of a cluster run on several hosts, and these coordinate by files of one host: \
             start every autoscaler and dlx with --coordinate-by leases (the default in a pod)"
        );
        let section: Section = context.section()?.unwrap_or_default();
        let mut kinds = BTreeSet::from(["deployment".to_owned(), "statefulset".to_owned()]);
        for kind in &section.workloads {
            ensure!(
                kind.replicas_path.starts_with('/') && kind.replicas_path.len() > 1,
                "plugins.deployment.workloads: {} has the replicasPath {:?}, expected a JSON pointer such as /spec/replicas",
                kind.kind,
                kind.replicas_path
            );
            ensure!(
                !kind.kind.is_empty() && !kind.version.is_empty() && !kind.kind.contains('/'),
                "plugins.deployment.workloads: {:?} of version {:?} is not a kind, expected for example \
                 {{group: argoproj.io, version: v1alpha1, kind: Rollout}}",
                kind.kind,
                kind.version
            );
            ensure!(
                kinds.insert(kind.kind.to_ascii_lowercase()),
                "plugins.deployment.workloads: the kind {} is listed twice, expected each kind once \
                 (Deployment and StatefulSet are built in)",
                kind.kind
            );
        }
        let mut hosts = BTreeMap::new();
        for (name, list) in section.hosts {
            let list = list
                .iter()
                .map(|host| host_name::parse(host))
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("plugins.deployment.hosts: {name}"))?;
            hosts.insert(name, list);
        }
        let cluster_domain = section.cluster_domain.map(|name| name.to_ascii_lowercase());
        let cluster_domain = cluster_domain.unwrap_or_else(|| "cluster.local".to_owned());
        let home = context.daemon_namespace.as_deref().unwrap_or_default();
        let sources = context.metrics_urls.iter();
        let sources = sources.filter_map(|url| MetricsUrl::parse(url, home, &cluster_domain)).collect();
        Ok(Self {
            namespace: (context.namespace != "*").then(|| context.namespace.clone()),
            role: context.role,
            workloads: section.workloads,
            opt_in: section.opt_in,
            scale_to_zero: section.scale_to_zero.unwrap_or(SCALE_TO_ZERO),
            hosts,
            scaling: section.scaling,
            cluster_domain,
            intercept: section.intercept,
            intercept_despite_network_policies: section.intercept_despite_network_policies,
            service_ports: context.service_ports,
            home: context.daemon_namespace.clone(),
            dlx_service: context.dlx_service.clone(),
            sources,
        })
    }

    /// The hosts the operator gives to a workload.
    pub(crate) fn operators_hosts(&self, namespace: &str, name: &str) -> impl Iterator<Item = &String> {
        self.by_workload(&self.hosts, namespace, name).into_iter().flatten()
    }

    /// What the operator sets of how many replicas a workload gets.
    pub(crate) fn operators_scaling(&self, namespace: &str, name: &str) -> Option<&ScalingOptions> {
        self.by_workload(&self.scaling, namespace, name)
    }

    fn by_workload<'a, T>(&self, all: &'a BTreeMap<String, T>, namespace: &str, name: &str) -> Option<&'a T> {
        let plain = all.get(name).filter(|_| self.namespace.is_some());
        plain.or_else(|| all.get(&format!("{namespace}/{name}")))
    }
}

/// The metrics of a window alone.
pub(crate) fn requests_in(window: Duration) -> Vec<ScaleResource> {
    vec![ScaleResource { metric_name: METRIC.to_owned(), window_size: window, threshold: 0.0 }]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context(text: &str) -> PluginContext {
        PluginContext {
            namespace: "shop".to_owned(),
            role: Role::Dlx,
            state_dir: "/nowhere".into(),
            plugin_dir: "/nowhere".into(),
            kubeconfig: None,
            coordination: Coordination::Leases,
            daemon_namespace: None,
            service_ports: None,
            daemon_pod: None,
            dlx_service: "scaler-dlx".to_owned(),
            metrics_urls: Vec::new(),
            kind: "deployment".to_owned(),
            namespace_file: "shop.yaml".to_owned(),
            namespace_file_text: text.into(),
        }
    }

    fn section(lines: &str) -> Result<PluginConfig> {
        PluginConfig::read(&context(&format!("namespace: shop\nplugins:\n  deployment:\n{lines}")))
    }

    #[test]
    fn every_key_is_read_and_nothing_else() {
        let config = section(
            "    optIn: all\n    scaleToZero: 5m\n    intercept: when-asleep\n    interceptDespiteNetworkPolicies: true\n    clusterDomain: Cluster.Example\n    hosts: {web: [Shop.Example.COM]}\n    \
             workloads: [{group: argoproj.io, version: v1alpha1, kind: Rollout}]\n    scaling: {mailer: {maxReplicas: 3, earlyAck: accepted}}\n",
        )
        .unwrap();
        assert_eq!((config.opt_in, config.scale_to_zero), (OptIn::All, Duration::from_secs(300)));
        assert_eq!(
            (config.cluster_domain.as_str(), config.intercept),
            ("cluster.example", Some(InterceptMode::WhenAsleep))
        );
        assert_eq!(config.operators_hosts("shop", "web").collect::<Vec<_>>(), ["shop.example.com"]);
        assert_eq!(config.workloads[0].replicas_path, "/spec/replicas");
        let scaling = config.operators_scaling("shop", "mailer").unwrap();
        assert_eq!((scaling.max_replicas, scaling.early_ack), (Some(3), true));
        assert_eq!(config.operators_scaling("shop", "web"), None);
        let bare = PluginConfig::read(&context("namespace: shop\n")).unwrap();
        assert_eq!(
            (bare.opt_in, bare.scale_to_zero, bare.intercept),
            (OptIn::Annotation, SCALE_TO_ZERO, None)
        );
        for (wrong, expected) in [
            ("    optin: all\n", "unknown key \"optin\""),
            ("    scaleToZero: 0s\n", "\"0s\" is too short"),
            ("    route: always\n", "unknown key \"route\""),
            ("    intercept: service\n", "service"),
            ("    scaleToZero: soon\n", "\"soon\" is not a duration"),
            ("    workloads: [{group: apps, version: v1, kind: Deployment}]\n", "is listed twice"),
            (
                "    workloads: [{group: a, version: v1, kind: B, replicasPath: spec.replicas}]\n",
                "JSON pointer",
            ),
            ("    hosts: {web: ['*.example.com']}\n", "plugins.deployment.hosts: web"),
            ("    scaling: {mailer: {maxReplicas: many}}\n", "shop.yaml:4:"),
            ("    scaling: {mailer: {maxreplicas: 3}}\n", "unknown key \"maxreplicas\""),
        ] {
            let error = format!("{:#}", section(wrong).unwrap_err());
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn files_of_one_host_are_refused_with_what_to_do() {
        let mut context = context("namespace: shop\n");
        context.coordination = Coordination::Files;
        let error = PluginConfig::read(&context).unwrap_err().to_string();
        assert!(error.contains("--coordinate-by leases"), "{error}");
    }

    #[test]
    fn with_all_namespaces_a_host_names_its_namespace() {
        let mut context =
            context("plugins: {deployment: {hosts: {shop/web: [a.example], web: [b.example]}}}\n");
        context.namespace = "*".to_owned();
        let config = PluginConfig::read(&context).unwrap();
        assert_eq!(config.operators_hosts("shop", "web").collect::<Vec<_>>(), ["a.example"]);
        assert_eq!(config.operators_hosts("other", "web").count(), 0);
    }
}
