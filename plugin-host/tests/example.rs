//! The tutorial's plugin, built, loaded and used as its page says.

mod common;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::{built, context, folder, load};
use plugin_host::RunningPlugin;
use scaler_types::{Nonce, Phase, Record, ResourceId, ScaleError, ScaleRequest, Target};

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

#[tokio::test]
async fn its_page_shows_its_source_and_a_file_it_takes() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plugin");
    let page = fs::read_to_string(crate_dir.join("../../docs/write-a-plugin.md")).unwrap();
    let source = fs::read_to_string(crate_dir.join("src/lib.rs")).unwrap();
    let mut shown = 0;
    for block in page.split("```rust\n").skip(1) {
        let block = block.split("```").next().unwrap();
        assert!(source.contains(block), "the page shows what is not in the source:\n{block}");
        shown += block.lines().count();
    }
    assert!(shown > 60, "the page leads through the source, {shown} lines of it");

    let library = built(&["--package", "example-plugin"], "libcommand.so");
    let dir = folder(&library, "command.so");
    let mut context = context("command", "{}", dir.path());
    context.namespace_file_text = fs::read_to_string(crate_dir.join("demo.yaml")).unwrap().into();
    let instance = load(dir.path()).plugins[0].start(context).await.unwrap();
    assert_eq!(instance.get_resources().await.unwrap().readable[0].hosts, ["files.localhost"]);
}
