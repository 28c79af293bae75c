//! Validates namespace files without serving them.

mod mistakes;
mod ports;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use plugin_host::{CallError, Interface, Plugin, RunningPlugin};
use scaler_types::{Coordination, MetricSourceContext, PluginContext, Resource, Role};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    files::{Contents, Files},
    namespace_file::{
        Section,
        tree::{self, Placed},
    },
};
use mistakes::{Claims, ListedResource};

/// The findings in one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The file.
    pub file: String,
    /// Its namespace, if it can be read.
    pub namespace: Option<String>,
    /// The kinds of the plugins that it configures.
    pub plugins: Vec<String>,
    /// The ports that its resources bind on this host: their own, and those of the DLX that belong to one.
    pub ports: Vec<u16>,
    /// The errors, one line each: `file:line:column: what, expected what`.
    pub errors: Vec<String>,
    /// What can only be a mistake, though the file can be used: lines of the same form.
    pub warnings: Vec<String>,
    /// The checks that were not possible here, and why.
    pub unchecked: Vec<String>,
}

/// Where the plugins start.
#[derive(Clone, Debug)]
pub struct CheckContext<'a> {
    /// All plugins of the folder, the metric sources included.
    pub plugins: &'a [Plugin],
    /// The cluster's kubeconfig, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// How the daemons will know of each other.
    pub coordination: Coordination,
    /// An empty folder.
    pub state_dir: &'a Path,
}

/// How long a plugin may take for its section.
const WITHIN: Duration = Duration::from_secs(10);

/// Reads what `paths` name, as `--config` does, and has each plugin validate its configuration: an instance is started on an
/// empty state folder of its own, lists its resources, and is stopped again. Nothing is scaled.
///
/// A plugin's finding is an error where it names the file; else the plugin lacks what its check needs (a cluster, say).
pub async fn check(paths: Vec<PathBuf>, context: &CheckContext<'_>) -> Vec<Checked> {
    let mut files = Files::new(paths);
    files.read();
    let mut all = Vec::new();
    let mut claims = Claims::default();
    for entry in files.entries() {
        let mut checked = Checked {
            file: entry.path.display().to_string(),
            namespace: entry.good.as_ref().map(|contents| contents.says.namespace.clone()),
            plugins: Vec::new(),
            ports: Vec::new(),
            errors: entry.error.iter().map(ToString::to_string).collect(),
            warnings: Vec::new(),
            unchecked: Vec::new(),
        };
        if let Some(contents) = &entry.good {
            checked.check_contents(contents, context, &mut claims).await;
        }
        all.push(checked);
    }
    all
}

// === impl Checked ===

impl Checked {
    async fn check_contents(&mut self, contents: &Contents, context: &CheckContext<'_>, claims: &mut Claims) {
        let tree = tree::parse(&contents.text);
        let sections =
            |key| tree.as_ref().and_then(|tree| tree.value.entry(key)).map(|(_, sections)| sections);
        self.check_metric_sources(contents, context, sections("metricSources")).await;
        let sections = sections("plugins");
        if let Some(tree) = &tree {
            self.warnings.extend(mistakes::unexpanded_homes(&contents.name, tree));
        }
        for (kind, section) in contents.says.sections_of(Interface::ResourceScaler) {
            self.plugins.push(kind.clone());
            let place = sections.and_then(|plugins| plugins.value.entry(kind));
            let plugins = context.select(Interface::ResourceScaler);
            let Some(plugin) = plugins.iter().find(|plugin| plugin.kind() == kind) else {
                match (&plugins[..], place) {
                    ([_, ..], Some((key, _))) => {
                        self.warnings.push(mistakes::unknown_kind(&contents.name, key, &plugins));
                    }
                    _ => self.unchecked.push(format!(
                        "{}:{}: no plugin of kind {kind} is loaded",
                        contents.name, section.line
                    )),
                }
                continue;
            };
            let started = timeout(WITHIN, plugin.start(context.for_plugin(kind, contents))).await;
            match started.unwrap_or(Err(CallError::TimedOut(WITHIN))) {
                Ok(instance) => {
                    let resources = self.list(&*instance).await;
                    instance.stop().await;
                    let Some((_, section)) = place else { continue };
                    let described = section.value.resources();
                    for (resource, address) in &resources {
                        // One that the file does not describe is found in a cluster.
                        let Some(described) = described.get(&*resource.id.name) else { continue };
                        let address = address.as_deref();
                        let listed = ListedResource { contents, described, resource, address };
                        self.ports.extend(listed.bound_ports());
                        self.warnings.extend(listed.mistakes());
                        self.warnings.extend(claims.add(&listed));
                    }
                }
                Err(error) => self.not_started(contents, section, &format!("plugin {kind}"), &error),
            }
        }
        self.warnings.sort_by_key(|warning| mistakes::place(&contents.name, warning));
    }

