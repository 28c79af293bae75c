//! The DLX: receives the requests of resources that are at zero, holds them, has the plugin scale the resource from
//! zero, then proxies.
//!
//! A request's way: [`serve`] (a connection on one of the threads), [`proxy`] (for whom is it: [`route`]), into the
//! gate of its [`resource`], or into its [`hold`] while [`wake`] works; then to an endpoint and back. What the plugins
//! tell comes in through [`watch`] alone. The way of a request to a resource that is up takes no lock that another
//! thread takes. [`stop`] says from when on nobody comes any more.

pub mod activity;
pub mod admin;
pub mod admit;
pub mod answer;
pub mod clock;
pub mod dlx;
pub mod flags;
pub mod hold;
pub mod last_report;
pub mod metrics;
pub mod proxy;
pub mod resource;
pub mod route;
mod run;
pub mod serve;
pub mod shared;
pub mod stop;
pub mod tcp;
pub mod wake;
pub mod watch;

pub use flags::Flags;
pub use run::run;
