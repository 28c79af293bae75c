//! Keeps an instance of each plugin at work for each namespace file.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use plugin_host::{Instance, Plugin};
use scaler_types::{PluginContext, ResourceScalerConfig, Role};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Plugins, Served,
    view::{self, FileView, View},
};
use crate::{
    files::{Contents, Files, Watch},
    namespace_file::Fingerprint,
    settings::{FlagSettings, Settings},
};

/// What does not change while the daemon runs.
pub(super) struct Fixed {
    pub(super) plugins: Arc<Plugins>,
    pub(super) flags: FlagSettings,
    pub(super) role: Role,
    pub(super) state_dir: PathBuf,
    pub(super) kubeconfig: Option<PathBuf>,
}

pub(super) struct Keeper {
    fixed: Fixed,
    files: Files,
    watch: Option<Watch>,
    /// By namespace and kind: a file may be renamed.
    running: BTreeMap<Key, Running>,
    /// Sections that were refused, since when they say what they say.
    refused: BTreeMap<Key, Refused>,
    served: watch::Sender<Arc<[Served]>>,
    view: Arc<Mutex<View>>,
}

type Key = (String, String);

/// An instance, and what it was started with.
struct Running {
    instance: Instance,
    says: Option<Fingerprint>,
    defaults: ResourceScalerConfig,
    settings: Arc<Settings>,
}

/// A section that its plugin did not take.
struct Refused {
    says: Option<Fingerprint>,
    error: String,
    pause: Duration,
    again: Instant,
}

