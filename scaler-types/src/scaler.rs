//! What a plugin author implements.

use std::{future::Future, time::Duration};

use crate::{
    Changes, Dlx, InterceptionRequest, PluginContext, Record, Resource, ResourceEvent, ResourceId,
    ResourceScalerConfig, RestoreRequest, Result, ScaleError, ScaleRequest, Version,
};

/// A kind of resource that can be scaled to zero and back.
///
/// Write each method as a plain `async fn`. They run on a tokio runtime of the plugin's own, so blocking for a
/// moment harms nobody else, and waiting costs no thread. A call whose caller has given up is cancelled at its next
/// `await`. A panic is that call's error, never the daemon's end.
pub trait ResourceScaler: Send + Sync + Sized + 'static {
    /// The kind's name, and the key of its section in a namespace file: `deployment`, `process`.
    const KIND: &'static str;

    /// Starts an instance for one namespace file. Called again with the new section when the file changes; the
    /// old instance is [stopped](Self::stop) once the new one stands.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used: the daemon reports it and goes on with what it had.
    fn new(context: PluginContext) -> impl Future<Output = Result<Self>> + Send;

    /// All resources it manages, whatever their state. Not older than the call.
    ///
    /// # Errors
    ///
    /// They cannot be told now. Nothing is scaled to zero on an error.
    fn get_resources(&self) -> impl Future<Output = Result<Vec<Resource>>> + Send;

    /// Scales one resource, and returns when it is reached: at zero, nothing is left running; from zero, an endpoint
    /// can be connected to (or the DLX finds that out itself, from [`Resource::endpoints`]).
    ///
    /// `request.record` is written in the same step as the scale, and only if `request.version` still stands. Wakes and
    /// sleeps of one resource may be asked for at the same time and by several processes.
    ///
    /// # Errors
    ///
    /// See [`ScaleError`].
    fn set_scale(&self, request: &ScaleRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// Defaults for this kind; none unless overridden.
    ///
    /// # Errors
    ///
    /// They cannot be told; the daemon goes on without.
    fn get_config(&self) -> impl Future<Output = Result<Option<ResourceScalerConfig>>> + Send {
        async { Ok(None) }
    }

    /// Where the resource listens: `host` or `host:port`. Asked only where [`Resource::endpoints`] is empty. It is taken for
    /// the address of a [`Service`](crate::AddressOf::Service).
    ///
    /// # Errors
    ///
    /// There is no such resource, or it has no address.
    fn resolve_service_name(&self, resource: &ResourceId) -> impl Future<Output = Result<String>> + Send;

    /// Waits until something changed since `cursor`, then tells what. Cursor 0 knows nothing: everything is told at
    /// once, not older than the call. The answers follow each other in the order of the changes: a resource's older
    /// state never comes after a newer one.
    ///
    /// The default lists everything once a second. A call that waits longer than half a minute is answered
    /// "nothing changed" on its behalf, and asked again.
    ///
    /// # Errors
    ///
    /// It cannot be told now; the daemon keeps what it knew and asks again, with a growing pause.
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

    /// Writes `record` on the resource if its version is still `expected`, and tells the new version.
    ///
    /// Without it no resource can be drained, and one in traffic mode [`Always`](crate::TrafficMode::Always) stays awake.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if the version is another by now.
    fn compare_and_set(
        &self,
        resource: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> impl Future<Output = Result<Version, ScaleError>> + Send {
        let _ = (resource, expected, record);
        async { Err(ScaleError::Unsupported) }
    }

    /// Directs the requests of one resource as `request` says, and returns when that is written; what came of it is reported by
    /// [`Resource::interception`](crate::Resource::interception). Only the leader among the autoscalers calls it, and only for
    /// resources that report an interception. Calling it again with the same request is fine.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Conflict`] if somebody else changed it meanwhile; [`ScaleError::Terminal`] with what prevents it.
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

    /// The instance is no longer needed: its section changed or went away, or the daemon ends. What it has scaled
    /// stays as it is.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
