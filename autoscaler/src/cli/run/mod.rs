//! `run`: both daemons on namespace files, in the foreground.

mod addresses;
mod daemons;
mod plugin_links;
mod services;
mod signals;
mod state;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use anyhow::bail;
use daemon::{
    exit::Misconfigured,
    plugin_manager::{CheckContext, Checked, check},
};
use plugin_host::Interface;
use scaler_types::Coordination;

use self::{
    addresses::Sockets,
    daemons::{DaemonProcess, dlx_program},
    signals::StopSignals,
    state::StateFolder,
};
use super::{
    output::{progress, warn},
    plugins_folder,
    temporary_folder::TemporaryFolder,
};

/// Runs both daemons on namespace files, in the foreground, until you press Ctrl-C
///
/// To try a service of your own: describe it in a file, run this, and send a request to the address that it prints. Of the
/// plugins it loads those that the files configure; state is kept outside of the current folder; the admin ports are open to
/// this host alone. Changes of the files take effect at once.
///
/// Ctrl-C, SIGTERM and SIGHUP stop the DLX once its requests are answered, after 10 s at most, then the autoscaler, and then scale
/// the awake resources to zero. A second one does not wait for requests, a third kills the daemons. If one daemon ends by itself,
/// the other is stopped, too. If this command is killed, both daemons stop; awake resources stay awake until the next run with the same files. Exit status 78 if a file is
/// invalid.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler run demo.yaml")]
pub(crate) struct RunCommand {
    /// Namespace files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The folder of the plugins. Without it: `plugins` in the current folder, else beside this program or its folder
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<PathBuf>,

    /// The address on which the DLX accepts requests; a port alone is all addresses. Without it: port 8090 of this host alone,
    /// or the next that is free
    #[arg(long, value_name = "ADDRESS", value_parser = daemon::listen::parse_address)]
    listen_address: Option<SocketAddr>,

    /// The folder for state. Without it: one for these files below $XDG_STATE_HOME/scaler, or ~/.local/state/scaler
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Both daemons, in the order in which they are stopped.
struct Daemons([DaemonProcess; 2]);

// === impl RunCommand ===

impl RunCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let dlx = dlx_program()?;
        let (checked, plugins) = self.check().await?;
        let state = StateFolder::open(self.state_dir.as_deref(), &self.files)?;
        let kinds = checked.iter().flat_map(|file| &file.plugins).collect();
        let plugins_dir = plugin_links::link(&plugins, &kinds, &state)?;
        let ports = checked.iter().flat_map(|file| &file.ports).copied().collect();
        let sockets = Sockets::bind(self.listen_address, &ports)?;
        let common = self.common_flags(&plugins_dir, &state);
        let addresses = sockets.addresses.clone();
        // Before, a signal just ends this process: there is nothing to be stopped.
        let mut signals = StopSignals::new()?;
        let mut daemons = Daemons::start(&dlx, sockets, &common)?;
        let ended = tokio::select! {
            ended = daemons.ended() => Some(ended),
            () = signals.next() => None,
            shown = addresses.show_when_ready(state.path()) => {
                shown?;
                tokio::select! {
                    ended = daemons.ended() => Some(ended),
                    () = signals.next() => None,
                }
            }
        };
        if ended.is_none() {
            progress("\nstopping; press Ctrl-C again to stop at once");
        }
        let failed = daemons.stop(&mut signals).await;
        tokio::select! {
            all = services::scale_to_zero(&common) => if !all && ended.is_none() {
                bail!("not everything was scaled to zero: the next run with the state in {} takes it over", state.path().display())
            },
            () = signals.next() => bail!(
                "stopped before everything was scaled to zero: awake resources may keep running until the next run with the state in {}",
                state.path().display()
            ),
        }
        match ended.into_iter().chain(failed).next() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Validates the files; what is wrong is printed.
    async fn check(&self) -> anyhow::Result<(Vec<Checked>, Vec<plugin_host::Plugin>)> {
        let scan = plugins_folder::load(self.plugins_dir.as_deref())?;
        let folder = TemporaryFolder::new()?;
        let context = CheckContext {
            plugins: &scan.plugins,
            kubeconfig: None,
            coordination: Coordination::Files,
            state_dir: folder.path(),
        };
        let checked = check(self.files.clone(), &context).await;
        for warning in checked.iter().flat_map(|file| file.warnings.iter().chain(&file.unchecked)) {
            warn(warning);
        }
        let errors: Vec<_> = checked.iter().flat_map(|file| file.errors.iter().cloned()).collect();
        if !errors.is_empty() {
            return Err(Misconfigured(errors.join("\nerror: ")).into());
        }
        let loaded = |kind: &String| {
            let scaler = |plugin: &&plugin_host::Plugin| plugin.interface() == Interface::ResourceScaler;
            scan.plugins.iter().filter(scaler).any(|plugin| plugin.kind() == kind)
        };
        if !checked.iter().flat_map(|file| &file.plugins).any(loaded) {
            // The file of a missing plugin says more than that none is configured.
            let rejected: Vec<_> = scan.rejected.iter().map(ToString::to_string).collect();
            let rejected =
                if rejected.is_empty() { String::new() } else { format!(" ({})", rejected.join("; ")) };
            let why = format!(
                "the files configure no plugin that {} has{rejected}: nothing would run; see plugins in examples/config/hello.yaml",
                scan.folder.display()
            );
            return Err(Misconfigured(why).into());
        }
        Ok((checked, scan.plugins))
    }

    /// The flags that both daemons are started with.
    fn common_flags(&self, plugins_dir: &std::path::Path, state: &StateFolder) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["--coordinate-by=files".into(), "--shutdown-grace=10s".into()];
        flags.extend(["--plugins-dir".into(), plugins_dir.into(), "--state-dir".into(), state.path().into()]);
        flags.extend(self.files.iter().flat_map(|file| ["--config".into(), file.into()]));
        flags
    }
}

// === impl Daemons ===

impl Daemons {
    fn start(dlx: &std::path::Path, sockets: Sockets, common: &[OsString]) -> anyhow::Result<Self> {
        let (of_dlx, of_autoscaler) = sockets.split();
        let dlx = DaemonProcess::start("dlx", dlx, of_dlx, common)?;
        let autoscaler = std::env::current_exe()?;
        let autoscaler = DaemonProcess::start("autoscaler", &autoscaler, of_autoscaler, common)?;
        Ok(Self([dlx, autoscaler]))
    }

    /// Waits until one ends by itself, and returns what to say of it.
    async fn ended(&mut self) -> anyhow::Error {
        let [dlx, autoscaler] = &mut self.0;
        tokio::select! {
            ended = dlx.ended() => ended,
            ended = autoscaler.ended() => ended,
        }
    }

    /// Stops one after the other; returns those that do not end well. A second signal has them drop their requests, a third kills them.
    async fn stop(&mut self, signals: &mut StopSignals) -> Vec<anyhow::Error> {
        let (mut failed, mut more) = (Vec::new(), 0);
        for number in 0..self.0.len() {
            self.0[number].terminate();
            loop {
                tokio::select! {
                    ended = self.0[number].stopped() => {
                        failed.extend(ended.err());
                        break;
                    }
                    () = signals.next() => {
                        more += 1;
                        self.0.iter_mut().for_each(|daemon| daemon.end(more > 1));
                    }
                }
            }
        }
        failed
    }
}
