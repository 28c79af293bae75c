//! The plugin's section of a namespace file.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use scaler_types::{
    Disruption, PluginContext, Port, Protocol, Result, ScaleResource, Scaling, ScalingMetric, duration,
    scaling_options::{BusyProbe, ScalingOptions, key_name, keys},
};
use serde::{Deserialize, Deserializer, de};
use serde_yaml::Spanned;

use crate::port;

/// How long a process may take to end, unless its configuration says.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(10);

/// One process, as configured. The keys are in the crate's README.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    pub command: Vec<Spanned<String>>,
    /// None: it takes no requests, and may have several replicas.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub ready_path: Option<String>,
    #[serde(default = "stop_grace_period", deserialize_with = "text_duration")]
    pub stop_grace_period: Duration,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub working_directory: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub scale_resources: Vec<Metric>,
    #[serde(default)]
    pub tcp_ports: Vec<TcpPort>,
    #[serde(default, deserialize_with = "keys::queues")]
    queue: Vec<String>,
    #[serde(default, deserialize_with = "keys::target")]
    messages_per_replica: Option<f64>,
    #[serde(default, deserialize_with = "keys::target")]
    seconds_per_message: Option<f64>,
    #[serde(default, deserialize_with = "keys::target")]
    in_flight_per_replica: Option<f64>,
    #[serde(default, deserialize_with = "keys::target")]
    requests_per_replica: Option<f64>,
    #[serde(default, deserialize_with = "keys::replicas")]
    min_replicas: Option<u32>,
    #[serde(default, deserialize_with = "keys::replicas")]
    max_replicas: Option<u32>,
    #[serde(default, deserialize_with = "keys::disruption")]
    max_disruption: Option<Disruption>,
    #[serde(default, deserialize_with = "keys::delay")]
    scale_down_delay: Option<Duration>,
    #[serde(default, deserialize_with = "keys::busy_probe")]
    pub busy_probe: Option<BusyProbe>,
    #[serde(default, deserialize_with = "keys::accepted")]
    early_ack: bool,
    #[serde(default)]
    pub wake_now: String,
    /// Line and column of its description.
    #[serde(skip)]
    pub place: (u64, u64),
}

/// One metric by which a process counts as idle.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metric {
    metric_name: String,
    #[serde(deserialize_with = "text_duration")]
    window_size: Duration,
    #[serde(default)]
    threshold: f64,
    #[serde(default)]
    target_per_replica: Option<f64>,
}

/// A port of the DLX that belongs to the process.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpPort {
    listen: u16,
    #[serde(default)]
    target: Option<u16>,
    #[serde(default, deserialize_with = "known_protocol")]
    protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    resources: Vec<Spanned<Spec>>,
}

/// The processes of a namespace file.
///
/// # Errors
///
/// A value that does not fit, with file and line.
pub fn read(context: &PluginContext) -> Result<Vec<Spec>> {
    let Some(section) = context.section::<Section>()? else { return Ok(Vec::new()) };
    let mut taken = HashMap::new();
    let mut specs = Vec::with_capacity(section.resources.len());
    for spanned in section.resources {
        let (at, spec) = (spanned.referenced, spanned.value);
        check(&spec, at.line(), &mut taken).map_err(|wrong| {
            anyhow::anyhow!(
                "{}:{}:{}: plugins.process: resource {:?}: {wrong}",
                context.namespace_file,
                at.line(),
                at.column(),
                spec.name
            )
        })?;
        specs.push(spec.tidied((at.line(), at.column())));
    }
    Ok(specs)
}

/// Checks one resource, and that no earlier resource claims the same.
fn check(spec: &Spec, line: u64, taken: &mut HashMap<String, u64>) -> Result<(), String> {
    let mut claims = vec![format!("the name {:?}", spec.name)];
    if spec.name.is_empty() || spec.name.len() > 63 {
        return Err("name: expected 1 to 63 characters".into());
    }
    if spec.command.first().is_none_or(|program| program.value.is_empty()) {
        return Err("command: expected a program and its arguments, as in [python3, -m, http.server]".into());
    }
    if spec.words().chain(spec.env.values()).any(|word| word.contains('\0')) {
        return Err("command, env: a NUL character cannot be passed to a program".into());
    }
    if let Some(name) = spec.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(format!("env: {name:?} is no name of an environment variable"));
    }
    match spec.port {
        Some(0) => return Err("port: expected the port the process listens on, 1 to 65535".into()),
        Some(port) => claims.push(format!("port {port}")),
        None => check_worker(spec)?,
    }
    for host in &spec.hosts {
        if host.is_empty() || host.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)) {
            return Err(format!(
                "hosts: {host:?} is no host name (letters, digits, dots and dashes, without a port)"
            ));
        }
        claims.push(format!("the host {:?}", tidy_host(host)));
    }
    if let Some(path) =
        spec.ready_path.as_ref().filter(|path| !path.starts_with('/') || path.contains([' ', '\r', '\n']))
    {
        return Err(format!(
            "readyPath: {path:?} is no path: expected one that begins with / and has no spaces"
        ));
    }
    for metric in &spec.scale_resources {
        if metric.metric_name.is_empty() {
            return Err("scaleResources: metricName: expected a metric's name, as in requests".into());
        }
        if metric.window_size < duration::MIN_INTERVAL {
            return Err(format!(
                "scaleResources: windowSize: expected {} or more, as in 10m",
                duration::short(duration::MIN_INTERVAL)
            ));
        }
        if !metric.threshold.is_finite() || metric.threshold < 0.0 {
            return Err("scaleResources: threshold: expected 0 or more".into());
        }
        if metric.target_per_replica.is_some_and(|target| !target.is_finite() || target <= 0.0) {
            return Err("scaleResources: targetPerReplica: expected a number above 0".into());
        }
    }
    for port in &spec.tcp_ports {
        if port.listen == 0 || port.target == Some(0) {
            return Err("tcpPorts: expected ports from 1 to 65535".into());
        }
        claims.push(format!("port {}", port.listen));
    }
    check_scaling(spec)?;
    for claim in claims {
        match taken.insert(claim.clone(), line) {
            None => {}
            Some(before) if before == line => return Err(format!("{claim} is named twice: use it once")),
            Some(before) => {
                return Err(format!("{claim} is taken by the resource at line {before}: give each its own"));
            }
        }
    }
    Ok(())
}

