//! The alert rules and the dashboard: taken by Prometheus, explained, and in the chart.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use deploy::{chart, root};
use serde_json::{Value, json};

use crate::values::{of_kind, rendered};

/// The page that explains each alert, from the workspace's folder.
const PAGE: &str = "docs/operate/alerts.md";
fn rules_file() -> PathBuf {
    chart().join("files/alerts.yaml")
}

/// The file of rules.
pub fn rules() -> Value {
    let text = fs::read_to_string(rules_file()).expect("the rules");
    serde_yaml::from_str(&text).expect("YAML")
}

/// The alerts of a file of rules.
pub fn alerts(rules: &Value) -> Vec<&Value> {
    let groups = rules["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect()
}

/// The dashboard.
pub fn dashboard() -> Value {
    let text = fs::read_to_string(chart().join("files/dashboard.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

/// The queries of the dashboard's panels: the panel's title, the query, and the labels that its legend names.
pub fn queries(dashboard: &Value) -> Vec<(String, String, BTreeSet<String>)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        panel["targets"].as_array().expect("targets").iter().map(move |target| (title, target))
    });
    let text = |target: &Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
    targets
        .map(|(title, target)| {
            let legend = text(target, "legendFormat");
            let labels = legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
            let labels = labels.map(|(label, _)| label.to_owned()).collect();
            (title.to_owned(), text(target, "expr"), labels)
        })
        .collect()
}

/// promtool's verdict, and what it says.
fn promtool(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("promtool").args(arguments).output();
    let output = output.expect("starting promtool: `apt-get install prometheus`");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn prometheus_takes_the_rules_and_each_fires_when_it_should() {
    let rules = rules_file();
    let (taken, said) = promtool(&["check", "rules", rules.to_str().expect("a path")]);
    assert!(taken && said.contains("10 rules found"), "{said}");
    // Its paths are relative to its own folder.
    let (fired, said) =
        promtool(&["test", "rules", root().join("tests/deploy/alerts.test.yaml").to_str().unwrap()]);
    assert!(fired, "{said}");
    let tests =
        fs::read_to_string(root().join("tests/deploy/alerts.test.yaml")).expect("the tests of the rules");
    for alert in alerts(&self::rules()) {
        let name = alert["alert"].as_str().expect("a name");
        assert!(tests.contains(&format!("alertname: {name}")), "{name} has no test");
    }
}

#[test]
fn prometheus_takes_the_queries_of_the_dashboard() {
    let rules: Vec<_> = queries(&dashboard())
        .into_iter()
        .map(|(title, query, _)| {
            let query = query.replace("$__rate_interval", "2m").replace("$namespace", "shop|blog");
            assert!(!query.contains('$'), "{title}: a variable that Grafana does not have: {query}");
            json!({ "record": "query", "labels": { "panel": title }, "expr": query })
        })
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(file.path(), groups.to_string()).expect("writing the queries");
    let (taken, said) = promtool(&["check", "rules", "--lint=none", file.path().to_str().expect("a path")]);
    assert!(taken, "{said}");
}

#[test]
fn every_alert_is_explained() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page of alerts");
    let explained: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = rules();
    let alerts = alerts(&rules);
    let names: BTreeSet<_> = alerts.iter().map(|alert| alert["alert"].as_str().expect("a name")).collect();
    assert_eq!(explained, names);
    for alert in alerts {
        let anchor = alert["alert"].as_str().expect("a name").to_lowercase();
        assert_eq!(alert["annotations"]["runbook_url"], format!("{PAGE}#{anchor}"));
    }
    for section in page.split("\n## ").skip(1) {
        for part in ["**Meaning.**", "**Look at", "**Do.**"] {
            let there = section.contains(part) || section.contains("**Look at and do.**");
            assert!(there, "{part} is missing: {section}");
        }
    }
}

#[test]
fn the_chart_has_the_files_rules_and_dashboard() {
    let objects = rendered(include_str!("../../values/on.yaml"));
    let [rule] = &of_kind(&objects, "PrometheusRule")[..] else { panic!("one PrometheusRule") };
    let prefix = "https://git.example.com/scaler/blob/v1/";
    let mut expected = rules();
    for group in expected["groups"].as_array_mut().expect("groups") {
        for alert in group["rules"].as_array_mut().expect("rules") {
            let url = &mut alert["annotations"]["runbook_url"];
            *url = format!("{prefix}{}", url.as_str().expect("a link")).into();
        }
    }
    assert_eq!(rule.data["spec"], expected);
    assert_eq!(rule.metadata.labels.as_ref().expect("labels")["release"], "prometheus");
    let maps = of_kind(&objects, "ConfigMap");
    let map = maps.iter().find(|map| map.data["data"].get("scaler.json").is_some()).expect("the dashboard");
    let text = map.data["data"]["scaler.json"].as_str().expect("a text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), dashboard());
    assert_eq!(map.metadata.labels.as_ref().expect("labels")["grafana_dashboard"], "scaler");
    // Nothing of it by default: the operator may not be installed.
    let defaults = rendered("");
    assert!(of_kind(&defaults, "PrometheusRule").is_empty());
    assert_eq!(of_kind(&defaults, "ConfigMap").len(), 1);
}
