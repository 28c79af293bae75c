//! What can be known of the images without building one: their file trees, run as a container would run them.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{DAEMONS, tree, variants};
use crate::{
    build::{Built, Plugin},
    workspace::target,
};

/// How long a daemon may take to load its plugins.
const LOADED: Duration = Duration::from_secs(30);

/// A namespace file of one of the plugins, for the image with all of them: the others must neither start nor complain.
const FILE: &str =
    "namespace: demo\nplugins: {process: {resources: [{name: hello, command: [hello], port: 9}]}}\n";

/// Each tree holds what its base's glibc loads, and the daemon finds its plugins in it: as a user without rights, on a
/// root that cannot be written, with nothing but what the image has. The C library is this machine's, in the base's place.
///
/// Where no such root can be made (it takes root's rights) only the trees are checked, and that is said.
///
/// # Errors
///
/// The first tree that is not so.
pub fn check(built: &Built) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("images-").tempdir_in(target())?;
    let newer_here = machine_glibc() > tree::BASE_GLIBC;
    let confined = can_confine();
    if !confined {
        println!(
            "    not proved: that the daemons start on a read-only root without rights; that takes root's rights"
        );
    }
    for variant in variants()? {
        for daemon in DAEMONS {
            // A DLX has no metric source.
            let expected =
                variant.plugins.iter().filter(|plugin| !plugin.is_metric_source || daemon == "autoscaler");
            let files: Vec<_> = expected.map(Plugin::installed).collect();
            let name = variant.image(daemon);
            let root = scratch.path().join(&name);
            tree::assemble(built, daemon, &variant.plugins, &root)?;
            if newer_here {
                println!("    not proved: that {name} starts on its base; this machine's glibc is newer");
            } else {
                tree::refuse_newer_glibc(&root)?;
            }
            if confined {
                add_base(&root)?;
                let file = root.join("demo.yaml");
                if variant.kind.is_none() {
                    fs::write(&file, FILE).with_context(|| format!("writing {}", file.display()))?;
                }
                start(&root, daemon, &files).with_context(|| name)?;
            }
        }
    }
    Ok(())
}

/// The glibc of this machine, which what is built here is linked against.
fn machine_glibc() -> (u32, u32) {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut numbers =
        text.trim().trim_start_matches("glibc ").split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether this process may make a mount namespace.
fn can_confine() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]);
    unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    unshare.status().is_ok_and(|status| status.success())
}

/// The libraries that the tree's files want, which the image's base has.
fn add_base(root: &Path) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for file in tree::files(root)? {
        let output = Command::new("ldd").arg(&file).output().context("starting ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let paths = text.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).is_file());
        wanted.extend(paths.map(PathBuf::from));
    }
    ensure!(!wanted.is_empty(), "ldd names no library of {}", root.display());
    for library in wanted {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(&library, &to).with_context(|| format!("copying {}", library.display()))?;
    }
    for folder in ["state", "proc", "dev"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("creating the folder {folder}"))?;
    }
    Ok(())
}

/// Starts the daemon and waits until it says that it loaded the plugins; with [`FILE`], until it started the one that is
/// configured, without an error or a warning about the others.
fn start(root: &Path, daemon: &str, files: &[PathBuf]) -> Result<()> {
    // The image's USER, WORKDIR and ENTRYPOINT; --state-dir is a volume; every container has /proc and /dev.
    let confine = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o mode=777 none "$0/state" &&
        mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot --userspec=65532:65532 "$0" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", confine]).arg(root);
    command.arg(format!("/{}/{daemon}", tree::PROGRAMS)).args([
        "--admin-address",
        "127.0.0.1:0",
        "--coordinate-by",
        "files",
    ]);
    if daemon == "dlx" {
        command.args(["--listen-address", "127.0.0.1:0"]);
    }
    let mut missing: Vec<_> = files
        .iter()
        .map(|file| ["plugin loaded".to_owned(), format!("plugins/{}", file.display())])
        .collect();
    let configured = root.join("demo.yaml").is_file();
    if configured {
        command.args(["--config", "/demo.yaml"]);
        missing.push(["started plugin instance".to_owned(), "kind=\"process\"".to_owned()]);
    }
    let mut child = command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting unshare")?;
    let (lines, said) = mpsc::channel();
    let stderr = child.stderr.take().context("the daemon's log")?;
    let reader = thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let mut log = String::new();
    while !missing.is_empty() {
        // No line: it ended, or says nothing any more.
        let Ok(line) = said.recv_timeout(LOADED) else { break };
        missing.retain(|parts| !parts.iter().all(|part| line.contains(part)));
        log += &format!("\n{line}");
    }
    drop(said);
    // It may have ended by itself: without a cluster some plugins have nothing to do.
    let _ = child.kill();
    let status = child.wait().context("waiting for the daemon")?;
    let _ = reader.join();
    if !missing.is_empty() {
        bail!("{daemon} ended with {status} without {missing:?} in its log:{log}");
    }
    let complains = |line: &str| line.contains(" ERROR ") || line.contains(" WARN ");
    ensure!(!configured || !log.lines().any(complains), "{daemon} complains in its log:{log}");
    Ok(())
}
