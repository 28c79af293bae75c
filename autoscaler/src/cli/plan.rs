//! `plan`: what would be done now.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    admin_client::Asking,
    explain::{failed_wake, leads, list},
    output::{Format, plain, print, print_json, table},
};

/// Says what would be done now with all resources, and why not more: who goes to zero, what keeps the others, who leads,
/// which DLXs there are and which of them are silent, and what is wrong with namespace files and plugins
///
/// Changes nothing. The autoscaler does it by itself at its next look; what it last decided is what is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Plan {
    #[command(flatten)]
    asking: Asking,
}

// === impl Plan ===

impl Plan {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let port = self.asking.autoscaler()?;
        let leader = leads(&port).await?;
        let answer = port.get("/api/v1/resources").await?.unwrap_or_default();
        // An autoscaler of an earlier version does not know of them.
        let problems = port.get("/api/v1/problems").await?.unwrap_or_default();
        if self.asking.output == Format::Json {
            return print_json(&json!({
                "leader": leader,
                "cycles": answer["cycles"],
                "resources": answer["resources"],
                "problems": problems["problems"],
            }));
        }
        print(&told(port.url(), &leader, &problems, &answer));
        Ok(())
    }
}

fn told(url: &str, leader: &Value, problems: &Value, answer: &Value) -> String {
    let name = leader["leader"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
    let mut out = format!("leader: {url}{name}\n");
    let members = list(leader, "members");
    out += &format!("DLXs: {}\n", members.len());
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            let silent =
                member["silent"].as_str().map(|why| format!("SILENT, keeps everything awake: {why}"));
            vec![
                plain(&member["name"]),
                plain(&member["admin"]),
                silent.unwrap_or_else(|| "answers".to_owned()),
            ]
        })
        .collect();
    out += &table(&rows);
    for problem in list(problems, "problems") {
        out += &format!("problem: {}\n", plain(problem));
    }
    for cycle in list(answer, "cycles").iter().filter(|cycle| !cycle["error"].is_null()) {
        out += &format!(
            "failing: {} in namespace {}: {}\n",
            plain(&cycle["kind"]),
            plain(&cycle["namespace"]),
            plain(&cycle["error"])
        );
    }
    let resources = list(answer, "resources");
    out += &routes(resources);
    out += &those("last wake failed", resources, failed_wake);
    out += &those("woken too often", resources, |resource| {
        resource["frequent_wakes"].as_str().map(|_| plain(&resource["frequent_wakes"]))
    });
    let (asleep, awake): (Vec<_>, Vec<_>) = resources.iter().partition(|resource| resource["replicas"] == 0);
    let (idle, kept): (Vec<_>, Vec<_>) =
        awake.into_iter().partition(|resource| resource["decision"] == "to_zero");
    out += &format!("asleep: {}\n", asleep.len());
    for (title, of) in [("to zero", &idle), ("kept awake", &kept)] {
        out += &format!("{title}: {}\n", of.len());
        let rows: Vec<_> = of
            .iter()
            .map(|resource| {
                let mut why = plain(&resource["reason"]);
                if let Some(failure) = resource["failure"].as_object() {
                    why += &format!("; {} tries failed: {}", failure["tries"], plain(&failure["reason"]));
                } else if resource["last_try"]["outcome"] == "reverted" {
                    why += &format!(
                        "; last try {} ago {}",
                        plain(&resource["last_try"]["ago"]),
                        plain(&resource["last_try"]["reason"])
                    );
                }
                let name = format!("{}/{}", plain(&resource["namespace"]), plain(&resource["name"]));
                vec![name, plain(&resource["kind"]), plain(&resource["code"]), why]
            })
            .collect();
        out += &table(&rows);
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for resource in &kept {
        *reasons.entry(plain(&resource["code"])).or_default() += 1;
    }
    if kept.len() > 1 {
        let reasons: Vec<_> = reasons.iter().map(|(code, count)| format!("{count} {code}")).collect();
        out += &format!("why not more: {}\n", reasons.join(", "));
    }
    out
}

