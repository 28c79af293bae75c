//! The daemons, plugins and services under test, built once per run.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::processes;

/// The folder the daemons and plugins lie in, built if they were not yet in this test run.
///
/// `SCALER_E2E_BIN` names a folder that holds them already (`cargo xtask` sets it). cargo-nextest builds them before the tests
/// (`.config/nextest.toml`); without it the first process of a run does, under a lock, and the others find its mark.
///
/// # Panics
///
/// They cannot be built.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let target = target();
        let given = env::var_os("SCALER_E2E_BIN").filter(|folder| !folder.is_empty());
        let folder = given.as_ref().map_or_else(|| target.clone(), PathBuf::from);
        let shared = scratch();
        fs::create_dir_all(&shared).expect("creating the folder of the sites");
        let lock = File::create(shared.join("build.lock")).expect("creating the build lock");
        lock.lock().expect("locking the build lock");
        let run = env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
        let mark = shared.join("built");
        if fs::read_to_string(&mark).unwrap_or_default() != run {
            processes::end_orphans();
            remove_old_sites(&shared);
            // In a test of nextest cargo would build all anew: some build scripts look at variables that the runner sets.
            if given.is_none() && env::var_os("NEXTEST").is_none() {
                build();
            }
            fs::write(&mark, run).expect("writing the mark of a finished build");
        }
        folder
    })
}

/// Where sites, locks and the port counter lie.
pub fn scratch() -> PathBuf {
    target().with_file_name("e2e")
}

/// Removes what tests of earlier runs kept because they failed: `<name>-<pid>-<random>`.
fn remove_old_sites(shared: &Path) {
    for path in fs::read_dir(shared).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = name.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if path.is_dir() && owner.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // One that cannot be removed now is tried again by the next run.
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// A program of this crate, e.g. `service`.
pub fn own(name: &str) -> PathBuf {
    target().join(name)
}

/// A program of this machine, e.g. `redis-server`; its name alone, if it is in none of the search path's folders.
pub fn of_machine(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| name.into())
}

/// `target/<profile>`: test programs lie in its `deps`.
fn target() -> PathBuf {
    let mut path = env::current_exe().expect("the test program's path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// Builds the workspace, as its tests were: single packages want other features of what they depend on, all of which would
/// be built again.
fn build() {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).args([
        "build",
        "--quiet",
        "--workspace",
        "--all-targets",
    ]);
    // Build scripts would take them for a change.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        cargo.env_remove(name);
    }
    if target().ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("starting cargo build");
    assert!(status.success(), "cargo build of the workspace failed: {status}");
}
