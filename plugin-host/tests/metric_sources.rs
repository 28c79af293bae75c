//! Metric sources across the plugin boundary, in order and not: the host goes on, and others are read.

mod common;

use std::{fs, time::Duration};

use common::{Log, built, metric_source, misbehaving, misbehaving_source};
use plugin_host::{ANSWER_WITHIN, CallError, Interface, LOAD_TIMEOUT, RunningMetricSource, load_dir, panics};
use scaler_types::{QueueError, QueueReading};

fn queues(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("test://{name}")).collect()
}

fn waiting(waiting: u64) -> Result<QueueReading, QueueError> {
    Ok(QueueReading { waiting: Some(waiting), ..QueueReading::default() })
}

/// What reading one queue answers, in words.
async fn read(source: &dyn RunningMetricSource) -> String {
    match source.read(&queues(&["3"])).await {
        Ok(readings) => {
            assert_eq!(readings, [waiting(3)]);
            "ok".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_metric_source_in_order_says_its_schemes_reads_and_reports_changes() {
    let source = metric_source(&misbehaving_source(), "{}").await.unwrap();
    assert_eq!((source.kind(), source.namespace()), ("misbehaving-source", "demo"));
    assert_eq!(source.schemes(), ["test", "other"]);
    let readings = source.read(&queues(&["7", "none", "0"])).await.unwrap();
    assert_eq!(readings, [waiting(7), Err(QueueError::NotFound("none".to_owned())), waiting(0)]);
    assert_eq!(source.read(&[]).await, Ok(Vec::new()));
    assert_eq!(source.changes(&queues(&["0", "4"])).await, Ok(queues(&["4"])));
    source.stop().await;
}

#[tokio::test]
async fn a_refused_configuration_is_reported_with_its_file_and_line() {
    for (section, expected) in [
        ("{new: error}", "new fails, as configured"),
        ("{new: panic}", "the plugin panicked: new panics, as configured"),
        ("{colour: red}", "demo.yaml:3:24: unknown key \"colour\", expected one of new, read, changes, stop"),
    ] {
        let error = metric_source(&misbehaving_source(), section).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{section}: {error}");
    }
}

#[tokio::test]
async fn a_panic_and_an_error_are_the_calls_and_the_next_is_made() {
    let bad =
        metric_source(&misbehaving_source(), "{read: panic, changes: error, stop: panic}").await.unwrap();
    let good = metric_source(&misbehaving_source(), "{read: slow}").await.unwrap();
    // However often: an answer is a sign of life, the source is not left alone.
    for _ in 0..10 {
        assert_eq!(read(&*bad).await, "the plugin panicked: read panics, as configured");
        let changes = bad.changes(&queues(&["0"])).await.unwrap_err();
        assert_eq!(changes.to_string(), "changes fails, as configured");
    }
    bad.stop().await;
    assert_eq!(read(&*good).await, "ok");
}

#[tokio::test]
async fn an_answer_for_another_number_of_queues_is_an_error_of_the_call() {
    let bad = metric_source(&misbehaving_source(), "{read: few}").await.unwrap();
    let error = bad.read(&queues(&["1", "2"])).await.unwrap_err().to_string();
    assert_eq!(error, "metric source misbehaving-source was asked for 2 queues and answered for 1");
}

#[tokio::test]
async fn an_entry_that_cannot_be_parsed_costs_its_queue_and_what_is_no_list_the_call() {
    let library = built(&["--package", "foreign", "--examples"], "examples/libraw_source.so");
    let raw = metric_source(&library, "{}").await.unwrap();
    assert_eq!((raw.kind(), raw.schemes()), ("raw", &["raw".to_owned()][..]));
    // The answer is its queues' names, put together.
    let answer = |texts: &[&str]| texts.iter().map(|text| format!("raw://{text}")).collect::<Vec<_>>();
    let (first, second) = (r#"[{"Ok": {"waiting": 3, "colour": "red"}},"#, r#"{"Ok": {"waiting": "many"}}]"#);
    let readings = raw.read(&[format!("raw://{first}"), second.to_owned()]).await.unwrap();
    assert_eq!(readings[0], waiting(3));
    let Err(QueueError::Unavailable(why)) = &readings[1] else { panic!("{readings:?}") };
    assert!(why.contains("cannot be parsed") && why.contains("many"), "{why}");
    for nonsense in ["", "{}", "[", "[1", "\u{1}", r#"{"Ok": []}"#] {
        let error = raw.read(&answer(&[nonsense])).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot parse the answer of plugin raw to read"), "{nonsense}: {error}");
    }
}

/// The host's clock is moved instead of waited for; the plugin has its own and hangs on it for ever.
#[tokio::test]
async fn a_read_that_hangs_ends_in_time_and_the_source_is_left_alone() {
    let bad = metric_source(&misbehaving_source(), "{read: hang, changes: hang}").await.unwrap();
    let good = metric_source(&misbehaving_source(), "{}").await.unwrap();
    tokio::time::pause();
    let queue = queues(&["1"]);
    for _ in 0..3 {
        assert_eq!(bad.read(&queue).await, Err(CallError::TimedOut(ANSWER_WITHIN)));
    }
    assert_eq!(bad.read(&queue).await, Err(CallError::LeftAlone(3)));
    // Its changes have a count of their own; the source's own side answers for one that waits.
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(bad.read(&queue).await, Err(CallError::TimedOut(ANSWER_WITHIN)), "probed");
    assert_eq!(bad.read(&queue).await, Err(CallError::LeftAlone(4)));
    tokio::time::resume();
    assert_eq!(read(&*good).await, "ok");
}

/// An author who blocks a thread for ever takes half of that plugin; instances and calls beside it are served.
#[tokio::test]
async fn a_blocked_thread_leaves_the_other_calls_served() {
    let bad = metric_source(&misbehaving_source(), "{changes: block}").await.unwrap();
    let blocked = bad.clone();
    let blocked = tokio::spawn(async move { blocked.changes(&queues(&["0"])).await });
    for _ in 0..1000 {
        assert_eq!(read(&*bad).await, "ok");
    }
    blocked.abort();
}

/// The library has a standard library of its own: its hook reports what no call answers.
#[tokio::test]
async fn a_panic_in_a_task_of_its_own_is_logged_and_counted() {
    let log = Log::start();
    let source = metric_source(&misbehaving_source(), "{read: task}").await.unwrap();
    assert_eq!(read(&*source).await, "ok");
    let line = log.line(&["ERROR", "a task of read panics, as configured"]).await;
    assert!(line.contains("plugin=\"misbehaving-source\"") && line.contains("lib.rs:"), "{line}");
    let counted = panics().into_iter().find(|panics| panics.kind == "misbehaving-source");
    let counted = counted.expect("it is counted");
    assert!(counted.last.contains("panics, as configured"), "{counted:?}");
}

#[test]
fn a_library_in_the_wrong_folder_is_refused_with_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let sources = dir.path().join("metric-sources");
    fs::create_dir(&sources).unwrap();
    for folder in [dir.path(), &sources] {
        fs::copy(misbehaving(), folder.join("scaler.so")).unwrap();
        fs::copy(misbehaving_source(), folder.join("source.so")).unwrap();
    }
    let refused = |folder, interface, kind| {
        let scan = load_dir(folder, interface, LOAD_TIMEOUT, |_| {}).unwrap();
        assert_eq!(scan.plugins.iter().map(plugin_host::Plugin::kind).collect::<Vec<_>>(), [kind]);
        assert_eq!(scan.plugins[0].interface(), interface);
        scan.rejected.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (here, there) = (dir.path().display(), sources.display());
    assert_eq!(
        refused(dir.path(), Interface::ResourceScaler, "misbehaving"),
        [format!(
            "{here}/source.so: a metric source in the folder of the resource-scalers; move it to {there}"
        )]
    );
    assert_eq!(
        refused(&sources, Interface::MetricSource, "misbehaving-source"),
        [format!(
            "{there}/scaler.so: a resource-scaler in the folder of the metric sources; move it to {here}"
        )]
    );
}
