//! `cargo xtask new-plugin` makes a crate that builds and loads as it is.

mod common;

use std::{path::Path, process::Command, time::Duration};

use common::{context, folder, load, metric_source};
use scaler_types::{Nonce, Phase, QueueError, Record, ResourceId, ScaleRequest, Target, Version};

/// cargo, in the folder of this crate, with what is built already where it can be found.
fn cargo(arguments: &[&str], target: &Path) {
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        // As in this workspace's manifest: otherwise all its dependencies would be built again.
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo {arguments:?}: {status}");
}

#[tokio::test]
async fn a_new_plugin_and_a_new_metric_source_build_and_load() {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("a test lies in target/debug/deps");
    let outside = tempfile::tempdir().unwrap();
    let made = outside.path().join("my-queue");
    cargo(&["run", "--quiet", "--package", "xtask", "--", "new-plugin", made.to_str().unwrap()], target);
    let source = outside.path().join("my-broker");
    let make = ["run", "--quiet", "--package", "xtask", "--", "new-plugin", "--metric-source"];
    cargo(&[&make[..], &[source.to_str().unwrap()]].concat(), target);
    for folder in [&made, &source] {
        let manifest = folder.join("Cargo.toml");
        cargo(&["build", "--quiet", "--manifest-path", manifest.to_str().unwrap()], target);
    }
    let broker = target.join("debug/libmy_broker.so");
    let error = metric_source(&broker, "{port: 1}").await.unwrap_err().to_string();
    assert!(error.contains("demo.yaml:3:15: unknown key \"port\", expected address"), "{error}");
    let source = metric_source(&broker, "{address: '127.0.0.1:9000'}").await.unwrap();
    assert_eq!((source.kind(), source.schemes()), ("my-broker", &["my-broker".to_owned()][..]));
    let readings = source.read(&["my-broker://mails".to_owned(), "other://mails".to_owned()]).await.unwrap();
    assert_eq!(readings[0].as_ref().unwrap().waiting, Some(0));
    assert_eq!(readings[1], Err(QueueError::Invalid("expected my-broker://QUEUE".to_owned())));
    for command in [
        "cargo xtask new-plugin --metric-source ../my-broker",
        "cargo build --release --manifest-path ../my-broker/Cargo.toml",
        "cp ../my-broker/target/release/libmy_broker.so",
    ] {
        let page = include_str!("../../docs/write-a-metric-source.md");
        assert!(page.contains(command), "the page names what is tested here: {command}");
    }
    let page = include_str!("../../docs/write-a-plugin.md");
    for command in [
        "cargo xtask new-plugin ../my-queue",
        "cargo build --release --manifest-path ../my-queue/Cargo.toml",
        "cp ../my-queue/target/release/libmy_queue.so",
    ] {
        assert!(page.contains(command), "the page names what is tested here: {command}");
    }

    let dir = folder(&target.join("debug/libmy_queue.so"), "my-queue.so");
    let plugin = &load(dir.path()).plugins[0];
    assert_eq!(plugin.kind(), "my-queue");
    let section = "{resources: [{name: first, address: '127.0.0.1:9000', hosts: [first.localhost]}]}";
    let instance = plugin.start(context("my-queue", section, outside.path())).await.unwrap();
    let request = ScaleRequest {
        id: ResourceId::new("demo", "first"),
        target: Target::AtLeast(1),
        version: Version("0".to_owned()),
        record: Record { phase: Phase::Waking, nonce: Nonce(7), ..Record::default() },
        deadline: Duration::from_secs(60),
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    };
    instance.set_scale(&request).await.unwrap();
    let first = instance.get_resources().await.unwrap().readable.remove(0);
    assert_eq!((first.replicas, first.record.phase, first.endpoints.len()), (1, Phase::Waking, 1));
}
