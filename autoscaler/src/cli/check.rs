//! `check`: validates namespace files.

use std::{
    env, fs,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
};

use anyhow::Context as _;
use daemon::{
    exit::Misconfigured,
    plugin_manager::{Checked, check},
};
use plugin_host::LOAD_TIMEOUT;

use super::output::{Format, print, print_json};

/// Validates namespace files without serving them: each file, and each plugin its own configuration
///
/// Loads the plugins of --plugins-dir, if there are any, and has them validate their configuration; reports as unchecked
/// what needs a cluster where there is none. Scales nothing. Exit status 78 if anything is wrong.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Check {
    /// Namespace files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The folder of the plugins
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    plugins_dir: PathBuf,

    /// The kubeconfig of the cluster, for plugins that talk to one
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig_path: Option<PathBuf>,

    /// Print text or JSON
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

/// An empty folder that is gone when this is.
struct Folder(PathBuf);

// === impl Check ===

impl Check {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let plugins = match self.plugins_dir.is_dir() {
            true => {
                plugin_host::load_dir(&self.plugins_dir, LOAD_TIMEOUT, |_| {})
                    .with_context(|| format!("reading --plugins-dir {}", self.plugins_dir.display()))?
                    .plugins
            }
            false => Vec::new(),
        };
        let folder = Folder::new()?;
        let all = check(self.files, &plugins, self.kubeconfig_path, &folder.0).await;
        match self.output {
            Format::Json => print_json(&all)?,
            Format::Text => print(&render(&all)),
        }
        let wrong = all.iter().filter(|file| !file.errors.is_empty()).count();
        match (wrong, all.len()) {
            (0, 1..) => Ok(()),
            (0, 0) => Err(Misconfigured("no namespace file found (*.yaml, *.yml)".to_owned()).into()),
            (wrong, all) => Err(Misconfigured(format!("{wrong} of {all} files are invalid")).into()),
        }
    }
}

fn render(all: &[Checked]) -> String {
    let mut out = String::new();
    for Checked { file, namespace, errors, unchecked } in all {
        if errors.is_empty() {
            out += &format!("{file}: valid, namespace {}\n", namespace.as_deref().unwrap_or("-"));
        }
        for error in errors {
            out += &format!("{error}\n");
        }
        for note in unchecked {
            out += &format!("{note} (not checked)\n");
        }
    }
    out
}

// === impl Folder ===

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let name = format!("scaler-check-{:016x}", RandomState::new().hash_one(std::process::id()));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
