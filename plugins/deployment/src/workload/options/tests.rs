//! The options, as annotations and the namespace file say them.

use super::*;
use crate::config::tests::context;

fn config(section: &str) -> PluginConfig {
    PluginConfig::read(&context(&format!("namespace: shop\nplugins: {{deployment: {section}}}\n"))).unwrap()
}

fn annotations(all: &[(&str, &str)]) -> Annotations {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn read(own: &[(&str, &str)]) -> WorkloadOptions {
    WorkloadOptions::read(&annotations(own), None, None, &config("{}"))
}

#[test]
fn the_managed_workloads() {
    let all = config("{optIn: all}");
    let one = config("{}");
    for (own, namespace, config, expected) in [
        (None, None, &one, false),
        (None, None, &all, true),
        (Some("10m"), None, &one, true),
        (Some("true"), None, &one, true),
        (Some("false"), None, &all, false),
        (None, Some("10m"), &one, true),
        (Some("false"), Some("10m"), &one, false),
        (Some("5m"), Some("false"), &one, true),
        (None, Some("false"), &all, false),
        (Some("soon"), None, &one, true),
    ] {
        let of = |value: Option<&str>| value.map(|value| annotations(&[(SCALE_TO_ZERO, value)]));
        let options =
            WorkloadOptions::read(&of(own).unwrap_or_default(), of(namespace).as_ref(), None, config);
        assert_eq!(options.opted_in, expected, "{own:?} {namespace:?}");
    }
}

#[test]
fn the_workload_says_where_its_services_lead_else_its_namespace_else_the_file() {
    let (bare, none, direct) =
        (config("{}"), config("{intercept: manual}"), config("{intercept: when-asleep}"));
    for (own, namespace, config, expected) in [
        (None, None, &bare, InterceptMode::Always),
        (None, None, &none, InterceptMode::Manual),
        (None, None, &direct, InterceptMode::WhenAsleep),
        (None, Some("always"), &direct, InterceptMode::Always),
        (Some("manual"), Some("always"), &direct, InterceptMode::Manual),
        (Some(" always "), None, &none, InterceptMode::Always),
    ] {
        let of = |value: Option<&str>| value.map(|value| annotations(&[(INTERCEPT, value)]));
        let options =
            WorkloadOptions::read(&of(own).unwrap_or_default(), of(namespace).as_ref(), None, config);
        assert_eq!((options.intercept, options.invalid.len()), (expected, 0), "{own:?} {namespace:?}");
        let written = own.or(namespace).is_some() || config.intercept.is_some();
        assert_eq!(options.intercept_is_set, written, "{own:?} {namespace:?}");
    }
    let options =
        WorkloadOptions::read(&annotations(&[]), Some(&annotations(&[(INTERCEPT, "yes")])), None, &direct);
    assert_eq!(options.intercept, InterceptMode::Manual);
    assert!(
        options.invalid[0].to_string().starts_with("scaler.dev/intercept of its namespace: \"yes\""),
        "{:?}",
        options.invalid
    );
}

#[test]
fn every_annotation_is_read() {
    let options = read(&[
        (SCALE_TO_ZERO, "10m"),
        (METRICS, "[{metricName: gpu, windowSize: 1h, threshold: 0.5}]"),
        (HOSTS, "a.example, B.example\n c.example"),
        (PORT, "8080"),
        (HOLD_TIMEOUT, "20s"),
        (READINESS_TIMEOUT, "2m"),
        (MIN_AWAKE, "1h"),
        (KEEP_AWAKE, "until=2026-12-24T18:00:00+01:00"),
        (PAUSED, "true"),
        (INTERCEPT, "when-asleep"),
        (IGNORE_CHECKS, "session-affinity, session-affinity"),
    ]);
    assert!(options.invalid.is_empty(), "{:?}", options.invalid);
    assert_eq!(options.metrics[0].wire_name(), "gpu_per_1h");
    assert_eq!(options.hosts, ["a.example", "b.example", "c.example"]);
    assert_eq!(options.port, Some(PortRef::Number(8080)));
    assert_eq!(
        (options.hold_timeout, options.readiness_timeout, options.min_awake),
        (Some(Duration::from_secs(20)), Some(Duration::from_secs(120)), Some(Duration::from_secs(3600)))
    );
    assert_eq!(options.keep_awake_until.unwrap().to_string(), "2026-12-24T17:00:00Z");
    assert!(options.paused);
    assert_eq!((options.intercept, options.ignored_checks.len()), (InterceptMode::WhenAsleep, 1));
    assert_eq!(read(&[(SCALE_TO_ZERO, "5m")]).metrics[0].wire_name(), "requests_per_5m");
    assert_eq!(read(&[(SCALE_TO_ZERO, "true")]).metrics, []);
    assert_eq!(read(&[(PORT, "web")]).port, Some(PortRef::Name("web".to_owned())));
}

#[test]
fn each_bad_value_is_named_with_what_was_expected_and_the_others_hold() {
    for (name, value, expected) in [
        (SCALE_TO_ZERO, "10", "\"10\" is not a duration"),
        (SCALE_TO_ZERO, "0s", "\"0s\" is too short: expected 100ms or more"),
        (SCALE_TO_ZERO, "1ns", "\"1ns\" is too short"),
        (METRICS, "[{metricName: a, windowSize: 1ms}]", "\"1ms\" is too short"),
        (METRICS, "requests", "expected a list"),
        (METRICS, "[]", "at least one metric"),
        (METRICS, "[{metricName: a, windowSize: 1m, thresold: 1}]", "unknown key \"thresold\""),
        (METRICS, "[{metricName: a, windowSize: never}]", "not a duration"),
        (METRICS, "[{metricName: a, windowSize: 1m, threshold: -1}]", "expected 0 or more"),
        (METRICS, "[{metricName: a, windowSize: 1m, threshold: .nan}]", "expected 0 or more"),
        (HOSTS, "*.example.com", "*.example.com"),
        (HOSTS, "a.example:80", "a.example:80"),
        (PORT, "0", "1 to 65535"),
        (PORT, "65536", "1 to 65535"),
        (PORT, "-1", "1 to 65535"),
        (HOLD_TIMEOUT, "", "is not a duration"),
        (READINESS_TIMEOUT, "5 minutes", "is not a duration"),
        (MIN_AWAKE, "0s", "is too short"),
        (KEEP_AWAKE, "until=tomorrow", "until=2026-12-24T18:00:00Z"),
        (KEEP_AWAKE, "2026-12-24T18:00:00Z", "until=2026-12-24T18:00:00Z"),
        (KEEP_AWAKE, "Mon-Fri 08:00-18:00", "until=2026-12-24T18:00:00Z"),
        (PAUSED, "yes", "neither true nor false"),
        (INTERCEPT, "service", "expected always, when-asleep or manual"),
        (IGNORE_CHECKS, "session-affinity, all", "\"all\" is not a check that can be ignored"),
        (IGNORE_CHECKS, "network-policies", "interceptDespiteNetworkPolicies: true"),
        (METRICS, "[{metricName: a, windowSize: 1m, targetPerReplica: 0}]", "expected a number above 0"),
        (QUEUE, "mails", "is not the URI of a queue"),
        (MESSAGES_PER_REPLICA, "0", "expected a number above 0"),
        (SECONDS_PER_MESSAGE, "1s", "expected a number above 0"),
        (IN_FLIGHT_PER_REPLICA, "some", "expected a number above 0"),
        (REQUESTS_PER_REPLICA, "-1", "expected a number above 0"),
        (MIN_REPLICAS, "1.5", "a whole number of replicas"),
        (MAX_REPLICAS, "-1", "a whole number of replicas"),
        (MAX_DISRUPTION, "a few", "as in 2 or 25%"),
        (SCALE_DOWN_DELAY, "5", "is not a duration"),
        (BUSY_PROBE, "/busy", "as in http://:9000/busy"),
        (EARLY_ACK, "true", "expected accepted"),
    ] {
        let mut own = annotations(&[(SCALE_TO_ZERO, "10m"), (PORT, "8080")]);
        own.insert(name.to_owned(), value.to_owned());
        let options = WorkloadOptions::read(&own, None, None, &config("{}"));
        assert_eq!(options.invalid.len(), 1, "{name} {value}: {:?}", options.invalid);
        assert!(
            options.invalid[0].to_string().starts_with(name)
                && options.invalid[0].to_string().contains(expected),
            "{}",
            options.invalid[0]
        );
        assert!(options.opted_in);
        assert_eq!(options.port.is_some(), name != PORT);
    }
}

fn targets(more: &[(&str, &str)]) -> WorkloadOptions {
    let queue = [(QUEUE, "redis://r/0/a"), (MESSAGES_PER_REPLICA, "20"), (MAX_REPLICAS, "30")];
    read(&[&queue, more].concat())
}

#[test]
fn the_annotations_say_how_many_replicas() {
    let options = read(&[
        (SCALE_TO_ZERO, "5m"),
        (QUEUE, "redis://r/0/a, file:///spool"),
        (MESSAGES_PER_REPLICA, " 20 "),
        (SECONDS_PER_MESSAGE, "0.5"),
        (IN_FLIGHT_PER_REPLICA, "8"),
        (REQUESTS_PER_REPLICA, "100"),
        (
            METRICS,
            "[{metricName: lag, windowSize: 1m, targetPerReplica: 50}, {metricName: gpu, windowSize: 2m}]",
        ),
        (MIN_REPLICAS, "2"),
        (MAX_REPLICAS, "30"),
        (MAX_DISRUPTION, "25%"),
        (SCALE_DOWN_DELAY, "1m"),
        (BUSY_PROBE, "http://:9000/busy"),
        (EARLY_ACK, "accepted"),
    ]);
    let window_size = Duration::from_secs(60);
    let expected = Scaling {
        min_replicas: 2,
        queues: vec!["redis://r/0/a".to_owned(), "file:///spool".to_owned()],
        messages_per_replica: Some(20.0),
        seconds_per_message: Some(0.5),
        in_flight_per_replica: Some(8.0),
        requests_per_replica: Some(100.0),
        metrics: vec![ScalingMetric { metric_name: "lag".to_owned(), window_size, target_per_replica: 50.0 }],
        max_disruption: scaler_types::Disruption::Percent(25),
        scale_down_delay: window_size,
        has_busy_probe: true,
        early_ack: true,
        ..Scaling::up_to(30)
    };
    assert_eq!((options.scaling, options.invalid_combination), (Some(expected), None));
    let names: Vec<_> = options.metrics.iter().map(|metric| metric.metric_name.as_str()).collect();
    assert_eq!(names, ["lag", "gpu"], "both say whether it is idle");
    assert_eq!(read(&[(SCALE_TO_ZERO, "5m")]).scaling, None);
}

#[test]
fn a_target_opts_in_and_only_scale_to_zero_scales_to_zero() {
    for (options, opted_in, scales_to_zero) in [
        (targets(&[]), true, false),
        (targets(&[(SCALE_TO_ZERO, "5m")]), true, true),
        (targets(&[(SCALE_TO_ZERO, "false")]), true, false),
        (read(&[(QUEUE, "mails")]), true, false),
        (read(&[(REQUESTS_PER_REPLICA, "many")]), true, false),
        (read(&[(METRICS, "[{metricName: lag, windowSize: 1m, targetPerReplica: 5}]")]), true, false),
        (read(&[(METRICS, "[{metricName: lag, windowSize: 1m}]")]), false, false),
        (read(&[(BUSY_PROBE, "http://:9000/busy")]), false, false),
    ] {
        assert_eq!((options.opted_in, options.scales_to_zero), (opted_in, scales_to_zero), "{options:?}");
    }
}

#[test]
fn what_is_not_whole_is_not_scaled() {
    for (own, expected) in [
        (
            &[(QUEUE, "redis://r/0/a"), (MAX_REPLICAS, "3")][..],
            "scaler.dev/queue needs scaler.dev/messages-per-replica",
        ),
        (
            &[(MESSAGES_PER_REPLICA, "3"), (MAX_REPLICAS, "3")],
            "scaler.dev/messages-per-replica needs scaler.dev/queue",
        ),
        (&[(REQUESTS_PER_REPLICA, "3")], "a target per replica needs scaler.dev/max-replicas"),
        (&[(SCALE_TO_ZERO, "5m"), (EARLY_ACK, "accepted")], "scaler.dev/early-ack needs scaler.dev/queue"),
    ] {
        let options = read(own);
        assert_eq!((options.scaling, options.invalid.len()), (None, 0));
        let problem = options.invalid_combination.unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
    for (name, value) in [(MAX_REPLICAS, "many"), (METRICS, "[]"), (MAX_DISRUPTION, "some")] {
        let options = targets(&[(name, value)]);
        assert_eq!((options.scaling, options.invalid.len()), (None, 1), "{name}");
        assert_eq!(options.invalid_combination, None, "what cannot be read is said once");
    }
    let crossed = targets(&[(MIN_REPLICAS, "31")]);
    assert!(
        crossed.scaling.is_some() && crossed.scaling_mistake.unwrap().contains("scaler.dev/min-replicas 31")
    );
    assert!(targets(&[(HOLD_TIMEOUT, "soon")]).scaling.is_some(), "another annotation is another matter");
}

#[test]
fn an_annotation_takes_precedence_over_the_namespace_file() {
    let config =
        config("{scaling: {mailer: {queue: 'redis://r/0/a', messagesPerReplica: 20, maxReplicas: 30}}}");
    let operators = config.operators_scaling("shop", "mailer");
    let scaling = |own: &[(&str, &str)]| {
        WorkloadOptions::read(&annotations(own), None, operators, &config).scaling.unwrap()
    };
    let expected = Scaling {
        queues: vec!["redis://r/0/a".to_owned()],
        messages_per_replica: Some(20.0),
        ..Scaling::up_to(30)
    };
    assert_eq!(scaling(&[]), expected);
    let fewer = Scaling { max_replicas: 10, ..expected };
    assert_eq!(scaling(&[(MAX_REPLICAS, "10")]), fewer);
    assert!(WorkloadOptions::read(&annotations(&[]), None, operators, &config).opted_in);
}

proptest::proptest! {
    #[test]
    fn no_value_panics(value: String) {
        let names = [SCALE_TO_ZERO, METRICS, HOSTS, PORT, HOLD_TIMEOUT, READINESS_TIMEOUT, MIN_AWAKE, KEEP_AWAKE, PAUSED, INTERCEPT, IGNORE_CHECKS, QUEUE, MAX_DISRUPTION, BUSY_PROBE, EARLY_ACK];
        let own: Vec<_> = names.iter().map(|name| (*name, value.as_str())).collect();
        read(&own);
    }
}
