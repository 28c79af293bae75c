//! The plugin's side of the boundary, whatever its interface: an author's instance behind the ABI of this version.
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

use super::{BoxScaler, Call, CreateRequest, Fault, Host, Module, ModuleRef, Scaler, Scaler_TO, log, method};

/// Threads of a plugin's runtime: with one of two stuck in an author's blocking code, other calls are still answered.
const WORKERS: usize = 2;

/// How long a plugin may wait for a change before "nothing changed" is answered for it: below the 30 s the trait's
/// documentation promises, and well below the host's own timeout, so that a quiet plugin does not look like a stuck one.
pub(super) const NOTHING_CHANGED_AFTER: Duration = Duration::from_secs(25);

/// One per library, never dropped: dropping a runtime waits for its threads, and a plugin's may be stuck.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Exports the root module of a plugin: once in a library.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_plugin {
    ($instance:ty) => {
        const _: () = {
            #[cfg(not(panic = "unwind"))]
            compile_error!("a plugin must be built with panic = \"unwind\": a panic is to be a call's error, not the daemon's end");

            assert!(
                $crate::v1::__private::valid_kind(<$instance as $crate::v1::__private::Exported>::KIND),
                "a plugin's KIND is 1 to 63 lower-case letters, digits and dashes, and begins with a letter"
            );

            // The name abi_stable looks for; a test compares it with abi_stable's own.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::v1::__private::LibHeader = $crate::v1::__private::header::<$instance>();
        };
    };
}

/// An instance of what a library's author has implemented, as this module calls it.
pub trait Exported: Send + Sync + Sized + 'static {
    /// The author's `KIND`.
    const KIND: &'static str;

    /// [`CreateRequest::interface`].
    const INTERFACE: &'static str;

    /// What it starts with.
    type Context: DeserializeOwned + Send + 'static;

    /// Whether its namespace file gives it anything to do.
    fn is_configured(_context: &Self::Context) -> bool {
        true
    }

    /// The author's `new`.
    fn new(context: Self::Context) -> impl Future<Output = crate::Result<Self>> + Send;

    /// The author's `stop`.
    fn stop(&self) -> impl Future<Output = ()> + Send;

    /// Starts any other method: with [`start`], or as [`unsupported`].
    fn call(self: Arc<Self>, runtime: &Runtime, method: &str, argument: RVec<u8>) -> Call<RVec<u8>>;
}

