//! The section `metrics`: the source of the resources' activity.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, Deserializer, de};
use serde_yaml::{Location, Spanned};

use super::Wrong;
use crate::settings::{
    Absent, Expected, MetricQuery, MetricsSource, ObjectKind, Prometheus, keys, present,
    values::{Label, ScrapeInterval, Text},
};

keys! {
    pub(super) struct Metrics in "metrics" {
        /// The source of the resources' activity: the DLXs, a Prometheus, or the cluster's custom metrics API. See
        /// [Metric sources](../metric-sources.md).
        source: Spanned<Source>, "`dlx`";
        /// `prometheus`: its address, `http` or `https`, without `/api/v1/query`.
        #[serde(default, deserialize_with = "present")]
        url: Option<Spanned<Url>>, "required";
        /// `prometheus`: a file with the bearer token to send, read again in each cycle.
        #[serde(default, deserialize_with = "present")]
        bearer_token_file: Option<Spanned<Text>>, "none";
        /// `prometheus`: a file with the CA certificates to verify it with, in PEM, read again in each cycle.
        #[serde(default, deserialize_with = "present")]
        ca_file: Option<Spanned<Text>>, "the system's";
        /// `prometheus`: its scrape interval for the metrics in the queries; at least `10ms`. Decides how many samples a complete
        /// window has.
        #[serde(default, deserialize_with = "present")]
        scrape_interval: Option<Spanned<ScrapeInterval>>, "required";
        /// `prometheus`: the queries of each metric, by the metric's name.
        #[serde(default, deserialize_with = "present")]
        queries: Option<Spanned<BTreeMap<String, Query>>>, "required";
        /// `kubernetes`: the kind of object whose custom metrics are read.
        #[serde(default, deserialize_with = "present")]
        resource: Option<Spanned<GroupKind>>, "that of the flags";
    }
}

keys! {
    pub(super) struct Query in "metrics.queries.NAME" {
        /// Returns the metric's value for each resource; `$window` and `$namespace` are replaced.
        query: Spanned<Text>, "required";
        /// What a missing value means: `keep` the resource awake; or `idle`, if `sampleCountQuery` proves that the target was
        /// scraped during the whole window.
        #[serde(default)]
        absent: Absent, "`keep`";
        /// The result's label with the resource's name (its namespace is in the label `namespace`, else it is the file's).
        #[serde(default, deserialize_with = "present")]
        label: Option<Label>, "`name`";
        /// Returns for each resource the number of samples in `$window`. A file without it is rejected with a line to copy.
        #[serde(default, deserialize_with = "present")]
        sample_count_query: Option<Spanned<Text>>, "required";
    }
}

keys! {
    pub(super) struct GroupKind in "metrics.resource" {
        /// The API group, `""` for the core group.
        group: String, "required";
        /// The kind, e.g. `Deployment`.
        kind: Text, "required";
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    Dlx,
    Prometheus,
    Kubernetes,
}

/// An address without what comes behind a path, and without a slash at its end.
pub(super) struct Url(String);

impl Expected for Source {
    const EXPECTED: &'static str = "`dlx`, `prometheus` or `kubernetes`";
}

impl Expected for Url {
    const EXPECTED: &'static str = "a URL";
}

impl Expected for GroupKind {
    const EXPECTED: &'static str = "a map";
}

/// The default of `label`.
const LABEL: &str = "name";

// === impl Metrics ===

impl Metrics {
    /// What one value alone does not show. `namespace`: the file's.
    pub(super) fn check(self, namespace: &str) -> Result<MetricsSource, Wrong> {
        let source = self.source.value;
        for (key, of, at) in [
            ("url", Source::Prometheus, location(&self.url)),
            ("bearerTokenFile", Source::Prometheus, location(&self.bearer_token_file)),
            ("caFile", Source::Prometheus, location(&self.ca_file)),
            ("scrapeInterval", Source::Prometheus, location(&self.scrape_interval)),
            ("queries", Source::Prometheus, location(&self.queries)),
            ("resource", Source::Kubernetes, location(&self.resource)),
        ] {
            if let Some(at) = at.filter(|_| of != source) {
                let why = format!("{key:?} belongs to source {}, expected no such key here", of.name());
                return Err((at, why));
            }
        }
        let missing = |key: &str, what: &str| {
            let why = format!("source {} wants the key {key:?}, expected {what}", source.name());
            (self.source.referenced, why)
        };
        match source {
            Source::Dlx => Ok(MetricsSource::Dlx),
            Source::Kubernetes => {
                let resource = self.resource.ok_or_else(|| {
                    missing("resource", "it beside source, as in {group: apps, kind: Deployment}")
                })?;
                let GroupKind { group, kind: Text(kind) } = resource.value;
                Ok(MetricsSource::Kubernetes(ObjectKind { group, kind }))
            }
            Source::Prometheus => {
                let Some(url) = self.url else {
                    return Err(missing("url", "it beside source, as in http://prometheus:9090"));
                };
                let Some(interval) = self.scrape_interval else {
                    let what = "how often it scrapes what the queries are about, as in 15s: the samples of a window are counted by it";
                    return Err(missing("scrapeInterval", what));
                };
                let Some(queries) = self.queries.filter(|queries| !queries.value.is_empty()) else {
                    return Err(missing("queries", "at least one, by the metric's name"));
                };
                let queries =
                    queries.value.into_iter().map(|(name, query)| Ok((name, query.check(namespace)?)));
                let path = |file: Option<Spanned<Text>>| file.map(|file| PathBuf::from(file.value.0));
                Ok(MetricsSource::Prometheus(Arc::new(Prometheus {
                    url: url.value.0,
                    bearer_token_file: path(self.bearer_token_file),
                    ca_file: path(self.ca_file),
                    scrape_interval: interval.value.0,
                    queries: queries.collect::<Result<_, Wrong>>()?,
                })))
            }
        }
    }
}

fn location<T>(value: &Option<Spanned<T>>) -> Option<Location> {
    value.as_ref().map(|value| value.referenced)
}

// === impl Source ===

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Dlx => "dlx",
            Self::Prometheus => "prometheus",
            Self::Kubernetes => "kubernetes",
        }
    }
}

