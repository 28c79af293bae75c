//! The plugin's side of the boundary: an author's [`ResourceScaler`] behind the ABI of this version.
//!
//! Every call is a task on the plugin's own runtime; the host gets a future over it and holds no thread while it waits.
//! The host never polls, drops or unwinds the author's code on a thread of its own: a stuck plugin would take that
//! thread, and a panic at the boundary ends the process.

use std::{
    any::Any,
    fmt::Display,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use abi_stable::{
    erased_types::TD_Opaque,
    library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult},
    prefix_type::PrefixTypeTrait as _,
    std_types::{
        RResult::{RErr, ROk},
        RStr, RString, RVec,
    },
};
use async_ffi::FutureExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{
    BoxScaler, Call, ChangesRequest, CompareAndSet, CreateRequest, Fault, Host, Module, ModuleRef,
    PublishEvent, RESOURCE_SCALER, Scaler, Scaler_TO, log, method,
};
use crate::{
    Changes, Dlx, InterceptionRequest, PluginContext, ResourceId, ResourceScaler, RestoreRequest,
    ScaleRequest, Target,
};

/// Threads of a plugin's runtime: with one of two stuck in an author's blocking code, other calls are still answered.
const WORKERS: usize = 2;

/// How long a plugin may wait for a change before "nothing changed" is answered for it: below the 30 s the trait's
/// documentation promises, and well below the host's own timeout, so that a quiet plugin does not look like a stuck one.
const NOTHING_CHANGED_AFTER: Duration = Duration::from_secs(25);

/// One per library, never dropped: dropping a runtime waits for its threads, and a plugin's may be stuck.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

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
        const _: () = {
            #[cfg(not(panic = "unwind"))]
            compile_error!("a resource-scaler must be built with panic = \"unwind\": a panic is to be a call's error, not the daemon's end");

            assert!(
                $crate::v1::__private::valid_kind(<$scaler as $crate::ResourceScaler>::KIND),
                "a resource-scaler's KIND is 1 to 63 lower-case letters, digits and dashes, and begins with a letter"
            );

            // The name abi_stable looks for; a test compares it with abi_stable's own.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::v1::__private::LibHeader = $crate::v1::__private::header::<$scaler>();
        };
    };
}

/// The exported symbol's value.
pub const fn header<S: ResourceScaler>() -> LibHeader {
    // SAFETY: `root` hands out what it got from a `ModuleRef`, the type named here.
    unsafe { LibHeader::from_constructor::<ModuleRef>(root::<S>, CheckTypeLayout::Yes) }
}

/// See [`valid_kind`](super::valid_kind).
pub const fn valid_kind(kind: &str) -> bool {
    let bytes = kind.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        at += 1;
    }
    true
}

/// Of a [`CreateRequest`], whose context may be of another interface.
#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    interface: String,
}

/// The context of a [`CreateRequest`] for a resource-scaler.
fn plugin_context(request: &[u8]) -> Result<PluginContext, Fault> {
    let Interface { interface } = decode(request)?;
    if interface != RESOURCE_SCALER {
        return Err(Fault::Unsupported(format!("the interface {interface:?}")));
    }
    Ok(decode::<CreateRequest>(request)?.context)
}

extern "C" fn root<S: ResourceScaler>() -> RootModuleResult {
    __call_root_module_loader(module::<S>)
}

fn module<S: ResourceScaler>() -> ModuleRef {
    Module { kind: RStr::from_str(S::KIND), create: create::<S> }.leak_into_prefix()
}

/// The context of a new instance, if its namespace file gives the plugin anything to do.
fn configured_context<S: ResourceScaler>(request: &[u8]) -> Result<PluginContext, Fault> {
    let context = plugin_context(request)?;
    let configured = catch_unwind(AssertUnwindSafe(|| S::is_configured(&context))).map_err(panicked)?;
    if configured { Ok(context) } else { Err(Fault::NotConfigured) }
}

