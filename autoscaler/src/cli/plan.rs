//! `plan`: what the autoscaler would do now.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    admin_client::AutoscalerOptions,
    explain::{array_field, failed_wake, require_leader},
    output::{Format, display_value, print, print_json, table},
};

/// Shows what the autoscaler would do now: which resources it would scale to zero and why it keeps the others awake, the
/// leader, the DLXs and which of them are unreachable, and errors of namespace files and plugins
///
/// Changes nothing: shows the decisions of the last cycle, which the autoscaler carries out itself.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler plan --admin-address 127.0.0.1:8092")]
pub(crate) struct Plan {
    #[command(flatten)]
    options: AutoscalerOptions,
}

// === impl Plan ===

impl Plan {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.options.autoscaler_client()?;
        let leader = require_leader(&client).await?;
        let answer = client.get("/api/v1/resources").await?.unwrap_or_default();
        // An autoscaler of an earlier version does not know of them.
        let problems = client.get("/api/v1/problems").await?.unwrap_or_default();
        if self.options.output == Format::Json {
            return print_json(&json!({
                "leader": leader,
                "cycles": answer["cycles"],
                "resources": answer["resources"],
                "problems": problems["problems"],
            }));
        }
        print(&render(client.url(), &leader, &problems, &answer));
        Ok(())
    }
}

fn render(url: &str, leader: &Value, problems: &Value, answer: &Value) -> String {
    let name = leader["leader"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
    let mut out = format!("leader: {url}{name}\n");
    let members = array_field(leader, "members");
    out += &format!("DLXs: {}\n", members.len());
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            let unreachable = member["unreachable"]
                .as_str()
                .map(|why| format!("UNREACHABLE, keeps everything awake: {why}"));
            vec![
                display_value(&member["name"]),
                display_value(&member["admin_address"]),
                unreachable.unwrap_or_else(|| "answers".to_owned()),
            ]
        })
        .collect();
    out += &table(&rows);
    for problem in array_field(problems, "problems") {
        out += &format!("problem: {}\n", display_value(problem));
    }
    for cycle in array_field(answer, "cycles").iter().filter(|cycle| !cycle["error"].is_null()) {
        out += &format!(
            "failing: {} in namespace {}: {}\n",
            display_value(&cycle["kind"]),
            display_value(&cycle["namespace"]),
            display_value(&cycle["error"])
        );
    }
    let resources = array_field(answer, "resources");
    out += &render_interceptions(resources);
    out += &render_section("last wake failed", resources, failed_wake);
    out += &render_section("woken too often", resources, |resource| {
        resource["frequent_wakes"].as_str().map(|_| display_value(&resource["frequent_wakes"]))
    });
    out += &render_section("scaled by metrics", resources, |resource| {
        let scaling = resource["scaling"].as_object()?;
        let desired = match &scaling["desired"] {
            Value::Null => "unknown".to_owned(),
            desired => display_value(desired),
        };
        let (now, reason) = (display_value(&resource["replicas"]), display_value(&scaling["reason"]));
        Some(format!("{now} replicas, desired {desired}: {reason}"))
    });
    out += &render_section("unreadable", resources, |resource| {
        (resource["code"] == "unreadable").then(|| display_value(&resource["reason"]))
    });
    let readable = resources.iter().filter(|resource| resource["code"] != "unreadable");
    let (asleep, awake): (Vec<_>, Vec<_>) = readable.partition(|resource| resource["replicas"] == 0);
    let (idle, kept): (Vec<_>, Vec<_>) =
        awake.into_iter().partition(|resource| resource["decision"] == "scale_to_zero");
    out += &format!("asleep: {}\n", asleep.len());
    for (title, of) in [("scaling to zero", &idle), ("kept awake", &kept)] {
        out += &format!("{title}: {}\n", of.len());
        let rows: Vec<_> = of
            .iter()
            .map(|resource| {
                let mut why = display_value(&resource["reason"]);
                if let Some(failure) = resource["failure"].as_object() {
                    why += &format!(
                        "; {} attempts failed: {}",
                        failure["attempts"],
                        display_value(&failure["reason"])
                    );
                } else if resource["last_attempt"]["outcome"] == "reverted" {
                    why += &format!(
                        "; last attempt {} ago {}",
                        display_value(&resource["last_attempt"]["ago"]),
                        display_value(&resource["last_attempt"]["reason"])
                    );
                }
                let name =
                    format!("{}/{}", display_value(&resource["namespace"]), display_value(&resource["name"]));
                vec![name, display_value(&resource["kind"]), display_value(&resource["code"]), why]
            })
            .collect();
        out += &table(&rows);
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for resource in &kept {
        *reasons.entry(display_value(&resource["code"])).or_default() += 1;
    }
    if kept.len() > 1 {
        let reasons: Vec<_> = reasons.iter().map(|(code, count)| format!("{count} {code}")).collect();
        out += &format!("reasons: {}\n", reasons.join(", "));
    }
    out
}

