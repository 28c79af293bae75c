//! The calls of a plugin that runs for one namespace file, over the plugin boundary.

use std::time::Duration;

use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, ResourceScalerConfig,
    RestoreRequest, ScaleError, ScaleRequest, Version,
    v1::{ChangesRequest, CompareAndSet, Fault, PublishEvent, method},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ANSWER_WITHIN, CallError, CallFuture, Listed, RunningPlugin,
    breaker::Breaker,
    listed::{LoggedUnreadable, read_changes, read_resources},
    object::{NoResult, Object},
};

/// When to retry a wake or a write that got no answer, or a panic.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A resource-scaler.
pub(crate) struct Instance {
    object: Object,
    /// One per method whose timeouts count against the plugin. A wake may take its whole deadline.
    listing: Breaker,
    watching: Breaker,
    unreadable: LoggedUnreadable,
}

// === impl Instance ===

impl Instance {
    pub(crate) fn new(object: Object) -> Self {
        let (listing, watching, unreadable) = Default::default();
        Self { object, listing, watching, unreadable }
    }

    /// A call that changes a resource.
    async fn write<T: DeserializeOwned>(
        &self,
        within: Duration,
        method: &str,
        argument: &impl Serialize,
    ) -> Result<T, ScaleError> {
        self.object.call(within, method, argument).await.map_err(not_written)
    }

    /// A call of which nothing comes in a plugin that does not know it.
    async fn call_if_known(&self, method: &str, argument: &impl Serialize) -> Result<(), CallError> {
        match self.object.call(ANSWER_WITHIN, method, argument).await {
            Err(NoResult::Fault(Fault::Unsupported(_))) => Ok(()),
            result => Ok(result?),
        }
    }
}

impl RunningPlugin for Instance {
    fn kind(&self) -> &str {
        &self.object.kind
    }

    fn namespace(&self) -> &str {
        &self.object.namespace
    }

    fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>> {
        Box::pin(async move {
            let listed =
                self.object.watched(&self.listing, method::GET_RESOURCES, &(), read_resources).await?;
            self.unreadable.log(
                (&self.object.kind, &self.object.namespace),
                &listed.readable,
                &listed.unreadable,
                None,
            );
            Ok(listed)
        })
    }

    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>> {
        Box::pin(async move {
            let request = ChangesRequest { cursor };
            let listed = self.object.watched(&self.watching, method::CHANGES, &request, read_changes).await?;
            let Changes { complete, resources, removed, .. } = &listed.readable;
            let removed = (!complete).then_some(&**removed);
            self.unreadable.log(
                (&self.object.kind, &self.object.namespace),
                resources,
                &listed.unreadable,
                removed,
            );
            Ok(listed)
        })
    }

    fn set_scale<'a>(&'a self, request: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(self.write(request.deadline, method::SET_SCALE, request))
    }

    fn compare_and_set<'a>(
        &'a self,
        resource: &'a ResourceId,
        expected: &'a Version,
        record: &'a Record,
    ) -> CallFuture<'a, Result<Version, ScaleError>> {
        Box::pin(async move {
            let argument =
                CompareAndSet { id: resource.clone(), expected: expected.clone(), record: record.clone() };
            self.write(ANSWER_WITHIN, method::COMPARE_AND_SET, &argument).await
        })
    }

    fn resolve_service_name<'a>(
        &'a self,
        resource: &'a ResourceId,
    ) -> CallFuture<'a, Result<String, CallError>> {
        Box::pin(
            async move { Ok(self.object.call(ANSWER_WITHIN, method::RESOLVE_SERVICE_NAME, resource).await?) },
        )
    }

    fn get_config(&self) -> CallFuture<'_, Result<Option<ResourceScalerConfig>, CallError>> {
        Box::pin(async move { Ok(self.object.call(ANSWER_WITHIN, method::GET_CONFIG, &()).await?) })
    }

    fn set_backend<'a>(&'a self, request: &'a InterceptionRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(self.write(request.deadline, method::SET_BACKEND, request))
    }

    fn sync_dlxs<'a>(&'a self, dlxs: &'a [Dlx]) -> CallFuture<'a, Result<(), CallError>> {
        Box::pin(async move { self.call_if_known(method::SYNC_DLXS, &dlxs).await })
    }

    fn restore<'a>(&'a self, request: &'a RestoreRequest) -> CallFuture<'a, Result<(), ScaleError>> {
        Box::pin(self.write(request.deadline, method::RESTORE, request))
    }

    fn publish_event<'a>(
        &'a self,
        resource: &'a ResourceId,
        event: &'a ResourceEvent,
    ) -> CallFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let argument = PublishEvent { id: resource.clone(), event: event.clone() };
            self.call_if_known(method::PUBLISH_EVENT, &argument).await
        })
    }

    fn stop(&self) -> CallFuture<'_, ()> {
        Box::pin(self.object.stop())
    }
}

fn not_written(none: NoResult) -> ScaleError {
    match none {
        NoResult::Fault(Fault::Scale(error)) => error,
        NoResult::Fault(Fault::Unsupported(_)) => ScaleError::Unsupported,
        other => ScaleError::Retry { after: TRY_AGAIN_AFTER, reason: CallError::from(other).to_string() },
    }
}
