//! The plugin's section of a namespace file.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use scaler_types::{PluginContext, Port, Protocol, Result, ScaleResource, duration};
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
    pub port: u16,
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
        specs.push(spec.tidied());
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
    if spec.port == 0 {
        return Err("port: expected the port the process listens on, 1 to 65535".into());
    }
    claims.push(format!("port {}", spec.port));
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
    }
    for port in &spec.tcp_ports {
        if port.listen == 0 || port.target == Some(0) {
            return Err("tcpPorts: expected ports from 1 to 65535".into());
        }
        claims.push(format!("port {}", port.listen));
    }
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
        port::ensure_free(self.port)
    }

    fn tidied(mut self) -> Self {
        for host in &mut self.hosts {
            *host = tidy_host(host);
        }
        self
    }
}
