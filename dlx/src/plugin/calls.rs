//! The calls of a plugin that a DLX makes.

use std::{future::Future, pin::Pin};

use plugin_host::Instance;
use scaler_types::{Changes, Record, ResourceEvent, ResourceId, ScaleError, ScaleRequest, Version};

/// A call under way.
pub(crate) type CallFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A call that did not work, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PluginCallError(pub(crate) String);

/// What a DLX asks of a plugin: an [`Instance`], or in tests a made-up one.
pub(crate) trait PluginCalls: Send + Sync + 'static {
    /// See [`scaler_types::ResourceScaler::changes`].
    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Changes, PluginCallError>>;

    /// See [`scaler_types::ResourceScaler::set_scale`].
    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>>;

    /// See [`scaler_types::ResourceScaler::compare_and_set`].
    fn compare_and_set<'a>(
        &'a self,
        id: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>>;

    /// See [`scaler_types::ResourceScaler::resolve_service_name`].
    fn resolve_service_name<'a>(
        &'a self,
        id: &'a ResourceId,
    ) -> CallFuture<'a, Result<String, PluginCallError>>;

    /// See [`scaler_types::ResourceScaler::publish_event`].
    fn publish_event<'a>(
        &'a self,
        id: &'a ResourceId,
        event: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), PluginCallError>>;
}

// === impl PluginCalls for Instance ===

impl PluginCalls for Instance {
    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Changes, PluginCallError>> {
        Box::pin(async move {
            Instance::changes(self, cursor).await.map_err(|error| PluginCallError(error.to_string()))
        })
    }

    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(Instance::set_scale(self, request))
    }

    fn compare_and_set<'a>(
        &'a self,
        id: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>> {
        Box::pin(Instance::compare_and_set(self, id, expected, record))
    }

    fn resolve_service_name<'a>(
        &'a self,
        id: &'a ResourceId,
    ) -> CallFuture<'a, Result<String, PluginCallError>> {
        Box::pin(async move {
            Instance::resolve_service_name(self, id).await.map_err(|error| PluginCallError(error.to_string()))
        })
    }

    fn publish_event<'a>(
        &'a self,
        id: &'a ResourceId,
        event: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), PluginCallError>> {
        Box::pin(async move {
            Instance::publish_event(self, id, event).await.map_err(|error| PluginCallError(error.to_string()))
        })
    }
}
