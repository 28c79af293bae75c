//! Every plugin running for every namespace file, kept as the files change.

mod check;
mod instances;
mod view;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use plugin_host::{Plugin, RejectedPlugin, RunningPlugin};
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

/// The result of loading the plugins' folder.
struct Plugins {
    loaded: Vec<Plugin>,
    rejected: Vec<RejectedPlugin>,
}

// === impl PluginManager ===

impl PluginManager {
    /// Loads the plugins, reads the files, starts an instance of each plugin for each file, and follows the files from then on
    /// (a task, until `draining`).
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
        let (plugin_manager, errors) = Self::begin(flags, settings, role, draining, flags.strict).await?;
        if flags.strict && !errors.is_empty() {
            return Err(Misconfigured(errors.join("; ")).into());
        }
        Ok(plugin_manager)
    }

    /// The same for who needs all of it: every plugin has started, or it is returned why not.
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
        let (plugin_manager, mut errors) = Self::begin(flags, settings, role, draining, true).await?;
        errors.extend(plugin_manager.rejected().iter().map(ToString::to_string));
        Ok((plugin_manager, errors))
    }

    async fn begin(
        flags: &CommonFlags,
        settings: SettingsLayer,
        role: Role,
        draining: CancellationToken,
        whole: bool,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let plugins = Arc::new(load(flags).await?);
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
                let sections = plugins.loaded.iter().map(|plugin| format!("plugins.{}", plugin.kind()));
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
        for served in self.served.borrow().iter().cloned() {
            stopping.spawn(async move { served.instance.stop().await });
        }
        stopping.join_all().await;
    }
}

async fn load(flags: &CommonFlags) -> anyhow::Result<Plugins> {
    let folder = &flags.plugins_dir;
    let bad = |why: String| Misconfigured(format!("--plugins-dir {}: {why}", folder.display()));
    let (path, timeout) = (folder.clone(), flags.plugin_load_timeout);
    let before = |file: &Path| {
        tracing::info!(file = %file.display(), "loading a plugin");
        // They may end the process: then this line says which.
        telemetry::flush();
    };
    let scan = tokio::task::spawn_blocking(move || plugin_host::load_dir(&path, timeout, before)).await?;
    let scan = scan.map_err(|error: io::Error| bad(error.to_string()))?;
    for plugin in &scan.plugins {
        tracing::info!(file = %plugin.path().display(), kind = plugin.kind(), "plugin loaded");
    }
    for rejected in &scan.rejected {
        tracing::error!(file = %rejected.path.display(), reason = %rejected.error, "plugin not loaded");
    }
    let why = scan.rejected.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if scan.plugins.is_empty() {
        let why = if why.is_empty() { "it holds no plugin (*.so)".to_owned() } else { why };
        return Err(bad(format!("nothing was loaded: {why}")).into());
    }
    if flags.strict && !why.is_empty() {
        return Err(bad(format!("--strict: {why}")).into());
    }
    Ok(Plugins { loaded: scan.plugins, rejected: scan.rejected })
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
