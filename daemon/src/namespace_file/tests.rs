use std::time::Duration;

use plugin_host::Interface;
use scaler_types::ScaleResource;

use super::*;

use crate::settings::{
    Absent, Compatibility, ForwardedHeaders, MetricQuery, MultiTargetStrategy, ObjectKind, Prometheus,
    StaticResponseWhen,
};

fn parse(text: &str) -> Result<NamespaceFile, String> {
    NamespaceFile::parse("demo.yaml", text.as_bytes()).map_err(|error| error.to_string())
}

/// Every key there is but those of the other metric sources.
const EVERY_KEY: &str = "
namespace: demo
scaleInterval: 1m30s
maxConcurrentWakes: 7
compatibility: worker-pod-autoscaler
metrics:
  source: dlx
defaults:
  scaleResources:
    - {metricName: requests, windowSize: 10m, threshold: 2.5}
    - {metricName: requests, windowSize: 1h}
dlx:
  targetPort: 8080
  targetNameHeader: X-Resource-Name
  targetPathHeader: X-Path
  resourceReadinessTimeout: 5m
  holdTimeout: 50s
  maxHeldRequests: 10000
  maxHeldBytes: 64MiB
  slowStartRequestsPerEndpoint: 100
  staticResponses: [{userAgent: kube-probe, status: 200}, {path: /healthz, status: 204, when: always}]
  multiTargetStrategy: canary
  forwardedHeaders: append
