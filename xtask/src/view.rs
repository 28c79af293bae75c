//! What the two daemons say of each resource, put side by side.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;
use serde_json::Value;

use crate::{http::get_json, scene::Addresses};

/// One resource at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its name in the namespace.
    pub name: String,
    /// `active`, `draining`, `asleep`, `waking` or `failed`.
    pub state: String,
    /// Why it is so.
    pub why: String,
    /// Requests since the DLX counts.
    pub requests: u64,
    /// Requests at the resource right now.
    pub in_flight: u64,
    /// Requests that wait for it to come up.
    pub held: u64,
    /// What its last cold start took; empty when there was none.
    pub cold_start: String,
}

/// Every resource, in name order.
///
/// # Errors
///
/// The DLX does not answer. An autoscaler that does not costs the reasons only.
pub async fn views(addresses: Addresses) -> Result<Vec<View>> {
    let dlx = resources(addresses.dlx).await?;
    let decisions = resources(addresses.autoscaler).await.unwrap_or_default();
    let decisions: BTreeMap<String, &Value> =
        decisions.iter().map(|resource| (name(resource), resource)).collect();
    let mut views: Vec<View> =
        dlx.iter().map(|resource| view(resource, decisions.get(&name(resource)).copied())).collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(views)
}

/// One resource, from what the DLX and the autoscaler say of it.
fn view(dlx: &Value, decision: Option<&Value>) -> View {
    let phase = text(dlx, &["phase"]);
    let reason = text(dlx, &["reason"]);
    let in_flight = count(dlx, "in_flight");
    let (state, why) = match phase.as_str() {
        // A resource that never ran has no record, and one whose process ended has the record of before.
        "active" if count(dlx, "replicas") == 0 => {
            let status = text(dlx, &["status"]);
            ("asleep".to_owned(), if status.is_empty() { "not started yet".to_owned() } else { status })
        }
        "active" => {
            let workers = || decision.and_then(|decision| workers(count(dlx, "replicas"), decision));
            let why = workers().or_else(|| decision.and_then(|decision| awake(in_flight, decision)));
            (phase, why.unwrap_or(reason))
        }
        // Why it is in any other phase was written with the phase.
        _ => (phase, reason),
    };
    View {
        name: name(dlx),
        state,
        why: whole_seconds(&why),
        requests: count(dlx, "requests"),
        in_flight,
        held: count(dlx, "held"),
        cold_start: cold_start(dlx),
    }
}

/// Why the autoscaler keeps a resource awake. Its last decision may be older than what the DLX sees: one that speaks of
/// another phase, of other requests, or of going to sleep is left out.
fn awake(in_flight: u64, decision: &Value) -> Option<String> {
    if in_flight > 0 {
        return Some(format!("{in_flight} request{} in flight", if in_flight == 1 { "" } else { "s" }));
    }
    let stale = ["not_active", "no_replicas", "in_flight"].contains(&text(decision, &["code"]).as_str());
    let reason = text(decision, &["reason"]);
    (text(decision, &["decision"]) == "keep" && !stale && !reason.is_empty()).then_some(reason)
}

/// `5 replicas, 20 messages`: the workers of queues.
fn workers(replicas: u64, decision: &Value) -> Option<String> {
    let queues = at(decision, "scaling.queues")?.as_array().filter(|queues| !queues.is_empty())?;
    let messages: u64 = queues.iter().map(|queue| count(queue, "waiting") + count(queue, "in_flight")).sum();
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    Some(format!("{replicas} replica{}, {messages} message{}", plural(replicas), plural(messages)))
}

