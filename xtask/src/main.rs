//! `cargo xtask`: everything a person or CI does with this workspace, one command each.

mod bench;
mod build;
mod check;
mod demo;
mod earlier;
mod http;
mod images;
mod install;
mod lint;
mod manifests;
mod new_plugin;
mod record_demo;
mod reference;
mod release;
mod run;
mod scene;
mod soak;
mod steps;
mod test;
mod view;
mod workspace;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Builds, shows, tests and measures Scaler. Each command installs what it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Run(run::Run),
    Lint(lint::Lint),
    Test(test::Test),
    Advisories(lint::Advisories),
    Bench(bench::Bench),
    Soak(soak::Soak),
    NewPlugin(new_plugin::NewPlugin),
    Images(images::Images),
    Manifests(manifests::Manifests),
    Reference(reference::Reference),
    RecordDemo(record_demo::RecordDemo),
    Release(release::Release),
    #[command(hide = true)]
    ColdService(bench::ColdService),
    #[command(hide = true)]
    CleanUp(scene::CleanUp),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Run(run) => run.run(),
        Command::Lint(lint) => lint.run(),
        Command::Test(test) => test.run(),
        Command::Advisories(advisories) => advisories.run(),
        Command::Bench(bench) => bench.run(),
        Command::Soak(soak) => soak.run(),
        Command::ColdService(service) => service.run(),
        Command::CleanUp(clean_up) => clean_up.run(),
        Command::NewPlugin(new) => new.run(),
        Command::Images(images) => images.run(),
        Command::Manifests(manifests) => manifests.run(),
        Command::Reference(reference) => reference.run(),
        Command::RecordDemo(record) => record.run(),
        Command::Release(release) => release.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The terminal may be gone.
            let _ = writeln!(io::stderr(), "\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_of_each_command_has_an_example() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("  cargo xtask {}", command.get_name());
            assert!(help.starts_with("Example") && help.contains(&example), "{}: {help}", command.get_name());
        }
    }
}
