use scaler_types::{ResourceScalerConfig, ScaleResource};

use super::*;

fn metric(name: &str) -> Vec<ScaleResource> {
    vec![ScaleResource { metric_name: name.to_owned(), window_size: Duration::from_secs(1), threshold: 2.0 }]
}

fn kubernetes(kind: &str) -> MetricsSource {
    MetricsSource::Kubernetes(ObjectKind { group: String::new(), kind: kind.to_owned() })
}

/// For each setting: who says something (file, flag, plugin), and who wins.
#[test]
fn the_more_specific_wins() {
    let seconds = Duration::from_secs;
    for (in_file, in_flags, in_plugin, wins) in [
        (false, false, false, 0),
        (false, false, true, 3),
        (false, true, false, 2),
        (false, true, true, 2),
        (true, false, false, 1),
        (true, false, true, 1),
        (true, true, false, 1),
        (true, true, true, 1),
    ] {
        let file = in_file.then(|| SettingsLayer {
            scale_interval: Some(seconds(1)),
            metrics: Some(kubernetes("1")),
            scale_resources: Some(metric("1")),
            target_port: Some(1),
            target_name_header: Some("1".into()),
            target_path_header: Some("1".into()),
            resource_readiness_timeout: Some(seconds(1)),
            multi_target_strategy: Some(MultiTargetStrategy::Primary),
            ..SettingsLayer::default()
        });
        let flags = in_flags.then(|| SettingsLayer {
            scale_interval: Some(seconds(2)),
            metrics: Some(kubernetes("2")),
            target_port: Some(2),
            target_name_header: Some("2".into()),
            target_path_header: Some("2".into()),
            resource_readiness_timeout: Some(seconds(2)),
            multi_target_strategy: Some(MultiTargetStrategy::Canary),
            ..SettingsLayer::default()
        });
        let plugin = in_plugin.then(|| ResourceScalerConfig {
            scale_interval: Some(seconds(3)),
            resource_readiness_timeout: Some(seconds(3)),
            target_port: Some(3),
            target_name_header: Some("3".into()),
            target_path_header: Some("3".into()),
            scale_resources: metric("3"),
            warnings: Vec::new(),
        });
        let built_in = Settings::default();
        let merged = Settings::merge(
            &file.unwrap_or_default(),
            &flags.unwrap_or_default(),
            &plugin.unwrap_or_default(),
        );

        let said = |by: u64| (by > 0).then(|| by.to_string());
        let case = format!("{in_file} {in_flags} {in_plugin}");
        assert_eq!(merged.scale_interval, if wins > 0 { seconds(wins) } else { seconds(60) }, "{case}");
        assert_eq!(
            merged.resource_readiness_timeout,
            if wins > 0 { seconds(wins) } else { seconds(300) },
            "{case}"
        );
        let source = match wins {
            1 | 2 => kubernetes(&wins.to_string()),
            _ => MetricsSource::Dlx,
        };
        assert_eq!(merged.metrics, source, "{case}");
        assert_eq!(merged.target_port, (wins > 0).then_some(wins as u16), "{case}");
        assert_eq!(merged.target_name_header, said(wins), "{case}");
        assert_eq!(merged.target_path_header, said(wins), "{case}");
        // No flag sets these, no plugin that.
        let metrics = if in_file {
            metric("1")
        } else if in_plugin {
            metric("3")
        } else {
            built_in.scale_resources
        };
        assert_eq!(merged.scale_resources, metrics, "{case}");
        let strategy =
            [MultiTargetStrategy::Random, MultiTargetStrategy::Primary, MultiTargetStrategy::Canary];
        assert_eq!(
            merged.multi_target_strategy,
            strategy[if wins == 3 { 0 } else { wins as usize }],
            "{case}"
        );
    }
}

#[test]
fn what_only_a_file_sets_is_the_files() {
    let static_responses = vec![StaticResponse {
        user_agent: None,
        path: Some("/".into()),
        status: 200,
        when: StaticResponseWhen::Always,
    }];
    let file = SettingsLayer {
        hold_timeout: Some(Duration::from_secs(9)),
        max_concurrent_wakes: Some(9),
        compatibility: Some(Compatibility::WorkerPodAutoscaler),
        max_held_requests: Some(9),
        max_held_bytes: Some(9),
        slow_start_requests_per_endpoint: Some(9),
        static_responses: Some(static_responses.clone()),
        forwarded_headers: Some(ForwardedHeaders::Append),
        scale_resources: Some(Vec::new()),
        ..SettingsLayer::default()
    };
    let plugin = ResourceScalerConfig { scale_resources: metric("3"), ..ResourceScalerConfig::default() };
    let merged = Settings::merge(&file, &SettingsLayer::default(), &plugin);
    let expected = Settings {
        hold_timeout: Duration::from_secs(9),
        max_concurrent_wakes: 9,
        compatibility: Some(Compatibility::WorkerPodAutoscaler),
        max_held_requests: 9,
        max_held_bytes: 9,
        slow_start_requests_per_endpoint: 9,
        static_responses,
        forwarded_headers: Some(ForwardedHeaders::Append),
        // An empty list is said too: nothing goes to sleep that brings no metric of its own.
        scale_resources: Vec::new(),
        ..Settings::default()
    };
    assert_eq!(merged, expected);
}

#[test]
fn without_any_settings_the_built_in_defaults_hold() {
    let merged = Settings::merge(
        &SettingsLayer::default(),
        &SettingsLayer::default(),
        &ResourceScalerConfig::default(),
    );
    assert_eq!(merged, Settings::default());
}

/// The defaults of the reference page are those that hold.
#[test]
fn the_defaults_shown_are_the_built_in_ones() {
    let mut dlx = String::new();
    let mut top = String::new();
    for key in [AutoscalerOptions::KEYS, DlxOptions::KEYS].concat() {
        let value = key.default.trim_matches('`');
        // Those that are told in words: none, or more than one.
        if value != "none" && !value.contains(' ') {
            let (section, name) = if key.section.is_empty() { (&mut top, "") } else { (&mut dlx, "  ") };
            let path = key.path();
            let key = path.rsplit('.').next().unwrap();
            section.push_str(&format!("{name}{key}: {value}\n"));
        }
    }
    let text = format!("namespace: demo\n{top}dlx:\n{dlx}");
    let file = crate::namespace_file::NamespaceFile::parse("demo.yaml", text.as_bytes()).unwrap();
    assert_eq!(
        Settings::merge(&file.settings, &SettingsLayer::default(), &ResourceScalerConfig::default()),
        Settings::default()
    );
    let set = |file: &SettingsLayer| {
        let texts = format!("{file:?}");
        texts.matches("Some(").count()
    };
    assert_eq!(set(&file.settings), 8, "{text}");
}
