//! What holds for the resources of one namespace file and one plugin: file, then flag, then the plugin's own default,
//! then built-in.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use scaler_types::{ResourceScalerConfig, ScaleResource, duration};
use serde::{Deserialize, Serialize};

/// What holds for the resources of one namespace file and one plugin.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// How often the autoscaler decides.
    #[serde(with = "duration::go")]
    pub scale_interval: Duration,
    /// Who says how busy a resource is.
    pub metrics: MetricsSource,
    /// For resources that bring none.
    pub scale_resources: Vec<ScaleResource>,
    /// The resource's port, where the plugin gives a host alone.
    pub target_port: Option<u16>,
    /// The header that names a resource; counts from trusted proxies only.
    pub target_name_header: Option<String>,
    /// The header that carries a path to put before the request's own.
    pub target_path_header: Option<String>,
    /// How long a wake may take; it goes on when its clients have left.
    #[serde(with = "duration::go")]
    pub resource_readiness_timeout: Duration,
    /// How long one request is held.
    #[serde(with = "duration::go")]
    pub hold_timeout: Duration,
    /// Resources that one daemon wakes at once.
    pub max_concurrent_wakes: usize,
    /// Requests held for one resource.
    pub max_held_requests: usize,
    /// Bytes held for one resource, what the sockets hold included.
    pub max_held_bytes: u64,
    /// Held requests that are dispatched at once to one endpoint.
    pub slow_start_requests_per_endpoint: usize,
    /// Requests that the DLX answers itself.
    pub static_responses: Vec<StaticResponse>,
    /// Which of two resources a request names is meant.
    pub multi_target_strategy: MultiTargetStrategy,
    /// What becomes of the fields in which a trusted peer says who the client is; none: as the port's default is.
    pub forwarded_headers: Option<ForwardedHeaders>,
}

/// Who says how busy a resource is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsSource {
    /// The DLXs, which everything passes.
    Dlx,
    /// A Prometheus, or what answers as one.
    Prometheus(Arc<Prometheus>),
    /// The cluster's custom metrics API.
    Kubernetes(ObjectKind),
}

/// Where a Prometheus is, and what it is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// Its address, without `/api/v1/query`.
    pub url: String,
    /// A file with the token that is sent along, read again for each cycle.
    pub bearer_token_file: Option<PathBuf>,
    /// The certificates that vouch for it, in PEM; without them those of the system do.
    pub ca_file: Option<PathBuf>,
    /// How often it scrapes what the queries are about: from this and a number of scrapes follows how far back they
    /// reach.
    #[serde(with = "duration::go")]
    pub scrape_interval: Duration,
    /// By metric name. In the texts `$window` and `$namespace` stand for the metric's window and the file's namespace.
    pub queries: BTreeMap<String, MetricQuery>,
}

/// How one metric is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricQuery {
    /// Gives the metric's value for each resource.
    pub query: String,
    /// Gives for each resource how many samples within `$window` its value rests on.
    pub sample_count_query: String,
    /// What it means that there is no value for a resource.
    pub absent: Absent,
    /// The label of a result that holds the resource's name; its namespace is in `namespace`, if it has that.
    pub label: String,
}

/// What it means that there is no value for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Absent {
    /// Nothing is known: it is kept awake.
    #[default]
    Keep,
    /// It was idle, if scrapes of its own target cover the window: a counter that appears with the first request.
    Idle,
}

/// A kind of object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectKind {
    /// Its API group; empty is the core group.
    pub group: String,
    /// Its kind, e.g. `Deployment`.
    pub kind: String,
}

/// Requests that the DLX answers itself: they neither wake nor count. Every condition that is set has to match.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticResponse {
    /// How the User-Agent header begins; case sensitive.
    pub user_agent: Option<String>,
    /// The exact path, without the query.
    pub path: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// When it is given.
    pub when: StaticResponseWhen,
}

/// When the DLX gives a static response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StaticResponseWhen {
    /// While the resource is asleep, starts, or is about to be scaled to zero. Else the request is forwarded, and not counted.
    #[default]
    Asleep,
    /// Also while the resource is awake.
    Always,
}