plugins:
  process:
    resources:
      - name: hello
        command: [python3, -m, http.server, \"9000\"]
";

#[test]
fn every_key_is_read() {
    let file = parse(EVERY_KEY).unwrap();
    let seconds = Duration::from_secs;
    let metric =
        |window_size, threshold| ScaleResource { metric_name: "requests".into(), window_size, threshold };
    let static_response = |user_agent: Option<&str>, path: Option<&str>, status, when| StaticResponse {
        user_agent: user_agent.map(str::to_owned),
        path: path.map(str::to_owned),
        status,
        when,
    };
    let expected = SettingsLayer {
        scale_interval: Some(seconds(90)),
        max_concurrent_wakes: Some(7),
        compatibility: Some(Compatibility::WorkerPodAutoscaler),
        metrics: Some(MetricsSource::Dlx),
        scale_resources: Some(vec![metric(seconds(600), 2.5), metric(seconds(3600), 0.0)]),
        target_port: Some(8080),
        target_name_header: Some("X-Resource-Name".into()),
        target_path_header: Some("X-Path".into()),
        resource_readiness_timeout: Some(seconds(300)),
        hold_timeout: Some(seconds(50)),
        max_held_requests: Some(10_000),
        max_held_bytes: Some(64 << 20),
        slow_start_requests_per_endpoint: Some(100),
        static_responses: Some(vec![
            static_response(Some("kube-probe"), None, 200, StaticResponseWhen::Asleep),
            static_response(None, Some("/healthz"), 204, StaticResponseWhen::Always),
        ]),
        multi_target_strategy: Some(MultiTargetStrategy::Canary),
        forwarded_headers: Some(ForwardedHeaders::Append),
    };
    assert_eq!(file.settings, expected);
    assert_eq!(file.namespace, "demo");
    assert_eq!(file.sections_of(Interface::ResourceScaler).keys().collect::<Vec<_>>(), ["process"]);
}

#[test]
fn every_key_of_a_prometheus_is_read() {
    let text = "
namespace: demo
metrics:
  source: prometheus
  url: https://prometheus:9090/prefix/
  bearerTokenFile: /run/token
  caFile: /run/ca.pem
  scrapeInterval: 15s
  queries:
    requests:
      query: sum by (name) (increase(http_requests_total{namespace=\"$namespace\"}[$window]))
      sampleCountQuery: min by (name) (count_over_time(http_requests_total{namespace=\"$namespace\"}[$window]))
    queue:
      query: max by (app) (max_over_time(queue_length[$window]))
      sampleCountQuery: min by (app) (count_over_time(queue_length[$window]))
      label: app
    jobs:
      query: sum by (name) (increase(a[$window]) + increase(b[$window]))
      sampleCountQuery: min by (name) (sum_over_time(up[$window]))
      absent: idle
defaults:
  scaleResources: [{metricName: queue, windowSize: 10m, threshold: 2.5}]
";
    let settings = parse(text).unwrap().settings;
    let Some(MetricsSource::Prometheus(source)) = settings.metrics else { panic!("{settings:?}") };
    let query = |query: &str, sample_count_query: &str, absent, label: &str| MetricQuery {
        query: query.into(),
        sample_count_query: sample_count_query.into(),
        absent,
        label: label.into(),
    };
    let series = "http_requests_total{namespace=\"$namespace\"}[$window]";
    let expected = Prometheus {
        url: "https://prometheus:9090/prefix".into(),
        bearer_token_file: Some("/run/token".into()),
        ca_file: Some("/run/ca.pem".into()),
        scrape_interval: Duration::from_secs(15),
        queries: [
            (
                "requests".to_owned(),
                query(
                    &format!("sum by (name) (increase({series}))"),
                    &format!("min by (name) (count_over_time({series}))"),
                    Absent::Keep,
                    "name",
                ),
            ),
            (
                "queue".to_owned(),
                query(
                    "max by (app) (max_over_time(queue_length[$window]))",
                    "min by (app) (count_over_time(queue_length[$window]))",
                    Absent::Keep,
                    "app",
                ),
            ),
            (
                "jobs".to_owned(),
                query(
                    "sum by (name) (increase(a[$window]) + increase(b[$window]))",
                    "min by (name) (sum_over_time(up[$window]))",
                    Absent::Idle,
                    "name",
                ),
            ),
        ]
        .into(),
    };
    assert_eq!(*source, expected);
    let kubernetes = "namespace: demo\nmetrics: {source: kubernetes, resource: {group: \"\", kind: Pod}}\n\
         defaults: {scaleResources: [{metricName: anything, windowSize: 1m}]}\n";
    let kind = ObjectKind { group: String::new(), kind: "Pod".to_owned() };
    assert_eq!(parse(kubernetes).unwrap().settings.metrics, Some(MetricsSource::Kubernetes(kind)));
}

/// The line that the message proposes is taken, and counts the samples of what the query reads.
#[test]
fn a_query_without_a_sample_count_is_refused_with_the_line_to_add() {
    let of_counter = |label: &str, series: &str| {
        format!(
            "min by ({label}, namespace) (count_over_time({series}[$window]) * (resets({series}[$window]) == bool 0))"
        )
    };
    let of_gauge = |series: &str| format!("min by (name, namespace) (count_over_time({series}[$window]))");
    let of_target = "min by (name) (sum_over_time(up[$window]))".to_owned();
    let labelled = "a_total{b=\"$namespace\", c!='d'}";
    for (query, beside, proposed) in [
        (
            &*format!("sum by (name) (increase({labelled}[$window]))"),
            "label: name",
            of_counter("name", labelled),
        ),
        ("rate(a:b_total[$window])", "label: app", of_counter("app", "a:b_total")),
        ("increase(a[$window]) / sum_over_time(a [$window])", "label: name", of_counter("name", "a")),
        ("max by (name) (max_over_time(queue [$window]))", "label: name", of_gauge("queue")),
        ("increase(a[$window]) + increase(b[$window])", "label: name", of_counter("name", "SERIES")),
        ("increase(a{b=~\"(c|d)\"}[$window])", "label: name", of_counter("name", "SERIES")),
        ("max_over_time((a)[$window:1m])", "label: name", of_gauge("SERIES")),
        ("quantile_over_time(0.9, a[$window])", "label: name", of_gauge("SERIES")),
        ("increase(a[$window])", "absent: idle", of_target),
    ] {
        let file = |more: &str| {
            let query = query.replace('\'', "''");
            format!(
                "namespace: demo\nmetrics:\n  source: prometheus\n  url: http://prometheus:9090\n  scrapeInterval: 15s\n  \
                 queries:\n    jobs:\n      query: '{query}'\n      {beside}\n{more}"
            )
        };
        let error = parse(&file("")).unwrap_err();
        assert!(error.starts_with("demo.yaml:8:14: a query needs the key \"sampleCountQuery\""), "{error}");
        let (_, line) = error.split_once(": sampleCountQuery: ").expect(&error);
        let settings = parse(&file(&format!("      sampleCountQuery: {line}\n"))).unwrap().settings;
        let Some(MetricsSource::Prometheus(source)) = settings.metrics else { panic!("{settings:?}") };
        assert_eq!(source.queries["jobs"].sample_count_query, proposed, "{query}");
    }
}

#[test]
fn the_namespace_is_enough() {
    let file = parse("namespace: \"*\"\n").unwrap();
    assert_eq!(file, NamespaceFile::implicit("*".to_owned()));
    // With a byte order mark, Windows' line ends, and no line end at all.
    for text in
        ["\u{feff}namespace: demo\n", "namespace: demo\r\ndlx: {targetPort: 1}\r\n", "namespace: demo"]
    {
        assert_eq!(parse(text).unwrap().namespace, "demo", "{text:?}");
    }
}

#[test]
fn a_section_says_the_same_wherever_it_stands() {
    let says = |section: &str| {
        let file = parse(&format!("namespace: demo\nplugins:\n  a:{section}\n")).unwrap();
        file.sections_of(Interface::ResourceScaler)["a"].says
    };
    let base = says(" {b: [1, x], c: {d: true, e: ~}}");
    assert_eq!(base, says("\n    # why\n    b:\n    - 1\n    - \"x\"\n    c:\n      d: true\n      e:"));
    for other in [
        " {b: [1, x], c: {d: true}}",
        " {b: [1, y], c: {d: true, e: ~}}",
        " {b: [\"1\", x], c: {d: true, e: ~}}",
        " {b: [1, x], c: {d: false, e: ~}}",
        " {b: [1, x, {}], c: {d: true, e: ~}}",
        " {b: [1], x: c, d: true, e: ~}",
        " {b: [1, x], c: {d: true, e: 1.5}}",
        " []",
        " {}",
        "",
    ] {
        assert_ne!(base, says(other), "{other}");
    }
    assert_ne!(says(" []"), says(" {}"));
    assert_ne!(says(" [[], 1]"), says(" [[1]]"));
}

#[test]
fn ten_thousand_resources_fit() {
    let mut text = "namespace: demo\nplugins:\n  process:\n    resources:\n".to_owned();
    for number in 0..10_000 {
        let arguments = (0..20).map(|argument| format!("a{argument}")).collect::<Vec<_>>().join(", ");
        text += &format!("      - name: r{number}\n        port: 9000\n        command: [{arguments}]\n");
    }
    parse(&text).unwrap();
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = NamespaceFile::parse("demo.yaml", &bytes);
    }

    /// Near a good file: something of it is replaced.
    #[test]
    fn no_mutation_panics(at in 0..EVERY_KEY.len(), length in 0..40_usize, with in "[-:{}\\[\\],&*!|>'\"#%@`~?a0 \\n\\t]{0,4}") {
        let end = (at + length).min(EVERY_KEY.len());
        let text = [&EVERY_KEY[..at], &with, &EVERY_KEY[end..]].concat();
        if let Err(error) = parse(&text) {
            let mut place = error.splitn(4, ':');
            proptest::prop_assert_eq!(place.next(), Some("demo.yaml"));
            let line: usize = place.next().and_then(|line| line.parse().ok()).unwrap_or_default();
            proptest::prop_assert!(line > 0 && line <= text.lines().count() + 1, "{}", error);
            proptest::prop_assert_eq!(error.lines().count(), 1, "{}", error);
        }
    }
}
