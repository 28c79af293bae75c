//! The cluster's custom metrics API as metric source: one call per metric and window for all objects of a kind in a
//! namespace, under the names that v3io/scaler uses (`<metric>_per_<window>`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemon::{cluster::causes, flags::CommonFlags, settings::ObjectKind};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body};
use scaler_types::{Resource, Role};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::timeout,
};

use super::{
    Completeness, MetricReading, MetricValue, ResourceIndex,
    error::SourceError,
    index_by_name, quantity,
    source::{ReadingTable, ReadingTables, RequestedMetric, ValueSlot, wire_name},
};
use crate::http::{excerpt, percent_encode};

/// How long one call may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read: ten thousand objects take about 3 MB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How many calls are made at once.
const MAX_CONCURRENT_CALLS: usize = 4;
/// The API's group.
const GROUP: &str = "custom.metrics.k8s.io";
/// The versions that are spoken, the best first.
const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// A client of the cluster, if there is one; made when first needed. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClusterClient(Arc<Lazy>);

#[derive(Default)]
struct Lazy {
    flags: Option<CommonFlags>,
    client: OnceCell<Client>,
}

/// The custom metrics of one kind of object. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KubernetesSource(Arc<Shared>);

struct Shared {
    kind: ObjectKind,
    cluster: ClusterClient,
    /// Found once, and again after a failure.
    api: Mutex<Option<Api>>,
    permits: Semaphore,
}

/// The result of discovery.
#[derive(Clone, Debug, PartialEq)]
struct Api {
    version: String,
    /// `deployments.apps`, or `pods` in the core group.
    resource: String,
}

/// A group, and its versions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Clone, Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct ApiResources {
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
struct ApiResource {
    name: String,
    kind: String,
}

#[derive(Deserialize)]
struct ObjectMetrics {
    items: Vec<ObjectMetric>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetric {
    described_object: Described,
    value: String,
    /// Of how long the value is, where the API says so; 0 is a value of its own time. Called `window` in v1beta1.
    #[serde(default, alias = "window")]
    window_seconds: Option<i64>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
}

/// The values of one call by resource, each with its window if the API says so.
type ObjectValues = Vec<(ValueSlot, Option<Duration>)>;

// === impl ClusterClient ===

impl ClusterClient {
    /// The one that the flags mean.
    pub(crate) fn for_flags(flags: CommonFlags) -> Self {
        Self(Arc::new(Lazy { flags: Some(flags), client: OnceCell::new() }))
    }

    async fn client(&self) -> Result<Client, SourceError> {
        let make = async || match &self.0.flags {
            Some(flags) => daemon::cluster::client(flags.kubeconfig(), Role::Autoscaler)
                .await
                .map_err(SourceError::Client),
            None => Err(SourceError::NoCluster),
        };
        self.0.client.get_or_try_init(make).await.cloned()
    }
}

impl From<Client> for ClusterClient {
    fn from(client: Client) -> Self {
        Self(Arc::new(Lazy { flags: None, client: OnceCell::new_with(Some(client)) }))
    }
}

// === impl KubernetesSource ===

impl KubernetesSource {
    /// Asks nothing yet.
    pub(crate) fn new(kind: ObjectKind, cluster: ClusterClient) -> Self {
        Self(Arc::new(Shared {
            kind,
            cluster,
            api: Mutex::default(),
            permits: Semaphore::new(MAX_CONCURRENT_CALLS),
        }))
    }

    /// The kind of object whose metrics are read.
    pub(crate) fn kind(&self) -> &ObjectKind {
        &self.0.kind
    }

    /// Asks for all `wanted` in every namespace that something is listed in. `plugin`: the plugin's kind.
    pub(super) async fn query(
        &self,
        plugin: &str,
        listed: &[Resource],
        wanted: &BTreeSet<RequestedMetric<'_>>,
    ) -> ReadingTables {
        let api = self.api().await.map_err(Arc::new);
        let places = self.index_by_name(plugin, listed);
        let namespaces: BTreeSet<&str> =
            listed.iter().map(|resource| resource.id.namespace.as_str()).collect();
        let mut questions = JoinSet::new();
        for RequestedMetric { name, window } in wanted.iter().copied() {
            for namespace in &namespaces {
                let (this, api) = (self.clone(), api.clone());
                let (name, namespace) = (name.to_owned(), (*namespace).to_owned());
                questions.spawn(async move {
                    let answer = match api {
                        Ok((client, api)) => {
                            this.values(&client, &api, &namespace, &name, window).await.map_err(Arc::new)
                        }
                        Err(error) => Err(error),
                    };
                    (name, window, namespace, answer)
                });
            }
        }
        let mut answers: HashMap<(String, Duration), Result<ObjectValues, Arc<str>>> = HashMap::new();
        while let Some(answered) = questions.join_next().await {
            // A question that panicked is one without an answer: its resources have no value.
            let Ok((name, window, namespace, answer)) = answered else { continue };
            let table_values = answers
                .entry((name, window))
                .or_insert_with(|| Ok(vec![(ValueSlot::default(), None); listed.len()]));
            match (table_values.as_mut(), answer) {
                (Ok(known), Ok(values)) => add(known, places.get(namespace.as_str()), values),
                (Ok(_), Err(error)) => *table_values = Err(causes(&*error).into()),
                (Err(_), _) => {}
            }
        }
        let mut tables = ReadingTables::new();
        for ((name, window), values) in answers {
            let table = table(&name, window, values);
            tables.entry(name).or_default().insert(window, table);
        }
        tables
    }