/// Durations of a text in whole seconds: `3.207s` is `3s`.
fn whole_seconds(text: &str) -> String {
    let whole = |word: &str| {
        let (duration, mark) = word.strip_suffix(',').map_or((word, ""), |duration| (duration, ","));
        let seconds = match (duration.strip_suffix("ms"), duration.strip_suffix('s')) {
            (Some(milliseconds), _) => milliseconds.parse::<f64>().ok()? / 1000.0,
            (None, Some(seconds)) => seconds.parse::<f64>().ok()?,
            (None, None) => return None,
        };
        Some(format!("{}s{mark}", seconds.trunc()))
    };
    let words = text.split(' ').map(|word| whole(word).unwrap_or_else(|| word.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

async fn resources(admin: SocketAddr) -> Result<Vec<Value>> {
    let answer = get_json(admin, "/api/v1/resources").await?;
    let list = answer.get("resources").unwrap_or(&answer);
    Ok(list.as_array().cloned().unwrap_or_default())
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn text(resource: &Value, paths: &[&str]) -> String {
    paths.iter().find_map(|path| at(resource, path)?.as_str()).unwrap_or_default().to_owned()
}

fn count(resource: &Value, key: &str) -> u64 {
    at(resource, key).and_then(Value::as_u64).unwrap_or_default()
}

fn name(resource: &Value) -> String {
    text(resource, &["name", "id.name"])
}

/// `51 ms`: how long the request that woke it was held.
fn cold_start(resource: &Value) -> String {
    at(resource, "cold_start.hold_ms")
        .and_then(Value::as_f64)
        .map_or_else(String::new, |held| format!("{held:.0} ms"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Every reason that a record can have, with the phases it is written with.
    const RECORDS: [(&str, &str); 12] = [
        ("active", "woken by a request"),
        ("active", "a request came"),
        ("active", "kept awake: reverted: the drain was not confirmed: DLX a: requests are in flight (1)"),
        ("active", "its drain attempt was abandoned"),
        ("active", "scaled up manually"),
        ("active", ""),
        ("draining", "idle for 8s"),
        ("asleep", "idle for 8s"),
        ("asleep", "requested"),
        ("waking", "a request came"),
        ("failed", "exited with status 3"),
        ("gone", ""),
    ];

    /// What the autoscaler may have decided last, before the resource came to the phase it is in.
    const DECISIONS: [(&str, &str, &str, bool); 11] = [
        ("keep", "not_active", "asleep", false),
        ("keep", "not_active", "its phase is waking", false),
        ("keep", "no_replicas", "it has no replicas", false),
        ("keep", "in_flight", "2 requests in flight, 0 held", false),
        ("scale_to_zero", "quiet", "idle for 8s", false),
        ("scale_to_zero", "requested", "requested", false),
        ("keep", "", "", false),
        ("keep", "active", "active 3s ago, the window is 8s", true),
        ("keep", "kept_awake", "kept awake: its users paused it", true),
        ("keep", "recent_event", "scaleFromZeroCompleted 1s ago, the largest window is 8s", true),
        ("keep", "source_failed", "the metric source failed: it does not answer", true),
    ];

    fn seen(phase: &str, reason: &str, in_flight: u64) -> Value {
        json!({"name": "slow", "phase": phase, "reason": reason, "replicas": 1, "status": "",
            "requests": 4, "in_flight": in_flight, "held": 0, "cold_start": {"hold_ms": 2036.6}})
    }

    #[test]
    fn no_decision_contradicts_the_phase_that_the_dlx_sees() {
        for (phase, written) in RECORDS {
            for (decision, code, said, holds_while_awake) in DECISIONS {
                let decision = json!({"name": "slow", "decision": decision, "code": code, "reason": said});
                let shown = view(&seen(phase, written, 0), Some(&decision));
                let why = if phase == "active" && holds_while_awake { said } else { written };
                assert_eq!((shown.state.as_str(), shown.why.as_str()), (phase, why), "{code}");
                let busy = view(&seen(phase, written, 2), Some(&decision));
                let why = if phase == "active" { "2 requests in flight" } else { written };
                assert_eq!((busy.state.as_str(), busy.why.as_str()), (phase, why), "{code}");
            }
        }
    }

    #[test]
    fn without_an_autoscaler_the_record_says_why() {
        for (phase, written) in RECORDS {
            let shown = view(&seen(phase, written, 0), None);
            assert_eq!((shown.state.as_str(), shown.why.as_str()), (phase, written));
        }
    }

    #[test]
    fn what_has_no_process_is_asleep_and_says_what_became_of_it() {
        let said = json!({"name": "slow", "decision": "keep", "code": "no_replicas", "reason": "it has no replicas"});
        for (status, why) in [("", "not started yet"), ("exited with status 1", "exited with status 1")] {
            let mut dlx = seen("active", "woken by a request", 0);
            (dlx["replicas"], dlx["status"]) = (json!(0), json!(status));
            let shown = view(&dlx, Some(&said));
            assert_eq!((shown.state.as_str(), shown.why.as_str()), ("asleep", why));
        }
    }

    #[test]
    fn a_reason_has_whole_seconds() {
        let exact =
            "active 3.207s ago, for only 294ms, the window is 1m30s and 10s; DLX 10.0.0.9s is up, requests s";
        let whole =
            "active 3s ago, for only 0s, the window is 1m30s and 10s; DLX 10.0.0.9s is up, requests s";
        assert_eq!(whole_seconds(exact), whole);
    }

    #[test]
    fn workers_are_shown_with_their_messages() {
        let queue = |waiting: Value, in_flight: Value| json!({"waiting": waiting, "in_flight": in_flight});
        for (queues, why) in [
            (json!([]), "woken: 20 messages"),
            (json!([queue(json!(15), json!(5))]), "1 replica, 20 messages"),
            (json!([queue(json!(1), Value::Null), queue(Value::Null, Value::Null)]), "1 replica, 1 message"),
        ] {
            let decision = json!({"decision": "keep", "code": "not_active", "scaling": {"queues": queues}});
            let shown = view(&seen("active", "woken: 20 messages", 0), Some(&decision));
            assert_eq!(shown.why, why);
        }
    }

    #[test]
    fn the_counts_are_the_dlxs() {
        let shown = view(&seen("active", "woken by a request", 1), None);
        assert_eq!((shown.requests, shown.in_flight, shown.held), (4, 1, 0));
        assert_eq!(shown.cold_start, "2037 ms");
    }
}
