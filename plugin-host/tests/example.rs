//! The tutorial's plugin, built, loaded and used as its page says.

mod common;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::{built, context, folder, load, metric_source};
use plugin_host::RunningPlugin;
use scaler_types::{Nonce, Phase, QueueReading, Record, ResourceId, ScaleError, ScaleRequest, Target};

/// Starts the example with one resource whose commands write down that they ran.
async fn example(dir: &Path) -> Arc<dyn RunningPlugin> {
    let library = built(&["--package", "example-plugin"], "libcommand.so");
    let plugins = folder(&library, "command.so");
    let scan = load(plugins.path());
    let log = dir.join("log");
    let section = format!(
        "{{resources: [{{name: files, start: 'echo start >> {log}', stop: 'echo stop >> {log}', \
         address: '127.0.0.1:9000', hosts: [files.localhost]}}]}}",
        log = log.display()
    );
    scan.plugins[0].start(context("command", &section, dir)).await.unwrap()
}

async fn scale(instance: &dyn RunningPlugin, target: Target, state: Phase) -> Result<(), ScaleError> {
    let version = instance.get_resources().await.unwrap().readable.remove(0).version;
    let record = Record { phase: state, nonce: Nonce(7), ..Record::default() };
    let deadline = Duration::from_secs(60);
    let request = ScaleRequest {
        id: ResourceId::new("demo", "files"),
        target,
        version,
        record,
        deadline,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    };
    instance.set_scale(&request).await
}

#[tokio::test]
async fn it_starts_and_stops_its_resource_and_lists_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    // Two daemons of one host.
    let (one, other) = (example(dir.path()).await, example(dir.path()).await);
    let before = other.changes(0).await.unwrap().readable;
    assert_eq!(before.resources[0].hosts, ["files.localhost"]);
    assert_eq!((before.resources[0].replicas, before.resources[0].record.phase), (0, Phase::Active));

    scale(&*one, Target::AtLeast(1), Phase::Waking).await.unwrap();
    assert_eq!(log(), "start\n");
    let mut seen = other.changes(before.cursor).await.unwrap().readable;
    while seen.resources[0].replicas == 0 {
        seen = other.changes(seen.cursor).await.unwrap().readable;
    }
    assert_eq!(seen.resources[0].record.phase, Phase::Waking);
    assert_eq!(seen.resources[0].endpoints[0].address, "127.0.0.1:9000");
    scale(&*other, Target::AtLeast(1), Phase::Active).await.unwrap();
    assert_eq!(log(), "start\n", "it is up already");

    scale(&*other, Target::Zero, Phase::Asleep).await.unwrap();
    assert_eq!(log(), "start\nstop\n");
    let asleep = one.get_resources().await.unwrap().readable.remove(0);
    assert_eq!((asleep.replicas, asleep.endpoints.len(), asleep.record.phase), (0, 0, Phase::Asleep));
    one.stop().await;
}

/// Insists that every Rust block of a page is in the source that it explains, and that it shows most of it.
fn check_page(page: &str, source: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let [page, source] = [page, source].map(|file| fs::read_to_string(root.join(file)).unwrap());
    let mut shown = 0;
    for block in page.split("```rust\n").skip(1) {
        let block = block.split("```").next().unwrap();
        assert!(source.contains(block), "the page shows what is not in the source:\n{block}");
        shown += block.lines().count();
    }
    assert!(shown > 60, "the page leads through the source, {shown} lines of it");
}

#[tokio::test]
async fn its_page_shows_its_source_and_a_file_it_takes() {
    check_page("docs/write-a-plugin.md", "examples/plugin/src/lib.rs");
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plugin");
    let library = built(&["--package", "example-plugin"], "libcommand.so");
    let dir = folder(&library, "command.so");
    let mut context = context("command", "{}", dir.path());
    context.namespace_file_text = fs::read_to_string(crate_dir.join("demo.yaml")).unwrap().into();
    let instance = load(dir.path()).plugins[0].start(context).await.unwrap();
    assert_eq!(instance.get_resources().await.unwrap().readable[0].hosts, ["files.localhost"]);
}

#[tokio::test]
async fn the_metric_source_reads_what_its_commands_print() {
    check_page("docs/write-a-metric-source.md", "examples/metric-source/src/lib.rs");
    let library = built(&["--package", "metric-source-shell"], "libshell.so");
    let section = "{queues: {one: echo 7, both: 'echo 3; echo 2', none: 'true', bad: exit 4}}";
    let source = metric_source(&library, section).await.unwrap();
    assert_eq!((source.kind(), source.schemes()), ("shell", &["shell".to_owned()][..]));
    let queues =
        ["shell://one", "shell://both", "shell://none", "shell://bad", "shell://other", "file:///one"];
    let readings = source.read(&queues.map(str::to_owned)).await.unwrap();
    let reading = |waiting, in_flight| {
        Ok(QueueReading { waiting: Some(waiting), in_flight, delayed: Some(0), ..QueueReading::default() })
    };
    assert_eq!(readings[..2], [reading(7, None), reading(3, Some(2))]);
    let why: Vec<_> = readings[2..].iter().map(|reading| reading.clone().unwrap_err().to_string()).collect();
    assert_eq!(
        why,
        [
            "\"true\": printed \"\", expected WAITING [IN_FLIGHT]",
            "\"exit 4\": exit status: 4",
            "add a command for \"other\" to metricSources.shell.queues",
            "expected shell://QUEUE",
        ]
    );
    let demo = include_str!("../../examples/metric-source/demo.yaml");
    let demo = demo.split_once("  shell:\n").unwrap().1.replace('\n', "\n  ");
    metric_source(&library, &format!("\n  {demo}")).await.expect("it takes its file");
}
