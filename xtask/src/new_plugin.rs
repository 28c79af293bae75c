//! The crate of a new plugin, made from a template that works before anything is filled in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::root;

/// Names a library cannot have, or not beside what the template depends on.
const TAKEN: [&str; 18] = [
    "anyhow",
    "core",
    "crate",
    "extern",
    "fn",
    "impl",
    "mod",
    "proc-macro",
    "scaler-types",
    "self",
    "serde",
    "static",
    "std",
    "test",
    "tokio",
    "tracing",
    "type",
    "use",
];

/// Makes the crate of a new plugin under plugins/, ready to build and to load
///
/// The crate lies in plugins/NAME, is a member of the workspace and holds a resource-scaler of kind NAME that lists nothing
/// yet, or a metric source that reads queues NAME://QUEUE as empty. `cargo xtask demo` and `cargo xtask test` install it as
/// plugins/NAME.so, or plugins/metric-sources/NAME.so, with the others.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask new-plugin my-queue                           plugins/my-queue, in this workspace
  cargo xtask new-plugin ../my-queue                        a crate of its own, outside
  cargo xtask new-plugin --metric-source ../my-broker       a metric source")]
pub struct NewPlugin {
    /// Its kind: small letters, digits and dashes. Or a path to a folder that is not there yet, outside the workspace: its last
    /// part is the kind
    name: String,
    /// Make a metric source, which reads queues, instead of a resource-scaler
    #[arg(long)]
    metric_source: bool,
}

/// What a template is filled with.
struct Template<'a> {
    kind: &'a str,
    metric_source: bool,
    /// In this workspace.
    ours: bool,
}

// === impl NewPlugin ===

impl NewPlugin {
    /// Makes `plugins/NAME` a crate of the workspace with a plugin of kind NAME. NAME may also be a path to a folder that
    /// is not there yet, outside the workspace: the crate is then one of its own, and the last part is the kind.
    ///
    /// # Errors
    ///
    /// The name is no kind, there is something in its place already, or the file system does not let us.
    pub fn run(&self) -> Result<()> {
        let (folder, kind) = place(&self.name)?;
        check(&kind)?;
        // Made without its parents first: what is there is never written over.
        let parent = folder.parent().context("a plugin lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "{} exists already and is left as it is; choose another name or remove it",
                folder.display()
            ),
            made => made.with_context(|| format!("making {}", folder.display()))?,
        }
        let ours = folder.starts_with(root());
        let template = Template { kind: &kind, metric_source: self.metric_source, ours };
        let made = template.fill(&folder).and_then(|()| if ours { join_workspace(&folder) } else { Ok(()) });
        if let Err(error) = made {
            // Half a crate would be in the way of the next try.
            let _ = fs::remove_dir_all(&folder);
            return Err(error);
        }
        println!("{}", template.next_steps(&folder));
        Ok(())
    }
}

// === impl Template ===

impl Template<'_> {
    fn name(&self) -> &'static str {
        if self.metric_source { "metric-source" } else { "resource-scaler" }
    }

    fn fill(&self, folder: &Path) -> Result<()> {
        let manifest = if self.ours {
            include_str!("new_plugin/member.toml")
        } else {
            include_str!("new_plugin/own.toml")
        };
        let title: String = self.kind.split('-').map(capital).collect();
        let written = |text: &str| {
            text.replace("@NAME@", self.name())
                .replace("@KIND@", self.kind)
                .replace("@TYPE@", &title)
                .replace("@LIBRARY@", &self.kind.replace('-', "_"))
                .replace("@WORKSPACE@", &root().display().to_string())
        };
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, written(text)).with_context(|| format!("writing {}", path.display()))
        };
        fs::create_dir(folder.join("src")).with_context(|| format!("making {}/src", folder.display()))?;
        put("Cargo.toml", manifest)?;
        if !self.ours {
            // It begins with the versions that the daemons are built with.
            let lock = root().join("Cargo.lock");
            fs::copy(&lock, folder.join("Cargo.lock"))
                .with_context(|| format!("copying {}", lock.display()))?;
        }
        let source = if self.metric_source {
            include_str!("new_plugin/metric_source.rs.in")
        } else {
            include_str!("new_plugin/lib.rs.in")
        };
        put("src/lib.rs", source)
    }

    /// What to do with it.
    fn next_steps(&self, folder: &Path) -> String {
        let (name, kind, library) = (self.name(), self.kind, self.kind.replace('-', "_"));
        let (target, flags) = if self.ours {
            ("target".to_owned(), format!("-p {name}-{kind}"))
        } else {
            let manifest = folder.join("Cargo.toml");
            (folder.join("target").display().to_string(), format!("--manifest-path {}", manifest.display()))
        };
        let (plugins, page) = match self.metric_source {
            true => ("plugins/metric-sources", "docs/write-a-metric-source.md"),
            false => ("plugins", "docs/write-a-plugin.md"),
        };
        let folder = folder.display();
        format!(
            "made {folder}, a {name} of kind {kind}\n\n\
             fill in   {folder}/src/lib.rs\n\
             learn     {page}\n\
             build     cargo build --release {flags}\n\
             install   cp {target}/release/lib{library}.so {plugins}/.{library}.so && mv {plugins}/.{library}.so {plugins}/{library}.so"
        )
    }
}