extern "C" fn create<S: ResourceScaler>(host: Host, context: RVec<u8>) -> Call<BoxScaler> {
    // Before there is a runtime: a plugin that no file configures has no threads.
    let context = match configured_context::<S>(&context) {
        Ok(context) => context,
        Err(why) => return std::future::ready(RErr(fault(why))).into_ffi(),
    };
    // On the host's thread: a runtime that cannot have its threads panics.
    let runtime = match catch_unwind(|| RUNTIME.get_or_init(|| runtime::<S>(host))) {
        Ok(runtime) => runtime,
        Err(payload) => return std::future::ready(RErr(fault(panicked(payload)))).into_ffi(),
    };
    let make = async move {
        let scaler = S::new(context).await.map_err(failed)?;
        Ok(Guarded { scaler: Some(Arc::new(scaler)), runtime })
    };
    start(runtime, make, |guarded| Scaler_TO::from_value(guarded, TD_Opaque))
}

fn runtime<S: ResourceScaler>(host: Host) -> Runtime {
    log::install(host, S::KIND);
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        // Linux shows 15 characters: the number comes first, so that it is not what is cut off.
        .thread_name_fn(|| format!("{}-{}", NEXT.fetch_add(1, Ordering::Relaxed), S::KIND))
        .enable_all()
        .build()
        .expect("the plugin's runtime starts its threads")
}

/// An author's instance, as the host holds it. The author's code runs (and is dropped) on the plugin's threads alone.
struct Guarded<S: ResourceScaler> {
    /// There until `drop`.
    scaler: Option<Arc<S>>,
    runtime: &'static Runtime,
}

/// Ends the task when the host gives up waiting for it.
struct CancelOnDrop<T>(JoinHandle<T>);

// === impl Guarded ===