/// Which of two resources a request names is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiTargetStrategy {
    /// Either, at random.
    Random,
    /// The first.
    Primary,
    /// The second.
    Canary,
}

/// What becomes of the fields in which a request says who its client is (`X-Forwarded-*`, `Forwarded`, `X-Real-IP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardedHeaders {
    /// They are passed on unchanged. Where none of `X-Forwarded-For`, `Forwarded` and `X-Real-IP` is there, `X-Forwarded-For`
    /// with the peer's address is added.
    Preserve,
    /// The peer's address is added to `X-Forwarded-For`, and `X-Forwarded-Host` and `X-Forwarded-Proto` where they are missing.
    Append,
    /// They are removed, and `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto` say what the DLX sees.
    Replace,
}

/// What flags set; `None`: not given. Of a daemon's flags those that a namespace file can set too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlagSettings {
    /// `--scale-interval`.
    pub scale_interval: Option<Duration>,
    /// `--metrics-resource-kind` and `--metrics-resource-group`: with them the custom metrics of that kind are asked
    /// for where the file names no source.
    pub metrics_resource: Option<ObjectKind>,
    /// `--target-port`.
    pub target_port: Option<u16>,
    /// `--target-name-header`.
    pub target_name_header: Option<String>,
    /// `--target-path-header`.
    pub target_path_header: Option<String>,
    /// `--resource-readiness-timeout`.
    pub resource_readiness_timeout: Option<Duration>,
    /// `--multi-target-strategy`.
    pub multi_target_strategy: Option<MultiTargetStrategy>,
}

/// What a namespace file sets; `None`: not set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileSettings {
    /// `scaleInterval`.
    pub scale_interval: Option<Duration>,
    /// `metrics`.
    pub metrics: Option<MetricsSource>,
    /// `defaults.scaleResources`.
    pub scale_resources: Option<Vec<ScaleResource>>,
    /// `dlx.targetPort`.
    pub target_port: Option<u16>,
    /// `dlx.targetNameHeader`.
    pub target_name_header: Option<String>,
    /// `dlx.targetPathHeader`.
    pub target_path_header: Option<String>,
    /// `dlx.resourceReadinessTimeout`.
    pub resource_readiness_timeout: Option<Duration>,
    /// `dlx.holdTimeout`.
    pub hold_timeout: Option<Duration>,
    /// `maxConcurrentWakes`.
    pub max_concurrent_wakes: Option<usize>,
    /// `dlx.maxHeldRequests`.
    pub max_held_requests: Option<usize>,
    /// `dlx.maxHeldBytes`.
    pub max_held_bytes: Option<u64>,
    /// `dlx.slowStartRequestsPerEndpoint`.
    pub slow_start_requests_per_endpoint: Option<usize>,
    /// `dlx.staticResponses`.
    pub static_responses: Option<Vec<StaticResponse>>,
    /// `dlx.multiTargetStrategy`.
    pub multi_target_strategy: Option<MultiTargetStrategy>,
    /// `dlx.forwardedHeaders`.
    pub forwarded_headers: Option<ForwardedHeaders>,
}

// === impl Settings ===

