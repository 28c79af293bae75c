//! What constants and the texts above them declare: annotations, Events, error codes.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use deploy::root;

use super::{cell, page};

const ANNOTATIONS: &str = "# Annotations

<!-- Written by `cargo xtask reference` from what the plugin declares. -->

Set annotations on the workload (Deployment, StatefulSet, ..), not on its pods. Durations are `30s`, `10m`, `1h30m`. YAML needs
quotes around `\"true\"` and `\"false\"`. An invalid value is reported by the [Event](events.md) `InvalidAnnotation` and in the log. That
workload stays awake until you correct it; no other workload is affected.

| annotation | default | meaning |
|---|---|---|
";

const STATE: &str = "
`scaler.dev/state` is written by Scaler: the workload's state, with its `phase` (`active`, `draining`, `asleep`, `waking` or `failed`). Do
not change it. If it is changed or removed, the attempt or wake in progress is aborted, and nothing else happens.

[Intercept](../intercept.md) and [Routing](../routing.md) say more about what `scaler.dev/intercept` and `scaler.dev/hosts` do.

An annotation takes precedence over the [namespace file](namespace-file.md), and the workload's over its Namespace's. The operator's
keys for all workloads of a file are in [plugins/deployment](../../plugins/deployment/README.md#configuration).
";

const EVENTS: &str = "# Events

<!-- Written by `cargo xtask reference` from what the daemons and the plugin declare. -->

Kubernetes Events about a workload are on the workload's object: `kubectl -n shop describe deployment web`, or
`kubectl -n shop get events --field-selector involvedObject.name=web`. The message has the details. A condition that still
holds is reported again every half hour; the API server keeps an Event for an hour by default. Each daemon writes 20 Events a second at most; everything is
in its log, too.

| Event | type | meaning | what to do |
|---|---|---|---|
";

const ERRORS: &str = "# Error responses of the DLX

<!-- Written by `cargo xtask reference` from what the DLX declares. -->

The body is JSON with `error` (the code below), `reason` (a sentence with the cause) and `resource` (`namespace/name`, or null). Every
503 has `Retry-After`. Except for 502 the resource has not seen the request, or not all of it (408).

A request that is answered 400, 414 or 431 neither wakes its resource nor counts. A TCP connection has no status: instead of one of
these answers it is reset, so that its client does not mistake the end for the end of the data. A connection to one of
`--service-ports` that is assigned to no resource is reset after 3 s, in which the DLX asks the plugins for it.

| status | `error` | cause | what the client does |
|---|---|---|---|
";

const STATUSES: &str = "
## Exit statuses of the daemons

| status | meaning |
|---|---|
| 0 | success |
| 1 | anything that is not below |
| 64 | bad flags |
| 78 | bad configuration, or nothing was loaded |
| 130, 143 | a second SIGINT or SIGTERM, or the daemon did not end within 15 s beyond `--shutdown-grace` |
";

/// A constant, and the paragraphs of the text above it.
struct Declared {
    value: String,
    paragraphs: Vec<String>,
}

/// The constants of a source file that have this type.
fn declared(path: &str, of_type: &str) -> Vec<Declared> {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut above = Vec::new();
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("///") {
            above.push(line.trim());
            continue;
        }
        let constant = line.trim_start_matches("pub").trim_start_matches("(crate)").trim_start();
        if let Some((name, value)) =
            constant.strip_prefix("const ").and_then(|rest| rest.split_once(&format!(": {of_type} = ")))
        {
            let paragraphs: Vec<_> =
                above.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect();
            assert_eq!(paragraphs.len(), 2, "{path}: {name}: expected two paragraphs above it");
            all.push(Declared { value: value.trim_end_matches(';').to_owned(), paragraphs });
        }
        above.clear();
    }
    let of_them = text.matches(&format!(": {of_type} = ")).count();
    assert_eq!(all.len(), of_them, "{path}: some {of_type} is on more than one line");
    assert!(all.len() > 5, "{path}: {} of type {of_type}", all.len());
    all
}

// === impl Declared ===

impl Declared {
    /// The text in quotes in its value.
    fn name(&self) -> &str {
        self.value.split('"').nth(1).unwrap_or_else(|| panic!("{}: no name", self.value))
    }

    fn meaning(&self) -> String {
        cell(&self.paragraphs[0])
    }

    /// The second paragraph, which begins so.
    fn second(&self, begin: &str) -> String {
        let text = self.paragraphs[1].strip_prefix(begin);
        let text =
            text.unwrap_or_else(|| panic!("{}: the second paragraph begins with {begin:?}", self.value));
        cell(text)
    }
}

/// As a sentence begins.
fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_ascii_uppercase() + rest
}

#[test]
fn the_page_of_annotations_is_fresh() {
    let mut text = ANNOTATIONS.to_owned();
    for one in declared("plugins/deployment/src/objects/annotations.rs", "&str") {
        let default = one.second("Default: ");
        let default = default.trim_end_matches('.');
        writeln!(text, "| `{}` | {default} | {} |", one.name(), one.meaning()).expect("a text");
    }
    page("annotations.md", &(text + STATE));
}

#[test]
fn the_page_of_events_is_fresh() {
    let mut all = declared("daemon/src/events.rs", "EventReason");
    all.extend(declared("plugins/deployment/src/events/reasons.rs", "EventReason"));
    all.sort_by(|one, other| one.name().cmp(other.name()));
    let names: BTreeSet<_> = all.iter().map(Declared::name).collect();
    assert_eq!(names.len(), all.len(), "two Events have one name");
    let mut text = EVENTS.to_owned();
    for one in &all {
        let severity = if one.value.contains("::warning(") { "Warning" } else { "Normal" };
        let [meaning, action] = [one.meaning(), capital(&one.second("To do: "))];
        writeln!(text, "| `{}` | {severity} | {meaning} | {action} |", one.name()).expect("a text");
    }
    page("events.md", &text);
}

#[test]
fn the_page_of_errors_is_fresh() {
    let mut text = ERRORS.to_owned();
    for one in declared("dlx/src/error_code.rs", "ErrorCode") {
        let status: u16 = one.value.split(['(', ',']).nth(1).expect("a status").parse().expect("a status");
        let [cause, action] = [one.meaning(), capital(&one.second("To do: "))];
        writeln!(text, "| {status} | `{}` | {cause} | {action} |", one.name()).expect("a text");
    }
    page("errors.md", &(text + STATUSES));
}
