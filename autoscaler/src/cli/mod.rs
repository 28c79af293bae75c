//! The commands beside the daemon: run both daemons, query running ones, validate files and plugins, restore everything.

mod admin_client;
mod check;
mod explain;
mod list;
mod output;
mod plan;
mod plugins;
mod plugins_folder;
mod restore;
mod run;
mod scale;
mod temporary_folder;

use std::{
    env,
    io::{self, Write as _},
};

use clap::Subcommand;
use daemon::{completion::Completion, exit, telemetry};
use scaler_types::ResourceId;

/// What `autoscaler` does instead of running as a daemon.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    Run(run::RunCommand),
    List(list::ListCommand),
    Explain(explain::Explain),
    Plan(plan::Plan),
    Check(check::Check),
    Plugins(plugins::PluginsCommand),
    Wake(scale::Wake),
    Sleep(scale::Sleep),
    Restore(Box<restore::Restore>),
    #[command(
        after_long_help = "Example:\n  autoscaler completion bash > ~/.local/share/bash-completion/completions/autoscaler"
    )]
    Completion(Completion),
}

/// Runs a command and exits. Errors go to standard error, and no log is written unless RUST_LOG asks for one.
pub(crate) fn run<F: clap::CommandFactory>(command: Command) -> ! {
    if env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty()) {
        telemetry::init(telemetry::LogFormat::Text);
    }
    let status = match command.run::<F>() {
        Ok(()) => 0,
        Err(error) => {
            // A closed standard error is not an error.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            exit::status_of(&error)
        }
    };
    exit::end_with(status)
}

// === impl Command ===

impl Command {
    /// Does it.
    ///
    /// # Errors
    ///
    /// It cannot be done, or what was asked for did not come about; a
    /// [`Misconfigured`](daemon::exit::Misconfigured) where files or plugins are wrong.
    ///
    /// `F`: the flags of this program.
    pub(crate) fn run<F: clap::CommandFactory>(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            match self {
                Self::Run(command) => command.run().await,
                Self::List(command) => command.run().await,
                Self::Explain(command) => command.run().await,
                Self::Plan(command) => command.run().await,
                Self::Check(command) => command.run().await,
                Self::Plugins(command) => command.run(),
                Self::Wake(command) => command.run().await,
                Self::Sleep(command) => command.run().await,
                Self::Restore(command) => command.run().await,
                Self::Completion(completion) => {
                    completion.print::<F>();
                    Ok(())
                }
            }
        });
        // A plugin that hangs must not hold up the end.
        runtime.shutdown_background();
        done
    }
}

/// `NAMESPACE/NAME`; the name may hold slashes (`shop/statefulset/db`).
fn parse_id(text: &str) -> Result<ResourceId, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(ResourceId::new(namespace, name))
        }
        _ => Err("expected NAMESPACE/NAME, as in shop/web or shop/statefulset/db".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_slashes() {
        assert_eq!(parse_id("shop/web"), Ok(ResourceId::new("shop", "web")));
        assert_eq!(parse_id("shop/statefulset/db"), Ok(ResourceId::new("shop", "statefulset/db")));
        for wrong in ["", "web", "/web", "shop/", "/"] {
            parse_id(wrong).unwrap_err();
        }
    }
}
