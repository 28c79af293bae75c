//! The queries of the alert rules and the dashboard are about metrics and labels that the daemons export.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use deploy::root;

use crate::monitoring::{alerts, dashboard, queries, rules};

/// Labels that Prometheus adds to what it scrapes, `namespace` where it finds the daemons in a cluster.
const OF_SCRAPES: [&str; 3] = ["instance", "job", "namespace"];
/// Histograms have this label, of their `_bucket`s.
const BUCKET: &str = "le";

/// What the daemons export: each series and its labels, from the page that a test compares with the daemons' declarations.
fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("the page of metrics");
    let mut series = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `scaler_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else { panic!("{line}") };
        let unquoted = |text: &str| text.trim().trim_matches('`').to_owned();
        let labels: BTreeSet<_> = labels.split(',').map(unquoted).filter(|label| !label.is_empty()).collect();
        let name = unquoted(name);
        if kind == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                series.insert(format!("{name}{suffix}"), labels.clone());
            }
            series.get_mut(&format!("{name}_bucket")).expect("inserted").insert(BUCKET.to_owned());
        } else {
            series.insert(name, labels);
        }
    }
    assert!(series.len() > 30, "{} series", series.len());
    series
}

/// A query's series, each with the labels that it is selected by; and the labels that its results are grouped by.
#[derive(Debug, Default, PartialEq)]
struct Query {
    series: Vec<(String, BTreeSet<String>)>,
    grouped_by: BTreeSet<String>,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (start, _) in query.match_indices("scaler_") {
            if query[..start].ends_with(in_name) {
                continue;
            }
            let rest = &query[start..];
            let end = rest.find(|c: char| !in_name(c)).unwrap_or(rest.len());
            let matchers = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let matchers = matchers.map_or("", |(matchers, _)| matchers);
            let labels = matchers.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
            let labels = labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
            parsed.series.push((rest[..end].to_owned(), labels.collect()));
        }
        for rest in query.split(" by (").skip(1) {
            let (labels, _) = rest.split_once(')').expect("a list of labels");
            parsed.grouped_by.extend(labels.split(',').map(|label| label.trim().to_owned()));
        }
        parsed
    }

    /// The series and labels that the daemons do not export.
    fn unknown(&self, exported: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut all: BTreeSet<_> = OF_SCRAPES.iter().map(|label| (*label).to_owned()).collect();
        for (series, labels) in &self.series {
            let Some(known) = exported.get(series) else {
                unknown.push(series.clone());
                continue;
            };
            unknown.extend(labels.difference(known).map(|label| format!("{series}{{{label}}}")));
            all.extend(known.iter().cloned());
        }
        unknown.extend(self.grouped_by.difference(&all).map(|label| format!("by ({label})")));
        unknown
    }
}

#[test]
fn a_query_is_read() {
    let query =
        Query::parse(r#"sum by (a, b) (rate(scaler_x_total{c="1", d!~"2"}[5m])) / scaler_autoscaler_y"#);
    let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        query.series,
        [("scaler_x_total".to_owned(), set(&["c", "d"])), ("scaler_autoscaler_y".to_owned(), set(&[]))]
    );
    assert_eq!(query.grouped_by, set(&["a", "b"]));
    let exported = BTreeMap::from([("scaler_x_total".to_owned(), set(&["a", "c", "d"]))]);
    assert_eq!(query.unknown(&exported), ["scaler_autoscaler_y", "by (b)"]);
}

#[test]
fn alerts_and_dashboard_use_what_the_daemons_export() {
    let exported = exported();
    let (rules, dashboard) = (rules(), dashboard());
    for alert in alerts(&rules) {
        let name = alert["alert"].as_str().expect("a name");
        let query = Query::parse(alert["expr"].as_str().expect("a query"));
        assert!(!query.series.is_empty(), "{name}");
        assert_eq!(query.unknown(&exported), [""; 0], "{name}");
        // A label that the result does not have is an empty text in the message.
        for text in ["summary", "description"].map(|key| alert["annotations"][key].as_str().expect(key)) {
            for label in text.split("$labels.").skip(1) {
                let label = label.split(|c: char| !c.is_ascii_lowercase()).next().expect("a label");
                assert!(query.grouped_by.contains(label), "{name}: {label} in {text:?}");
            }
        }
    }
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "{}", queries.len());
    for (title, text, legend) in queries {
        let query = Query::parse(&text);
        assert!(!query.series.is_empty(), "{title}");
        assert_eq!(query.unknown(&exported), [""; 0], "{title}");
        assert_eq!(legend.difference(&query.grouped_by).collect::<Vec<_>>(), [""; 0], "{title}: the legend");
    }
    let variable = dashboard["templating"]["list"][1]["query"].as_str().expect("the variable namespace");
    let (series, _) =
        variable.strip_prefix("label_values(").and_then(|rest| rest.split_once(", namespace)")).unwrap();
    assert!(exported[series].contains("namespace"), "{variable}");
}
