//! What can only be a mistake in a file that can be used. Each warning is one line: where, which resource and key, what is
//! wrong, what to do.

use std::{
    collections::{HashMap, hash_map::Entry},
    env,
    net::SocketAddr,
};

use plugin_host::{METRIC_SOURCES_FOLDER, Plugin};
use scaler_types::Resource;

use super::ports::EphemeralPorts;
use crate::{
    files::Contents,
    namespace_file::tree::{Found, Placed},
    settings::MetricsSource,
};

/// A resource as its plugin lists it, and the file that describes it.
pub(super) struct ListedResource<'a> {
    pub(super) contents: &'a Contents,
    /// The map in the file that describes it.
    pub(super) described: &'a Placed,
    pub(super) resource: &'a Resource,
    /// Where it will listen.
    pub(super) address: Option<&'a str>,
}

/// The hosts and ports of all resources of all files, each with the resource that has it.
#[derive(Default)]
pub(super) struct Claims {
    holders: HashMap<String, String>,
    ephemeral: EphemeralPorts,
}

/// A path that begins with a home folder in a shell's short form.
pub(super) fn unexpanded_homes(file: &str, tree: &Placed) -> Vec<String> {
    let is_home = |text: &str| {
        let user = text.strip_prefix('~').and_then(|rest| rest.split_once('/')).map(|(user, _)| user);
        user.is_some_and(|user| user.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
    };
    let home = env::var("HOME").ok().filter(|home| home.starts_with('/'));
    let home = home.unwrap_or_else(|| "/home/you".to_owned());
    let found = tree.value.find(&is_home).into_iter();
    let warning = |found: Found<'_>| {
        let whole = match found.text.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", home.trim_end_matches('/')),
            None => "the whole path".to_owned(),
        };
        let problem = format!("{:?} is used as it is, no shell replaces ~: write {whole}", found.text);
        line(file, &found, found.resource, &problem)
    };
    found.map(warning).collect()
}

/// A plugin's configuration that no plugin reads. `key`: the kind in the file.
pub(super) fn unknown_kind(file: &str, key: &Placed, plugins: &[&Plugin]) -> String {
    let folder = plugins.first().and_then(|plugin| plugin.path().parent()).unwrap_or_else(|| "".as_ref());
    let what = format!("no plugin in {} is of this kind", folder.display());
    unused_section(file, key, "plugins", &what, plugins)
}

/// The same of a metric source.
pub(super) fn unknown_metric_source(file: &str, key: &Placed, sources: &[&Plugin]) -> String {
    let what = format!("no metric source in plugins/{METRIC_SOURCES_FOLDER} has this name");
    unused_section(file, key, "metricSources", &what, sources)
}

fn unused_section(file: &str, key: &Placed, section: &str, what: &str, plugins: &[&Plugin]) -> String {
    let kinds: Vec<_> = plugins.iter().map(|plugin| plugin.kind()).collect();
    let (line, column) = (key.referenced.line(), key.referenced.column());
    let kind = key.value.text().unwrap_or_default();
    let instead = if kinds.is_empty() { String::new() } else { format!(", or use {}", kinds.join(" or ")) };
    format!(
        "{file}:{line}:{column}: {section}.{kind}: {what}, so nothing here is used: install its library there{instead}"
    )
}

/// Line and column of a warning, to sort by.
pub(super) fn place(file: &str, warning: &str) -> (u64, u64) {
    let mut numbers = warning.strip_prefix(file).unwrap_or_default().split(':').skip(1);
    let mut number = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or_default();
    (number(), number())
}

fn line(file: &str, found: &Found<'_>, resource: Option<&str>, problem: &str) -> String {
    let Found { line, column, key, .. } = found;
    let resource = resource.map(|name| format!("resource {name:?}: ")).unwrap_or_default();
    format!("{file}:{line}:{column}: {resource}{key}: {problem}")
}

// === impl ListedResource ===

