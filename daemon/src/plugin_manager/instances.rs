//! Keeps an instance of each plugin running for each namespace file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use plugin_host::{CallError, Interface, Plugin, RunningMetricSource, RunningPlugin};
use scaler_types::{
    Coordination, MetricSourceContext, PluginContext, ResourceScalerConfig, Role, ServicePorts,
    backoff::Backoff,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Plugins, Served,
    metric_sources::{Senders, Sources},
    view::{self, FileView, View},
};
use crate::{
    files::{Contents, Files, FolderWatch},
    namespace_file::{Fingerprint, Section},
    settings::{MetricsSource, Settings, SettingsLayer},
};

/// The parameters that do not change while the daemon runs.
pub(super) struct Fixed {
    pub(super) plugins: Arc<Plugins>,
    pub(super) flags: SettingsLayer,
    pub(super) role: Role,
    pub(super) state_dir: PathBuf,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) coordination: Coordination,
    pub(super) daemon_namespace: Option<String>,
    pub(super) service_ports: Option<ServicePorts>,
    pub(super) daemon_pod: Option<String>,
    pub(super) dlx_service: String,
}

pub(super) struct InstanceManager {
    fixed: Fixed,
    files: Files,
    watch: Option<FolderWatch>,
    /// By namespace, interface and kind: a file may be renamed.
    running: BTreeMap<Key, Running>,
    /// Sections that their plugins did not take.
    refused: BTreeMap<Key, Refused>,
    /// Files that give a plugin nothing to do.
    not_configured: BTreeMap<Key, Says>,
    /// The instances that are starting, each in a task of its own: a plugin that hangs delays no other.
    starting: JoinSet<Started>,
    /// The parameters they are started with.
    pending: BTreeMap<Key, Says>,
    /// No longer needed, to be stopped when everybody could see that.
    over: Vec<RunningInstance>,
    served: watch::Sender<Arc<[Served]>>,
    metric_sources: Senders,
    view: Arc<Mutex<View>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    interface: Interface,
    kind: String,
}

/// The parameters of an instance; if they differ, it is another instance.
#[derive(Clone, PartialEq)]
struct Says {
    /// Its section of the file.
    section: Option<Fingerprint>,
    /// Where the metrics of all files come from; empty for a metric source.
    metrics_urls: Arc<[String]>,
}

/// A plugin that runs for one file.
#[derive(Clone)]
enum RunningInstance {
    ResourceScaler(Arc<dyn RunningPlugin>),
    MetricSource(Arc<dyn RunningMetricSource>),
}

/// An instance, and what it was started with.
struct Running {
    instance: RunningInstance,
    says: Says,
    defaults: ResourceScalerConfig,
    settings: Arc<Settings>,
}

/// The result of starting an instance.
struct Started {
    key: Key,
    says: Says,
    contents: Arc<Contents>,
    result: Result<(RunningInstance, ResourceScalerConfig), StartError>,
}

/// Why an instance did not start. Each message is one line.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("not configured")]
    NotConfigured,
    /// An error in its section, which names the place itself.
    #[error(transparent)]
    InSection(CallError),
    #[error("{place}: {plugin}: {error}")]
    Plugin { place: String, plugin: String, error: CallError },
}

/// A section that its plugin did not take.
struct Refused {
    says: Says,
    error: StartError,
    backoff: Backoff,
    again: Instant,
}

/// A refused section is tried again: what it needs (an API server, say) may not have been there.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

// === impl InstanceManager ===

impl InstanceManager {
    pub(super) fn new(fixed: Fixed, files: Files, watch: Option<FolderWatch>) -> Self {
        Self {
            fixed,
            files,
            watch,
            running: BTreeMap::new(),
            refused: BTreeMap::new(),
            not_configured: BTreeMap::new(),
            starting: JoinSet::new(),
            pending: BTreeMap::new(),
            over: Vec::new(),
            served: watch::Sender::default(),
            metric_sources: Senders::default(),
            view: Arc::default(),
        }
    }

    /// The running instances.
    pub(super) fn served(&self) -> watch::Receiver<Arc<[Served]>> {
        self.served.subscribe()
    }

    /// The state shown in metrics and on the admin port.
    pub(super) fn view(&self) -> Arc<Mutex<View>> {
        Arc::clone(&self.view)
    }

