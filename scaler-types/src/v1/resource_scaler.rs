//! A [`ResourceScaler`](crate::ResourceScaler) behind the ABI.

use std::{future::Future, sync::Arc};

use abi_stable::std_types::RVec;
use serde::Deserialize as _;
use tokio::runtime::Runtime;

use super::{
    Call, ChangesRequest, CompareAndSet, Fault, PublishEvent, RESOURCE_SCALER,
    glue::{Exported, NOTHING_CHANGED_AFTER, decode, encode, failed, start, unsupported},
    method,
};
use crate::{
    Changes, Dlx, InterceptionRequest, PluginContext, ResourceId, ResourceScaler, RestoreRequest,
    ScaleRequest, Target,
};

/// Makes this library the plugin of a [`ResourceScaler`](crate::ResourceScaler): once, in a crate of type `cdylib`.
///
/// ```text
/// export_resource_scaler!(MyScaler);
/// ```
///
/// A crate may forbid `unsafe` and use it. It does not compile when panics abort, nor for a kind that cannot be a key and a
/// folder's name:
///
/// ```compile_fail,E0080
/// # use scaler_types::*;
/// struct MyScaler;
/// impl ResourceScaler for MyScaler {
///     const KIND: &'static str = "My/Scaler";
/// #   async fn new(_: PluginContext) -> Result<Self> { Ok(Self) }
/// #   async fn get_resources(&self) -> Result<Vec<Resource>> { Ok(Vec::new()) }
/// #   async fn set_scale(&self, _: &ScaleRequest) -> Result<(), ScaleError> { Ok(()) }
/// #   async fn resolve_service_name(&self, _: &ResourceId) -> Result<String> { Ok(String::new()) }
///     // ...
/// }
/// export_resource_scaler!(MyScaler);
/// ```
#[macro_export]
macro_rules! export_resource_scaler {
    ($scaler:ty) => {
        $crate::__export_plugin!($crate::v1::__private::ExportedResourceScaler<$scaler>);
    };
}

/// An author's resource-scaler.
pub struct ExportedResourceScaler<S>(pub(super) S);

// === impl ExportedResourceScaler ===

impl<S: ResourceScaler> Exported for ExportedResourceScaler<S> {
    const KIND: &'static str = S::KIND;
    const INTERFACE: &'static str = RESOURCE_SCALER;

    type Context = PluginContext;

    fn is_configured(context: &PluginContext) -> bool {
        S::is_configured(context)
    }

    async fn new(context: PluginContext) -> crate::Result<Self> {
        S::new(context).await.map(Self)
    }

    fn stop(&self) -> impl Future<Output = ()> + Send {
        self.0.stop()
    }

    fn call(self: Arc<Self>, runtime: &Runtime, method: &str, argument: RVec<u8>) -> Call<RVec<u8>> {
        match method {
            method::GET_RESOURCES => start(
                runtime,
                async move { encode(self.0.get_resources().await.map_err(failed)?) },
                RVec::from,
            ),
            method::SET_SCALE => {
                let work = async move {
                    let request = scale_request(&argument)?;
                    encode(self.0.set_scale(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::GET_CONFIG => {
                start(runtime, async move { encode(self.0.get_config().await.map_err(failed)?) }, RVec::from)
            }
            method::RESOLVE_SERVICE_NAME => {
                let work = async move {
                    let resource: ResourceId = decode(&argument)?;
                    encode(self.0.resolve_service_name(&resource).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::CHANGES => {
                let work = async move {
                    let ChangesRequest { cursor } = decode(&argument)?;
                    let changes = self.0.changes(cursor);
                    // "Everything there is" can only be answered by the author.
                    let changes = if cursor == 0 {
                        changes.await
                    } else {
                        let nothing = Ok(Changes { cursor, ..Changes::default() });
                        tokio::time::timeout(NOTHING_CHANGED_AFTER, changes).await.unwrap_or(nothing)
                    };
                    encode(changes.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::COMPARE_AND_SET => {
                let work = async move {
                    let CompareAndSet { id, expected, record } = decode(&argument)?;
                    encode(self.0.compare_and_set(&id, &expected, &record).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::SET_BACKEND => {
                let work = async move {
                    let request: InterceptionRequest = decode(&argument)?;
                    encode(self.0.set_backend(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::SYNC_DLXS => {
                let work = async move {
                    let dlxs: Vec<Dlx> = decode(&argument)?;
                    encode(self.0.sync_dlxs(&dlxs).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::RESTORE => {
                let work = async move {
                    let request: RestoreRequest = decode(&argument)?;
                    encode(self.0.restore(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::PUBLISH_EVENT => {
                let work = async move {
                    let PublishEvent { id, event } = decode(&argument)?;
                    encode(self.0.publish_event(&id, &event).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            unknown => unsupported(unknown),
        }
    }
}

/// A request whose target is of a later version is unsupported.
fn scale_request(argument: &[u8]) -> Result<ScaleRequest, Fault> {
    decode(argument).map_err(|fault| {
        let request: serde_json::Value = serde_json::from_slice(argument).unwrap_or_default();
        match request.get("target") {
            Some(target) if Target::deserialize(target).is_err() => {
                Fault::Unsupported(format!("the target {target}"))
            }
            _ => fault,
        }
    })
}
