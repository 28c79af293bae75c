//! Wrong configurations, each refused with file, line and what was expected.
#![allow(missing_docs)]

mod common;

use common::*;
use process::ProcessScaler;
use scaler_types::{Port, Protocol, ResourceScaler as _};

/// The message with which a resource list is refused. Its first line is line 5 of the file.
async fn refusal(resources: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    match ProcessScaler::new(context(folder.path(), "demo", resources)).await {
        Ok(_) => panic!("accepted:\n{resources}"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn wrong_configurations_are_refused_with_file_and_line() {
    let good = "      - name: a\n        command: [x]\n        port: 9000\n";
    for (resources, line, wanted) in [
        (
            "      - name: a\n        command: [x]\n",
            5,
            "port: expected the port the process listens on, or a queue",
        ),
        ("      - name: a\n        port: 9000\n", 6, "command"),
        (
            "      - name: a\n        command: []\n        port: 9000\n",
            5,
            "expected a program and its arguments",
        ),
        ("      - name: a\n        command: x --y\n        port: 9000\n", 6, "not a list"),
        ("      - name: a\n        command: [x]\n        port: 0\n", 5, "1 to 65535"),
        ("      - name: a\n        command: [x]\n        port: 65536\n", 7, "from 0 to 65535"),
        ("      - name: a\n        command: [x]\n        port: http\n", 7, "not a number"),
        (&format!("{good}        hots: [a.localhost]\n"), 8, "hots"),
        (&format!("{good}        hosts: [\"a.localhost:80\"]\n"), 5, "is no host name"),
        (&format!("{good}        hosts: [a.localhost, A.localhost.]\n"), 5, "is named twice"),
        (&format!("{good}        readyPath: healthz\n"), 5, "begins with /"),
        (&format!("{good}        stopGracePeriod: 5\n"), 8, "is not a duration"),
        (&format!("{good}        stopGracePeriod: 5 seconds\n"), 8, "is not a duration"),
        (&format!("{good}        scaleResources: [{{metricName: requests}}]\n"), 8, "windowSize"),
        (
            &format!("{good}        scaleResources: [{{metricName: requests, windowSize: 1ns}}]\n"),
            5,
            "windowSize",
        ),
        (
            &format!("{good}        scaleResources: [{{metricName: r, windowSize: 1m, threshold: -1}}]\n"),
            5,
            "threshold",
        ),
        (&format!("{good}        scaleResources: [{{metricName: r, windowsize: 1m}}]\n"), 8, "windowsize"),
        (&format!("{good}        tcpPorts: [{{listen: 9000}}]\n"), 5, "port 9000 is named twice"),
        (&format!("{good}        tcpPorts: [{{listen: 9001, protocol: udp}}]\n"), 8, "udp"),
        (&format!("{good}        tcpPorts: [{{listen: 0}}]\n"), 5, "1 to 65535"),
        (&format!("{good}        env: {{\"A=B\": c}}\n"), 5, "is no name of an environment variable"),
        (&format!("{good}{good}"), 8, "the name \"a\" is taken by the resource at line 5"),
        (
            &format!("{good}{}", good.replace("name: a", "name: b")),
            8,
            "port 9000 is taken by the resource at line 5",
        ),
        (&good.replace("name: a", "name: \"\""), 5, "1 to 63 characters"),
        ("      name: a\n", 5, "not a list"),
        (&format!("{good}        queue: mails\n"), 8, "is not the URI of a queue"),
        (&format!("{good}        maxDisruption: some\n"), 8, "as in 2 or 25%"),
        (
            &format!("{good}        queue: file:///spool\n        maxReplicas: 1\n"),
            5,
            "queue needs messagesPerReplica",
        ),
        (&format!("{good}        maxReplicas: 1\n"), 5, "maxReplicas needs a target per replica"),
        (
            &format!("{good}        inFlightPerReplica: 8\n        maxReplicas: 2\n"),
            5,
            "maxReplicas: expected 1 beside port",
        ),
        (
            &format!(
                "{good}        scaleResources: [{{metricName: r, windowSize: 1m, targetPerReplica: 0}}]\n"
            ),
            5,
            "targetPerReplica: expected a number above 0",
        ),
        (&worker("a", "x", "        hosts: [a.localhost]\n"), 5, "hosts: a process without a port"),
        (&worker("a", "x", "        tcpPorts: [{listen: 9000}]\n"), 5, "tcpPorts: a process without a port"),
        (
            &worker("a", "x", "        inFlightPerReplica: 1\n"),
            5,
            "inFlightPerReplica: a process without a port",
        ),
        (&worker("a", "x", "        busyProbe: http://:9000\n"), 5, "busyProbe: a process without a port"),
    ] {
        let message = refusal(resources).await;
        assert!(
            message.starts_with(&format!("demo.yaml:{line}:")),
            "expected line {line} in {message}\n{resources}"
        );
        assert!(message.contains(wanted), "expected {wanted:?} in {message}");
    }
}

#[tokio::test]
async fn without_its_shim_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut context = context(folder.path(), "demo", "      []\n");
    context.plugin_dir = folder.path().to_owned();
    let error = ProcessScaler::new(context).await.err().unwrap().to_string();
    assert!(error.contains(&format!("{}/process-shim is missing", folder.path().display())), "{error}");
}

#[tokio::test]
async fn what_is_configured_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let resources = "      - name: a\n        command: [x]\n        port: 9000\n        hosts: [A.Localhost.]\n        \
                     scaleResources: [{metricName: requests, windowSize: 1m30s, threshold: 2}]\n        \
                     tcpPorts: [{listen: 9001, target: 9002}, {listen: 9003, protocol: http}]\n";
    let scaler = scaler(folder.path(), resources).await;
    let a = resource(&scaler, "a").await;
    assert_eq!(
        (a.replicas, a.hosts, a.scale_resources[0].wire_name()),
        (0, vec!["a.localhost".to_owned()], "requests_per_1m30s".to_owned())
    );
    let [first, second] = [(9001, Some(9002), Protocol::Tcp), (9003, None, Protocol::Http)]
        .map(|(listen, target, protocol)| Port { listen, target, protocol, guessed: false });
    assert_eq!(a.ports, [first, second]);
    assert_eq!(scaler.resolve_service_name(&id("a")).await.unwrap(), "127.0.0.1:9000");
    let extra = "        minReplicas: 10\n        maxDisruption: 50%\n        scaleDownDelay: 1s\n        earlyAck: accepted\n";
    let mut context = context(folder.path(), "demo", &worker("mailer", "true", extra));
    context.role = scaler_types::Role::Autoscaler;
    let scaler = ProcessScaler::new(context).await.unwrap();
    let scaling = resource(&scaler, "mailer").await.scaling.unwrap();
    assert_eq!((scaling.min_replicas, scaling.max_replicas, scaling.early_ack), (10, 9, true));
    assert_eq!((scaling.queues, scaling.messages_per_replica), (vec!["file:///spool".to_owned()], Some(1.0)));
    assert!(scaler.resolve_service_name(&id("mailer")).await.is_err(), "it has no port");
    let warnings = scaler.get_config().await.unwrap().unwrap().warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.starts_with("demo.yaml:5:")
                && warning.contains("minReplicas 10 is more than")),
        "{warnings:?}"
    );
}