impl ListedResource<'_> {
    /// What is wrong with this resource alone.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut warnings = self.unknown_metrics();
        let settings = &self.contents.says.settings;
        let Resource { hosts, ports, interception, scaling, .. } = self.resource;
        let wakes_by_metric =
            scaling.as_ref().is_some_and(|scaling| !scaling.queues.is_empty() || !scaling.metrics.is_empty());
        let named_by_header = settings.target_name_header.is_some();
        if hosts.is_empty()
            && ports.is_empty()
            && interception.is_none()
            && !named_by_header
            && !wakes_by_metric
        {
            let name = &self.resource.id.name;
            warnings.push(format!(
                "{}:{}:{}: resource {name:?}: hosts: it has no host and no port of the DLX, so no request can wake it: add one, as in hosts: [{name}.localhost]",
                self.contents.name,
                self.described.referenced.line(),
                self.described.referenced.column(),
            ));
        }
        warnings
    }

    /// Metrics of its own that the file's source does not have.
    fn unknown_metrics(&self) -> Vec<String> {
        let source = self.contents.says.settings.metrics.as_ref().unwrap_or(&MetricsSource::Dlx);
        let metrics = self.resource.scale_resources.iter().map(|metric| metric.metric_name.as_str());
        let unknown = metrics.filter_map(|metric| {
            let problem = match source {
                MetricsSource::Dlx if metric != "requests" => format!(
                    "source dlx does not have the metric {metric:?}, it has only requests: use that, or another source"
                ),
                MetricsSource::Prometheus(source) if !source.queries.contains_key(metric) => {
                    let known: Vec<_> = source.queries.keys().map(String::as_str).collect();
                    let known = known.join(", ");
                    format!("metrics.queries has no query for {metric:?}: add one, or use one of {known}")
                }
                _ => return None,
            };
            self.find(&|text| text == metric, &problem)
        });
        unknown.collect()
    }

    /// The warning at the first scalar of its description that is wanted; none if the file has no such scalar.
    fn find(&self, wanted: &dyn Fn(&str) -> bool, problem: &str) -> Option<String> {
        let found = self.described.value.find(wanted);
        // Not its name: a host may be the same.
        let found = found.iter().find(|found| found.key != "name")?;
        Some(line(&self.contents.name, found, Some(&self.resource.id.name), problem))
    }

    /// The ports that are bound on this host: its own, and those of the DLX that belong to it.
    pub(super) fn bound_ports(&self) -> Vec<u16> {
        let own = self.address.and_then(|address| {
            let address = address.replacen("localhost:", "127.0.0.1:", 1).parse::<SocketAddr>().ok()?;
            (address.ip().is_loopback() || address.ip().is_unspecified()).then(|| address.port())
        });
        own.into_iter().chain(self.resource.ports.iter().map(|port| port.listen)).collect()
    }
}

// === impl Claims ===

impl Claims {
    /// Adds the hosts and ports of a resource; returns what is wrong with them.
    pub(super) fn add(&mut self, listed: &ListedResource<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        for host in &listed.resource.hosts {
            let is_host = |text: &str| text.trim_end_matches('.').eq_ignore_ascii_case(host);
            warnings.extend(self.claim(listed, &format!("host {host}"), &is_host, |holder| {
                format!("{host:?} is also a host of {holder}: requests for it go to one of them; give each its own")
            }));
        }
        for port in listed.bound_ports() {
            let number = port.to_string();
            let is_port = |text: &str| text == number;
            warnings.extend(self.claim(listed, &format!("port {port}"), &is_port, |holder| {
                format!("{port} is also a port of {holder}: only one of them can have it; give each its own")
            }));
            if let Some(problem) = self.ephemeral.problem(port) {
                warnings.extend(listed.find(&is_port, &problem));
            }
        }
        warnings
    }

    /// `problem`: what is wrong if another resource, which is passed, has it already.
    fn claim(
        &mut self,
        listed: &ListedResource<'_>,
        what: &str,
        wanted: &dyn Fn(&str) -> bool,
        problem: impl Fn(&str) -> String,
    ) -> Option<String> {
        match self.holders.entry(what.to_owned()) {
            Entry::Occupied(holder) => listed.find(wanted, &problem(holder.get())),
            Entry::Vacant(free) => {
                let place = listed.find(wanted, "")?;
                let (line, column) = self::place(&listed.contents.name, &place);
                free.insert(format!("{} ({}:{line}:{column})", listed.resource.id, listed.contents.name));
                None
            }
        }
    }
}
