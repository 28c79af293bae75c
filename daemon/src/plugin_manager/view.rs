//! The plugin manager's metrics and admin routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, StatusCode};
use plugin_host::{Interface, METRIC_SOURCES_FOLDER, Panics, Plugin, RunningMetricSource};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;

use super::{MetricSources, PluginManager, Plugins, Served};
use crate::{
    admin::{self, Admin, Handler, Problems},
    files::ConfigFile,
    settings::Settings,
    telemetry,
};

/// The namespace files and what follows from them, as `GET /api/v1/config` shows it.
#[derive(Default, Serialize)]
pub(super) struct View {
    files: Vec<FileView>,
    namespaces: Vec<NamespaceView>,
    metric_sources: Vec<MetricSourceView>,
    /// Instances that are being started for the first time, or for a changed section.
    starting: Vec<String>,
    #[serde(skip)]
    errors: Family<FileLabel, Gauge>,
}

/// Reads how often plugins panicked when Prometheus asks.
#[derive(Debug)]
struct PluginPanics;

/// One file.
#[derive(Serialize)]
pub(super) struct FileView {
    /// Empty for a namespace without a file.
    file: String,
    /// The one that is served from it, as it was when it was last good.
    namespace: Option<String>,
    /// Why the file as it is now is not used, wholly or in part.
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// What is served.
#[derive(Serialize)]
struct NamespaceView {
    namespace: String,
    kind: String,
    settings: Arc<Settings>,
}

/// A metric source that is running for a namespace.
#[derive(Serialize)]
struct MetricSourceView {
    namespace: String,
    kind: String,
    schemes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    file: String,
    kind: String,
}

/// Code under this lock only reads and writes fields, so the view is whole even after a panic.
pub(super) fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl View ===

impl View {
    /// All errors of all files.
    pub(super) fn errors(&self) -> Vec<String> {
        self.files.iter().flat_map(|file| file.errors.iter().cloned()).collect()
    }

    /// Whether there is any namespace file, or a namespace without one.
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// The problems of the files and their consequences, a line each.
    fn problems(&self) -> Vec<String> {
        let errors = self
            .files
            .iter()
            .flat_map(|file| file.errors.iter().map(|error| format!("{error} ({})", file.kept())));
        // A plugin may warn of the same in each namespace.
        let warnings: BTreeSet<&String> = self.files.iter().flat_map(|file| &file.warnings).collect();
        errors
            .chain(warnings.into_iter().cloned())
            .chain(self.starting.iter().map(|one| format!("{one} has not started yet")))
            .collect()
    }

    /// Logs what is new in it.
    pub(super) fn replace(&mut self, files: Vec<FileView>, served: &[Served], starting: Vec<String>) {
        self.starting = starting;
        let before = self.files.iter().map(|file| (&file.file, (&file.errors, &file.warnings)));
        let before = before.collect::<std::collections::HashMap<_, _>>();
        for gone in self.files.iter().filter(|old| !files.iter().any(|file| file.file == old.file)) {
            self.errors.remove(&FileLabel { file: gone.file.clone() });
        }
        for file in &files {
            let known = before.get(&file.file);
            for error in
                file.errors.iter().filter(|error| !known.is_some_and(|(errors, _)| errors.contains(error)))
            {
                tracing::error!(file = file.file, kept = file.kept(), "{error}");
            }
            for text in file
                .warnings
                .iter()
                .filter(|text| !known.is_some_and(|(_, warnings)| warnings.contains(text)))
            {
                tracing::warn!(file = file.file, "{text}");
            }
            if !file.file.is_empty() {
                let label = FileLabel { file: file.file.clone() };
                self.errors.get_or_create(&label).set(i64::try_from(file.errors.len()).unwrap_or(i64::MAX));
            }
        }
        self.files = files;
        self.namespaces = served
            .iter()
            .map(|served| NamespaceView {
                namespace: served.namespace.clone(),
                kind: served.instance.kind().to_owned(),
                settings: Arc::clone(&served.settings),
            })
            .collect();
        let sources: BTreeMap<_, _> =
            served.iter().map(|served| (&served.namespace, &served.metric_sources)).collect();
        let view = |source: Arc<dyn RunningMetricSource>| MetricSourceView {
            namespace: source.namespace().to_owned(),
            kind: source.kind().to_owned(),
            schemes: source.schemes().to_vec(),
        };
        self.metric_sources = sources.into_values().flat_map(MetricSources::running).map(view).collect();
    }
}

// === impl FileView ===

impl FileView {
    /// The consequence of an error in it.
    fn kept(&self) -> &'static str {
        if self.namespace.is_some() {
            "its last valid contents stay in effect"
        } else {
            "its namespace is not managed"
        }
    }

