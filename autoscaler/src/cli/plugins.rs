//! `plugins`: the plugins in a folder.

use std::path::PathBuf;

use daemon::exit::Misconfigured;
use serde::Serialize;

use super::{
    output::{Format, print, print_json, table},
    plugins_folder,
};

/// Loads every `*.so` of the plugins' folder and of `metric-sources` in it, and prints what it is, its kind, and the version of the
/// plugin interface it was built for, or why it was rejected
///
/// Exit status 78 if any is rejected, or there is none.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "Example:\n  autoscaler plugins --plugins-dir plugins")]
pub(crate) struct PluginsCommand {
    /// The folder of the plugins. Without it: `plugins` in the current folder, else beside this program or its folder
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<PathBuf>,

    /// Print text or JSON
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

#[derive(Serialize)]
struct PluginStatus {
    file: String,
    kind: Option<String>,
    /// `resource-scaler` or `metric source`.
    implements: Option<&'static str>,
    interface: Option<String>,
    refused: Option<String>,
}

// === impl PluginsCommand ===

impl PluginsCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let scan = plugins_folder::load(self.plugins_dir.as_deref())?;
        let bad = |why: String| Misconfigured(format!("--plugins-dir {}: {why}", scan.folder.display()));
        let loaded = scan.plugins.iter().map(|plugin| PluginStatus {
            file: plugin.path().display().to_string(),
            kind: Some(plugin.kind().to_owned()),
            implements: Some(plugin.interface().name()),
            interface: Some(plugin.interface_version().to_owned()),
            refused: None,
        });
        let refused = scan.rejected.iter().map(|rejected| PluginStatus {
            file: rejected.path.display().to_string(),
            kind: None,
            implements: None,
            interface: None,
            refused: Some(rejected.error.to_string()),
        });
        let mut all: Vec<_> = loaded.chain(refused).collect();
        all.sort_by(|a, b| a.file.cmp(&b.file));
        match self.output {
            Format::Json => print_json(&all)?,
            Format::Text => print(&table(&all.iter().map(PluginStatus::row).collect::<Vec<_>>())),
        }
        match (all.len(), scan.rejected.len()) {
            (0, _) => Err(bad("no plugin found (*.so)".to_owned()).into()),
            (_, 0) => Ok(()),
            (all, rejected) => Err(bad(format!("{rejected} of {all} plugins were rejected")).into()),
        }
    }
}

// === impl PluginStatus ===

impl PluginStatus {
    fn row(&self) -> Vec<String> {
        match (&self.kind, self.implements, &self.interface) {
            (Some(kind), Some(implements), Some(interface)) => {
                let interface = format!("{implements}, plugin interface {interface}");
                vec![self.file.clone(), kind.clone(), interface]
            }
            _ => {
                let why = self.refused.clone().unwrap_or_default();
                vec![
                    self.file.clone(),
                    "REJECTED".to_owned(),
                    why.split_whitespace().collect::<Vec<_>>().join(" "),
                ]
            }
        }
    }
}
