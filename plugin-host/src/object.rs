//! A plugin's object in its library, and how it is called, whatever its interface.

use std::time::Duration;

use abi_stable::std_types::RVec;
use scaler_types::v1::{BoxScaler, Call, Fault, method};
use serde::{Serialize, de::DeserializeOwned};

use crate::{CallError, breaker::Breaker};

/// How long a call may take that has no deadline of its own. Enough for a plugin behind a slow API server (client
/// libraries time out after 30 s or less), and a call that waits for changes is answered by the plugin's own glue after
/// 25 s: a plugin that takes more than a minute is stuck.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long an instance may take to stop: a daemon that ends, or takes a changed file, waits for it.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A plugin's object in its library, for one namespace file.
pub(crate) struct Object {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) scaler: BoxScaler,
}

/// Why there is no result, before it becomes the caller's error.
pub(crate) enum NoResult {
    TimedOut(Duration),
    Fault(Fault),
}

// === impl Object ===

impl Object {
    /// A call whose timeout counts against the plugin.
    pub(crate) async fn watched<T>(
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

    pub(crate) async fn call<T: DeserializeOwned>(
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

    /// Stops it. A failure is logged.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.call::<()>(STOP_WITHIN, method::STOP, &()).await {
            let error = CallError::from(error);
            tracing::warn!(plugin = self.kind, namespace = self.namespace, %error, "the plugin did not stop in order");
        }
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