/// Where the crate goes, and the kind it is of.
fn place(name: &str) -> Result<(PathBuf, String)> {
    if !name.contains('/') {
        return Ok((root().join("plugins").join(name), name.to_owned()));
    }
    let folder = std::path::absolute(name).with_context(|| format!("finding {name}"))?;
    ensure!(
        !folder.starts_with(root()),
        "{name} lies inside the workspace, whose plugins are in plugins/: give the name alone, or a folder outside"
    );
    let kind = folder.file_name().and_then(|last| last.to_str()).unwrap_or_default().to_owned();
    Ok((folder, kind))
}

/// As `scaler_types::v1::valid_kind`, which the crate's own build checks again; and a name that cargo takes.
fn check(kind: &str) -> Result<()> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    ensure!(
        kind.len() <= 63
            && kind.starts_with(|first: char| first.is_ascii_lowercase())
            && kind.bytes().all(letters),
        "{kind:?} cannot be a kind: 1 to 63 lower-case letters, digits and dashes, the first a letter, as in my-queue"
    );
    ensure!(!TAKEN.contains(&kind), "{kind:?} means something to Rust or cargo already: choose another name");
    Ok(())
}

/// `my-queue` is `MyQueue` in Rust.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Adds the crate to the workspace's members.
fn join_workspace(folder: &Path) -> Result<()> {
    let manifest = root().join("Cargo.toml");
    let doing = || format!("adding the crate to the members in {}", manifest.display());
    let text = fs::read_to_string(&manifest).with_context(doing)?;
    let member = folder.strip_prefix(root())?.display().to_string();
    let text = with_member(&text, &member).with_context(doing)?;
    // In one step: cargo may be reading it.
    let new = manifest.with_extension("toml.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, &manifest)).with_context(doing)
}

/// The manifest with one more member, behind the plugins that are there.
fn with_member(manifest: &str, member: &str) -> Result<String> {
    let line = format!("    {member:?},");
    if manifest.lines().any(|other| other == line) {
        return Ok(manifest.to_owned());
    }
    let mut lines: Vec<&str> = manifest.lines().collect();
    let start =
        lines.iter().position(|line| line.starts_with("members = [")).context("there is no `members = [`")?;
    let end = start + lines[start..].iter().position(|line| *line == "]").context("`members` has no end")?;
    let last = lines[start..end].iter().rposition(|line| line.starts_with("    \"plugins/"));
    lines.insert(last.map_or(end, |last| start + last + 1), &line);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_checked_before_anything_is_made() {
        for wrong in ["", "Queue", "my_queue", "1st", "-a", "a b", "../a", "a.b", "std", &"a".repeat(64)] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        for right in ["a", "my-queue", "redis7"] {
            check(right).unwrap();
        }
    }

    #[test]
    fn a_member_is_added_once_behind_the_plugins() {
        let before =
            "[workspace]\nmembers = [\n    \"dlx\",\n    \"plugins/process\",\n    \"xtask\",\n]\n\n[x]\n";
        let after = with_member(before, "plugins/queue").unwrap();
        assert_eq!(after, before.replace("process\",\n", "process\",\n    \"plugins/queue\",\n"));
        assert_eq!(with_member(&after, "plugins/queue").unwrap(), after);
        assert!(with_member("[package]\n", "plugins/queue").is_err());
    }

    #[test]
    fn what_exists_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("queue");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("notes"), "mine").unwrap();
        let run = |name: &str| NewPlugin { name: name.to_owned(), metric_source: false }.run();
        let error = run(theirs.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
        assert!(run("process").is_err(), "a plugin of the workspace");
        assert!(run(root().join("dlx/queue").to_str().unwrap()).is_err(), "inside the workspace");
    }
}