    /// Follows the files until the daemon drains.
    pub(super) async fn follow(mut self, draining: CancellationToken) {
        loop {
            // Instances that are being retried are not waited for a second time.
            let waiting = self.refused.iter().filter(|(key, _)| !self.pending.contains_key(*key));
            let again = waiting.map(|(_, refused)| refused.again).min();
            let changed = async {
                match &mut self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let retry = async {
                match again {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a start that was refused is tried again after a growing pause"
                    )]
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            let seen = tokio::select! {
                () = draining.cancelled() => return,
                Some(started) = self.starting.join_next() => {
                    self.take(started);
                    self.apply();
                    continue;
                }
                () = retry => Ok(()),
                seen = changed => seen,
            };
            let refreshed = match seen {
                Ok(()) => self.refresh().await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = refreshed {
                tracing::error!(%error, "stopped watching the namespace files: restart the daemon for changes to take effect");
                self.watch = None;
            }
        }
    }

    /// Reads the files as they are now, and begins to bring what is running in line with them.
    pub(super) async fn refresh(&mut self) -> anyhow::Result<()> {
        loop {
            self.cover()?;
            let mut files = std::mem::replace(&mut self.files, Files::new(Vec::new()));
            self.files = tokio::task::spawn_blocking(move || {
                files.read();
                files
            })
            .await?;
            // Paths watched only now may have changed before.
            if !self.cover()? {
                break;
            }
        }
        self.start_what_is_new();
        self.apply();
        Ok(())
    }

    /// Waits until whatever was begun to be started has, or was refused.
    pub(super) async fn started(&mut self) {
        while let Some(started) = self.starting.join_next().await {
            self.take(started);
        }
        self.apply();
    }

    /// As [`Self::started`], but not longer than this. Instances not started by then continue, and are
    /// [followed](Self::follow).
    pub(super) async fn started_within(&mut self, limit: Duration) {
        if timeout(limit, self.started()).await.is_err() {
            let waiting: Vec<_> =
                self.pending.keys().map(|key| format!("{} in {}", key.kind, key.namespace)).collect();
            tracing::warn!(
                plugins = waiting.join(", "),
                "timed out waiting for plugins to start; continuing with those that have"
            );
            self.apply();
        }
    }

    fn cover(&mut self) -> anyhow::Result<bool> {
        let Some(watch) = &mut self.watch else { return Ok(false) };
        let files = self.files.entries().iter().map(|entry| entry.path.as_path());
        Ok(watch.cover(self.files.config_paths(), files)?)
    }

    /// Publishes what is running now, with the settings of now.
    fn apply(&mut self) {
        let (mut served, mut views, mut wanted) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut namespaces = BTreeSet::new();
        let urls = self.metrics_urls();
        for entry in self.files.entries() {
            let mut file = FileView::new(entry, &self.fixed.plugins);
            let (mut scalers, mut sources) = (Vec::new(), Sources::default());
            for (plugin, contents) in with_each(&self.fixed.plugins.loaded, entry.good.as_ref()) {
                let key = key(plugin, contents);
                let refused = self.refused.get(&key).map(|refused| refused.error.to_string());
                // An error of the file as it is now stands above one of what it was.
                if let (Some(refused), None) = (&refused, &entry.error) {
                    file.errors.push(refused.clone());
                }
                if let Some(running) = self.running.get_mut(&key) {
                    file.warnings.extend(running.defaults.warnings.iter().cloned());
                    // Refused, or not started yet: instance and settings stay as they were.
                    if running.says == says(plugin, contents, &urls) {
                        running.resettle(contents, &self.fixed.flags);
                    }
                    match &running.instance {
                        RunningInstance::ResourceScaler(instance) => {
                            scalers.push((instance.clone(), Arc::clone(&running.settings)));
                        }
                        RunningInstance::MetricSource(source) => sources.running.push(source.clone()),
                    }
                } else if plugin.interface() == Interface::MetricSource {
                    let why = refused.unwrap_or_else(|| format!("{} has not started yet", described(plugin)));
                    sources.not_running.push(why);
                }
                wanted.insert(key);
            }
            if let Some(contents) = &entry.good {
                let namespace = &contents.says.namespace;
                file.warnings.extend(sources.claimed_twice(&entry.path));
                namespaces.insert(namespace.clone());
                let metric_sources = self.metric_sources.replace(namespace, sources);
                served.extend(scalers.into_iter().map(|(instance, settings)| Served {
                    instance,
                    namespace: namespace.clone(),
                    settings,
                    metric_sources: metric_sources.clone(),
                }));
            }
            views.push(file);
        }
        self.metric_sources.retain(|namespace| namespaces.contains(namespace));
        let gone = self.running.extract_if(.., |key, _| !wanted.contains(key));
        self.over.extend(gone.map(|(_, running)| running.instance));
        let served: Arc<[Served]> = served.into();
        // One that is tried again is among the errors.
        let starting = self.pending.keys().filter(|key| !self.refused.contains_key(*key));
        let starting = starting.map(|key| format!("{} in namespace {}", key.described(), key.namespace));
        view::lock(&self.view).replace(views, &served, starting.collect());
        self.served.send_if_modified(|now| {
            let same = now.len() == served.len()
                && now.iter().zip(served.iter()).all(|(now, new)| {
                    *now.instance == *new.instance && Arc::ptr_eq(&now.settings, &new.settings)
                });
            *now = served;
            !same
        });
        for instance in self.over.drain(..) {
            // Users of the instance see the change first, or their calls fail as any call may.
            tokio::spawn(async move { instance.stop().await });
        }
    }

    /// The metrics URLs of all files: a plugin keeps the workloads behind them awake. On one host no plugin does.
    fn metrics_urls(&self) -> Arc<[String]> {
        let files = self.files.entries().iter().filter_map(|entry| entry.good.as_ref());
        let urls = files.filter_map(|good| match &good.says.settings.metrics {
            Some(MetricsSource::Prometheus(prometheus)) => Some(prometheus.url.clone()),
            _ => None,
        });
        let urls: BTreeSet<String> =
            urls.filter(|_| self.fixed.coordination == Coordination::Leases).collect();
        urls.into_iter().collect()
    }

    /// Begins to start an instance wherever a section is new or changed.
    fn start_what_is_new(&mut self) {
        let mut wanted = BTreeSet::new();
        let urls = self.metrics_urls();
        for entry in self.files.entries() {
            for (plugin, contents) in with_each(&self.fixed.plugins.loaded, entry.good.as_ref()) {
                let (key, says) = (key(plugin, contents), says(plugin, contents, &urls));
                let stands = self.running.get(&key).is_some_and(|running| running.says == says);
                let waits = self
                    .refused
                    .get(&key)
                    .is_some_and(|refused| refused.says == says && refused.again > Instant::now());
                let begun = self.pending.get(&key) == Some(&says);
                let idle = self.not_configured.get(&key) == Some(&says);
                if stands || idle {
                    // Perhaps changed back to what it was.
                    self.refused.remove(&key);
                    self.pending.remove(&key);
                } else if !waits && !begun {
                    let (plugin, contents) = (plugin.clone(), Arc::clone(contents));
                    let context = self.fixed.context(&plugin, &contents, &urls);
                    self.pending.insert(key.clone(), says.clone());
                    let key = key.clone();
                    self.starting.spawn(async move {
                        let result = start(&plugin, &contents, context).await;
                        Started { key, says, contents, result }
                    });
                }
                wanted.insert(key);
            }
        }
        self.refused.retain(|key, _| wanted.contains(key));
        self.not_configured.retain(|key, _| wanted.contains(key));
        self.pending.retain(|key, _| wanted.contains(key));
    }

    /// Takes what was started into the running ones, unless it has been overtaken by another change.
    fn take(&mut self, started: Result<Started, JoinError>) {
        let Started { key, says, contents, result } = match started {
            Ok(started) => started,
            Err(error) => {
                // A panic of ours: which instance it was is not known, and it stays among those that are starting.
                tracing::error!(%error, "an instance could not be started");
                return;
            }
        };
        let wanted = self.pending.get(&key) == Some(&says);
        if wanted {
            self.pending.remove(&key);
        }
        match result {
            Ok((instance, _)) if !wanted => self.over.push(instance),
            Ok((instance, defaults)) => {
                tracing::info!(
                    namespace = key.namespace,
                    kind = key.kind,
                    file = contents.name,
                    "started plugin instance"
                );
                self.refused.remove(&key);
                self.not_configured.remove(&key);
                let settings = Settings::merge(&contents.says.settings, &self.fixed.flags, &defaults);
                let running = Running { instance, says, defaults, settings: Arc::new(settings) };
                self.over.extend(self.running.insert(key, running).map(|old| old.instance));
            }
            Err(StartError::NotConfigured) if wanted => {
                self.refused.remove(&key);
                self.over.extend(self.running.remove(&key).map(|running| running.instance));
                self.not_configured.insert(key, says);
            }
            Err(error) if wanted => self.refuse(key, says, error),
            Err(_) => {}
        }
    }

    /// Logged by the view, when it is new.
    fn refuse(&mut self, key: Key, says: Says, error: StartError) {
        let before = self.refused.remove(&key).filter(|before| before.says == says);
        let mut backoff = before.map_or(BACKOFF, |before| before.backoff);
        let again = Instant::now() + backoff.next_pause();
        self.refused.insert(key, Refused { says, error, backoff, again });
    }
}

// === impl Fixed ===

impl Fixed {
    fn context(&self, plugin: &Plugin, contents: &Contents, metrics_urls: &[String]) -> PluginContext {
        PluginContext {
            namespace: contents.says.namespace.clone(),
            role: self.role,
            state_dir: self.state_dir.clone(),
            // The plugin host sets each plugin's own folder.
            plugin_dir: PathBuf::new(),
            kubeconfig: self.kubeconfig.clone(),
            coordination: self.coordination,
            daemon_namespace: self.daemon_namespace.clone(),
            service_ports: self.service_ports,
            daemon_pod: self.daemon_pod.clone(),
            dlx_service: self.dlx_service.clone(),
            metrics_urls: metrics_urls.to_vec(),
            kind: plugin.kind().to_owned(),
            namespace_file: contents.name.clone(),
            namespace_file_text: Arc::clone(&contents.text),
        }
    }
}

// === impl RunningInstance ===

impl RunningInstance {
    async fn stop(self) {
        match self {
            Self::ResourceScaler(instance) => instance.stop().await,
            Self::MetricSource(source) => source.stop().await,
        }
    }
}

// === impl Key ===

impl Key {
    fn described(&self) -> String {
        describe(self.interface, &self.kind)
    }
}

// === impl Running ===

impl Running {
    /// The same instance with the settings of now.
    fn resettle(&mut self, contents: &Contents, flags: &SettingsLayer) {
        let settings = Settings::merge(&contents.says.settings, flags, &self.defaults);
        if settings != *self.settings {
            self.settings = Arc::new(settings);
        }
    }
}

/// Each plugin with the file's contents, if it has good ones.
fn with_each<'a>(
    plugins: &'a [Plugin],
    contents: Option<&'a Arc<Contents>>,
) -> impl Iterator<Item = (&'a Plugin, &'a Arc<Contents>)> {
    plugins.iter().filter_map(move |plugin| Some((plugin, contents?)))
}

fn key(plugin: &Plugin, contents: &Contents) -> Key {
    let (interface, kind) = (plugin.interface(), plugin.kind().to_owned());
    Key { namespace: contents.says.namespace.clone(), interface, kind }
}

/// The plugin for a message.
fn described(plugin: &Plugin) -> String {
    describe(plugin.interface(), plugin.kind())
}

fn describe(interface: Interface, kind: &str) -> String {
    match interface {
        Interface::ResourceScaler => format!("plugin {kind}"),
        Interface::MetricSource => format!("metric source {kind}"),
    }
}

/// Its configuration in the file.
fn section<'a>(plugin: &Plugin, contents: &'a Contents) -> Option<&'a Section> {
    contents.says.sections_of(plugin.interface()).get(plugin.kind())
}