/// Checks one without a port.
fn check_worker(spec: &Spec) -> Result<(), String> {
    for (key, is_set) in [
        ("hosts", !spec.hosts.is_empty()),
        ("tcpPorts", !spec.tcp_ports.is_empty()),
        ("readyPath", spec.ready_path.is_some()),
        ("inFlightPerReplica", spec.in_flight_per_replica.is_some()),
        ("requestsPerReplica", spec.requests_per_replica.is_some()),
        ("busyProbe", spec.busy_probe.is_some()),
    ] {
        if is_set {
            return Err(format!(
                "{key}: a process without a port takes no requests: add port, or remove {key}"
            ));
        }
    }
    match spec.scaling_options().wakes_by_metric() {
        true => Ok(()),
        false => Err("port: expected the port the process listens on, or a queue or a metric with targetPerReplica, which \
                      wake it without a request"
            .into()),
    }
}

/// Checks how many replicas there are to be.
fn check_scaling(spec: &Spec) -> Result<(), String> {
    let scaling = spec.scaling_options().scaling(key_name)?;
    match scaling.is_some_and(|scaling| scaling.max_replicas > 1) && spec.port.is_some() {
        true => Err("maxReplicas: expected 1 beside port: several replicas would need a port each, which is not supported; \
                     remove port if the process takes no requests"
            .into()),
        false => Ok(()),
    }
}

fn tidy_host(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn stop_grace_period() -> Duration {
    STOP_GRACE_PERIOD
}

/// A duration with its unit: a bare number would have to be guessed at.
fn text_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// Strict, unlike the contract's own: there an unknown value is one of a later version, here it is a mistake.
fn known_protocol<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "http" => Ok(Protocol::Http),
        "tcp" => Ok(Protocol::Tcp),
        unknown => Err(de::Error::unknown_variant(unknown, &["http", "tcp"])),
    }
}

// === impl Spec ===

impl Spec {
    /// The program and its arguments.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.command.iter().map(|word| &word.value)
    }

    /// The metrics, as the contract has them.
    pub fn metrics(&self) -> Vec<ScaleResource> {
        let metric = |metric: &Metric| ScaleResource {
            metric_name: metric.metric_name.clone(),
            window_size: metric.window_size,
            threshold: metric.threshold,
        };
        self.scale_resources.iter().map(metric).collect()
    }

    /// How many replicas it gets; none: one, or none while it is asleep.
    pub fn scaling(&self) -> Option<Scaling> {
        // Checked when it was read.
        self.scaling_options().scaling(key_name).unwrap_or_default()
    }

    /// The options of that.
    pub fn scaling_options(&self) -> ScalingOptions {
        let target = |metric: &Metric| {
            Some(ScalingMetric {
                metric_name: metric.metric_name.clone(),
                window_size: metric.window_size,
                target_per_replica: metric.target_per_replica?,
            })
        };
        ScalingOptions {
            queues: self.queue.clone(),
            messages_per_replica: self.messages_per_replica,
            seconds_per_message: self.seconds_per_message,
            in_flight_per_replica: self.in_flight_per_replica,
            requests_per_replica: self.requests_per_replica,
            metrics: self.scale_resources.iter().filter_map(target).collect(),
            min_replicas: self.min_replicas,
            max_replicas: self.max_replicas,
            max_disruption: self.max_disruption,
            scale_down_delay: self.scale_down_delay,
            busy_probe: self.busy_probe.clone(),
            early_ack: self.early_ack,
        }
    }

    /// The DLX's ports, as the contract has them.
    pub fn ports(&self) -> Vec<Port> {
        self.tcp_ports
            .iter()
            .map(|port| Port {
                listen: port.listen,
                target: port.target,
                protocol: port.protocol,
                guessed: false,
            })
            .collect()
    }

    /// The reason why no start could succeed.
    pub fn can_start(&self) -> Result<()> {
        if let Some(Spanned { value: directory, .. }) = &self.working_directory {
            anyhow::ensure!(directory.is_dir(), "the working directory {} is no folder", directory.display());
        }
        self.port.map_or(Ok(()), port::ensure_free)
    }

    fn tidied(mut self, place: (u64, u64)) -> Self {
        self.place = place;
        for host in &mut self.hosts {
            *host = tidy_host(host);
        }
        self
    }
}
