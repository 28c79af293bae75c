//! Every plugin running for every namespace file, kept as the files change.

mod check;
mod instances;
mod metric_sources;
mod view;

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use plugin_host::{Interface, METRIC_SOURCES_FOLDER, Plugin, RejectedPlugin, RunningPlugin, Scan};
use scaler_types::Role;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    exit::Misconfigured,
    files::{Files, FolderWatch},
    flags::CommonFlags,
    namespace_file::parse_namespace,
    settings::{Settings, SettingsLayer},
    telemetry,
};
pub use check::{CheckContext, Checked, check};
use instances::InstanceManager;
pub use metric_sources::MetricSources;
use view::View;

/// One plugin running for one namespace file.
#[derive(Clone)]
pub struct Served {
    /// The plugin, started for the file.
    pub instance: Arc<dyn RunningPlugin>,
    /// The namespace; `*` is all.
    pub namespace: String,
    /// The settings of its resources. Another `Arc` when the file changed, with the instance unchanged.
    pub settings: Arc<Settings>,
    /// The metric sources of its namespace file; in a DLX none.
    pub metric_sources: MetricSources,
}

/// How long a daemon's start waits for its plugins' starts. One that takes longer runs when it does: it must not
/// keep the others' resources waiting after every restart.
const FIRST_STARTS: Duration = Duration::from_secs(5);

/// All that is running.
pub struct PluginManager {
    served: watch::Receiver<Arc<[Served]>>,
    plugins: Arc<Plugins>,
    view: Arc<Mutex<View>>,
}

/// The result of loading the plugins' folder, and that of the metric sources.
struct Plugins {
    loaded: Vec<Plugin>,
    rejected: Vec<RejectedPlugin>,
    /// The daemon loads metric sources, if there are any.
    has_metric_sources: bool,
}

// === impl PluginManager ===

impl PluginManager {
    /// Loads the plugins (an autoscaler the metric sources, too), reads the files, starts an instance of each plugin for each file,
    /// and follows the files from then on (a task, until `draining`).
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: nothing can be served, or with `--strict` something cannot. The message says why, and
    /// every file was logged by then.
    pub async fn start(
        flags: &CommonFlags,
        settings: SettingsLayer,
        role: Role,
        draining: CancellationToken,
    ) -> anyhow::Result<Self> {
        let plugins = load(flags, role == Role::Autoscaler).await?;
        let (plugin_manager, errors) =
            Self::begin(plugins, flags, settings, role, draining, flags.strict).await?;
        if flags.strict && !errors.is_empty() {
            return Err(Misconfigured(errors.join("; ")).into());
        }
        Ok(plugin_manager)
    }

    /// The same for who needs all resource-scalers: every one has started, or it is returned why not. No metric source is loaded.
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: nothing can be served.
    pub async fn start_whole(
        flags: &CommonFlags,
        settings: SettingsLayer,
        role: Role,
        draining: CancellationToken,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let plugins = load(flags, false).await?;
        let (plugin_manager, mut errors) =
            Self::begin(plugins, flags, settings, role, draining, true).await?;
        errors.extend(plugin_manager.rejected().iter().map(ToString::to_string));
        Ok((plugin_manager, errors))
    }

    async fn begin(
        plugins: Plugins,
        flags: &CommonFlags,
        settings: SettingsLayer,
        role: Role,
        draining: CancellationToken,
        whole: bool,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let plugins = Arc::new(plugins);
        let state_dir = std::path::absolute(&flags.state_dir)
            .with_context(|| format!("--state-dir {}", flags.state_dir.display()))?;
        let files = match flags.config.is_empty() {
            true => Files::implicit(own_namespace(flags.namespace.as_deref())?),
            false => Files::new(flags.config.clone()),
        };
        let watch = match files.config_paths() {
            [] => None,
            _ => Some(
                FolderWatch::new()
                    .context("cannot watch the namespace files (fs.inotify.max_user_instances?)")?,
            ),
        };
        let fixed = instances::Fixed {
            plugins: Arc::clone(&plugins),
            flags: settings,
            role,
            state_dir,
            kubeconfig: flags.kubeconfig().map(Path::to_owned),
            coordination: flags.coordination(),
            daemon_namespace: variable("POD_NAMESPACE"),
            daemon_pod: variable("POD_NAME"),
            service_ports: flags.service_ports,
            dlx_service: flags.dlx_service.clone(),
        };
        let mut keeper = InstanceManager::new(fixed, files, watch);
        let (served, view) = (keeper.served(), keeper.view());
        keeper.refresh().await?;
        keeper.started_within(FIRST_STARTS).await;
        if whole || served.borrow().is_empty() {
            // Nothing else is there to be served meanwhile, or all of it has to be known.
            keeper.started().await;
        }
        let errors = view::lock(&view).errors();
        if served.borrow().is_empty() {
            let why = if !errors.is_empty() {
                errors.join("; ")
            } else if view::lock(&view).has_files() {
                let sections = plugins
                    .select(Interface::ResourceScaler)
                    .map(|plugin| format!("plugins.{}", plugin.kind()));
                format!(
                    "no namespace file configures any of the plugins, expected one of {}",
                    sections.collect::<Vec<_>>().join(", ")
                )
            } else {
                format!("--config {}: there is no namespace file in it (*.yaml, *.yml)", shown(&flags.config))
            };
            return Err(Misconfigured(why).into());
        }
        tokio::spawn(keeper.follow(draining));
        Ok((Self { served, plugins, view }, errors))
    }

