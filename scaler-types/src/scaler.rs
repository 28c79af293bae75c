//! The trait that a plugin's author implements.

use std::{future::Future, time::Duration};

use crate::{
    Changes, Dlx, InterceptionRequest, PluginContext, Record, Resource, ResourceEvent, ResourceId,
    ResourceScalerConfig, RestoreRequest, Result, ScaleError, ScaleRequest, Version,
};

/// A kind of resource that can be scaled to zero and back.
///
/// Write each method as a plain `async fn`. They run on a tokio runtime of the plugin's own, so blocking for a
/// moment delays no other plugin, and waiting costs no thread. A call whose caller has given up is cancelled at its next
/// `await`. A panic is that call's error, never the daemon's end.
pub trait ResourceScaler: Send + Sync + Sized + 'static {
    /// The kind's name, and the key of its configuration in a namespace file: `deployment`, `process`.
    const KIND: &'static str;

    /// Starts an instance for one namespace file. Called again when the file changes; the old instance is
    /// [stopped](Self::stop) when the new one has started.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used: the daemon reports it and keeps the instance that it had.
    fn new(context: PluginContext) -> impl Future<Output = Result<Self>> + Send;

    /// Whether this namespace file gives it anything to do; by default every file does. If not, no instance is started for the
    /// file, and nothing is reported. Most plugins return [`PluginContext::has_section`].
    ///
    /// Called before the plugin has a runtime: only look at the context.
    fn is_configured(_context: &PluginContext) -> bool {
        true
    }

    /// All resources it manages, whatever their state. Not older than the call.
    ///
    /// # Errors
    ///
    /// They cannot be listed now. Nothing is scaled to zero on an error.
    fn get_resources(&self) -> impl Future<Output = Result<Vec<Resource>>> + Send;

    /// Scales one resource, and returns when it is reached: at zero, nothing is left running; from zero, an endpoint
    /// can be connected to (or the DLX finds that out itself, from [`Resource::endpoints`]).
    ///
    /// `request.record` is written in the same step as the scale, and only if the resource still has `request.version`.
    /// Several processes may request scales of one resource at the same time.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    fn set_scale(&self, request: &ScaleRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// Defaults for this kind; none unless overridden.
    ///
    /// # Errors
    ///
    /// They cannot be read; the daemon goes on without.
    fn get_config(&self) -> impl Future<Output = Result<Option<ResourceScalerConfig>>> + Send {
        async { Ok(None) }
    }

    /// Where the resource listens: `host` or `host:port`. Called only where [`Resource::endpoints`] is empty. It counts as
    /// the address of a [`Service`](crate::AddressOf::Service).
    ///
    /// # Errors
    ///
    /// There is no such resource, or it has no address.
    fn resolve_service_name(&self, resource: &ResourceId) -> impl Future<Output = Result<String>> + Send;

    /// Waits until something has changed since `cursor` and returns it. Cursor 0 returns everything at once, not older than the call.
    /// Answers come in the order of the changes: never an older state of a resource after a newer one.
    ///
    /// The default lists everything once a second. A call that waits longer than half a minute ends with
    /// "nothing changed", and is made again.
    ///
    /// # Errors
    ///
    /// The changes cannot be read now; the daemon keeps the last known state and calls again, with a growing pause.
    fn changes(&self, cursor: u64) -> impl Future<Output = Result<Changes>> + Send {
        async move {
            if cursor > 0 {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the documented default for plugins that cannot watch"
                )]
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(Changes {
                cursor: cursor + 1,
                complete: true,
                resources: self.get_resources().await?,
                removed: Vec::new(),
            })
        }
    }

    /// Writes `record` on the resource if its version is still `expected`, and returns the new version.
    ///
    /// Without it no resource can be drained, and one in traffic mode [`Always`](crate::TrafficMode::Always) stays awake.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if it has another version by now.
    fn compare_and_set(
        &self,
        resource: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> impl Future<Output = Result<Version, ScaleError>> + Send {
        let _ = (resource, expected, record);
        async { Err(ScaleError::Unsupported) }
    }

    /// Directs the requests of one resource as `request` says, and returns when that is written; the result is reported in
    /// [`Resource::interception`](crate::Resource::interception). Only the leader among the autoscalers calls it, and only for
    /// resources that report an interception. Calling it again with the same request is fine.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if another writer changed it meanwhile; [`ScaleError::Terminal`] with what prevents it.
    fn set_backend(
        &self,
        request: &InterceptionRequest,
    ) -> impl Future<Output = Result<(), ScaleError>> + Send {
        let _ = request;
        async { Err(ScaleError::Unsupported) }
    }

    /// The DLXs that take requests are these now. Updates every interception that names DLXs, and restores what was intercepted for
    /// a resource that is gone. Only the leader among the autoscalers calls it: when it becomes the leader, whenever the DLXs
    /// change, and at each scale interval.
    ///
    /// With no DLX, as `autoscaler restore` calls it after it restored every resource, it only restores what was intercepted for a
    /// resource that is gone.
    ///
    /// # Errors
    ///
    /// Not everything could be written, or, with no DLX, something is still intercepted; it is called again.
    fn sync_dlxs(&self, dlxs: &[Dlx]) -> impl Future<Output = Result<()>> + Send {
        let _ = dlxs;
        async { Ok(()) }
    }

    /// Restores a resource: it is awake, not intercepted, and nothing of Scaler's is left on it. Only called while no autoscaler is
    /// the leader; Scaler can manage the resource again later.
    ///
    /// # Errors
    ///
    /// It was not restored to the end; another call goes on from there.
    fn restore(&self, request: &RestoreRequest) -> impl Future<Output = Result<(), ScaleError>> + Send {
        let _ = request;
        async { Err(ScaleError::Unsupported) }
    }

    /// Publishes an event to the resource's users: on its object, where they look first. The default does nothing: the
    /// daemons log it anyway.
    ///
    /// # Errors
    ///
    /// It cannot be published. Nothing depends on it; the daemon logs that at most.
    fn publish_event(
        &self,
        resource: &ResourceId,
        event: &ResourceEvent,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (resource, event);
        async { Ok(()) }
    }

    /// The instance is no longer needed: its configuration changed or was removed, or the daemon stops. The resources keep their
    /// scale.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
