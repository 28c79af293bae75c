//! The custom metrics API as metric source: against devcluster's, and against answers that no API should give.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    decide::{Decision, Evidence, ScaleHistory, decide},
    interception::InterceptionConditions,
    observe::{
        ActivitySource, Completeness, Measurements, MetricReading, MetricValue,
        kubernetes::ClusterClient,
        members::{MemberTimeouts, Members},
    },
    telemetry::AutoscalerMetrics,
};
use bytes::Bytes;
use daemon::{
    coordination::Coordinator,
    settings::{MetricsSource, ObjectKind, Settings},
};
use devcluster::{Filter, Options, Refusal};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::Client;
use prometheus_client::registry::Registry;
use scaler_types::{Resource, ResourceId, ScaleResource, TrafficMode};
use tokio::{net::TcpListener, time::Instant};

const WINDOW: Duration = Duration::from_secs(600);

fn source(client: Client, group: &str, kind: &str) -> ActivitySource {
    let kind = ObjectKind { group: group.to_owned(), kind: kind.to_owned() };
    ActivitySource::new(&MetricsSource::Kubernetes(kind), &ClusterClient::from(client))
}

fn resource(name: &str) -> Resource {
    let mut resource = Resource::new(ResourceId::new("shop", name));
    // No DLX is asked.
    (resource.traffic_mode, resource.replicas) = (TrafficMode::External, 1);
    resource.scale_resources =
        vec![ScaleResource { metric_name: "requests".to_owned(), window_size: WINDOW, threshold: 1.0 }];
    resource
}

