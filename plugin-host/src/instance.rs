//! The calls of a plugin that runs for one namespace file, over the plugin boundary.

use std::time::Duration;

use abi_stable::std_types::RVec;
use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, ResourceScalerConfig,
    RestoreRequest, ScaleError, ScaleRequest, Version,
    v1::{BoxScaler, Call, ChangesRequest, CompareAndSet, Fault, PublishEvent, method},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    CallError, CallFuture, Listed, RunningPlugin,
    breaker::Breaker,
    listed::{LoggedUnreadable, read_changes, read_resources},
};

/// How long a call may take that has no deadline of its own. Enough for a plugin behind a slow API server (client
/// libraries time out after 30 s or less), and a call that waits for changes is answered by the plugin's own glue after
/// 25 s: a plugin that takes more than a minute is stuck.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long an instance may take to stop: a daemon that ends, or takes a changed file, waits for it.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);

/// When to retry a wake or a write that got no answer, or a panic.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A plugin's object in its library, for one namespace file.
pub(crate) struct Instance {
    kind: String,
    namespace: String,
    scaler: BoxScaler,
    /// One per method whose timeouts count against the plugin. A wake may take its whole deadline.
    listing: Breaker,
    watching: Breaker,
    unreadable: LoggedUnreadable,
}

/// Why there is no result, before it becomes the caller's error.
pub(crate) enum NoResult {
    TimedOut(Duration),
    Fault(Fault),
}

// === impl Instance ===

impl Instance {
    pub(crate) fn new(kind: String, namespace: String, scaler: BoxScaler) -> Self {
        let (listing, watching, unreadable) = Default::default();
        Self { kind, namespace, scaler, listing, watching, unreadable }
    }

    /// A call whose timeout counts against the plugin.
    async fn watched<T>(
        &self,
        breaker: &Breaker,
        method: &str,
        argument: &impl Serialize,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, CallError> {
        breaker.admit().map_err(CallError::LeftAlone)?;
        let result = self.call_and_read(ANSWER_WITHIN, method, argument, read).await;
        breaker.record(!matches!(result, Err(NoResult::TimedOut(_))));
        Ok(result?)
    }

    /// A call that changes a resource.
    async fn write<T: DeserializeOwned>(
        &self,
        within: Duration,
        method: &str,
        argument: &impl Serialize,
    ) -> Result<T, ScaleError> {
        self.call(within, method, argument).await.map_err(not_written)
    }

    /// A call of which nothing comes in a plugin that does not know it.
    async fn call_if_known(&self, method: &str, argument: &impl Serialize) -> Result<(), CallError> {
        match self.call(ANSWER_WITHIN, method, argument).await {
            Err(NoResult::Fault(Fault::Unsupported(_))) => Ok(()),
            result => Ok(result?),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        within: Duration,
        method: &str,
        argument: &impl Serialize,
    ) -> Result<T, NoResult> {
        self.call_and_read(within, method, argument, |answer| serde_json::from_slice(answer)).await
    }

    async fn call_and_read<T>(
        &self,
        within: Duration,
        method: &str,
        argument: &impl Serialize,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, NoResult> {
        let argument = serde_json::to_vec(argument).map_err(|error| {
            NoResult::Fault(Fault::Failed(format!("the call cannot be handed over: {error}")))
        })?;
        let call = self.scaler.call(method.into(), argument.into());
        let result: RVec<u8> = answer(within, call).await?;
        read(&result).map_err(|error| {
            let kind = &self.kind;
            NoResult::Fault(Fault::Failed(format!(
                "cannot parse the answer of plugin {kind} to {method}: {error}"
            )))
        })
    }
}

impl RunningPlugin for Instance {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>> {
        Box::pin(async move {
            let listed = self.watched(&self.listing, method::GET_RESOURCES, &(), read_resources).await?;
            self.unreadable.log((&self.kind, &self.namespace), &listed.readable, &listed.unreadable, None);
            Ok(listed)
        })
    }

    fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>> {
        Box::pin(async move {
            let request = ChangesRequest { cursor };
            let listed = self.watched(&self.watching, method::CHANGES, &request, read_changes).await?;
            let Changes { complete, resources, removed, .. } = &listed.readable;
            let removed = (!complete).then_some(&**removed);
            self.unreadable.log((&self.kind, &self.namespace), resources, &listed.unreadable, removed);
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
        Box::pin(async move { Ok(self.call(ANSWER_WITHIN, method::RESOLVE_SERVICE_NAME, resource).await?) })
    }

    fn get_config(&self) -> CallFuture<'_, Result<Option<ResourceScalerConfig>, CallError>> {
        Box::pin(async move { Ok(self.call(ANSWER_WITHIN, method::GET_CONFIG, &()).await?) })
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
        Box::pin(async move {
            if let Err(error) = self.call::<()>(STOP_WITHIN, method::STOP, &()).await {
                let error = CallError::from(error);
                tracing::warn!(plugin = self.kind, namespace = self.namespace, %error, "the plugin did not stop in order");
            }
        })
    }
}

// === impl NoResult ===

impl From<NoResult> for CallError {
    fn from(none: NoResult) -> Self {
        match none {
            NoResult::TimedOut(within) => CallError::TimedOut(within),
            NoResult::Fault(fault) => fault.into(),
        }
    }
}

/// Waits for a call's end, and cancels it in the plugin when its time is over.
pub(crate) async fn answer<T>(within: Duration, call: Call<T>) -> Result<T, NoResult> {
    match tokio::time::timeout(within, call).await {
        Ok(result) => result.into_result().map_err(|fault| NoResult::Fault(Fault::from_json(&fault))),
        Err(_) => Err(NoResult::TimedOut(within)),
    }
}

fn not_written(none: NoResult) -> ScaleError {
    match none {
        NoResult::Fault(Fault::Scale(error)) => error,
        NoResult::Fault(Fault::Unsupported(_)) => ScaleError::Unsupported,
        other => ScaleError::Retry { after: TRY_AGAIN_AFTER, reason: CallError::from(other).to_string() },
    }
}