/// The exported symbol's value.
pub const fn header<E: Exported>() -> LibHeader {
    // SAFETY: `root` hands out what it got from a `ModuleRef`, the type named here.
    unsafe { LibHeader::from_constructor::<ModuleRef>(root::<E>, CheckTypeLayout::Yes) }
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

/// The context of a [`CreateRequest`] for this interface.
fn context<E: Exported>(request: &[u8]) -> Result<E::Context, Fault> {
    let Interface { interface } = decode(request)?;
    if interface != E::INTERFACE {
        return Err(Fault::Unsupported(format!("the interface {interface:?}")));
    }
    Ok(decode::<CreateRequest<E::Context>>(request)?.context)
}

extern "C" fn root<E: Exported>() -> RootModuleResult {
    __call_root_module_loader(module::<E>)
}

fn module<E: Exported>() -> ModuleRef {
    Module { kind: RStr::from_str(E::KIND), create: create::<E> }.leak_into_prefix()
}

/// The context of a new instance, if its namespace file gives the plugin anything to do.
fn configured_context<E: Exported>(request: &[u8]) -> Result<E::Context, Fault> {
    let context = context::<E>(request)?;
    let configured = catch_unwind(AssertUnwindSafe(|| E::is_configured(&context))).map_err(panicked)?;
    if configured { Ok(context) } else { Err(Fault::NotConfigured) }
}

extern "C" fn create<E: Exported>(host: Host, context: RVec<u8>) -> Call<BoxScaler> {
    // Before there is a runtime: a plugin that no file configures has no threads.
    let context = match configured_context::<E>(&context) {
        Ok(context) => context,
        Err(why) => return refused(why),
    };
    // On the host's thread: a runtime that cannot have its threads panics.
    let runtime = match catch_unwind(|| RUNTIME.get_or_init(|| runtime::<E>(host))) {
        Ok(runtime) => runtime,
        Err(payload) => return refused(panicked(payload)),
    };
    let make = async move {
        let instance = E::new(context).await.map_err(failed)?;
        Ok(Guarded { instance: Some(Arc::new(instance)), runtime })
    };
    start(runtime, make, |guarded| Scaler_TO::from_value(guarded, TD_Opaque))
}

fn runtime<E: Exported>(host: Host) -> Runtime {
    log::install(host, E::KIND);
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        // Linux shows 15 characters: the number comes first, so that it is not what is cut off.
        .thread_name_fn(|| format!("{}-{}", NEXT.fetch_add(1, Ordering::Relaxed), E::KIND))
        .enable_all()
        .build()
        .expect("the plugin's runtime starts its threads")
}

/// An author's instance, as the host holds it. The author's code runs (and is dropped) on the plugin's threads alone.
pub(super) struct Guarded<E: Exported> {
    /// There until `drop`.
    pub(super) instance: Option<Arc<E>>,
    pub(super) runtime: &'static Runtime,
}

/// Ends the task when the host gives up waiting for it.
struct CancelOnDrop<T>(JoinHandle<T>);

// === impl Guarded ===

impl<E: Exported> Scaler for Guarded<E> {
    fn call(&self, method: RString, argument: RVec<u8>) -> Call<RVec<u8>> {
        let instance = self.instance.clone().expect("it is there until it is dropped");
        if method.as_str() == method::STOP {
            let work = async move {
                instance.stop().await;
                encode(())
            };
            return start(self.runtime, work, RVec::from);
        }
        instance.call(self.runtime, method.as_str(), argument)
    }
}

impl<E: Exported> Drop for Guarded<E> {
    fn drop(&mut self) {
        let instance = self.instance.take();
        // The author's own `Drop` may block or panic: not here, on a thread of the host's.
        drop(self.runtime.spawn(async move { drop(instance) }));
    }
}

// === impl CancelOnDrop ===

impl<T> Drop for CancelOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` as a task of the plugin's runtime and hands out its end. `cross` makes of the result what crosses.
pub(super) fn start<T: Send + 'static, C: 'static>(
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

/// The answer to a method that this interface does not have.
pub(super) fn unsupported(method: &str) -> Call<RVec<u8>> {
    refused(Fault::Unsupported(method.to_owned()))
}

fn refused<C: 'static>(why: Fault) -> Call<C> {
    async move { RErr(fault(why)) }.into_ffi()
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

pub(super) fn failed(error: anyhow::Error) -> Fault {
    Fault::Failed(format!("{error:#}"))
}

fn fault(fault: Fault) -> RString {
    fault.to_json().into()
}

pub(super) fn encode<T: Serialize>(result: T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(&result).map_err(|error| unreadable("answer", error))
}

pub(super) fn decode<T: DeserializeOwned>(argument: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(argument).map_err(|error| unreadable("argument", error))
}

fn unreadable(what: &str, error: impl Display) -> Fault {
    Fault::Failed(format!(
        "the call's {what} cannot cross: {error}; build plugin and daemon with the same scaler-types"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Changes, MetricSource, MetricSourceContext, PluginContext, QueueError, QueueReading, ResourceId,
        ResourceScaler, ScaleError, ScaleRequest,
        v1::{ChangesRequest, metric_source::ExportedMetricSource, resource_scaler::ExportedResourceScaler},
    };

    #[test]
    fn the_exported_symbol_is_the_one_abi_stable_looks_for() {
        let line = |name: &str| format!("#[unsafe(export_name = {name:?})]");
        let root = line(abi_stable::library::ROOT_MODULE_LOADER_NAME);
        assert!(include_str!("glue.rs").contains(&root), "{root}");
        let source = line(crate::v1::METRIC_SOURCE_SYMBOL);
        assert!(include_str!("metric_source.rs").contains(&source), "{source}");
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
        let fields =
            r#""namespace": "demo", "role": "dlx", "state_dir": "/s", "plugin_dir": "/p", "kind": "quiet""#;
        let create = |interface: &str| {
            context::<ExportedResourceScaler<Quiet>>(format!("{{{interface}{fields}}}").as_bytes())
        };
        assert_eq!(create(r#""interface": "resource_scaler", "#).unwrap().kind, "quiet");
        for (interface, named) in [(r#""interface": "metric_source", "#, "metric_source"), ("", "")] {
            let unsupported = Err(Fault::Unsupported(format!("the interface {named:?}")));
            assert_eq!(create(interface), unsupported, "{interface}");
        }
        // The context of another interface may look different.
        let other =
            context::<ExportedResourceScaler<Quiet>>(br#"{"interface": "metric_source", "queues": []}"#);
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
        let configured =
            |text: &str| configured_context::<ExportedResourceScaler<Picky>>(request(text).as_bytes());
        assert_eq!(configured("plugins: {other: {}}\n"), Err(Fault::NotConfigured));
        assert_eq!(configured("plugins: {picky: {}}\n").unwrap().kind, "picky");
        assert!(
            configured_context::<ExportedResourceScaler<Quiet>>(request("").as_bytes()).is_ok(),
            "the default"
        );
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

    /// Queues `known` and `full`; the second has messages when it is read for the third time. Any other fails all.
    #[derive(Default)]
    struct Queues(AtomicUsize);

    impl MetricSource for Queues {
        const KIND: &'static str = "queues";
        const SCHEMES: &'static [&'static str] = &["test"];

        async fn new(_: MetricSourceContext) -> crate::Result<Self> {
            Ok(Self::default())
        }

        async fn read(&self, queues: &[String]) -> crate::Result<Vec<Result<QueueReading, QueueError>>> {
            let times = self.0.fetch_add(1, Ordering::Relaxed);
            let read = |queue: &String| match queue.as_str() {
                "test:known" => Ok(Ok(QueueReading { waiting: Some(0), ..QueueReading::default() })),
                "test:full" => {
                    Ok(Ok(QueueReading { waiting: Some(times as u64 / 2), ..QueueReading::default() }))
                }
                "test:none" => Ok(Err(QueueError::NotFound("none".to_owned()))),
                other => anyhow::bail!("{other} is unreadable"),
            };
            queues.iter().map(read).collect()
        }
    }

    #[test]
    fn a_metric_source_says_its_schemes_and_reads_many_queues_in_one_call() {
        let (runtime, guarded) = on_paused_clock(ExportedMetricSource(Queues::default()));
        let call = |method: &str, argument: &str| {
            let answer =
                runtime.block_on(guarded.call(method.into(), argument.as_bytes().into())).into_result();
            answer
                .map(|json| String::from_utf8(json.into()).unwrap())
                .map_err(|fault| Fault::from_json(&fault))
        };
        assert_eq!(call(method::DESCRIBE, "null"), Ok(r#"{"schemes":["test"]}"#.to_owned()));
        let read = call(method::READ, r#"["test:known", "test:none"]"#).unwrap();
        let known = QueueReading { waiting: Some(0), ..QueueReading::default() };
        assert_eq!(
            serde_json::from_str::<Vec<Result<QueueReading, QueueError>>>(&read).unwrap(),
            [Ok(known), Err(QueueError::NotFound("none".to_owned()))]
        );
        let failed = Err(Fault::Failed("test:other is unreadable".to_owned()));
        assert_eq!(call(method::READ, r#"["test:other"]"#), failed);
        // The default polls; one that stays empty is answered for.
        assert_eq!(
            call(method::CHANGES, r#"["test:known", "test:full"]"#),
            Ok(r#"["test:full"]"#.to_owned())
        );
        assert_eq!(call(method::CHANGES, r#"["test:known"]"#), Ok("[]".to_owned()));
        assert_eq!(call(method::STOP, "null"), Ok("null".to_owned()));
        let unsupported = Err(Fault::Unsupported(method::GET_RESOURCES.to_owned()));
        assert_eq!(call(method::GET_RESOURCES, "null"), unsupported);
    }

    #[test]
    fn a_metric_source_starts_with_its_own_context_only() {
        let create = |request: &str| context::<ExportedMetricSource<Queues>>(request.as_bytes());
        let request = r#"{"interface": "metric_source", "namespace": "demo", "kind": "queues", "later": 1}"#;
        assert_eq!(create(request).unwrap().namespace, "demo");
        let other = create(&request.replace("metric_source", "resource_scaler"));
        assert_eq!(other, Err(Fault::Unsupported(r#"the interface "resource_scaler""#.to_owned())));
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
    fn on_paused_clock<E: Exported>(instance: E) -> (&'static Runtime, Guarded<E>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        (runtime, Guarded { instance: Some(Arc::new(instance)), runtime })
    }

    fn quiet() -> (&'static Runtime, Guarded<ExportedResourceScaler<Quiet>>) {
        on_paused_clock(ExportedResourceScaler(Quiet))
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
