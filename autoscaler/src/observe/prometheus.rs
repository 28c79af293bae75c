//! A Prometheus as metric source: one query for all resources per metric and window, and one for how many scrapes its
//! values rest on.
//!
//! The number of scrapes proves completeness: they are at least one scrape interval apart, so `n` of them reach back
//! `n - 1` intervals or more. With `n - 1` intervals at least as long as the window, whatever was counted was looked at
//! before the window began. The number is asked for over two intervals more than the window, so that one scrape may
//! fail, and the last one be up to two intervals old.

mod answer;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use daemon::{
    cluster::causes,
    settings::{Absent, MetricQuery, Prometheus as Settings},
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use scaler_types::{Resource, duration};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Completeness, MetricReading, MetricValue, ResourceIndex, SampleCount,
    error::SourceError,
    index_by_name,
    source::{ReadingTable, ReadingTables, RequestedMetric, ValueSlot, wire_name},
};
use crate::http::{Http, Roots, encode_form, excerpt, roots_for};

/// How long one query may take. Prometheus itself gives up after two minutes; a cycle is a minute by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read: ten thousand resources take about 1 MB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How many queries are asked at once. Prometheus runs 20 at once by default, for everybody.
const MAX_CONCURRENT_QUERIES: usize = 4;
/// How many scrape intervals further back than the window scrapes are counted.
const EXTRA_INTERVALS: u64 = 2;

/// A Prometheus, and what it is asked. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct PrometheusSource(Arc<Shared>);

struct Shared {
    settings: Arc<Settings>,
    /// With the roots it was built from: a renewed certificate is trusted from the next cycle on.
    client: Mutex<Option<(Roots, Http)>>,
    permits: Semaphore,
}

/// Each resource's value, or why there are none.
type Slots = Result<Vec<ValueSlot>, Arc<str>>;

/// How many scrapes cover a window.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ScrapeBounds {
    /// Over how long they are counted.
    range: Duration,
    least: u64,
    most: u64,
}

// === impl PrometheusSource ===

impl PrometheusSource {
    /// Asks nothing yet.
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self(Arc::new(Shared {
            settings,
            client: Mutex::default(),
            permits: Semaphore::new(MAX_CONCURRENT_QUERIES),
        }))
    }

    /// What it is asked.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.0.settings
    }

    /// Asks for all `wanted`. `namespace`: the file's.
    pub(super) async fn query_all(
        &self,
        namespace: &str,
        listed: &[Resource],
        wanted: &BTreeSet<RequestedMetric<'_>>,
    ) -> ReadingTables {
        let settings = &self.0.settings;
        let places = index_by_name(listed);
        let access = self.access().await.map_err(Arc::new);
        let mut questions = JoinSet::new();
        let mut tables = ReadingTables::new();
        let mut put = |(name, window): (String, Duration), table| {
            tables.entry(name).or_default().insert(window, table);
        };
        for RequestedMetric { name, window } in wanted.iter().copied() {
            let Some(query) = settings.queries.get(name) else {
                put((name.to_owned(), window), unknown_metric_table(settings, name, window));
                continue;
            };
            let needed = ScrapeBounds::new(window, settings.scrape_interval);
            let text = fill_query(&query.query, namespace, window);
            let coverage = fill_query(&query.sample_count_query, namespace, needed.range);
            for (counts, text) in [(false, text), (true, coverage)] {
                let (this, access, key) = (self.clone(), access.clone(), (name.to_owned(), window));
                questions.spawn(async move {
                    let answer = match access {
                        Ok((http, authorization)) => {
                            this.query(&http, authorization, &text).await.map_err(Arc::new)
                        }
                        Err(error) => Err(error),
                    };
                    (key, counts, answer)
                });
            }
        }
        let mut answers: HashMap<(String, Duration), [Slots; 2]> = HashMap::new();
        while let Some(answered) = questions.join_next().await {
            // A question that panicked is one without an answer.
            let Ok((key, counts, answer)) = answered else { continue };
            let label = settings.queries.get(&key.0).map_or("", |query| &query.label);
            let slots = answer.and_then(|body| {
                parse_slots(&body, label, namespace, &places, listed.len()).map_err(Arc::new)
            });
            let slots =
                slots.map_err(|error| format!("{} at {}: {}", key.0, settings.url, causes(&*error)).into());
            let both = answers.entry(key).or_insert_with(|| std::array::from_fn(|_| Err("no answer".into())));
            both[usize::from(counts)] = slots;
        }
        for (key, [values, scrapes]) in answers {
            let Some(query) = settings.queries.get(&key.0) else { continue };
            let table = reading_table(&key.0, key.1, query, settings, values, scrapes);
            put(key, table);
        }
        tables
    }

    /// The client and what it says of itself, both read anew: tokens and certificates are renewed in their files.
    async fn access(&self) -> Result<(Http, Option<HeaderValue>), SourceError> {
        let settings = &self.0.settings;
        let pem = match &settings.ca_file {
            Some(file) => Some(tokio::fs::read(file).await.map_err(|source| SourceError::File {
                key: "caFile",
                file: file.clone(),
                source,
            })?),
            None => None,
        };
        let authorization =
            match &settings.bearer_token_file {
                Some(file) => {
                    let token = tokio::fs::read_to_string(file).await.map_err(|source| {
                        SourceError::File { key: "bearerTokenFile", file: file.clone(), source }
                    })?;
                    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                        .map_err(|_| SourceError::BadToken(file.clone()))?;
                    value.set_sensitive(true);
                    Some(value)
                }
                None => None,
            };
        let roots = roots_for(&settings.url, pem);
        let mut client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, http)) = client.as_ref().filter(|(of, _)| *of == roots) {
            return Ok((http.clone(), authorization));
        }
        let http = Http::new(&roots)?;
        *client = Some((roots, http.clone()));
        Ok((http, authorization))
    }

    /// The body of a query's answer, if it was well.
    async fn query(
        &self,
        http: &Http,
        authorization: Option<HeaderValue>,
        query: &str,
    ) -> Result<Bytes, SourceError> {
        // An error: never, it is not closed.
        let _permit = self.0.permits.acquire().await;
        let body = encode_form(&[("query", query), ("timeout", &duration::short(ANSWER_TIMEOUT))]);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/v1/query", self.0.settings.url))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body.into()))?;
        let (status, body) = http.send(request, MAX_ANSWER_BYTES, ANSWER_TIMEOUT).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        // A redirect is not followed: the token is for the address that was given.
        let text = answer::error_text(&body).unwrap_or_else(|| excerpt(&body));
        Err(SourceError::Status { status, text })
    }
}

