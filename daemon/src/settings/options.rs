//! Every option that holds for the resources of a namespace file, declared once: its meaning, how its value is written, its
//! default, its key and its flag.

use std::time::Duration;

use scaler_types::{ResourceScalerConfig, ScaleResource, duration};
use serde::{Deserialize, Serialize};

use super::{
    Compatibility, Expected, FileKey, ForwardedHeaders, MetricsSource, MultiTargetStrategy, StaticResponse,
    StaticResponseWhen,
    keys::{keys, present},
    values::{Bytes, Count, Header, Interval, Span, Status, TargetPort, Text, UrlPath},
};

/// An option's type in [`Settings`]: without a default it may have no value.
macro_rules! resolved_type {
    ($value:ty) => { Option<$value> };
    ($value:ty, $default:expr) => { $value };
}

/// An option's value, from what was found for it.
macro_rules! resolved {
    ($found:expr) => {
        $found
    };
    ($found:expr, $default:expr) => {
        $found.unwrap_or_else(|| $default)
    };
}

/// For each section of the namespace file: its options, as
///
/// ```text
/// /// What it sets.
/// #[arg(long, value_name = "DURATION")]               the flag; or #[arg(skip)]: it has none
/// hold_timeout: Span => Duration, "50s" = default;    how it is written => what it is, the default as text = the default
/// ```
///
/// `checked` are those whose keys the namespace file checks against others first.
macro_rules! options {
    (
        $(
            $(#[doc = $about:literal])+
            $options:ident in $section:literal {
                $(
                    $(#[doc = $meaning:literal])+
                    #[arg($($arg:tt)+)]
                    $(#[serde($($serde:tt)+)])?
                    $name:ident: $form:ty => $value:ty, $shown:literal $(= $default:expr)?;
                )+
            }
        )+
        checked {
            $(
                $(#[doc = $checked_meaning:literal])+
                $checked:ident: $checked_value:ty = $checked_default:expr;
            )+
        }
    ) => {
        /// What holds for the resources of one namespace file and one plugin.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct Settings {
            $($(
                $(#[doc = $meaning])+
                $(#[serde($($serde)+)])?
                pub $name: resolved_type!($value $(, $default)?),
            )+)+
            $(
                $(#[doc = $checked_meaning])+
                pub $checked: $checked_value,
            )+
        }

        /// What one source of settings sets: a namespace file, a daemon's flags, or a plugin's defaults.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct SettingsLayer {
            $($(
                $(#[doc = $meaning])+
                pub $name: Option<$value>,
            )+)+
            $(
                $(#[doc = $checked_meaning])+
                pub $checked: Option<$checked_value>,
            )+
        }

        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, Default, Deserialize, clap::Args)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            pub struct $options {
                $(
                    $(#[doc = $meaning])+
                    #[arg($($arg)+)]
                    #[serde(default, deserialize_with = "present")]
                    pub(crate) $name: Option<$form>,
                )+
            }

            impl $options {
                pub(crate) const KEYS: &'static [FileKey] = &[$(FileKey {
                    section: $section,
                    field: stringify!($name),
                    expected: <$form as Expected>::EXPECTED,
                    default: $shown,
                    meaning: concat!($($meaning),+),
                }),+];

                /// Sets in `layer` what is set here.
                pub fn apply(self, layer: &mut SettingsLayer) {
                    $(layer.$name = self.$name.map(Into::into);)+
                }
            }
        )+

        impl Settings {
            /// The first layer that sets an option decides it, and the built-in default where none does.
            fn resolve(layers: &[&SettingsLayer]) -> Self {
                Self {
                    $($(
                        $name: resolved!(
                            layers.iter().find_map(|layer| layer.$name.clone()) $(, $default)?
                        ),
                    )+)+
                    $(
                        $checked: layers
                            .iter()
                            .find_map(|layer| layer.$checked.clone())
                            .unwrap_or_else(|| $checked_default),
                    )+
                }
            }
        }
    };
}

options! {
    /// The options at the top of a namespace file; those of the autoscaler's flags that a namespace file has, too.
    AutoscalerOptions in "" {
        /// How often the autoscaler decides for each resource whether to scale it to zero; at least `100ms`.
        #[arg(long, value_name = "DURATION")]
        #[serde(with = "duration::go")]
        scale_interval: Interval => Duration, "`1m`" = Duration::from_secs(60);
        /// How many resources of this file one daemon wakes at once, within its `--max-concurrent-wakes`. When no DLX is
        /// left, the autoscaler uses half of both.
        // Half of a daemon's, so that it leaves room for another namespace.
        #[arg(skip)]
        max_concurrent_wakes: Count => usize, "32" = crate::wakes::DEFAULT / 2;
        /// The autoscaler whose arithmetic decides how many replicas a resource with a target gets, for workloads that were tuned
        /// to it: [Queue workers](../queue-workers.md).
        #[arg(skip)]
        compatibility: Compatibility => Compatibility, "none";
    }

    /// The section `dlx` of a namespace file; those of the DLX's flags that a namespace file has, too.
    DlxOptions in "dlx" {
        /// The resource's port, where the plugin reports a host without one.
        #[arg(long, value_name = "PORT")]
        target_port: TargetPort => u16, "none";
        /// The header that names the resource; ignored unless it comes from one of `--trusted-proxies`.
        #[arg(long, value_name = "NAME")]
        target_name_header: Header => String, "none";
        /// The header with a path to put before the request's own; ignored unless it comes from one of `--trusted-proxies`.
        #[arg(long, value_name = "NAME")]
        target_path_header: Header => String, "none";
        /// How long a wake may take until it counts as failed. It continues when its clients disconnect.
        #[arg(long, value_name = "DURATION")]
        #[serde(with = "duration::go")]
        resource_readiness_timeout: Span => Duration, "`5m`" = Duration::from_secs(300);
        /// How long one request is held; then it gets 503 with `Retry-After`. Keep it below the timeout of the proxy in front.
        #[arg(skip)]
        #[serde(with = "duration::go")]
        // Under the 60 s of what usually stands in front.
        hold_timeout: Span => Duration, "`50s`" = Duration::from_secs(50);
        /// How many requests are held for one resource; further requests get 503.
        #[arg(skip)]
        max_held_requests: Count => usize, "10000" = 10_000;
        /// How many bytes are held for one resource, those in the sockets included; a TCP connection counts as 64 KiB.
        #[arg(skip)]
        max_held_bytes: Bytes => u64, "`64MiB`" = 64 << 20;
        /// How many held requests are dispatched at once to one endpoint that has just started; doubled each second while others
        /// are held.
        #[arg(skip)]
        slow_start_requests_per_endpoint: Count => usize, "100" = 100;
        /// Requests, as those of monitoring, that neither wake a resource nor count as activity; replaces the default. While the
        /// resource is asleep, waking or draining, the DLX answers them itself.
        #[arg(skip)]
        static_responses: Vec<StaticResponse> => Vec<StaticResponse>,
            "200 for a `User-Agent` that begins with `Prometheus/` or `kube-probe/`" = SCRAPERS.map(static_response).into();
        /// Which resource gets a request that names two.
        #[arg(long, value_name = "STRATEGY")]
        multi_target_strategy: MultiTargetStrategy => MultiTargetStrategy, "`random`" = MultiTargetStrategy::Random;
        /// What the DLX does with `X-Forwarded-*`, `Forwarded` and `X-Real-IP`:
        /// [Who the client is](forwarded-headers.md).
        #[arg(skip)]
        forwarded_headers: ForwardedHeaders => ForwardedHeaders,
            "`preserve` on a resource's own port (an intercepted Service's, or one of `tcpPorts`), `append` on the shared port";
    }

    checked {
        /// The source of the resources' activity.
        metrics: MetricsSource = MetricsSource::Dlx;
        /// The metrics of resources that have none of their own.
        scale_resources: Vec<ScaleResource> = vec![ScaleResource {
            metric_name: "requests".to_owned(),
            window_size: Duration::from_secs(600),
            threshold: 0.0,
        }];
    }
}

keys! {
    /// How a [`StaticResponse`] is written.
    pub(crate) struct StaticResponseKeys in "dlx.staticResponses[]" {
        /// The beginning of the `User-Agent`.
        #[serde(default, deserialize_with = "present")]
        user_agent: Option<Text>, "any";
        /// The exact path.
        #[serde(default, deserialize_with = "present")]
        path: Option<UrlPath>, "any";
        /// The answer's status.
        status: Status, "required";
        /// `asleep`: while the resource is awake the request is forwarded and not counted; without a ready endpoint it gets 503.
        /// `always`: the DLX answers then, too.
        #[serde(default)]
        when: StaticResponseWhen, "`asleep`";
    }
}

/// How the User-Agents of those begin that ask every workload again and again, whether it is used or not.
const SCRAPERS: [&str; 2] = ["Prometheus/", "kube-probe/"];

fn static_response(user_agent: &str) -> StaticResponse {
    StaticResponse {
        user_agent: Some(user_agent.to_owned()),
        path: None,
        status: 200,
        when: StaticResponseWhen::Asleep,
    }
}

// === impl Settings ===

impl Settings {
    /// The more specific takes precedence: the namespace file, a flag, the plugin's own default, the built-in one.
    pub fn merge(file: &SettingsLayer, flags: &SettingsLayer, plugin: &ResourceScalerConfig) -> Self {
        Self::resolve(&[file, flags, &SettingsLayer::from(plugin)])
    }
}

impl Default for Settings {
    /// The built-in defaults.
    fn default() -> Self {
        Self::resolve(&[])
    }
}

// === impl SettingsLayer ===

impl From<&ResourceScalerConfig> for SettingsLayer {
    fn from(plugin: &ResourceScalerConfig) -> Self {
        Self {
            scale_interval: plugin.scale_interval.map(|interval| interval.max(duration::MIN_INTERVAL)),
            scale_resources: Some(plugin.scale_resources.clone()).filter(|metrics| !metrics.is_empty()),
            target_port: plugin.target_port,
            target_name_header: plugin.target_name_header.clone(),
            target_path_header: plugin.target_path_header.clone(),
            resource_readiness_timeout: plugin.resource_readiness_timeout,
            ..Self::default()
        }
    }
}

// === impl StaticResponse ===

impl StaticResponse {
    pub(crate) const KEYS: &'static [FileKey] = StaticResponseKeys::KEYS;
}

impl TryFrom<StaticResponseKeys> for StaticResponse {
    type Error = &'static str;

    fn try_from(keys: StaticResponseKeys) -> Result<Self, Self::Error> {
        let StaticResponseKeys { user_agent, path, status, when } = keys;
        if user_agent.is_none() && path.is_none() {
            return Err("this would answer every request, expected userAgent or path or both");
        }
        let (user_agent, path) = (user_agent.map(Into::into), path.map(Into::into));
        Ok(Self { user_agent, path, status: status.into(), when })
    }
}