impl Settings {
    /// The more specific wins: the namespace file, a flag, the plugin's own default, the built-in one.
    pub fn merge(file: &FileSettings, flags: &FlagSettings, plugin: &ResourceScalerConfig) -> Self {
        let built_in = Self::default();
        let scale_resources = match &file.scale_resources {
            Some(metrics) => metrics.clone(),
            None if plugin.scale_resources.is_empty() => built_in.scale_resources,
            None => plugin.scale_resources.clone(),
        };
        Self {
            scale_interval: file
                .scale_interval
                .or(flags.scale_interval)
                .or(plugin.scale_interval.map(|interval| interval.max(duration::MIN_INTERVAL)))
                .unwrap_or(built_in.scale_interval),
            metrics: match (&file.metrics, &flags.metrics_resource) {
                (Some(source), _) => source.clone(),
                // As v3io/scaler, which has no other source.
                (None, Some(resource)) => MetricsSource::Kubernetes(resource.clone()),
                (None, None) => built_in.metrics,
            },
            scale_resources,
            target_port: file.target_port.or(flags.target_port).or(plugin.target_port),
            target_name_header: first([
                &file.target_name_header,
                &flags.target_name_header,
                &plugin.target_name_header,
            ]),
            target_path_header: first([
                &file.target_path_header,
                &flags.target_path_header,
                &plugin.target_path_header,
            ]),
            resource_readiness_timeout: file
                .resource_readiness_timeout
                .or(flags.resource_readiness_timeout)
                .or(plugin.resource_readiness_timeout)
                .unwrap_or(built_in.resource_readiness_timeout),
            hold_timeout: file.hold_timeout.unwrap_or(built_in.hold_timeout),
            max_concurrent_wakes: file.max_concurrent_wakes.unwrap_or(built_in.max_concurrent_wakes),
            max_held_requests: file.max_held_requests.unwrap_or(built_in.max_held_requests),
            max_held_bytes: file.max_held_bytes.unwrap_or(built_in.max_held_bytes),
            slow_start_requests_per_endpoint: file
                .slow_start_requests_per_endpoint
                .unwrap_or(built_in.slow_start_requests_per_endpoint),
            static_responses: file.static_responses.clone().unwrap_or(built_in.static_responses),
            multi_target_strategy: file
                .multi_target_strategy
                .or(flags.multi_target_strategy)
                .unwrap_or(built_in.multi_target_strategy),
            forwarded_headers: file.forwarded_headers,
        }
    }
}

/// How the User-Agents of those begin that ask every workload again and again, whether it is used or not.
const SCRAPERS: [&str; 2] = ["Prometheus/", "kube-probe/"];

impl Default for Settings {
    /// What holds where nobody says anything else.
    fn default() -> Self {
        Self {
            scale_interval: Duration::from_secs(60),
            metrics: MetricsSource::Dlx,
            scale_resources: vec![ScaleResource {
                metric_name: "requests".to_owned(),
                window_size: Duration::from_secs(600),
                threshold: 0.0,
            }],
            target_port: None,
            target_name_header: None,
            target_path_header: None,
            resource_readiness_timeout: Duration::from_secs(300),
            // Under the 60 s of what usually stands in front.
            hold_timeout: Duration::from_secs(50),
            // Half of a daemon's: another namespace finds a place.
            max_concurrent_wakes: crate::wakes::DEFAULT / 2,
            max_held_requests: 10_000,
            max_held_bytes: 64 << 20,
            slow_start_requests_per_endpoint: 100,
            static_responses: SCRAPERS
                .map(|agent| StaticResponse {
                    user_agent: Some(agent.to_owned()),
                    path: None,
                    status: 200,
                    when: StaticResponseWhen::Asleep,
                })
                .into(),
            multi_target_strategy: MultiTargetStrategy::Random,
            forwarded_headers: None,
        }
    }
}

