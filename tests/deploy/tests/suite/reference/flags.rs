//! The flags, and the keys of a namespace file.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use clap::{Arg, Command, CommandFactory as _};
use daemon::{namespace_file::NamespaceFile, settings::FileKey};
use deploy::root;

use super::{cell, page};

const FLAGS: &str = "# Flags

<!-- Written by `cargo xtask reference` from what the daemons declare. -->

Flags set up the process; what concerns one namespace is in its [namespace file](namespace-file.md), which takes precedence over
a flag, as a flag does over a plugin's own default. Addresses are `:8090` (all addresses), `127.0.0.1:8090` or `[::1]:8090`.
Durations are `500ms`, `30s`, `1m30s`; sizes `512KiB`, `64MiB`, `1GiB` or bytes.

| flag | daemon | default | meaning |
|---|---|---|---|
";

const KEYS: &str = "# The namespace file

<!-- Written by `cargo xtask reference` from what the daemons declare. -->

One YAML file holds one namespace. Unknown keys, duplicate keys and bad values are rejected with file, line and what was expected.
A file has 8 MiB and 500,000 values at most, keys included. [every-key.yaml](../../examples/config/every-key.yaml) shows them in place.

| key | value | default | meaning |
|---|---|---|---|
";

/// A flag in the table: which daemons have it, with which default; and its meaning.
type Flag = (Vec<(&'static str, String)>, String);

fn default(arg: &Arg, keys: &[FileKey]) -> String {
    let values = arg.get_default_values();
    if !arg.get_action().takes_values() {
        return "off".to_owned();
    }
    if let [value] = values {
        return format!("`{}`", value.to_string_lossy());
    }
    // A flag that a namespace file can set, too, has the key's default.
    let id = arg.get_id().as_str();
    let default = keys.iter().find(|key| key.field == id && key.default != "required");
    default.map_or_else(|| "none".to_owned(), |key| key.default.to_owned())
}

#[test]
fn the_page_of_flags_is_fresh() {
    let daemons: [(&'static str, Command); 2] =
        [("autoscaler", autoscaler::AutoscalerFlags::command()), ("dlx", dlx::DlxFlags::command())];
    let keys = NamespaceFile::keys();
    let mut flags: BTreeMap<String, Flag> = BTreeMap::new();
    for (daemon, command) in &daemons {
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                continue;
            };
            let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
            let value = value.map(|names| format!(" {}", names[0])).unwrap_or_default();
            let help = arg.get_long_help().or(arg.get_help()).expect(long).to_string();
            let mut meaning = cell(&help);
            if !meaning.ends_with('.') {
                meaning.push('.');
            }
            let choices: Vec<_> =
                arg.get_possible_values().iter().map(|choice| format!("`{}`", choice.get_name())).collect();
            if arg.get_action().takes_values() && !choices.iter().all(|choice| meaning.contains(choice)) {
                write!(meaning, " One of {}.", choices.join(", ")).expect("a text");
            }
            if let Some(variable) = arg.get_env() {
                write!(meaning, " Environment: `{}`.", variable.to_string_lossy()).expect("a text");
            }
            let entry = flags.entry(format!("| `--{long}{value}`")).or_default();
            entry.0.push((daemon, default(arg, &keys)));
            assert!(
                entry.1.is_empty() || entry.1 == meaning || long == "admin-address",
                "{long} means two things"
            );
            entry.1 = meaning;
        }
    }
    let mut text = FLAGS.to_owned();
    for (flag, (daemons, meaning)) in flags {
        let (daemon, default) = match &daemons[..] {
            [(_, one), (_, other)] if one == other => ("both", one.clone()),
            [(one, its), (other, others)] => ("both", format!("{one} {its}, {other} {others}")),
            [(daemon, default)] => (*daemon, default.clone()),
            more => panic!("{flag}: {more:?}"),
        };
        writeln!(text, "{flag} | {daemon} | {default} | {meaning} |").expect("a text");
    }
    page("flags.md", &text);
}

#[test]
fn the_page_of_the_namespace_file_is_fresh() {
    let mut text = KEYS.to_owned();
    for key in NamespaceFile::keys() {
        let [expected, default, meaning] = [key.expected, key.default, key.meaning].map(cell);
        writeln!(text, "| `{}` | {expected} | {default} | {meaning} |", key.path()).expect("a text");
    }
    page("namespace-file.md", &text);
}

/// Every key of the page is in the example that says so of itself, but those of the other metric sources.
#[test]
fn the_example_has_every_key() {
    let example = fs::read_to_string(root().join("examples/config/every-key.yaml")).expect("every-key.yaml");
    for key in NamespaceFile::keys() {
        let path = key.path();
        let name = path.rsplit('.').next().unwrap_or_default();
        let other_source = key.section.starts_with("metrics") && name != "source";
        assert!(other_source || name == "KIND" || example.contains(&format!("{name}:")), "{path}");
    }
}
