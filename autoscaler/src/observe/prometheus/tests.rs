//! Against a scripted server: what is asked, and that nothing hostile is ever taken for idleness.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http::Response;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use scaler_types::ResourceId;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::http::percent_decode;

/// A request: path, Authorization, and the form's query.
type SleepRequest = (String, Option<String>, String);

/// A server, and what it was asked.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<SleepRequest>>>,
    _serving: DropGuard,
}

/// What a server answers to a query.
enum Reply {
    With(StatusCode, String),
    /// The head, and then a body that has no end.
    Endless,
    Never,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let serving = CancellationToken::new();
        let seen = requests.clone();
        let serve = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, answer) = (seen.clone(), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move { Self::answer(request, &seen, &answer).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        };
        tokio::spawn(serving.clone().run_until_cancelled_owned(serve));
        Self { address, requests, _serving: serving.drop_guard() }
    }

    async fn answer(
        request: Request<Incoming>,
        seen: &Mutex<Vec<SleepRequest>>,
        answer: &impl Fn(&str) -> Reply,
    ) -> Result<Response<http_body_util::Either<Full<Bytes>, Endless>>, std::convert::Infallible> {
        use http_body_util::{BodyExt as _, Either};
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let form = String::from_utf8(body.to_vec()).unwrap();
        let query =
            form.split('&').find_map(|pair| pair.strip_prefix("query=")).and_then(percent_decode).unwrap();
        let token = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push((format!("{} {}", head.method, head.uri), token, query.clone()));
        let (status, body) = match answer(&query) {
            Reply::With(status, body) => (status, Either::Left(Full::new(body.into()))),
            Reply::Endless => (StatusCode::OK, Either::Right(Endless)),
            Reply::Never => std::future::pending().await,
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert("location", HeaderValue::from_static("http://127.0.0.1:1/"));
        Ok(response)
    }

    fn settings(&self) -> Settings {
        let query = MetricQuery {
            query: "value[$window]{$namespace}".to_owned(),
            sample_count_query: "scrapes[$window]{$namespace}".to_owned(),
            absent: Absent::Idle,
            label: "name".to_owned(),
        };
        Settings {
            url: format!("http://{}/prefix", self.address),
            bearer_token_file: None,
            ca_file: None,
            scrape_interval: Duration::from_secs(15),
            queries: [("requests".to_owned(), query)].into(),
        }
    }
}

struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        static CHUNK: [u8; 1 << 20] = [b' '; 1 << 20];
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

const WINDOW: Duration = Duration::from_secs(600);