/// Those of which something is told.
fn those(title: &str, resources: &[Value], told: impl Fn(&Value) -> Option<String>) -> String {
    let of = resources.iter().filter_map(|resource| {
        let name = format!("{}/{}", plain(&resource["namespace"]), plain(&resource["name"]));
        Some(vec![name, plain(&resource["kind"]), told(resource)?])
    });
    let rows: Vec<_> = of.collect();
    match rows.len() {
        0 => String::new(),
        count => format!("{title}: {count}\n{}", table(&rows)),
    }
}

/// Where requests are led, and those routes that wait for something.
fn routes(resources: &[Value]) -> String {
    let led: Vec<_> = resources.iter().filter(|resource| !resource["route"].is_null()).collect();
    if led.is_empty() {
        return String::new();
    }
    let count = |leads: &str| led.iter().filter(|resource| resource["route"]["leads"] == leads).count();
    let mut out = format!(
        "routes: {} to the DLXs, {} to both, {} to the resource itself\n",
        count("dlx"),
        count("both"),
        count("own")
    );
    let rows: Vec<_> = led
        .iter()
        .filter_map(|resource| {
            let route = &resource["route"];
            let why = match (&route["refused"], &route["waits"]) {
                (Value::String(why), _) if !why.is_empty() => format!("refused: {why}"),
                (_, Value::String(waits)) => format!("waits for {waits}"),
                _ => return None,
            };
            let name = format!("{}/{}", plain(&resource["namespace"]), plain(&resource["name"]));
            Some(vec![name, plain(&resource["kind"]), plain(&route["leads"]), why])
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
                "code": code, "reason": "because", "failure": null, "last_try": null})
        };
        let mut slept = one("a", 0, "keep", "not_active");
        slept["frequent_wakes"] = "woken 4 times in the last hour".into();
        slept["row"] = json!({"state": "asleep", "failed_wake": "no such image"});
        let routed = |name: &str, leads: &str, refused: &str, waits: Value| {
            let mut one = one(name, 2, "keep", "active");
            one["route"] = json!({"leads": leads, "refused": refused, "waits": waits});
            one
        };
        let leader = json!({"leads": true, "leader": "autoscaler-1", "members": [
            {"name": "a", "admin": "10.0.0.1:8091", "silent": null},
            {"name": "b", "admin": "10.0.0.2:8091", "silent": "no answer within 5s"},
        ]});
        let answer = json!({
            "cycles": [{"kind": "deployment", "namespace": "shop", "error": "no answer from DLX b"}],
            "resources": [slept, one("b", 1, "to_zero", "quiet"),
                routed("c", "dlx", "", Value::Null), routed("d", "own", "no port is free", Value::Null),
                routed("e", "both", "", "its own endpoints to be ready".into())],
        });
        let problems = json!({"problems": ["blog.yaml:2:1: unknown key \"colour\", expected one of .. (it is not served)"]});
        let expected = "\
leader: http://127.0.0.1:8092 (autoscaler-1)
DLXs: 2
  a  10.0.0.1:8091  answers
  b  10.0.0.2:8091  SILENT, keeps everything awake: no answer within 5s
problem: blog.yaml:2:1: unknown key \"colour\", expected one of .. (it is not served)
failing: deployment in namespace shop: no answer from DLX b
routes: 1 to the DLXs, 1 to both, 1 to the resource itself
  shop/d  deployment  own   refused: no port is free
  shop/e  deployment  both  waits for its own endpoints to be ready
last wake failed: 1
  shop/a  deployment  no such image
woken too often: 1
  shop/a  deployment  woken 4 times in the last hour
asleep: 1
to zero: 1
  shop/b  deployment  quiet  because
kept awake: 3
  shop/c  deployment  active  because
  shop/d  deployment  active  because
  shop/e  deployment  active  because
why not more: 3 active
";
        assert_eq!(told("http://127.0.0.1:8092", &leader, &problems, &answer), expected);
    }
}
