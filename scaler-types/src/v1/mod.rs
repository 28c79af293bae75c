//! Version 1 of the stable ABI, frozen: what crosses between a daemon and a plugin's library.
//!
//! Few functions and tolerant data. A library exports one [`Module`]: its kind, and how an instance is made. An instance
//! answers one function, [`call`](Scaler::call), with a method's name and JSON both ways. A new method or a new field
//! therefore breaks no older plugin: a method it does not know is answered [`Fault::Unsupported`], a field it does not know
//! is ignored, one that is missing has its default. abi_stable checks the rest before anything is called: it refuses a
//! library whose types here are laid out differently.
//!
//! Plugin authors need none of this: see [`ResourceScaler`](crate::ResourceScaler) with
//! [`export_resource_scaler!`](crate::export_resource_scaler), and [`MetricSource`](crate::MetricSource) with
//! [`export_metric_source!`](crate::export_metric_source).
//!
//! The types in this file may not change any more. A later version adds `v2` beside it, which the host tries first.

// `#[sabi_trait]` of abi_stable 0.11 expands to unsafe code and to a non-local impl.
#![allow(non_local_definitions, unsafe_code)]

mod glue;
mod log;
mod metric_source;
mod resource_scaler;
mod wire;

pub use metric_source::valid_scheme;
pub use wire::{
    ChangesRequest, CompareAndSet, CreateRequest, Fault, METRIC_SOURCE, METRIC_SOURCE_SYMBOL,
    MetricSourceDescription, PublishEvent, RESOURCE_SCALER, method,
};

use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RBox, RResult, RStr, RString, RVec},
};
use async_ffi::FfiFuture;

/// A call under way in a plugin. It runs whether or not it is polled; dropping it cancels it.
///
/// The error is a [`Fault`] as JSON.
pub type Call<T> = FfiFuture<RResult<T, RString>>;

/// An instance, as the host holds it.
pub type BoxScaler = Scaler_TO<RBox<()>>;

/// A library's export: its root module.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ModuleRef)))]
pub struct Module {
    /// [`ResourceScaler::KIND`](crate::ResourceScaler::KIND) or [`MetricSource::KIND`](crate::MetricSource::KIND).
    pub kind: RStr<'static>,
    /// Makes an instance from a [`CreateRequest`] as JSON.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(host: Host, context: RVec<u8>) -> Call<BoxScaler>,
}

/// One instance of a plugin.
#[sabi_trait]
pub trait Scaler: Send + Sync + 'static {
    /// Starts a [`method`] with its argument as JSON; answers with its result as JSON.
    #[sabi(last_prefix_field)]
    fn call(&self, method: RString, argument: RVec<u8>) -> Call<RVec<u8>>;
}

/// The functions that the host lends to a plugin.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Host {
    /// The most verbose level the host writes: 0 nothing, 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub level: u8,
    /// Writes a line to the host's log. From any thread; never panics.
    pub log: extern "C" fn(line: LogLine<'_>),
}

/// One event of a plugin's log.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct LogLine<'a> {
    /// As in [`Host::level`].
    pub level: u8,
    /// The plugin's kind.
    pub kind: RStr<'a>,
    /// The Rust module, or what the author put as `target:`.
    pub target: RStr<'a>,
    /// The message.
    pub message: RStr<'a>,
    /// The other fields, flattened: `resource=demo/hello pid=4711`.
    pub fields: RStr<'a>,
}

impl RootModule for ModuleRef {
    declare_root_module_statics! {ModuleRef}
    const BASE_NAME: &'static str = "resource_scaler";
    const NAME: &'static str = "resource-scaler";
    /// This module's own version, not the crate's: the major is the one the host asks for.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

/// The items used by the macros that export a plugin. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use super::{
        glue::{Exported, header, valid_kind},
        metric_source::{ExportedMetricSource, valid_schemes},
        resource_scaler::ExportedResourceScaler,
    };
    pub use abi_stable::library::LibHeader;
}

/// Whether `kind` can be a plugin's name: it is a key in namespace files and a folder's name.
pub const fn valid_kind(kind: &str) -> bool {
    glue::valid_kind(kind)
}