impl<S: ResourceScaler> Scaler for Guarded<S> {
    fn call(&self, method: RString, argument: RVec<u8>) -> Call<RVec<u8>> {
        let scaler = self.scaler.clone().expect("it is there until it is dropped");
        let runtime = self.runtime;
        match method.as_str() {
            method::GET_RESOURCES => start(
                runtime,
                async move { encode(scaler.get_resources().await.map_err(failed)?) },
                RVec::from,
            ),
            method::SET_SCALE => {
                let work = async move {
                    let request = decode_scale_request(&argument)?;
                    encode(scaler.set_scale(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::GET_CONFIG => {
                start(runtime, async move { encode(scaler.get_config().await.map_err(failed)?) }, RVec::from)
            }
            method::RESOLVE_SERVICE_NAME => {
                let work = async move {
                    let resource: ResourceId = decode(&argument)?;
                    encode(scaler.resolve_service_name(&resource).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::CHANGES => {
                let work = async move {
                    let ChangesRequest { cursor } = decode(&argument)?;
                    let changes = scaler.changes(cursor);
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
                    encode(scaler.compare_and_set(&id, &expected, &record).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::SET_BACKEND => {
                let work = async move {
                    let request: InterceptionRequest = decode(&argument)?;
                    encode(scaler.set_backend(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::SYNC_DLXS => {
                let work = async move {
                    let dlxs: Vec<Dlx> = decode(&argument)?;
                    encode(scaler.sync_dlxs(&dlxs).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::RESTORE => {
                let work = async move {
                    let request: RestoreRequest = decode(&argument)?;
                    encode(scaler.restore(&request).await?)
                };
                start(runtime, work, RVec::from)
            }
            method::PUBLISH_EVENT => {
                let work = async move {
                    let PublishEvent { id, event } = decode(&argument)?;
                    encode(scaler.publish_event(&id, &event).await.map_err(failed)?)
                };
                start(runtime, work, RVec::from)
            }
            method::STOP => {
                let work = async move {
                    scaler.stop().await;
                    encode(())
                };
                start(runtime, work, RVec::from)
            }
            unknown => std::future::ready(RErr(fault(Fault::Unsupported(unknown.to_owned())))).into_ffi(),
        }
    }
}

impl<S: ResourceScaler> Drop for Guarded<S> {
    fn drop(&mut self) {
        let scaler = self.scaler.take();
        // The author's own `Drop` may block or panic: not here, on a thread of the host's.
        drop(self.runtime.spawn(async move { drop(scaler) }));
    }
}

// === impl CancelOnDrop ===

impl<T> Drop for CancelOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` as a task of the plugin's runtime and hands out its end. `cross` makes of the result what crosses.
fn start<T: Send + 'static, C: 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    cross: fn(T) -> C,
) -> Call<C> {
    let mut task = CancelOnDrop(runtime.spawn(work));
    async move {
        match (&mut task.0).await {
            Ok(Ok(result)) => ROk(cross(result)),
            Ok(Err(error)) => RErr(fault(error)),
            Err(gone) => RErr(fault(match gone.try_into_panic() {
                Ok(payload) => panicked(payload),
                Err(_) => Fault::Failed("the call was cancelled inside the plugin".to_owned()),
            })),
        }
    }
    .into_ffi()
}

/// Takes the text out of a panic, and what is left of it out of the way.
fn panicked(payload: Box<dyn Any + Send>) -> Fault {
    let said = log::text(&*payload).to_owned();
    // A payload may panic again when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    Fault::Panicked(said)
}

fn failed(error: anyhow::Error) -> Fault {
    Fault::Failed(format!("{error:#}"))
}

fn fault(fault: Fault) -> RString {
    fault.to_json().into()
}

fn encode<T: Serialize>(result: T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(&result).map_err(|error| unreadable("answer", error))
}

fn decode<T: DeserializeOwned>(argument: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(argument).map_err(|error| unreadable("argument", error))
}

/// A request whose target is of a later version is unsupported.
fn decode_scale_request(argument: &[u8]) -> Result<ScaleRequest, Fault> {
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

fn unreadable(what: &str, error: impl Display) -> Fault {
    Fault::Failed(format!(
        "the call's {what} cannot cross: {error}; build plugin and daemon with the same scaler-types"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScaleError;

    #[test]
    fn the_exported_symbol_is_the_one_abi_stable_looks_for() {
        let line = format!("#[unsafe(export_name = {:?})]", abi_stable::library::ROOT_MODULE_LOADER_NAME);
        assert!(include_str!("glue.rs").contains(&line), "{line}");
    }

    #[test]
    fn kinds_are_file_names_and_keys() {
        for kind in ["process", "a", "k8s-deployment"] {
            assert!(valid_kind(kind), "{kind}");
        }
        for kind in ["", "Process", "a/b", "..", "a.b", "-a", "1a", "a b", "ä", &"a".repeat(64)] {
            assert!(!valid_kind(kind), "{kind}");
        }
    }

    #[test]
    fn a_plugin_that_waits_too_long_is_answered_for_and_one_that_knows_nothing_is_not() {
        let (runtime, guarded) = quiet();
        let call = |cursor: u64| {
            guarded.call(method::CHANGES.into(), encode(ChangesRequest { cursor }).unwrap().into())
        };
        let asked = |cursor, within| {
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(within), call(cursor)).await })
        };
        let answer = asked(7, 30).expect("in time").into_result().unwrap();
        assert_eq!(decode::<Changes>(&answer), Ok(Changes { cursor: 7, ..Changes::default() }));
        let all = asked(0, 3600);
        assert!(all.is_err(), "nobody else can say what there is");
    }

    #[test]
    fn an_instance_of_another_interface_is_unsupported() {
        let context =
            r#""namespace": "demo", "role": "dlx", "state_dir": "/s", "plugin_dir": "/p", "kind": "quiet""#;
        let create = |interface: &str| plugin_context(format!("{{{interface}{context}}}").as_bytes());
        assert_eq!(create(r#""interface": "resource_scaler", "#).unwrap().kind, "quiet");
        for (interface, named) in [(r#""interface": "metric_source", "#, "metric_source"), ("", "")] {
            let unsupported = Err(Fault::Unsupported(format!("the interface {named:?}")));
            assert_eq!(create(interface), unsupported, "{interface}");
        }
        // The context of another interface may look different.
        let other = plugin_context(br#"{"interface": "metric_source", "queues": []}"#);
        assert!(matches!(other, Err(Fault::Unsupported(_))), "{other:?}");
    }

    /// No runtime either: it is made with the first instance.
    #[test]
    fn an_instance_that_has_nothing_to_do_is_not_made() {
        let request = |text: &str| {
            let text = serde_json::to_string(text).unwrap();
            format!(
                r#"{{"interface": "resource_scaler", "namespace": "demo", "role": "dlx", "state_dir": "/s",
                "plugin_dir": "/p", "kind": "picky", "namespace_file_text": {text}}}"#
            )
        };
        let context = |text: &str| configured_context::<Picky>(request(text).as_bytes());
        assert_eq!(context("plugins: {other: {}}\n"), Err(Fault::NotConfigured));
        assert_eq!(context("plugins: {picky: {}}\n").unwrap().kind, "picky");
        assert!(configured_context::<Quiet>(request("").as_bytes()).is_ok(), "the default");
    }

    /// A newer host: a method and a field of an argument that this plugin does not know.
    #[test]
    fn what_a_newer_host_asks_is_ignored_or_unsupported() {
        let (runtime, guarded) = quiet();
        let call = |method: &str, argument: &str| {
            let answer =
                runtime.block_on(guarded.call(method.into(), argument.as_bytes().into())).into_result();
            answer
                .map(|json| String::from_utf8(json.into()).unwrap())
                .map_err(|fault| Fault::from_json(&fault))
        };
        assert_eq!(call("dance", "{}"), Err(Fault::Unsupported("dance".to_owned())));
        let id = r#"{"namespace": "demo", "name": "a", "uid": "of a later version"}"#;
        assert_eq!(call(method::RESOLVE_SERVICE_NAME, id), Ok("\"demo/a\"".to_owned()));
        let Err(Fault::Failed(told)) = call(method::RESOLVE_SERVICE_NAME, "[]") else {
            panic!("it is no resource")
        };
        assert!(told.contains("argument"), "{told}");
        let request = r#"{"namespace": "demo", "name": "a", "target": {"at_least": 1}, "version": "1",
            "record": {"phase": "waking", "colour": "red"}, "deadline": "5s", "priority": 9}"#;
        assert_eq!(call(method::SET_SCALE, request), Err(Fault::Scale(ScaleError::Conflict)));
        let later = request.replace("at_least", "at_most");
        let unsupported = Err(Fault::Unsupported(r#"the target {"at_most":1}"#.to_owned()));
        assert_eq!(call(method::SET_SCALE, &later), unsupported);
        // To zero without a drain attempt: it comes to no plugin.
        let none = request.replace(r#""at_least": 1"#, r#""exactly": 0"#);
        let unsupported = Err(Fault::Unsupported(r#"the target {"exactly":0}"#.to_owned()));
        assert_eq!(call(method::SET_SCALE, &none), unsupported);
        assert!(matches!(call(method::SET_SCALE, &request.replace("5s", "5")), Err(Fault::Failed(_))));
    }

    /// Never lists anything; resolves a name to itself; has always been overtaken.
    struct Quiet;

    impl ResourceScaler for Quiet {
        const KIND: &'static str = "quiet";

        async fn new(_: PluginContext) -> crate::Result<Self> {
            Ok(Self)
        }

        async fn get_resources(&self) -> crate::Result<Vec<crate::Resource>> {
            std::future::pending().await
        }

        async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
            assert_eq!(
                (request.deadline, request.record.phase),
                (Duration::from_secs(5), crate::Phase::Waking)
            );
            Err(ScaleError::Conflict)
        }

        async fn resolve_service_name(&self, resource: &ResourceId) -> crate::Result<String> {
            Ok(resource.to_string())
        }

        async fn changes(&self, _: u64) -> crate::Result<Changes> {
            std::future::pending().await
        }
    }

    /// Wants configuration.
    struct Picky;

    impl ResourceScaler for Picky {
        const KIND: &'static str = "picky";

        fn is_configured(context: &PluginContext) -> bool {
            context.has_section()
        }

        async fn new(_: PluginContext) -> crate::Result<Self> {
            Ok(Self)
        }

        async fn get_resources(&self) -> crate::Result<Vec<crate::Resource>> {
            Ok(Vec::new())
        }

        async fn set_scale(&self, _: &ScaleRequest) -> Result<(), ScaleError> {
            Err(ScaleError::Conflict)
        }

        async fn resolve_service_name(&self, resource: &ResourceId) -> crate::Result<String> {
            Ok(resource.to_string())
        }
    }

    /// On a runtime whose clock jumps to the next timer when all wait.
    fn quiet() -> (&'static Runtime, Guarded<Quiet>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        (runtime, Guarded { scaler: Some(Arc::new(Quiet)), runtime })
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_an_error() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(panicked(Box::new(Bomb)), Fault::Panicked("with a payload that is no text".to_owned()));
        assert_eq!(panicked(Box::new("text")), Fault::Panicked("text".to_owned()));
        assert_eq!(panicked(Box::new(String::from("owned"))), Fault::Panicked("owned".to_owned()));
    }
}
