//! What holds for the resources of one namespace file and one plugin: file, then flag, then the plugin's own default, then built-in.
use std::time::Duration;
use scaler_types::ScaleResource;
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub scale_interval: Duration,
    pub metrics: MetricsSource,
    /// For resources that bring none.
    pub scale_resources: Vec<ScaleResource>,
    pub target_port: Option<u16>,
    pub target_name_header: Option<String>,
    pub target_path_header: Option<String>,
    pub resource_readiness_timeout: Duration,
    pub hold_timeout: Duration,
    pub max_held_requests: usize,
    pub max_held_bytes: u64,
    pub release_per_endpoint: usize,
    pub no_wake: Vec<NoWake>,
    pub multi_target_strategy: MultiTargetStrategy,
}
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsSource { Dlx }
/// Requests the DLX answers itself: they neither wake nor count.
#[derive(Clone, Debug, PartialEq)]
pub struct NoWake { /// matched at the start of the header, case sensitive
    pub user_agent: Option<String>, /// exact path
    pub path: Option<String>, pub status: u16 }
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MultiTargetStrategy { Random, Primary, Canary }
/// What flags set; `None`: not given.
#[derive(Clone, Debug, Default)]
pub struct FlagSettings {
    pub scale_interval: Option<Duration>,
    pub target_port: Option<u16>,
    pub target_name_header: Option<String>,
    pub target_path_header: Option<String>,
    pub resource_readiness_timeout: Option<Duration>,
    pub multi_target_strategy: Option<MultiTargetStrategy>,
}
