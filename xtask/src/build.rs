//! One build of the daemons, the plugins and the examples, and the plugins installed beside the daemons.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    steps::{run, show_progress},
    workspace::{Package, Profile, cargo, is_kind, packages, root},
};

/// What was built, and where it lies.
#[derive(Clone, Debug)]
pub struct Built {
    /// The folder of the programs.
    pub programs: PathBuf,
    /// The folder of the installed plugins.
    pub plugins: PathBuf,
}

/// Set: the folder of a debug build with everything, whose plugins are installed. Tests and the recording start the demo
/// without a build of its own.
pub const BUILT: &str = "SCALER_E2E_BIN";

/// Builds what the demo and the bench run, and installs the plugins.
///
/// # Errors
///
/// cargo's, and the file system's.
pub fn build(profile: Profile) -> Result<Built> {
    if let Some(programs) = env::var_os(BUILT).filter(|_| profile == Profile::Debug) {
        return Ok(Built { programs: programs.into(), plugins: root().join("plugins") });
    }
    let packages = ["autoscaler", "dlx", "hello", "worker"]
        .into_iter()
        .map(str::to_owned)
        .chain(plugin_packages()?.into_iter().map(|plugin| plugin.package));
    let mut build = cargo();
    show_progress(build.arg("build")).args(["--lib", "--bins", "--profile", profile.name()]);
    for package in packages {
        build.args(["--package", &package]);
    }
    run(&mut build)?;
    install(profile)
}

/// Builds the whole workspace, tests included, and installs the plugins. (Without the tests, what they want of the
/// dependencies beside would have those built a second time afterwards.)
///
/// # Errors
///
/// cargo's, and the file system's.
pub fn build_all(profile: Profile) -> Result<Built> {
    let mut build = cargo();
    show_progress(build.arg("build")).args(["--workspace", "--all-targets", "--profile", profile.name()]);
    run(&mut build)?;
    install(profile)
}

impl Built {
    /// A program of this build.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// A crate whose library is a plugin.
#[derive(Clone)]
pub struct Plugin {
    package: String,
    folder: PathBuf,
    /// The library's name, and so its kind: `libNAME.so` is installed as `NAME.so`.
    pub library: String,
    /// Programs that belong to it and are installed beside it.
    pub programs: Vec<String>,
    /// A metric source, by its package's name: `metric-source-KIND`. Else it is a resource-scaler.
    pub is_metric_source: bool,
}

/// Where the metric sources are in the plugins' folder; only the autoscaler opens it.
pub const METRIC_SOURCES: &str = "metric-sources";

impl Plugin {
    /// The library's path in the plugins' folder.
    pub fn installed(&self) -> PathBuf {
        let library = format!("{}.so", self.library);
        if self.is_metric_source { Path::new(METRIC_SOURCES).join(library) } else { library.into() }
    }
}

/// The crates under plugins/: images and the release have them.
///
/// # Errors
///
/// cargo's.
pub fn plugins() -> Result<Vec<Plugin>> {
    let mut plugins = plugin_packages()?;
    plugins.retain(|plugin| plugin.folder.starts_with(root().join("plugins")));
    Ok(plugins)
}

/// Every crate of the workspace that makes a plugin: cargo itself knows which have a `cdylib`.
fn plugin_packages() -> Result<Vec<Plugin>> {
    let mut plugins = Vec::new();
    for package in packages()? {
        // The example of the tutorial and the plugins; tests have bad plugins of their own.
        let ours = package.folder.starts_with(root().join("plugins"))
            || package.folder.starts_with(root().join("examples"));
        let named = |kind: &str| {
            let targets = package.targets.iter().filter(move |target| is_kind(target, kind));
            targets.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect::<Vec<_>>()
        };
        let Some(library) = named("cdylib").pop().filter(|_| ours) else { continue };
        let programs = named("bin");
        let is_metric_source = package.name.starts_with("metric-source-");
        let Package { name: package, folder, .. } = package;
        plugins.push(Plugin { package, folder, library, programs, is_metric_source });
    }
    Ok(plugins)
}

/// Copies the plugins, and the programs that belong to them, to `plugins/`.
fn install(profile: Profile) -> Result<Built> {
    let programs = profile.folder();
    let plugins = root().join("plugins");
    let metric_sources = plugins.join(METRIC_SOURCES);
    fs::create_dir_all(&metric_sources).with_context(|| format!("making {}", metric_sources.display()))?;
    for plugin in plugin_packages()? {
        put(&programs.join(format!("lib{}.so", plugin.library)), &plugins.join(plugin.installed()))?;
        for program in plugin.programs {
            put(&programs.join(&program), &plugins.join(&program))?;
        }
    }
    Ok(Built { programs, plugins })
}

/// Replaces a file in one step. Never written in place: a daemon that runs has the old one mapped, and would be killed.
fn put(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("installing {} as {}", from.display(), to.display());
    let name = to.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let new = to.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::copy(from, &new).with_context(doing)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).with_context(doing)?;
    fs::rename(&new, to).with_context(doing)
}