/// The first pause before a refused section is tried again: what it needs (an API server, say) may not have been
/// there. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(fixed: Fixed, files: Files, watch: Option<Watch>) -> Self {
        let (running, refused) = (BTreeMap::new(), BTreeMap::new());
        let (served, view) = (watch::Sender::default(), Arc::default());
        Self { fixed, files, watch, running, refused, served, view }
    }

    /// What is at work.
    pub(super) fn served(&self) -> watch::Receiver<Arc<[Served]>> {
        self.served.subscribe()
    }

    /// What can be seen of it from outside.
    pub(super) fn view(&self) -> Arc<Mutex<View>> {
        Arc::clone(&self.view)
    }

    /// Follows the files until the daemon drains.
    pub(super) async fn follow(mut self, draining: CancellationToken) {
        loop {
            let again = self.refused.values().map(|refused| refused.again).min();
            let changed = async {
                match &mut self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let retry = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            let seen = tokio::select! {
                () = draining.cancelled() => return,
                () = retry => Ok(()),
                seen = changed => seen,
            };
            let refreshed = match seen {
                Ok(()) => self.refresh().await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = refreshed {
                tracing::error!(%error, "the namespace files are no longer followed: changes count after a restart");
                self.watch = None;
            }
        }
    }

    /// Brings what is at work in line with the files as they are now.
    pub(super) async fn refresh(&mut self) -> anyhow::Result<()> {
        loop {
            self.cover()?;
            let mut files = std::mem::replace(&mut self.files, Files::new(Vec::new()));
            self.files = tokio::task::spawn_blocking(move || {
                files.read();
                files
            })
            .await?;
            // What is watched only now may have changed before.
            if !self.cover()? {
                break;
            }
        }
        self.apply().await;
        Ok(())
    }

    fn cover(&mut self) -> anyhow::Result<bool> {
        let Some(watch) = &mut self.watch else { return Ok(false) };
        let files = self.files.entries().iter().map(|entry| entry.path.as_path());
        Ok(watch.cover(self.files.given(), files)?)
    }

    async fn apply(&mut self) {
        let mut started = self.start_what_is_new().await;
        let mut served = Vec::new();
        let mut running = BTreeMap::new();
        let mut over = Vec::new();
        let mut views = Vec::new();
        for entry in self.files.entries() {
            let mut file = FileView::new(entry, &self.fixed.plugins.loaded);
            let plugins = if entry.good.is_some() { &self.fixed.plugins.loaded[..] } else { &[] };
            for (plugin, contents) in plugins.iter().zip(std::iter::repeat(entry.good.as_ref())) {
                let Some(contents) = contents else { continue };
                let key = (contents.says.namespace.clone(), plugin.kind().to_owned());
                let old = self.running.remove(&key);
                let now = match started.remove(&key) {
                    Some(new) => {
                        over.extend(old.map(|old| old.instance));
                        Some(new)
                    }
                    None => match self.refused.get(&key) {
                        // Instance and settings stay as they were.
                        Some(refused) => {
                            // An error of the file as it is now stands above one of what it was.
                            if entry.error.is_none() {
                                file.errors.push(refused.error.clone());
                            }
                            old
                        }
                        None => old.map(|old| self.resettle(old, contents)),
                    },
                };
                if let Some(now) = now {
                    served.push(Served {
                        instance: now.instance.clone(),
                        namespace: key.0.clone(),
                        settings: Arc::clone(&now.settings),
                    });
                    running.insert(key, now);
                }
            }
            views.push(file);
        }
        over.extend(std::mem::replace(&mut self.running, running).into_values().map(|old| old.instance));
        let served: Arc<[Served]> = served.into();
        view::lock(&self.view).replace(views, &served);
        self.served.send_if_modified(|now| {
            let same = now.len() == served.len()
                && now.iter().zip(served.iter()).all(|(now, new)| {
                    now.instance == new.instance && Arc::ptr_eq(&now.settings, &new.settings)
                });
            *now = served;
            !same
        });
        for instance in over {
            // Whoever still uses it sees the change first, or its calls fail as any call may.
            tokio::spawn(async move { instance.stop().await });
        }
    }

    /// Starts an instance wherever a section is new or changed; remembers who refused.
    async fn start_what_is_new(&mut self) -> BTreeMap<Key, Running> {
        let mut starting = JoinSet::new();
        let mut wanted = Vec::new();
        for contents in self.files.entries().iter().filter_map(|entry| entry.good.as_ref()) {
            for plugin in &self.fixed.plugins.loaded {
                let key = (contents.says.namespace.clone(), plugin.kind().to_owned());
                let says = contents.says.sections.get(plugin.kind()).map(|section| section.says);
                let stands = self.running.get(&key).is_some_and(|running| running.says == says);
                let waits = self
                    .refused
                    .get(&key)
                    .is_some_and(|refused| refused.says == says && refused.again > Instant::now());
                wanted.push(key.clone());
                if stands {
                    // Perhaps changed back to what it was.
                    self.refused.remove(&key);
                } else if !waits {
                    let (plugin, contents) = (plugin.clone(), Arc::clone(contents));
                    let context = self.context(&plugin, &contents);
                    starting.spawn(
                        async move { (key, says, start(&plugin, &contents, context).await, contents) },
                    );
                }
            }
        }
        self.refused.retain(|key, _| wanted.contains(key));
        let mut started = BTreeMap::new();
        while let Some(joined) = starting.join_next().await {
            let (key, says, result, contents) = match joined {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "an instance could not be started");
                    continue;
                }
            };
            match result {
                Ok((instance, defaults)) => {
                    tracing::info!(namespace = key.0, kind = key.1, file = contents.name, "at work");
                    self.refused.remove(&key);
                    let settings = Settings::merge(&contents.says.settings, &self.fixed.flags, &defaults);
                    started.insert(key, Running { instance, says, defaults, settings: Arc::new(settings) });
                }
                Err(error) => self.refuse(key, says, error),
            }
        }
        started
    }

    fn refuse(&mut self, key: Key, says: Option<Fingerprint>, error: String) {
        let before = self.refused.remove(&key).filter(|before| before.says == says);
        let pause = before.as_ref().map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        if before.is_none_or(|before| before.error != error) {
            tracing::error!(namespace = key.0, kind = key.1, "{error}");
        }
        self.refused.insert(key, Refused { says, error, pause, again: Instant::now() + pause });
    }

    fn context(&self, plugin: &Plugin, contents: &Contents) -> PluginContext {
        PluginContext {
            namespace: contents.says.namespace.clone(),
            role: self.fixed.role,
            state_dir: self.fixed.state_dir.clone(),
            plugin_dir: plugin.path().parent().map(Into::into).unwrap_or_default(),
            kubeconfig: self.fixed.kubeconfig.clone(),
            kind: plugin.kind().to_owned(),
            file: contents.name.clone(),
            text: Arc::clone(&contents.text),
        }
    }

    /// The same instance with the settings of now.
    fn resettle(&self, old: Running, contents: &Contents) -> Running {
        let settings = Settings::merge(&contents.says.settings, &self.fixed.flags, &old.defaults);
        if settings == *old.settings { old } else { Running { settings: Arc::new(settings), ..old } }
    }
}

/// An instance and the defaults it brings; else why not, in one line.
async fn start(
    plugin: &Plugin,
    contents: &Contents,
    context: PluginContext,
) -> Result<(Instance, ResourceScalerConfig), String> {
    let kind = plugin.kind();
    let instance = plugin.start(context).await.map_err(|error| {
        let error = error.to_string();
        // An error in its section brings the place along.
        match contents.says.sections.get(kind) {
            _ if !contents.name.is_empty() && error.starts_with(&contents.name) => error,
            Some(section) => format!("{}:{}: plugin {kind}: {error}", contents.name, section.line),
            None => format!("namespace {}: plugin {kind}: {error}", contents.says.namespace),
        }
    })?;
    let defaults = instance.get_config().await.unwrap_or_else(|error| {
        tracing::warn!(kind, namespace = instance.namespace(), %error, "the plugin's defaults cannot be told: going on without");
        None
    });
    Ok((instance, defaults.unwrap_or_default()))
}