// === impl ScrapeBounds ===

impl ScrapeBounds {
    fn new(window: Duration, interval: Duration) -> Self {
        let intervals = window.as_nanos().div_ceil(interval.as_nanos().max(1));
        let intervals = u64::try_from(intervals).unwrap_or(u64::MAX);
        let range = interval
            .saturating_mul(u32::try_from(intervals.saturating_add(EXTRA_INTERVALS)).unwrap_or(u32::MAX));
        // One more than there are intervals in the range, and one for a scrape that came early.
        let most = intervals.saturating_add(EXTRA_INTERVALS + 2);
        Self { range, least: intervals.saturating_add(1), most }
    }
}

/// A query's text with what is to be filled in.
fn fill_query(text: &str, namespace: &str, window: Duration) -> String {
    // Prometheus knows no fraction of a unit, and nothing below a millisecond. Rounded up: never less than was asked.
    let millis = window.as_nanos().div_ceil(1_000_000);
    let window =
        if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") };
    text.replace("$window", &window).replace("$namespace", namespace)
}

fn unknown_metric_table(settings: &Settings, name: &str, window: Duration) -> ReadingTable {
    let known: Vec<_> = settings.queries.keys().map(String::as_str).collect();
    let why = format!("no query for the metric {name:?}: metrics.queries has {}", known.join(", "));
    ReadingTable::unknown_metric(wire_name(name, window), why.into())
}

/// Each resource's value in an answer.
fn parse_slots(
    body: &[u8],
    label: &str,
    namespace: &str,
    places: &ResourceIndex<'_>,
    count: usize,
) -> Result<Vec<ValueSlot>, SourceError> {
    let mut slots = vec![ValueSlot::default(); count];
    let file = (namespace != "*").then_some(namespace);
    answer::for_each_result(body, label, |of, name, value| {
        let place = of.or(file).and_then(|namespace| places.get(namespace)).and_then(|names| names.get(name));
        if let Some(place) = place {
            slots[*place].add(value);
        }
    })?;
    Ok(slots)
}

fn reading_table(
    name: &str,
    window: Duration,
    query: &MetricQuery,
    settings: &Settings,
    values: Slots,
    scrapes: Slots,
) -> ReadingTable {
    let metric = wire_name(name, window);
    let ScrapeBounds { least: needed, most, .. } = ScrapeBounds::new(window, settings.scrape_interval);
    let idle = query.absent == Absent::Idle;
    ReadingTable::new(move |place| {
        let value = match &values {
            Ok(values) => values[place].value(idle),
            Err(error) => MetricValue::Failed(error.clone()),
        };
        let seen = match &scrapes {
            Ok(scrapes) => match scrapes[place].value(false) {
                MetricValue::Number(count) => SampleCount::Count(count),
                MetricValue::Several => SampleCount::Several,
                _ => SampleCount::Nothing,
            },
            Err(error) => SampleCount::Failed(error.clone()),
        };
        MetricReading {
            metric: metric.clone(),
            value,
            coverage: Completeness::Scrapes { seen, needed, most },
        }
    })
}

#[cfg(test)]
mod tests;