/// The reading of each, and the decision on it. `plugin`: the kind of the plugin that lists them.
async fn ask(source: &ActivitySource, plugin: &str, names: &[&str]) -> Vec<(MetricReading, Decision)> {
    let listed: Vec<_> = names.iter().map(|name| resource(name)).collect();
    let coordination = Coordinator::Files("nowhere".into());
    let metrics = AutoscalerMetrics::new(&mut Registry::default());
    let members = Members::new(coordination, None, MemberTimeouts::default(), metrics);
    let activity = source.query(&members, plugin, "shop", &listed, &Settings::default()).await;
    let readings = activity.readings.expect("another source than the DLXs").into_iter().zip(&listed);
    let decided = readings.map(|(readings, resource)| {
        let measure = Measurements::Readings(&readings);
        let conditions = InterceptionConditions { dlx_available: true, propagation_delay: Duration::ZERO };
        let evidence = Evidence { source: &activity.source, samples: &[], measure, conditions, work: None };
        let metrics = &resource.scale_resources;
        let decision = decide(Instant::now(), resource, metrics, evidence, &ScaleHistory::default());
        (readings[0].clone(), decision)
    });
    decided.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_all_objects_of_a_kind() {
    let cluster = devcluster::Cluster::start(Options { custom_metrics: true, ..Options::default() }).unwrap();
    let values = cluster.custom_metrics();
    let source = source(cluster.client().unwrap(), "apps", "Deployment");
    let code = |results: &[(MetricReading, Decision)], place: usize| results[place].1.code();

    // No data yet: the API answers 404.
    let results = ask(&source, "deployment", &["web"]).await;
    assert_eq!((&results[0].0.value, code(&results, 0)), (&MetricValue::Absent { idle: false }, "no_value"));

    let set = |name: &str, value: &str, window| {
        values.set("shop", "deployments.apps", name, "requests_per_10m", value, window);
    };
    set("web", "1500m", None);
    set("idle", "1", None);
    set("zero", "0", Some(600));
    set("minute", "0", Some(60));
    set("db", "0", None);
    values.set("shop", "deployments.apps", "other", "requests_per_1h", "0", None);
    values.set("farm", "deployments.apps", "far", "requests_per_10m", "0", None);
    let names = ["web", "idle", "zero", "minute", "other", "far", "statefulset/db"];
    let results = ask(&source, "deployment", &names).await;
    // In the metric's own unit: 1.5 is above 1, and not 1500.
    assert_eq!((&results[0].0.value, code(&results, 0)), (&MetricValue::Number(1.5), "above_threshold"));
    assert_eq!((&results[1].0.value, code(&results, 1)), (&MetricValue::Number(1.0), "below_threshold"));
    assert_eq!(code(&results, 2), "below_threshold");
    // Of a minute, whatever its name says.
    assert_eq!(
        (&results[3].0.coverage, code(&results, 3)),
        (&Completeness::Only(Duration::from_secs(60)), "incomplete_window")
    );
    // Of another metric, of another namespace, of another kind.
    for (name, (_, decision)) in names.iter().zip(&results).skip(4) {
        assert_eq!(decision.code(), "no_value", "{name}");
    }
    // One call for all of them.
    let calls =
        |cluster: &devcluster::Cluster| cluster.requests().of(&Filter::any().resource("deployments.apps"));
    let before = calls(&cluster);
    ask(&source, "deployment", &names).await;
    assert!(calls(&cluster) <= before + 1, "{before} calls, then {}", calls(&cluster));

    // The StatefulSet of that name, and not the Deployment.
    let of_sets = self::source(cluster.client().unwrap(), "apps", "StatefulSet");
    values.set("shop", "statefulsets.apps", "db", "requests_per_10m", "7", None);
    values.set("shop", "statefulsets.apps", "web", "requests_per_10m", "0", None);
    let results = ask(&of_sets, "deployment", &["statefulset/db", "web"]).await;
    assert_eq!(results[0].0.value, MetricValue::Number(7.0));
    assert_eq!(results[1].0.value, MetricValue::Absent { idle: false });
    // A plugin whose resources are such objects has them by their own names.
    assert_eq!(ask(&of_sets, "other", &["web"]).await[0].0.value, MetricValue::Number(0.0));

    let fault = cluster.faults().refuse(Filter::any(), 1000, Refusal::InternalError);
    let results = ask(&source, "deployment", &["idle"]).await;
    assert_eq!(code(&results, 0), "source_failed");
    drop(fault);
    assert_eq!(code(&ask(&source, "deployment", &["idle"]).await, 0), "below_threshold");
    let unknown = self::source(cluster.client().unwrap(), "apps", "Unicorn");
    let results = ask(&unknown, "deployment", &["idle"]).await;
    assert!(results[0].1.to_string().contains("no kind \"Unicorn\""), "{}", results[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_nothing_is_known() {
    let cluster = devcluster::Cluster::start(Options::default()).unwrap();
    let source = source(cluster.client().unwrap(), "apps", "Deployment");
    let results = ask(&source, "deployment", &["web"]).await;
    assert!(results[0].1.to_string().contains("is a metrics adapter installed?"), "{}", results[0].1);
}

/// A server that answers each path by a script.
async fn server(answer: impl Fn(&str) -> (StatusCode, String) + Clone + Send + Sync + 'static) -> Client {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, body) = answer(request.uri().path());
                let mut response = Response::new(Full::<Bytes>::from(body));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
}

fn discovery(path: &str, versions: &str) -> Option<String> {
    match path {
        "/apis/custom.metrics.k8s.io" => Some(format!(r#"{{"versions":[{versions}]}}"#)),
        "/apis/apps" => Some(r#"{"versions":[{"version":"v1"}],"preferredVersion":{"version":"v1"}}"#.to_owned()),
        "/apis/apps/v1" => Some(
            r#"{"resources":[{"name":"deployments/scale","kind":"Deployment"},{"name":"deployments","kind":"Deployment"}]}"#
                .to_owned(),
        ),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_version_is_spoken_where_there_is_no_other() {
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = paths.clone();
    let client = server(move |path| {
        let versions = r#"{"version":"v1beta1"},{"version":"v9"}"#;
        if let Some(body) = discovery(path, versions) {
            return (StatusCode::OK, body);
        }
        seen.lock().unwrap().push(path.to_owned());
        let item = r#"{"items":[{"describedObject":{"name":"web"},"metricName":"requests_per_10m","value":"3","window":300}]}"#;
        (StatusCode::OK, item.to_owned())
    })
    .await;
    let results = ask(&source(client, "apps", "Deployment"), "deployment", &["web"]).await;
    assert_eq!(results[0].0.value, MetricValue::Number(3.0));
    assert_eq!(results[0].0.coverage, Completeness::Only(Duration::from_secs(300)));
    let path = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/deployments.apps/*/requests_per_10m";
    assert_eq!(*paths.lock().unwrap(), [path]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hostile_is_idleness() {
    let item = |value: &str| format!(r#"{{"describedObject":{{"name":"web"}},"value":{value}}}"#);
    let items = |items: &[String]| (200, format!(r#"{{"items":[{}]}}"#, items.join(",")));
    for ((status, body), code) in [
        ((500, "boom".to_owned()), "source_failed"),
        ((403, "{}".to_owned()), "source_failed"),
        ((302, String::new()), "source_failed"),
        ((200, String::new()), "source_failed"),
        ((200, "<html>".to_owned()), "source_failed"),
        ((200, "{}".to_owned()), "source_failed"),
        (items(&["{}".to_owned()]), "source_failed"),
        (items(&[item("0")]), "source_failed"),
        // 70 MiB.
        ((200, " ".repeat(70 << 20)), "source_failed"),
        ((404, String::new()), "no_value"),
        (items(&[]), "no_value"),
        (items(&[item("\"0\""), item("\"0\"")]), "duplicate_sample"),
        (items(&[item("\"NaN\"")]), "not_a_number"),
        (items(&[item("\"-1\"")]), "not_a_number"),
        (items(&[item("\"\"")]), "not_a_number"),
        (items(&[item("\"0\"")]), "below_threshold"),
    ] {
        let shown: String = body.chars().take(100).collect();
        let client = server(move |path| match discovery(path, r#"{"version":"v1beta2"}"#) {
            Some(body) => (StatusCode::OK, body),
            None => (StatusCode::from_u16(status).unwrap(), body.clone()),
        })
        .await;
        let results = ask(&source(client, "apps", "Deployment"), "deployment", &["web"]).await;
        assert_eq!(results[0].1.code(), code, "{status} {shown}: {}", results[0].1);
    }
    // Discovery itself.
    for body in ["", "{}", r#"{"versions":[]}"#, r#"{"versions":[{"version":"v1"}]}"#] {
        let client = server(move |_| (StatusCode::OK, body.to_owned())).await;
        let results = ask(&source(client, "apps", "Deployment"), "deployment", &["web"]).await;
        assert_eq!(results[0].1.code(), "source_failed", "{body}: {}", results[0].1);
    }
}