    /// Has each metric source validate its configuration.
    async fn check_metric_sources(
        &mut self,
        contents: &Contents,
        context: &CheckContext<'_>,
        sections: Option<&Placed>,
    ) {
        let sources = context.select(Interface::MetricSource);
        for (kind, section) in contents.says.sections_of(Interface::MetricSource) {
            let Some(source) = sources.iter().find(|source| source.kind() == kind) else {
                match (context.plugins, sections.and_then(|sections| sections.value.entry(kind))) {
                    ([_, ..], Some((key, _))) => {
                        self.warnings.push(mistakes::unknown_metric_source(&contents.name, key, &sources));
                    }
                    _ => self.unchecked.push(format!(
                        "{}:{}: no metric source {kind} is loaded",
                        contents.name, section.line
                    )),
                }
                continue;
            };
            let start = source.start_metric_source(MetricSourceContext {
                namespace: contents.says.namespace.clone(),
                kind: kind.clone(),
                namespace_file: contents.name.clone(),
                namespace_file_text: contents.text.clone(),
            });
            match timeout(WITHIN, start).await.unwrap_or(Err(CallError::TimedOut(WITHIN))) {
                Ok(instance) => instance.stop().await,
                Err(error) => self.not_started(contents, section, &format!("metric source {kind}"), &error),
            }
        }
    }

    /// Adds why a plugin did not start: an error where it names the file, else it lacks what its check needs.
    fn not_started(&mut self, contents: &Contents, section: &Section, plugin: &str, error: &CallError) {
        let error = error.to_string();
        match error.starts_with(&format!("{}:", contents.name)) {
            true => self.errors.push(error),
            false => self.unchecked.push(format!("{}:{}: {plugin}: {error}", contents.name, section.line)),
        }
    }

    /// What the plugin warns of, and its resources with the addresses of those that are not started yet.
    async fn list(&mut self, instance: &dyn RunningPlugin) -> Vec<(Resource, Option<String>)> {
        // What cannot be read here is reported by the daemons.
        if let Ok(Some(defaults)) = instance.get_config().await {
            self.warnings.extend(defaults.warnings);
        }
        let mut resources = Vec::new();
        let listed = instance.get_resources().await.map(|listed| listed.readable).unwrap_or_default();
        for resource in listed {
            let address = match resource.endpoints.first() {
                Some(endpoint) => Some(endpoint.address.clone()),
                None => instance.resolve_service_name(&resource.id).await.ok(),
            };
            resources.push((resource, address));
        }
        resources
    }
}

// === impl CheckContext ===

impl CheckContext<'_> {
    /// The plugins of this interface.
    fn select(&self, interface: Interface) -> Vec<&Plugin> {
        self.plugins.iter().filter(|plugin| plugin.interface() == interface).collect()
    }

    fn for_plugin(&self, kind: &str, contents: &Contents) -> PluginContext {
        PluginContext {
            namespace: contents.says.namespace.clone(),
            role: Role::Autoscaler,
            state_dir: self.state_dir.to_owned(),
            plugin_dir: PathBuf::new(),
            kubeconfig: self.kubeconfig.clone(),
            coordination: self.coordination,
            daemon_namespace: None,
            service_ports: None,
            daemon_pod: None,
            dlx_service: String::new(),
            metrics_urls: Vec::new(),
            kind: kind.to_owned(),
            namespace_file: contents.name.clone(),
            namespace_file_text: contents.text.clone(),
        }
    }
}
