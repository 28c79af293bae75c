//! A plugin running for one namespace file.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use abi_stable::std_types::RVec;
use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, ResourceScalerConfig,
    RestoreRequest, ScaleError, ScaleRequest, Version,
    v1::{BoxScaler, Call, ChangesRequest, CompareAndSet, Fault, PublishEvent, method},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{CallError, breaker::Breaker};

/// How long a call may take that has no deadline of its own. A plugin behind a slow API server still makes it (client
/// libraries give up after 30 s or less), and a call that waits for changes is answered by the plugin's own glue after
/// 25 s: more than a minute is no slowness but a plugin that is stuck.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long an instance may take to stop: a daemon that ends, or takes a changed file, waits for it.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);

/// When a wake or a write that got no answer, or a panic, makes sense again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One plugin running for one namespace file. Cheap to clone; clones are equal, and no two instances are.
#[derive(Clone)]
pub struct Instance(Arc<Inner>);

struct Inner {
    id: u64,
    kind: String,
    namespace: String,
    scaler: BoxScaler,
    /// One per method whose silence says something about the plugin. A wake that takes its whole deadline does not.
    listing: Breaker,
    watching: Breaker,
}

/// Why there is no result, before it is put in the caller's words.
pub(crate) enum NoResult {
    TimedOut(Duration),
    Fault(Fault),
}

// === impl Instance ===

impl Instance {
    pub(crate) fn new(kind: String, namespace: String, scaler: BoxScaler) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (listing, watching) = Default::default();
        Self(Arc::new(Inner { id, kind, namespace, scaler, listing, watching }))
    }

    /// Tells instances of one process apart.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The kind of resource it scales.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The namespace it was started for; `*` is all.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// All resources it manages.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`] (several times in a row: left alone), an error, a panic.
    pub async fn get_resources(&self) -> Result<Vec<Resource>, CallError> {
        self.watched(&self.0.listing, method::GET_RESOURCES, &()).await
    }

    /// Scales one resource and returns when that is reached.
    ///
    /// # Errors
    ///
    /// The plugin's own verdict. No answer by the request's deadline, a panic, or an error that says nothing more: `Retry`.
    pub async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        self.call(request.deadline, method::SET_SCALE, request).await.map_err(not_written)
    }

    /// The defaults it brings for its kind.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`], an error, a panic.
    pub async fn get_config(&self) -> Result<Option<ResourceScalerConfig>, CallError> {
        Ok(self.call(ANSWER_WITHIN, method::GET_CONFIG, &()).await?)
    }

    /// Where a resource without endpoints listens: `host` or `host:port`.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`], no such resource, a panic.
    pub async fn resolve_service_name(&self, resource: &ResourceId) -> Result<String, CallError> {
        Ok(self.call(ANSWER_WITHIN, method::RESOLVE_SERVICE_NAME, resource).await?)
    }

    /// Waits for what changed since `cursor`; half a minute at most, then nothing has.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`] (several times in a row: left alone), an error, a panic.
    pub async fn changes(&self, cursor: u64) -> Result<Changes, CallError> {
        self.watched(&self.0.watching, method::CHANGES, &ChangesRequest { cursor }).await
    }

    /// Writes `record` if the resource's version is still `expected`; gives the new version.
    ///
    /// # Errors
    ///
    /// The plugin's own verdict. No answer within [`ANSWER_WITHIN`], a panic, or an error that says nothing more: `Retry`,
    /// and the record may have been written.
    pub async fn compare_and_set(
        &self,
        resource: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        let argument =
            CompareAndSet { id: resource.clone(), expected: expected.clone(), record: record.clone() };
        self.call(ANSWER_WITHIN, method::COMPARE_AND_SET, &argument).await.map_err(not_written)
    }

    /// Directs the requests of one resource as `request` says.
    ///
    /// # Errors
    ///
    /// As [`set_scale`](Self::set_scale); `Unsupported` from a plugin that intercepts nothing.
    pub async fn set_backend(&self, request: &InterceptionRequest) -> Result<(), ScaleError> {
        self.call(request.deadline, method::SET_BACKEND, request).await.map_err(not_written)
    }

    /// Updates every interception that names DLXs to those that take requests now. A plugin that does not know the call intercepts
    /// nothing.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`], an error, a panic.
    pub async fn sync_dlxs(&self, dlxs: &[Dlx]) -> Result<(), CallError> {
        match self.call(ANSWER_WITHIN, method::SYNC_DLXS, &dlxs).await {
            Err(NoResult::Fault(Fault::Unsupported(_))) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Restores a resource, as it was before.
    ///
    /// # Errors
    ///
    /// As [`set_scale`](Self::set_scale); `Unsupported` from a plugin that leaves nothing to restore.
    pub async fn restore(&self, request: &RestoreRequest) -> Result<(), ScaleError> {
        self.call(request.deadline, method::RESTORE, request).await.map_err(not_written)
    }

    /// Publishes `event` to the resource's users. A plugin that does not know the call publishes nothing.
    ///
    /// # Errors
    ///
    /// No answer within [`ANSWER_WITHIN`], an error, a panic.
    pub async fn publish_event(&self, resource: &ResourceId, event: &ResourceEvent) -> Result<(), CallError> {
        let argument = PublishEvent { id: resource.clone(), event: event.clone() };
        match self.call(ANSWER_WITHIN, method::PUBLISH_EVENT, &argument).await {
            Err(NoResult::Fault(Fault::Unsupported(_))) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Tells it that it is no longer needed. Whatever comes of it, it is over after [`STOP_WITHIN`].
    pub async fn stop(&self) {
        if let Err(error) = self.call::<()>(STOP_WITHIN, method::STOP, &()).await {
            let error = CallError::from(error);
            tracing::warn!(plugin = self.kind(), namespace = self.namespace(), %error, "the plugin did not stop in order");
        }
    }

    /// A call whose silence counts against the plugin.
    async fn watched<T: DeserializeOwned>(
        &self,
        breaker: &Breaker,
        method: &str,
        argument: &impl Serialize,
    ) -> Result<T, CallError> {
        breaker.admit().map_err(CallError::LeftAlone)?;
        let result = self.call(ANSWER_WITHIN, method, argument).await;
        breaker.record(!matches!(result, Err(NoResult::TimedOut(_))));
        Ok(result?)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        within: Duration,
        method: &str,
        argument: &impl Serialize,
    ) -> Result<T, NoResult> {
        let argument = serde_json::to_vec(argument).map_err(|error| {
            NoResult::Fault(Fault::Failed(format!("the call cannot be handed over: {error}")))
        })?;
        let call = self.0.scaler.call(method.into(), argument.into());
        let result: RVec<u8> = answer(within, call).await?;
        serde_json::from_slice(&result).map_err(|error| {
            let kind = self.kind();
            NoResult::Fault(Fault::Failed(format!(
                "the answer of {kind} to {method} makes no sense: {error}"
            )))
        })
    }
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Instance {}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { id, namespace, .. } = &*self.0;
        f.debug_struct("Instance")
            .field("id", id)
            .field("kind", &self.kind())
            .field("namespace", namespace)
            .finish_non_exhaustive()
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