    pub(super) fn new(entry: &ConfigFile, plugins: &Plugins) -> Self {
        let unknown = |interface: Interface| {
            let kinds: Vec<_> = plugins.select(interface).map(Plugin::kind).collect();
            let sections = entry.good.iter().flat_map(move |good| good.says.sections_of(interface));
            let known = kinds.join(", ");
            let unknown = sections.filter(move |(kind, _)| !kinds.contains(&kind.as_str()));
            unknown.map(move |(kind, section)| {
                let (file, line) = (entry.path.display(), section.line);
                match interface {
                    Interface::ResourceScaler => format!(
                        "{file}:{line}: no plugin of the kind {kind:?} is loaded, expected one of {known}"
                    ),
                    Interface::MetricSource if known.is_empty() => format!(
                        "{file}:{line}: no metric source is loaded: put the library of {kind} into plugins/{METRIC_SOURCES_FOLDER}"
                    ),
                    Interface::MetricSource => format!(
                        "{file}:{line}: no metric source {kind:?} is loaded, expected one of {known}: put its library into plugins/{METRIC_SOURCES_FOLDER}"
                    ),
                }
            })
        };
        let mut warnings: Vec<_> = unknown(Interface::ResourceScaler).collect();
        if plugins.has_metric_sources {
            warnings.extend(unknown(Interface::MetricSource));
        }
        Self {
            file: entry.path.display().to_string(),
            namespace: entry.good.as_ref().map(|good| good.says.namespace.clone()),
            errors: entry.error.iter().map(ToString::to_string).collect(),
            warnings,
        }
    }
}

// === impl PluginManager ===

impl PluginManager {
    /// Adds `scaler_plugin_loaded` and `scaler_config_errors`; for a registry of [`crate::telemetry::registry`].
    pub fn register(&self, registry: &mut Registry) {
        let loaded = Family::<PluginLabels, Gauge>::default();
        for plugin in &self.plugins.loaded {
            let labels =
                PluginLabels { file: plugin.path().display().to_string(), kind: plugin.kind().to_owned() };
            loaded.get_or_create(&labels).set(1);
        }
        for rejected in &self.plugins.rejected {
            let labels = PluginLabels { file: rejected.path.display().to_string(), kind: String::new() };
            loaded.get_or_create(&labels).set(0);
        }
        telemetry::PLUGIN_LOADED.register(registry, loaded);
        registry.register_collector(Box::new(PluginPanics));
        telemetry::CONFIG_ERRORS.register(registry, lock(&self.view).errors.clone());
    }

    /// The problems while others are served, a line each: plugins that were not loaded, refused files, instances that
    /// could not start, plugins that panicked.
    pub fn problems(&self) -> Vec<String> {
        problems(&self.plugins, &self.view)
    }

    /// Adds `GET /api/v1/plugins`, `/api/v1/config` and `/api/v1/problems`, and the problems to `/readyz`.
    #[must_use]
    pub fn routes(&self, admin: Admin) -> Admin {
        let (loaded, shown) = (Arc::clone(&self.plugins), Arc::clone(&self.view));
        let found: Problems = Arc::new(move || problems(&loaded, &shown));
        let current = Arc::clone(&found);
        let listed: Handler = Arc::new(move |_| {
            let answer = admin::json(StatusCode::OK, &serde_json::json!({ "problems": current() }));
            Box::pin(async move { answer })
        });
        let plugins = Arc::clone(&self.plugins);
        let plugins: Handler = Arc::new(move |_| {
            let loaded = plugins.loaded.iter().map(|plugin| {
                serde_json::json!({
                    "kind": plugin.kind(),
                    "interface": plugin.interface().name(),
                    "file": plugin.path().display().to_string(),
                })
            });
            let rejected = plugins.rejected.iter().map(|rejected| {
                serde_json::json!({
                    "file": rejected.path.display().to_string(),
                    "reason": rejected.error.to_string(),
                })
            });
            let (loaded, rejected): (Vec<_>, Vec<_>) = (loaded.collect(), rejected.collect());
            let answer =
                admin::json(StatusCode::OK, &serde_json::json!({ "loaded": loaded, "rejected": rejected }));
            Box::pin(async move { answer })
        });
        let view = Arc::clone(&self.view);
        let config: Handler = Arc::new(move |_| {
            let answer = admin::json(StatusCode::OK, &*lock(&view));
            Box::pin(async move { answer })
        });
        admin
            .problems(found)
            .route(Method::GET, "/api/v1/plugins", plugins)
            .route(Method::GET, "/api/v1/config", config)
            .route(Method::GET, "/api/v1/problems", listed)
    }
}

fn problems(plugins: &Plugins, view: &Mutex<View>) -> Vec<String> {
    let rejected = plugins.rejected.iter().map(|rejected| format!("plugin not loaded: {rejected}"));
    let panicked = plugin_host::panics().into_iter().map(|Panics { kind, count, last }| {
        format!("plugin {kind} panicked (times since the daemon started: {count}), last: {last}")
    });
    rejected.chain(lock(view).problems()).chain(panicked).collect()
}

// === impl PluginPanics ===

impl Collector for PluginPanics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = telemetry::PLUGIN_PANICS.encode(&mut encoder)?;
        for Panics { kind, count, .. } in plugin_host::panics() {
            ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}
