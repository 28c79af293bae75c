//! `check`: validates namespace files.

use std::path::PathBuf;

use daemon::{
    exit::Misconfigured,
    plugin_manager::{CheckContext, Checked, check},
};
use scaler_types::Coordination;

use super::{
    output::{Format, print, print_json, warn},
    plugins_folder,
    temporary_folder::TemporaryFolder,
};

/// Validates namespace files without serving them: each file, and each plugin its own configuration
///
/// Loads the plugins of --plugins-dir, if there are any, and has them validate their configuration; reports as unchecked
/// the parts that need a cluster where there is none. Scales nothing. Warns of probable mistakes in a file that can be used: a
/// program that is not on this host, a resource that no request can wake. Exit status 78 if a file is invalid.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler check --strict demo.yaml")]
pub(crate) struct Check {
    /// Namespace files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The folder of the plugins. Without it: `plugins` in the current folder, else beside this program or its folder
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<PathBuf>,

    /// Exit with status 78 on warnings, too
    #[arg(long)]
    strict: bool,

    /// The kubeconfig of the cluster, for plugins that talk to one
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig_path: Option<PathBuf>,

    /// Print text or JSON
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

// === impl Check ===

impl Check {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let folder = plugins_folder::find(self.plugins_dir.as_deref());
        let (plugins, rejected) = match folder.is_dir() {
            true => {
                let found = plugins_folder::load(Some(&folder))?;
                (found.plugins, found.rejected)
            }
            false => Default::default(),
        };
        for plugin in &rejected {
            warn(&plugin.to_string());
        }
        let state = TemporaryFolder::new()?;
        let context = CheckContext {
            plugins: &plugins,
            kubeconfig: self.kubeconfig_path,
            coordination: Coordination::Leases,
            state_dir: state.path(),
        };
        let all = check(self.files, &context).await;
        match self.output {
            Format::Json => print_json(&all)?,
            Format::Text => print(&render(&all)),
        }
        let wrong = all.iter().filter(|file| !file.errors.is_empty()).count();
        let warned = all.iter().filter(|file| !file.warnings.is_empty()).count();
        match (wrong, all.len()) {
            (0, 1..) if self.strict && warned > 0 => {
                Err(Misconfigured(format!("--strict: {warned} of {} files have warnings", all.len())).into())
            }
            (0, 1..) if self.strict && !rejected.is_empty() => {
                Err(Misconfigured(format!("--strict: {} plugins were rejected", rejected.len())).into())
            }
            (0, 1..) => Ok(()),
            (0, 0) => Err(Misconfigured("no namespace file found (*.yaml, *.yml)".to_owned()).into()),
            (wrong, all) => Err(Misconfigured(format!("{wrong} of {all} files are invalid")).into()),
        }
    }
}

fn render(all: &[Checked]) -> String {
    let mut out = String::new();
    for Checked { file, namespace, errors, warnings, unchecked, .. } in all {
        if errors.is_empty() {
            let count = match warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                count => format!(", {count} warnings"),
            };
            out += &format!("{file}: valid, namespace {}{count}\n", namespace.as_deref().unwrap_or("-"));
        }
        for error in errors {
            out += &format!("{error}\n");
        }
        for warning in warnings {
            out += &format!("warning: {warning}\n");
        }
        for note in unchecked {
            out += &format!("{note} (not checked)\n");
        }
    }
    out
}