fn vector(elements: &[(&str, &str)]) -> String {
    let elements = elements
        .iter()
        .map(|(labels, value)| format!(r#"{{"metric":{{{labels}}},"value":[1700000000.123,"{value}"]}}"#));
    let elements: Vec<_> = elements.collect();
    format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, elements.join(","))
}

fn listed(names: &[&str]) -> Vec<Resource> {
    names.iter().map(|name| Resource::new(ResourceId::new("demo", *name))).collect()
}

async fn ask(settings: Settings, namespace: &str, names: &[&str]) -> Vec<MetricReading> {
    let wanted = [RequestedMetric { name: "requests", window: WINDOW }].into();
    let tables =
        PrometheusSource::new(Arc::new(settings)).query_all(namespace, &listed(names), &wanted).await;
    (0..names.len()).map(|place| tables["requests"][&WINDOW].reading(place)).collect()
}

fn covered(count: f64) -> Completeness {
    Completeness::Scrapes { seen: SampleCount::Count(count), needed: 41, most: 44 }
}

#[tokio::test]
async fn one_question_each_for_all_resources() {
    let server = Server::start(|query| {
        Reply::With(
            StatusCode::OK,
            match query.starts_with("value") {
                true => vector(&[
                    (r#""name":"a","job":"x""#, "0"),
                    (r#""name":"statefulset/db","namespace":"demo""#, "1.5"),
                    (r#""name":"b","namespace":"other""#, "7"),
                    (r#""job":"nobody""#, "7"),
                    (r#""name":"twice""#, "0"),
                    (r#""name":"twice","x":"y""#, "0"),
                    (r#""name":"nan""#, "NaN"),
                    (r#""name":"inf""#, "+Inf"),
                ]),
                false => vector(&[
                    (r#""name":"a""#, "42"),
                    (r#""name":"b""#, "42"),
                    (r#""name":"statefulset/db""#, "3"),
                    (r#""namespace":"demo""#, "42"),
                ]),
            },
        )
    })
    .await;
    let names = ["a", "statefulset/db", "b", "twice", "nan", "inf", "c"];
    let readings = ask(server.settings(), "demo", &names).await;
    assert_eq!((&readings[0].value, &readings[0].coverage), (&MetricValue::Number(0.0), &covered(42.0)));
    assert_eq!((&readings[1].value, &readings[1].coverage), (&MetricValue::Number(1.5), &covered(3.0)));
    // That of another namespace is another resource's.
    assert_eq!(
        (&readings[2].value, &readings[2].coverage),
        (&MetricValue::Absent { idle: true }, &covered(42.0))
    );
    assert_eq!(readings[3].value, MetricValue::Several);
    assert!(matches!(readings[4].value, MetricValue::Number(value) if value.is_nan()));
    assert_eq!(readings[5].value, MetricValue::Number(f64::INFINITY));
    // The scrapes of something else in the namespace prove nothing of it.
    let nothing = Completeness::Scrapes { seen: SampleCount::Nothing, needed: 41, most: 44 };
    assert_eq!((&readings[6].value, &readings[6].coverage), (&MetricValue::Absent { idle: true }, &nothing));
    let mut requests = server.requests.lock().unwrap().clone();
    requests.sort();
    let path = "POST /prefix/api/v1/query".to_owned();
    let expected = [
        (path.clone(), None, "scrapes[630s]{demo}".to_owned()),
        (path, None, "value[600s]{demo}".to_owned()),
    ];
    assert_eq!(requests, expected);
}

/// In a file for all namespaces a result must say which one it is of.
#[tokio::test]
async fn of_all_namespaces_a_result_says_its_own() {
    let server = Server::start(|_| {
        Reply::With(
            StatusCode::OK,
            vector(&[(r#""name":"a""#, "42"), (r#""name":"b","namespace":"demo""#, "42")]),
        )
    })
    .await;
    let readings = ask(server.settings(), "*", &["a", "b"]).await;
    assert_eq!(
        (&readings[0].value, &readings[1].value),
        (&MetricValue::Absent { idle: true }, &MetricValue::Number(42.0))
    );
}

#[tokio::test]
async fn nothing_hostile_is_idleness() {
    let with = |status: u16, body: &str| (StatusCode::from_u16(status).unwrap(), body.to_owned());
    let success = |data: &str| with(200, &format!(r#"{{"status":"success","data":{data}}}"#));
    for (answer, expected) in [
        (with(500, "boom"), "it answered 500 Internal Server Error: boom"),
        (
            with(422, r#"{"status":"error","errorType":"execution","error":"many-to-many"}"#),
            "it answered 422 Unprocessable Entity: many-to-many",
        ),
        (with(401, ""), "it answered 401 Unauthorized: "),
        (with(302, ""), "it answered 302 Found: ; set url to the redirect's target"),
        (with(204, ""), "it answered 204 No Content"),
        (with(200, ""), "cannot parse its answer"),
        (with(200, "<html>"), "cannot parse its answer"),
        (with(200, "[]"), "cannot parse its answer"),
        (with(200, &"[".repeat(100_000)), "cannot parse its answer"),
        (with(200, r#"{"status":"error","error":"no"}"#), "it answered error: no"),
        (with(200, r#"{"status":"success"}"#), "its answer has no data"),
        (success(r#"{"resultType":"matrix","result":[]}"#), "the query gives a matrix"),
        (success(r#"{"resultType":"scalar","result":[1,"0"]}"#), "cannot parse its answer"),
        (success(r#"{"resultType":"vector"}"#), "cannot parse its answer"),
        (
            success(r#"{"resultType":"vector","result":[{"metric":{"name":"a"},"value":[1,0]}]}"#),
            "cannot parse its answer",
        ),
        (
            success(r#"{"resultType":"vector","result":[{"metric":{"name":1},"value":[1,"0"]}]}"#),
            "cannot parse its answer",
        ),
        (
            with(
                200,
                r#"{"status":"success","warnings":["store down"],"data":{"resultType":"vector","result":[]}}"#,
            ),
            "its answer may not be complete: store down",
        ),
    ] {
        let (status, body) = answer.clone();
        let server = Server::start(move |_| Reply::With(status, body.clone())).await;
        let reading = ask(server.settings(), "demo", &["a"]).await.remove(0);
        let MetricValue::Failed(error) = &reading.value else { panic!("{answer:?}: {reading:?}") };
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert!(error.contains(&server.settings().url), "{error}");
        assert!(
            matches!(reading.coverage, Completeness::Scrapes { seen: SampleCount::Failed(_), .. }),
            "{reading:?}"
        );
    }
    // What no reader takes for a number.
    for (value, histogram) in [("", false), ("0x0", false), ("zero", false), ("0", true)] {
        let element = match histogram {
            false => vector(&[(r#""name":"a""#, value)]),
            true => vector(&[(r#""name":"a""#, "0")]).replace("\"value\"", "\"histogram\""),
        };
        let server = Server::start(move |_| Reply::With(StatusCode::OK, element.clone())).await;
        let reading = ask(server.settings(), "demo", &["a"]).await.remove(0);
        assert!(
            matches!(reading.value, MetricValue::Number(value) if value.is_nan()),
            "{value:?}: {reading:?}"
        );
    }
}

/// A body without an end is read up to the bound, and no further.
#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_| Reply::Endless).await;
    let reading = ask(server.settings(), "demo", &["a"]).await.remove(0);
    assert!(
        matches!(&reading.value, MetricValue::Failed(error) if error.contains("more than 64 MiB")),
        "{reading:?}"
    );
}

/// Half the queries are answered: only what has both its value and its coverage is known.
#[tokio::test(start_paused = true)]
async fn a_query_that_gets_no_answer_is_given_up() {
    let server = Server::start(|query| match query.starts_with("value") {
        true => Reply::With(StatusCode::OK, vector(&[(r#""name":"a""#, "0")])),
        false => Reply::Never,
    })
    .await;
    let reading = ask(server.settings(), "demo", &["a"]).await.remove(0);
    let Completeness::Scrapes { seen: SampleCount::Failed(error), .. } = &reading.coverage else {
        panic!("{reading:?}")
    };
    assert!(error.contains("no answer within 10s"), "{error}");
}

#[tokio::test]
async fn no_server_is_a_failure() {
    let server = Server::start(|_| Reply::Never).await;
    let settings = server.settings();
    drop(server);
    let reading =
        ask(Settings { url: "http://127.0.0.1:1".to_owned(), ..settings.clone() }, "demo", &["a"]).await;
    assert!(
        matches!(&reading[0].value, MetricValue::Failed(error) if error.contains("127.0.0.1:1")),
        "{reading:?}"
    );
    // A certificate file that is none; a token that is missing.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    for settings in [
        Settings { ca_file: Some(file.clone()), ..settings.clone() },
        Settings { bearer_token_file: Some(file.clone()), ..settings },
    ] {
        let reading = ask(settings, "demo", &["a"]).await.remove(0);
        let expected = file.display().to_string();
        assert!(
            matches!(&reading.value, MetricValue::Failed(error) if error.contains(&expected)),
            "{reading:?}"
        );
    }
}

#[tokio::test]
async fn the_token_is_read_for_each_cycle() {
    let server = Server::start(|_| Reply::With(StatusCode::OK, vector(&[]))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "one\n").unwrap();
    let settings = Settings { bearer_token_file: Some(file.clone()), ..server.settings() };
    let source = PrometheusSource::new(Arc::new(settings));
    let wanted = [RequestedMetric { name: "requests", window: WINDOW }].into();
    source.query_all("demo", &listed(&["a"]), &wanted).await;
    std::fs::write(&file, "two").unwrap();
    source.query_all("demo", &listed(&["a"]), &wanted).await;
    let mut tokens: Vec<_> =
        server.requests.lock().unwrap().iter().map(|(_, token, _)| token.clone().unwrap()).collect();
    tokens.sort();
    assert_eq!(tokens, ["Bearer one", "Bearer one", "Bearer two", "Bearer two"]);
}

#[tokio::test]
async fn a_metric_without_a_query_is_unknown() {
    let server = Server::start(|_| Reply::Never).await;
    let wanted = [RequestedMetric { name: "cpu", window: WINDOW }].into();
    let source = PrometheusSource::new(Arc::new(server.settings()));
    let tables = source.query_all("demo", &listed(&["a"]), &wanted).await;
    let MetricValue::Unknown(state) = tables["cpu"][&WINDOW].reading(0).value else { panic!("a value") };
    assert_eq!(&*state, "no query for the metric \"cpu\": metrics.queries has requests");
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn how_many_scrapes_a_window_needs() {
    let seconds = Duration::from_secs;
    for (window, interval, range, least, most) in [
        (600, 15, 630, 41, 44),
        (600, 60, 720, 11, 14),
        (10, 1, 12, 11, 14),
        // Rounded up to whole intervals.
        (100, 15, 135, 8, 11),
        (1, 60, 180, 2, 5),
    ] {
        let needed = ScrapeBounds::new(seconds(window), seconds(interval));
        assert_eq!(needed, ScrapeBounds { range: seconds(range), least, most }, "{window} {interval}");
        // They reach back over the window, and with one missing there are still enough.
        assert!((needed.least - 1) * interval >= window);
        assert!(needed.range.as_secs() / interval > needed.least - 1);
    }
    for (window, text) in
        [(1_500_000_000, "1500ms"), (600_000_000_000, "600s"), (1, "1ms"), (90_000_000_000, "90s")]
    {
        assert_eq!(
            fill_query("$window $namespace", "demo", Duration::from_nanos(window)),
            format!("{text} demo")
        );
    }
}