    /// Where each resource is in the list, by namespace and the name of its object.
    fn index_by_name<'a>(&self, plugin: &str, listed: &'a [Resource]) -> ResourceIndex<'a> {
        let kind = self.0.kind.kind.to_lowercase();
        let mut all = index_by_name(listed);
        // The plugin deployment lists workloads of many kinds: of a Deployment its bare name, of any other `kind/name`.
        if plugin == "deployment" && kind != "deployment" {
            for names in all.values_mut() {
                let of_kind = names.drain().filter_map(|(name, place)| {
                    let (of, name) = name.split_once('/')?;
                    (of == kind).then_some((name, place))
                });
                *names = of_kind.collect();
            }
        }
        all
    }

    /// The client, and what discovery found.
    async fn api(&self) -> Result<(Client, Api), SourceError> {
        let client = self.0.cluster.client().await?;
        let known = self.0.api.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let api = match known {
            Some(api) => api,
            None => {
                let api = self.discover(&client).await?;
                *self.0.api.lock().unwrap_or_else(PoisonError::into_inner) = Some(api.clone());
                api
            }
        };
        Ok((client, api))
    }

    async fn discover(&self, client: &Client) -> Result<Api, SourceError> {
        let ObjectKind { group, kind } = &self.0.kind;
        let metrics: Group =
            get_json(client, &format!("/apis/{GROUP}")).await?.ok_or(SourceError::NoMetricsApi(GROUP))?;
        let version = VERSIONS
            .into_iter()
            .find(|version| metrics.versions.iter().any(|offered| offered.version == *version))
            .ok_or_else(|| SourceError::NoMetricsVersion { api: GROUP, versions: VERSIONS.join(", ") })?;
        let paths = match group.as_str() {
            "" => vec!["/api/v1".to_owned()],
            group => {
                let offered: Group = get_json(client, &format!("/apis/{group}"))
                    .await?
                    .ok_or_else(|| SourceError::NoGroup(group.to_owned()))?;
                let preferred = offered.preferred_version.iter();
                let versions = preferred.chain(&offered.versions);
                versions.map(|version| format!("/apis/{group}/{}", version.version)).collect()
            }
        };
        for path in paths {
            let kinds: Option<ApiResources> = get_json(client, &path).await?;
            let kinds = kinds.map(|kinds| kinds.resources).unwrap_or_default();
            // Those with a slash are subresources.
            if let Some(of) = kinds.iter().find(|of| of.kind == *kind && !of.name.contains('/')) {
                let resource =
                    if group.is_empty() { of.name.clone() } else { format!("{}.{group}", of.name) };
                return Ok(Api { version: version.to_owned(), resource });
            }
        }
        Err(SourceError::NoKind { group: group.clone(), kind: kind.clone() })
    }

    /// One metric of all objects in a namespace; none where there is no data yet.
    async fn values(
        &self,
        client: &Client,
        api: &Api,
        namespace: &str,
        name: &str,
        window: Duration,
    ) -> Result<Vec<ObjectMetric>, SourceError> {
        // An error: never, it is not closed.
        let _permit = self.0.permits.acquire().await;
        let Api { version, resource } = api;
        let metric = wire_name(name, window);
        let path = format!(
            "/apis/{GROUP}/{version}/namespaces/{}/{resource}/*/{}",
            percent_encode(namespace),
            percent_encode(&metric)
        );
        match get_json::<ObjectMetrics>(client, &path).await {
            Ok(values) => Ok(values.map(|values| values.items).unwrap_or_default()),
            Err(error) => {
                // The result of discovery may be out of date.
                *self.0.api.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(error)
            }
        }
    }
}

fn add(known: &mut ObjectValues, names: Option<&HashMap<&str, usize>>, values: Vec<ObjectMetric>) {
    let Some(names) = names else { return };
    for ObjectMetric { described_object, value, window_seconds } in values {
        let Some(place) = names.get(described_object.name.as_str()) else { continue };
        let (slot, over) = &mut known[*place];
        // A value that is no quantity is not a number.
        slot.add(quantity::parse(&value).unwrap_or(f64::NAN));
        *over = window_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
    }
}

fn table(name: &str, window: Duration, values: Result<ObjectValues, Arc<str>>) -> ReadingTable {
    let metric = wire_name(name, window);
    ReadingTable::new(move |place| {
        let (value, coverage) = match &values {
            // What the metric's name says, unless the API says otherwise.
            Ok(values) => {
                let (slot, over) = values[place];
                (slot.value(false), over.map_or(Completeness::Guaranteed, Completeness::Only))
            }
            Err(error) => (MetricValue::Failed(error.clone()), Completeness::Guaranteed),
        };
        MetricReading { metric: metric.clone(), value, coverage }
    })
}

/// The JSON at `path`; `None`: 404.
async fn get_json<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Option<T>, SourceError> {
    let answer = async {
        let request = Request::get(path).body(Body::empty())?;
        let exchange = async {
            let (head, body) = client.send(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(SourceError::Body)?;
            Ok::<_, SourceError>((head.status, body.to_bytes()))
        };
        match timeout(ANSWER_TIMEOUT, exchange).await {
            Err(_) => Err(SourceError::Timeout(ANSWER_TIMEOUT)),
            Ok(Err(error)) => Err(error),
            Ok(Ok((StatusCode::OK, body))) => Ok(Some(serde_json::from_slice(&body)?)),
            Ok(Ok((StatusCode::NOT_FOUND, _))) => Ok(None),
            Ok(Ok((status, body))) => Err(SourceError::Status { status, text: excerpt(&body) }),
        }
    };
    answer.await.map_err(|error| SourceError::Get { path: path.to_owned(), source: Box::new(error) })
}