fn first(values: [&Option<String>; 3]) -> Option<String> {
    values.into_iter().find_map(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str) -> Vec<ScaleResource> {
        vec![ScaleResource {
            metric_name: name.to_owned(),
            window_size: Duration::from_secs(1),
            threshold: 2.0,
        }]
    }

    fn kubernetes(kind: &str) -> MetricsSource {
        MetricsSource::Kubernetes(ObjectKind { group: String::new(), kind: kind.to_owned() })
    }

    /// For each setting: who says something (file, flag, plugin), and who wins.
    #[test]
    fn the_more_specific_wins() {
        let seconds = Duration::from_secs;
        for (in_file, in_flags, in_plugin, wins) in [
            (false, false, false, 0),
            (false, false, true, 3),
            (false, true, false, 2),
            (false, true, true, 2),
            (true, false, false, 1),
            (true, false, true, 1),
            (true, true, false, 1),
            (true, true, true, 1),
        ] {
            let file = in_file.then(|| FileSettings {
                scale_interval: Some(seconds(1)),
                metrics: Some(kubernetes("1")),
                scale_resources: Some(metric("1")),
                target_port: Some(1),
                target_name_header: Some("1".into()),
                target_path_header: Some("1".into()),
                resource_readiness_timeout: Some(seconds(1)),
                multi_target_strategy: Some(MultiTargetStrategy::Primary),
                ..FileSettings::default()
            });
            let flags = in_flags.then(|| FlagSettings {
                scale_interval: Some(seconds(2)),
                metrics_resource: Some(ObjectKind { group: String::new(), kind: "2".to_owned() }),
                target_port: Some(2),
                target_name_header: Some("2".into()),
                target_path_header: Some("2".into()),
                resource_readiness_timeout: Some(seconds(2)),
                multi_target_strategy: Some(MultiTargetStrategy::Canary),
            });
            let plugin = in_plugin.then(|| ResourceScalerConfig {
                scale_interval: Some(seconds(3)),
                resource_readiness_timeout: Some(seconds(3)),
                target_port: Some(3),
                target_name_header: Some("3".into()),
                target_path_header: Some("3".into()),
                scale_resources: metric("3"),
                warnings: Vec::new(),
            });
            let built_in = Settings::default();
            let merged = Settings::merge(
                &file.unwrap_or_default(),
                &flags.unwrap_or_default(),
                &plugin.unwrap_or_default(),
            );

            let said = |by: u64| (by > 0).then(|| by.to_string());
            let case = format!("{in_file} {in_flags} {in_plugin}");
            assert_eq!(merged.scale_interval, if wins > 0 { seconds(wins) } else { seconds(60) }, "{case}");
            assert_eq!(
                merged.resource_readiness_timeout,
                if wins > 0 { seconds(wins) } else { seconds(300) },
                "{case}"
            );
            let source = match wins {
                1 | 2 => kubernetes(&wins.to_string()),
                _ => MetricsSource::Dlx,
            };
            assert_eq!(merged.metrics, source, "{case}");
            assert_eq!(merged.target_port, (wins > 0).then_some(wins as u16), "{case}");
            assert_eq!(merged.target_name_header, said(wins), "{case}");
            assert_eq!(merged.target_path_header, said(wins), "{case}");
            // No flag sets these, no plugin that.
            let metrics = if in_file {
                metric("1")
            } else if in_plugin {
                metric("3")
            } else {
                built_in.scale_resources
            };
            assert_eq!(merged.scale_resources, metrics, "{case}");
            let strategy =
                [MultiTargetStrategy::Random, MultiTargetStrategy::Primary, MultiTargetStrategy::Canary];
            assert_eq!(
                merged.multi_target_strategy,
                strategy[if wins == 3 { 0 } else { wins as usize }],
                "{case}"
            );
        }
    }

    #[test]
    fn what_only_a_file_sets_is_the_files() {
        let static_responses = vec![StaticResponse {
            user_agent: None,
            path: Some("/".into()),
            status: 200,
            when: StaticResponseWhen::Always,
        }];
        let file = FileSettings {
            hold_timeout: Some(Duration::from_secs(9)),
            max_concurrent_wakes: Some(9),
            max_held_requests: Some(9),
            max_held_bytes: Some(9),
            slow_start_requests_per_endpoint: Some(9),
            static_responses: Some(static_responses.clone()),
            forwarded_headers: Some(ForwardedHeaders::Append),
            scale_resources: Some(Vec::new()),
            ..FileSettings::default()
        };
        let plugin = ResourceScalerConfig { scale_resources: metric("3"), ..ResourceScalerConfig::default() };
        let merged = Settings::merge(&file, &FlagSettings::default(), &plugin);
        let expected = Settings {
            hold_timeout: Duration::from_secs(9),
            max_concurrent_wakes: 9,
            max_held_requests: 9,
            max_held_bytes: 9,
            slow_start_requests_per_endpoint: 9,
            static_responses,
            forwarded_headers: Some(ForwardedHeaders::Append),
            // An empty list is said too: nothing goes to sleep that brings no metric of its own.
            scale_resources: Vec::new(),
            ..Settings::default()
        };
        assert_eq!(merged, expected);
    }

    #[test]
    fn nobody_says_anything() {
        let merged = Settings::merge(
            &FileSettings::default(),
            &FlagSettings::default(),
            &ResourceScalerConfig::default(),
        );
        assert_eq!(merged, Settings::default());
    }
}
