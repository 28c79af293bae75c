//! The commands of `autoscaler`.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::{cell, page};

const HEADER: &str = "# Commands

<!-- Written by `cargo xtask reference` from what `autoscaler` declares. -->

With a command `autoscaler` does not run as a daemon. Those that take `--admin-address` ask the leader's [admin port](admin-api.md). A
resource is `NAMESPACE/NAME`; the name may contain slashes: `shop/statefulset/db` is the StatefulSet `db`. Exit statuses: 0 success,
1 failure (with the reason), 64 bad flags, 78 bad files or plugins.
";

/// What the help says, in one line.
fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    cell(&help)
}

fn option(text: &mut String, arg: &Arg) {
    let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    let name = arg.get_long().map_or_else(|| value.clone(), |long| format!("--{long} {value}"));
    let default = match arg.get_default_values() {
        [value] if arg.get_action().takes_values() => format!("`{}`", value.to_string_lossy()),
        _ if arg.is_required_set() => "required".to_owned(),
        _ => "none".to_owned(),
    };
    writeln!(text, "| `{}` | {default} | {} |", name.trim_end(), help(arg)).expect("a text");
}

fn section(text: &mut String, command: &mut Command, of_the_daemon: &[Arg]) {
    let name = command.get_name().to_owned();
    let about = command.get_long_about().or(command.get_about()).expect(&name).to_string();
    let usage = command.clone().bin_name(format!("autoscaler {name}")).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    write!(text, "\n## {name}\n\n    {usage}\n").expect("a text");
    for paragraph in about.split("\n\n") {
        let end = if paragraph.ends_with(['.', ':']) { "" } else { "." };
        write!(text, "\n{}{end}\n", cell(paragraph)).expect("a text");
    }
    let daemons = |arg: &&Arg| {
        of_the_daemon.iter().any(|flag| flag.get_id() == arg.get_id() && help(flag) == help(arg))
    };
    let own = |arg: &&Arg| !daemons(arg) && !matches!(arg.get_id().as_str(), "help" | "version");
    text.push_str("\n| option | default | meaning |\n|---|---|---|\n");
    let args: Vec<_> = command.get_arguments().collect();
    args.iter().copied().filter(own).for_each(|arg| option(text, arg));
    let flags: Vec<_> = args.iter().copied().filter(daemons).filter_map(Arg::get_long).collect();
    if !flags.is_empty() {
        let flags = flags.iter().map(|flag| format!("`--{flag}`")).collect::<Vec<_>>().join(", ");
        write!(text, "\nAnd these [flags of the daemon](flags.md): {flags}.\n").expect("a text");
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        text.push_str("\n```\n");
        text.push_str(after.to_string().trim_end());
        text.push_str("\n```\n");
    }
}

#[test]
fn the_page_of_commands_is_fresh() {
    let mut autoscaler = autoscaler::AutoscalerFlags::command();
    autoscaler.build();
    let flags: Vec<_> = autoscaler.get_arguments().filter(|flag| flag.get_id() != "help").cloned().collect();
    let mut text = HEADER.to_owned();
    let commands = autoscaler.get_subcommands_mut().filter(|command| command.get_name() != "help");
    commands.for_each(|command| section(&mut text, command, &flags));
    page("commands.md", &text);
}
