//! The calls of a plugin, as the daemons make them.

use std::{fmt, future::Future, pin::Pin};

use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, ResourceScalerConfig,
    RestoreRequest, ScaleError, ScaleRequest, Version,
};

use crate::{CallError, Listed};

/// A call in progress; dropping it cancels it in the plugin.
pub type CallFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A plugin running for one namespace file: what [`Plugin::start`](crate::Plugin::start) gives, or a fake in a test. The methods that
/// have a default have that of [`ResourceScaler`](scaler_types::ResourceScaler).
///
/// A call that the plugin does not answer within [`ANSWER_WITHIN`](crate::ANSWER_WITHIN), or by the deadline of its request, fails, and so does
/// one that panics.
pub trait RunningPlugin: Send + Sync + 'static {
    /// The kind of resource it scales.
    fn kind(&self) -> &str;

    /// The namespace it was started for; `*` is all.
    fn namespace(&self) -> &str;

    /// All resources it manages.
    ///
    /// # Errors
    ///
    /// No answer in time (several times in a row: left alone), an error, a panic.
    fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>>;

    /// Waits for what changed since `cursor`; half a minute at most, then nothing has.
    ///
    /// # Errors
    ///
    /// No answer in time (several times in a row: left alone), an error, a panic.
    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>>;

    /// Scales one resource and returns when that is reached.
    ///
    /// # Errors
    ///
    /// The plugin's own error. No answer by the request's deadline, a panic, or an unclassified error: `Retry`.
    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>>;

    /// Writes `record` if the resource's version is still `expected`; gives the new version.
    ///
    /// # Errors
    ///
    /// The plugin's own error. No answer in time, a panic, or an unclassified error: `Retry`, and the record may have
    /// been written.
    fn compare_and_set<'a>(
        &'a self,
        resource: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>>;

    /// Where a resource without endpoints listens: `host` or `host:port`.
    ///
    /// # Errors
    ///
    /// No answer in time, no such resource, a panic.
    fn resolve_service_name<'a>(
        &'a self,
        resource: &'a ResourceId,
    ) -> CallFuture<'a, Result<String, CallError>>;

    /// The defaults it brings for its kind.
    ///
    /// # Errors
    ///
    /// No answer in time, an error, a panic.
    fn get_config(&self) -> CallFuture<'_, Result<Option<ResourceScalerConfig>, CallError>> {
        Box::pin(async { Ok(None) })
    }

    /// Directs the requests of one resource as `request` says.
    ///
    /// # Errors
    ///
    /// As [`set_scale`](Self::set_scale); `Unsupported` from a plugin that intercepts nothing.
    fn set_backend<'a>(&'a self, request: &'a InterceptionRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        let _ = request;
        Box::pin(async { Err(ScaleError::Unsupported) })
    }

    /// Updates every interception that names DLXs to those that take requests now. A plugin that does not know the call
    /// intercepts nothing.
    ///
    /// # Errors
    ///
    /// No answer in time, an error, a panic.
    fn sync_dlxs<'a>(&'a self, dlxs: &'a [Dlx]) -> CallFuture<'a, Result<(), CallError>> {
        let _ = dlxs;
        Box::pin(async { Ok(()) })
    }

    /// Restores a resource, as it was before.
    ///
    /// # Errors
    ///
    /// As [`set_scale`](Self::set_scale); `Unsupported` from a plugin that leaves nothing to restore.
    fn restore<'a>(&'a self, request: &'a RestoreRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        let _ = request;
        Box::pin(async { Err(ScaleError::Unsupported) })
    }

    /// Publishes `event` to the resource's users. A plugin that does not know the call publishes nothing.
    ///
    /// # Errors
    ///
    /// No answer in time, an error, a panic.
    fn publish_event<'a>(
        &'a self,
        resource: &'a ResourceId,
        event: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), CallError>> {
        let _ = (resource, event);
        Box::pin(async { Ok(()) })
    }

    /// Stops the plugin. It counts as stopped after [`STOP_WITHIN`](crate::STOP_WITHIN), whatever the result.
    fn stop(&self) -> CallFuture<'_, ()> {
        Box::pin(async {})
    }
}

// === impl RunningPlugin ===

/// One is equal to itself alone.
impl PartialEq for dyn RunningPlugin {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}

impl Eq for dyn RunningPlugin {}

impl fmt::Debug for dyn RunningPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningPlugin")
            .field("kind", &self.kind())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}
