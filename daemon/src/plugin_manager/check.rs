//! Looks namespace files over without serving them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use plugin_host::Plugin;
use scaler_types::{Coordination, PluginContext, Role};
use serde::Serialize;
use tokio::time::timeout;

use crate::files::Files;

/// The findings in one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The file.
    pub file: String,
    /// Its namespace, if it can be read.
    pub namespace: Option<String>,
    /// The errors, one line each: `file:line:column: what, expected what`.
    pub errors: Vec<String>,
    /// The checks that were not possible here, and why.
    pub unchecked: Vec<String>,
}

/// How long a plugin may take for its section.
const WITHIN: Duration = Duration::from_secs(10);

/// Reads what `paths` name, as `--config` does, and has each plugin look at its section: an instance is started on an
/// empty state folder of its own, and stopped again. Nothing is scaled.
///
/// A plugin's finding is an error where it names the file; else the plugin lacks what its check needs (a cluster, say).
pub async fn check(
    paths: Vec<PathBuf>,
    plugins: &[Plugin],
    kubeconfig: Option<PathBuf>,
    state_dir: &Path,
) -> Vec<Checked> {
    let mut files = Files::new(paths);
    files.read();
    let mut all = Vec::new();
    for entry in files.entries() {
        let mut checked = Checked {
            file: entry.path.display().to_string(),
            namespace: entry.good.as_ref().map(|contents| contents.says.namespace.clone()),
            errors: entry.error.iter().map(ToString::to_string).collect(),
            unchecked: Vec::new(),
        };
        let contents = entry.good.iter();
        for (contents, (kind, section)) in contents
            .flat_map(|contents| contents.says.sections.iter().map(move |section| (contents, section)))
        {
            let Some(plugin) = plugins.iter().find(|plugin| plugin.kind() == kind) else {
                checked
                    .unchecked
                    .push(format!("{}:{}: no plugin of kind {kind} is loaded", contents.name, section.line));
                continue;
            };
            let context = PluginContext {
                namespace: contents.says.namespace.clone(),
                role: Role::Autoscaler,
                state_dir: state_dir.to_owned(),
                plugin_dir: PathBuf::new(),
                kubeconfig: kubeconfig.clone(),
                coordination: Coordination::Leases,
                daemon_namespace: None,
                service_ports: None,
                daemon_pod: None,
                dlx_service: String::new(),
                metrics_urls: Vec::new(),
                kind: kind.clone(),
                namespace_file: contents.name.clone(),
                namespace_file_text: contents.text.clone(),
            };
            match timeout(WITHIN, plugin.start(context)).await {
                Ok(Ok(instance)) => instance.stop().await,
                Ok(Err(error)) => {
                    let error = error.to_string();
                    match error.starts_with(&format!("{}:", contents.name)) {
                        true => checked.errors.push(error),
                        false => checked
                            .unchecked
                            .push(format!("{}:{}: plugin {kind}: {error}", contents.name, section.line)),
                    }
                }
                Err(_) => checked.unchecked.push(format!(
                    "{}:{}: plugin {kind}: no answer within {}",
                    contents.name,
                    section.line,
                    scaler_types::duration::short(WITHIN)
                )),
            }
        }
        all.push(checked);
    }
    all
}