fn says(plugin: &Plugin, contents: &Contents, metrics_urls: &Arc<[String]>) -> Says {
    let metrics_urls = match plugin.interface() {
        Interface::ResourceScaler => Arc::clone(metrics_urls),
        Interface::MetricSource => Arc::default(),
    };
    Says { section: section(plugin, contents).map(|section| section.says), metrics_urls }
}

/// An instance and the defaults it brings.
async fn start(
    plugin: &Plugin,
    contents: &Contents,
    context: PluginContext,
) -> Result<(RunningInstance, ResourceScalerConfig), StartError> {
    let why = |error: CallError| {
        if error == CallError::NotConfigured {
            return StartError::NotConfigured;
        }
        let place = match section(plugin, contents) {
            _ if !contents.name.is_empty() && error.to_string().starts_with(&contents.name) => {
                return StartError::InSection(error);
            }
            Some(section) => format!("{}:{}", contents.name, section.line),
            None => format!("namespace {}", contents.says.namespace),
        };
        StartError::Plugin { place, plugin: described(plugin), error }
    };
    if plugin.interface() == Interface::MetricSource {
        let PluginContext { namespace, kind, namespace_file, namespace_file_text, .. } = context;
        let context = MetricSourceContext { namespace, kind, namespace_file, namespace_file_text };
        let source = plugin.start_metric_source(context).await.map_err(why)?;
        return Ok((RunningInstance::MetricSource(source), ResourceScalerConfig::default()));
    }
    let instance = plugin.start(context).await.map_err(why)?;
    let defaults = instance.get_config().await.unwrap_or_else(|error| {
        tracing::warn!(kind = plugin.kind(), namespace = instance.namespace(), %error, "cannot read the plugin's defaults: continuing without them");
        None
    });
    Ok((RunningInstance::ResourceScaler(instance), defaults.unwrap_or_default()))
}
