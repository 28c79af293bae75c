//! A loaded library.

use std::{
    error::Error as _,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use abi_stable::library::{LibraryError, RootModule as _, lib_header_from_path};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use scaler_types::{
    MetricSourceContext, PluginContext,
    v1::{self, BoxScaler, CreateRequest, METRIC_SOURCE, ModuleRef, RESOURCE_SCALER},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    ANSWER_WITHIN, CallError, Interface, LoadError, RunningMetricSource, RunningPlugin,
    instance::Instance,
    log,
    metric_source::MetricSourceInstance,
    object::{Object, answer},
};

/// A loaded library. Never unloaded. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    kind: String,
    path: PathBuf,
    interface: Interface,
    /// Of the types that cross.
    version: String,
    module: ModuleRef,
    /// Held while the library makes an instance: one that hangs keeps one thread, however often it is tried again.
    creating: Arc<Mutex<()>>,
}

// === impl Plugin ===

impl Plugin {
    /// Loads one library, which has this interface as it was [inspected](crate::inspect). Runs its initialisers.
    pub(crate) fn load(path: &Path, interface: Interface) -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's initialisers. It declares itself a plugin, and its writers are trusted with
        // the daemon (see the crate's documentation).
        // RTLD_NOW turns a missing symbol into this error: bound lazily it would end the process at its first call.
        #[allow(unsafe_code)]
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
            LoadError::Open(error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        // Never unloaded: its threads run on, and a Rust library's thread-local destructors would point nowhere.
        std::mem::forget(library);
        // Not `ModuleRef::load_from_file`: that answers the first library's module for every later path.
        let header = lib_header_from_path(path).map_err(refused)?;
        let version = header.version_strings().to_string();
        let module = header.init_root_module::<ModuleRef>().map_err(refused)?;
        let kind = module.kind().as_str();
        if !v1::valid_kind(kind) {
            return Err(LoadError::Kind(kind.to_owned()));
        }
        Ok(Self(Arc::new(Loaded {
            kind: kind.to_owned(),
            path: path.to_owned(),
            interface,
            version,
            module,
            creating: Arc::default(),
        })))
    }

    /// The kind of resource it scales, or the metric source's name.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What it implements.
    pub fn interface(&self) -> Interface {
        self.0.interface
    }

    /// The version of the plugin interface it was built with.
    pub fn interface_version(&self) -> &str {
        &self.0.version
    }

    /// Starts an instance of a resource-scaler for one namespace file. Tells it its own kind and folder, whatever `context` has
    /// there.
    ///
    /// # Errors
    ///
    /// It refused its configuration, panicked over it, gave no answer within [`ANSWER_WITHIN`], or is a metric source.
    pub async fn start(&self, context: PluginContext) -> Result<Arc<dyn RunningPlugin>, CallError> {
        let context = PluginContext {
            kind: self.0.kind.clone(),
            plugin_dir: self.0.path.parent().map(Path::to_owned).unwrap_or_default(),
            ..context
        };
        let scaler = self.create(RESOURCE_SCALER, &context).await?;
        Ok(Arc::new(Instance::new(Object { kind: context.kind, namespace: context.namespace, scaler })))
    }

    /// Starts an instance of a metric source for one namespace file. Tells it its own kind, whatever `context` has there.
    ///
    /// # Errors
    ///
    /// It refused its configuration, panicked over it, gave no answer within [`ANSWER_WITHIN`], or is a resource-scaler.
    pub async fn start_metric_source(
        &self,
        context: MetricSourceContext,
    ) -> Result<Arc<dyn RunningMetricSource>, CallError> {
        let context = MetricSourceContext { kind: self.0.kind.clone(), ..context };
        let scaler = self.create(METRIC_SOURCE, &context).await?;
        let object = Object { kind: context.kind, namespace: context.namespace, scaler };
        Ok(Arc::new(MetricSourceInstance::start(object).await?))
    }

    async fn create(&self, interface: &str, context: &impl Serialize) -> Result<BoxScaler, CallError> {
        let request = CreateRequest { interface: interface.to_owned(), context };
        let json = serde_json::to_vec(&request)
            .map_err(|error| CallError::Plugin(format!("its context cannot be handed over: {error}")))?;
        let module = self.0.module;
        let creating = Arc::clone(&self.0.creating);
        let create = async move {
            let turn = creating.lock_owned().await;
            // The library makes its runtime on a blocking thread, not on a worker of ours.
            tokio::task::spawn_blocking(move || {
                let call = module.create()(log::host(), json.into());
                drop(turn);
                call
            })
            .await
            .map_err(|error| CallError::Plugin(format!("it could not be started: {error}")))
        };
        let call = timeout(ANSWER_WITHIN, create).await.map_err(|_| CallError::TimedOut(ANSWER_WITHIN))??;
        Ok(answer(ANSWER_WITHIN, call).await?)
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("kind", &self.0.kind)
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

/// Why abi_stable did not take a library.
fn refused(error: LibraryError) -> LoadError {
    let ours = ModuleRef::VERSION_STRINGS.to_string();
    match error {
        LibraryError::IncompatibleVersionNumber { actual_version, .. } => {
            LoadError::Version { theirs: actual_version.to_string(), ours }
        }
        LibraryError::InvalidAbiHeader(header) => LoadError::Layout(format!(
            "by abi_stable {}.{}, which this daemon does not use",
            header.abi_major, header.abi_minor
        )),
        LibraryError::AbiInstability(report) => {
            // About a thousand lines; the last error says which type and how.
            let report = report.to_string();
            let last = report.rfind("Error:").map_or(report.as_str(), |at| &report[at + "Error:".len()..]);
            LoadError::Layout(last.split_whitespace().take(30).collect::<Vec<_>>().join(" "))
        }
        LibraryError::RootModule { err, .. } => LoadError::Constructor(err.to_string()),
        other => LoadError::Open(other.to_string()),
    }
}