/// A section of the resources that have such a text.
fn render_section(title: &str, resources: &[Value], text: impl Fn(&Value) -> Option<String>) -> String {
    let of = resources.iter().filter_map(|resource| {
        let name = format!("{}/{}", display_value(&resource["namespace"]), display_value(&resource["name"]));
        Some(vec![name, display_value(&resource["kind"]), text(resource)?])
    });
    let rows: Vec<_> = of.collect();
    match rows.len() {
        0 => String::new(),
        count => format!("{title}: {count}\n{}", table(&rows)),
    }
}

/// Backends of the intercepted Services, and what they wait for.
fn render_interceptions(resources: &[Value]) -> String {
    let intercepted: Vec<_> =
        resources.iter().filter(|resource| !resource["interception"].is_null()).collect();
    if intercepted.is_empty() {
        return String::new();
    }
    let count = |backend: &str| {
        intercepted.iter().filter(|resource| resource["interception"]["backend"] == backend).count()
    };
    let mut out = format!(
        "intercepted Services: {} to the DLXs, {} to both, {} to their own pods\n",
        count("dlx"),
        count("both"),
        count("own")
    );
    let rows: Vec<_> = intercepted
        .iter()
        .filter_map(|resource| {
            let interception = &resource["interception"];
            let why = match (&interception["refusal"], &interception["waiting_for"]) {
                (Value::String(why), _) if !why.is_empty() => format!("refused: {why}"),
                (_, Value::String(waits)) => format!("waits for {waits}"),
                _ => return None,
            };
            let name =
                format!("{}/{}", display_value(&resource["namespace"]), display_value(&resource["name"]));
            Some(vec![name, display_value(&resource["kind"]), display_value(&interception["backend"]), why])
        })
        .collect();
    out += &table(&rows);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_reads() {
        let one = |name: &str, replicas: u32, decision: &str, code: &str| {
            json!({"namespace": "shop", "name": name, "kind": "deployment", "replicas": replicas, "decision": decision,
                "code": code, "reason": "because", "failure": null, "last_attempt": null})
        };
        let mut slept = one("a", 0, "keep", "not_active");
        slept["frequent_wakes"] = "woken 4 times in the last hour".into();
        slept["record"] = json!({"phase":"asleep", "failed_wake": "no such image"});
        let routed = |name: &str, backend: &str, refused: &str, waits: Value| {
            let mut one = one(name, 2, "keep", "active");
            one["interception"] = json!({"backend": backend, "refusal": refused, "waiting_for": waits});
            one
        };
        let mut scaled = one("b", 1, "scale_to_zero", "quiet");
        scaled["scaling"] = json!({"desired": 3, "reason": "55 messages, 20 per replica: 3 replicas wanted"});
        let leader = json!({"is_leader": true, "leader": "autoscaler-1", "members": [
            {"name": "a", "admin_address": "10.0.0.1:8091", "unreachable": null},
            {"name": "b", "admin_address": "10.0.0.2:8091", "unreachable": "no answer within 5s"},
        ]});
        let answer = json!({
            "cycles": [{"kind": "deployment", "namespace": "shop", "error": "no answer from DLX b"}],
            "resources": [slept, scaled,
                routed("c", "dlx", "", Value::Null), routed("d", "own", "no port is free", Value::Null),
                routed("e", "both", "", "its own endpoints to become ready".into()),
                one("f", 0, "keep", "unreadable")],
        });
        let problems = json!({"problems": ["blog.yaml:2:1: unknown key \"colour\", expected one of .. (its namespace is not managed)"]});
        let expected = "\
leader: http://127.0.0.1:8092 (autoscaler-1)
DLXs: 2
  a  10.0.0.1:8091  answers
  b  10.0.0.2:8091  UNREACHABLE, keeps everything awake: no answer within 5s
problem: blog.yaml:2:1: unknown key \"colour\", expected one of .. (its namespace is not managed)
failing: deployment in namespace shop: no answer from DLX b
intercepted Services: 1 to the DLXs, 1 to both, 1 to their own pods
  shop/d  deployment  own   refused: no port is free
  shop/e  deployment  both  waits for its own endpoints to become ready
last wake failed: 1
  shop/a  deployment  no such image
woken too often: 1
  shop/a  deployment  woken 4 times in the last hour
scaled by metrics: 1
  shop/b  deployment  1 replicas, desired 3: 55 messages, 20 per replica: 3 replicas wanted
unreadable: 1
  shop/f  deployment  because
asleep: 1
scaling to zero: 1
  shop/b  deployment  quiet  because
kept awake: 3
  shop/c  deployment  active  because
  shop/d  deployment  active  because
  shop/e  deployment  active  because
reasons: 3 active
";
        assert_eq!(render("http://127.0.0.1:8092", &leader, &problems, &answer), expected);
    }
}
