//! `list`: all resources and their states.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::Value;

use super::{
    admin_client::AutoscalerOptions,
    explain::{array_field, require_leader},
    output::{Format, cut, display_value, print, print_json, table, terminal_width, warn},
};
use crate::http::percent_encode;

/// Lists all resources: which are asleep, since when, and why
///
/// The state is as of now. SINCE: how long it has been so; with > longer than the autoscaler has watched it, with < it changed
/// after the autoscaler's last cycle. REQUESTS: in flight, and held until the resource is awake; ? where a DLX does not answer. On a terminal, WHY is cut
/// to its width: `autoscaler explain` has it whole.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler list --namespace shop")]
pub(crate) struct ListCommand {
    /// Only the resources of this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    #[command(flatten)]
    options: AutoscalerOptions,
}

/// The narrowest WHY: a smaller one says nothing.
const MIN_REASON_WIDTH: usize = 16;

// === impl ListCommand ===

impl ListCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.options.autoscaler_client()?;
        require_leader(&client).await?;
        let filter = self.namespace.as_deref().map(|name| format!("?namespace={}", percent_encode(name)));
        let path = format!("/api/v1/list{}", filter.unwrap_or_default());
        let Some(answer) = client.get(&path).await? else {
            bail!("the autoscaler at {} is of an earlier version and has no list: upgrade it", client.url());
        };
        if self.options.output == Format::Json {
            return print_json(&answer);
        }
        for error in array_field(&answer, "errors") {
            warn(&format!("{}: the list is not complete", display_value(error)));
        }
        let resources = array_field(&answer, "resources");
        match (resources, &self.namespace) {
            ([], Some(namespace)) => print(&format!("no resources in namespace {namespace}\n")),
            ([], None) => print("no resources\n"),
            (resources, _) => print(&render(resources, terminal_width())),
        }
        Ok(())
    }
}

/// `width`: of the terminal, if it is one.
fn render(resources: &[Value], width: Option<usize>) -> String {
    let several_kinds = resources.iter().any(|resource| resource["kind"] != resources[0]["kind"]);
    let mut head = vec!["RESOURCE", "STATE", "SINCE", "REPLICAS", "REQUESTS", "WHY"];
    if several_kinds {
        head.insert(1, "KIND");
    }
    let mut lines = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for resource in resources {
        let text = |key: &str| display_value(&resource[key]);
        *counts.entry(text("state")).or_default() += 1;
        let since = match (&resource["since"], &resource["at_least"], &resource["at_most"]) {
            (Value::Null, Value::String(at_least), _) => format!(">{at_least}"),
            (Value::Null, _, Value::String(at_most)) => format!("<{at_most}"),
            (since, ..) => display_value(since),
        };
        let mut line = vec![format!("{}/{}", text("namespace"), text("name"))];
        line.extend(several_kinds.then(|| text("kind")));
        line.extend([text("state"), since, replicas(resource), requests(resource), text("reason")]);
        lines.push(line);
    }
    if let Some(width) = width {
        // What is left of the line for the last column.
        let others: Vec<_> = lines.iter().map(|line| line[..line.len() - 1].to_vec()).collect();
        let taken = table(&others).lines().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
        let left = width.saturating_sub(taken).max(MIN_REASON_WIDTH);
        for reason in lines.iter_mut().filter_map(|line| line.last_mut()) {
            *reason = cut(reason, left);
        }
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let noun = if resources.len() == 1 { "resource" } else { "resources" };
    format!("{}{} {noun}: {}\n", table(&lines), resources.len(), counts.join(", "))
}

/// The replicas, and those that there should be where that differs.
fn replicas(resource: &Value) -> String {
    match (&resource["replicas"], &resource["desired_replicas"]) {
        (now, desired @ Value::Number(_)) if now != desired => {
            format!("{}, wants {desired}", display_value(now))
        }
        (now, _) => display_value(now),
    }
}

/// In flight, and held if any.
fn requests(resource: &Value) -> String {
    match (resource["in_flight"].as_u64(), resource["held"].as_u64()) {
        (Some(in_flight), Some(0)) => in_flight.to_string(),
        (Some(in_flight), Some(held)) => format!("{in_flight}, {held} held"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(name: &str, kind: &str, state: &str, since: (Value, Value), reason: &str) -> Value {
        json!({"namespace": "shop", "name": name, "kind": kind, "state": state, "since": since.0,
            "at_least": since.1, "replicas": u8::from(state == "awake"), "in_flight": 0, "held": 0, "reason": reason})
    }

    #[test]
    fn what_a_person_reads() {
        let mut web =
            entry("web", "process", "awake", ("12s".into(), Value::Null), "active 3s ago, the window is 10m");
        (web["in_flight"], web["held"], web["desired_replicas"]) = (2.into(), 31.into(), 5.into());
        let mut db = entry("db", "process", "asleep", (Value::Null, "2h".into()), "idle for 10m");
        (db["in_flight"], db["held"]) = (Value::Null, Value::Null);
        let mut new = entry("new", "process", "waking", (Value::Null, Value::Null), "woken by a request");
        new["at_most"] = "7s".into();
        let all = [db, new, web];
        let expected = "  \
  RESOURCE  STATE   SINCE  REPLICAS    REQUESTS    WHY
  shop/db   asleep  >2h    0           ?           idle for 10m
  shop/new  waking  <7s    0           0           woken by a request
  shop/web  awake   12s    1, wants 5  2, 31 held  active 3s ago, the window is 10m
3 resources: 1 asleep, 1 awake, 1 waking
";
        assert_eq!(render(&all, None), expected);
        let narrow = render(&all, Some(80));
        assert!(narrow.contains("  active 3s ago, the window is…\n"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    }

    #[test]
    fn the_kind_is_shown_where_there_are_two() {
        let since = || (Value::Null, Value::Null);
        let two =
            [entry("a", "process", "asleep", since(), "x"), entry("b", "docker", "asleep", since(), "x")];
        let text = render(&two, None);
        assert!(text.contains("RESOURCE  KIND     STATE") && text.contains("shop/b    docker "), "{text}");
    }

    #[test]
    fn twenty_thousand_resources_are_listed() {
        let many: Vec<_> = (0..20_000)
            .map(|number| {
                entry(&format!("r{number}"), "process", "asleep", (Value::Null, "1h".into()), "idle")
            })
            .collect();
        let text = render(&many, Some(80));
        assert_eq!(text.lines().count(), 20_002);
        assert!(text.ends_with("20000 resources: 20000 asleep\n"));
    }
}