// === impl Query ===

impl Query {
    fn check(self, namespace: &str) -> Result<MetricQuery, Wrong> {
        for text in [Some(&self.query), self.sample_count_query.as_ref()].into_iter().flatten() {
            if !text.value.0.contains("$window") {
                let why =
                    "the query does not cover its window, expected $window in it, as in increase(x[$window])";
                return Err((text.referenced, why.to_owned()));
            }
            if namespace == "*" && text.value.0.contains("$namespace") {
                let why = "the file is for all namespaces, expected no $namespace, and results with a label namespace";
                return Err((text.referenced, why.to_owned()));
            }
        }
        let Label(label) = self.label.unwrap_or_else(|| Label(LABEL.to_owned()));
        let Text(query) = self.query.value;
        let Some(Spanned { value: Text(sample_count_query), .. }) = self.sample_count_query else {
            return Err((self.query.referenced, without_sample_count(&query, &label, self.absent)));
        };
        Ok(MetricQuery { query, sample_count_query, absent: self.absent, label })
    }
}

/// The message for a query without `sampleCountQuery`, with the line to add. It is a proposal that its reader checks, so the
/// query is not parsed: where its series cannot be cut out of the text, `SERIES` stands for them.
fn without_sample_count(query: &str, label: &str, absent: Absent) -> String {
    let line = |count: &str| format!("sampleCountQuery: '{}'", count.replace('\'', "''"));
    let (count, note) = match absent {
        // The query's own series are absent: they cannot prove that their target was scraped.
        Absent::Idle => (
            format!("min by ({label}) (sum_over_time(up[$window]))"),
            ", where up selects the scrape target of each resource",
        ),
        Absent::Keep => {
            let (series, note) = match series(query) {
                Some(series) => (series, ""),
                None => ("SERIES", ", where SERIES is what the query reads"),
            };
            let count = format!("count_over_time({series}[$window])");
            // A counter that was reset lost what it had counted since the sample before: that sample does not count.
            let counter = ["increase(", "rate("].iter().any(|function| query.contains(function));
            match counter {
                true => (
                    format!("min by ({label}, namespace) ({count} * (resets({series}[$window]) == bool 0))"),
                    note,
                ),
                false => (format!("min by ({label}, namespace) ({count})"), note),
            }
        }
    };
    let what =
        "a query needs the key \"sampleCountQuery\", which counts the samples in $window for each resource";
    format!("{what}, expected this line beside it{note}: {}", line(&count))
}

/// What stands between a bracket and each `[$window]`, if that is the same everywhere and looks like a series.
fn series(query: &str) -> Option<&str> {
    let mut pieces: Vec<&str> = query.split("[$window]").collect();
    pieces.pop();
    let mut found = pieces.into_iter().map(|before| before.rsplit('(').next().unwrap_or(before).trim());
    let first = found.next()?;
    let even = |quote: char| first.matches(quote).count() % 2 == 0;
    let looks_right = first.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':' | '{'))
        && !first.contains(|c: char| c == ')' || c.is_control())
        && first.matches('{').count() == first.matches('}').count()
        && ['"', '\'', '`'].into_iter().all(even);
    (looks_right && found.all(|other| other == first)).then_some(first)
}

// === impl Url ===

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        let wrong =
            |expected: &str| Err(de::Error::custom(format!("{text:?} is not a URL: expected {expected}")));
        let url = text.parse::<http::Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
        });
        match url {
            Some(url) if url.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                // Not repeated in a log.
                let why = "a URL with a name or password in it: expected one without, a token goes into bearerTokenFile";
                Err(de::Error::custom(why))
            }
            Some(url) if url.query().is_some() || text.contains('#') => {
                wrong("nothing behind its path, as in http://prometheus:9090")
            }
            Some(_) => Ok(Self(text.trim_end_matches('/').to_owned())),
            None => wrong("one as in http://prometheus:9090"),
        }
    }
}