    /// The running instances, now and with every change. In the order of the files, then of the plugins.
    pub fn served(&self) -> watch::Receiver<Arc<[Served]>> {
        self.served.clone()
    }

    /// The plugin files that were skipped, and why.
    pub fn rejected(&self) -> &[RejectedPlugin] {
        &self.plugins.rejected
    }

    /// Stops every instance: the daemon ends. Resources keep their scale.
    pub async fn stop(&self) {
        let mut stopping = JoinSet::new();
        let served = self.served.borrow().clone();
        let sources = served.iter().map(|served| (&served.namespace, &served.metric_sources));
        for source in sources.collect::<BTreeMap<_, _>>().into_values().flat_map(MetricSources::running) {
            stopping.spawn(async move { source.stop().await });
        }
        for served in served.iter().cloned() {
            stopping.spawn(async move { served.instance.stop().await });
        }
        stopping.join_all().await;
    }
}

// === impl Plugins ===

impl Plugins {
    /// The loaded ones of this interface.
    fn select(&self, interface: Interface) -> impl Iterator<Item = &Plugin> {
        self.loaded.iter().filter(move |plugin| plugin.interface() == interface)
    }
}

/// Loads the folder of the plugins, and that of the metric sources if there is one.
async fn load(flags: &CommonFlags, metric_sources: bool) -> anyhow::Result<Plugins> {
    let folder = &flags.plugins_dir;
    let bad = |why: String| Misconfigured(format!("--plugins-dir {}: {why}", folder.display()));
    let mut scan = load_dir(folder.clone(), Interface::ResourceScaler, flags.plugin_load_timeout)
        .await?
        .map_err(|error| bad(error.to_string()))?;
    let why = |scan: &Scan| scan.rejected.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if scan.plugins.is_empty() {
        let why = why(&scan);
        let why = if why.is_empty() { "it holds no plugin (*.so)".to_owned() } else { why };
        return Err(bad(format!("nothing was loaded: {why}")).into());
    }
    let sources = folder.join(METRIC_SOURCES_FOLDER);
    if metric_sources && sources.is_dir() {
        let found = load_dir(sources, Interface::MetricSource, flags.plugin_load_timeout)
            .await?
            .map_err(|error| bad(error.to_string()))?;
        scan.plugins.extend(found.plugins);
        scan.rejected.extend(found.rejected);
    }
    if flags.strict && !scan.rejected.is_empty() {
        return Err(bad(format!("--strict: {}", why(&scan))).into());
    }
    Ok(Plugins { loaded: scan.plugins, rejected: scan.rejected, has_metric_sources: metric_sources })
}

/// Loads one folder, and logs the result.
async fn load_dir(
    folder: PathBuf,
    interface: Interface,
    timeout: Duration,
) -> anyhow::Result<io::Result<Scan>> {
    let before = |file: &Path| {
        tracing::info!(file = %file.display(), "loading a plugin");
        // They may end the process: then this line says which.
        telemetry::flush();
    };
    let load = move || plugin_host::load_dir(&folder, interface, timeout, before);
    let scan = tokio::task::spawn_blocking(load).await?;
    if let Ok(scan) = &scan {
        for plugin in &scan.plugins {
            let interface = interface.name();
            tracing::info!(file = %plugin.path().display(), kind = plugin.kind(), interface, "plugin loaded");
        }
        for rejected in &scan.rejected {
            tracing::error!(file = %rejected.path.display(), reason = %rejected.error, "plugin not loaded");
        }
    }
    Ok(scan)
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// The namespace without a file: as the flag says, else the pod's own, else `default`.
fn own_namespace(flag: Option<&str>) -> anyhow::Result<String> {
    let pods = || fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
    let namespace = match flag {
        Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
        _ => pods().map_or_else(|| "default".to_owned(), |text| text.trim().to_owned()),
    };
    parse_namespace(&namespace).map_err(|why| Misconfigured(format!("--namespace: {why}")))?;
    Ok(namespace)
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
